//! What a cache knows of its outstanding calls: how many, and which queues they report to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use super::engine::Engine;
use super::queue::Queue;
use super::sync::{Mutex, MutexGuard, lock};
use crate::error::{Error, Kind, Result};
use crate::fork;

/// The calls of one cache in one process. Those that report to one queue are a group in its index, in the order of
/// their deadlines, which is that of their submission: all have the same time.
pub struct Inflight {
    /// A child process has an inflight of its own.
    generation: u64,
    max_pending: usize,
    outstanding: AtomicUsize,
    queues: Mutex<Queues>,
    engine: OnceLock<Weak<dyn Engine>>,
}

#[derive(Default)]
struct Queues {
    /// No queue is added any more.
    closed: bool,
    /// Those that have, or had, a group. One that is gone leaves its place to another; none is moved.
    list: Vec<Weak<Queue>>,
}

impl Inflight {
    pub fn new(max_pending: usize) -> Self {
        Self {
            generation: fork::generation(),
            max_pending,
            outstanding: AtomicUsize::new(0),
            queues: Mutex::new(Queues::default()),
            engine: OnceLock::new(),
        }
    }

    /// The calls are carried out by `engine`, which a waiting thread may drive.
    pub fn add_engine(&self, engine: Weak<dyn Engine>) {
        let _ = self.engine.set(engine);
    }

    pub(super) fn engine(&self) -> Option<Arc<dyn Engine>> {
        self.engine.get()?.upgrade()
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

    /// The cache is closed: its outstanding calls are cancelled, and no more accepted.
    pub fn close(&self) {
        // A queue that has no group for the cache gets none any more. One that has it loses it, with the calls in it.
        match self.lock() {
            Ok(mut queues) => queues.closed = true,
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
    pub(super) fn enlist(&self, queue: &Arc<Queue>) -> Result<()> {
        let mut queues = self.lock()?;
        if queues.closed {
            return Err(Kind::Closed.into());
        }
        match queues.list.iter_mut().find(|place| place.strong_count() == 0) {
            Some(place) => *place = Arc::downgrade(queue),
            None => {
                let no_memory = |_| Error::no_memory("memory for another call");
                queues.list.try_reserve(1).map_err(no_memory)?;
                queues.list.push(Arc::downgrade(queue));
            }
        }
        Ok(())
    }

    /// The earliest of what the queues answer. This lock is not held while one is asked.
    fn of_each_queue(&self, ask: impl Fn(&Queue) -> Option<Instant>) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        for number in 0.. {
            let Some(queue) = self.lock().ok()?.list.get(number).map(Weak::upgrade) else { break };
            if let Some(answer) = queue.and_then(|queue| ask(&queue)) {
                earliest = Some(earliest.map_or(answer, |other| other.min(answer)));
            }
        }
        earliest
    }

    #[cfg(test)]
    pub(super) fn queues(&self) -> usize {
        lock(&self.queues).list.len()
    }

    /// Not in a child process, where a thread that is not there might hold it.
    fn lock(&self) -> Result<MutexGuard<'_, Queues>> {
        if self.generation == fork::generation() {
            Ok(lock(&self.queues))
        } else {
            Err(Kind::Closed.into())
        }
    }
}
