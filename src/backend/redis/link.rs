//! One connection. It carries out one call, or one batch of calls, at a time.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::batch::{Batch, Bells, Requests};
use super::command::{Expect, Outcome, Pending, Replies, encode, kind_of, quick, server_error};
use super::decode::{Decoder, Inbox, Reply, Want};
use super::encode::{Loose, Outbox, command};
use super::handshake::Handshake;
use super::stream::{Broken, Stream};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Answer, Op};

/// A request buffer above this is given back after the call.
const KEEP: usize = 1 << 20;
/// What is read of one link before others have their turn.
const MOST_AT_ONCE: usize = 1 << 20;
/// What may arrive while a request is still being sent. More than the replies to the largest sensible transaction.
const MOST_UNREAD: usize = 16 << 20;

pub struct Link {
    stream: Stream,
    outbox: Vec<u8>,
    inbox: Inbox,
    peer: String,
    /// When its last call began.
    last_used: Instant,
    /// The calls of several threads that one of them carries out, when that is what it is used for.
    pub batch: Batch,
    /// What [`super::links::Links`] keeps with it.
    pub turn: Turn,
}

/// Where a link stands among the others of its cache.
#[derive(Default)]
pub struct Turn {
    /// The round in which it was taken: see [`super::links`].
    pub round: u64,
    pub calls: u32,
}

/// A call that the link did not carry out.
pub struct Failure {
    pub error: Error,
    /// Some of the request may have reached the server.
    pub sent: bool,
    /// The connection is gone, so that another one may do better.
    pub lost: bool,
}

impl Failure {
    /// Whether the call may go over another link, after the first that broke: what was not sent, and a read.
    pub fn may_be_tried_again(&self, is_read: bool, second: bool) -> bool {
        self.lost && !second && (is_read || !self.sent)
    }

    /// What the caller is told.
    pub fn into_error(self, is_read: bool) -> Error {
        if self.sent && !is_read { self.error.maybe_applied() } else { self.error }
    }
}

/// How a call left the link.
pub enum Exchanged<T> {
    /// The server has answered, though perhaps with an error.
    Answered {
        result: Result<T>,
        link_is_sound: bool,
    },
    Failed(Failure),
}

/// Where a call left the usual course.
enum Missed {
    /// `sent`: some of the request.
    Send {
        broken: Broken,
        sent: bool,
    },
    Room(Error),
    Read(Broken),
    /// All is sent, and the reply is to be waited for, or not the usual one.
    Reply,
}

/// How a batch left the link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Driven {
    /// All is decided, and the link may be used again.
    Sound,
    /// All is decided, and the link is of no more use.
    Broken,
    /// The driver's deadline has passed, and others still wait; or, where it does not wait, there is something to wait for.
    Unfinished,
    /// There is more to do at once, when others have had their turn.
    More,
}

/// The server says this once and closes the connection.
fn is_refusal<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error { kind: Kind::Connect { .. }, .. }))
}

impl Link {
    /// Introduces this client to the server. Nothing else is sent before all of it was accepted.
    pub fn new(
        stream: Stream,
        peer: String,
        handshake: &Handshake,
        deadline: &Deadline,
    ) -> Result<Self> {
        let mut link = Self {
            stream,
            outbox: Vec::new(),
            inbox: Inbox::new(),
            peer,
            last_used: deadline.started(),
            batch: Batch::default(),
            turn: Turn::default(),
        };
        if !handshake.is_empty() {
            link.outbox.extend_from_slice(handshake.bytes());
            link.greet(handshake, deadline)?;
        }
        Ok(link)
    }

    fn greet(&mut self, handshake: &Handshake, deadline: &Deadline) -> Result<()> {
        const DOING: &str = "introducing this client to the server";
        let failed = |broken: Broken, peer: &str| match broken {
            Broken::Timeout | Broken::Tls { .. } => broken.into_error(DOING, peer),
            // Nothing but the handshake was sent: this is a connection that could not be made.
            other => {
                let reason = other.into_error(DOING, peer).to_string().into();
                Kind::Connect { peer: peer.into(), reason }.into()
            }
        };
        let mut sent = 0;
        if let Err(broken) = self.send(&[], deadline, &mut sent) {
            let last_words = self.last_words();
            let last_words = last_words.map(|text| kind_of(&text)(handshake.censor(&text)));
            return Err(last_words.unwrap_or_else(|| failed(broken, &self.peer)));
        }
        for step in handshake.steps() {
            let mut decoder = Decoder::new(Want::Tree);
            let reply = loop {
                if let Some(reply) = decoder.advance(&mut self.inbox)? {
                    break reply;
                }
                let room = decoder.room(&mut self.inbox)?;
                let read = self.stream.read(room, deadline, false, || {});
                read.map_err(|broken| failed(broken, &self.peer))?;
                if deadline.has_passed() {
                    return Err(failed(Broken::Timeout, &self.peer));
                }
            };
            step.check(reply, handshake)?;
        }
        // What is left would be taken for the answer to the first call.
        let more = self.stream.receive(self.inbox.room(0)?);
        match more.map_err(|broken| failed(broken, &self.peer))? {
            None if self.inbox.is_empty() => Ok(()),
            _ => Err(Error::protocol("more answers than questions")),
        }
    }

    /// Whether its last call began within `span` before that time.
    #[inline]
    pub fn was_used_within(&self, span: Duration, now: Instant) -> bool {
        self.last_used + span > now
    }

    /// How long it had not been used at that time.
    pub fn idle_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_used)
    }

    /// Whether it pays to spin for its replies.
    #[inline]
    pub fn spins(&self) -> bool {
        self.stream.spins()
    }

    /// It has just shown that it is there.
    pub fn touch(&mut self, now: Instant) {
        self.last_used = now;
    }

    /// Whether it is still there, as far as this machine knows.
    pub fn is_sound(&mut self) -> bool {
        self.stream.is_sound()
    }

    /// Asks PING; any answer means alive.
    pub fn answers(&mut self, deadline: &Deadline) -> bool {
        self.outbox.clear();
        command(&mut self.outbox, b"PING", 0);
        if self.send(&[], deadline, &mut 0).is_err() {
            return false;
        }
        let mut decoder = Decoder::new(Want::Tree);
        loop {
            match decoder.advance(&mut self.inbox) {
                Ok(Some(_)) => return self.inbox.is_empty(),
                Ok(None) => {}
                Err(_) => return false,
            }
            let Ok(room) = decoder.room(&mut self.inbox) else { return false };
            if self.stream.read(room, deadline, false, || {}).is_err() || deadline.has_passed() {
                return false;
            }
        }
    }

    /// Sends what `encode` writes, and reads what `replies` waits for. `quick` takes the reply where it is the usual one and has
    /// arrived whole. `at_once`: nothing has been waited for since the deadline was set.
    pub fn call<'a, R: Replies>(
        &mut self,
        encode: impl FnOnce(&mut Outbox<'_, 'a>) -> Result<()>,
        quick: impl FnOnce(&mut Inbox) -> Option<R::Output>,
        replies: impl FnOnce() -> R,
        deadline: &Deadline,
        at_once: bool,
    ) -> Exchanged<R::Output> {
        self.outbox.clear();
        let mut loose = Vec::new();
        if let Err(error) = encode(&mut Outbox { bytes: &mut self.outbox, loose: Some(&mut loose) })
        {
            return Exchanged::Answered { result: Err(error), link_is_sound: true };
        }
        self.last_used = deadline.started();
        self.batch.calls = 1;
        let answer = match self.ask(&loose, deadline, at_once) {
            Ok(()) => quick(&mut self.inbox).ok_or(Missed::Reply),
            Err(missed) => Err(missed),
        };
        let exchanged = match answer {
            Ok(answer) => {
                Exchanged::Answered { result: Ok(answer), link_is_sound: self.inbox.is_empty() }
            }
            Err(missed) => self.unusual(missed, replies(), deadline),
        };
        self.tidy();
        exchanged
    }

    /// The same for a small operation with the usual answer, after which the link is sound; `Err`: whatever else it came to.
    #[inline(always)]
    pub fn call_small(
        &mut self,
        op: &Op<'_>,
        prefix: &[u8],
        deadline: &Deadline,
        at_once: bool,
    ) -> Result<Answer, Exchanged<Answer>> {
        self.outbox.clear();
        if let Err(error) = encode(op, prefix, &mut Outbox { bytes: &mut self.outbox, loose: None })
        {
            return Err(Exchanged::Answered { result: Err(error), link_is_sound: true });
        }
        self.last_used = deadline.started();
        self.batch.calls = 1;
        let missed = match self.ask(&[], deadline, at_once) {
            Ok(()) => match quick(op, &mut self.inbox) {
                Some(answer) if self.inbox.is_empty() => return Ok(answer),
                Some(answer) => {
                    return Err(Exchanged::Answered { result: Ok(answer), link_is_sound: false });
                }
                None => Missed::Reply,
            },
            Err(missed) => missed,
        };
        let exchanged = self.unusual(missed, Pending::new(Expect::new(op)), deadline);
        self.tidy();
        Err(exchanged)
    }

    /// An idle link may stay idle for long.
    fn tidy(&mut self) {
        if self.outbox.capacity() > KEEP {
            self.outbox = Vec::new();
        }
        self.inbox.tidy();
    }

    /// Sends the outbox and reads once: the usual course, after which the reply may be all there.
    #[inline(always)]
    fn ask(
        &mut self,
        loose: &[Loose<'_>],
        deadline: &Deadline,
        at_once: bool,
    ) -> Result<(), Missed> {
        let mut sent = 0;
        // If nothing has been waited for since the deadline was set, the socket's own patience is the same bound.
        let fresh = match self.send(loose, deadline, &mut sent) {
            Ok(sent_at_once) => at_once && sent_at_once,
            Err(broken) => return Err(Missed::Send { broken, sent: sent > 0 }),
        };
        if !self.inbox.is_empty() {
            return Err(Missed::Reply);
        }
        let room = self.inbox.room(0).map_err(Missed::Room)?;
        self.stream.read(room, deadline, fresh, || {}).map_err(Missed::Read)?;
        // What came within the socket's patience came in time.
        if fresh || !deadline.has_passed() { Ok(()) } else { Err(Missed::Reply) }
    }

    /// Goes on where the usual course was left.
    #[inline(never)]
    fn unusual<R: Replies>(
        &mut self,
        missed: Missed,
        replies: R,
        deadline: &Deadline,
    ) -> Exchanged<R::Output> {
        match missed {
            Missed::Send { broken, sent } => self.not_sent(broken, sent, replies.is_single()),
            Missed::Room(error) => self.failed(error, true, false),
            Missed::Read(broken) => self.broke(broken, "waiting for the reply", true),
            Missed::Reply => self.wait_for(replies, deadline),
        }
    }

    fn wait_for<R: Replies>(
        &mut self,
        mut replies: R,
        deadline: &Deadline,
    ) -> Exchanged<R::Output> {
        loop {
            match replies.advance(&mut self.inbox) {
                Ok(Some(outcome)) => return self.answered(outcome),
                Ok(None) => {}
                Err(error) => return self.failed(error, true, false),
            }
            if deadline.has_passed() {
                return self.broke(Broken::Timeout, "reading the reply", true);
            }
            let room = match replies.room(&mut self.inbox) {
                Ok(room) => room,
                Err(error) => return self.failed(error, true, false),
            };
            if let Err(broken) = self.stream.read(room, deadline, false, || {}) {
                return self.broke(broken, "waiting for the reply", true);
            }
        }
    }

    fn answered<T>(&self, outcome: Outcome<T>) -> Exchanged<T> {
        let Outcome { result, link_is_sound } = outcome;
        let link_is_sound = link_is_sound && !is_refusal(&result) && self.inbox.is_empty();
        Exchanged::Answered { result, link_is_sound }
    }

    /// Sends the outbox; whether it all went without waiting.
    #[inline(always)]
    fn send(
        &mut self,
        loose: &[Loose<'_>],
        deadline: &Deadline,
        sent: &mut usize,
    ) -> Result<bool, Broken> {
        if self.stream.write(&self.outbox, loose, sent)? {
            return Ok(true);
        }
        self.send_rest(loose, deadline, sent).map(|()| false)
    }

    /// Sends what there was no room for. What arrives meanwhile is taken in, so that a server that answers before it has read
    /// everything is not kept waiting in turn.
    fn send_rest(
        &mut self,
        loose: &[Loose<'_>],
        deadline: &Deadline,
        sent: &mut usize,
    ) -> Result<(), Broken> {
        loop {
            let takes_in = self.inbox.len() < MOST_UNREAD;
            self.stream.wait_to_write(takes_in, deadline)?;
            if takes_in && let Ok(room) = self.inbox.room(0) {
                self.stream.receive(room)?;
            }
            if deadline.has_passed() {
                return Err(Broken::Timeout);
            }
            if self.stream.write(&self.outbox, loose, sent)? {
                return Ok(());
            }
        }
    }

    /// Takes a batch over, to be driven next: `requests` is exchanged for what was left of the last one, which is nothing but
    /// memory.
    pub fn load(&mut self, requests: &mut Requests, bells: u8) {
        self.outbox.clear();
        std::mem::swap(&mut self.outbox, &mut requests.bytes);
        std::mem::swap(&mut self.batch.entries, &mut requests.entries);
        self.batch.bells = bells;
        self.batch.calls = self.batch.entries.len();
        self.batch.sent = 0;
        self.batch.start = 0;
    }

    /// Adds to a batch that has not been begun.
    pub fn add(&mut self, requests: &mut Requests, bells: u8) {
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
        self.batch.calls = self.batch.entries.len();
        self.batch.bells |= bells;
    }

    /// Takes a batch back that has not been begun.
    pub fn unload(&mut self) -> Requests {
        Requests::new(std::mem::take(&mut self.outbox), std::mem::take(&mut self.batch.entries))
    }

    /// Carries the batch out, or goes on with it, until all of it is decided or the driver's own deadline passes. `bells` are
    /// rung for what was decided before this sleeps; for the rest it is left to the caller.
    pub fn drive(&mut self, deadline: &Deadline, bells: &Bells) -> Driven {
        if self.batch.sent == 0 {
            self.last_used = deadline.started();
        }
        let result = self.carry_out(deadline, bells);
        self.driven(result)
    }

    fn driven(&mut self, result: Result<bool, Broken>) -> Driven {
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

    fn carry_out(&mut self, deadline: &Deadline, bells: &Bells) -> Result<bool, Broken> {
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
            let mut delivery = std::mem::take(&mut self.batch.undecided.delivery);
            let Some(pending) = self.batch.pending() else { return Ok(true) };
            match pending.room(&mut self.inbox) {
                Ok(room) => {
                    let before_sleep = || {
                        bells.ring(rung);
                        delivery.deliver();
                    };
                    self.stream.read(room, deadline, false, before_sleep)?;
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
        let written = self.stream.write(&self.outbox, &[], &mut sent);
        let has_sent = sent > self.batch.sent;
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

    /// Where to wait for more to do, and for what.
    pub fn waits_for(&mut self) -> (&OwnedFd, PollFlags) {
        let sends = self.batch.sent < self.outbox.len() || self.stream.has_unsent();
        let reads = !sends || self.inbox.len() < MOST_UNREAD;
        let flag = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let events = flag(sends, PollFlags::OUT) | flag(reads, PollFlags::IN);
        (self.stream.descriptor(), events)
    }

    /// Gives out what has arrived; once nothing is left to wait for, whether the link is sound.
    fn take_replies(&mut self) -> Option<bool> {
        while let Some(entry) = self.batch.entries.front() {
            let is_begun = self.batch.current.is_some();
            if self.inbox.is_empty() && !is_begun {
                return None;
            }
            if !is_begun && let Some(answer) = entry.expect.quick(&mut self.inbox) {
                self.decide(Exchanged::Answered { result: Ok(answer), link_is_sound: true });
                continue;
            }
            let Some(pending) = self.batch.pending() else { break };
            match pending.advance(&mut self.inbox) {
                Ok(None) => return None,
                Ok(Some(Outcome { result, link_is_sound })) => {
                    let refused = is_refusal(&result);
                    let words =
                        if refused { result.as_ref().err().map(Error::again) } else { None };
                    self.decide(Exchanged::Answered { result, link_is_sound: true });
                    if let Some(words) = words {
                        // Nothing of what was sent behind it was looked at either.
                        while !self.batch.entries.is_empty() {
                            let result = Err(words.again());
                            self.decide(Exchanged::Answered { result, link_is_sound: true });
                        }
                        return Some(false);
                    }
                    if !link_is_sound {
                        let error =
                            || Error::protocol("an answer to another call was out of order");
                        self.batch.fail(true, &self.outbox, error);
                        return Some(false);
                    }
                }
                Err(error) => {
                    let failure = Failure { error: error.again(), sent: true, lost: false };
                    self.decide(Exchanged::Failed(failure));
                    self.batch.fail(true, &self.outbox, || error.again());
                    return Some(false);
                }
            }
        }
        Some(self.inbox.is_empty())
    }

    fn decide(&mut self, answer: Exchanged<Answer>) {
        self.batch.decide(answer, &self.outbox);
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

    /// The connection broke while sending. The server may have said why before it closed it.
    fn not_sent<T>(&mut self, broken: Broken, sent: bool, is_single: bool) -> Exchanged<T> {
        if let Broken::Closed | Broken::Io(_) = broken
            && let Some(text) = self.last_words()
        {
            return self.failed(server_error(text), sent && !is_single, false);
        }
        self.broke(broken, "sending the request", sent)
    }

    /// An error that the server sent before it closed the connection.
    fn last_words(&mut self) -> Option<String> {
        let mut decoder = Decoder::new(Want::Plain);
        loop {
            match decoder.advance(&mut self.inbox) {
                Ok(Some(Reply::Error(text))) => return Some(text),
                Ok(None) => {}
                _ => return None,
            }
            let room = decoder.room(&mut self.inbox).ok()?;
            self.stream.receive(room).ok()??;
        }
    }

    fn broke<T>(&self, broken: Broken, doing: &'static str, sent: bool) -> Exchanged<T> {
        let lost = matches!(broken, Broken::Closed | Broken::Io(_));
        let sent = sent && !matches!(broken, Broken::Tls { refused: true, .. });
        self.failed(broken.into_error(doing, &self.peer), sent, lost)
    }

    fn failed<T>(&self, error: Error, sent: bool, lost: bool) -> Exchanged<T> {
        Exchanged::Failed(Failure { error, sent, lost })
    }
}
