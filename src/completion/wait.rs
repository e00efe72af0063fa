//! Threads that wait for completions: asleep on the queue, or driving the I/O of the calls that they wait for.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::call::ExpectedDriver;
use super::descriptor::Descriptor;
use super::engine::{QueueId, Wait};
use super::inflight::Inflight;
use super::queue::{CompletionQueue, State};
use crate::error::Result;
use crate::reserve;
use crate::sync::MutexGuard;

/// A step over several caches ends after this, whatever is left.
const LONGEST_STEP: Duration = Duration::from_millis(1);
/// So much is read in a step.
const MOST_IN_A_STEP: usize = 1 << 20;

impl CompletionQueue {
    /// Waits until something is done, or until `until`. A thread that waits alone drives the I/O of what it waits for,
    /// as far as the engines of the cache let it, which spares two context switches.
    pub(super) fn await_news<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>> {
        state.waiting += 1;
        let mut panicked = Panicked { queue: Some(self), was: |state| state.waiting -= 1 };
        loop {
            state = match state.cache_to_drive() {
                Some(inflight) => self.drive(state, inflight, until)?,
                None => self.sleep(state, until)?,
            };
            if state.has_news() || until.is_some_and(|until| Instant::now() >= until) {
                state.waiting -= 1;
                panicked.queue = None;
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
        let Some(wakeup) = state.descriptor.clone() else { return Ok(state) };
        state.prediction.hit();
        if state.watched {
            wakeup.begin_step();
        }
        drop(state);
        let has_driven = inflight.drive(&Waiting { queue: self, until, wakeup });
        drop(inflight);
        let state = self.lock()?;
        if has_driven || state.has_news() { Ok(state) } else { self.sleep(state, until) }
    }

    /// Sees to the I/O that there is to do for a poller of the descriptor, and waits for nothing.
    pub(super) fn step<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>> {
        let Some(descriptor) = state.descriptor.clone() else { return Ok(state) };
        let only = state.index.only_cache();
        let mut several = Vec::new();
        let mut has_more = false;
        if only.is_none() {
            let room =
                reserve::try_reserve(&mut several, state.index.groups(), "memory for a step");
            match room {
                Ok(()) => several.extend(state.index.caches()),
                Err(_) => has_more = true,
            }
        }
        let first = state.next_to_step;
        state.next_to_step = first.wrapping_add(1);
        descriptor.begin_step();
        state.stepping += 1;
        let mut panicked = Panicked { queue: Some(self), was: |state| state.stepping -= 1 };
        drop(state);
        has_more |= match &only {
            Some(only) => only.step(self.id(), &mut { MOST_IN_A_STEP }),
            None => self.step_over(&several, first),
        };
        drop((only, several));
        let mut state = self.lock()?;
        state.stepping -= 1;
        panicked.queue = None;
        if has_more {
            descriptor.has_more();
        }
        Ok(state)
    }

    /// The same over several caches, of which another is the first each time; whether something is left.
    fn step_over(&self, caches: &[Arc<Inflight>], first: usize) -> bool {
        let until = Instant::now() + LONGEST_STEP;
        let mut most = MOST_IN_A_STEP;
        let mut has_more = false;
        for number in 0..caches.len() {
            if number > 0 && (most == 0 || Instant::now() >= until) {
                return true;
            }
            has_more |=
                caches[first.wrapping_add(number) % caches.len()].step(self.id(), &mut most);
        }
        has_more
    }

    /// Sleeps until something may have been done, or until `until`, or for no reason.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>> {
        if state.watched
            && let Some(descriptor) = state.descriptor.clone()
        {
            return self.poll(state, &descriptor, until);
        }
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
        Ok(state)
    }

    /// The same where the descriptor has links in it, which somebody must drive: this thread as well as another.
    fn poll<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        descriptor: &Descriptor,
        until: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>> {
        state.polling += 1;
        drop(state);
        descriptor.wait(until);
        let mut state = self.lock()?;
        state.polling -= 1;
        if !state.has_news() {
            state = self.step(state)?;
        }
        if !state.has_news() {
            state.settle();
        }
        Ok(state)
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
    wakeup: Arc<Descriptor>,
}

impl Wait for Waiting<'_> {
    fn queue(&self) -> QueueId {
        self.queue.id()
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
            if state.watched && !state.has_news() {
                // What is told to pollers must not wake this thread again and again.
                self.wakeup.begin_step();
                state.settle();
            }
        }
    }
}

/// Counts a thread as gone because of a panic; one that leaves as it should takes the queue out.
struct Panicked<'a> {
    queue: Option<&'a CompletionQueue>,
    was: fn(&mut State),
}

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        if let Some(Ok(mut state)) = self.queue.map(CompletionQueue::lock) {
            (self.was)(&mut state);
            if state.watched {
                // It has not looked for completions, and may have left more.
                state.descriptor.iter().for_each(|descriptor| descriptor.has_more());
                state.settle();
            }
        }
    }
}

impl State {
    /// The cache whose calls a thread that waits can drive: the only one that there are calls of, if nobody else waits
    /// for them here.
    fn cache_to_drive(&self) -> Option<Arc<Inflight>> {
        if self.waiting > 1 || self.index.len() == 0 {
            return None;
        }
        self.index.only_cache()
    }

    /// Who is likely to carry a new call out: the thread that submits it, which is about to wait, or who polls the
    /// descriptor.
    pub(super) fn expected_driver(&self) -> ExpectedDriver {
        match self.waiting == 0 {
            true if self.prediction.is_hit_likely() && self.index.has_one_group() => {
                ExpectedDriver::Waiter
            }
            true if self.watched => ExpectedDriver::EventLoop,
            _ => ExpectedDriver::Reactor,
        }
    }
}
