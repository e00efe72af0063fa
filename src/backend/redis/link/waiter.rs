//! Where a caller waits for what another one carries out for it, and how it is woken: many at once with one system call.

use std::cell::Cell as ThreadCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::futex::{Flags, Timespec, wait, wake};

use crate::backend::redis::link::connection::{Exchanged, Link};
use crate::deadline::Deadline;
use crate::op::Answer;
use crate::spin::Spinner;

/// Something to sleep on. Who rings need not know whether anybody does: then it costs no system call.
#[derive(Default)]
pub struct Bell(AtomicU32);

/// Somebody sleeps, or is about to. The bits above count the times it was rung for somebody.
const AWAITED: u32 = 1;

impl Bell {
    /// Wakes all who sleep here. What they wait for must be there already.
    pub fn ring(&self) {
        // Either the sleeper's mark is seen here, or the sleeper sees what it waits for: see `sleep`.
        fence(Ordering::SeqCst);
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & AWAITED != 0 {
            let rung = seen.wrapping_add(1);
            match self.0.compare_exchange(seen, rung, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    let _ = wake(&self.0, Flags::PRIVATE, i32::MAX as u32);
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Sleeps until it is rung, or until `until`, or for no reason; not at all if it is `ready`.
    pub fn sleep(&self, until: Instant, ready: impl Fn() -> bool) {
        let awaited = self.0.fetch_or(AWAITED, Ordering::Relaxed) | AWAITED;
        fence(Ordering::SeqCst);
        if ready() {
            return;
        }
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // Whatever it says, the caller looks again.
        let _ = wait(&self.0, Flags::PRIVATE, awaited, Some(&left));
    }
}

/// One thread's place in the queue for a link. What it waits for is completed once: an answer, or the link itself, to go on
/// with its own call and those behind it.
#[derive(Default)]
pub struct Waiter {
    /// There is something in the cell.
    completed: AtomicBool,
    cell: Mutex<Cell>,
    spinner: Mutex<Spinner>,
    /// For the first of a batch, who is woken alone, to carry it out.
    pub bell: Bell,
}

#[derive(Default)]
enum Cell {
    #[default]
    Waiting,
    Answer(Exchanged<Answer>),
    Link(Box<Link>),
    /// Its deadline has passed, and nobody looks any more.
    Gone,
}

/// What became of a wait.
pub enum Completed {
    Answer(Exchanged<Answer>),
    Link(Box<Link>),
}

thread_local! {
    /// The thread's waiter, while it is not waiting.
    static OWN: ThreadCell<Option<Arc<Waiter>>> = const { ThreadCell::new(None) };
}

impl Waiter {
    /// This thread's, or a new one.
    pub fn own() -> Arc<Self> {
        OWN.try_with(ThreadCell::take).ok().flatten().unwrap_or_default()
    }

    /// Keeps it for the thread's next wait. Not to be called while somebody may still complete it.
    pub fn keep(self: Arc<Self>) {
        // A thread that is ending keeps nothing.
        let _ = OWN.try_with(|own| own.set(Some(self)));
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a little without sleeping.
    pub fn spin(&self, limit: Duration, deadline: &Deadline) {
        let mut spinner = self.spinner.lock().unwrap_or_else(PoisonError::into_inner);
        spinner.limit(limit);
        spinner.spin(deadline.instant(), || self.is_completed().then_some(()));
    }

    pub fn is_completed(&self) -> bool {
        self.completed.load(Ordering::Acquire)
    }

    pub fn is_gone(&self) -> bool {
        matches!(*self.cell(), Cell::Gone)
    }

    /// Takes what was completed, and leaves the waiter as new.
    pub fn take(&self) -> Option<Completed> {
        self.end(Cell::Waiting)
    }

    /// Ends the wait; what was completed a moment before, if anything was.
    pub fn leave(&self) -> Option<Completed> {
        self.end(Cell::Gone)
    }

    fn end(&self, uncompleted: Cell) -> Option<Completed> {
        let mut cell = self.cell();
        let completed = match std::mem::take(&mut *cell) {
            Cell::Answer(answer) => Completed::Answer(answer),
            Cell::Link(link) => Completed::Link(link),
            Cell::Waiting | Cell::Gone => {
                *cell = uncompleted;
                return None;
            }
        };
        self.completed.store(false, Ordering::Relaxed);
        Some(completed)
    }

    /// Hands the answer to the caller, who is still to be woken. If it has gone, the answer is dropped.
    pub fn answer(&self, answer: Exchanged<Answer>) {
        let mut cell = self.cell();
        if let Cell::Waiting = *cell {
            *cell = Cell::Answer(answer);
            self.completed.store(true, Ordering::Release);
        }
    }

    /// Hands the link to the caller, who is still to be woken; back, if it does not wait.
    pub fn lead(&self, link: Box<Link>) -> Option<Box<Link>> {
        let mut cell = self.cell();
        if let Cell::Waiting = *cell {
            *cell = Cell::Link(link);
            self.completed.store(true, Ordering::Release);
            return None;
        }
        Some(link)
    }
}
