//! What is passed over: it is looked at once, as it arrives, and not kept.

use super::inbox::{DEEPEST, Head, Inbox};
use crate::error::{Error, Result};

/// The shortest element is a byte and the end of its line.
const SHORTEST: usize = 3;

/// Passes over elements of any shape.
#[derive(Default)]
pub struct Skip {
    /// Elements still to come, of the frame and of each aggregate that is open in it.
    left: [usize; DEEPEST + 1],
    depth: usize,
    /// What is still to come of a bulk string, CRLF included.
    body: usize,
}

impl Skip {
    /// So many elements, which must not take more than is `allowed`.
    pub fn elements(count: usize, allowed: usize) -> Result<Self> {
        if count.saturating_mul(SHORTEST) > allowed {
            return Err(too_much());
        }
        let mut skip = Self::default();
        skip.left[0] = count;
        Ok(skip)
    }

    /// The body of a bulk string.
    pub fn body(len: usize) -> Self {
        Self { body: len + 2, ..Self::default() }
    }

    /// Goes on at `at`, counted from the undecoded start; whether it is over. `allowed`: what heads and bodies may take
    /// from here on.
    pub fn advance(
        &mut self,
        inbox: &mut Inbox,
        at: &mut usize,
        allowed: &mut usize,
    ) -> Result<bool> {
        loop {
            if self.body > 0 {
                if !self.pass_body(inbox, at)? {
                    return Ok(false);
                }
                continue;
            }
            if self.left[self.depth] == 0 {
                if self.depth == 0 {
                    return Ok(true);
                }
                self.depth -= 1;
                continue;
            }
            let Some((head, body)) = inbox.head(*at)? else { return Ok(false) };
            charge(allowed, body - *at)?;
            *at = body;
            match head {
                Head::Bulk(len) | Head::BulkError(len) => {
                    charge(allowed, len + 2)?;
                    self.body = len + 2;
                    self.left[self.depth] -= 1;
                }
                Head::Aggregate(count) | Head::Map(count) | Head::OutOfBand(count) => {
                    if self.depth == DEEPEST {
                        return Err(Error::protocol("a reply nested too deep"));
                    }
                    if count.saturating_mul(SHORTEST) > *allowed {
                        return Err(too_much());
                    }
                    // An attribute comes before its element and is none.
                    self.left[self.depth] -= usize::from(!matches!(head, Head::OutOfBand(_)));
                    self.depth += 1;
                    self.left[self.depth] = count;
                }
                _ => self.left[self.depth] -= 1,
            }
        }
    }

    /// Whether the body is over.
    fn pass_body(&mut self, inbox: &Inbox, at: &mut usize) -> Result<bool> {
        let arrived = inbox.undecoded().get(*at..).unwrap_or_default();
        let passed = arrived.len().min(self.body);
        let end = &arrived[self.body.saturating_sub(2).min(passed)..passed];
        let left = self.body - passed;
        // What has arrived of the CRLF: all of it, or a part.
        let expected = &b"\r\n"[2 - self.body.min(2)..][..end.len()];
        if end != expected {
            return Err(Error::protocol("a bulk string that does not end in CRLF"));
        }
        self.body = left;
        *at += passed;
        Ok(left == 0)
    }
}

/// Takes from what is allowed.
pub fn charge(allowed: &mut usize, bytes: usize) -> Result<()> {
    *allowed = allowed.checked_sub(bytes).ok_or_else(too_much)?;
    Ok(())
}

#[cold]
fn too_much() -> Error {
    Error::protocol("more than any answer has, or more that nobody asked for")
}
