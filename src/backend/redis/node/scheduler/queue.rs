//! Requests that wait for a link.

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
const MOST_BYTES: usize = 64 << 10;
/// Fewer calls are not looked through for those that are completed.
const FEW: usize = 1024;

/// Requests of small calls, written one behind the other, to be sent over the next link that is free.
pub struct SubmissionQueue<L> {
    requests: Requests<L>,
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
        Self { requests, batch: 0, wakeups, sweep_at: FEW }
    }
}

impl<L> SubmissionQueue<L> {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry<L>> {
        self.requests.iter()
    }

    pub fn waiters(&self) -> Waiters {
        self.requests.waiters()
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
        self.requests.add(owner, encode, expect)
    }

    pub fn append(&mut self, requests: Requests<L>) {
        self.requests.append(requests);
    }

    /// Loads what is queued onto an empty batch, as far as one batch goes. That may be nothing.
    pub fn load(&mut self, batch: &mut Batch<L>) {
        if let Some(mut first) = self.part(MOST_CALLS, MOST_BYTES) {
            first.begin_send();
            // The rest may sleep on the same.
            self.wakeups = self.take_wakeups();
            return batch.load(&mut first, self.wakeups);
        }
        let wakeups = self.take_wakeups();
        self.requests.begin_send();
        batch.load(&mut self.requests, wakeups);
        self.batch = self.batch.wrapping_add(1);
    }

    /// Adds what is queued to a batch, as far as that goes.
    pub fn add_to(&mut self, batch: &mut Batch<L>) {
        let calls = MOST_CALLS.saturating_sub(batch.left());
        let bytes = MOST_BYTES.saturating_sub(batch.left_bytes());
        if self.is_empty() || calls == 0 || bytes == 0 {
            return;
        }
        if let Some(mut first) = self.part(calls, bytes) {
            first.begin_send();
            self.wakeups = self.take_wakeups();
            return batch.add(&mut first, self.wakeups);
        }
        let wakeups = self.take_wakeups();
        self.requests.begin_send();
        batch.add(&mut self.requests, wakeups);
        self.batch = self.batch.wrapping_add(1);
    }

    /// Takes the first out of other requests, where those are more than one batch takes.
    pub fn part_of(requests: &mut Requests<L>) -> Option<Requests<L>> {
        let is_one_batch = requests.len() <= MOST_CALLS && requests.bytes_len() <= MOST_BYTES;
        (!is_one_batch).then(|| requests.take_first(MOST_CALLS, MOST_BYTES))
    }

    /// Takes out the first of what is queued, where that is more than so many calls and bytes.
    fn part(&mut self, calls: usize, bytes: usize) -> Option<Requests<L>> {
        let requests = &mut self.requests;
        if requests.len() <= calls && requests.bytes_len() <= bytes {
            return None;
        }
        Some(requests.take_first(calls, bytes))
    }

    fn take_wakeups(&mut self) -> WakeupSet {
        mem::take(&mut self.wakeups).with(WakeupSet::of(self.batch))
    }

    /// Puts a batch that was not begun before what is queued.
    pub fn put_back(&mut self, mut batch: Requests<L>, wakeups: WakeupSet) {
        self.wakeups = self.wakeups.with(wakeups);
        batch.append(mem::take(&mut self.requests));
        self.requests = batch;
    }

    /// Whether a thread's call is queued.
    pub fn has(&self, waiter: &Arc<Waiter<L>>) -> bool {
        self.find(waiter).is_some()
    }

    /// Takes a thread's call back; `false`: it is not queued.
    pub fn remove(&mut self, waiter: &Arc<Waiter<L>>) -> bool {
        let found = self.find(waiter);
        found.into_iter().for_each(|index| self.requests.remove(index));
        found.is_some()
    }

    fn find(&self, waiter: &Arc<Waiter<L>>) -> Option<usize> {
        let is_its = |entry: &Entry<L>| {
            entry.thread().is_some_and(|waiting| Arc::ptr_eq(&waiting.waiter, waiter))
        };
        self.requests.iter().position(is_its)
    }

    /// Whether there are asynchronous calls in it.
    pub fn has_calls(&self) -> bool {
        self.requests.iter().any(|entry| entry.call().is_some())
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
    }

    pub fn take_all(&mut self) -> Requests<L> {
        mem::take(&mut self.requests)
    }
}
