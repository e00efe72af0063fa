//! RESP replies, RESP2 and RESP3, decoded where they lie and resumed where the bytes ran out: whatever arrives, and in
//! whatever pieces, each byte is looked at once. What a reply may be is bounded by what was asked: by its type and its
//! count as soon as its head is there, and by its size. Memory follows what has arrived, whatever was announced.

mod batch;
mod elements;
mod inbox;
mod skip;
#[cfg(test)]
mod tests;

use self::batch::{Batch, Progress};
pub use self::elements::Page;
use self::elements::{Elements, Errors, Kind, PageReader, out_of_band};
pub use self::inbox::Inbox;
use self::inbox::{Head, LARGE};
use self::skip::Skip;
use crate::error::{Error, Result};
use crate::value::{Value, Values};

/// What a command expects.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// A status, a number, nil.
    Plain,
    /// A bulk string or nil.
    Value,
    /// So many bulk strings or nils.
    Batch(usize),
    /// So many times OK.
    Statuses(usize),
    /// A cursor and keys.
    Page,
    /// A map, or the array of names and values that is one where there are none. It is not kept.
    Map,
    /// Whatever it is, but for its size. It is not kept.
    Any,
}

#[derive(Debug)]
pub enum Reply {
    Simple(Simple),
    Int(i64),
    Nil,
    Value(Value),
    Batch(Values),
    Statuses,
    Page(Page),
    /// It was looked at, and not kept.
    Skipped,
    /// The server's own words.
    Error(String),
    /// Its words in the place of an element: the first, and how many there are. The reply is whole.
    Errors {
        first: String,
        count: usize,
    },
    /// A value that there is no memory for.
    NoMemory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simple {
    Ok,
    Queued,
    Other,
}

/// What may come before a reply, or within it, that nobody asked for.
const MOST_OUT_OF_BAND: usize = 16 << 20;
/// The most that a reply takes of which nothing is kept.
const MOST_SKIPPED: usize = 64 << 10;

/// Decodes one reply.
pub struct Decoder {
    want: Want,
    state: State,
    /// What may still be skipped.
    allowed: usize,
}

enum State {
    Head,
    /// Before the reply, or all of it.
    Skip {
        skip: Skip,
        is_reply: bool,
    },
    Batch(Batch),
    Elements(Elements),
    Page(Box<PageReader>),
    /// Waiting for a small value of `len` bytes whose body is at `at`.
    Small {
        at: usize,
        len: usize,
    },
    /// Reading a large value straight into the buffer that the caller will own.
    Large {
        buffer: Vec<u8>,
        len: usize,
    },
    Done,
}

enum Step {
    Whole(Reply),
    /// The state has changed: go on.
    Next,
    /// More must arrive.
    Wait,
}

impl Decoder {
    pub fn new(want: Want) -> Self {
        let allowed = match want {
            Want::Map | Want::Any => MOST_SKIPPED,
            _ => MOST_OUT_OF_BAND,
        };
        Self { want, state: State::Head, allowed }
    }

    /// How much memory it holds.
    pub fn held(&self) -> usize {
        match &self.state {
            State::Large { buffer, .. } => buffer.capacity(),
            State::Batch(batch) => batch.held(),
            State::Page(reader) => reader.held(),
            _ => 0,
        }
    }

    /// Where to put what arrives next.
    pub fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        let needed = match &mut self.state {
            State::Large { buffer, len } if !Inbox::is_large_whole(buffer, *len) => {
                Inbox::grow_large(buffer, *len)?;
                return Ok(buffer);
            }
            State::Small { at, len } => inbox.missing(*at + *len + 2),
            State::Batch(Batch { needed, .. }) => inbox.missing(*needed),
            _ => 0,
        };
        inbox.room(needed)
    }

    /// Takes what has arrived; the answer is the reply once it is whole.
    pub fn advance(&mut self, inbox: &mut Inbox) -> Result<Option<Reply>> {
        loop {
            match &mut self.state {
                State::Head => {
                    if let Some(reply) = inbox.common(self.want) {
                        self.state = State::Done;
                        return Ok(Some(reply));
                    }
                    let Some((head, body)) = inbox.head(0)? else { return Ok(None) };
                    match self.begin(inbox, head, body)? {
                        Step::Whole(reply) => return Ok(Some(reply)),
                        Step::Next => {}
                        Step::Wait => return Ok(None),
                    }
                }
                State::Skip { skip, is_reply } => {
                    let (mut at, is_reply) = (0, *is_reply);
                    let is_over = skip.advance(inbox, &mut at, &mut self.allowed)?;
                    // What is skipped is not kept, however much there is of it.
                    inbox.start += at;
                    match (is_over, is_reply) {
                        (false, _) => return Ok(None),
                        (true, false) => self.state = State::Head,
                        (true, true) => return Ok(Some(self.done(Reply::Skipped))),
                    }
                }
                State::Small { at, len } => {
                    let (at, len) = (*at, *len);
                    if !inbox.has_body(at, len)? {
                        return Ok(None);
                    }
                    self.state = State::Done;
                    return Ok(Some(inbox.small(at, len).map_or(Reply::NoMemory, Reply::Value)));
                }
                State::Large { buffer, len } => {
                    let Some(value) = inbox.large(buffer, *len)? else { return Ok(None) };
                    self.state = State::Done;
                    return Ok(Some(Reply::Value(value)));
                }
                State::Batch(batch) => {
                    let Want::Batch(count) = self.want else { unreachable!("only for a batch") };
                    match inbox.batch(batch, count, &mut self.allowed)? {
                        Progress::Waits => return Ok(None),
                        Progress::Skips => {}
                        Progress::Fails => {
                            // The answers before it are nobody's any more, and those behind it are not kept.
                            let left = count + Values::RESERVED_SPANS - batch.spans.len();
                            inbox.start += batch.at;
                            self.state = State::Elements(Elements::new(Kind::Value, left));
                        }
                        Progress::Whole => {
                            let (end, spans) = (batch.at, std::mem::take(&mut batch.spans));
                            self.state = State::Done;
                            let values = inbox.give_batch(end, spans);
                            return values.map(|values| Some(Reply::Batch(values)));
                        }
                    }
                }
                State::Elements(elements) => {
                    if !elements.advance(inbox, &mut self.allowed)? {
                        return Ok(None);
                    }
                    let Errors { first, count } = std::mem::take(&mut elements.errors);
                    let reply = match first {
                        None => Reply::Statuses,
                        Some(first) => Reply::Errors { first, count },
                    };
                    return Ok(Some(self.done(reply)));
                }
                State::Page(reader) => {
                    if !reader.advance(inbox, &mut self.allowed)? {
                        return Ok(None);
                    }
                    let reply = reader.take();
                    return Ok(Some(self.done(reply)));
                }
                State::Done => return Err(Error::protocol("a reply that nobody asked for")),
            }
        }
    }

    fn done(&mut self, reply: Reply) -> Reply {
        self.state = State::Done;
        reply
    }

    /// Decides by the first line.
    fn begin(&mut self, inbox: &mut Inbox, head: Head, body: usize) -> Result<Step> {
        let reply = match (&head, self.want) {
            (Head::Error(..) | Head::BulkError(_), _) => {
                let Some((from, to, end)) = inbox.error(&head, body)? else {
                    return Ok(Step::Wait);
                };
                let reply = Reply::Error(inbox.text(from, to)?);
                inbox.start += end;
                return Ok(Step::Whole(self.done(reply)));
            }
            (Head::OutOfBand(count), _) => {
                let skip = out_of_band(inbox, *count, body, &mut self.allowed)?;
                self.state = State::Skip { skip, is_reply: false };
                return Ok(Step::Next);
            }
            (Head::Map(count) | Head::Aggregate(count), Want::Map)
                if matches!(head, Head::Map(_)) || (*count > 0 && count.is_multiple_of(2)) =>
            {
                let skip = out_of_band(inbox, *count, body, &mut self.allowed)?;
                self.state = State::Skip { skip, is_reply: true };
                return Ok(Step::Next);
            }
            (_, Want::Any) => {
                let skip = Skip::elements(1, self.allowed)?;
                self.state = State::Skip { skip, is_reply: true };
                return Ok(Step::Next);
            }
            (Head::Nil, Want::Plain | Want::Value) => Reply::Nil,
            (Head::Int(number), Want::Plain) => Reply::Int(*number),
            (Head::Simple(from, to), Want::Plain) => {
                Reply::Simple(match &inbox.bytes[*from..*to] {
                    b"OK" => Simple::Ok,
                    b"QUEUED" => Simple::Queued,
                    _ => Simple::Other,
                })
            }
            (Head::Bulk(len), Want::Value) if *len < LARGE => {
                self.state = State::Small { at: body, len: *len };
                return Ok(Step::Next);
            }
            (Head::Bulk(len), Want::Value) => {
                self.state = State::Large { buffer: inbox.begin_large(body, *len)?, len: *len };
                return Ok(Step::Next);
            }
            (Head::Aggregate(count), Want::Batch(wanted)) if *count == wanted => {
                self.state = State::Batch(Batch::new(body, wanted)?);
                return Ok(Step::Next);
            }
            (Head::Aggregate(count), Want::Batch(wanted)) => {
                return Err(Error::protocol(format!("{count} answers to {wanted} keys")));
            }
            (Head::Aggregate(count), Want::Statuses(wanted)) if *count == wanted => {
                inbox.start += body;
                self.state = State::Elements(Elements::new(Kind::Status, wanted));
                return Ok(Step::Next);
            }
            (Head::Aggregate(2), Want::Page) => {
                inbox.start += body;
                self.state = State::Page(Box::new(PageReader::new()));
                return Ok(Step::Next);
            }
            _ => return Err(Error::protocol("a reply of another type than the command has")),
        };
        inbox.start += body;
        Ok(Step::Whole(self.done(reply)))
    }
}
