//! One connection. It serves one caller at a time.

use std::time::{Duration, Instant};

use super::command::{Outcome, Replies, kind_of, server_error};
use super::decode::{Decoder, Inbox, Reply, Want};
use super::encode::command;
use super::handshake::Handshake;
use super::stream::{Broken, Stream};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};

/// A request buffer above this is given back after the call.
const KEEP: usize = 1 << 20;
/// What may arrive while a request is still being sent. More than the replies to the largest sensible transaction.
const MOST_UNREAD: usize = 16 << 20;

pub struct Link {
    stream: Stream,
    outbox: Vec<u8>,
    inbox: Inbox,
    peer: String,
    /// When its last call began.
    last_used: Instant,
}

/// A call that the link did not carry out.
pub struct Failure {
    pub error: Error,
    /// Some of the request may have reached the server.
    pub sent: bool,
    /// The connection is gone, so that another one may do better.
    pub lost: bool,
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
        if let Err(broken) = self.send(deadline, &mut sent) {
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
                let read = self.stream.read(room, deadline, false);
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

    /// How long it had not been used at that time.
    pub fn idle_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_used)
    }

    /// Whether it is still there, as far as this machine knows.
    pub fn is_sound(&mut self) -> bool {
        self.stream.is_sound()
    }

    /// Asks PING; any answer means alive.
    pub fn answers(&mut self, deadline: &Deadline) -> bool {
        self.outbox.clear();
        command(&mut self.outbox, b"PING", 0);
        if self.send(deadline, &mut 0).is_err() {
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
            if self.stream.read(room, deadline, false).is_err() || deadline.has_passed() {
                return false;
            }
        }
    }

    /// Sends what `encode` writes, and reads what `replies` waits for. `at_once`: nothing has been waited for since the deadline
    /// was set.
    pub fn call<R: Replies>(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        replies: R,
        deadline: &Deadline,
        at_once: bool,
    ) -> Exchanged<R::Output> {
        self.outbox.clear();
        if let Err(error) = encode(&mut self.outbox) {
            return Exchanged::Answered { result: Err(error), link_is_sound: true };
        }
        self.last_used = deadline.started();
        let exchanged = self.exchange(replies, deadline, at_once);
        // An idle link may stay idle for long.
        if self.outbox.capacity() > KEEP {
            self.outbox = Vec::new();
        }
        self.inbox.tidy();
        exchanged
    }

    fn exchange<R: Replies>(
        &mut self,
        mut replies: R,
        deadline: &Deadline,
        at_once: bool,
    ) -> Exchanged<R::Output> {
        let mut sent = 0;
        // If nothing has been waited for since the deadline was set, the socket's own patience is the same bound.
        let mut fresh = match self.send(deadline, &mut sent) {
            Ok(sent_at_once) => at_once && sent_at_once,
            Err(broken) => return self.not_sent(broken, sent > 0, replies.is_single()),
        };
        loop {
            match replies.advance(&mut self.inbox) {
                Ok(Some(outcome)) => return self.answered(outcome),
                Ok(None) => {}
                Err(error) => return self.failed(error, true, false),
            }
            let room = match replies.room(&mut self.inbox) {
                Ok(room) => room,
                Err(error) => return self.failed(error, true, false),
            };
            if let Err(broken) = self.stream.read(room, deadline, fresh) {
                return self.broke(broken, "waiting for the reply", true);
            }
            if !fresh && deadline.has_passed() {
                return self.broke(Broken::Timeout, "reading the reply", true);
            }
            fresh = false;
        }
    }

    fn answered<T>(&self, outcome: Outcome<T>) -> Exchanged<T> {
        let Outcome { result, link_is_sound } = outcome;
        // The server says this once and closes the connection.
        let refused = matches!(&result, Err(Error { kind: Kind::Connect { .. }, .. }));
        let link_is_sound = link_is_sound && !refused && self.inbox.is_empty();
        Exchanged::Answered { result, link_is_sound }
    }

    /// Sends the outbox; whether it all went without waiting. What arrives meanwhile is taken in, so that a server that
    /// answers before it has read everything is not kept waiting in turn.
    fn send(&mut self, deadline: &Deadline, sent: &mut usize) -> Result<bool, Broken> {
        let mut at_once = true;
        while !self.stream.write(&self.outbox, sent)? {
            at_once = false;
            let takes_in = self.inbox.len() < MOST_UNREAD;
            self.stream.wait_to_write(takes_in, deadline)?;
            if takes_in && let Ok(room) = self.inbox.room(0) {
                self.stream.receive(room)?;
            }
            if deadline.has_passed() {
                return Err(Broken::Timeout);
            }
        }
        Ok(at_once)
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
