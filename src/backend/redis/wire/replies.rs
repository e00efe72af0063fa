//! The replies to a request, taken as they arrive, and what they come to: an operation's answer, or the error that the
//! server's words are. Which replies are to come is all that must be known of the operation once its commands are
//! written.

use std::mem;

use super::decode::{Decoder, Inbox, Reply, Simple, Want};
use crate::error::{Error, Kind, Result};
use crate::op::Answer;

/// What a request came to, once all its replies are in.
pub struct Outcome<T> {
    pub result: Result<T>,
    pub reuse: Reuse,
}

/// Whether a connection may carry another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Keep,
    /// Nobody knows what comes next on it. After a transaction that was not carried out as a whole, say, the server may
    /// still be queueing commands.
    Close,
}

impl Reuse {
    /// It may, if nothing is left on it that nobody asked for.
    #[inline]
    pub fn if_empty(inbox: &Inbox) -> Self {
        if inbox.is_empty() { Self::Keep } else { Self::Close }
    }
}

/// Takes the replies to one request, as they arrive.
pub trait Replies {
    type Output;

    /// Where to put what arrives next.
    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>>;

    /// Takes what has arrived. An error means that the peer does not speak RESP as it should.
    fn advance(&mut self, inbox: &mut Inbox) -> Result<Option<Outcome<Self::Output>>>;

    /// Whether the request is one command, so that an error that answers it says that nothing was carried out.
    fn is_single(&self) -> bool {
        true
    }

    /// Whether nothing was said on the connection so far, which may be turned away as a whole.
    fn may_be_turned_away(&self) -> bool {
        false
    }

    /// How much memory it holds.
    fn held(&self) -> usize {
        0
    }
}

/// Takes the one reply to a command that is no operation of its own.
pub struct OneReply(Decoder);

impl OneReply {
    pub fn new(want: Want) -> Self {
        Self(Decoder::new(want))
    }
}

impl Replies for OneReply {
    type Output = Reply;

    fn held(&self) -> usize {
        self.0.held()
    }

    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        self.0.room(inbox)
    }

    fn advance(&mut self, inbox: &mut Inbox) -> Result<Option<Outcome<Reply>>> {
        let Some(reply) = self.0.advance(inbox)? else { return Ok(None) };
        let result = match reply {
            Reply::Error(text) => Err(server_error(text)),
            Reply::Errors { first, .. } => {
                let result = Err(server_error(first).of_a_part());
                return Ok(Some(Outcome { result, reuse: Reuse::Keep }));
            }
            Reply::NoMemory => Err(no_memory()),
            reply => Ok(reply),
        };
        let reuse = if hangs_up(&result) { Reuse::Close } else { Reuse::Keep };
        Ok(Some(Outcome { result, reuse }))
    }
}

/// All that must be known of an operation once its request is written: which replies it has.
#[derive(Clone, Copy)]
pub enum Expect {
    Ping,
    Get,
    /// So many keys.
    MGet(usize),
    Set,
    /// It may find the key there.
    SetIfNotExists,
    Flush,
    /// FLUSHDB without ASYNC.
    FlushPlainly,
    Found,
    Count,
    Persist,
    /// So many commands between MULTI and EXEC.
    Transaction(usize),
}

impl Expect {
    /// Whether the request is one command, so that an error that answers it says that nothing was carried out.
    pub fn is_single(self) -> bool {
        !matches!(self, Self::Persist | Self::Transaction(_))
    }

    /// Takes the reply, if it is the usual one, is all there, and nothing else is to be seen to.
    #[inline(always)]
    pub fn quick(self, inbox: &mut Inbox) -> Option<Answer> {
        match self {
            Self::Get => inbox.small_value().map(|value| match value {
                Some(value) => Answer::Value(value),
                None => Answer::NotFound,
            }),
            Self::Set | Self::SetIfNotExists => inbox.ok().then_some(Answer::Done),
            _ => None,
        }
    }
}

/// Takes the replies to one operation. It borrows nothing of the caller's.
pub struct Pending {
    shape: Shape,
    decoder: Decoder,
    /// Nothing was said on the connection so far, so that the connection itself may be refused.
    is_first: bool,
}

enum Shape {
    Ping,
    Get,
    MGet,
    Set,
    SetIfNotExists,
    Flush,
    /// 1: done; 0: not found.
    Found,
    Count,
    /// PERSIST and EXISTS; the answer to the first.
    Persist(Option<Result<bool>>),
    Transaction(Box<Transaction>),
}

#[derive(Default)]
struct Transaction {
    queued: usize,
    /// Commands between MULTI and EXEC that are still to be answered.
    left: usize,
    begun: bool,
    multi_refused: Option<Error>,
    set_refused: Option<Error>,
}

impl Pending {
    pub fn new(expect: Expect) -> Self {
        let (shape, want) = match expect {
            Expect::Ping => (Shape::Ping, Want::Plain),
            Expect::Get => (Shape::Get, Want::Value),
            Expect::MGet(count) => (Shape::MGet, Want::Batch(count)),
            Expect::Set => (Shape::Set, Want::Plain),
            Expect::SetIfNotExists => (Shape::SetIfNotExists, Want::Plain),
            Expect::Flush | Expect::FlushPlainly => (Shape::Flush, Want::Plain),
            Expect::Found => (Shape::Found, Want::Plain),
            Expect::Count => (Shape::Count, Want::Plain),
            Expect::Persist => (Shape::Persist(None), Want::Plain),
            Expect::Transaction(count) => {
                let transaction = Transaction { left: count, ..Transaction::default() };
                (Shape::Transaction(Box::new(transaction)), Want::Plain)
            }
        };
        Self { shape, decoder: Decoder::new(want), is_first: false }
    }

    /// The same; `is_first`: nothing was said on the connection so far.
    pub fn of_link(expect: Expect, is_first: bool) -> Self {
        Self { is_first, ..Self::new(expect) }
    }

    /// What was said first on the connection is an answer.
    pub fn is_answered_first(&mut self) {
        self.is_first = false;
    }
}

impl Replies for Pending {
    type Output = Answer;

    fn held(&self) -> usize {
        self.decoder.held()
    }

    fn is_single(&self) -> bool {
        !matches!(self.shape, Shape::Persist(_) | Shape::Transaction(_))
    }

    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        self.decoder.room(inbox)
    }

    fn may_be_turned_away(&self) -> bool {
        self.is_first
    }

    fn advance(&mut self, inbox: &mut Inbox) -> Result<Option<Outcome<Answer>>> {
        if self.is_first && !self.is_single() {
            match turns_away(inbox) {
                // The connection ends, or the other replies come.
                Some(true) => return Ok(None),
                Some(false) => self.is_first = false,
                None => {}
            }
        }
        while let Some(reply) = self.decoder.advance(inbox)? {
            if mem::take(&mut self.is_first)
                && let Reply::Error(text) = &reply
                && TURNED_AWAY.iter().any(|start| text.starts_with(start))
            {
                // Nothing was looked at, and no reply follows.
                let error = kind_of(text)(text.clone());
                return Ok(Some(Outcome { result: Err(error), reuse: Reuse::Close }));
            }
            let result = match &mut self.shape {
                Shape::Transaction(transaction) => {
                    let (next, outcome) = transaction.take(reply)?;
                    if let Some(outcome) = outcome {
                        return Ok(Some(outcome));
                    }
                    self.decoder = Decoder::new(next);
                    continue;
                }
                Shape::Persist(first) => {
                    let found = found(reply)?;
                    match first.take() {
                        None => {
                            *first = Some(found);
                            self.decoder = Decoder::new(Want::Plain);
                            continue;
                        }
                        Some(Ok(true)) => Ok(Answer::Done),
                        Some(Ok(false)) => found.map(answer_found),
                        Some(Err(error)) => Err(error),
                    }
                }
                Shape::Get => match reply {
                    Reply::Value(value) => Ok(Answer::Value(value)),
                    Reply::Nil => Ok(Answer::NotFound),
                    other => Err(refused(other)?),
                },
                Shape::MGet => match reply {
                    Reply::Batch(values) => Ok(Answer::Values(values)),
                    Reply::Errors { first, .. } => {
                        let result = Err(server_error(first).of_a_part());
                        return Ok(Some(Outcome { result, reuse: Reuse::Keep }));
                    }
                    other => Err(refused(other)?),
                },
                Shape::Set | Shape::Flush => match reply {
                    Reply::Simple(Simple::Ok) => Ok(Answer::Done),
                    other => Err(refused(other)?),
                },
                Shape::SetIfNotExists => match reply {
                    Reply::Simple(Simple::Ok) => Ok(Answer::Done),
                    Reply::Nil => Ok(Answer::NotStored),
                    other => Err(refused(other)?),
                },
                Shape::Found => found(reply)?.map(answer_found),
                Shape::Count => match reply {
                    Reply::Int(count) if count >= 0 => Ok(Answer::Deleted(count.unsigned_abs())),
                    other => Err(refused(other)?),
                },
                Shape::Ping => match reply {
                    Reply::Simple(_) => Ok(Answer::Done),
                    other => Err(refused(other)?),
                },
            };
            let reuse = if hangs_up(&result) { Reuse::Close } else { Reuse::Keep };
            return Ok(Some(Outcome { result, reuse }));
        }
        Ok(None)
    }
}

fn answer_found(found: bool) -> Answer {
    if found { Answer::Done } else { Answer::NotFound }
}

fn found(reply: Reply) -> Result<Result<bool>> {
    match reply {
        Reply::Int(number @ (0 | 1)) => Ok(Ok(number == 1)),
        other => Ok(Err(refused(other)?)),
    }
}

/// The error that a reply is; a reply of another type than the command has is a breach of protocol.
fn refused(reply: Reply) -> Result<Error> {
    match reply {
        Reply::Error(text) => Ok(server_error(text)),
        Reply::NoMemory => Ok(no_memory()),
        _ => Err(Error::protocol("a reply of another type than the command has")),
    }
}

fn no_memory() -> Error {
    Error::no_memory("memory for the reply")
}

/// What a server says to a connection that it closes at once: `maxclients` is reached, or `protected-mode` is on.
const TURNED_AWAY: [&str; 2] = ["ERR max number of clients", "DENIED"];

/// Whether these first words of a connection turn it away; `None`: they do not. `false`: more has come behind them, so
/// that they are the answer to one command, of a proxy, say.
#[cold]
pub fn turns_away(inbox: &Inbox) -> Option<bool> {
    let words = inbox.undecoded();
    let text = words.strip_prefix(b"-")?;
    if !TURNED_AWAY.iter().any(|start| text.starts_with(start.as_bytes())) {
        return None;
    }
    let end = words.iter().position(|byte| *byte == b'\n')?;
    Some(end + 1 == words.len())
}

/// What a server says before it closes the connection, which it no longer understands.
const HANGS_UP: &str = "ERR Protocol error";
/// The same to a request that is too large from somebody who has not logged in: "unauthenticated bulk length",
/// "unauthenticated multibulk length".
const UNAUTHENTICATED: &str = "ERR Protocol error: unauthenticated";

/// Whether the server closes the connection after this reply.
fn hangs_up<T>(result: &Result<T>) -> bool {
    let Err(error) = result else { return false };
    matches!(&error.kind, Kind::Auth(text) | Kind::Server(text) if text.starts_with(HANGS_UP))
}

/// What the server's words come to that answer a command. The first word is the error's code.
pub fn server_error(text: String) -> Error {
    if text.starts_with("MOVED ") || text.starts_with("ASK ") {
        return Kind::Server(format!("{text}: {IN_A_CLUSTER}").into()).into();
    }
    let kind = kind_of_answer(&text);
    kind(text)
}

/// What a caller is told who has one server's URL.
const IN_A_CLUSTER: &str =
    "the server is part of a cluster, which needs a redis+cluster:// or rediss+cluster:// URL";

/// What the first words of a connection come to, to be shown in other words: it may be refused as a whole.
pub fn kind_of(text: &str) -> fn(String) -> Error {
    match text.starts_with(TURNED_AWAY[0]) {
        true => |text| Kind::Full { peer: "the server".into(), reason: text.into() }.into(),
        false => kind_of_answer(text),
    }
}

fn kind_of_answer(text: &str) -> fn(String) -> Error {
    match text.split(' ').next().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => |text| Kind::Auth(text.into()).into(),
        "ERR" if text.starts_with(UNAUTHENTICATED) => |text| Kind::Auth(text.into()).into(),
        _ => |text| Kind::Server(text.into()).into(),
    }
}

impl Transaction {
    /// Takes the next reply; what the one after it may be, and the outcome when this was the last.
    fn take(&mut self, reply: Reply) -> Result<(Want, Option<Outcome<Answer>>)> {
        if !self.begun {
            self.begun = true;
            match reply {
                Reply::Simple(Simple::Ok) => {}
                other => self.multi_refused = Some(refused(other)?),
            }
        } else if self.left > 0 {
            self.left -= 1;
            match reply {
                // Where MULTI was refused, the server runs each SET by itself.
                Reply::Simple(Simple::Queued | Simple::Ok) => self.queued += 1,
                other => {
                    let refused = refused(other)?;
                    self.set_refused.get_or_insert(refused);
                }
            }
        } else {
            return Ok((Want::Plain, Some(self.end(reply)?)));
        }
        let next = if self.left > 0 { Want::Plain } else { Want::Statuses(self.queued) };
        Ok((next, None))
    }

    fn end(&mut self, reply: Reply) -> Result<Outcome<Answer>> {
        let is_whole = self.set_refused.is_none() && self.multi_refused.is_none();
        let exec_refused = match reply {
            Reply::Statuses if is_whole => {
                return Ok(Outcome { result: Ok(Answer::Done), reuse: Reuse::Keep });
            }
            Reply::Statuses => None,
            Reply::Errors { first, count } => {
                let error = server_error(first).of_a_part();
                // The others were carried out.
                let applied = count < self.queued;
                let error = if applied { error.maybe_applied() } else { error };
                if is_whole {
                    return Ok(Outcome { result: Err(error), reuse: Reuse::Keep });
                }
                Some(error)
            }
            Reply::Error(text) => Some(server_error(text)),
            _ => return Err(Error::protocol("an answer to EXEC that is no array")),
        };
        // Without MULTI the server ran each SET by itself.
        let multi_refused = self
            .multi_refused
            .take()
            .map(|error| if self.queued > 0 { error.maybe_applied() } else { error });
        let error = multi_refused.or_else(|| self.set_refused.take()).or(exec_refused);
        let error = error.unwrap_or_else(|| Error::protocol("a transaction without an answer"));
        Ok(Outcome { result: Err(error), reuse: Reuse::Close })
    }
}
