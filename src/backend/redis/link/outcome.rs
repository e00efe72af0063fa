//! What an exchange over a link came to, and which calls go over another link after one that failed.

use std::mem;

use crate::backend::redis::wire::replies::Reuse;
use crate::error::{Error, Kind, Result};
use crate::op::Access;

/// Which links were dialled together: before the node's links were retired for the last time, or after. A later one is
/// larger. Its node's scheduler gives them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vintage(u32);

impl Vintage {
    /// That of no link.
    pub const NONE: Self = Self(0);
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// How a call left the link.
pub enum Exchanged<T> {
    /// The server has answered, though perhaps with an error.
    Answered {
        result: Result<T>,
        reuse: Reuse,
    },
    Failed(Failure),
}

/// A call that the link did not carry out.
pub struct Failure {
    pub error: Error,
    /// Some of the request may have reached the server.
    pub sent: bool,
    /// The connection is gone, so that another one may do better.
    pub lost: bool,
    /// The deadline passed, and nothing has come from the server since the request was sent.
    pub silent: bool,
    /// A write that a server refused which takes none, over a link of this vintage.
    pub refused: Option<Vintage>,
}

impl Failure {
    pub fn new(error: Error, sent: bool, lost: bool) -> Self {
        Self { error, sent, lost, silent: false, refused: None }
    }

    /// Of a call of which nothing was sent, and for which another link would do no better.
    pub fn unsent(error: Error) -> Self {
        Self::new(error, false, false)
    }

    /// Of one that may have reached the server, and for which another link would do no better.
    pub fn sent(error: Error) -> Self {
        Self::new(error, true, false)
    }

    /// Whether the server had no room for the connection.
    pub fn is_turned_away(&self) -> bool {
        matches!(self.error.kind, Kind::Full { .. })
    }

    /// What the caller is told.
    pub fn into_error(self, access: Access) -> Error {
        if self.sent && access == Access::Write { self.error.maybe_applied() } else { self.error }
    }

    /// The same once more, for another call that it concerns.
    pub fn again(&self) -> Self {
        Self { error: self.error.again(), ..*self }
    }
}

/// The server says this once, before anything else, and closes the connection.
pub fn no_room<T>(result: &Result<T>) -> Option<&Error> {
    result.as_ref().err().filter(|error| matches!(error.kind, Kind::Full { .. }))
}

/// The server has looked at nothing that was sent, for it had no room for the connection.
pub fn turned_away(said: &mut Option<Error>, error: &Error) -> Failure {
    *said = Some(error.again());
    Failure::new(error.again(), false, true)
}

/// What a call came to that was answered over a link of this vintage. A write that was refused by a server that takes
/// none may go over another.
pub fn answered<T>(result: Result<T>, reuse: Reuse, vintage: Vintage) -> Exchanged<T> {
    match result {
        Err(error) if error.is_refused_write() => {
            let failure = Failure::new(error, false, reuse == Reuse::Close);
            Exchanged::Failed(Failure { refused: Some(vintage), ..failure })
        }
        result => Exchanged::Answered { result, reuse },
    }
}

/// What a call has been through. No write is sent twice: that is decided here and nowhere else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    lost_links: u8,
    /// It goes over another link as well.
    is_doubled: bool,
    /// A server that takes no writes has refused it.
    was_refused: bool,
}

/// A call of which nothing was sent goes over another link so often after one that broke, and one that was sent once.
const MOST_UNSENT: u8 = 3;

impl Attempts {
    /// Whether the call goes over another link. After the first link that broke: what was not sent, and a read. After
    /// another: what was not sent. Where the server had no room for the connection it has looked at nothing, so any
    /// call does, however often. A write that was refused goes once more.
    pub fn allow_another(&mut self, failure: &Failure, access: Access) -> bool {
        if failure.refused.is_some() {
            return access == Access::Write && !mem::replace(&mut self.was_refused, true);
        }
        if !failure.lost {
            return false;
        }
        if failure.is_turned_away() {
            return true;
        }
        let most = if failure.sent { 1 } else { MOST_UNSENT };
        let may = self.lost_links < most && (access == Access::Read || !failure.sent);
        self.lost_links += u8::from(may);
        may
    }

    /// Whether the call, which waits behind another that is slow, may go over another link as well: a read, once.
    pub fn may_be_doubled(self, access: Access) -> bool {
        access == Access::Read && !self.is_doubled
    }

    pub fn double(&mut self) {
        self.is_doubled = true;
    }

    /// Whether a link has been found broken under the call, so that the others must be revalidated however lately they
    /// were used.
    pub fn has_lost_link(self) -> bool {
        self.lost_links > 0
    }

    pub fn was_refused(self) -> bool {
        self.was_refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(sent: bool, lost: bool) -> Failure {
        Failure::new(Kind::Closed.into(), sent, lost)
    }

    fn refused(lost: bool) -> Failure {
        let error = Kind::Full { peer: "peer".into(), reason: "full".into() }.into();
        Failure::new(error, false, lost)
    }

    #[test]
    fn a_write_that_may_have_been_sent_is_not_sent_again() {
        for (sent, access, may) in [
            (true, Access::Write, false),
            (true, Access::Read, true),
            (false, Access::Write, true),
            (false, Access::Read, true),
        ] {
            let mut attempts = Attempts::default();
            assert_eq!(attempts.allow_another(&failure(sent, true), access), may);
            assert_eq!(attempts.has_lost_link(), may);
        }
    }

    #[test]
    fn one_lost_link_is_forgiven_and_a_few_more_where_nothing_was_sent() {
        for access in [Access::Read, Access::Write] {
            let mut attempts = Attempts::default();
            for _ in 0..MOST_UNSENT {
                assert!(attempts.allow_another(&failure(false, true), access));
            }
            assert!(!attempts.allow_another(&failure(false, true), access));
        }
        let mut attempts = Attempts::default();
        assert!(attempts.allow_another(&failure(true, true), Access::Read));
        assert!(!attempts.allow_another(&failure(true, true), Access::Read));
        assert!(attempts.allow_another(&failure(false, true), Access::Read));
    }

    #[test]
    fn what_no_other_link_would_do_better_is_not_tried_again() {
        assert!(!Attempts::default().allow_another(&failure(false, false), Access::Read));
        assert!(!Attempts::default().allow_another(&refused(false), Access::Read));
    }

    #[test]
    fn a_read_is_doubled_once_and_a_write_never() {
        let mut attempts = Attempts::default();
        assert!(!attempts.may_be_doubled(Access::Write));
        assert!(attempts.may_be_doubled(Access::Read));
        attempts.double();
        assert!(!attempts.may_be_doubled(Access::Read));
        assert!(!attempts.has_lost_link());
    }

    #[test]
    fn a_refused_connection_is_no_attempt() {
        let mut attempts = Attempts::default();
        for _ in 0..3 {
            assert!(attempts.allow_another(&refused(true), Access::Write));
        }
        assert!(!attempts.has_lost_link());
        assert!(attempts.allow_another(&failure(false, true), Access::Write));
        assert!(attempts.allow_another(&refused(true), Access::Write));
        assert!(!attempts.allow_another(&failure(true, true), Access::Write));
    }
}
