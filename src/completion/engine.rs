//! Threads that wait for completions and bring them about themselves.
//!
//! A thread that submits calls and then waits for them needs no other to carry them out. So a call of a thread that is likely to
//! wait next is left lying where it is (`Call::is_awaited`), and carried out in the wait. Whether it is likely is learnt: from
//! the times that it came, and from those that it did not, which somebody else has to notice.

use std::sync::Arc;
use std::time::Instant;

use super::call::QueueId;
use super::queue::Queue;
use crate::sys::Event;

/// What carries out the calls of a cache, and can be lent a waiting thread for it.
pub trait Engine: Send + Sync {
    /// Goes on with what is to be done until the wait is over. `false`: there is nothing that this thread could do.
    fn drive(&self, wait: &Wait<'_>) -> bool;
}

/// A thread that waits for a completion.
pub struct Wait<'a> {
    pub(super) queue: &'a Queue,
    pub(super) until: Option<Instant>,
    pub(super) wake: Arc<Event>,
}

impl Wait<'_> {
    /// Where it waits.
    pub fn queue(&self) -> QueueId {
        QueueId::of(self.queue)
    }

    /// Whether what it waits for is there.
    pub fn is_over(&self) -> bool {
        self.queue.has_news()
    }

    /// Whether its time is up.
    pub fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// When it ends in any case.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Calls `sleep`, which returns when the descriptor is readable, unless the wait is over already.
    pub fn sleep(&self, sleep: impl FnOnce(&Event)) {
        self.queue.sleep_on_descriptor(|| sleep(&self.wake));
    }
}

/// After so many waits a thread is expected to wait again.
const ENOUGH: i32 = 4;
/// After so many more the times that it did not are forgotten.
const FULL: i32 = 64;
/// How many waits it takes, the first time and at the most, until trust begins to grow again.
const FIRST_PENANCE: i32 = 16;
const LONGEST_PENANCE: i32 = 4096;

/// Whether threads that submit come to wait.
pub(super) struct Trust {
    level: i32,
    penance: i32,
}

impl Default for Trust {
    fn default() -> Self {
        Self { level: 0, penance: FIRST_PENANCE }
    }
}

impl Trust {
    pub(super) fn is_enough(&self) -> bool {
        self.level >= ENOUGH
    }

    /// One has come.
    pub(super) fn grow(&mut self) {
        if self.level < FULL {
            self.level += 1;
        } else {
            self.penance = FIRST_PENANCE;
        }
    }

    /// One has not.
    pub(super) fn betray(&mut self) {
        if self.level > 0 {
            self.level = -self.penance;
            self.penance = (2 * self.penance).min(LONGEST_PENANCE);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn waits(trust: &mut Trust) -> usize {
        (1..)
            .find(|_| {
                trust.grow();
                trust.is_enough()
            })
            .unwrap_or(0)
    }

    #[test]
    fn trust_is_harder_to_win_each_time_it_was_betrayed() {
        let mut trust = Trust::default();
        assert!(!trust.is_enough());
        assert_eq!(waits(&mut trust), 4);
        for wanted in [20, 36, 68] {
            trust.betray();
            trust.betray();
            assert!(!trust.is_enough());
            assert_eq!(waits(&mut trust), wanted, "twice in a row is as good as once");
        }
        (0..100).for_each(|_| trust.grow());
        trust.betray();
        assert_eq!(waits(&mut trust), 20, "all is forgiven in the end");
    }
}
