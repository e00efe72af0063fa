//! One connection to a server: what it consists of, how it is introduced, and whether it is still there.

use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::batch::Batch;
use super::drive::{Blocking, Sending, Stop, drive, interest};
use super::outcome::{Failure, Vintage};
use super::single::{Single, server_words};
use crate::backend::redis::net::socket::Broken;
use crate::backend::redis::net::stream::Stream;
use crate::backend::redis::wire::decode::{Inbox, Want};
use crate::backend::redis::wire::encode::{SHORT, command};
use crate::backend::redis::wire::handshake::{Form, Greeted, Handshake};
use crate::backend::redis::wire::replies::{OneReply, kind_of};
use crate::completion::{Membership, QueueHold};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::sys::SocketFd;
use crate::threads::release;
use crate::value::Span;

/// A request buffer above this is given back after the call.
const KEEP: usize = 1 << 20;

/// A connection in the hands of one thread, which carries out one call over it, or one batch of calls, at a time.
pub struct Link {
    pub(super) stream: Stream,
    pub(super) inbox: Inbox,
    /// Where a request is written that is short.
    pub(super) short: [u8; SHORT],
    /// Calls of several callers. Its outbox serves a single call as well.
    pub batch: Batch<Link>,
    /// Memory for where the values are that came together.
    pub(super) spans: Vec<Span>,
    pub(super) peer: String,
    /// When its last call began.
    pub(super) last_used: Instant,
    /// How many times it was given back.
    uses: u32,
    /// What the server said as it turned the connection away.
    pub(super) turned_away: Option<Error>,
    /// It has said something before the first call.
    pub(super) has_spoken: bool,
    /// This client has logged in.
    pub(super) logs_in: bool,
    /// It has answered with its own state rather than to the call: another connection may lead to another server.
    pub is_outdated: bool,
    pub vintage: Vintage,
    /// What had come from the server when its call began.
    pub(super) beats: u32,
    pub seat: Seat,
    /// Its place in the descriptor of a queue that is polled.
    pub membership: Option<Arc<Membership>>,
}

/// How a link that is out counts in its node's scheduler, which alone writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seat {
    /// It has one call to itself.
    #[default]
    Exclusive,
    /// Among those that calls share, since this epoch. Epochs are not zero, so that a seat is one word.
    Shared { epoch: NonZeroU64 },
}

impl Seat {
    /// It follows an event loop: shared, since an epoch that never comes.
    pub const LOOP: Self = Self::Shared { epoch: NonZeroU64::MAX };
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
            inbox: Inbox::default(),
            short: [0; SHORT],
            batch: Batch::default(),
            spans: Vec::new(),
            peer,
            last_used: deadline.started(),
            uses: 0,
            turned_away: None,
            has_spoken: !handshake.is_empty(),
            logs_in: handshake.logs_in(),
            is_outdated: false,
            vintage: Vintage::NONE,
            beats: 0,
            seat: Seat::default(),
            membership: None,
        };
        if !handshake.is_empty() {
            link.greet(handshake, deadline)?;
        }
        Ok(link)
    }

    // Apart: by default there is nothing to say.
    #[inline(never)]
    fn greet(&mut self, handshake: &Handshake, deadline: &Deadline) -> Result<(), Failure> {
        if self.say(handshake, Form::First, deadline)? == Greeted::KnowsNoUsers {
            self.say(handshake, Form::WithoutUser, deadline)?;
        }
        let Self { stream, inbox, .. } = self;
        // What is left would be taken for the answer to the first call.
        let room = inbox.room(0).map_err(Failure::unsent)?;
        match stream.receive(room).map_err(|broken| self.unmet(broken))? {
            None if self.inbox.is_empty() => Ok(()),
            _ => Err(Failure::unsent(Error::protocol("more answers than questions"))),
        }
    }

    /// Sends a greeting and takes what it is answered.
    fn say(
        &mut self,
        handshake: &Handshake,
        form: Form,
        deadline: &Deadline,
    ) -> Result<Greeted, Failure> {
        let bytes = handshake.bytes(form);
        let mut greeting = Single {
            bytes,
            borrowed: &[],
            sent: 0,
            replies: handshake.replies(form),
            is_blocked: false,
        };
        let Self { stream, inbox, .. } = self;
        let mut driver = Blocking::alone(deadline, inbox);
        match drive(stream, inbox, &mut greeting, &mut driver) {
            Ok(outcome) => outcome.and_then(|outcome| outcome.result).map_err(Failure::unsent),
            Err(Stop::Broken(broken)) => {
                let last_words = match greeting.has_unsent() {
                    true => server_words(stream, inbox),
                    false => None,
                };
                let error = last_words.map(|text| kind_of(&text)(handshake.censor(&text)));
                Err(error.map_or_else(|| self.unmet(broken), Failure::unsent))
            }
            Err(Stop::NoRoom(error)) => Err(Failure::unsent(error)),
            Err(Stop::Paused(_)) => Err(Failure::unsent(Kind::Timeout(INTRODUCING).into())),
        }
    }

    /// The connection broke in the handshake. Nothing else was sent, so it is one that could not be made.
    fn unmet(&self, broken: Broken) -> Failure {
        let lost = broken.is_lost();
        let mut error = broken.into_error(INTRODUCING, &self.peer);
        if lost {
            let reason = error.to_string().into();
            error = Kind::Connect { peer: self.peer.clone().into(), reason, silence: false }.into();
        }
        Failure::new(error, false, lost)
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

    /// It has just shown that it is there, or is about to be used.
    pub fn touch(&mut self, now: Instant) {
        self.last_used = now;
    }

    /// Something has arrived in the middle of a batch.
    pub fn heard(&mut self, now: Instant) {
        self.last_used = now;
        // From here on that is not when the batch began.
        self.batch.calls = None;
        // The batch may go on for long.
        self.tidy_inbox();
    }

    /// When it was used last, or something arrived.
    pub fn last_used(&self) -> Instant {
        self.last_used
    }

    /// Whether more has arrived than was asked for, so that nobody knows which of it is the answer. A push is none. On
    /// a link that is new the answer comes first, for nothing can be left from before.
    pub(super) fn has_excess(&self) -> bool {
        !self.is_new() && !matches!(self.inbox.first(), None | Some(b'>'))
    }

    /// Whether a part of a reply is there.
    pub fn has_input(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// A use is over; how many there were.
    #[inline]
    pub fn count_use(&mut self) -> u32 {
        self.uses = self.uses.wrapping_add(1);
        self.uses
    }

    pub fn uses(&self) -> u32 {
        self.uses
    }

    /// Whether nothing was said over it yet.
    pub fn is_new(&self) -> bool {
        self.uses == 0 && !self.has_spoken
    }

    /// Whether nothing has come from the server since its call began, over any link, as far as is known.
    pub(super) fn is_silent(&self) -> bool {
        self.inbox.is_empty() && self.stream.pulse().beats() == self.beats
    }

    /// Takes note of what the server said of itself rather than of a call.
    pub(super) fn heed(&mut self, error: &Error) {
        self.is_outdated |= is_of_the_server(error, self.logs_in);
    }

    /// What is told of a connection that broke: the server was given up, perhaps.
    pub(super) fn why(&self, broken: Broken, doing: &'static str) -> Error {
        why(&self.stream, broken, doing, &self.peer)
    }

    /// Whether the server turned the connection away, and what it said.
    pub fn turned_away(&self) -> Option<&Error> {
        self.turned_away.as_ref()
    }

    /// Whether it is still there, and nothing has arrived, if that can be seen at once.
    #[inline(always)]
    pub fn is_quiet(&self) -> bool {
        self.stream.is_quiet()
    }

    /// Whether it is still there, as far as this machine knows, and nothing has arrived.
    pub fn is_sound(&mut self) -> bool {
        self.stream.is_sound()
    }

    /// Asks PING; any answer means alive.
    pub fn answers(&mut self, deadline: &Deadline) -> bool {
        let mut ping = Vec::new();
        command(&mut ping, b"PING", 0);
        let replies = OneReply::new(Want::Any);
        let mut question =
            Single { bytes: &ping, borrowed: &[], sent: 0, replies, is_blocked: false };
        let Self { stream, inbox, .. } = self;
        let mut driver = Blocking::alone(deadline, inbox);
        let answered = drive(stream, inbox, &mut question, &mut driver);
        self.has_spoken = true;
        matches!(answered, Ok(Ok(_))) && inbox.is_empty()
    }

    /// From here on the descriptor of a queue tells when there is something to do; false, where that cannot be.
    pub fn join(&mut self, queue: &QueueHold) -> bool {
        self.leave_descriptor();
        self.membership = queue.join(self.stream.descriptor());
        self.membership.is_some()
    }

    /// No descriptor tells any more.
    pub fn leave_descriptor(&mut self) {
        if let Some(membership) = self.membership.take() {
            membership.leave(self.stream.descriptor().as_fd());
        }
    }

    /// Whether there may be input that the socket has handed out already, though it was not taken.
    pub fn may_hold_input(&self) -> bool {
        !self.stream.is_plain() && !self.batch.is_complete()
    }

    /// Where to wait for more to do, and for what.
    pub fn interest(&self) -> (&SocketFd, PollFlags) {
        let has_unsent = self.batch.has_unsent() || self.stream.has_unsent();
        let sending = if has_unsent { Sending::Blocked } else { Sending::Idle };
        (self.stream.descriptor(), interest(sending, &self.inbox))
    }

    /// The same, for somebody who waits while others have the link.
    pub fn watched(&self) -> (Arc<SocketFd>, PollFlags) {
        (self.stream.shared_descriptor(), self.interest().1)
    }

    /// Whoever sleeps until something comes over it wakes.
    pub fn shut_down(&self) {
        self.stream.shut_down();
    }

    /// An idle link may stay idle for long.
    pub(super) fn tidy(&mut self) {
        if self.batch.outbox.capacity() > KEEP {
            self.batch.outbox = Vec::new();
        }
        self.tidy_inbox();
    }

    fn tidy_inbox(&mut self) {
        if let Some(surplus) = self.inbox.tidy() {
            let held = surplus.capacity();
            release(surplus, held);
        }
    }
}

impl Drop for Link {
    /// A child process may have a copy of the socket, which would stay in the descriptor for ever.
    fn drop(&mut self) {
        self.leave_descriptor();
        let inbox = std::mem::take(&mut self.inbox);
        let held = inbox.held();
        release(inbox, held);
    }
}

/// Whether an answer speaks of the server, so that another connection may do better. To somebody who has not logged in
/// NOAUTH says nothing new.
pub(super) fn is_of_the_server(error: &Error, logs_in: bool) -> bool {
    error.is_of_the_server() && (logs_in || !matches!(error.kind, Kind::Auth(_)))
}

/// What is told of a connection that broke.
pub(super) fn why(stream: &Stream, broken: Broken, doing: &'static str, peer: &str) -> Error {
    match broken.is_lost() && stream.pulse().is_down() {
        true => Kind::Down.into(),
        false => broken.into_error(doing, peer),
    }
}

const INTRODUCING: &str = "introducing this client to the server";
