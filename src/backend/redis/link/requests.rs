//! Requests that lie one behind the other, and whose they are.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use super::outcome::{Attempts, Exchanged, Failure};
use super::waiter::Waiting;
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{Call, Promise, QueueId};
use crate::error::{Error, Kind, Result};
use crate::reserve;

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
            Owner::Thread(waiting) => {
                // It came when there was memory again, perhaps, which a dial before it had not found.
                let may_go_again = matches!(error.kind, Kind::NoMemory(_));
                waiting.answer(Exchanged::Failed(Failure::new(error, false, may_go_again)));
            }
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
    pub fn is_wanted(&self) -> bool {
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

    /// Adds a call; nothing, if there is no memory, or `encode` fails or panics.
    pub fn add(
        &mut self,
        owner: Owner<L>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        self.try_reserve(1)?;
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

    /// Adds one whose request is written already. It comes back where there is no memory for it.
    pub fn try_push(&mut self, entry: Entry<L>, request: &[u8]) -> Result<(), Entry<L>> {
        if !has_room(&mut self.bytes, &mut self.entries, request.len(), 1) {
            return Err(entry);
        }
        self.bytes.extend_from_slice(request);
        self.waiters.join(entry.owner.waiters());
        self.entries.push_back(entry);
        Ok(())
    }

    /// Makes room for more calls.
    pub fn try_reserve(&mut self, calls: usize) -> Result<()> {
        reserve::try_reserve(&mut self.entries, calls, "memory for the calls")
    }

    /// Adds others. They come back where there is no memory for them.
    pub fn try_append(&mut self, mut other: Self) -> Result<(), Self> {
        if !has_room(&mut self.bytes, &mut self.entries, other.bytes_len(), other.len()) {
            return Err(other);
        }
        other.compact();
        self.bytes.append(&mut other.bytes);
        self.entries.append(&mut other.entries);
        self.waiters.join(other.waiters);
        Ok(())
    }

    /// Takes one out that was not sent.
    pub fn remove(&mut self, index: usize) {
        let before: usize = self.entries.iter().take(index).map(|entry| entry.len).sum();
        if let Some(entry) = self.entries.remove(index) {
            let start = self.taken + before;
            self.bytes.drain(start..start + entry.len);
        }
    }

    /// Whether all go into one batch.
    pub fn fit(&self, most: usize, most_bytes: usize) -> bool {
        self.len() <= most && self.bytes_len() <= most_bytes
    }

    /// Takes the first out to be sent, behind what is in `bytes` and `entries`: as many as fit, and one at least; but
    /// none that there is no memory for. It is with them as with [`Requests::begin_send`].
    pub fn move_first(
        &mut self,
        most: usize,
        most_bytes: usize,
        bytes: &mut Vec<u8>,
        entries: &mut VecDeque<Entry<L>>,
    ) {
        let mut length = 0;
        let fits = |entry: &&Entry<L>| {
            length += entry.len;
            length <= most_bytes
        };
        let mut count = self.entries.iter().take(most).take_while(fits).count().max(1);
        loop {
            let length = self.entries.iter().take(count).map(|entry| entry.len).sum();
            if has_room(bytes, entries, length, count) {
                break;
            }
            // A few are worth what is reserved for what cannot do without.
            if count <= FEW {
                let can = bytes.try_reserve(length).is_ok() && entries.try_reserve(count).is_ok();
                match can {
                    true => break,
                    false if count <= 1 => return,
                    false => {}
                }
            }
            count /= 2;
        }
        // Those that go on lie behind one another.
        let (mut from, mut end) = (self.taken, self.taken);
        for entry in self.entries.drain(..count.min(self.entries.len())) {
            let start = end;
            end += entry.len;
            if entry.call().is_none_or(|call| call.begin_send()) {
                entries.push_back(entry);
            } else {
                bytes.extend_from_slice(&self.bytes[from..start]);
                from = end;
            }
        }
        bytes.extend_from_slice(&self.bytes[from..end]);
        self.taken = end;
        if self.taken > self.bytes.len() / 2 {
            self.compact();
        }
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

    /// Ends the asynchronous calls that `is_failed` says, which are not on their way.
    pub fn fail_those(&mut self, is_failed: impl Fn(&Entry<L>) -> bool, error: &Error) {
        self.retain(|entry| match entry.call().filter(|_| is_failed(entry)) {
            Some(call) => {
                Call::complete(call, Err(error.again()));
                false
            }
            None => true,
        });
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

/// So many calls are sent even where there is no memory for more.
const FEW: usize = 8;

/// Whether there is room for so many bytes and calls, or could be made.
fn has_room<L>(
    bytes: &mut Vec<u8>,
    entries: &mut VecDeque<Entry<L>>,
    more_bytes: usize,
    more: usize,
) -> bool {
    const WHAT: &str = "memory for the calls";
    reserve::try_reserve(bytes, more_bytes, WHAT).is_ok()
        && reserve::try_reserve(entries, more, WHAT).is_ok()
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
    use crate::reserve::with_nothing_left;

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

    fn first(requests: &mut Requests<()>, most: usize, most_bytes: usize) -> Requests<()> {
        let mut first = Requests::default();
        requests.move_first(most, most_bytes, &mut first.bytes, &mut first.entries);
        first
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
            assert_eq!(numbers(&first(&mut left, 10, usize::MAX)), expected(start..start + 10));
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
        let mut all = requests(3);
        assert!(all.try_append(left).is_ok());
        assert_eq!(numbers(&all), expected((0..3).chain(kept)));
    }

    #[test]
    fn the_first_are_taken_by_number_or_by_bytes_and_one_at_least() {
        let mut left = requests(100);
        assert_eq!(first(&mut left, 10, usize::MAX).len(), 10);
        // Of 3, 4, 5, 6 and 0 bytes.
        assert_eq!(first(&mut left, usize::MAX, 18).len(), 5);
        assert_eq!(first(&mut left, usize::MAX, 0).len(), 1);
        assert_eq!(numbers(&left), expected(16..100));
    }

    #[test]
    fn a_few_are_taken_even_where_there_is_no_memory_for_more() {
        let mut left = requests(100);
        let some = with_nothing_left(|| first(&mut left, 100, usize::MAX));
        assert!((1..=FEW).contains(&some.len()));
        assert_eq!(numbers(&left), expected(some.len()..100));
        let (mut all, more) = (requests(1), requests(5));
        let back = with_nothing_left(|| all.try_append(more)).err().unwrap();
        assert_eq!((all.len(), back.len()), (1, 5));
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
        assert!(queued.try_append(requests(5)).is_ok());
        assert_eq!(numbers(&queued), expected((0..10).chain(0..5)));
    }
}
