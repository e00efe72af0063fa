//! RESP replies, RESP2 and RESP3, decoded where they lie and resumed where the bytes ran out: whatever arrives, and in
//! whatever pieces, each byte is looked at once.

mod batch;
mod inbox;
mod scan;
#[cfg(test)]
mod tests;

pub use self::inbox::Inbox;
use self::inbox::{Head, LARGE, NO_MEMORY};
use self::scan::Scan;
use crate::error::{Error, Result};
use crate::reserve as memory;
use crate::value::{Span, Value, Values};

/// What a command expects.
#[derive(Clone, Copy)]
pub enum Want {
    /// A status, a number, nil.
    Plain,
    /// A bulk string or nil.
    Value,
    /// So many bulk strings or nils.
    Batch(usize),
    /// Any shape, small.
    Tree,
}

#[derive(Debug)]
pub enum Reply {
    Simple(Simple),
    Int(i64),
    Nil,
    Value(Value),
    Batch(Values),
    Tree(Tree),
    /// The server's own words.
    Error(String),
    /// A value that there is no memory for.
    NoMemory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simple {
    Ok,
    Queued,
    Other,
}

#[derive(Debug, PartialEq)]
pub enum Tree {
    Leaf,
    Nil,
    Int(i64),
    Bulk(Vec<u8>),
    Error(String),
    List(Vec<Tree>),
}

/// Decodes one reply.
pub struct Decoder {
    want: Want,
    state: State,
}

enum State {
    Head,
    /// Skipping a frame out of band, or finding the end of a tree.
    Scan(Scan),
    /// In the middle of a batch: the next frame is at `at`, counted from the undecoded start.
    Batch {
        at: usize,
        spans: Vec<Span>,
        needed: usize,
    },
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
        Self { want, state: State::Head }
    }

    /// Where to put what arrives next.
    pub fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        let needed = match &mut self.state {
            State::Large { buffer, .. } if buffer.len() < buffer.capacity() => return Ok(buffer),
            State::Small { at, len } => inbox.missing(*at + *len + 2),
            State::Batch { needed, .. } => inbox.missing(*needed),
            State::Scan(scan) => inbox.missing(scan.needed),
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
                State::Scan(scan) => {
                    let end = scan.advance(inbox)?;
                    if scan.is_out_of_band {
                        // What is skipped is not kept, however much there is of it.
                        let skipped = std::mem::take(&mut scan.at);
                        inbox.start += skipped;
                        scan.needed = scan.needed.saturating_sub(skipped);
                        if end.is_none() {
                            return Ok(None);
                        }
                        self.state = State::Head;
                        continue;
                    }
                    let Some(end) = end else { return Ok(None) };
                    let tree = inbox.tree(&mut 0, 0)?;
                    return Ok(Some(self.finish(inbox, end, Reply::Tree(tree))));
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
                State::Batch { at, spans, needed } => {
                    let Want::Batch(count) = self.want else { unreachable!("only for a batch") };
                    if !inbox.batch(at, spans, needed, count)? {
                        return Ok(None);
                    }
                    let (end, spans) = (*at, std::mem::take(spans));
                    self.state = State::Done;
                    return inbox.give_batch(end, spans).map(|values| Some(Reply::Batch(values)));
                }
                State::Done => return Err(Error::protocol("a reply that nobody asked for")),
            }
        }
    }

    fn finish(&mut self, inbox: &mut Inbox, end: usize, reply: Reply) -> Reply {
        inbox.start += end;
        self.state = State::Done;
        reply
    }

    /// Decides by the first line.
    fn begin(&mut self, inbox: &mut Inbox, head: Head, body: usize) -> Result<Step> {
        let reply = match (head, self.want) {
            (Head::Error(from, to), _) => Reply::Error(inbox.text(from, to)?),
            (Head::BulkError(len), _) => {
                if !inbox.has_body(body, len)? {
                    return Ok(Step::Wait);
                }
                let from = inbox.start + body;
                let reply = Reply::Error(inbox.text(from, from + len)?);
                return Ok(Step::Whole(self.finish(inbox, body + len + 2, reply)));
            }
            (Head::OutOfBand(count), _) => {
                self.state = State::Scan(Scan::out_of_band(body, count));
                return Ok(Step::Next);
            }
            (_, Want::Tree) => {
                self.state = State::Scan(Scan::of_reply());
                return Ok(Step::Next);
            }
            (Head::Nil, Want::Plain | Want::Value) => Reply::Nil,
            (Head::Int(number), Want::Plain) => Reply::Int(number),
            (Head::Simple(from, to), Want::Plain) => Reply::Simple(match &inbox.bytes[from..to] {
                b"OK" => Simple::Ok,
                b"QUEUED" => Simple::Queued,
                _ => Simple::Other,
            }),
            (Head::Bulk(len), Want::Value) if len < LARGE => {
                self.state = State::Small { at: body, len };
                return Ok(Step::Next);
            }
            (Head::Bulk(len), Want::Value) => {
                self.state = State::Large { buffer: inbox.begin_large(body, len)?, len };
                return Ok(Step::Next);
            }
            (Head::Aggregate(count), Want::Batch(wanted)) if count == wanted => {
                let all = count + Values::RESERVED_SPANS;
                let mut spans = memory::exactly(all, NO_MEMORY)?;
                spans.resize(Values::RESERVED_SPANS, Span::ORIGIN);
                self.state = State::Batch { at: body, spans, needed: 0 };
                return Ok(Step::Next);
            }
            (Head::Aggregate(count), Want::Batch(wanted)) => {
                return Err(Error::protocol(format!("{count} answers to {wanted} keys")));
            }
            _ => return Err(Error::protocol("a reply of another type than the command has")),
        };
        Ok(Step::Whole(self.finish(inbox, body, reply)))
    }
}
