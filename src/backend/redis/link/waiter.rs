//! Where a thread waits for what another one carries out for it.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::outcome::Exchanged;
use super::wakeup::Wakeup;
use crate::deadline::Deadline;
use crate::op::Answer;
use crate::spin::Spinner;
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, lock};

/// One thread's place in the queue for a link of type `L`.
///
/// What it waits for is decided once, under the lock of the cell: an answer, or the link itself, to go on with its own
/// call and those behind it. Whoever finds the cell other than `Waiting` keeps what it brought: an answer is dropped, a
/// link comes back. `completed` says that there is something in the cell; it is written under the lock.
pub struct Waiter<L> {
    completed: AtomicBool,
    cell: Mutex<Cell<L>>,
    spinner: Mutex<Spinner>,
    /// For the first of a batch, who is woken alone, to drive it.
    pub wakeup: Wakeup,
}

enum Cell<L> {
    Waiting,
    Answer(Exchanged<Answer>),
    Link(Box<L>),
    /// Its deadline has passed, and nobody looks any more.
    Gone,
}

/// What became of a wait.
pub enum Woken<L> {
    Answer(Exchanged<Answer>),
    Link(Box<L>),
}

impl<L> Default for Waiter<L> {
    fn default() -> Self {
        Self {
            completed: AtomicBool::new(false),
            cell: Mutex::new(Cell::Waiting),
            spinner: Mutex::new(Spinner::default()),
            wakeup: Wakeup::default(),
        }
    }
}

impl<L> Waiter<L> {
    fn cell(&self) -> MutexGuard<'_, Cell<L>> {
        lock(&self.cell)
    }

    /// Waits a little without sleeping.
    pub fn spin(&self, limit: Duration, deadline: &Deadline) {
        let mut spinner = lock(&self.spinner);
        spinner.limit(limit);
        spinner.spin(deadline.instant(), || self.is_completed().then_some(()));
    }

    pub fn is_completed(&self) -> bool {
        self.completed.load(Ordering::Acquire)
    }

    pub fn is_gone(&self) -> bool {
        matches!(*self.cell(), Cell::Gone)
    }

    /// Takes what there is, and leaves the waiter as new.
    pub fn take(&self) -> Option<Woken<L>> {
        self.end(Cell::Waiting)
    }

    /// Ends the wait; what came a moment before, if anything did.
    pub fn leave(&self) -> Option<Woken<L>> {
        self.end(Cell::Gone)
    }

    fn end(&self, nothing: Cell<L>) -> Option<Woken<L>> {
        let mut cell = self.cell();
        let woken = match mem::replace(&mut *cell, Cell::Waiting) {
            Cell::Answer(answer) => Woken::Answer(answer),
            Cell::Link(link) => Woken::Link(link),
            Cell::Waiting | Cell::Gone => {
                *cell = nothing;
                return None;
            }
        };
        self.completed.store(false, Ordering::Relaxed);
        Some(woken)
    }

    /// Hands the answer to the caller, who is still to be woken. If it has gone, the answer is dropped.
    pub fn answer(&self, answer: Exchanged<Answer>) {
        let mut cell = self.cell();
        if let Cell::Waiting = *cell {
            *cell = Cell::Answer(answer);
            self.completed.store(true, Ordering::Release);
        }
    }

    /// Hands the link to the caller, who is still to be woken; it comes back, if the caller does not wait.
    pub fn hand_over(&self, link: Box<L>) -> Result<(), Box<L>> {
        let mut cell = self.cell();
        if let Cell::Waiting = *cell {
            *cell = Cell::Link(link);
            self.completed.store(true, Ordering::Release);
            return Ok(());
        }
        Err(link)
    }
}

/// What a queued thread sleeps on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepsOn {
    /// Its own, as the first of its batch, who is woken alone.
    Own,
    /// That of its batch.
    Batch,
}

/// A thread in a queue or a batch.
pub struct Waiting<L> {
    pub waiter: Arc<Waiter<L>>,
    pub sleeps_on: SleepsOn,
}

impl<L> Clone for Waiting<L> {
    fn clone(&self) -> Self {
        Self { waiter: Arc::clone(&self.waiter), sleeps_on: self.sleeps_on }
    }
}

impl<L> Waiting<L> {
    /// Answers the thread, and wakes it where nobody else does.
    pub fn answer(&self, answer: Exchanged<Answer>) {
        self.waiter.answer(answer);
        if self.sleeps_on == SleepsOn::Own {
            self.waiter.wakeup.wake();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::backend::redis::link::outcome::Failure;
    use crate::error::Kind;

    fn answer() -> Exchanged<Answer> {
        Exchanged::Failed(Failure::unsent(Kind::Closed.into()))
    }

    #[test]
    fn a_link_comes_back_from_whoever_does_not_wait() {
        let waiter = Waiter::default();
        assert!(waiter.take().is_none() && !waiter.is_completed());
        waiter.answer(answer());
        assert!(waiter.is_completed());
        assert_eq!(waiter.hand_over(Box::new(1)), Err(Box::new(1)), "it has its answer");
        assert!(matches!(waiter.take(), Some(Woken::Answer(_))));
        assert_eq!(waiter.hand_over(Box::new(2)), Ok(()), "it waits anew");
        assert!(matches!(waiter.leave(), Some(Woken::Link(link)) if *link == 2));
        assert!(!waiter.is_gone(), "who was given something has still to deal with it");
        assert!(waiter.leave().is_none() && waiter.is_gone());
        assert_eq!(waiter.hand_over(Box::new(3)), Err(Box::new(3)));
        waiter.answer(answer());
        assert!(!waiter.is_completed());
    }
}
