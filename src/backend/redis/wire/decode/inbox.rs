//! What has arrived: lines, lengths and bodies, found where they lie.

use super::{Reply, Simple, Want};
use crate::error::{Error, Result};
use crate::op::MAX_BULK;
use crate::reserve as memory;
use crate::value::{HEADER, Span, Value, Values};

/// The longest line (status, error text, large number) that is waited for.
pub const LONGEST_LINE: usize = 64 << 10;
/// The longest one with a length, a count, an integer or a boolean.
const LONGEST_NUMBER: usize = 32;
/// Aggregates within aggregates; no answer to a command of ours goes deeper than two.
pub const DEEPEST: usize = 8;
/// A value from this size on is read straight into its own buffer.
pub const LARGE: usize = 16 << 10;
/// The most elements that an aggregate may say it has: no more than what can be counted twice over.
const MOST_ELEMENTS: usize = usize::MAX / 2;
/// What one read asks for at the least.
const READ_SIZE: usize = 16 << 10;
/// A receive buffer above this is given back after the call.
const KEEP: usize = 1 << 20;
/// What is announced takes no more memory than this before it has arrived.
const AT_ONCE: usize = 1 << 20;
/// The sizes that a buffer has which grows further: few, for growing may be a copy. From the last one on it is none,
/// for so large a block is a mapping of its own.
const LARGER: [usize; 2] = [6 << 20, 33 << 20];

pub const NO_MEMORY: &str = "memory for the reply";

/// What has arrived and is not decoded yet. The first [`HEADER`] bytes stay free, so that any value can be framed where
/// it lies. It has no memory before something is to arrive.
#[derive(Default)]
pub struct Inbox {
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
    /// Where a long line begins whose end has not arrived, and how much of it has been looked through.
    unended: (usize, usize),
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

    /// The first byte that has arrived and is not decoded yet.
    pub fn first(&self) -> Option<u8> {
        self.bytes.get(self.start).copied()
    }

    /// How much has arrived and is not decoded yet.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Memory that one call has needed and the next may not, to be let go of.
    #[must_use]
    pub fn tidy(&mut self) -> Option<Vec<u8>> {
        let is_large = self.is_empty() && self.bytes.capacity() > KEEP;
        is_large.then(|| std::mem::take(self).bytes)
    }

    /// How much memory it holds.
    pub fn held(&self) -> usize {
        self.bytes.capacity()
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
            let end = self.start;
            self.start = HEADER;
            self.drain(HEADER, end);
        }
        let at_once = READ_SIZE.max(AT_ONCE.saturating_sub(self.bytes.len()));
        let head = HEADER.saturating_sub(self.bytes.len());
        if let Err(error) = grow(&mut self.bytes, head + wanted.min(at_once)) {
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

    /// Takes bytes out, which are before any line that is still to be looked at.
    fn drain(&mut self, from: usize, to: usize) {
        self.bytes.drain(from..to);
        self.unended.0 = self.unended.0.saturating_sub(to - from);
    }

    /// Takes bytes out that were skipped, counted from the undecoded start.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.drain(self.start + from, self.start + to);
    }

    pub fn undecoded(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The head of the frame at `at`, counted from the undecoded start, and where its body begins.
    pub(super) fn head(&mut self, at: usize) -> Result<Option<(Head, usize)>> {
        let begin = self.start + at;
        let bytes = &self.bytes[begin..];
        if let Some((len, body)) = short_bulk(bytes).or_else(|| longer_bulk(bytes)) {
            return Ok(Some((Head::Bulk(len), at + body)));
        }
        let Some(&kind) = bytes.first() else { return Ok(None) };
        if !b"+-:$*_%~>|(,#=!".contains(&kind) {
            return Err(Error::protocol(format!("a reply starts with byte {kind:#04x}")));
        }
        let longest = if b"+-,(".contains(&kind) { LONGEST_LINE } else { LONGEST_NUMBER };
        let seen = if self.unended.0 == begin { self.unended.1 } else { 0 };
        #[cfg(test)]
        super::tests::looked_at(bytes.len().min(longest).saturating_sub(seen));
        let Some(end) = line_end(bytes, seen, longest) else {
            if bytes.len() >= longest {
                return Err(Error::protocol("a line without an end"));
            }
            // A short one is looked through anew.
            if bytes.len() > LONGEST_NUMBER {
                self.unended = (begin, bytes.len());
            }
            return Ok(None);
        };
        self.unended = (0, 0);
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
            b'*' | b'~' => Head::Aggregate(length(line, MOST_ELEMENTS)?),
            b'%' => Head::Map(length(line, MOST_ELEMENTS / 2)? * 2),
            b'>' => Head::OutOfBand(length(line, MOST_ELEMENTS)?),
            b'|' => Head::OutOfBand(length(line, MOST_ELEMENTS / 2)? * 2),
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

/// Where the first line ends, of which so much has been looked through. All lines but error texts are short; in a long
/// one `contains`, a fast search, goes first.
fn line_end(bytes: &[u8], seen: usize, longest: usize) -> Option<usize> {
    let bytes = &bytes[..bytes.len().min(longest)];
    let (near, far) = bytes.split_at(bytes.len().min(seen.max(LONGEST_NUMBER)));
    let in_near = || near.iter().position(|&byte| byte == b'\n');
    if seen == 0
        && let Some(at) = in_near()
    {
        return Some(at);
    }
    let at = far.contains(&b'\n').then(|| far.iter().position(|&byte| byte == b'\n'));
    Some(near.len() + at??)
}

/// Makes room for more in a buffer, by so much that growing costs little in all.
pub(super) fn grow(buffer: &mut Vec<u8>, additional: usize) -> Result<()> {
    grow_within(buffer, additional, usize::MAX)
}

/// The same, in a buffer that will never be larger than `most`.
fn grow_within(buffer: &mut Vec<u8>, additional: usize, most: usize) -> Result<()> {
    let needed = buffer.len().saturating_add(additional);
    if needed <= AT_ONCE {
        return memory::try_reserve(buffer, additional, NO_MEMORY);
    }
    if needed <= buffer.capacity() {
        return Ok(());
    }
    let step = LARGER.into_iter().find(|step| needed <= *step);
    let capacity = step.unwrap_or_else(|| needed.max(2 * buffer.capacity())).min(most);
    memory::without(|| buffer.try_reserve_exact(capacity - buffer.len())).map_err(no_memory)
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
    let mut total: u64 = 0;
    if line.is_empty() || line.len() > 19 {
        return Err(Error::protocol("a length that is none"));
    }
    for &byte in line {
        if !byte.is_ascii_digit() {
            return Err(Error::protocol("a length that is none"));
        }
        // Nineteen digits are no more than there is room for.
        total = total * 10 + u64::from(byte - b'0');
    }
    match usize::try_from(total) {
        Ok(length) if length <= most => Ok(length),
        _ => Err(Error::protocol(format!("a length of {total}"))),
    }
}

impl Inbox {
    /// Takes what has arrived of a large value into a buffer for the value alone.
    pub(super) fn begin_large(&mut self, body: usize, len: usize) -> Result<Vec<u8>> {
        let data = self.start + body;
        let arrived = &self.bytes[data..];
        if arrived.len() > AT_ONCE {
            // It is not copied, for both together would be large.
            let mut buffer = std::mem::take(self).bytes;
            buffer.drain(..data - HEADER);
            return Ok(buffer);
        }
        let size = HEADER + len + 2;
        let taken = arrived.len().min(len + 2);
        let at_once = size.min(AT_ONCE.max(HEADER + taken));
        let mut buffer = memory::exactly(at_once, NO_MEMORY)?;
        buffer.extend_from_slice(&[0; HEADER]);
        buffer.extend_from_slice(&arrived[..taken]);
        self.start = data + taken;
        Ok(buffer)
    }

    /// Whether all of a large value has arrived.
    pub(super) fn is_large_whole(buffer: &[u8], len: usize) -> bool {
        buffer.len() >= HEADER + len + 2
    }

    /// Makes room for more of a large value.
    pub(super) fn grow_large(buffer: &mut Vec<u8>, len: usize) -> Result<()> {
        match buffer.len() < buffer.capacity() {
            true => Ok(()),
            false => grow_within(buffer, 1, HEADER + len + 2),
        }
    }

    pub(super) fn large(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<Option<Value>> {
        let size = HEADER + len + 2;
        if !Self::is_large_whole(buffer, len) {
            return Ok(None);
        }
        // The buffer may have been larger than the value, and what follows the value read into it.
        let rest = &buffer[size..];
        if !rest.is_empty() {
            self.room(rest.len())?.extend_from_slice(rest);
        }
        if buffer[size - 2..size] != *b"\r\n" {
            return Err(Error::protocol("a bulk string that does not end in CRLF"));
        }
        buffer.truncate(size - 1);
        buffer[size - 2] = 0;
        Ok(Some(Value::Buffer(std::mem::take(buffer))))
    }

    /// Where the text of an error lies in the inbox, and the error's end, counted from the undecoded start; `None`: not
    /// all of it is there.
    pub(super) fn error(&self, head: &Head, body: usize) -> Result<Option<(usize, usize, usize)>> {
        Ok(match *head {
            Head::Error(from, to) => Some((from, to, body)),
            Head::BulkError(len) if self.has_body(body, len)? => {
                let from = self.start + body;
                Some((from, from + len, body + len + 2))
            }
            _ => None,
        })
    }
}
