//! The reactor: the library's one thread, which goes on with tasks that wait for descriptors and times. It starts with
//! the first who needs it and ends with the last.
//!
//! It never waits for one task: each goes on as far as it can without waiting, and then the next. What blocks, as a
//! name that must be resolved, is done elsewhere. It sleeps in poll(2), on the descriptors of its tasks and on one that
//! is written when there is something new for it. A panic in a task ends that task.

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use once_cell::race::OnceBox;
use rustix::event::{PollFd, PollFlags, poll};

use crate::error::{Error, Result};
use crate::fork::PerProcess;
use crate::spin::{A_WHILE, Spinner};
use crate::sys::{Event, poll_timeout};
use crate::threads;

/// Something that goes on now and then. Dropped, it is over, also after a panic in the middle of it.
pub trait Task: Send {
    /// Goes on as far as that goes without waiting. Called once at first, and then whenever its descriptor is ready or
    /// its time has come, and sometimes for nothing.
    fn step(&mut self, now: Instant) -> Progress;

    /// The descriptor to wait for, and its events.
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }

    /// When it is to go on at the latest.
    fn until(&self) -> Option<Instant>;

    /// How long it may be spun for before the reactor sleeps.
    fn spin(&self) -> Duration {
        Duration::ZERO
    }
}

/// How far a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for its descriptor or its time.
    Waits,
    /// It can go on at once, when others have had their turn.
    Yields,
    Over,
}

/// A hold on the reactor, which ends when nobody has one.
pub struct Reactor {
    shared: Arc<Shared>,
}

struct Shared {
    tasks: Mutex<Vec<Box<dyn Task>>>,
    /// There are new ones, or the reactor is to end.
    has_news: AtomicBool,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
    stopped: AtomicBool,
    event: Event,
}

static REACTOR: OnceBox<PerProcess<Mutex<Weak<Reactor>>>> = OnceBox::new();

impl Reactor {
    /// This process's reactor, which is started if there is none.
    pub fn get() -> Result<Arc<Self>> {
        let current = REACTOR
            .get_or_init(|| Box::new(PerProcess::new(Mutex::default())))
            .get_or_make(|_| Mutex::default());
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reactor) = current.upgrade() {
            return Ok(reactor);
        }
        let reactor = Arc::new(Self { shared: Arc::new(Shared::new()?) });
        let shared = Arc::clone(&reactor.shared);
        threads::spawn(c"cachetory-io", move || Loop::new(&shared).run())
            .map_err(|error| Error::no_memory(format!("an I/O thread: {error}")))?;
        *current = Arc::downgrade(&reactor);
        Ok(reactor)
    }

    /// One without a thread: what is posted to it never goes on.
    #[cfg(test)]
    pub fn idle() -> Result<Arc<Self>> {
        Ok(Arc::new(Self { shared: Arc::new(Shared::new()?) }))
    }

    pub fn post(&self, task: Box<dyn Task>) {
        self.shared.post(task);
    }

    /// Has it look at the times of its tasks again: one has changed.
    pub fn rouse(&self) {
        self.shared.rouse();
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.rouse();
    }
}

impl Shared {
    fn new() -> Result<Self> {
        let event = Event::new()
            .map_err(|error| Error::no_memory(format!("a descriptor for I/O: {error}")))?;
        Ok(Self {
            tasks: Mutex::default(),
            has_news: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            event,
        })
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Box<dyn Task>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, task: Box<dyn Task>) {
        self.tasks().push(task);
        self.rouse();
    }

    fn rouse(&self) {
        self.has_news.store(true, Ordering::Release);
        // Either the thread sees the news before it sleeps, or it is seen here that it sleeps.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.event.signal();
        }
    }
}

/// A task, and what is known of it.
struct Scheduled {
    task: Box<dyn Task>,
    /// There may be something to do.
    is_ready: bool,
    is_over: bool,
}

impl Scheduled {
    /// Goes on with it. A panic is its end.
    fn step(&mut self, now: Instant) {
        self.is_ready = false;
        let step = panic::catch_unwind(AssertUnwindSafe(|| self.task.step(now)));
        match step {
            Ok(Progress::Waits) => {}
            Ok(Progress::Yields) => self.is_ready = true,
            // Nobody knows what state it is in after a panic, so it must not go on.
            Ok(Progress::Over) | Err(_) => self.is_over = true,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.is_ready || self.task.until().is_some_and(|until| until <= now)
    }
}

struct Loop<'a> {
    shared: &'a Shared,
    tasks: Vec<Scheduled>,
    spinner: Spinner,
    /// When it was last looked which descriptors are ready.
    polled: Instant,
}

/// How long tasks that go on and on may keep the others' descriptors from being looked at.
const LONGEST_UNSEEN: Duration = Duration::from_micros(500);

impl<'a> Loop<'a> {
    fn new(shared: &'a Shared) -> Self {
        let (tasks, spinner) = (Vec::new(), Spinner::default());
        Self { shared, tasks, spinner, polled: Instant::now() }
    }

    fn run(&mut self) {
        // A panic outside of a step, as in a task's end; all goes on with what is left.
        while panic::catch_unwind(AssertUnwindSafe(|| while self.iterate() {})).is_err() {}
    }

    /// One iteration; false, when it was the last.
    fn iterate(&mut self) -> bool {
        let is_stopped = self.shared.stopped.load(Ordering::Acquire);
        self.take_news();
        self.step();
        let waits_for_io = self.tasks.iter().any(|task| task.task.interest().is_some());
        if is_stopped && !waits_for_io && !self.has_news() {
            return false;
        }
        let is_busy = self.tasks.iter().any(|task| task.is_ready);
        if is_busy {
            self.look_at_others();
        } else if !self.has_news() && !self.spin() {
            self.sleep();
        }
        true
    }

    /// A task that could go on for ever keeps none of the others from what they wait for.
    fn look_at_others(&mut self) {
        let waits = |task: &Scheduled| !task.is_ready && task.task.interest().is_some();
        if self.polled.elapsed() >= LONGEST_UNSEEN && self.tasks.iter().any(waits) {
            self.poll(Some(Duration::ZERO));
        }
    }

    fn has_news(&self) -> bool {
        self.shared.has_news.load(Ordering::Acquire)
    }

    fn take_news(&mut self) {
        if self.shared.has_news.swap(false, Ordering::Acquire) {
            let new = std::mem::take(&mut *self.shared.tasks());
            let scheduled = |task| Scheduled { task, is_ready: true, is_over: false };
            self.tasks.extend(new.into_iter().map(scheduled));
        }
    }

    /// Goes on with every task that there may be something to do for.
    fn step(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while let Some(task) = self.tasks.get_mut(index) {
            if !task.is_over && task.is_due(now) {
                task.step(now);
            }
            if task.is_over {
                drop(self.tasks.swap_remove(index));
            } else {
                index += 1;
            }
        }
    }

    /// Waits a little without sleeping; whether there is something to do.
    fn spin(&mut self) -> bool {
        let next = self.next_time();
        let Self { shared, tasks, spinner, .. } = self;
        let limit = tasks.iter().map(|task| task.task.spin()).max().unwrap_or_default();
        if limit.is_zero() {
            return false;
        }
        spinner.limit(limit);
        // A spin may be set to last for long.
        let now = Instant::now();
        let until = next.map_or(now + A_WHILE, |next| next.min(now + A_WHILE));
        let ready = || {
            let mut is_ready = shared.has_news.load(Ordering::Acquire);
            // All that wait for input, not only those that are spun for: what is ready does not wait for a spin to end.
            let may_be_ready =
                |task: &&mut Scheduled| !task.is_over && task.task.interest().is_some();
            for task in tasks.iter_mut().filter(may_be_ready) {
                // One that is over is taken off the list later.
                task.step(now);
                is_ready |= task.is_over || task.is_ready;
            }
            is_ready.then_some(())
        };
        spinner.spin(until, ready).is_some()
    }

    /// When there is something to do at the latest.
    fn next_time(&self) -> Option<Instant> {
        self.tasks.iter().filter_map(|task| task.task.until()).min()
    }

    fn sleep(&mut self) {
        let until = self.next_time();
        let shared = self.shared;
        shared.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !shared.has_news.load(Ordering::Relaxed) {
            self.poll(until.map(|until| until.saturating_duration_since(Instant::now())));
        }
        shared.asleep.store(false, Ordering::Relaxed);
    }

    fn poll(&mut self, left: Option<Duration>) {
        let interests = self.tasks.iter().map(|task| task.task.interest());
        let mut fds = Vec::with_capacity(self.tasks.len() + 1);
        fds.push(PollFd::from_borrowed_fd(self.shared.event.as_fd(), PollFlags::IN));
        fds.extend(interests.flatten().map(|(fd, events)| PollFd::from_borrowed_fd(fd, events)));
        // Whatever goes wrong, there is a look at everything.
        let is_known = poll(&mut fds, left.map(poll_timeout).as_ref()).is_ok();
        let ready: Vec<bool> = fds.iter().map(|fd| !is_known || !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[0] {
            self.shared.event.drain();
        }
        let watched = self.tasks.iter_mut().filter(|task| task.task.interest().is_some());
        watched.zip(&ready[1..]).for_each(|(task, ready)| task.is_ready |= *ready);
        self.polled = Instant::now();
    }
}
