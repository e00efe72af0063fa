//! A call that has the link to itself. What is usual is compiled by itself and takes one write and one read; whatever
//! else happens is finished by the loop that drives everything else.

use super::connection::Link;
use super::drive::{Blocking, Stop, drive};
use super::outcome::{Exchanged, Failure, answered, no_room, turned_away};
use super::single::{Single, server_words};
use crate::backend::redis::net::socket::{Broken, Stopped};
use crate::backend::redis::wire::command::{encode, encode_short};
use crate::backend::redis::wire::decode::Inbox;
use crate::backend::redis::wire::encode::{BorrowedSlice, Outbox, io_slices};
use crate::backend::redis::wire::replies::{
    Expect, Outcome, Pending, Replies, Reuse, kind_of, server_error, turns_away,
};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Answer, Op};
use crate::threads::release;

/// Whether anything has been waited for since the deadline was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing, so that the socket's receive timeout is as good a bound as the deadline.
    AtOnce,
    AfterWait,
}

/// Where a call left the usual course.
enum Missed {
    /// `sent`: some of the request.
    Send {
        broken: Broken,
        sent: bool,
    },
    Room(Error),
    Read(Stopped),
    /// So much is sent, and the reply is to be waited for, or not the usual one.
    Reply {
        sent: usize,
    },
}

impl Link {
    /// Sends what `encode` writes, and reads what `replies` waits for, which is told whether they are the first over
    /// the link. `quick` takes the reply where it is the usual one and has arrived whole.
    pub fn call<'a, R: Replies + Send + 'static>(
        &mut self,
        encode: impl FnOnce(&mut Outbox<'_, 'a>) -> Result<()>,
        quick: impl FnOnce(&mut Inbox) -> Option<R::Output>,
        replies: impl FnOnce(bool) -> R,
        deadline: &Deadline,
        start: Start,
    ) -> Exchanged<R::Output> {
        let mut borrowed = Vec::new();
        self.batch.outbox.clear();
        let outbox = &mut Outbox { bytes: &mut self.batch.outbox, borrowed: Some(&mut borrowed) };
        if let Err(error) = encode(outbox) {
            return Exchanged::Answered { result: Err(error), reuse: Reuse::Keep };
        }
        self.begin(deadline);
        let answer = match self.ask(None, &borrowed, deadline, start) {
            Ok(()) => {
                quick(&mut self.inbox).ok_or(Missed::Reply { sent: self.request_len(&borrowed) })
            }
            Err(missed) => Err(missed),
        };
        let exchanged = match answer {
            Ok(answer) if self.inbox.is_empty() => {
                Exchanged::Answered { result: Ok(answer), reuse: Reuse::Keep }
            }
            Ok(answer) => self.beside_more(Ok(answer)),
            Err(missed) => self.finish(missed, &borrowed, replies(self.is_new()), *deadline),
        };
        self.tidy();
        exchanged
    }

    /// The same for an operation that may share a link, with the usual answer, after which the link may be used again;
    /// `None`: whatever else it came to is put into `other`, so that what is usual is handed on by itself.
    #[inline(always)]
    pub fn call_shared(
        &mut self,
        op: &Op<'_>,
        expect: Expect,
        prefix: &[u8],
        deadline: &Deadline,
        start: Start,
        other: &mut Option<Exchanged<Answer>>,
    ) -> Option<Answer> {
        let short = encode_short(op, prefix, &mut self.short);
        if short.is_none()
            && let Err(error) = self.encode_long(*op, prefix)
        {
            *other = Some(Exchanged::Answered { result: Err(error), reuse: Reuse::Keep });
            return None;
        }
        self.begin(deadline);
        let missed = match self.ask(short, &[], deadline, start) {
            Ok(()) => match expect.quick(&mut self.inbox) {
                Some(answer) if self.inbox.is_empty() => return Some(answer),
                Some(answer) => {
                    *other = Some(self.beside_more(Ok(answer)));
                    return None;
                }
                None => Missed::Reply { sent: short.unwrap_or(self.batch.outbox.len()) },
            },
            Err(missed) => missed,
        };
        *other = Some(self.finish_shared(missed, short, expect, *deadline));
        None
    }

    #[inline(always)]
    fn begin(&mut self, deadline: &Deadline) {
        self.last_used = deadline.started();
        self.batch.calls = Some(1);
        self.beats = self.stream.pulse().beats();
    }

    #[cold]
    #[inline(never)]
    fn encode_long(&mut self, op: Op<'_>, prefix: &[u8]) -> Result<()> {
        self.batch.outbox.clear();
        encode(&op, prefix, &mut Outbox { bytes: &mut self.batch.outbox, borrowed: None })
    }

    fn request_len(&self, borrowed: &[BorrowedSlice<'_>]) -> usize {
        let slices: usize = borrowed.iter().map(|slice| slice.bytes.len()).sum();
        self.batch.outbox.len() + slices
    }

    /// Sends the outbox, or so much of what is short, and reads once: the usual course, after which the reply may be
    /// all there.
    #[inline(always)]
    fn ask(
        &mut self,
        short: Option<usize>,
        borrowed: &[BorrowedSlice<'_>],
        deadline: &Deadline,
        start: Start,
    ) -> Result<(), Missed> {
        let mut sent = 0;
        let gone = match short {
            Some(len) => self.stream.write(&self.short[..len], &mut sent),
            None if borrowed.is_empty() => self.stream.write(&self.batch.outbox, &mut sent),
            None => {
                let total = self.request_len(borrowed);
                let rest = |skip| io_slices(&self.batch.outbox, borrowed, skip);
                self.stream.write_slices(total, rest, &mut sent)
            }
        };
        match gone {
            Ok(true) if start == Start::AtOnce && self.inbox.is_empty() => {}
            Ok(_) => return Err(Missed::Reply { sent }),
            Err(broken) => return Err(Missed::Send { broken, sent: sent > 0 }),
        }
        let room = self.inbox.room(0).map_err(Missed::Room)?;
        self.stream.read_first(room, deadline).map_err(Missed::Read)
    }

    #[cold]
    #[inline(never)]
    fn finish_shared(
        &mut self,
        missed: Missed,
        short: Option<usize>,
        expect: Expect,
        deadline: Deadline,
    ) -> Exchanged<Answer> {
        if let Some(len) = short {
            self.batch.outbox.clear();
            self.batch.outbox.extend_from_slice(&self.short[..len]);
        }
        let replies = Pending::of_link(expect, self.is_new());
        let exchanged = self.finish(missed, &[], replies, deadline);
        self.tidy();
        exchanged
    }

    /// Goes on where the usual course was left.
    #[cold]
    #[inline(never)]
    fn finish<R: Replies + Send + 'static>(
        &mut self,
        missed: Missed,
        borrowed: &[BorrowedSlice<'_>],
        replies: R,
        deadline: Deadline,
    ) -> Exchanged<R::Output> {
        let sent = match missed {
            Missed::Send { broken, sent } => {
                return self.not_sent(broken, sent, replies.is_single());
            }
            Missed::Room(error) => return Exchanged::Failed(Failure::sent(error)),
            Missed::Read(Stopped::Broken(broken)) => return self.broke(broken, READING, true),
            Missed::Read(Stopped::TimedOut) => return self.timed_out(READING, true),
            Missed::Reply { sent } => sent,
        };
        let is_single = replies.is_single();
        let Self { stream, inbox, batch, .. } = self;
        let mut single =
            Single { bytes: &batch.outbox, borrowed, sent, replies, is_blocked: false };
        let mut driver = Blocking::alone(&deadline, inbox);
        let driven = drive(stream, inbox, &mut single, &mut driver);
        let (sent, has_unsent) = (single.sent > 0, single.has_unsent());
        let may_be_turned_away = single.replies.may_be_turned_away();
        // A part of a large value is in it, perhaps, and the call's time is up.
        let held = single.replies.held();
        release(single.replies, held);
        match driven {
            Ok(Ok(outcome)) => self.answered(outcome),
            Ok(Err(error)) => Exchanged::Failed(Failure::sent(error)),
            Err(Stop::NoRoom(error)) => Exchanged::Failed(Failure::new(error, sent, false)),
            Err(Stop::Paused(_)) => {
                self.timed_out(if has_unsent { SENDING } else { READING }, sent)
            }
            Err(Stop::Broken(broken)) if has_unsent => self.not_sent(broken, sent, is_single),
            Err(Stop::Broken(broken))
                if may_be_turned_away && turns_away(&self.inbox) == Some(true) =>
            {
                self.not_sent(broken, sent, true)
            }
            Err(Stop::Broken(broken)) => self.broke(broken, READING, true),
        }
    }

    fn answered<T>(&mut self, outcome: Outcome<T>) -> Exchanged<T> {
        let Outcome { result, reuse } = outcome;
        if let Some(error) = no_room(&result) {
            return Exchanged::Failed(turned_away(&mut self.turned_away, error));
        }
        result.as_ref().err().into_iter().for_each(|error| self.heed(error));
        if reuse == Reuse::Keep && !self.inbox.is_empty() {
            return self.beside_more(result);
        }
        answered(result, reuse, self.vintage)
    }

    fn timed_out<T>(&self, doing: &'static str, sent: bool) -> Exchanged<T> {
        let failure = Failure::new(Kind::Timeout(doing).into(), sent, false);
        Exchanged::Failed(Failure { silent: self.is_silent(), ..failure })
    }

    /// What an answer is worth beside which more has arrived.
    #[cold]
    fn beside_more<T>(&self, result: Result<T>) -> Exchanged<T> {
        match self.has_excess() {
            true => {
                let error = Error::protocol("more answers than questions");
                Exchanged::Failed(Failure::new(error, true, true))
            }
            false => Exchanged::Answered { result, reuse: Reuse::Close },
        }
    }

    /// The connection broke while sending. The server may have said why before it closed it.
    fn not_sent<T>(&mut self, broken: Broken, sent: bool, is_single: bool) -> Exchanged<T> {
        if broken.is_lost()
            && let Some(text) = server_words(&mut self.stream, &mut self.inbox)
        {
            let error = if self.is_new() { kind_of(&text)(text) } else { server_error(text) };
            return Exchanged::Failed(match error.kind {
                Kind::Full { .. } => turned_away(&mut self.turned_away, &error),
                _ => Failure::new(error, sent && !is_single, false),
            });
        }
        self.broke(broken, SENDING, sent)
    }

    fn broke<T>(&self, broken: Broken, doing: &'static str, sent: bool) -> Exchanged<T> {
        let lost = broken.is_lost();
        let sent = sent && !broken.is_unread();
        let error = self.why(broken, doing);
        Exchanged::Failed(Failure::new(error, sent, lost))
    }
}

const SENDING: &str = "sending the request";
const READING: &str = "waiting for the reply";
