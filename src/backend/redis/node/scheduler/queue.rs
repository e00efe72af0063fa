//! Requests that wait for a link.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use crate::backend::redis::link::batch::Batch;
use crate::backend::redis::link::requests::{Entry, Owner, Requests, Waiters};
use crate::backend::redis::link::waiter::Waiter;
use crate::backend::redis::link::wakeup::WakeupSet;
use crate::backend::redis::wire::replies::Expect;
use crate::error::Result;

/// A batch takes so many calls, and so many bytes, before the rest is left to the next.
pub const MOST_CALLS: usize = 1024;
pub const MOST_BYTES: usize = 64 << 10;
/// Fewer calls are not looked through for those that are completed.
const FEW: usize = 1024;

/// Requests of small calls, written one behind the other, to be sent over the next link that is free.
pub struct SubmissionQueue<L> {
    requests: Requests<L>,
    /// What comes after them, where there was no memory to put it behind them. None, where `requests` is empty.
    further: VecDeque<Requests<L>>,
    /// The number of the batch that is being gathered.
    batch: usize,
    /// The wakeups of callers that were put back.
    wakeups: WakeupSet,
    /// At so many calls it is time to look for those that are completed.
    sweep_at: usize,
}

impl<L> Default for SubmissionQueue<L> {
    fn default() -> Self {
        let (requests, wakeups) = (Requests::default(), WakeupSet::default());
        Self { requests, further: VecDeque::new(), batch: 0, wakeups, sweep_at: FEW }
    }
}

impl<L> SubmissionQueue<L> {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn len(&self) -> usize {
        self.requests.len() + self.further.iter().map(Requests::len).sum::<usize>()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry<L>> {
        self.requests.iter().chain(self.further.iter().flat_map(Requests::iter))
    }

    pub fn waiters(&self) -> Waiters {
        let mut waiters = self.requests.waiters();
        self.further.iter().for_each(|requests| waiters.join(requests.waiters()));
        waiters
    }

    /// The number of the batch that is being gathered: what its threads sleep on.
    pub fn batch(&self) -> usize {
        self.batch
    }

    pub fn add(
        &mut self,
        owner: Owner<L>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        self.further.back_mut().unwrap_or(&mut self.requests).add(owner, encode, expect)
    }

    /// Puts requests behind what is queued.
    pub fn append(&mut self, requests: Requests<L>) {
        let last = self.further.back_mut().unwrap_or(&mut self.requests);
        if last.is_empty() {
            *last = requests;
        } else if let Err(requests) = last.try_append(requests) {
            self.further.push_back(requests);
        }
    }

    /// Loads what is queued onto an empty batch, as far as one batch goes. That may be nothing.
    pub fn load(&mut self, batch: &mut Batch<L>) {
        self.move_to(batch, MOST_CALLS, MOST_BYTES);
    }

    /// Adds what is queued to a batch, as far as that goes.
    pub fn add_to(&mut self, batch: &mut Batch<L>) {
        let calls = MOST_CALLS.saturating_sub(batch.left());
        let bytes = MOST_BYTES.saturating_sub(batch.left_bytes());
        if !self.is_empty() && calls > 0 && bytes > 0 {
            self.move_to(batch, calls, bytes);
        }
    }

    fn move_to(&mut self, batch: &mut Batch<L>, calls: usize, bytes: usize) {
        let wakeups = mem::take(&mut self.wakeups).with(WakeupSet::of(self.batch));
        batch.take_from(&mut self.requests, calls, bytes, wakeups);
        self.go_on();
        match self.is_empty() {
            true => self.batch = self.batch.wrapping_add(1),
            // The rest may sleep on the same.
            false => self.wakeups = wakeups,
        }
    }

    /// To be called when some were taken out of the first.
    fn go_on(&mut self) {
        while self.requests.is_empty()
            && let Some(next) = self.further.pop_front()
        {
            self.requests = next;
            if self.further.is_empty() {
                self.further = VecDeque::new();
            }
        }
    }

    /// Puts a batch that was not begun before what is queued.
    pub fn put_back(&mut self, batch: Requests<L>, wakeups: WakeupSet) {
        self.wakeups = self.wakeups.with(wakeups);
        let queued = mem::replace(&mut self.requests, batch);
        if let Err(queued) = self.requests.try_append(queued) {
            self.further.push_front(queued);
        }
        self.go_on();
    }

    /// Whether a thread's call is queued.
    pub fn has(&self, waiter: &Arc<Waiter<L>>) -> bool {
        self.find(waiter).is_some()
    }

    /// Takes a thread's call back; `false`: it is not queued.
    pub fn remove(&mut self, waiter: &Arc<Waiter<L>>) -> bool {
        let Some(mut index) = self.find(waiter) else { return false };
        let all = std::iter::once(&mut self.requests).chain(&mut self.further);
        for requests in all {
            if index < requests.len() {
                requests.remove(index);
                break;
            }
            index -= requests.len();
        }
        self.go_on();
        true
    }

    fn find(&self, waiter: &Arc<Waiter<L>>) -> Option<usize> {
        let is_its = |entry: &Entry<L>| {
            entry.thread().is_some_and(|waiting| Arc::ptr_eq(&waiting.waiter, waiter))
        };
        self.iter().position(is_its)
    }

    /// Whether there are asynchronous calls in it.
    pub fn has_calls(&self) -> bool {
        let has_calls =
            |requests: &Requests<L>| requests.iter().any(|entry| entry.call().is_some());
        has_calls(&self.requests) || self.further.iter().any(has_calls)
    }

    /// Lets go of asynchronous calls that are completed. Does nothing most of the time, so that it costs each call next
    /// to nothing.
    pub fn forget_completed_now_and_then(&mut self) {
        if self.requests.len() >= self.sweep_at {
            self.forget_completed();
            self.sweep_at = (2 * self.requests.len()).max(FEW);
        }
    }

    pub fn forget_completed(&mut self) {
        self.requests.forget_completed();
        self.further.iter_mut().for_each(Requests::forget_completed);
        self.go_on();
    }

    pub fn take_all(&mut self) -> impl Iterator<Item = Requests<L>> {
        std::iter::once(mem::take(&mut self.requests)).chain(mem::take(&mut self.further))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::redis::link::waiter::{SleepsOn, Waiting};
    use crate::reserve::with_nothing_left;

    /// Whose requests these are, one byte each, by its number.
    struct Callers(Vec<Arc<Waiter<()>>>);

    impl Callers {
        fn requests(&self, numbers: std::ops::Range<usize>) -> Requests<()> {
            let mut requests = Requests::default();
            for number in numbers {
                let waiter = Arc::clone(&self.0[number]);
                let owner = Owner::Thread(Waiting { waiter, sleeps_on: SleepsOn::Own });
                let encode = |out: &mut Vec<u8>| {
                    out.push(number as u8);
                    Ok(())
                };
                requests.add(owner, encode, Expect::Ping).unwrap();
            }
            requests
        }
    }

    #[test]
    fn where_there_is_no_memory_to_put_requests_behind_others_they_keep_their_order() {
        let callers = Callers((0..40).map(|_| Arc::default()).collect());
        let mut queue = SubmissionQueue::default();
        for behind in [10..15, 15..30, 30..31] {
            let behind = callers.requests(behind);
            with_nothing_left(|| queue.append(behind));
        }
        for before in [5..10, 0..5] {
            let before = callers.requests(before);
            with_nothing_left(|| queue.put_back(before, WakeupSet::default()));
        }
        queue.append(callers.requests(31..40));
        assert_eq!((queue.len(), queue.iter().count()), (40, 40));
        for number in [0, 7, 12, 39] {
            let waiter = &callers.0[number];
            assert!(queue.has(waiter) && queue.remove(waiter) && !queue.remove(waiter));
        }
        let (mut sent, mut batches) = (Vec::new(), 0);
        while !queue.is_empty() {
            let mut batch = Batch::default();
            with_nothing_left(|| queue.load(&mut batch));
            assert!(!batch.is_complete() && batch.outbox.len() == batch.left());
            sent.extend_from_slice(&batch.outbox);
            batches += 1;
        }
        let expected: Vec<u8> = (0..40).filter(|number| ![0, 7, 12, 39].contains(number)).collect();
        assert_eq!(sent, expected);
        assert!(batches > 1 && queue.take_all().all(|requests| requests.is_empty()));
    }
}
