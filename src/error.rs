//! What can go wrong, with its cause, and the only map from that to a status of the ABI.

use std::borrow::Cow;
use std::io;

/// The call was carried out.
pub const CACHETORY_OK: i32 = 0;
/// There is no such key: `get`, `expire_in`, `expire_at`, `delete`.
pub const CACHETORY_NOT_FOUND: i32 = 1;
/// `set` with `CACHETORY_SET_IF_NOT_EXISTS`: the key was there, and nothing was changed.
pub const CACHETORY_NOT_STORED: i32 = 2;
/// A NULL output, `(NULL, n)`, a ttl out of range, an unknown flag, a length that cannot be.
pub const CACHETORY_ERR_INVALID_ARGUMENT: i32 = -1;
/// A malformed URL, an unknown scheme, an unknown or bad option; the message names it.
pub const CACHETORY_ERR_INVALID_URL: i32 = -2;
/// The handle is closed, stale, or never was one.
pub const CACHETORY_ERR_CLOSED: i32 = -3;
/// The host cannot be resolved or connected to, or the server has no room for another client.
pub const CACHETORY_ERR_CONNECT: i32 = -4;
/// The TLS handshake failed or the certificate was refused; the message says which.
pub const CACHETORY_ERR_TLS: i32 = -5;
/// The server refused the credentials (AUTH, HELLO, NOAUTH, WRONGPASS) or the permission (NOPERM).
pub const CACHETORY_ERR_AUTH: i32 = -6;
/// The deadline of the call passed.
pub const CACHETORY_ERR_TIMEOUT: i32 = -7;
/// The connection broke under the call.
pub const CACHETORY_ERR_IO: i32 = -8;
/// The peer does not speak RESP.
pub const CACHETORY_ERR_PROTOCOL: i32 = -9;
/// The server answered with another error; its text is the message.
pub const CACHETORY_ERR_SERVER: i32 = -10;
/// This backend, this server or this build cannot do that.
pub const CACHETORY_ERR_UNSUPPORTED: i32 = -11;
/// Asynchronous calls: cancelled, or the cache was closed first.
pub const CACHETORY_ERR_CANCELLED: i32 = -12;
/// A bug in the library, caught before it could harm the process.
pub const CACHETORY_ERR_INTERNAL: i32 = -13;
/// Asynchronous calls: too many are outstanding.
pub const CACHETORY_ERR_BUSY: i32 = -14;
/// Memory, a thread or a descriptor could not be had.
pub const CACHETORY_ERR_NO_MEMORY: i32 = -15;

/// A failed call: what happened, and whether a write may have reached the server all the same.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct Error {
    #[source]
    pub kind: Kind,
    /// A write may have been applied, wholly or partly, or may still be.
    pub maybe_applied: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Text = Cow<'static, str>;

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
    Connect { peer: String, reason: Text },
    /// It is there, and has no room for another connection, in its own words.
    #[error("cannot connect to {}: {reason}", shortened(peer))]
    Full { peer: String, reason: Text },
    #[error("TLS with {}: {reason}", shortened(peer))]
    Tls { peer: String, reason: Text },
    /// The server's own words.
    #[error("{0}")]
    Auth(Text),
    #[error("the deadline passed while {0}")]
    Timeout(&'static str),
    #[error("the connection broke while {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
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
}

/// An address as a message has room for it: what is wrong with it comes after.
fn shortened(peer: &str) -> Text {
    match peer.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &peer[..end]).into(),
        None => peer.to_owned().into(),
    }
}

/// Answers of a server that is there but cannot serve just now (see the error prefixes of
/// <https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors>).
const PASSING_SERVER_ERRORS: [&str; 4] = ["LOADING", "READONLY", "OOM", "MASTERDOWN"];

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

    /// The same failure once more, for another call that it concerns.
    pub fn again(&self) -> Self {
        let kind = match &self.kind {
            Kind::InvalidArgument(text) => Kind::InvalidArgument(text.clone()),
            Kind::InvalidUrl(text) => Kind::InvalidUrl(text.clone()),
            Kind::Closed => Kind::Closed,
            Kind::Connect { peer, reason } => {
                Kind::Connect { peer: peer.clone(), reason: reason.clone() }
            }
            Kind::Full { peer, reason } => {
                Kind::Full { peer: peer.clone(), reason: reason.clone() }
            }
            Kind::Tls { peer, reason } => Kind::Tls { peer: peer.clone(), reason: reason.clone() },
            Kind::Auth(text) => Kind::Auth(text.clone()),
            Kind::Timeout(doing) => Kind::Timeout(doing),
            Kind::Io { doing, source } => Kind::Io { doing, source: again(source) },
            Kind::Protocol(text) => Kind::Protocol(text.clone()),
            Kind::Server(text) => Kind::Server(text.clone()),
            Kind::Unsupported(text) => Kind::Unsupported(text.clone()),
            Kind::Cancelled => Kind::Cancelled,
            Kind::Internal(text) => Kind::Internal(text.clone()),
            Kind::Busy => Kind::Busy,
            Kind::NoMemory(text) => Kind::NoMemory(text.clone()),
        };
        Self { kind, maybe_applied: self.maybe_applied }
    }

    /// The status that the C caller sees.
    pub fn status(&self) -> i32 {
        match self.kind {
            Kind::InvalidArgument(_) => CACHETORY_ERR_INVALID_ARGUMENT,
            Kind::InvalidUrl(_) => CACHETORY_ERR_INVALID_URL,
            Kind::Closed => CACHETORY_ERR_CLOSED,
            Kind::Connect { .. } | Kind::Full { .. } => CACHETORY_ERR_CONNECT,
            Kind::Tls { .. } => CACHETORY_ERR_TLS,
            Kind::Auth(_) => CACHETORY_ERR_AUTH,
            Kind::Timeout(_) => CACHETORY_ERR_TIMEOUT,
            Kind::Io { .. } => CACHETORY_ERR_IO,
            Kind::Protocol(_) => CACHETORY_ERR_PROTOCOL,
            Kind::Server(_) => CACHETORY_ERR_SERVER,
            Kind::Unsupported(_) => CACHETORY_ERR_UNSUPPORTED,
            Kind::Cancelled => CACHETORY_ERR_CANCELLED,
            Kind::Internal(_) => CACHETORY_ERR_INTERNAL,
            Kind::Busy => CACHETORY_ERR_BUSY,
            Kind::NoMemory(_) => CACHETORY_ERR_NO_MEMORY,
        }
    }

    /// Whether the same call may succeed when it is tried again later.
    pub fn is_retryable(&self) -> bool {
        match &self.kind {
            Kind::Connect { .. }
            | Kind::Full { .. }
            | Kind::Timeout(_)
            | Kind::Io { .. }
            | Kind::Busy
            | Kind::NoMemory(_) => true,
            Kind::Server(text) => {
                let code = text.split(' ').next().unwrap_or_default();
                PASSING_SERVER_ERRORS.contains(&code)
            }
            _ => false,
        }
    }
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
        Self { kind, maybe_applied: false }
    }
}

/// The name of a status, as the header spells it.
pub fn status_name(status: i32) -> &'static std::ffi::CStr {
    match status {
        CACHETORY_OK => c"CACHETORY_OK",
        CACHETORY_NOT_FOUND => c"CACHETORY_NOT_FOUND",
        CACHETORY_NOT_STORED => c"CACHETORY_NOT_STORED",
        CACHETORY_ERR_INVALID_ARGUMENT => c"CACHETORY_ERR_INVALID_ARGUMENT",
        CACHETORY_ERR_INVALID_URL => c"CACHETORY_ERR_INVALID_URL",
        CACHETORY_ERR_CLOSED => c"CACHETORY_ERR_CLOSED",
        CACHETORY_ERR_CONNECT => c"CACHETORY_ERR_CONNECT",
        CACHETORY_ERR_TLS => c"CACHETORY_ERR_TLS",
        CACHETORY_ERR_AUTH => c"CACHETORY_ERR_AUTH",
        CACHETORY_ERR_TIMEOUT => c"CACHETORY_ERR_TIMEOUT",
        CACHETORY_ERR_IO => c"CACHETORY_ERR_IO",
        CACHETORY_ERR_PROTOCOL => c"CACHETORY_ERR_PROTOCOL",
        CACHETORY_ERR_SERVER => c"CACHETORY_ERR_SERVER",
        CACHETORY_ERR_UNSUPPORTED => c"CACHETORY_ERR_UNSUPPORTED",
        CACHETORY_ERR_CANCELLED => c"CACHETORY_ERR_CANCELLED",
        CACHETORY_ERR_INTERNAL => c"CACHETORY_ERR_INTERNAL",
        CACHETORY_ERR_BUSY => c"CACHETORY_ERR_BUSY",
        CACHETORY_ERR_NO_MEMORY => c"CACHETORY_ERR_NO_MEMORY",
        _ => c"CACHETORY_UNKNOWN_STATUS",
    }
}
