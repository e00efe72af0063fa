//! Calls that are carried out together over one link: the requests lie one behind the other in the link's outbox, the replies
//! come in the same order.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::redis::link::connection::{Exchanged, Failure};
use crate::backend::redis::link::waiter::{Bell, Waiter};
use crate::backend::redis::wire::replies::{Expect, Pending};
use crate::completion::{Delivery, Promise, QueueId};
use crate::error::{Error, Result};
use crate::op::Answer;

/// One call in a batch.
pub struct Entry {
    pub owner: Owner,
    pub expect: Expect,
    /// The length of its request.
    pub len: usize,
    /// A link has broken under it before.
    pub second: bool,
}

/// Who wants the answer.
pub enum Owner {
    /// A thread that waits. `is_first`: on a bell of its own, as the first of its batch, who is woken alone to carry it out.
    Thread { waiter: Arc<Waiter>, is_first: bool },
    /// An asynchronous call.
    Call(Promise),
}

impl Entry {
    fn complete(self, answer: Exchanged<Answer>, request: &[u8], uncompleted: &mut Uncompleted) {
        match self.owner {
            Owner::Thread { waiter, is_first } => {
                waiter.answer(answer);
                if is_first {
                    waiter.bell.ring();
                }
            }
            Owner::Call(call) => {
                let failure = match answer {
                    Exchanged::Answered { result, .. } => {
                        return uncompleted.delivery.push(call, result);
                    }
                    Exchanged::Failed(failure) => failure,
                };
                let is_read = call.is_read();
                if !failure.sent {
                    call.mark_unsent();
                }
                if failure.may_be_tried_again(is_read, self.second) && !call.is_completed() {
                    let second = self.second || !failure.is_refusal();
                    let entry = Entry { owner: Owner::Call(call), second, ..self };
                    return uncompleted.again.push(entry, request);
                }
                uncompleted.delivery.push(call, Err(failure.into_error(is_read)));
            }
        }
    }

    /// Ends a call of which nothing was sent.
    pub fn refuse(self, error: Error) {
        match self.owner {
            Owner::Thread { waiter, is_first } => {
                waiter.answer(Exchanged::Failed(Failure { error, sent: false, lost: false }));
                if is_first {
                    waiter.bell.ring();
                }
            }
            Owner::Call(call) => {
                call.complete(Err(error));
            }
        }
    }
}

impl Owner {
    #[inline]
    fn audience(&self) -> Audience {
        match self {
            Owner::Thread { .. } => Audience::Various,
            Owner::Call(call) => Audience::Queue(call.reports_to()),
        }
    }

    /// Whether somebody still wants the answer.
    fn is_there(&self) -> bool {
        match self {
            Owner::Thread { waiter, .. } => !waiter.is_gone(),
            Owner::Call(call) => !call.is_completed(),
        }
    }
}

/// Who waits for the answers to some requests, as far as that is known: some may have been taken out.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Audience {
    #[default]
    Nobody,
    /// All are asynchronous calls that report to this queue.
    Queue(QueueId),
    Various,
}

impl Audience {
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
    pub fn is_only(self, queue: QueueId) -> bool {
        self == Self::Nobody || self == Self::Queue(queue)
    }
}

/// The bells that the callers of one queue sleep on: those of one batch on one, those of the next on another. Where two batches
/// meet on one bell, some are woken for nothing.
#[derive(Default)]
pub struct Bells([Bell; Bells::COUNT]);

impl Bells {
    pub const COUNT: usize = 8;

    pub fn get(&self, batch: usize) -> &Bell {
        &self.0[batch % Self::COUNT]
    }

    /// Rings those whose bits are set.
    pub fn ring(&self, bells: u8) {
        for (index, bell) in self.0.iter().enumerate() {
            if bells & 1 << index != 0 {
                bell.ring();
            }
        }
    }
}

/// Requests one behind the other, and whose they are.
#[derive(Default)]
pub struct Requests {
    pub bytes: Vec<u8>,
    pub entries: VecDeque<Entry>,
    pub audience: Audience,
    /// How many of the bytes belong to requests that were taken out. Never much more than half, so that taking out a part costs
    /// no more than the part, however much is left.
    taken: usize,
}

impl Requests {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a call; nothing, if `encode` fails or panics.
    pub fn add(
        &mut self,
        owner: Owner,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        let draft = Draft { before: self.bytes.len(), bytes: &mut self.bytes };
        encode(draft.bytes)?;
        let len = draft.keep();
        if self.entries.is_empty() {
            self.audience = Audience::Nobody;
        }
        self.audience.join(owner.audience());
        self.entries.push_back(Entry { owner, expect, len, second: false });
        Ok(())
    }

    pub fn new(bytes: Vec<u8>, entries: VecDeque<Entry>, audience: Audience) -> Self {
        Self { bytes, entries, audience, taken: 0 }
    }

    pub fn remove(&mut self, index: usize) {
        let before: usize = self.entries.iter().take(index).map(|entry| entry.len).sum();
        if let Some(entry) = self.entries.remove(index) {
            let start = self.taken + before;
            self.bytes.drain(start..start + entry.len);
        }
    }

    /// Takes the first `count` out.
    pub fn take(&mut self, count: usize) -> Self {
        let entries: VecDeque<Entry> = self.entries.drain(..count).collect();
        let end = self.taken + entries.iter().map(|entry| entry.len).sum::<usize>();
        let bytes = self.bytes[self.taken..end].to_vec();
        self.taken = end;
        if self.taken > self.bytes.len() / 2 {
            self.forget_the_taken();
        }
        Self::new(bytes, entries, self.audience)
    }

    /// From here on the bytes are those of the entries.
    pub fn forget_the_taken(&mut self) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// The bytes of all requests.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub fn push(&mut self, entry: Entry, request: &[u8]) {
        self.bytes.extend_from_slice(request);
        self.audience.join(entry.owner.audience());
        self.entries.push_back(entry);
    }

    /// Whether anybody waits for an answer.
    pub fn is_wanted(&self) -> bool {
        self.entries.iter().any(|entry| entry.owner.is_there())
    }

    pub fn append(&mut self, other: &mut Requests) {
        other.forget_the_taken();
        self.bytes.append(&mut other.bytes);
        self.entries.append(&mut other.entries);
        self.audience.join(mem::take(&mut other.audience));
    }

    /// To be called before they are sent: asynchronous calls that were completed meanwhile are left out, and of the others it is
    /// known from now on that they may have been sent.
    pub fn begin_send(&mut self) {
        let goes = |entry: &Entry| match &entry.owner {
            Owner::Thread { .. } => true,
            Owner::Call(call) => call.begin_send(),
        };
        if !self.entries.iter().all(goes) {
            self.retain(goes);
        }
    }

    /// Nothing of them was sent after all.
    pub fn mark_unsent(&self) {
        for entry in &self.entries {
            if let Owner::Call(call) = &entry.owner {
                call.mark_unsent();
            }
        }
    }

    /// Keeps those that `is_kept` says, in one pass.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&Entry) -> bool) {
        self.forget_the_taken();
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

/// A request that is being written behind others. Unless it is kept, what there is of it is taken back: half a request would
/// be sent with the beginning of the next for its end.
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

/// What comes of a batch beside the answers to waiting threads.
#[derive(Default)]
pub struct Uncompleted {
    /// Answers to asynchronous calls.
    pub delivery: Delivery,
    /// Asynchronous calls that go over another link.
    pub again: Requests,
}

#[derive(Default)]
pub struct Batch {
    /// Those that are not completed yet.
    pub entries: VecDeque<Entry>,
    /// The replies to the first of them, once some of them has arrived and was not the usual.
    pub current: Option<Pending>,
    pub audience: Audience,
    /// Which bells their owners sleep on.
    pub bells: u8,
    /// How many calls there were; [`Batch::UNTIMED`], where what they took is no round trip.
    pub calls: usize,
    /// How much of the outbox has been sent.
    pub sent: usize,
    /// Where the first entry's request begins in the outbox.
    pub start: usize,
    pub uncompleted: Uncompleted,
}

impl Batch {
    pub const UNTIMED: usize = usize::MAX;

    /// Decides the first entry.
    pub fn complete(&mut self, answer: Exchanged<Answer>, outbox: &[u8]) {
        self.current = None;
        if let Some(entry) = self.entries.pop_front() {
            let request = self.start..self.start + entry.len;
            self.start = request.end;
            entry.complete(answer, outbox.get(request).unwrap_or_default(), &mut self.uncompleted);
        }
    }

    /// How many of the first entries, up to `most`, are asynchronous calls for one value.
    pub fn gets(&self, most: usize) -> usize {
        let is_get =
            |entry: &&Entry| matches!((&entry.owner, entry.expect), (Owner::Call(_), Expect::Get));
        self.entries.iter().take(most).take_while(is_get).count()
    }

    /// Answers the first entry, which is an asynchronous call.
    pub fn answer_call(&mut self, answer: Answer) {
        if let Some(Entry { owner: Owner::Call(call), len, .. }) = self.entries.pop_front() {
            self.start += len;
            self.uncompleted.delivery.push(call, Ok(answer));
        }
    }

    /// The replies to the first entry.
    pub fn pending(&mut self) -> Option<&mut Pending> {
        if self.current.is_none() {
            self.current = Some(Pending::new(self.entries.front()?.expect));
        }
        self.current.as_mut()
    }

    /// Fails all that are left, each with an error of its own. `lost`: another link may do better.
    pub fn fail(&mut self, lost: bool, outbox: &[u8], error: impl Fn() -> Error) {
        while !self.entries.is_empty() {
            let sent = self.sent > self.start;
            self.complete(Exchanged::Failed(Failure { error: error(), sent, lost }), outbox);
        }
    }

    /// A thread that still waits for an answer in it, and whether on a bell of its own.
    pub fn next_to_lead(&self, but: Option<&Arc<Waiter>>) -> Option<(Arc<Waiter>, bool)> {
        self.entries.iter().find_map(|entry| match &entry.owner {
            Owner::Thread { waiter, is_first }
                if but.is_none_or(|but| !Arc::ptr_eq(but, waiter)) && !waiter.is_gone() =>
            {
                Some((Arc::clone(waiter), *is_first))
            }
            _ => None,
        })
    }

    pub fn has_calls(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.owner, Owner::Call(_)))
    }

    /// The latest deadline of its asynchronous calls, which all have the same time and are in the order of their submission.
    pub fn last_deadline(&self) -> Option<Instant> {
        self.entries.iter().rev().find_map(|entry| match &entry.owner {
            Owner::Thread { .. } => None,
            Owner::Call(call) => Some(call.deadline()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::error::Kind;

    fn requests(count: usize) -> Requests {
        let mut requests = Requests::default();
        for number in 0..count {
            let owner = Owner::Thread { waiter: Waiter::own(), is_first: false };
            let encode = |out: &mut Vec<u8>| {
                out.extend(std::iter::repeat_n(number as u8, number % 7));
                Ok(())
            };
            requests.add(owner, encode, Expect::Ping).unwrap();
        }
        requests
    }

    /// The numbers of the requests, whose bytes and lengths must agree.
    fn numbers(requests: &Requests) -> Vec<u8> {
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
        first.append(&mut left);
        assert_eq!(numbers(&first), expected((0..3).chain(kept)));
        assert!(left.is_empty() && left.bytes_len() == 0);
    }

    #[test]
    fn half_a_request_is_taken_back() {
        let owner = || Owner::Thread { waiter: Waiter::own(), is_first: false };
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
        queued.append(&mut requests(5));
        assert_eq!(numbers(&queued), expected((0..10).chain(0..5)));
    }
}
