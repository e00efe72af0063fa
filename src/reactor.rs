//! The I/O thread: one for the process, which carries out batches of asynchronous calls that no waiting thread carries out,
//! and sees to their deadlines. It starts with the first asynchronous call and ends with the last cache that had one.
//!
//! It never waits for one link: a batch is gone on with as far as that goes, and then the next (`Link::step`). What blocks,
//! as a name that must be resolved, is done elsewhere. It sleeps in poll(2), on the sockets of the links that it drives and on a
//! descriptor that is written when there is something new for it. A batch that no answer comes to is given up
//! when nobody waits for it any more.

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use once_cell::race::OnceBox;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::drive::Driven;
use crate::backend::redis::node::lease::Lease;
use crate::backend::redis::node::links::{LONGEST_PATIENCE, Links};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::fork::PerProcess;
use crate::spin::{A_WHILE, Spinner};
use crate::threads;

/// Deadlines of asynchronous calls are looked at no more often than this.
const COARSE: Duration = Duration::from_millis(1);

/// What the I/O thread is told.
pub enum Mail {
    /// A batch to carry out.
    Job(Job),
    /// There are asynchronous calls whose deadlines are to be seen to.
    Timed(Weak<Links>),
    /// Asynchronous calls are queued, and the links in use may be slow.
    Watched(Weak<Links>),
}

/// A link with a batch. Dropped, it ends with the batch.
pub struct Job {
    links: Arc<Links>,
    link: Option<Box<Link>>,
    begun: bool,
    /// There may be something to do.
    ready: bool,
    /// Nobody waits for asynchronous calls in it after this.
    until: Instant,
}

/// A cache's hold on the I/O thread, which ends when nobody has one.
pub struct Io {
    shared: Arc<Shared>,
}

struct Shared {
    mail: Mutex<Vec<Mail>>,
    has_mail: AtomicBool,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
    stopped: AtomicBool,
    wake: OwnedFd,
}

static IO: OnceBox<PerProcess<Mutex<Weak<Io>>>> = OnceBox::new();

impl Io {
    /// This process's I/O thread, which is started if there is none.
    pub fn get() -> Result<Arc<Self>> {
        let current = IO
            .get_or_init(|| Box::new(PerProcess::new(Mutex::default())))
            .get_or_make(|_| Mutex::default());
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(io) = current.upgrade() {
            return Ok(io);
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| {
            Error::no_memory(format!("a descriptor for the I/O thread: {errno}"))
        })?;
        let shared = Arc::new(Shared::new(wake));
        let thread = Arc::clone(&shared);
        threads::spawn("cachetory-io", move || Reactor::new(&thread).run())
            .map_err(|error| Error::no_memory(format!("an I/O thread: {error}")))?;
        let io = Arc::new(Self { shared });
        *current = Arc::downgrade(&io);
        Ok(io)
    }

    pub fn post(&self, mail: Mail) {
        self.shared.post(mail);
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.rouse();
    }
}

impl Shared {
    /// `wake`: an eventfd.
    fn new(wake: OwnedFd) -> Self {
        Self {
            mail: Mutex::default(),
            has_mail: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wake,
        }
    }

    fn mail(&self) -> MutexGuard<'_, Vec<Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, mail: Mail) {
        self.mail().push(mail);
        self.rouse();
    }

    fn rouse(&self) {
        self.has_mail.store(true, Ordering::Release);
        // Either the thread sees the mail before it sleeps, or it is seen here that it sleeps.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // It cannot be full, and a thread that is gone needs no waking.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Job {
    pub fn new(links: Arc<Links>, link: Box<Link>) -> Self {
        Self { links, link: Some(link), begun: false, ready: true, until: Instant::now() }
    }

    /// Begins the batch, or goes on with it, as far as that goes; whether there is more of it.
    fn step(&mut self) -> bool {
        self.guarded(Self::advance)
    }

    /// A panic in `part` ends this job, whose calls then fail, and nothing else.
    fn guarded(&mut self, part: impl FnOnce(&mut Self) -> bool) -> bool {
        let goes_on = panic::catch_unwind(AssertUnwindSafe(|| part(self)));
        goes_on.unwrap_or_else(|_| {
            // Nobody knows what state it is in, so it must not be stepped again.
            self.end();
            false
        })
    }

    fn advance(&mut self) -> bool {
        self.ready = false;
        let mut begun = None;
        if !self.begun {
            let deadline = Deadline::after(self.links.timeout);
            let now = deadline.started();
            self.until = deadline.instant();
            self.begun = true;
            let link = self.link.take();
            match link.as_deref().filter(|link| link.batch.sent > 0) {
                // Somebody has begun it, and left.
                Some(link) => self.until = link.batch.last_deadline().unwrap_or(now),
                None => begun = Some(now),
            }
            self.link = link.and_then(|link| self.links.begin(link, now));
        }
        let Some(link) = self.link.as_deref_mut() else { return false };
        let uncompleted = link.batch.entries.len();
        match link.step(begun) {
            driven @ (Driven::Unfinished | Driven::More) => {
                self.ready = driven == Driven::More;
                if link.batch.entries.len() < uncompleted {
                    self.links.bells.ring(link.batch.bells);
                    link.batch.uncompleted.delivery.deliver();
                    if self.links.keep_busy(link) {
                        self.until = Deadline::after(self.links.timeout).instant();
                        self.ready = true;
                    }
                }
                true
            }
            driven => {
                if let Some(link) = self.link.take() {
                    Lease::of(&self.links, link).after(driven, None);
                }
                false
            }
        }
    }

    /// Whether it is of no use any more, once its time is over: threads that wait in it go on with it themselves.
    fn is_over(&mut self, now: Instant) -> bool {
        if now < self.until {
            return false;
        }
        if let Some(link) = self.link.take() {
            Lease::of(&self.links, link).hand_over(None, false);
        }
        true
    }

    fn end(&mut self) {
        if let Some(link) = self.link.take() {
            drop(Lease::of(&self.links, link));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.end();
    }
}

/// Links with queued calls, and what was seen of them last.
struct Watch {
    links: Weak<Links>,
    loads: Option<usize>,
    patience: Duration,
    /// When to look again.
    at: Instant,
}

struct Reactor<'a> {
    shared: &'a Shared,
    jobs: Vec<Job>,
    watches: Vec<Watch>,
    timed: Vec<Weak<Links>>,
    /// No deadline of theirs passes before.
    next_deadline: Option<Instant>,
    spinner: Spinner,
}

impl<'a> Reactor<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            jobs: Vec::new(),
            watches: Vec::new(),
            timed: Vec::new(),
            next_deadline: None,
            spinner: Spinner::default(),
        }
    }

    fn run(&mut self) {
        // A panic outside of a job; all goes on with what is left.
        while panic::catch_unwind(AssertUnwindSafe(|| while self.turn() {})).is_err() {}
    }

    /// One round; false, when it was the last.
    fn turn(&mut self) -> bool {
        let is_stopped = self.shared.stopped.load(Ordering::Acquire);
        self.take_mail();
        self.step();
        if is_stopped && self.jobs.is_empty() && !self.shared.has_mail.load(Ordering::Acquire) {
            return false;
        }
        let now = Instant::now();
        self.see_to_deadlines(now);
        self.see_to_the_queued(now);
        let is_busy = self.jobs.iter().any(|job| job.ready);
        if !is_busy && !self.shared.has_mail.load(Ordering::Acquire) && !self.spin() {
            self.sleep();
        }
        true
    }

    fn take_mail(&mut self) {
        if !self.shared.has_mail.swap(false, Ordering::Acquire) {
            return;
        }
        let mail = std::mem::take(&mut *self.shared.mail());
        let now = Instant::now();
        for mail in mail {
            match mail {
                Mail::Job(job) => self.jobs.push(job),
                Mail::Timed(links) => {
                    self.timed.push(links);
                    // It is worked out anew.
                    self.next_deadline = Some(now);
                }
                Mail::Watched(links) => {
                    self.watches.retain(|watch| !Weak::ptr_eq(&watch.links, &links));
                    let patience = Duration::ZERO;
                    self.watches.push(Watch { links, loads: None, patience, at: now });
                }
            }
        }
    }

    /// Goes on with every batch that there may be something to do for.
    fn step(&mut self) {
        let mut index = 0;
        while let Some(job) = self.jobs.get_mut(index) {
            if job.link.is_some() && (!job.ready || job.step()) {
                index += 1;
            } else {
                drop(self.jobs.swap_remove(index));
            }
        }
    }

    fn see_to_deadlines(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(job) = self.jobs.get_mut(index) {
            if job.is_over(now) {
                drop(self.jobs.swap_remove(index));
            } else {
                index += 1;
            }
        }
        if self.next_deadline.is_none_or(|next| now < next) {
            return;
        }
        // If one of them panics, they are not looked at without pause for ever.
        self.next_deadline = Some(now + COARSE);
        let mut next_deadline: Option<Instant> = None;
        self.timed.retain(|links| {
            let Some(links) = links.upgrade() else { return false };
            let Some(next) = links.next_deadline(now) else { return false };
            next_deadline = Some(next_deadline.map_or(next, |earliest| earliest.min(next)));
            true
        });
        // Not for each of many that pass one behind the other.
        self.next_deadline = next_deadline.map(|next| next.max(now + COARSE));
    }

    fn see_to_the_queued(&mut self, now: Instant) {
        self.watches.retain_mut(|watch| {
            if now < watch.at {
                return true;
            }
            let Some(links) = watch.links.upgrade() else { return false };
            watch.at = now + LONGEST_PATIENCE;
            let looked = links.look_after(watch.loads, watch.patience);
            let Some((loads, patience)) = looked else { return false };
            (watch.loads, watch.patience) = (Some(loads), patience);
            watch.at = now + watch.patience;
            true
        });
    }

    /// Waits a little without sleeping; whether there is something to do.
    fn spin(&mut self) -> bool {
        let next = self.next_event();
        let Self { shared, jobs, spinner, .. } = self;
        let Some(limit) = jobs.iter().map(|job| job.links.spin).max() else { return false };
        spinner.limit(limit);
        // A spin may be set to last for long.
        let now = Instant::now();
        let until = next.map_or(now + A_WHILE, |next| next.min(now + A_WHILE));
        let ready = || {
            let mut is_ready = shared.has_mail.load(Ordering::Acquire);
            for job in jobs.iter_mut() {
                // One that has ended is taken off the list later.
                is_ready |= job.link.is_some() && (!job.step() || job.ready);
            }
            is_ready.then_some(())
        };
        spinner.spin(until, ready).is_some()
    }

    /// When there is something to do at the latest.
    fn next_event(&self) -> Option<Instant> {
        let ends = self.jobs.iter().map(|job| job.until);
        let looks = self.watches.iter().map(|watch| watch.at);
        ends.chain(looks).chain(self.next_deadline).min()
    }

    fn sleep(&mut self) {
        let until = self.next_event();
        let shared = self.shared;
        shared.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !shared.has_mail.load(Ordering::Relaxed) {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            self.poll(left);
        }
        shared.asleep.store(false, Ordering::Relaxed);
    }

    fn poll(&mut self, left: Option<Duration>) {
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = Vec::with_capacity(self.jobs.len() + 1);
        fds.push(PollFd::new(&self.shared.wake, PollFlags::IN));
        for job in &mut self.jobs {
            if let Some(link) = job.link.as_deref_mut() {
                let (descriptor, events) = link.waits_for();
                fds.push(PollFd::from_borrowed_fd(descriptor.as_fd(), events));
            }
        }
        // Whatever goes wrong, there is a look at everything.
        let is_known = poll(&mut fds, timeout.as_ref()).is_ok();
        let ready: Vec<bool> = fds.iter().map(|fd| !is_known || !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[0] {
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        let jobs = self.jobs.iter_mut().filter(|job| job.link.is_some());
        jobs.zip(&ready[1..]).for_each(|(job, ready)| job.ready = *ready);
    }
}
