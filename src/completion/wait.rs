//! Threads that wait for completions: asleep on the queue, or driving the I/O of the calls that they wait for.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::engine::{QueueId, Wait};
use super::inflight::Inflight;
use super::queue::{CompletionQueue, State};
use crate::error::Result;
use crate::sync::MutexGuard;
use crate::sys::Event;

impl CompletionQueue {
    /// Waits until something is done, or until `until`. A thread that waits alone drives the I/O of what it waits for,
    /// as far as the engines of the cache let it, which spares two context switches.
    pub(super) fn await_news<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>> {
        state.waiting += 1;
        let mut panicked = Panicked(Some(self));
        loop {
            state = match state.cache_to_drive() {
                Some(inflight) => self.drive(state, inflight, until)?,
                None => self.sleep(state, until),
            };
            if state.has_news() || until.is_some_and(|until| Instant::now() >= until) {
                state.waiting -= 1;
                panicked.0 = None;
                return Ok(state);
            }
        }
    }

    fn drive<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        inflight: Arc<Inflight>,
        until: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>> {
        let Some(wakeup) = state.fd.clone() else { return Ok(state) };
        state.prediction.hit();
        drop(state);
        let has_driven = inflight.drive(&Waiting { queue: self, until, wakeup });
        drop(inflight);
        let state = self.lock()?;
        if has_driven || state.has_news() { Ok(state) } else { Ok(self.sleep(state, until)) }
    }

    /// Sleeps until something may have been done, or until `until`, or for no reason.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        state.sleeping += 1;
        let mut state = match until {
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                let woken = self.arrived.wait_timeout(state, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.sleeping -= 1;
        state.woken = false;
        state
    }

    /// Whoever submitted a call that was left to it did not come to wait.
    pub(super) fn mispredicted(&self) {
        if let Ok(mut state) = self.lock()
            && state.waiting == 0
        {
            state.prediction.miss();
        }
    }
}

/// A thread that waits and drives an engine.
struct Waiting<'a> {
    queue: &'a CompletionQueue,
    until: Option<Instant>,
    /// The queue's, which may be closed meanwhile.
    wakeup: Arc<Event>,
}

impl Wait for Waiting<'_> {
    fn queue(&self) -> QueueId {
        QueueId::of(ptr::from_ref(self.queue))
    }

    fn is_over(&self) -> bool {
        self.queue.news.load(Ordering::Acquire)
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn until(&self) -> Option<Instant> {
        self.until
    }

    fn sleep(&self, sleep: &mut dyn FnMut(BorrowedFd<'_>)) {
        match self.queue.lock() {
            Ok(mut state) if !state.has_news() => state.polling += 1,
            _ => return,
        }
        sleep(self.wakeup.as_fd());
        if let Ok(mut state) = self.queue.lock() {
            state.polling -= 1;
        }
    }
}

/// Counts a thread that waits no more because of a panic; one that leaves as it should takes the queue out.
struct Panicked<'a>(Option<&'a CompletionQueue>);

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        if let Some(Ok(mut state)) = self.0.map(CompletionQueue::lock) {
            state.waiting -= 1;
        }
    }
}

impl State {
    /// The cache whose calls a thread that waits can drive: the only one that there are calls of, if nobody else waits
    /// for them, here or on the descriptor.
    fn cache_to_drive(&self) -> Option<Arc<Inflight>> {
        if self.watched || self.waiting > 1 || self.index.len() == 0 {
            return None;
        }
        self.index.only_cache()
    }

    /// Whether a new call may be left to the thread that submits it, which is about to wait.
    pub(super) fn wait_is_predicted(&self) -> bool {
        let is_alone = self.waiting == 0 && !self.watched && self.index.has_one_group();
        is_alone && self.prediction.is_hit_likely()
    }
}
