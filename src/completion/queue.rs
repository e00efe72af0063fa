//! A completion queue: what is outstanding, what is complete, and who waits for it.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use super::Completion;
use super::call::{Call, Progress, Promise, Request, Terms};
use super::descriptor::Descriptor;
use super::engine::QueueId;
use super::index::Index;
use super::inflight::Inflight;
use super::prediction::Prediction;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::Answer;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};
use crate::{fork, reserve};

/// An empty queue gives back more memory than for so many completions.
const KEPT: usize = 1024;

/// Completions on their way to who sent the calls. `wait.rs` has the threads that wait for them.
pub struct CompletionQueue {
    /// In a child process an inherited queue is closed; its calls stay the parent's.
    generation: u64,
    state: Mutex<State>,
    pub(super) arrived: Condvar,
    /// Something is done, or the queue is closed: for who looks often and would rather not lock. Written under the
    /// lock.
    pub(super) news: AtomicBool,
}

pub(super) struct State {
    closed: bool,
    pub(super) index: Index<Call, Inflight>,
    /// Has room for all that is outstanding as well, so that nothing fails when it is completed.
    done: VecDeque<Completion>,
    /// Threads that wait for something to be done, and those of them that sleep for it here.
    pub(super) waiting: usize,
    pub(super) sleeping: usize,
    /// One of them has been woken and has not looked yet.
    pub(super) woken: bool,
    /// Those of them that sleep on the descriptor instead.
    pub(super) polling: usize,
    /// Threads that see to what there is to do and wait for nothing.
    pub(super) stepping: usize,
    /// With which of several caches the next of them begins.
    pub(super) next_to_step: usize,
    /// Whether whoever submits is likely to wait next.
    pub(super) prediction: Prediction,
    /// It is there from the start, so that it is the opening that fails where there is none to be had. Gone when the
    /// queue is closed.
    pub(super) descriptor: Option<Arc<Descriptor>>,
    /// Somebody has asked for the descriptor. Until then it costs nothing.
    pub(super) watched: bool,
    /// The event of the descriptor may be readable.
    was_polled: bool,
}

/// One of many that are completed at once.
pub(super) struct Completed {
    pub(super) call: Promise,
    /// Taken when it is delivered.
    pub(super) result: Option<Result<Answer>>,
}

impl CompletionQueue {
    pub fn open() -> Result<Self> {
        let descriptor = Some(Arc::new(Descriptor::new()?));
        Ok(Self {
            generation: fork::generation(),
            state: Mutex::new(State {
                closed: false,
                index: Index::new(),
                done: VecDeque::new(),
                waiting: 0,
                sleeping: 0,
                woken: false,
                polling: 0,
                stepping: 0,
                next_to_step: 0,
                prediction: Prediction::default(),
                descriptor,
                watched: false,
                was_polled: false,
            }),
            arrived: Condvar::new(),
            news: AtomicBool::new(false),
        })
    }

    /// The descriptor to poll. It is the queue's.
    pub fn fd(&self) -> Result<RawFd> {
        let mut state = self.lock()?;
        let descriptor = state.descriptor.clone().ok_or(Kind::Closed)?;
        let fd = descriptor.number()?;
        if !state.watched {
            state.watched = true;
            descriptor.settle(!state.done.is_empty());
        }
        Ok(fd)
    }

    /// Passes up to `room` completions to `put`; how many. Waits for the first one, up to `timeout`; `None`: for ever.
    /// Where the descriptor is polled, a thread that does not wait sees to what there is to do.
    pub fn wait(
        &self,
        room: usize,
        timeout: Option<Duration>,
        mut put: impl FnMut(usize, Completion),
    ) -> Result<usize> {
        let mut state = self.lock()?;
        if !state.has_news() {
            if timeout != Some(Duration::ZERO) {
                let until = timeout.map(|timeout| Deadline::after(timeout).instant());
                state = self.await_news(state, until)?;
            } else if state.watched {
                if state.prediction.is_hit_likely() {
                    // The thread was expected to wait, and polls.
                    state.prediction.miss();
                }
                state = self.step(state)?;
            }
        }
        if state.closed {
            return Err(Kind::Closed.into());
        }
        let mut count = 0;
        while count < room
            && let Some(completion) = state.done.pop_front()
        {
            put(count, completion);
            count += 1;
        }
        if state.done.is_empty() {
            self.news.store(false, Ordering::Relaxed);
            state.index.shrink();
            if state.done.capacity() > KEPT && state.index.len() == 0 {
                state.done = VecDeque::new();
            }
        }
        if state.watched || state.was_polled {
            state.settle();
        }
        if !state.done.is_empty() && state.must_wake() {
            drop(state);
            self.arrived.notify_one();
        }
        Ok(count)
    }

    /// Cancels every outstanding call with that tag; whether there was any.
    pub fn cancel(&self, tag: u64) -> Result<bool> {
        let mut state = self.open_state()?;
        let mut next = state.index.first(tag)?;
        let any = next.is_some();
        while let Some(place) = next {
            next = state.index.after(place);
            state.fail(place, Call::cancelled);
        }
        self.announce(state);
        Ok(any)
    }

    /// Cancels every outstanding call of a cache that is closed, and takes no more of them.
    pub(super) fn end_group(&self, inflight: &Inflight) {
        let Ok(mut state) = self.lock() else { return };
        let Some(group) = state.index.group(inflight) else { return };
        while let Some(place) = state.index.oldest(group) {
            state.fail(place, Call::cancelled);
        }
        state.index.close_group(group);
        self.announce(state);
    }

    /// The first deadline of a cache's calls.
    pub(super) fn next_deadline(&self, inflight: &Inflight) -> Option<Instant> {
        let state = self.lock().ok()?;
        let place = state.index.oldest(state.index.group(inflight)?)?;
        state.index.call(place).map(|call| call.deadline())
    }

    /// Fails a cache's calls whose deadline has passed; the next deadline.
    pub(super) fn expire(&self, inflight: &Inflight, now: Instant) -> Option<Instant> {
        let mut state = self.lock().ok()?;
        let group = state.index.group(inflight)?;
        let mut next = None;
        while let Some(place) = state.index.oldest(group) {
            next = state.index.call(place).map(|call| call.deadline());
            if next.is_some_and(|deadline| deadline > now) {
                break;
            }
            next = None;
            state.fail(place, Call::timed_out);
        }
        self.announce(state);
        next
    }

    /// Gives a call another deadline, which comes after those of its cache's other calls.
    pub(super) fn put_off(&self, call: &Call, deadline: Instant) {
        let Ok(mut state) = self.lock() else { return };
        if !call.is_completed() {
            call.put_off(deadline);
            state.index.make_newest(call.place());
        }
    }

    /// Ends it: whoever waits is told, what is outstanding is cancelled, and what was not taken is freed.
    pub fn close(&self) -> Result<()> {
        let Ok(mut state) = self.lock() else {
            self.abandon();
            return Err(Kind::Closed.into());
        };
        state.closed = true;
        self.news.store(true, Ordering::Release);
        let index = std::mem::replace(&mut state.index, Index::new());
        let done = std::mem::take(&mut state.done);
        for call in index.calls() {
            call.settle();
        }
        let descriptor = state.descriptor.take();
        if let Some(descriptor) = &descriptor {
            descriptor.end();
        }
        drop(state);
        self.arrived.notify_all();
        index.caches().for_each(|inflight| inflight.release_queue(self.id()));
        drop((index, done, descriptor));
        Ok(())
    }

    /// In a child process: frees the copy of what the parent had, unless one of its threads was in the middle of
    /// something.
    fn abandon(&self) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        state.closed = true;
        let index = std::mem::replace(&mut state.index, Index::new());
        let done = std::mem::take(&mut state.done);
        let descriptor = state.descriptor.take();
        drop(state);
        drop((index, done, descriptor));
    }

    /// Makes a call and puts it into the index, and sees to it that there is room for its completion.
    pub(super) fn insert(
        self: &Arc<Self>,
        inflight: &Arc<Inflight>,
        request: Request,
    ) -> Result<Arc<Call>> {
        let mut state = self.open_state()?;
        let outstanding = state.index.len() + 1;
        reserve::try_reserve(&mut state.done, outstanding, "memory for another call")?;
        let group = match state.index.group(inflight) {
            Some(group) => group,
            None => state.index.open_group(inflight, || inflight.enlist(self))?,
        };
        let tag = request.tag;
        let expected_driver = state.expected_driver();
        state.index.insert(tag, group, |spare, place| {
            Call::make(spare, self, inflight, Terms { request, place, expected_driver })
        })
    }

    /// Takes a call out as if it had never been there. `false`: it was completed already.
    pub(super) fn withdraw(&self, call: &Call) -> bool {
        self.lock().is_ok_and(|mut state| state.remove(call).is_some())
    }

    /// Completes a call, if nobody has. `result` is given how far it had come.
    pub(super) fn complete(
        &self,
        call: &Call,
        result: impl FnOnce(Progress) -> Result<Answer>,
    ) -> bool {
        let Ok(mut state) = self.lock() else { return false };
        let Some(progress) = state.remove(call) else { return false };
        state.done.push_back(Completion { tag: call.tag(), result: result(progress) });
        self.announce(state);
        true
    }

    /// The same for many, with one wake-up. What is left in `completed` is to be dropped.
    pub(super) fn complete_all(&self, completed: &mut [Completed]) {
        let Ok(mut state) = self.lock() else { return };
        for Completed { call, result } in completed {
            if state.remove(call).is_some()
                && let Some(result) = result.take()
            {
                state.done.push_back(Completion { tag: call.tag(), result });
            }
        }
        self.announce(state);
    }

    /// Tells who watches or waits, if there is anything new.
    fn announce(&self, mut state: MutexGuard<'_, State>) {
        if state.done.is_empty() {
            return;
        }
        self.news.store(true, Ordering::Release);
        // Who waits or steps looks for completions before it goes.
        let is_polled = state.watched && state.waiting == 0 && state.stepping == 0;
        if is_polled || state.polling > 0 {
            state.was_polled = true;
            if let Some(descriptor) = &state.descriptor {
                descriptor.has_completions();
            }
        }
        if state.must_wake() {
            drop(state);
            self.arrived.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn sleeping(&self) -> usize {
        lock(&self.state).sleeping
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn is_readable(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let state = lock(&self.state);
        let Some(descriptor) = &state.descriptor else { return false };
        let now = Some(&crate::sys::timespec(Duration::ZERO));
        poll(&mut [PollFd::new(descriptor, PollFlags::IN)], now) == Ok(1)
    }

    #[cfg(test)]
    pub(super) fn groups(&self) -> usize {
        lock(&self.state).index.groups()
    }

    pub fn id(&self) -> QueueId {
        QueueId::of(ptr::from_ref(self))
    }

    pub(super) fn descriptor(&self) -> Option<Arc<Descriptor>> {
        self.lock().ok()?.descriptor.clone()
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock()?;
        if state.closed { Err(Kind::Closed.into()) } else { Ok(state) }
    }

    /// Not in a child process, where a thread that is not there might hold it.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>> {
        if self.generation == fork::generation() {
            Ok(lock(&self.state))
        } else {
            Err(Kind::Closed.into())
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

impl State {
    /// Takes a call out of the index, and so completes it; how far it had come. `None`: it was completed already.
    fn remove(&mut self, call: &Call) -> Option<Progress> {
        if call.is_completed() {
            return None;
        }
        self.index.remove(call.place()).then(|| call.settle())
    }

    /// Takes out the call at `place` with an error, given how far it had come.
    fn fail(&mut self, place: u32, error: fn(&Call, Progress) -> Error) {
        if self.index.remove(place)
            && let Some(call) = self.index.call(place)
        {
            let error = error(call, call.settle());
            self.done.push_back(Completion { tag: call.tag(), result: Err(error) });
        }
    }

    /// Whether somebody is to be woken. One is enough: who takes only a part wakes the next.
    fn must_wake(&mut self) -> bool {
        let must = self.sleeping > 0 && !self.woken;
        self.woken |= must;
        must
    }

    pub(super) fn has_news(&self) -> bool {
        self.closed || !self.done.is_empty()
    }

    /// Has the descriptor tell what there is to do now.
    pub(super) fn settle(&mut self) {
        if let Some(descriptor) = &self.descriptor {
            if self.index.len() == 0 {
                // Whatever was to be sent, nobody wants it any more.
                descriptor.begin_step();
            }
            descriptor.settle(!self.done.is_empty());
        }
        self.was_polled = !self.done.is_empty();
    }
}
