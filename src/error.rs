//! What can go wrong, with its cause.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// A failed call: what happened, and whether a write may have reached the server all the same.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct Error {
    #[source]
    pub kind: Kind,
    /// A write may have been applied, wholly or partly, or may still be.
    pub maybe_applied: bool,
    /// The server has said it of a part of the call alone, so that it says nothing of the server itself: a proxy says
    /// so of one behind it.
    pub is_of_a_part: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Words for a message. Another copy costs no memory: one failure may concern many calls, when there is none to be had.
#[derive(Clone, Debug)]
pub enum Text {
    Literal(&'static str),
    Shared(Arc<str>),
}

/// A message has room for less.
const LONGEST_TEXT: usize = 1 << 10;

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Literal(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Text::Literal(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        let mut end = text.len().min(LONGEST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Text::Shared(text[..end].into())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Kind {
    #[error("{0}")]
    InvalidArgument(Text),
    #[error("{0}")]
    InvalidUrl(Text),
    #[error("the handle is closed, stale or was never opened")]
    Closed,
    /// `peer` is an address, never a URL: a URL may hold a password.
    #[error("cannot connect to {}: {reason}", shortened(peer))]
    Connect {
        peer: Text,
        reason: Text,
        /// Nobody said no: nothing came back at all, so that it may be the same for everybody.
        silence: bool,
    },
    /// It is there, and has no room for another connection, in its own words.
    #[error("cannot connect to {}: {reason}", shortened(peer))]
    Full { peer: Text, reason: Text },
    #[error("TLS with {}: {reason}", shortened(peer))]
    Tls { peer: Text, reason: Text },
    /// The server's own words.
    #[error("{0}")]
    Auth(Text),
    #[error("the deadline passed while {0}")]
    Timeout(&'static str),
    #[error("the connection broke while {doing}: {source}")]
    Io { doing: &'static str, source: Arc<io::Error> },
    #[error("the server does not speak RESP: {0}")]
    Protocol(Text),
    /// The server's own words.
    #[error("{0}")]
    Server(Text),
    #[error("{0}")]
    Unsupported(Text),
    #[error("the call was cancelled")]
    Cancelled,
    #[error("internal error: {0}")]
    Internal(Text),
    #[error("too many calls are outstanding")]
    Busy,
    #[error("cannot get {0}")]
    NoMemory(Text),
    /// It was asked, by the library itself.
    #[error("the server is down: it has not answered lately, and is asked again now and then")]
    Down,
}

/// An address as a message has room for it: what is wrong with it comes after.
fn shortened(peer: &str) -> Shortened<'_> {
    let end = peer.char_indices().nth(120).map(|(end, _)| end);
    Shortened { text: &peer[..end.unwrap_or(peer.len())], is_cut: end.is_some() }
}

struct Shortened<'a> {
    text: &'a str,
    is_cut: bool,
}

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)?;
        f.write_str(if self.is_cut { "…" } else { "" })
    }
}

/// Answers of a server that is there but cannot serve just now (see the error prefixes of
/// <https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors>).
const PASSING_SERVER_ERRORS: [&str; 9] = [
    "LOADING",
    "READONLY",
    "OOM",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "BUSY",
    "MISCONF",
];
/// Of these, and of others, those that another connection to the same name may not have: it may lead to another server,
/// or to one that has been set up anew.
const OF_THIS_SERVER: [&str; 4] = ["READONLY", "LOADING", "MASTERDOWN", "NOAUTH"];

impl Error {
    pub fn invalid_argument(text: impl Into<Text>) -> Self {
        Kind::InvalidArgument(text.into()).into()
    }

    pub fn invalid_url(text: impl Into<Text>) -> Self {
        Kind::InvalidUrl(text.into()).into()
    }

    pub fn protocol(text: impl Into<Text>) -> Self {
        Kind::Protocol(text.into()).into()
    }

    pub fn no_memory(what: impl Into<Text>) -> Self {
        Kind::NoMemory(what.into()).into()
    }

    /// The same failure of a write that may have reached the server.
    pub fn maybe_applied(mut self) -> Self {
        self.maybe_applied = true;
        self
    }

    /// The same, of a part of the call.
    pub fn of_a_part(mut self) -> Self {
        self.is_of_a_part = true;
        self
    }

    /// The same failure once more, for another call that it concerns.
    pub fn again(&self) -> Self {
        let kind = match &self.kind {
            Kind::InvalidArgument(text) => Kind::InvalidArgument(text.clone()),
            Kind::InvalidUrl(text) => Kind::InvalidUrl(text.clone()),
            Kind::Closed => Kind::Closed,
            Kind::Connect { peer, reason, silence } => {
                Kind::Connect { peer: peer.clone(), reason: reason.clone(), silence: *silence }
            }
            Kind::Full { peer, reason } => {
                Kind::Full { peer: peer.clone(), reason: reason.clone() }
            }
            Kind::Tls { peer, reason } => Kind::Tls { peer: peer.clone(), reason: reason.clone() },
            Kind::Auth(text) => Kind::Auth(text.clone()),
            Kind::Timeout(doing) => Kind::Timeout(doing),
            Kind::Io { doing, source } => Kind::Io { doing, source: Arc::clone(source) },
            Kind::Protocol(text) => Kind::Protocol(text.clone()),
            Kind::Server(text) => Kind::Server(text.clone()),
            Kind::Unsupported(text) => Kind::Unsupported(text.clone()),
            Kind::Cancelled => Kind::Cancelled,
            Kind::Internal(text) => Kind::Internal(text.clone()),
            Kind::Busy => Kind::Busy,
            Kind::NoMemory(text) => Kind::NoMemory(text.clone()),
            Kind::Down => Kind::Down,
        };
        Self { kind, ..*self }
    }

    /// Whether there is no room for another connection, at the server or in this process: those that are there must do.
    pub fn is_no_room(&self) -> bool {
        matches!(self.kind, Kind::Full { .. } | Kind::NoMemory(_))
    }

    /// Whether the same call may succeed when it is tried again later.
    pub fn is_retryable(&self) -> bool {
        match &self.kind {
            Kind::Connect { .. }
            | Kind::Full { .. }
            | Kind::Timeout(_)
            | Kind::Io { .. }
            | Kind::Busy
            | Kind::NoMemory(_)
            | Kind::Down => true,
            Kind::Server(text) => PASSING_SERVER_ERRORS.contains(&code(text)),
            _ => false,
        }
    }

    /// Whether it speaks of the server that answered, and not of the call: another connection may do better.
    pub fn is_of_the_server(&self) -> bool {
        match &self.kind {
            _ if self.is_of_a_part => false,
            Kind::Server(text) | Kind::Auth(text) => OF_THIS_SERVER.contains(&code(text)),
            _ => false,
        }
    }

    /// Whether the server is one that takes no writes, which has refused this one as a whole.
    pub fn is_refused_write(&self) -> bool {
        let is_readonly = matches!(&self.kind, Kind::Server(text) if code(text) == "READONLY");
        is_readonly && !self.maybe_applied && !self.is_of_a_part
    }
}

/// The first of a server's words.
fn code(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// The same error once more.
pub fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Whether the machine has run out of something that the call needed: memory, descriptors, threads.
pub fn is_scarcity(error: &io::Error) -> bool {
    let scarce = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|errno| scarce.contains(&errno))
        || error.kind() == io::ErrorKind::OutOfMemory
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self { kind, maybe_applied: false, is_of_a_part: false }
    }
}
