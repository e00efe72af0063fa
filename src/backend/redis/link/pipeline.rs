//! A batch over its link: requests one behind the other, replies in the same order.

use std::sync::Arc;
use std::time::Instant;

use super::batch::Batch;
use super::connection::{Link, is_of_the_server, why};
use super::drive::{Driver, Exchange, Pause, Sending, Stop, drive};
use super::outcome::{self, Exchanged, Failure, Vintage, no_room};
use super::single::MOST_LAST_READS;
use super::wakeup::Wakeups;
use crate::backend::redis::net::socket::Broken;
use crate::backend::redis::net::stream::Stream;
use crate::backend::redis::wire::decode::{Decoder, Inbox, Reply, Want};
use crate::backend::redis::wire::replies::{
    Outcome, Replies, Reuse, kind_of, server_error, turns_away,
};
use crate::error::{Error, Kind, Result};
use crate::op::Answer;
use crate::value::{HEADER, Span, Value, Values};

/// How a batch left the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driven {
    /// All is complete, and the link may be used again, or not.
    Complete(Reuse),
    /// The driver left; others still wait.
    Paused(Pause),
}

/// Whose link it is.
pub trait Supervisor {
    /// What threads that wait in batches sleep on.
    fn wakeups(&self) -> &Wakeups;

    /// The server has answered with its own state over a link of this vintage. Told before anybody has the answer.
    fn retire(&self, vintage: Vintage);
}

/// The parts of a link that a batch needs.
struct Pipeline<'a> {
    batch: &'a mut Batch<Link>,
    spans: &'a mut Vec<Span>,
    turned_away: &'a mut Option<Error>,
    /// Nothing was said over the link so far.
    is_new: bool,
    logs_in: bool,
    vintage: Vintage,
    supervisor: &'a dyn Supervisor,
    /// How many calls were left when it was last seen to who is to be woken.
    left: usize,
}

impl Link {
    /// Drives the batch, or goes on with it.
    pub fn drive_batch(&mut self, supervisor: &dyn Supervisor, driver: &mut impl Driver) -> Driven {
        let (is_new, logs_in, vintage) = (self.is_new(), self.logs_in, self.vintage);
        let Self { stream, inbox, batch, spans, turned_away, .. } = self;
        let left = batch.left();
        let mut pipeline =
            Pipeline { batch, spans, turned_away, is_new, logs_in, vintage, supervisor, left };
        let driven = drive(stream, inbox, &mut pipeline, driver);
        if let Err(Stop::Broken(broken)) = &driven {
            pipeline.take_last_replies(stream, inbox);
            if broken.is_lost() {
                pipeline.take_refusal(inbox);
                pipeline.take_last_words(inbox);
            }
        }
        self.has_spoken |= !pipeline.is_new;
        match driven {
            Ok(reuse) => {
                self.tidy();
                return Driven::Complete(reuse);
            }
            Err(Stop::Paused(pause)) => return Driven::Paused(pause),
            Err(Stop::NoRoom(error)) => self.batch.fail(|| error.again()),
            Err(Stop::Broken(broken)) => self.fail(&broken),
        }
        Driven::Complete(Reuse::Close)
    }

    /// The connection broke under the batch.
    fn fail(&mut self, broken: &Broken) {
        let Self { batch, peer, stream, .. } = self;
        let doing =
            if batch.has_unsent() { "sending the request" } else { "waiting for the reply" };
        if broken.is_unread() {
            batch.sent = 0;
        }
        let error = why(stream, broken.again(), doing, peer);
        match broken.is_lost() {
            true => batch.fail_lost(|| error.again()),
            false => batch.fail(|| error.again()),
        }
    }

    /// Nobody drives the batch any more.
    pub fn give_up_batch(&mut self) {
        self.batch.fail(|| Kind::Timeout("waiting for the reply").into());
    }

    /// Sends what goes without waiting, and reads nothing.
    pub fn send_batch(&mut self) {
        let Self { stream, batch, .. } = self;
        // If the link is broken, whoever goes on with it will see.
        let _ = stream.write(&batch.outbox, &mut batch.sent);
    }
}

impl Exchange for Pipeline<'_> {
    type Done = Reuse;

    fn send(&mut self, stream: &mut Stream) -> Result<Sending, Broken> {
        let batch = &mut *self.batch;
        if !batch.has_unsent() && !stream.has_unsent() {
            return Ok(Sending::Idle);
        }
        let awaited_reply = batch.awaits_reply();
        Ok(match stream.write(&batch.outbox, &mut batch.sent)? {
            false => Sending::Blocked,
            true if awaited_reply => Sending::Idle,
            true => Sending::JustSent,
        })
    }

    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        match self.batch.pending(self.is_new) {
            Some(pending) => pending.room(inbox),
            None => inbox.room(0),
        }
    }

    fn take(&mut self, inbox: &mut Inbox) -> Option<Reuse> {
        loop {
            if self.batch.has_unsent() && !self.batch.is_first_sent() {
                return self.take_early(inbox);
            }
            if let Some(entry) = self.batch.fresh() {
                if inbox.is_empty() {
                    return None;
                }
                let expect = entry.expect;
                if !self.batch.has_unsent() && self.batch.gets(2) == 2 && self.take_values(inbox) {
                    self.is_new = false;
                    continue;
                }
                if let Some(answer) = expect.quick(inbox) {
                    self.is_new = false;
                    let reuse = Reuse::Keep;
                    self.batch.complete(Exchanged::Answered { result: Ok(answer), reuse });
                    continue;
                }
            }
            let others_wait = self.batch.left() > 1;
            let Some(pending) = self.batch.pending(self.is_new) else {
                return Some(Reuse::if_empty(inbox));
            };
            if self.is_new && others_wait {
                match turns_away(inbox) {
                    // The connection ends, or the others are answered.
                    Some(true) => return None,
                    Some(false) => pending.is_answered_first(),
                    None => {}
                }
            }
            match pending.advance(inbox) {
                Ok(None) => return None,
                Ok(Some(outcome)) => {
                    if let Some(reuse) = self.take_outcome(outcome) {
                        return Some(reuse);
                    }
                }
                Err(error) => {
                    let failure = Failure::sent(error.again());
                    self.batch.complete(Exchanged::Failed(failure));
                    self.batch.fail_lost(|| error.again());
                    return Some(Reuse::Close);
                }
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let left = self.batch.left();
        if left == self.left {
            return false;
        }
        self.left = left;
        self.supervisor.wakeups().wake(self.batch.wakeups);
        self.batch.completed.deliver();
        true
    }

    fn waits_behind(&self) -> bool {
        self.batch.has_reads_behind()
    }

    fn last_deadline(&self) -> Option<Instant> {
        self.batch.last_deadline()
    }
}

impl Pipeline<'_> {
    /// Completes the first call; `Some`, if that was the end of the link.
    fn take_outcome(&mut self, Outcome { result, reuse }: Outcome<Answer>) -> Option<Reuse> {
        self.is_new = false;
        if let Some(error) = no_room(&result) {
            let failure = outcome::turned_away(self.turned_away, error);
            self.batch.complete(Exchanged::Failed(failure));
            self.batch.fail_lost(|| Error::protocol("a connection was turned away in an odd way"));
            return Some(Reuse::Close);
        }
        if result.as_ref().is_err_and(|error| is_of_the_server(error, self.logs_in)) {
            self.supervisor.retire(self.vintage);
        }
        match outcome::answered(result, Reuse::Keep, self.vintage) {
            Exchanged::Answered { result: Err(error), .. } => self.batch.refuse(error),
            other => self.batch.complete(other),
        }
        if reuse == Reuse::Close {
            let error = || Error::protocol("an answer to another call was out of order");
            self.batch.fail_lost(error);
            return Some(Reuse::Close);
        }
        None
    }

    /// What arrives before the first request is sent. An answer to half a request is no answer; it may be the last that
    /// the server says.
    #[cold]
    fn take_early(&mut self, inbox: &Inbox) -> Option<Reuse> {
        if inbox.is_empty() || self.batch.awaits_reply() || self.is_new {
            return None;
        }
        // From here on nobody knows what an answer is to.
        self.batch.fail_lost(|| Error::protocol("an answer to no call"));
        Some(Reuse::Close)
    }

    /// Ends all calls if a server turned the connection away before it closed it. It has looked at nothing then.
    #[cold]
    fn take_refusal(&mut self, inbox: &mut Inbox) {
        if !self.is_new || turns_away(inbox) != Some(true) {
            return;
        }
        let Ok(Some(Reply::Error(text))) = Decoder::new(Want::Plain).advance(inbox) else { return };
        let error = kind_of(&text)(text);
        let failure = match error.kind {
            Kind::Full { .. } => outcome::turned_away(self.turned_away, &error),
            _ => Failure::unsent(error),
        };
        while !self.batch.is_complete() {
            self.batch.complete(Exchanged::Failed(failure.again()));
        }
    }

    /// What the server has said against a request that was not sent as a whole, before the connection broke.
    #[cold]
    fn take_last_words(&mut self, inbox: &mut Inbox) {
        let Some(expect) = self.batch.entries().next().map(|entry| entry.expect) else { return };
        if !self.batch.has_unsent() || self.batch.is_first_sent() {
            return;
        }
        let Ok(Some(Reply::Error(text))) = Decoder::new(Want::Plain).advance(inbox) else { return };
        let error = server_error(text);
        let sent = self.batch.awaits_reply() && !expect.is_single();
        self.batch.complete(Exchanged::Failed(Failure::new(error, sent, false)));
    }

    /// Answers asynchronous calls, each of which waits for one value, as far as short values have arrived; whether that
    /// was any. The values share one buffer: few, for one that is kept for long keeps the others' memory too.
    fn take_values(&mut self, inbox: &mut Inbox) -> bool {
        const FEW: usize = 16;
        let count = self.batch.gets(FEW);
        let values = inbox.short_values(count, self.spans);
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

    /// What the server has answered before the connection broke is answered.
    fn take_last_replies(&mut self, stream: &mut Stream, inbox: &mut Inbox) {
        for _ in 0..MOST_LAST_READS {
            if self.take(inbox).is_some() {
                break;
            }
            let Ok(room) = self.room(inbox) else { break };
            if !matches!(stream.receive(room), Ok(Some(_))) {
                break;
            }
        }
    }
}
