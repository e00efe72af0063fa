//! One caller's request, and the replies to it.

use super::drive::{Exchange, Sending};
use crate::backend::redis::net::socket::Broken;
use crate::backend::redis::net::stream::Stream;
use crate::backend::redis::wire::decode::{Decoder, Inbox, Reply, Want};
use crate::backend::redis::wire::encode::{BorrowedSlice, io_slices};
use crate::backend::redis::wire::replies::{Outcome, Replies};
use crate::error::Result;

/// A request of one caller, and the replies to it.
pub struct Single<'a, R> {
    pub bytes: &'a [u8],
    pub borrowed: &'a [BorrowedSlice<'a>],
    pub sent: usize,
    pub replies: R,
    /// Under TLS what was taken in counts as sent, though it may still be here.
    pub is_blocked: bool,
}

/// How often a connection is read that broke while sending: a peer that hears nothing may still say things without end.
pub const MOST_LAST_READS: u32 = 512;

impl<R> Single<'_, R> {
    fn total(&self) -> usize {
        self.bytes.len() + self.borrowed.iter().map(|slice| slice.bytes.len()).sum::<usize>()
    }

    /// Whether some of the request is still here.
    pub fn has_unsent(&self) -> bool {
        self.is_blocked || self.sent < self.total()
    }
}

impl<R: Replies> Exchange for Single<'_, R> {
    type Done = Result<Outcome<R::Output>>;

    fn send(&mut self, stream: &mut Stream) -> Result<Sending, Broken> {
        let total = self.total();
        if self.sent == total && !stream.has_unsent() {
            return Ok(Sending::Idle);
        }
        // Also if sending fails.
        self.is_blocked = true;
        let rest = |skip| io_slices(self.bytes, self.borrowed, skip);
        self.is_blocked = !stream.write_slices(total, rest, &mut self.sent)?;
        Ok(if self.is_blocked { Sending::Blocked } else { Sending::JustSent })
    }

    fn take(&mut self, inbox: &mut Inbox) -> Option<Self::Done> {
        // An answer to half a request is no answer.
        if self.has_unsent() { None } else { self.replies.advance(inbox).transpose() }
    }

    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        self.replies.room(inbox)
    }
}

/// An error that the server sent before it closed the connection.
pub fn server_words(stream: &mut Stream, inbox: &mut Inbox) -> Option<String> {
    let mut decoder = Decoder::new(Want::Plain);
    for _ in 0..MOST_LAST_READS {
        match decoder.advance(inbox) {
            Ok(Some(Reply::Error(text))) => return Some(text),
            Ok(None) => {}
            _ => return None,
        }
        let room = decoder.room(inbox).ok()?;
        stream.receive(room).ok()??;
    }
    None
}
