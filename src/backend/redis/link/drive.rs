//! How a link carries out a batch: by a thread that may wait, or step by step by one that may not.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::backend::redis::link::batch::{Batch, Bells, Requests};
use crate::backend::redis::link::connection::{Exchanged, Failure, Link, MOST_UNREAD, refusal};
use crate::backend::redis::link::waiter::Waiter;
use crate::backend::redis::net::stream::Broken;
use crate::backend::redis::node::links::PATIENCE;
use crate::backend::redis::wire::replies::{Outcome, Replies};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::op::Answer;
use crate::value::{HEADER, Value, Values};

/// What is read of one link before others have their turn.
const MOST_AT_ONCE: usize = 1 << 20;
/// How a batch left the link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Driven {
    /// All is completed, and the link may be used again.
    Sound,
    /// All is completed, and the link is of no more use.
    Broken,
    /// The driver's deadline has passed, and others still wait; or, where it does not wait, there is something to wait for.
    Unfinished,
    /// There is more to do at once, when others have had their turn.
    More,
}

impl Link {
    /// Takes a batch over, to be driven next: `requests` is exchanged for what was left of the last one, which is nothing but
    /// memory.
    pub fn load(&mut self, requests: &mut Requests, bells: u8) {
        self.outbox.clear();
        std::mem::swap(&mut self.outbox, &mut requests.bytes);
        std::mem::swap(&mut self.batch.entries, &mut requests.entries);
        self.batch.audience = std::mem::take(&mut requests.audience);
        self.batch.bells = bells;
        self.batch.calls = self.batch.entries.len();
        self.batch.sent = 0;
        self.batch.start = 0;
    }

    /// Adds to a batch, begun or not.
    pub fn add(&mut self, requests: &mut Requests, bells: u8) {
        if self.batch.start > self.outbox.len() / 2 {
            self.outbox.drain(..self.batch.start);
            self.batch.sent -= self.batch.start;
            self.batch.start = 0;
        }
        self.outbox.extend_from_slice(&requests.bytes);
        requests.bytes.clear();
        let entries = &mut self.batch.entries;
        if entries.len() < requests.entries.len() {
            // The few are moved.
            entries.drain(..).rev().for_each(|entry| requests.entries.push_front(entry));
            std::mem::swap(entries, &mut requests.entries);
        } else {
            entries.append(&mut requests.entries);
        }
        self.batch.audience.join(std::mem::take(&mut requests.audience));
        let is_begun = self.batch.sent > 0;
        self.batch.calls = if is_begun { Batch::UNTIMED } else { self.batch.entries.len() };
        self.batch.bells |= bells;
    }

    /// A while will pass until somebody goes on with it.
    pub fn untimed(mut self: Box<Self>) -> Box<Self> {
        self.batch.calls = Batch::UNTIMED;
        self
    }

    /// The length of the requests that are not completed.
    pub fn uncompleted_bytes(&self) -> usize {
        self.outbox.len() - self.batch.start
    }

    /// Takes a batch back that has not been begun.
    pub fn unload(&mut self) -> Requests {
        let (bytes, entries) = (&mut self.outbox, &mut self.batch.entries);
        Requests::new(std::mem::take(bytes), std::mem::take(entries), self.batch.audience)
    }

    /// Carries the batch out, or goes on with it, until all of it is completed or the driver's own deadline passes. `bells` are
    /// rung for what was completed before this sleeps; for the rest it is left to the caller. `driver`: who need not wait much
    /// longer for others once it has its own answer.
    pub fn drive(&mut self, deadline: &Deadline, bells: &Bells, driver: &Waiter) -> Driven {
        if self.batch.sent == 0 {
            self.last_used = deadline.started();
        }
        let result = self.carry_out(deadline, bells, driver);
        self.driven(result)
    }

    pub(in crate::backend::redis) fn driven(&mut self, result: Result<bool, Broken>) -> Driven {
        match result {
            Ok(is_sound) => {
                self.tidy();
                if is_sound { Driven::Sound } else { Driven::Broken }
            }
            Err(Broken::Timeout) => Driven::Unfinished,
            Err(broken) => {
                self.fail(&broken);
                Driven::Broken
            }
        }
    }

    fn carry_out(
        &mut self,
        deadline: &Deadline,
        bells: &Bells,
        driver: &Waiter,
    ) -> Result<bool, Broken> {
        let mut sent = self.batch.sent;
        let result = self.send(&[], deadline, &mut sent);
        self.batch.sent = sent;
        result?;
        loop {
            if let Some(is_sound) = self.take_replies() {
                return Ok(is_sound);
            }
            if deadline.has_passed() {
                return Err(Broken::Timeout);
            }
            let rung = self.batch.bells;
            let mut delivery = std::mem::take(&mut self.batch.uncompleted.delivery);
            let Some(pending) = self.batch.pending() else { return Ok(true) };
            match pending.room(&mut self.inbox) {
                Ok(room) => {
                    let before_sleep = || {
                        bells.ring(rung);
                        delivery.deliver();
                    };
                    let until =
                        if driver.is_completed() { &deadline.at_most(PATIENCE) } else { deadline };
                    self.stream.read(room, until, false, before_sleep)?;
                }
                Err(error) => {
                    self.batch.fail(false, &self.outbox, || error.again());
                    return Ok(false);
                }
            }
        }
    }

    /// Goes on with the batch as far as that goes without waiting. `begun`: when it was begun, where this is the first step.
    pub fn step(&mut self, begun: Option<Instant>) -> Driven {
        if let Some(begun) = begun {
            self.last_used = begun;
        }
        let mut left = MOST_AT_ONCE;
        match self.advance(&mut left) {
            Err(Broken::Timeout) if left == 0 => Driven::More,
            result => self.driven(result),
        }
    }

    /// `Timeout`: there is something to wait for. `left`: how much more may be read.
    fn advance(&mut self, left: &mut usize) -> Result<bool, Broken> {
        let mut sent = self.batch.sent;
        let is_first = sent == self.batch.start;
        let written = self.stream.write(&self.outbox, &[], &mut sent);
        let has_sent = is_first && sent > self.batch.sent;
        self.batch.sent = sent;
        let is_sending = !written?;
        if has_sent && !is_sending && self.inbox.is_empty() {
            // What was sent just now is not answered yet.
            return Err(Broken::Timeout);
        }
        loop {
            if let Some(is_sound) = self.take_replies() {
                return Ok(is_sound);
            }
            if *left == 0 || (is_sending && self.inbox.len() >= MOST_UNREAD) {
                return Err(Broken::Timeout);
            }
            let Some(pending) = self.batch.pending() else { return Ok(true) };
            let room = match pending.room(&mut self.inbox) {
                Ok(room) => room,
                Err(error) => {
                    self.batch.fail(false, &self.outbox, || error.again());
                    return Ok(false);
                }
            };
            match self.stream.receive(room)? {
                Some(count) => *left = left.saturating_sub(count),
                None => return Err(Broken::Timeout),
            }
        }
    }

    pub fn has_unsent(&self) -> bool {
        self.batch.sent < self.outbox.len() || self.stream.has_unsent()
    }

    /// Where to wait for more to do, and for what.
    pub fn waits_for(&mut self) -> (&OwnedFd, PollFlags) {
        let sends = self.has_unsent();
        let reads = !sends || self.inbox.len() < MOST_UNREAD;
        let flag = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let events = flag(sends, PollFlags::OUT) | flag(reads, PollFlags::IN);
        (self.stream.descriptor(), events)
    }

    /// Gives out what has arrived; once nothing is left to wait for, whether the link is sound.
    fn take_replies(&mut self) -> Option<bool> {
        loop {
            if self.batch.start > self.batch.sent {
                // What is not sent yet was answered: from here on nobody knows what an answer is to.
                self.batch.fail(true, &self.outbox, || Error::protocol("an answer to no call"));
                return Some(false);
            }
            let is_begun = self.batch.current.is_some();
            if !is_begun && self.batch.gets(2) == 2 && !self.inbox.is_empty() && self.take_values()
            {
                continue;
            }
            let Some(entry) = self.batch.entries.front() else { break };
            if self.inbox.is_empty() && !is_begun {
                return None;
            }
            if !is_begun && let Some(answer) = entry.expect.quick(&mut self.inbox) {
                self.complete(Exchanged::Answered { result: Ok(answer), link_is_sound: true });
                continue;
            }
            let Some(pending) = self.batch.pending() else { break };
            match pending.advance(&mut self.inbox) {
                Ok(None) => return None,
                Ok(Some(Outcome { result, link_is_sound })) => {
                    if let Some(error) = refusal(&result) {
                        // Nothing of what was sent behind it was looked at either.
                        let Failure { error, sent, lost } = self.turned_away(error);
                        while !self.batch.entries.is_empty() {
                            let failure = Failure { error: error.again(), sent, lost };
                            self.complete(Exchanged::Failed(failure));
                        }
                        return Some(false);
                    }
                    self.complete(Exchanged::Answered { result, link_is_sound: true });
                    if !link_is_sound {
                        let error =
                            || Error::protocol("an answer to another call was out of order");
                        self.batch.fail(true, &self.outbox, error);
                        return Some(false);
                    }
                }
                Err(error) => {
                    let failure = Failure { error: error.again(), sent: true, lost: false };
                    self.complete(Exchanged::Failed(failure));
                    self.batch.fail(true, &self.outbox, || error.again());
                    return Some(false);
                }
            }
        }
        Some(self.inbox.is_empty())
    }

    /// Answers asynchronous calls, each of which waits for one value, as far as short values have arrived; whether that was
    /// any. The values share their memory: few, for one that is kept for long keeps the others' too.
    fn take_values(&mut self) -> bool {
        const FEW: usize = 16;
        let count = self.batch.gets(FEW);
        let values = self.inbox.short_values(count, &mut self.spans);
        let spans = self.spans.get(Values::RESERVED_SPANS..).unwrap_or_default();
        if spans.is_empty() {
            return false;
        }
        let of = Arc::new(values);
        for span in spans {
            let answer = match span.at.checked_add(HEADER) {
                None => Answer::NotFound,
                Some(at) => Answer::Value(Value::Part {
                    of: Arc::clone(&of),
                    at: at as u32,
                    len: span.len as u32,
                }),
            };
            self.batch.answer_call(answer);
        }
        true
    }

    fn complete(&mut self, answer: Exchanged<Answer>) {
        self.batch.complete(answer, &self.outbox);
    }

    /// Fails what is left of the batch.
    pub fn fail_all(&mut self, lost: bool, error: impl Fn() -> Error) {
        self.batch.fail(lost, &self.outbox, error);
    }

    /// The connection broke under the batch. What the server has answered before is answered.
    fn fail(&mut self, broken: &Broken) {
        while self.take_replies().is_none() {
            let Some(pending) = self.batch.pending() else { break };
            let Ok(room) = pending.room(&mut self.inbox) else { break };
            if !matches!(self.stream.receive(room), Ok(Some(_))) {
                break;
            }
        }
        let doing = if self.batch.sent < self.outbox.len() {
            "sending the request"
        } else {
            "waiting for the reply"
        };
        let refused = matches!(broken, Broken::Tls { refused: true, .. });
        if refused {
            self.batch.sent = 0;
        }
        let peer = &self.peer;
        let lost = matches!(broken, Broken::Closed | Broken::Io(_));
        self.batch.fail(lost, &self.outbox, || broken.again().into_error(doing, peer));
    }
}
