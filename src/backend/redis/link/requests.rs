//! Requests that lie one behind the other, and whose they are.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use super::outcome::{Attempts, Exchanged, Failure};
use super::waiter::Waiting;
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{Promise, QueueId};
use crate::error::{Error, Result};

/// One call among others.
pub struct Entry<L> {
    pub owner: Owner<L>,
    pub expect: Expect,
    /// The length of its request.
    pub len: usize,
    pub attempts: Attempts,
}

/// Who wants the answer.
pub enum Owner<L> {
    /// A thread that waits.
    Thread(Waiting<L>),
    /// An asynchronous call.
    Call(Promise),
}

impl<L> Entry<L> {
    /// Ends a call of which nothing was sent.
    pub fn fail_unsent(self, error: Error) {
        match self.owner {
            Owner::Thread(waiting) => waiting.answer(Exchanged::Failed(Failure::unsent(error))),
            Owner::Call(call) => {
                call.complete(Err(error));
            }
        }
    }

    pub fn call(&self) -> Option<&Promise> {
        match &self.owner {
            Owner::Thread(_) => None,
            Owner::Call(call) => Some(call),
        }
    }

    pub fn thread(&self) -> Option<&Waiting<L>> {
        match &self.owner {
            Owner::Thread(waiting) => Some(waiting),
            Owner::Call(_) => None,
        }
    }

    /// Whether somebody still wants the answer.
    fn is_wanted(&self) -> bool {
        match &self.owner {
            Owner::Thread(waiting) => !waiting.waiter.is_gone(),
            Owner::Call(call) => !call.is_completed(),
        }
    }
}

impl<L> Owner<L> {
    #[inline]
    fn waiters(&self) -> Waiters {
        match self {
            Owner::Thread(_) => Waiters::Various,
            Owner::Call(call) => Waiters::Queue(call.reports_to()),
        }
    }
}

/// Who waits for the answers to some requests, as far as that is known: some may have been taken out.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Waiters {
    #[default]
    Nobody,
    /// All are asynchronous calls that report to this queue.
    Queue(QueueId),
    Various,
}

impl Waiters {
    /// With those of other requests.
    #[inline]
    pub fn join(&mut self, other: Self) {
        if *self == Self::Nobody {
            *self = other;
        } else if *self != other && other != Self::Nobody {
            *self = Self::Various;
        }
    }

    /// Whether nobody but this queue is concerned.
    pub fn are_only(self, queue: QueueId) -> bool {
        self == Self::Nobody || self == Self::Queue(queue)
    }
}

/// Requests one behind the other.
///
/// The bytes are those of the entries, in their order, after `taken` bytes of requests that were taken out. These are
/// never much more than half, so that taking out a part costs no more than the part, however much is left.
pub struct Requests<L> {
    bytes: Vec<u8>,
    entries: VecDeque<Entry<L>>,
    waiters: Waiters,
    taken: usize,
}

impl<L> Default for Requests<L> {
    fn default() -> Self {
        Self::new(Vec::new(), VecDeque::new(), Waiters::Nobody)
    }
}

impl<L> Requests<L> {
    pub fn new(bytes: Vec<u8>, entries: VecDeque<Entry<L>>, waiters: Waiters) -> Self {
        Self { bytes, entries, waiters, taken: 0 }
    }

    /// Their bytes, their entries, and who waits for them. What is left is to be used again.
    pub fn parts(&mut self) -> (&mut Vec<u8>, &mut VecDeque<Entry<L>>, Waiters) {
        self.compact();
        let waiters = mem::take(&mut self.waiters);
        (&mut self.bytes, &mut self.entries, waiters)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry<L>> {
        self.entries.iter()
    }

    pub fn into_entries(self) -> VecDeque<Entry<L>> {
        self.entries
    }

    pub fn waiters(&self) -> Waiters {
        if self.entries.is_empty() { Waiters::Nobody } else { self.waiters }
    }

    /// The bytes of all requests.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Adds a call; nothing, if `encode` fails or panics.
    pub fn add(
        &mut self,
        owner: Owner<L>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        let draft = Draft { before: self.bytes.len(), bytes: &mut self.bytes };
        encode(draft.bytes)?;
        let len = draft.keep();
        if self.entries.is_empty() {
            self.waiters = Waiters::Nobody;
        }
        self.waiters.join(owner.waiters());
        self.entries.push_back(Entry { owner, expect, len, attempts: Attempts::default() });
        Ok(())
    }

    /// Adds one whose request is written already.
    pub fn push(&mut self, entry: Entry<L>, request: &[u8]) {
        self.bytes.extend_from_slice(request);
        self.waiters.join(entry.owner.waiters());
        self.entries.push_back(entry);
    }

    pub fn append(&mut self, mut other: Self) {
        other.compact();
        self.bytes.append(&mut other.bytes);
        self.entries.append(&mut other.entries);
        self.waiters.join(other.waiters);
    }

    /// Takes one out that was not sent.
    pub fn remove(&mut self, index: usize) {
        let before: usize = self.entries.iter().take(index).map(|entry| entry.len).sum();
        if let Some(entry) = self.entries.remove(index) {
            let start = self.taken + before;
            self.bytes.drain(start..start + entry.len);
        }
    }

    /// Takes the first out: as many as fit, and one at least.
    pub fn take_first(&mut self, most: usize, most_bytes: usize) -> Self {
        let mut length = 0;
        let fits = |entry: &&Entry<L>| {
            length += entry.len;
            length <= most_bytes
        };
        let count = self.entries.iter().take(most).take_while(fits).count().max(1);
        self.take(count)
    }

    fn take(&mut self, count: usize) -> Self {
        let entries: VecDeque<Entry<L>> = self.entries.drain(..count).collect();
        let end = self.taken + entries.iter().map(|entry| entry.len).sum::<usize>();
        let bytes = self.bytes[self.taken..end].to_vec();
        self.taken = end;
        if self.taken > self.bytes.len() / 2 {
            self.compact();
        }
        Self::new(bytes, entries, self.waiters)
    }

    /// From here on the bytes are those of the entries.
    fn compact(&mut self) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Whether anybody waits for an answer.
    pub fn are_wanted(&self) -> bool {
        self.entries.iter().any(Entry::is_wanted)
    }

    /// To be called before they are sent: asynchronous calls that were completed meanwhile are left out, and of the
    /// others it is known from now on that they may have been sent.
    pub fn begin_send(&mut self) {
        let goes = |entry: &Entry<L>| entry.call().is_none_or(|call| call.begin_send());
        if !self.entries.iter().all(goes) {
            self.retain(goes);
        }
    }

    /// Nothing of them was sent after all.
    pub fn mark_unsent(&self) {
        self.entries.iter().filter_map(Entry::call).for_each(|call| call.mark_unsent());
    }

    /// Takes out those that `is_taken` says.
    pub fn extract(&mut self, is_taken: impl Fn(&Entry<L>) -> bool) -> Self {
        let mut taken = Self::default();
        let (all, waiters) = (mem::take(self), self.waiters);
        self.waiters = waiters;
        let mut from = all.taken;
        for entry in all.entries {
            let request = from..from + entry.len;
            from = request.end;
            let side = if is_taken(&entry) { &mut taken } else { &mut *self };
            side.push(entry, all.bytes.get(request).unwrap_or_default());
        }
        taken
    }

    /// Lets go of asynchronous calls that are completed.
    pub fn forget_completed(&mut self) {
        self.retain(|entry| entry.call().is_none_or(|call| !call.is_completed()));
    }

    /// Keeps those that `is_kept` says, in one pass.
    fn retain(&mut self, mut is_kept: impl FnMut(&Entry<L>) -> bool) {
        self.compact();
        let (mut from, mut to) = (0, 0);
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let range: Range<usize> = from..from + entry.len;
            from = range.end;
            let kept = is_kept(entry);
            if kept {
                if range.start != to {
                    bytes.copy_within(range, to);
                }
                to += entry.len;
            }
            kept
        });
        self.bytes.truncate(to);
    }
}

/// A request that is being written behind others. Unless it is kept, what there is of it is taken back: half a request
/// would be sent with the beginning of the next for its end.
struct Draft<'a> {
    bytes: &'a mut Vec<u8>,
    before: usize,
}

impl Draft<'_> {
    /// Its length.
    fn keep(mut self) -> usize {
        let len = self.bytes.len() - self.before;
        self.before = self.bytes.len();
        len
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        self.bytes.truncate(self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use super::*;
    use crate::backend::redis::link::waiter::{SleepsOn, Waiter};
    use crate::error::Kind;

    fn owner() -> Owner<()> {
        Owner::Thread(Waiting { waiter: Arc::new(Waiter::default()), sleeps_on: SleepsOn::Batch })
    }

    fn requests(count: usize) -> Requests<()> {
        let mut requests = Requests::default();
        for number in 0..count {
            let encode = |out: &mut Vec<u8>| {
                out.extend(std::iter::repeat_n(number as u8, number % 7));
                Ok(())
            };
            requests.add(owner(), encode, Expect::Ping).unwrap();
        }
        requests
    }

    /// The numbers of the requests, whose bytes and lengths must agree.
    fn numbers(requests: &Requests<()>) -> Vec<u8> {
        let mut bytes = &requests.bytes[requests.taken..];
        let mut numbers = Vec::new();
        for entry in &requests.entries {
            let (request, rest) = bytes.split_at(entry.len);
            assert!(request.iter().all(|byte| *byte == request[0]));
            numbers.extend(request.first());
            bytes = rest;
        }
        assert!(bytes.is_empty());
        numbers
    }

    fn expected(numbers: impl Iterator<Item = usize>) -> Vec<u8> {
        numbers.filter(|number| number % 7 > 0).map(|number| number as u8).collect()
    }

    #[test]
    fn a_part_is_taken_out_and_the_rest_stays() {
        let mut left = requests(100);
        for start in [0, 10, 20] {
            assert_eq!(numbers(&left.take(10)), expected(start..start + 10));
            assert_eq!(numbers(&left), expected(start + 10..100));
        }
        left.remove(1);
        assert_eq!(numbers(&left), expected((30..100).filter(|number| *number != 31)));
        let mut position = 0;
        left.retain(|_| {
            position += 1;
            position % 2 == 0
        });
        let kept = (30..100).filter(|number| *number != 31).skip(1).step_by(2);
        assert_eq!(numbers(&left), expected(kept.clone()));
        let mut first = requests(3);
        first.append(left);
        assert_eq!(numbers(&first), expected((0..3).chain(kept)));
    }

    #[test]
    fn the_first_are_taken_by_number_or_by_bytes_and_one_at_least() {
        let mut left = requests(100);
        assert_eq!(left.take_first(10, usize::MAX).len(), 10);
        // Of 3, 4, 5, 6 and 0 bytes.
        assert_eq!(left.take_first(usize::MAX, 18).len(), 5);
        assert_eq!(left.take_first(usize::MAX, 0).len(), 1);
        assert_eq!(numbers(&left), expected(16..100));
    }

    #[test]
    fn a_request_that_fails_half_way_is_taken_back() {
        let mut queued = requests(10);
        let failed = queued.add(
            owner(),
            |out| {
                out.extend_from_slice(b"half of");
                Err(Kind::Closed.into())
            },
            Expect::Ping,
        );
        assert!(failed.is_err());
        assert_eq!(numbers(&queued), expected(0..10));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            queued.add(
                owner(),
                |out| {
                    out.extend_from_slice(b"half of");
                    panic!("as it should, in the middle of a request");
                },
                Expect::Ping,
            )
        }));
        assert!(panicked.is_err());
        assert_eq!(numbers(&queued), expected(0..10));
        queued.append(requests(5));
        assert_eq!(numbers(&queued), expected((0..10).chain(0..5)));
    }
}
