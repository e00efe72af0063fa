//! The values of a batch, found where they lie.

use super::inbox::{Head, Inbox, NO_MEMORY, short_line};
use super::skip::{Skip, charge};
use crate::error::{Error, Result};
use crate::reserve as memory;
use crate::value::{Span, Values};

/// From this size on a batch is not copied, though much of its buffer may be spare: memory that was never touched costs
/// less than twice the batch.
const LARGE: usize = 4 << 20;

/// In the middle of a batch.
pub struct Batch {
    /// The next frame, counted from the undecoded start.
    pub at: usize,
    pub spans: Vec<Span>,
    /// How much must have arrived to go on; 0: it is not known.
    pub needed: usize,
    /// An attribute of the next answer.
    skip: Option<Skip>,
}

/// How far a batch has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Whole,
    Waits,
    /// There is something to be skipped.
    Skips,
    /// An error stands in the place of the next answer.
    Fails,
}

impl Batch {
    /// `at`: where the first answer begins.
    pub fn new(at: usize, count: usize) -> Result<Self> {
        let mut spans = memory::exactly(count + Values::RESERVED_SPANS, NO_MEMORY)?;
        spans.resize(Values::RESERVED_SPANS, Span::ORIGIN);
        Ok(Self { at, spans, needed: 0, skip: None })
    }

    /// How much memory it holds beside the inbox.
    pub fn held(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
    }
}

impl Inbox {
    /// Goes on with a batch for as long as its answers are short and all there. A function of its own, for its loop
    /// then has the registers to itself.
    #[inline(never)]
    pub(super) fn short_part(
        &mut self,
        mut at: usize,
        spans: &mut Vec<Span>,
        count: usize,
    ) -> usize {
        let bytes = &mut self.bytes[self.start..];
        // The answers of a batch are often equally long: the first line of the last one, and what it says.
        let (mut mask, mut line, mut last) = (0, 1, (0, 0));
        while spans.len() < count + Values::RESERVED_SPANS
            && let Some(rest) = bytes.get(at..)
        {
            if let Some(first) = rest.first_chunk() {
                let first = u64::from_le_bytes(*first);
                if first & mask != line {
                    let Some(bulk) = short_line(first) else {
                        if !rest.starts_with(b"$-1\r\n") {
                            break;
                        }
                        spans.push(Span::MISS);
                        at += 5;
                        continue;
                    };
                    last = bulk;
                    mask = (1 << (8 * last.1)) - 1;
                    line = first & mask;
                }
            } else {
                break;
            }
            let (len, body) = last;
            let end = at + body + len;
            match bytes.get_mut(end..end + 2) {
                Some(end) if *end == *b"\r\n" => end[0] = 0,
                _ => break,
            }
            spans.push(Span { at: at + body, len });
            at = end + 2;
        }
        at
    }

    /// Goes on with a batch. `allowed`: what may be skipped in it.
    pub(super) fn batch(
        &mut self,
        batch: &mut Batch,
        count: usize,
        allowed: &mut usize,
    ) -> Result<Progress> {
        if !self.skip_in_batch(batch, allowed)? {
            return Ok(Progress::Waits);
        }
        let Batch { at, spans, needed, skip } = batch;
        while spans.len() < count + Values::RESERVED_SPANS {
            *at = self.short_part(*at, spans, count);
            if spans.len() == count + Values::RESERVED_SPANS {
                break;
            }
            match self.head(*at)? {
                None => {
                    *needed = 0;
                    return Ok(Progress::Waits);
                }
                Some((Head::Nil, next)) => {
                    spans.push(Span::MISS);
                    *at = next;
                }
                Some((Head::Bulk(len), body)) => {
                    if !self.has_body(body, len)? {
                        *needed = body + len + 2;
                        return Ok(Progress::Waits);
                    }
                    let end = self.start + body + len;
                    self.bytes[end] = 0;
                    spans.push(Span { at: body, len });
                    *at = body + len + 2;
                }
                Some((Head::OutOfBand(elements), body)) => {
                    charge(allowed, body - *at)?;
                    *at = body;
                    *skip = Some(Skip::elements(elements, *allowed)?);
                    return Ok(Progress::Skips);
                }
                Some((Head::Error(..) | Head::BulkError(_), _)) => {
                    return Ok(Progress::Fails);
                }
                Some(_) => return Err(Error::protocol("an answer in a batch that is no value")),
            }
        }
        Ok(Progress::Whole)
    }

    /// Passes over an attribute in a batch; whether nothing is left of it. What arrives in pieces is not kept; what is
    /// there at once stays where it lies, for taking it out would be to move what follows.
    fn skip_in_batch(&mut self, batch: &mut Batch, allowed: &mut usize) -> Result<bool> {
        let Some(skip) = &mut batch.skip else { return Ok(true) };
        let from = batch.at;
        let is_over = skip.advance(self, &mut batch.at, allowed)?;
        if is_over {
            batch.skip = None;
        } else {
            self.cut(from, batch.at);
            batch.at = from;
            batch.needed = 0;
        }
        Ok(is_over)
    }

    /// Hands a whole batch of `end` bytes over: a large one with the buffer itself, a small one as an exact copy.
    pub(super) fn give_batch(&mut self, end: usize, mut spans: Vec<Span>) -> Result<Values> {
        let frame = self.start..self.start + end;
        self.start = frame.end;
        if self.is_empty() && (end >= self.bytes.capacity() / 2 || end > LARGE) {
            spans[0].at = frame.start;
            let arena = std::mem::take(self).bytes;
            return Ok(Values::Arena { spans, arena });
        }
        let mut arena = memory::exactly(end, NO_MEMORY)?;
        arena.extend_from_slice(&self.bytes[frame]);
        spans[0].at = 0;
        Ok(Values::Arena { spans, arena })
    }
}
