//! RESP replies, RESP2 and RESP3, decoded where they lie and resumed where the bytes ran out: whatever arrives, and in
//! whatever pieces, each byte is looked at once.

use crate::error::{Error, Result};
use crate::value::{HEADER, Span, Value, Values};

/// The longest line (status, error text, number) that is waited for.
const LONGEST_LINE: usize = 64 << 10;
/// What a server may hold at the most (`proto-max-bulk-len`).
const LONGEST_BULK: usize = crate::cache::MAX_BULK;
/// Aggregates within aggregates; no answer to a command of ours goes deeper than two.
const DEEPEST: usize = 8;
/// A value from this size on is read straight into its own buffer.
const LARGE: usize = 16 << 10;
/// What one read asks for at the least.
const READ_SIZE: usize = 16 << 10;
/// A receive buffer above this is given back after the call.
const KEEP: usize = 1 << 20;
/// The longest bulk string in what is only skipped.
const LONGEST_ASIDE: usize = 1 << 20;
/// The most that a tree may take: a page of keys has room in it, each as long as can be.
const LARGEST_TREE: usize = 2 * LONGEST_BULK;

/// What has arrived and is not decoded yet. The first [`HEADER`] bytes stay free, so that any value can be framed where it
/// lies.
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

/// The first line of a frame. Lengths are checked; a text is a range of the inbox.
enum Head {
    Simple(usize, usize),
    Error(usize, usize),
    Int(i64),
    Bulk(usize),
    BulkError(usize),
    Nil,
    Aggregate(usize),
    /// So many elements: keys and values.
    Map(usize),
    /// Something out of band that precedes a reply: so many elements are skipped.
    Aside(usize),
    /// A double, a big number, a boolean: no command of ours is answered with one.
    OtherLine,
}

impl Inbox {
    pub fn new() -> Self {
        Self { bytes: vec![0; HEADER], start: HEADER }
    }

    /// Whether everything that arrived has been decoded.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// How much has arrived and is not decoded yet.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Gives memory back that one call has needed and the next may not.
    pub fn tidy(&mut self) {
        if self.is_empty() && self.bytes.capacity() > KEEP {
            *self = Self::new();
        }
    }

    /// Where to put what arrives next: a buffer with spare capacity.
    pub fn room(&mut self, wanted: usize) -> Result<&mut Vec<u8>> {
        if self.is_empty() {
            self.bytes.truncate(HEADER);
            self.start = HEADER;
        }
        let wanted = wanted.max(READ_SIZE);
        if self.bytes.capacity() - self.bytes.len() < wanted {
            if self.start > HEADER {
                self.bytes.drain(HEADER..self.start);
                self.start = HEADER;
            }
            self.bytes.try_reserve(wanted).map_err(no_memory)?;
        }
        Ok(&mut self.bytes)
    }

    /// The head of the frame at `at`, counted from the undecoded start, and where its body begins.
    fn head(&self, at: usize) -> Result<Option<(Head, usize)>> {
        if let Some((len, body)) = self.short_bulk(at) {
            return Ok(Some((Head::Bulk(len), body)));
        }
        let bytes = &self.bytes[self.start + at..];
        let Some(&kind) = bytes.first() else { return Ok(None) };
        if !b"+-:$*_%~>|(,#=!".contains(&kind) {
            return Err(Error::protocol(format!("a reply starts with byte {kind:#04x}")));
        }
        let Some(end) = line_end(bytes) else {
            if bytes.len() >= LONGEST_LINE {
                return Err(Error::protocol("a line without an end"));
            }
            return Ok(None);
        };
        if end < 2 || bytes[end - 1] != b'\r' {
            return Err(Error::protocol("a line that does not end in CRLF"));
        }
        let line = &bytes[1..end - 1];
        let text = (self.start + at + 1, self.start + at + end - 1);
        let head = match kind {
            b'+' => Head::Simple(text.0, text.1),
            b'-' => Head::Error(text.0, text.1),
            b':' => Head::Int(number(line)?),
            b'_' if line.is_empty() => Head::Nil,
            b'$' | b'*' if line == b"-1" => Head::Nil,
            b'$' | b'=' => Head::Bulk(length(line, LONGEST_BULK)?),
            b'!' => Head::BulkError(length(line, LONGEST_LINE)?),
            b'*' | b'~' => Head::Aggregate(length(line, usize::MAX)?),
            b'%' => Head::Map(length(line, usize::MAX / 2)? * 2),
            b'>' => Head::Aside(length(line, usize::MAX)?),
            b'|' => Head::Aside(length(line, usize::MAX / 2)? * 2),
            _ => Head::OtherLine,
        };
        Ok(Some((head, at + end + 1)))
    }

    /// The head of a bulk string below a megabyte, if that is what is at `at`: the common case, in one pass.
    #[inline]
    fn short_bulk(&self, at: usize) -> Option<(usize, usize)> {
        let [b'$', line @ ..] = self.bytes.get(self.start + at..)? else { return None };
        let mut len = 0;
        for (count, &byte) in line.iter().enumerate().take(7) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                let ends = count > 0 && byte == b'\r' && line.get(count + 1) == Some(&b'\n');
                return ends.then_some((len, at + count + 3));
            }
            len = len * 10 + usize::from(digit);
        }
        None
    }

    /// The reply, if it is one of the two most common, and all there: a small value, or OK.
    #[inline]
    fn common(&mut self, want: Want) -> Result<Option<Reply>> {
        match want {
            Want::Plain if self.bytes[self.start..].starts_with(b"+OK\r\n") => {
                self.start += 5;
                Ok(Some(Reply::Simple(Simple::Ok)))
            }
            Want::Value => match self.short_bulk(0) {
                Some((len, body)) if len < LARGE && self.has_body(body, len)? => {
                    Ok(Some(Reply::Value(self.small(body, len))))
                }
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Takes a small value whose body is at `at` and all there.
    fn small(&mut self, at: usize, len: usize) -> Value {
        let data = self.start + at;
        self.start = data + len + 2;
        Value::copy_framed(&mut self.bytes[data - HEADER..=data + len])
    }

    fn text(&self, from: usize, to: usize) -> String {
        match &self.bytes[from..to] {
            [] => "an error without a text".to_owned(),
            text => String::from_utf8_lossy(text).into_owned(),
        }
    }

    /// Whether the bulk body at `at` is all there, CRLF included.
    fn has_body(&self, at: usize, len: usize) -> Result<bool> {
        let body = &self.bytes[self.start + at..];
        if body.len() < len + 2 {
            return Ok(false);
        }
        if &body[len..len + 2] != b"\r\n" {
            return Err(Error::protocol("a bulk string that does not end in CRLF"));
        }
        Ok(true)
    }

    fn missing(&self, needed: usize) -> usize {
        (self.start + needed).saturating_sub(self.bytes.len())
    }
}

/// Where the first line ends. All lines but error texts are short; in a long one `contains`, a fast search, goes first, so
/// that a line which arrives byte by byte is not walked through again and again.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let (near, far) = bytes[..bytes.len().min(LONGEST_LINE)].split_at(bytes.len().min(32));
    near.iter().position(|&byte| byte == b'\n').or_else(|| {
        let at = far.contains(&b'\n').then(|| far.iter().position(|&byte| byte == b'\n'));
        Some(near.len() + at??)
    })
}

fn no_memory(_: std::collections::TryReserveError) -> Error {
    Error::no_memory("memory for the reply")
}

fn number(line: &[u8]) -> Result<i64> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::protocol("a number that is none"))
}

fn length(line: &[u8], most: usize) -> Result<usize> {
    let mut total: usize = 0;
    if line.is_empty() || line.len() > 19 {
        return Err(Error::protocol("a length that is none"));
    }
    for &byte in line {
        if !byte.is_ascii_digit() {
            return Err(Error::protocol("a length that is none"));
        }
        total = total * 10 + usize::from(byte - b'0');
    }
    if total > most {
        return Err(Error::protocol(format!("a length of {total}")));
    }
    Ok(total)
}

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
                    if let Some(reply) = inbox.common(self.want)? {
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
                    if scan.aside {
                        // What is skipped is not kept, however much there is of it.
                        inbox.start += std::mem::take(&mut scan.at);
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
                    return Ok(Some(Reply::Value(inbox.small(at, len))));
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
            (Head::Error(from, to), _) => Reply::Error(inbox.text(from, to)),
            (Head::BulkError(len), _) => {
                if !inbox.has_body(body, len)? {
                    return Ok(Step::Wait);
                }
                let from = inbox.start + body;
                let reply = Reply::Error(inbox.text(from, from + len));
                return Ok(Step::Whole(self.finish(inbox, body + len + 2, reply)));
            }
            (Head::Aside(count), _) => {
                self.state = State::Scan(Scan::new(body, count, true));
                return Ok(Step::Next);
            }
            (_, Want::Tree) => {
                self.state = State::Scan(Scan::new(0, 1, false));
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
                let mut spans = Vec::new();
                spans.try_reserve_exact(count + Values::RESERVED_SPANS).map_err(no_memory)?;
                spans.resize(Values::RESERVED_SPANS, Span::MISS);
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

impl Inbox {
    /// Takes what has arrived of a large value into a buffer of the value's own size.
    fn begin_large(&mut self, body: usize, len: usize) -> Result<Vec<u8>> {
        let size = HEADER + len + 2;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(size).map_err(no_memory)?;
        buffer.extend_from_slice(&[0; HEADER]);
        let arrived = &self.bytes[self.start + body..];
        let taken = arrived.len().min(len + 2);
        buffer.extend_from_slice(&arrived[..taken]);
        self.start += body + taken;
        Ok(buffer)
    }

    fn large(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<Option<Value>> {
        let size = HEADER + len + 2;
        if buffer.len() < size {
            return Ok(None);
        }
        // The buffer may have been a little larger than asked for, and what follows the value read into it.
        self.bytes.extend_from_slice(&buffer[size..]);
        if buffer[size - 2..size] != *b"\r\n" {
            return Err(Error::protocol("a bulk string that does not end in CRLF"));
        }
        buffer.truncate(size - 1);
        buffer[size - 2] = 0;
        Ok(Some(Value::Buffer(std::mem::take(buffer))))
    }

    /// Goes on with a batch at `at`; whether it is whole.
    fn batch(
        &mut self,
        at: &mut usize,
        spans: &mut Vec<Span>,
        needed: &mut usize,
        count: usize,
    ) -> Result<bool> {
        while spans.len() < count + Values::RESERVED_SPANS {
            if let Some((len, body)) = self.short_bulk(*at)
                && self.has_body(body, len)?
            {
                let end = self.start + body + len;
                self.bytes[end] = 0;
                spans.push(Span { at: body, len });
                *at = body + len + 2;
                continue;
            }
            match self.head(*at)? {
                None => {
                    *needed = 0;
                    return Ok(false);
                }
                Some((Head::Nil, next)) => {
                    spans.push(Span::MISS);
                    *at = next;
                }
                Some((Head::Bulk(len), body)) => {
                    if !self.has_body(body, len)? {
                        *needed = body + len + 2;
                        return Ok(false);
                    }
                    let end = self.start + body + len;
                    self.bytes[end] = 0;
                    spans.push(Span { at: body, len });
                    *at = body + len + 2;
                }
                Some((Head::Aside(elements), body)) => {
                    // An attribute of the next answer: rare and small, so it is begun anew when more of it arrives.
                    let Some(end) = Scan::new(body, elements, true).advance(self)? else {
                        *needed = 0;
                        return Ok(false);
                    };
                    *at = end;
                }
                Some(_) => return Err(Error::protocol("an answer in a batch that is no value")),
            }
        }
        Ok(true)
    }

    /// Hands a whole batch of `end` bytes over: a large one with the buffer itself, a small one as an exact copy.
    fn give_batch(&mut self, end: usize, mut spans: Vec<Span>) -> Result<Values> {
        let frame = self.start..self.start + end;
        self.start = frame.end;
        if self.is_empty() && end >= self.bytes.capacity() / 2 {
            for span in &mut spans {
                if span.at != Span::MISS.at {
                    span.at += frame.start;
                }
            }
            let arena = std::mem::replace(self, Inbox::new()).bytes;
            return Ok(Values::Arena { spans, arena });
        }
        let mut arena = Vec::new();
        arena.try_reserve_exact(end).map_err(no_memory)?;
        arena.extend_from_slice(&self.bytes[frame]);
        Ok(Values::Arena { spans, arena })
    }

    /// The tree at `at`, which [`Scan`] has found to be whole.
    fn tree(&self, at: &mut usize, depth: usize) -> Result<Tree> {
        let Some((head, body)) = self.head(*at)? else {
            return Err(Error::protocol("a reply that ends too early"));
        };
        *at = body;
        Ok(match head {
            Head::Simple(..) | Head::OtherLine => Tree::Leaf,
            Head::Nil => Tree::Nil,
            Head::Int(number) => Tree::Int(number),
            Head::Error(from, to) => Tree::Error(self.text(from, to)),
            Head::Bulk(len) | Head::BulkError(len) => {
                let from = self.start + body;
                *at = body + len + 2;
                match head {
                    Head::BulkError(_) => Tree::Error(self.text(from, from + len)),
                    _ => {
                        let mut bytes = Vec::new();
                        bytes.try_reserve_exact(len).map_err(no_memory)?;
                        bytes.extend_from_slice(&self.bytes[from..from + len]);
                        Tree::Bulk(bytes)
                    }
                }
            }
            Head::Aggregate(count) | Head::Map(count) if depth < DEEPEST => {
                // The count is the server's word, so room is made as the elements turn up.
                let mut list = Vec::new();
                for _ in 0..count {
                    list.try_reserve(1).map_err(no_memory)?;
                    list.push(self.tree(at, depth + 1)?);
                }
                Tree::List(list)
            }
            Head::Aside(count) if depth < DEEPEST => {
                for _ in 0..count {
                    self.tree(at, depth + 1)?;
                }
                self.tree(at, depth)?
            }
            Head::Aggregate(_) | Head::Map(_) | Head::Aside(_) => {
                return Err(Error::protocol("a reply nested too deep"));
            }
        })
    }
}

/// Finds the end of a frame of any shape.
struct Scan {
    at: usize,
    /// Elements still to come, of the frame and of each aggregate that is open in it.
    left: [usize; DEEPEST + 1],
    depth: usize,
    needed: usize,
    aside: bool,
}

impl Scan {
    fn new(at: usize, elements: usize, aside: bool) -> Self {
        let mut left = [0; DEEPEST + 1];
        left[0] = elements;
        Self { at, left, depth: 0, needed: 0, aside }
    }

    /// The end of the frame, once it has arrived.
    fn advance(&mut self, inbox: &Inbox) -> Result<Option<usize>> {
        loop {
            if self.left[self.depth] == 0 {
                if self.depth == 0 {
                    return Ok(Some(self.at));
                }
                self.depth -= 1;
                continue;
            }
            let Some((head, body)) = inbox.head(self.at)? else {
                self.needed = 0;
                return Ok(None);
            };
            match head {
                Head::Bulk(len) if self.aside && len > LONGEST_ASIDE => {
                    return Err(Error::protocol("too much that nobody asked for"));
                }
                Head::Bulk(len) if self.at > LARGEST_TREE - len => {
                    return Err(Error::protocol("a reply that is too large for its command"));
                }
                Head::Bulk(len) | Head::BulkError(len) => {
                    if !inbox.has_body(body, len)? {
                        self.needed = body + len + 2;
                        return Ok(None);
                    }
                    self.at = body + len + 2;
                    self.left[self.depth] -= 1;
                }
                Head::Aggregate(count) | Head::Map(count) | Head::Aside(count) => {
                    if self.depth == DEEPEST {
                        return Err(Error::protocol("a reply nested too deep"));
                    }
                    // An attribute comes before its element and is none.
                    self.left[self.depth] -= usize::from(!matches!(head, Head::Aside(_)));
                    self.depth += 1;
                    self.left[self.depth] = count;
                    self.at = body;
                }
                _ => {
                    self.at = body;
                    self.left[self.depth] -= 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `bytes` in pieces of `step`; the reply, and whether all was used.
    fn decode(want: Want, bytes: &[u8], step: usize) -> Result<Option<(Reply, bool)>> {
        let mut inbox = Inbox::new();
        let mut decoder = Decoder::new(want);
        let mut pieces = bytes.chunks(step);
        loop {
            if let Some(reply) = decoder.advance(&mut inbox)? {
                return Ok(Some((reply, inbox.is_empty() && pieces.next().is_none())));
            }
            let Some(piece) = pieces.next() else { return Ok(None) };
            let mut rest = piece;
            while !rest.is_empty() {
                let room = decoder.room(&mut inbox)?;
                let fits = rest.len().min(room.capacity() - room.len());
                room.extend_from_slice(&rest[..fits]);
                rest = &rest[fits..];
                if !rest.is_empty() && decoder.advance(&mut inbox)?.is_some() {
                    return Ok(None);
                }
            }
        }
    }

    fn whole(want: Want, bytes: &[u8]) -> Reply {
        let mut last = None;
        for step in [1, 2, 3, 7, bytes.len().max(1)] {
            if bytes.len() / step > 100_000 {
                continue;
            }
            let (reply, all) = decode(want, bytes, step).unwrap().expect("a whole reply");
            assert!(all, "all of the reply is used");
            last = Some(reply);
        }
        last.unwrap()
    }

    fn value(bytes: &[u8]) -> Vec<u8> {
        match whole(Want::Value, bytes) {
            Reply::Value(value) => value.data().to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_replies() {
        assert!(matches!(whole(Want::Plain, b"+OK\r\n"), Reply::Simple(Simple::Ok)));
        assert!(matches!(whole(Want::Plain, b"+QUEUED\r\n"), Reply::Simple(Simple::Queued)));
        assert!(matches!(whole(Want::Plain, b":-12\r\n"), Reply::Int(-12)));
        for nil in [&b"$-1\r\n"[..], b"*-1\r\n", b"_\r\n"] {
            assert!(matches!(whole(Want::Plain, nil), Reply::Nil));
            assert!(matches!(whole(Want::Value, nil), Reply::Nil));
        }
        for error in [&b"-ERR no\r\n"[..], b"!6\r\nERR no\r\n"] {
            assert!(matches!(whole(Want::Batch(3), error), Reply::Error(text) if text == "ERR no"));
        }
    }

    #[test]
    fn values_of_every_size() {
        for len in [0, 1, 100, LARGE - 1, LARGE, LARGE + 1, 1_000_000] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut bytes = format!("${len}\r\n").into_bytes();
            bytes.extend_from_slice(&data);
            bytes.extend_from_slice(b"\r\n");
            assert_eq!(value(&bytes), data);
        }
        assert_eq!(value(b"=7\r\ntxt:abc\r\n"), b"txt:abc");
    }

    #[test]
    fn what_is_out_of_band_is_skipped() {
        let bytes = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n:1\r\n$1\r\nv\r\n";
        assert_eq!(value(bytes), b"v");
        let nested = b">2\r\n|1\r\n+a\r\n+b\r\n+invalidate\r\n+k\r\n$1\r\nv\r\n";
        assert_eq!(value(nested), b"v");
        let within = b"*2\r\n|1\r\n+ttl\r\n:1\r\n$1\r\na\r\n$1\r\nb\r\n";
        let Reply::Batch(values) = whole(Want::Batch(2), within) else { panic!() };
        assert_eq!((values.get(0), values.get(1)), (Some(&b"a"[..]), Some(&b"b"[..])));
        let Reply::Tree(tree) = whole(Want::Tree, within) else { panic!() };
        let bulk = |byte| Tree::Bulk(vec![byte]);
        assert_eq!(tree, Tree::List(vec![bulk(b'a'), bulk(b'b')]));
    }

    #[test]
    fn what_is_skipped_is_not_kept() {
        let mut inbox = Inbox::new();
        let mut decoder = Decoder::new(Want::Value);
        let mut piece = b">1000000\r\n".to_vec();
        for _ in 0..1000 {
            decoder.room(&mut inbox).unwrap().extend_from_slice(&piece);
            assert!(decoder.advance(&mut inbox).unwrap().is_none());
            assert!(inbox.bytes.capacity() < 1 << 20);
            piece = [b"$10000\r\n", &[b'x'; 10000][..], b"\r\n"].concat();
        }
    }

    #[test]
    fn batches() {
        let bytes = b"*4\r\n$3\r\nabc\r\n$-1\r\n$0\r\n\r\n_\r\n";
        let Reply::Batch(values) = whole(Want::Batch(4), bytes) else { panic!() };
        let got: Vec<_> = (0..4).map(|i| values.get(i)).collect();
        assert_eq!(got, [Some(&b"abc"[..]), None, Some(b""), None]);
        let Reply::Batch(values) = whole(Want::Batch(0), b"*0\r\n") else { panic!() };
        assert!(values.is_empty());
        let mut large = b"*1000\r\n".to_vec();
        for i in 0..1000 {
            large.extend_from_slice(format!("$100\r\n{i:0100}\r\n").as_bytes());
        }
        let Reply::Batch(values) = whole(Want::Batch(1000), &large) else { panic!() };
        assert!((0..1000).all(|i| values.get(i) == Some(format!("{i:0100}").as_bytes())));
    }

    #[test]
    fn a_batch_after_other_bytes_keeps_them() {
        let mut inbox = Inbox::new();
        inbox.bytes.extend_from_slice(b"*1\r\n$1\r\na\r\n:7\r\n");
        let batch = Decoder::new(Want::Batch(1)).advance(&mut inbox).unwrap();
        assert!(matches!(batch, Some(Reply::Batch(values)) if values.get(0) == Some(b"a")));
        let next = Decoder::new(Want::Plain).advance(&mut inbox).unwrap();
        assert!(matches!(next, Some(Reply::Int(7))) && inbox.is_empty());
    }

    #[test]
    fn trees() {
        let bytes = b"*2\r\n$2\r\n17\r\n*2\r\n$1\r\na\r\n-ERR x\r\n";
        let Reply::Tree(tree) = whole(Want::Tree, bytes) else { panic!() };
        let keys = Tree::List(vec![Tree::Bulk(b"a".to_vec()), Tree::Error("ERR x".into())]);
        assert_eq!(tree, Tree::List(vec![Tree::Bulk(b"17".to_vec()), keys]));
        let hello = b"%2\r\n+server\r\n+redis\r\n+modules\r\n*0\r\n";
        assert!(matches!(whole(Want::Tree, hello), Reply::Tree(Tree::List(l)) if l.len() == 4));
    }

    #[test]
    fn garbage_is_an_error_and_never_waited_for() {
        let endless = [b'+'; LONGEST_LINE + 1];
        let deep = b"*1\r\n".repeat(DEEPEST + 2);
        let cases: [(Want, &[u8]); 16] = [
            (Want::Value, b"HTTP/1.1 400 Bad Request\r\n"),
            (Want::Value, b"\x15\x03\x01"),
            (Want::Value, b"$999999999999\r\n"),
            (Want::Value, b"$99999999999999999999999\r\n"),
            (Want::Value, b"$-2\r\n"),
            (Want::Value, b"$\r\n"),
            (Want::Value, b"$1x\r\n"),
            (Want::Value, b"$3\nabc\n"),
            (Want::Value, b"$3\r\nabcXY"),
            (Want::Value, b":1\r\n"),
            (Want::Plain, b"$1\r\na\r\n"),
            (Want::Plain, b":1a\r\n"),
            (Want::Batch(2), b"*2147483647\r\n"),
            (Want::Batch(1), b"*1\r\n:1\r\n"),
            (Want::Plain, &endless),
            (Want::Tree, &deep),
        ];
        for (want, bytes) in cases {
            let name = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]);
            for step in [1, bytes.len()] {
                assert!(decode(want, bytes, step).is_err(), "{name:?}");
            }
        }
    }

    #[test]
    fn what_is_cut_is_waited_for() {
        for (want, bytes) in [
            (Want::Value, &b"$3\r\nab"[..]),
            (Want::Value, b"$100000\r\nab"),
            (Want::Batch(2), b"*2\r\n$1\r\na\r\n$"),
            (Want::Tree, b"*2147483647\r\n:1\r\n"),
            (Want::Plain, b"+O"),
            (Want::Plain, b"-ERR\r"),
        ] {
            assert!(decode(want, bytes, 1).unwrap().is_none());
        }
    }
}
