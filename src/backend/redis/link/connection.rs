//! One connection. It carries out one call, or one batch of calls, at a time.

use std::time::{Duration, Instant};

use crate::backend::redis::link::batch::Batch;
use crate::backend::redis::net::stream::{Broken, Stream};
use crate::backend::redis::wire::command::{encode, encode_short};
use crate::backend::redis::wire::decode::{Decoder, Inbox, Reply, Want};
use crate::backend::redis::wire::encode::{Loose, Outbox, SHORT, command};
use crate::backend::redis::wire::handshake::Handshake;
use crate::backend::redis::wire::replies::{
    Expect, Outcome, Pending, Replies, kind_of, quick, server_error,
};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Answer, Op};
use crate::value::Span;

/// A request buffer above this is given back after the call.
const KEEP: usize = 1 << 20;
/// What may arrive while a request is still being sent. More than the replies to the largest sensible transaction.
pub(in crate::backend::redis) const MOST_UNREAD: usize = 16 << 20;

pub struct Link {
    pub(in crate::backend::redis) stream: Stream,
    pub(in crate::backend::redis) outbox: Vec<u8>,
    /// In its place for a request that is short.
    short: [u8; SHORT],
    pub(in crate::backend::redis) inbox: Inbox,
    pub(in crate::backend::redis) peer: String,
    /// When its last call began.
    pub(in crate::backend::redis) last_used: Instant,
    /// The calls of several threads that one of them carries out, when that is what it is used for.
    pub batch: Batch,
    /// Memory for where the values are that came together.
    pub(in crate::backend::redis) spans: Vec<Span>,
    /// What [`crate::backend::redis::node::links::Links`] keeps with it.
    pub turn: Turn,
}

/// Where a link stands among the others of its cache.
#[derive(Default)]
pub struct Turn {
    /// The round in which it was taken: see [`super::links`].
    pub round: u64,
    pub calls: u32,
    /// What the server said as it turned the connection away.
    pub refused: Option<Error>,
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
    /// Whether the call may go over another link, after the first that broke: what was not sent, and a read. Where the server
    /// had no room for a link, over one that is there, however often.
    pub fn may_be_tried_again(&self, is_read: bool, second: bool) -> bool {
        self.lost && (self.is_refusal() || !second && (is_read || !self.sent))
    }

    /// Whether the server had no room for the connection.
    pub fn is_refusal(&self) -> bool {
        matches!(self.error.kind, Kind::Full { .. })
    }

    /// What the caller is told.
    pub fn into_error(self, is_read: bool) -> Error {
        if self.sent && !is_read { self.error.maybe_applied() } else { self.error }
    }
}

/// Of a connection that is of no use, though nothing broke.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, sent: false, lost: false }
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

/// The server says this once and closes the connection.
pub(in crate::backend::redis) fn refusal<T>(result: &Result<T>) -> Option<&Error> {
    result.as_ref().err().filter(|error| matches!(error.kind, Kind::Full { .. }))
}

impl Link {
    /// Introduces this client to the server. Nothing else is sent before all of it was accepted.
    pub fn new(
        stream: Stream,
        peer: String,
        handshake: &Handshake,
        deadline: &Deadline,
    ) -> Result<Self, Failure> {
        let mut link = Self {
            stream,
            outbox: Vec::new(),
            short: [0; SHORT],
            inbox: Inbox::new(),
            peer,
            last_used: deadline.started(),
            batch: Batch::default(),
            spans: Vec::new(),
            turn: Turn::default(),
        };
        if !handshake.is_empty() {
            link.outbox.extend_from_slice(handshake.bytes());
            link.greet(handshake, deadline)?;
        }
        Ok(link)
    }

    fn greet(&mut self, handshake: &Handshake, deadline: &Deadline) -> Result<(), Failure> {
        let mut sent = 0;
        if let Err(broken) = self.send(&[], deadline, &mut sent) {
            let last_words = self.last_words();
            let last_words = last_words.map(|text| kind_of(&text)(handshake.censor(&text)));
            return Err(last_words.map_or_else(|| self.unmet(broken), Failure::from));
        }
        for step in handshake.steps() {
            let mut decoder = Decoder::new(Want::Tree);
            let reply = loop {
                if let Some(reply) = decoder.advance(&mut self.inbox)? {
                    break reply;
                }
                let room = decoder.room(&mut self.inbox)?;
                let read = self.stream.read(room, deadline, false, || {});
                read.map_err(|broken| self.unmet(broken))?;
                if deadline.has_passed() {
                    return Err(self.unmet(Broken::Timeout));
                }
            };
            step.check(reply, handshake)?;
        }
        // What is left would be taken for the answer to the first call.
        let more = self.stream.receive(self.inbox.room(0)?);
        match more.map_err(|broken| self.unmet(broken))? {
            None if self.inbox.is_empty() => Ok(()),
            _ => Err(Error::protocol("more answers than questions").into()),
        }
    }

    /// The connection broke in the handshake. Nothing else was sent, so it is one that could not be made.
    fn unmet(&self, broken: Broken) -> Failure {
        const DOING: &str = "introducing this client to the server";
        let lost = matches!(broken, Broken::Closed | Broken::Io(_));
        let mut error = broken.into_error(DOING, &self.peer);
        if lost {
            error =
                Kind::Connect { peer: self.peer.clone(), reason: error.to_string().into() }.into();
        }
        Failure { error, sent: false, lost }
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
        let answer = match self.ask(None, &loose, deadline, at_once) {
            Ok(()) => quick(&mut self.inbox).ok_or(Missed::Reply),
            Err(missed) => Err(missed),
        };
        let exchanged = match answer {
            Ok(answer) => {
                Exchanged::Answered { result: Ok(answer), link_is_sound: self.inbox.is_empty() }
            }
            Err(missed) => self.unusual(missed, replies(), *deadline),
        };
        self.tidy();
        exchanged
    }

    /// The same for a small operation with the usual answer, after which the link is sound; `None`: whatever else it came to is
    /// put into `other`, so that what is usual is handed on by itself.
    #[inline(always)]
    pub fn call_small(
        &mut self,
        op: &Op<'_>,
        prefix: &[u8],
        deadline: &Deadline,
        at_once: bool,
        other: &mut Option<Exchanged<Answer>>,
    ) -> Option<Answer> {
        let short = encode_short(op, prefix, &mut self.short);
        if short.is_none()
            && let Err(error) = self.encode_long(*op, prefix)
        {
            *other = Some(Exchanged::Answered { result: Err(error), link_is_sound: true });
            return None;
        }
        self.last_used = deadline.started();
        self.batch.calls = 1;
        let missed = match self.ask(short, &[], deadline, at_once) {
            Ok(()) => match quick(op, &mut self.inbox) {
                Some(answer) if self.inbox.is_empty() => return Some(answer),
                Some(answer) => {
                    *other = Some(Exchanged::Answered { result: Ok(answer), link_is_sound: false });
                    return None;
                }
                None => Missed::Reply,
            },
            Err(missed) => missed,
        };
        *other = Some(self.unusual(missed, Pending::new(Expect::new(op)), *deadline));
        self.tidy();
        None
    }

    #[cold]
    #[inline(never)]
    fn encode_long(&mut self, op: Op<'_>, prefix: &[u8]) -> Result<()> {
        self.outbox.clear();
        encode(&op, prefix, &mut Outbox { bytes: &mut self.outbox, loose: None })
    }

    /// An idle link may stay idle for long.
    pub(in crate::backend::redis) fn tidy(&mut self) {
        if self.outbox.capacity() > KEEP {
            self.outbox = Vec::new();
        }
        self.inbox.tidy();
    }

    /// Sends the outbox, or so much of what is short, and reads once: the usual course, after which the reply may be all there.
    #[inline(always)]
    fn ask(
        &mut self,
        short: Option<usize>,
        loose: &[Loose<'_>],
        deadline: &Deadline,
        at_once: bool,
    ) -> Result<(), Missed> {
        let mut sent = 0;
        let gone = match short {
            Some(len) => self.send_short(len, deadline, &mut sent),
            None => self.send(loose, deadline, &mut sent),
        };
        match gone {
            Ok(true) if at_once && self.inbox.is_empty() => {}
            Ok(_) => return Err(Missed::Reply),
            Err(broken) => return Err(Missed::Send { broken, sent: sent > 0 }),
        }
        let room = self.inbox.room(0).map_err(Missed::Room)?;
        // Nothing has been waited for since the deadline was set, so the socket's own patience is the same bound, and what comes
        // within it comes in time.
        self.stream.read(room, deadline, true, || {}).map_err(Missed::Read)
    }

    /// Goes on where the usual course was left.
    #[cold]
    #[inline(never)]
    fn unusual<R: Replies>(
        &mut self,
        missed: Missed,
        replies: R,
        deadline: Deadline,
    ) -> Exchanged<R::Output> {
        match missed {
            Missed::Send { broken, sent } => self.not_sent(broken, sent, replies.is_single()),
            Missed::Room(error) => self.failed(error, true, false),
            Missed::Read(broken) => self.broke(broken, "waiting for the reply", true),
            Missed::Reply => self.wait_for(replies, &deadline),
        }
    }

    fn wait_for<R: Replies>(
        &mut self,
        mut replies: R,
        deadline: &Deadline,
    ) -> Exchanged<R::Output> {
        let mut has_begun = !self.inbox.is_empty();
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
            let read = match has_begun {
                true => self.stream.read_on(room, *deadline),
                false => self.stream.read(room, deadline, false, || {}),
            };
            has_begun = true;
            if let Err(broken) = read {
                return self.broke(broken, "waiting for the reply", true);
            }
        }
    }

    fn answered<T>(&mut self, outcome: Outcome<T>) -> Exchanged<T> {
        let Outcome { result, link_is_sound } = outcome;
        if let Some(error) = refusal(&result) {
            return Exchanged::Failed(self.turned_away(error));
        }
        Exchanged::Answered { result, link_is_sound: link_is_sound && self.inbox.is_empty() }
    }

    /// The server has looked at nothing that was sent, for it had no room for the connection. Said on one that had been in use
    /// before, it may mean anything, and is no reason to send the call again.
    pub(in crate::backend::redis) fn turned_away(&mut self, error: &Error) -> Failure {
        let is_new = self.turn.calls == 0 && self.batch.start == 0;
        if is_new {
            self.turn.refused = Some(error.again());
        }
        Failure { error: error.again(), sent: false, lost: is_new }
    }

    /// Sends the outbox; whether it all went without waiting.
    #[inline(always)]
    pub(in crate::backend::redis) fn send(
        &mut self,
        loose: &[Loose<'_>],
        deadline: &Deadline,
        sent: &mut usize,
    ) -> Result<bool, Broken> {
        if self.stream.write(&self.outbox, loose, sent)? {
            return Ok(true);
        }
        self.send_rest(loose, *deadline, sent).map(|()| false)
    }

    #[inline(always)]
    fn send_short(
        &mut self,
        len: usize,
        deadline: &Deadline,
        sent: &mut usize,
    ) -> Result<bool, Broken> {
        if self.stream.write(&self.short[..len], &[], sent)? {
            return Ok(true);
        }
        self.outbox.clear();
        self.outbox.extend_from_slice(&self.short[..len]);
        self.send_rest(&[], *deadline, sent).map(|()| false)
    }

    /// Sends what there was no room for. What arrives meanwhile is taken in, so that a server that answers before it has read
    /// everything is not kept waiting in turn.
    #[cold]
    fn send_rest(
        &mut self,
        loose: &[Loose<'_>],
        deadline: Deadline,
        sent: &mut usize,
    ) -> Result<(), Broken> {
        loop {
            let takes_in = self.inbox.len() < MOST_UNREAD;
            self.stream.wait_to_write(takes_in, &deadline)?;
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

    /// The connection broke while sending. The server may have said why before it closed it.
    fn not_sent<T>(&mut self, broken: Broken, sent: bool, is_single: bool) -> Exchanged<T> {
        if let Broken::Closed | Broken::Io(_) = broken
            && let Some(text) = self.last_words()
        {
            let error = server_error(text);
            return match error.kind {
                Kind::Full { .. } => Exchanged::Failed(self.turned_away(&error)),
                _ => self.failed(error, sent && !is_single, false),
            };
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
