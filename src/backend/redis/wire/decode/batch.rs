//! The values of a batch, found where they lie.

use super::inbox::{Head, Inbox, NO_MEMORY, short_line};
use super::scan::{LONGEST_OUT_OF_BAND, Scan};
use crate::error::{Error, Result};
use crate::reserve as memory;
use crate::value::{Span, Values};

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

    /// Goes on with a batch at `at`; whether it is whole.
    pub(super) fn batch(
        &mut self,
        at: &mut usize,
        spans: &mut Vec<Span>,
        needed: &mut usize,
        count: usize,
    ) -> Result<bool> {
        while spans.len() < count + Values::RESERVED_SPANS {
            *at = self.short_part(*at, spans, count);
            if spans.len() == count + Values::RESERVED_SPANS {
                break;
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
                Some((Head::OutOfBand(elements), body)) => {
                    // An attribute of the next answer: rare and small, so it is begun anew when more of it arrives.
                    let Some(end) = Scan::out_of_band(body, elements).advance(self)? else {
                        if self.len() - *at > LONGEST_OUT_OF_BAND {
                            return Err(Error::protocol("too much that nobody asked for"));
                        }
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
    pub(super) fn give_batch(&mut self, end: usize, mut spans: Vec<Span>) -> Result<Values> {
        let frame = self.start..self.start + end;
        self.start = frame.end;
        if self.is_empty() && end >= self.bytes.capacity() / 2 {
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
