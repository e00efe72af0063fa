//! What has arrived: lines, lengths and bodies, found where they lie.

use super::{Reply, Simple, Tree, Want};
use crate::error::{Error, Result};
use crate::op::MAX_BULK;
use crate::reserve as memory;
use crate::value::{HEADER, Span, Value, Values};

/// The longest line (status, error text, number) that is waited for.
pub const LONGEST_LINE: usize = 64 << 10;
/// Aggregates within aggregates; no answer to a command of ours goes deeper than two.
pub const DEEPEST: usize = 8;
/// A value from this size on is read straight into its own buffer.
pub const LARGE: usize = 16 << 10;
/// What one read asks for at the least.
const READ_SIZE: usize = 16 << 10;
/// A receive buffer above this is given back after the call.
const KEEP: usize = 1 << 20;

pub const NO_MEMORY: &str = "memory for the reply";

/// What has arrived and is not decoded yet. The first [`HEADER`] bytes stay free, so that any value can be framed where
/// it lies. It has no memory before something is to arrive.
#[derive(Default)]
pub struct Inbox {
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
}

/// The first line of a frame. Lengths are checked; a text is a range of the inbox.
pub enum Head {
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
    OutOfBand(usize),
    /// A double, a big number, a boolean: no command of ours is answered with one.
    OtherLine,
}

impl Inbox {
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
            *self = Self::default();
        }
    }

    /// Where to put what arrives next: a buffer with spare capacity.
    #[inline(always)]
    pub fn room(&mut self, wanted: usize) -> Result<&mut Vec<u8>> {
        if self.is_empty() {
            self.bytes.truncate(HEADER);
            self.start = HEADER;
        }
        let wanted = wanted.max(READ_SIZE);
        if self.bytes.capacity() - self.bytes.len() < wanted {
            self.make_room(wanted)?;
        }
        Ok(&mut self.bytes)
    }

    #[cold]
    fn make_room(&mut self, wanted: usize) -> Result<()> {
        if self.start > HEADER {
            self.bytes.drain(HEADER..self.start);
            self.start = HEADER;
        }
        let head = HEADER.saturating_sub(self.bytes.len());
        if let Err(error) = memory::try_reserve(&mut self.bytes, head + wanted, NO_MEMORY) {
            if head > 0 {
                *self = Self::default();
            }
            return Err(error);
        }
        if head > 0 {
            self.bytes.resize(HEADER, 0);
        }
        Ok(())
    }

    /// The head of the frame at `at`, counted from the undecoded start, and where its body begins.
    pub(super) fn head(&self, at: usize) -> Result<Option<(Head, usize)>> {
        let bytes = &self.bytes[self.start + at..];
        if let Some((len, body)) = short_bulk(bytes).or_else(|| longer_bulk(bytes)) {
            return Ok(Some((Head::Bulk(len), at + body)));
        }
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
            b'$' | b'=' => Head::Bulk(length(line, MAX_BULK)?),
            b'!' => Head::BulkError(length(line, LONGEST_LINE)?),
            b'*' | b'~' => Head::Aggregate(length(line, usize::MAX)?),
            b'%' => Head::Map(length(line, usize::MAX / 2)? * 2),
            b'>' => Head::OutOfBand(length(line, usize::MAX)?),
            b'|' => Head::OutOfBand(length(line, usize::MAX / 2)? * 2),
            _ => Head::OtherLine,
        };
        Ok(Some((head, at + end + 1)))
    }

    /// The reply, if it is one of the most common, and all there: a small value, none, or OK.
    pub(super) fn common(&mut self, want: Want) -> Option<Reply> {
        match want {
            Want::Plain => self.ok().then_some(Reply::Simple(Simple::Ok)),
            Want::Value => self.small_value().map(|value| value.map_or(Reply::Nil, Reply::Value)),
            _ => None,
        }
    }

    /// Takes an OK, if that is the reply and all there.
    #[inline(always)]
    pub fn ok(&mut self) -> bool {
        let is_ok = self.bytes[self.start..].starts_with(b"+OK\r\n");
        if is_ok {
            self.start += 5;
        }
        is_ok
    }

    /// Takes a small value or the word that there is none, if that is the reply and all there.
    #[inline(always)]
    pub fn small_value(&mut self) -> Option<Option<Value>> {
        let bytes = &self.bytes[self.start..];
        let Some((len, body)) = short_bulk(bytes).or_else(|| longer_bulk(bytes)) else {
            if !bytes.starts_with(b"$-1\r\n") {
                return None;
            }
            self.start += 5;
            return Some(None);
        };
        if len >= LARGE {
            return None;
        }
        let data = self.start + body;
        let [framed @ .., b'\n'] = self.bytes.get_mut(data - HEADER..data + len + 2)? else {
            return None;
        };
        if framed.last() != Some(&b'\r') {
            return None;
        }
        let value = Value::copy_framed(framed)?;
        self.start = data + len + 2;
        Some(Some(value))
    }

    /// Takes up to `count` replies that are short values, or none, and all there. Where the values lie in the copy of
    /// them all, [`Span::MISS`] for none, follows [`Values::RESERVED_SPANS`] others.
    pub fn short_values(&mut self, count: usize, spans: &mut Vec<Span>) -> Vec<u8> {
        spans.clear();
        spans.resize(Values::RESERVED_SPANS, Span::MISS);
        let end = self.short_part(0, spans, count);
        let mut copy = Vec::new();
        if end == 0 {
            return copy;
        }
        if memory::without(|| copy.try_reserve_exact(HEADER + end)).is_err() {
            // They are left as they came.
            for span in spans.iter().filter(|span| span.at != Span::MISS.at) {
                self.bytes[self.start + span.at + span.len] = b'\r';
            }
            spans.clear();
            return copy;
        }
        copy.extend_from_slice(&self.bytes[self.start - HEADER..self.start + end]);
        self.start += end;
        copy
    }

    /// Takes a small value whose body is at `at` and all there; `None`: there is no memory for a copy.
    #[inline(always)]
    pub(super) fn small(&mut self, at: usize, len: usize) -> Option<Value> {
        let data = self.start + at;
        self.start = data + len + 2;
        Value::copy_framed(&mut self.bytes[data - HEADER..data + len + 1])
    }

    pub(super) fn text(&self, from: usize, to: usize) -> Result<String> {
        let mut text = String::new();
        // A byte that is none of a text is replaced by three.
        memory::without(|| text.try_reserve(3 * (to - from) + 24)).map_err(no_memory)?;
        if from == to {
            text.push_str("an error without a text");
        }
        for chunk in self.bytes[from..to].utf8_chunks() {
            text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Ok(text)
    }

    /// Whether the bulk body at `at` is all there, CRLF included.
    pub(super) fn has_body(&self, at: usize, len: usize) -> Result<bool> {
        let body = &self.bytes[self.start + at..];
        if body.len() < len + 2 {
            return Ok(false);
        }
        if &body[len..len + 2] != b"\r\n" {
            return Err(Error::protocol("a bulk string that does not end in CRLF"));
        }
        Ok(true)
    }

    pub(super) fn missing(&self, needed: usize) -> usize {
        (self.start + needed).saturating_sub(self.bytes.len())
    }
}

/// The length of a bulk string below a thousand, if that is what `bytes` begin with and there are eight of them, and
/// where its body begins: the common case, taken from one word without a loop.
#[inline(always)]
fn short_bulk(bytes: &[u8]) -> Option<(usize, usize)> {
    short_line(u64::from_le_bytes(*bytes.first_chunk()?))
}

/// The same of the first eight bytes as one word.
#[inline(always)]
pub(super) fn short_line(first: u64) -> Option<(usize, usize)> {
    let is_line = |mask, line| first & u64::from_le_bytes(mask) == u64::from_le_bytes(line);
    // What is a digit becomes its value, and anything else is found by a bit that no digit has.
    let digits = (first >> 8) ^ 0x30_3030;
    let not_digits = digits.wrapping_add(0x76_7676) | digits;
    let digit = |place: usize| (digits >> (8 * place)) as usize & 0xf;
    if is_line([255, 0, 0, 0, 255, 255, 0, 0], *b"$\0\0\0\r\n\0\0") && not_digits & 0x80_8080 == 0 {
        return Some((digit(0) * 100 + digit(1) * 10 + digit(2), 6));
    }
    if is_line([255, 0, 0, 255, 255, 0, 0, 0], *b"$\0\0\r\n\0\0\0") && not_digits & 0x8080 == 0 {
        return Some((digit(0) * 10 + digit(1), 5));
    }
    if is_line([255, 0, 255, 255, 0, 0, 0, 0], *b"$\0\r\n\0\0\0\0") && not_digits & 0x80 == 0 {
        return Some((digit(0), 4));
    }
    None
}

/// The same below a megabyte, however much there is.
#[inline(never)]
fn longer_bulk(bytes: &[u8]) -> Option<(usize, usize)> {
    let [b'$', line @ ..] = bytes else { return None };
    let mut len = 0;
    for (count, &byte) in line.iter().enumerate().take(7) {
        if !byte.is_ascii_digit() {
            let ends = count > 0 && byte == b'\r' && line.get(count + 1) == Some(&b'\n');
            return ends.then_some((len, count + 3));
        }
        len = len * 10 + usize::from(byte - b'0');
    }
    None
}

/// Where the first line ends. All lines but error texts are short; in a long one `contains`, a fast search, goes first,
/// so that a line which arrives byte by byte is not walked through again and again.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let (near, far) = bytes[..bytes.len().min(LONGEST_LINE)].split_at(bytes.len().min(32));
    near.iter().position(|&byte| byte == b'\n').or_else(|| {
        let at = far.contains(&b'\n').then(|| far.iter().position(|&byte| byte == b'\n'));
        Some(near.len() + at??)
    })
}

fn no_memory(_: std::collections::TryReserveError) -> Error {
    Error::no_memory(NO_MEMORY)
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

impl Inbox {
    /// Takes what has arrived of a large value into a buffer of the value's own size.
    pub(super) fn begin_large(&mut self, body: usize, len: usize) -> Result<Vec<u8>> {
        let size = HEADER + len + 2;
        let mut buffer = memory::exactly(size, NO_MEMORY)?;
        buffer.extend_from_slice(&[0; HEADER]);
        let arrived = &self.bytes[self.start + body..];
        let taken = arrived.len().min(len + 2);
        buffer.extend_from_slice(&arrived[..taken]);
        self.start += body + taken;
        Ok(buffer)
    }

    pub(super) fn large(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<Option<Value>> {
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

    /// The tree at `at`, which a scan has found to be whole.
    pub(super) fn tree(&self, at: &mut usize, depth: usize) -> Result<Tree> {
        let head = loop {
            let Some((head, body)) = self.head(*at)? else {
                return Err(Error::protocol("a reply that ends too early"));
            };
            *at = body;
            match head {
                Head::OutOfBand(count) if depth < DEEPEST => {
                    for _ in 0..count {
                        self.tree(at, depth + 1)?;
                    }
                }
                head => break head,
            }
        };
        let body = *at;
        Ok(match head {
            Head::Simple(..) | Head::OtherLine => Tree::Leaf,
            Head::Nil => Tree::Nil,
            Head::Int(number) => Tree::Int(number),
            Head::Error(from, to) => Tree::Error(self.text(from, to)?),
            Head::Bulk(len) | Head::BulkError(len) => {
                let from = self.start + body;
                *at = body + len + 2;
                match head {
                    Head::BulkError(_) => Tree::Error(self.text(from, from + len)?),
                    _ => {
                        let mut bytes = memory::exactly(len, NO_MEMORY)?;
                        bytes.extend_from_slice(&self.bytes[from..from + len]);
                        Tree::Bulk(bytes)
                    }
                }
            }
            Head::Aggregate(count) | Head::Map(count) if depth < DEEPEST => {
                // The count is the server's word, so room is made as the elements turn up.
                let mut list = Vec::new();
                for _ in 0..count {
                    memory::try_reserve(&mut list, 1, NO_MEMORY)?;
                    list.push(self.tree(at, depth + 1)?);
                }
                Tree::List(list)
            }
            Head::Aggregate(_) | Head::Map(_) | Head::OutOfBand(_) => {
                return Err(Error::protocol("a reply nested too deep"));
            }
        })
    }
}
