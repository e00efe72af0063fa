//! Calls that go together over one link: the requests lie one behind the other in the outbox, the replies come in the
//! same order.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::outcome::{Exchanged, Failure};
use super::requests::{Entry, Owner, Requests, Waiters};
use super::waiter::{SleepsOn, Waiter, Waiting};
use super::wakeup::WakeupSet;
use crate::backend::redis::wire::command::older_form;
use crate::backend::redis::wire::replies::{Expect, Pending, Replies, Reuse};
use crate::completion::Delivery;
use crate::error::Error;
use crate::op::Answer;
use crate::reserve;
use crate::threads::release;

/// From this size on an answer that nobody wants is not dropped here.
const LARGE: usize = 1 << 20;

/// Calls on their way over a link of type `L`.
///
/// The entries are those that are not complete yet, in the order of their requests; the first one's begins at `start`
/// in the outbox, and `sent` bytes of the outbox have gone. No call is answered before all of its request has gone.
/// `calls` is how many calls there were when it was sent, or `None` where what they take is no round trip.
pub struct Batch<L> {
    pub outbox: Vec<u8>,
    pub sent: usize,
    start: usize,
    entries: VecDeque<Entry<L>>,
    /// The replies to the first of them, once some of them has arrived and was not the usual.
    current: Option<Pending>,
    waiters: Waiters,
    /// What the threads among its owners sleep on.
    pub wakeups: WakeupSet,
    pub calls: Option<usize>,
    /// Answers to asynchronous calls.
    pub completed: Delivery,
    /// Asynchronous calls that go over another link.
    pub retries: Requests<L>,
    /// Why some of them do: a server that takes no writes has refused them, in these words.
    pub refusal: Option<Error>,
}

impl<L> Default for Batch<L> {
    fn default() -> Self {
        Self {
            outbox: Vec::new(),
            sent: 0,
            start: 0,
            entries: VecDeque::new(),
            current: None,
            waiters: Waiters::Nobody,
            wakeups: WakeupSet::default(),
            calls: None,
            completed: Delivery::default(),
            retries: Requests::default(),
            refusal: None,
        }
    }
}

impl<L> Batch<L> {
    /// Takes requests over, to be sent next, where the last batch is complete: `requests` gets what was left of that,
    /// which is nothing but memory.
    pub fn load(&mut self, requests: &mut Requests<L>, wakeups: WakeupSet) {
        self.outbox.clear();
        let (bytes, entries, waiters) = requests.parts();
        mem::swap(&mut self.outbox, bytes);
        mem::swap(&mut self.entries, entries);
        bytes.clear();
        self.waiters = waiters;
        self.wakeups = wakeups;
        self.calls = Some(self.entries.len());
        self.sent = 0;
        self.start = 0;
    }

    /// Takes the first of `requests` over, behind what is left: as far as one batch goes, and as there is memory for.
    /// That may be nothing.
    pub fn take_from(
        &mut self,
        requests: &mut Requests<L>,
        most: usize,
        most_bytes: usize,
        wakeups: WakeupSet,
    ) {
        let is_all = requests.fit(most, most_bytes);
        match self.is_complete() {
            true if is_all => {
                requests.begin_send();
                return self.load(requests, wakeups);
            }
            true => self.begin_anew(),
            false => self.forget_answered(),
        }
        self.waiters.join(requests.waiters());
        if is_all && self.has_room_for(requests) {
            requests.begin_send();
            self.add(requests);
        } else {
            requests.move_first(most, most_bytes, &mut self.outbox, &mut self.entries);
        }
        self.calls = (self.sent == 0).then_some(self.entries.len());
        self.wakeups = self.wakeups.with(wakeups);
    }

    fn begin_anew(&mut self) {
        self.outbox.clear();
        (self.sent, self.start) = (0, 0);
        (self.waiters, self.wakeups) = (Waiters::Nobody, WakeupSet::default());
    }

    /// Drops the requests of calls that are complete, once they are many.
    fn forget_answered(&mut self) {
        if self.start > self.outbox.len() / 2 {
            self.outbox.drain(..self.start);
            self.sent -= self.start;
            self.start = 0;
        }
    }

    /// Whether all of them can be added at once.
    fn has_room_for(&mut self, requests: &mut Requests<L>) -> bool {
        const WHAT: &str = "memory for the calls";
        let has_room = match self.entries.len() < requests.len() {
            true => requests.try_reserve(self.entries.len()),
            false => reserve::try_reserve(&mut self.entries, requests.len(), WHAT),
        };
        let len = requests.bytes_len();
        has_room.is_ok() && reserve::try_reserve(&mut self.outbox, len, WHAT).is_ok()
    }

    /// Adds them, for which there is room.
    fn add(&mut self, requests: &mut Requests<L>) {
        let (bytes, added, _) = requests.parts();
        self.outbox.extend_from_slice(bytes);
        bytes.clear();
        let entries = &mut self.entries;
        if entries.len() < added.len() {
            // The few are moved.
            entries.drain(..).rev().for_each(|entry| added.push_front(entry));
            mem::swap(entries, added);
        } else {
            entries.append(added);
        }
    }

    /// Takes back what has not been begun.
    pub fn unload(&mut self) -> Requests<L> {
        let (bytes, entries) = (mem::take(&mut self.outbox), mem::take(&mut self.entries));
        Requests::new(bytes, entries, self.waiters)
    }

    pub fn is_complete(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many calls are not complete.
    pub fn left(&self) -> usize {
        self.entries.len()
    }

    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry<L>> {
        self.entries.iter()
    }

    /// The requests, where the first that is not answered begins, and whose they are from there on.
    pub(super) fn sent_entries(&mut self) -> (&[u8], usize, &mut VecDeque<Entry<L>>) {
        (&self.outbox, self.start, &mut self.entries)
    }

    /// The length of the requests of calls that are not complete.
    pub fn left_bytes(&self) -> usize {
        self.outbox.len() - self.start
    }

    pub fn has_unsent(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Whether the whole of the first request has gone.
    pub fn is_first_sent(&self) -> bool {
        self.entries.front().is_none_or(|entry| self.start + entry.len <= self.sent)
    }

    /// Whether a request that was sent waits for its reply.
    pub fn awaits_reply(&self) -> bool {
        self.sent > self.start
    }

    /// Of those that wait for the answers, whether all report to this queue.
    pub fn waiters(&self) -> Waiters {
        self.waiters
    }

    /// Completes the first call.
    pub fn complete(&mut self, answer: Exchanged<Answer>) {
        if let Some(pending) = self.current.take() {
            let held = pending.held();
            release(pending, held);
        }
        let Some(mut entry) = self.entries.pop_front() else { return };
        let request = self.start..self.start + entry.len;
        self.start = request.end;
        let held = answer.held();
        if held >= LARGE && !entry.is_wanted() {
            return release(answer, held);
        }
        let call = match entry.owner {
            Owner::Thread(waiting) => return waiting.answer(answer),
            Owner::Call(call) => call,
        };
        let failure = match answer {
            Exchanged::Answered { result, .. } => return self.completed.push(call, result),
            Exchanged::Failed(failure) => failure,
        };
        let access = call.access();
        if !failure.sent {
            call.mark_unsent();
        }
        if !call.is_completed() && entry.attempts.allow_another(&failure, access) {
            entry.owner = Owner::Call(call);
            if failure.refused.is_some() {
                self.refusal = Some(failure.error);
            }
            let outbox = mem::take(&mut self.outbox);
            self.try_again(entry, outbox.get(request).unwrap_or_default());
            self.outbox = outbox;
        } else {
            self.completed.push(call, Err(failure.into_error(access)));
        }
    }

    /// Completes the first call with what the server says against it; where an older form of its command may do, that
    /// goes over another link.
    pub fn refuse(&mut self, error: Error) {
        let first = self.entries.front().and_then(|entry| match entry.call() {
            Some(call) if !call.is_completed() => older_form(entry.expect, &error),
            _ => None,
        });
        let Some((expect, request)) = first else {
            let reuse = Reuse::Keep;
            return self.complete(Exchanged::Answered { result: Err(error), reuse });
        };
        self.current = None;
        let Some(mut entry) = self.entries.pop_front() else { return };
        self.start += entry.len;
        if let Some(call) = entry.call() {
            call.mark_unsent();
        }
        (entry.expect, entry.len) = (expect, request.len());
        self.try_again(entry, request);
    }

    /// Has a call go over another link.
    fn try_again(&mut self, entry: Entry<L>, request: &[u8]) {
        if let Err(Entry { owner: Owner::Call(call), .. }) = self.retries.try_push(entry, request) {
            self.completed.push(call, Err(Error::no_memory("memory to try again")));
        }
    }

    /// Fails all that are left, each with an error of its own. Another link would do no better.
    pub fn fail(&mut self, error: impl Fn() -> Error) {
        self.fail_all(false, error);
    }

    /// The same, where another link may do better.
    pub fn fail_lost(&mut self, error: impl Fn() -> Error) {
        self.fail_all(true, error);
    }

    fn fail_all(&mut self, lost: bool, error: impl Fn() -> Error) {
        while !self.is_complete() {
            let sent = self.awaits_reply();
            self.complete(Exchanged::Failed(Failure::new(error(), sent, lost)));
        }
    }

    /// The first call, if nothing of its replies has been taken yet.
    pub fn fresh(&self) -> Option<&Entry<L>> {
        if self.current.is_some() { None } else { self.entries.front() }
    }

    /// How many of the first calls, up to `most`, are asynchronous ones for one value.
    pub fn gets(&self, most: usize) -> usize {
        let is_get = |entry: &&Entry<L>| {
            matches!((&entry.owner, entry.expect), (Owner::Call(_), Expect::Get))
        };
        self.entries.iter().take(most).take_while(is_get).count()
    }

    /// Answers the first call, which is an asynchronous one.
    pub fn answer_call(&mut self, answer: Answer) {
        if let Some(Entry { owner: Owner::Call(call), len, .. }) = self.entries.pop_front() {
            self.start += len;
            self.completed.push(call, Ok(answer));
        }
    }

    /// The replies to the first call. `is_first`: nothing was said over the link so far.
    pub fn pending(&mut self, is_first: bool) -> Option<&mut Pending> {
        if self.current.is_none() {
            self.current = Some(Pending::of_link(self.entries.front()?.expect, is_first));
        }
        self.current.as_mut()
    }

    /// A thread that still waits for an answer in it: the last, who stays longest, or the first where many are woken
    /// with the last. `but`: one that cannot.
    pub fn next_driver(&self, but: Option<&Arc<Waiter<L>>>) -> Option<Waiting<L>> {
        let can = |waiting: &&Waiting<L>| {
            let waiter = &waiting.waiter;
            but.is_none_or(|but| !Arc::ptr_eq(but, waiter)) && !waiter.is_gone()
        };
        let threads = || self.entries.iter().filter_map(Entry::thread);
        let last = threads().rfind(can)?;
        match last.sleeps_on {
            SleepsOn::Own => Some(last.clone()),
            SleepsOn::Batch => threads().find(can).cloned(),
        }
    }

    /// How a thread waits whose call is in it.
    pub fn find(&self, waiter: &Arc<Waiter<L>>) -> Option<&Waiting<L>> {
        let is_its = |waiting: &&Waiting<L>| Arc::ptr_eq(&waiting.waiter, waiter);
        self.entries.iter().filter_map(Entry::thread).rfind(is_its)
    }

    pub fn has_calls(&self) -> bool {
        self.entries.iter().any(|entry| entry.call().is_some())
    }

    /// The latest deadline of its asynchronous calls, which all have the same time and are in the order of their
    /// submission.
    pub fn last_deadline(&self) -> Option<Instant> {
        self.entries.iter().rev().find_map(|entry| Some(entry.call()?.deadline()))
    }
}
