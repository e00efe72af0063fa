//! Where a frame ends.

use super::inbox::{DEEPEST, Head, Inbox};
use crate::error::{Error, Result};
use crate::op::MAX_BULK;

/// The longest bulk string in what is only skipped.
pub const LONGEST_OUT_OF_BAND: usize = 1 << 20;
/// The most that a tree may take: a page of keys has room in it, each as long as can be.
const LARGEST_TREE: usize = 2 * MAX_BULK;

/// Finds the end of a frame of any shape.
pub struct Scan {
    pub at: usize,
    /// Elements still to come, of the frame and of each aggregate that is open in it.
    left: [usize; DEEPEST + 1],
    depth: usize,
    /// How much must have arrived to go on; 0: it is not known.
    pub needed: usize,
    /// Nobody asked for it: it is skipped, and must be small.
    pub is_out_of_band: bool,
}

impl Scan {
    /// Of the reply that comes next.
    pub fn of_reply() -> Self {
        Self::new(0, 1, false)
    }

    /// Of a push or an attribute, whose elements begin at `at`.
    pub fn out_of_band(at: usize, elements: usize) -> Self {
        Self::new(at, elements, true)
    }

    fn new(at: usize, elements: usize, is_out_of_band: bool) -> Self {
        let mut left = [0; DEEPEST + 1];
        left[0] = elements;
        Self { at, left, depth: 0, needed: 0, is_out_of_band }
    }

    /// The end of the frame, once it has arrived.
    pub fn advance(&mut self, inbox: &Inbox) -> Result<Option<usize>> {
        loop {
            if !self.is_out_of_band && self.at > LARGEST_TREE {
                return Err(Error::protocol("a reply that is too large for its command"));
            }
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
                Head::Bulk(len) if self.is_out_of_band && len > LONGEST_OUT_OF_BAND => {
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
                Head::Aggregate(count) | Head::Map(count) | Head::OutOfBand(count) => {
                    if self.depth == DEEPEST {
                        return Err(Error::protocol("a reply nested too deep"));
                    }
                    // An attribute comes before its element and is none.
                    self.left[self.depth] -= usize::from(!matches!(head, Head::OutOfBand(_)));
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
