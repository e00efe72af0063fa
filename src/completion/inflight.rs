//! A cache's in-flight calls: how many there are, which queues they report to, and which engines carry them out.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::engine::{Engine, QueueId, Wait};
use super::queue::CompletionQueue;
use crate::error::{Kind, Result};
use crate::sync::{AtomicBool, Mutex, MutexGuard, lock};
use crate::{fork, reserve};

/// The calls of one cache in one process. Those that report to one queue are a group in its index, in the order of
/// their deadlines, which is that of their submission: all have the same time.
pub struct Inflight {
    /// In a child process the parent's are closed; those of the child are counted elsewhere.
    generation: u64,
    max_pending: usize,
    outstanding: AtomicUsize,
    /// Somebody ends the calls whose deadline has passed.
    deadlines_watched: AtomicBool,
    others: Mutex<Others>,
}

/// Who has to do with them.
#[derive(Default)]
struct Others {
    /// No queue is added any more.
    closed: bool,
    /// Those that have, or had, a group. One that is gone leaves its place to another; none is moved.
    queues: Vec<Weak<CompletionQueue>>,
    /// Those that carry the calls out. One that is gone is taken out by whoever comes across it.
    engines: Vec<Weak<dyn Engine>>,
    /// Which of them was driven last, as far as that is known.
    driven: usize,
}

impl Inflight {
    pub fn new(max_pending: usize) -> Self {
        Self {
            generation: fork::generation(),
            max_pending,
            outstanding: AtomicUsize::new(0),
            deadlines_watched: AtomicBool::new(false),
            others: Mutex::new(Others::default()),
        }
    }

    /// Calls are carried out by `engine` too, which a waiting thread may drive.
    pub fn add_engine(&self, engine: Weak<dyn Engine>) {
        if let Ok(mut others) = self.lock() {
            others.forget_gone();
            others.engines.push(engine);
        }
    }

    /// All that carry calls out at the moment.
    pub fn engines(&self) -> impl Iterator<Item = Arc<dyn Engine>> + use<> {
        self.lock().map(|mut others| others.engines()).unwrap_or_default().into_iter()
    }

    /// Lends the thread that waits to an engine that has something for it to do. What other engines had left for it
    /// goes to the I/O thread. `false`: none had anything. An engine that is added meanwhile is for the next wait.
    pub(super) fn drive(&self, wait: &dyn Wait) -> bool {
        let Ok(mut others) = self.lock() else { return false };
        if let [only] = &others.engines[..]
            && let Some(only) = only.upgrade()
        {
            drop(others);
            return only.drive(wait);
        }
        let engines = others.engines();
        let first = others.driven;
        drop(others);
        for turn in 0..engines.len() {
            let own = (first + turn) % engines.len();
            let wait = Chosen { wait, engines: &engines, own, is_known: Cell::new(false) };
            if engines[own].drive(&wait) {
                wait.entrust_others();
                if let Ok(mut others) = self.lock() {
                    others.driven = own;
                }
                return true;
            }
        }
        false
    }

    /// Has each engine see to what there is to do for a queue, without waiting; whether something is left.
    pub(super) fn step(&self, queue: QueueId, most: &mut usize) -> bool {
        let Ok(mut others) = self.lock() else { return false };
        if let [only] = &others.engines[..]
            && let Some(only) = only.upgrade()
        {
            drop(others);
            return only.step(queue, most);
        }
        let engines = others.engines();
        drop(others);
        engines.iter().fold(false, |has_more, engine| engine.step(queue, most) | has_more)
    }

    /// The queue is closed.
    pub(super) fn release_queue(&self, queue: QueueId) {
        self.engines().for_each(|engine| engine.release_queue(queue));
    }

    /// How many calls were accepted and are not completed.
    pub fn count(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// The earliest deadline of a call that is not completed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.of_each_queue(|queue| queue.next_deadline(self))
    }

    /// Fails the calls whose deadline has passed; the next deadline.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        self.of_each_queue(|queue| queue.expire(self, now))
    }

    /// Whether somebody calls [`Inflight::expire`] in time. Who has submitted a call sees to it that somebody does.
    #[inline]
    pub fn is_watching_deadlines(&self) -> bool {
        self.deadlines_watched.load(Ordering::Acquire)
    }

    /// `true`: it is for the caller to watch them from now on, until [`Inflight::end_watching_deadlines`]. `false`:
    /// somebody does already.
    pub fn begin_watching_deadlines(&self) -> bool {
        !self.deadlines_watched.swap(true, Ordering::AcqRel)
    }

    /// Ends the watch, for there are no calls left. If one came in between, and nobody else has begun, the watch is
    /// still the caller's, and the answer is when the next deadline passes.
    pub fn end_watching_deadlines(&self) -> Option<Instant> {
        self.deadlines_watched.store(false, Ordering::Release);
        // A call is put into its queue under a lock that is taken here to look for it. So it is seen here, or its
        // submitter sees that nobody watches.
        let next = self.next_deadline()?;
        self.begin_watching_deadlines().then_some(next)
    }

    /// The cache is closed: its outstanding calls are cancelled, and no more accepted.
    pub fn close(&self) {
        // A queue that has no group for the cache gets none any more. One that has it loses it, with the calls in it.
        match self.lock() {
            Ok(mut others) => others.closed = true,
            Err(_) => return,
        }
        self.of_each_queue(|queue| {
            queue.end_group(self);
            None
        });
    }

    /// Counts one more.
    pub(super) fn admit(&self) -> Result<()> {
        let one_more = |count| (count < self.max_pending).then_some(count + 1);
        match self.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(()),
            Err(_) => Err(Kind::Busy.into()),
        }
    }

    /// One less.
    pub(super) fn release(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// The queue has a group for the cache from now on.
    pub(super) fn enlist(&self, queue: &Arc<CompletionQueue>) -> Result<()> {
        let mut others = self.lock()?;
        if others.closed {
            return Err(Kind::Closed.into());
        }
        match others.queues.iter_mut().find(|place| place.strong_count() == 0) {
            Some(place) => *place = Arc::downgrade(queue),
            None => {
                reserve::try_reserve(&mut others.queues, 1, "memory for another call")?;
                others.queues.push(Arc::downgrade(queue));
            }
        }
        Ok(())
    }

    /// The earliest of what the queues answer. This lock is not held while one is asked.
    fn of_each_queue(&self, ask: impl Fn(&CompletionQueue) -> Option<Instant>) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        for number in 0.. {
            let Some(queue) = self.lock().ok()?.queues.get(number).map(Weak::upgrade) else {
                break;
            };
            if let Some(answer) = queue.and_then(|queue| ask(&queue)) {
                earliest = Some(earliest.map_or(answer, |other| other.min(answer)));
            }
        }
        earliest
    }

    #[cfg(test)]
    pub(super) fn queues(&self) -> usize {
        lock(&self.others).queues.len()
    }

    /// Not in a child process, where a thread that is not there might hold it.
    fn lock(&self) -> Result<MutexGuard<'_, Others>> {
        if self.generation == fork::generation() {
            Ok(lock(&self.others))
        } else {
            Err(Kind::Closed.into())
        }
    }
}

impl Others {
    fn engines(&mut self) -> Vec<Arc<dyn Engine>> {
        self.forget_gone();
        self.engines.iter().filter_map(Weak::upgrade).collect()
    }

    fn forget_gone(&mut self) {
        self.engines.retain(|engine| engine.strong_count() > 0);
    }
}

/// A wait that is lent to one of several engines. The first time that this one asks about it, it has something to do;
/// so the thread will not come to the others, and what they left for it is entrusted to the I/O thread.
struct Chosen<'a> {
    wait: &'a dyn Wait,
    engines: &'a [Arc<dyn Engine>],
    own: usize,
    is_known: Cell<bool>,
}

impl Chosen<'_> {
    fn entrust_others(&self) {
        if !self.is_known.replace(true) {
            let others = self.engines.iter().enumerate().filter(|(number, _)| *number != self.own);
            others.for_each(|(_, engine)| engine.entrust());
        }
    }
}

impl Wait for Chosen<'_> {
    fn queue(&self) -> QueueId {
        self.wait.queue()
    }

    fn is_over(&self) -> bool {
        self.entrust_others();
        self.wait.is_over()
    }

    fn is_late(&self) -> bool {
        self.entrust_others();
        self.wait.is_late()
    }

    fn until(&self) -> Option<Instant> {
        self.wait.until()
    }

    fn sleep(&self, sleep: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.entrust_others();
        self.wait.sleep(sleep);
    }
}
