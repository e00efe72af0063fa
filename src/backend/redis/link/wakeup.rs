//! How threads that wait for others are woken: many at once with one system call, and with none where nobody sleeps.

use std::time::Instant;

use crate::sync::{AtomicU32, Ordering, fence, futex_wait, futex_wake_all};

/// Something to sleep on.
///
/// Whoever wakes need not know whether anybody sleeps. A sleeper marks the word before it looks once more at what it
/// waits for; a waker puts that in place before it looks at the mark; and a fence stands between the two on either
/// side. So either the waker sees the mark, or the sleeper sees what it waits for.
#[derive(Default)]
pub struct Wakeup(AtomicU32);

/// Somebody sleeps, or is about to. The bits above count the times that somebody was woken.
const AWAITED: u32 = 1;

impl Wakeup {
    /// Wakes all who sleep here. What they wait for must be there already.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & AWAITED != 0 {
            let woken = seen.wrapping_add(1);
            match self.0.compare_exchange(seen, woken, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return futex_wake_all(&self.0),
                Err(now) => seen = now,
            }
        }
    }

    /// Sleeps until it is woken, or until `until`, or for no reason; not at all if it is `ready`.
    pub fn sleep(&self, until: Instant, ready: impl Fn() -> bool) {
        let awaited = self.0.fetch_or(AWAITED, Ordering::Relaxed) | AWAITED;
        fence(Ordering::SeqCst);
        if !ready() {
            let left = until.saturating_duration_since(Instant::now());
            futex_wait(&self.0, awaited, left);
        }
    }
}

/// What the callers of one node sleep on: those of one batch on one, those of the next on another. Where two batches
/// meet on one, some are woken for nothing.
#[derive(Default)]
pub struct Wakeups([Wakeup; WakeupSet::SIZE]);

impl Wakeups {
    pub fn get(&self, batch: usize) -> &Wakeup {
        &self.0[batch % WakeupSet::SIZE]
    }

    pub fn wake(&self, set: WakeupSet) {
        for (index, wakeup) in self.0.iter().enumerate() {
            if set.has(index) {
                wakeup.wake();
            }
        }
    }

    pub fn wake_all(&self) {
        self.0.iter().for_each(Wakeup::wake);
    }
}

/// Some of the [`Wakeups`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakeupSet(u8);

impl WakeupSet {
    const SIZE: usize = u8::BITS as usize;

    /// That of one batch.
    pub fn of(batch: usize) -> Self {
        Self(1 << (batch % Self::SIZE))
    }

    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_sleeps_is_woken_by_the_wakeup_of_its_batch() {
        let wakeups = Wakeups::default();
        let ready = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let far = Instant::now() + Duration::from_secs(600);
                while !ready.load(Ordering::SeqCst) {
                    wakeups.get(11).sleep(far, || ready.load(Ordering::SeqCst));
                }
            });
            while wakeups.get(11).0.load(Ordering::SeqCst) & AWAITED == 0 {
                std::thread::yield_now();
            }
            // That of another batch concerns nobody.
            wakeups.wake(WakeupSet::of(4));
            assert!(!sleeper.is_finished());
            ready.store(true, Ordering::SeqCst);
            wakeups.wake(WakeupSet::of(2).with(WakeupSet::of(3)));
        });
        assert_eq!(wakeups.get(11).0.load(Ordering::SeqCst) & AWAITED, 0);
    }

    #[test]
    fn nobody_sleeps_beside_what_is_there_already() {
        let wakeup = Wakeup::default();
        wakeup.sleep(Instant::now() + Duration::from_secs(600), || true);
        wakeup.sleep(Instant::now(), || false);
    }
}
