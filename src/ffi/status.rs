//! The statuses of the ABI: their numbers, their names, and the only map from an error to its status and flags.

use std::ffi::CStr;

use super::types::{CACHETORY_ERROR_MAYBE_APPLIED, CACHETORY_ERROR_RETRYABLE};
use crate::error::{Error, Kind};

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
/// The server has not answered lately, which this library has checked. The call was not sent, or it was waiting and is
/// let go (`CACHETORY_ERROR_MAYBE_APPLIED` where it had been sent). The library asks again by itself.
pub const CACHETORY_ERR_DOWN: i32 = -16;

/// The status of a failed call.
pub(super) fn of(error: &Error) -> i32 {
    match error.kind {
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
        Kind::Down => CACHETORY_ERR_DOWN,
    }
}

/// The flags of a failed call.
pub(super) fn flags(error: &Error) -> u32 {
    let mut flags = 0;
    if error.is_retryable() {
        flags |= CACHETORY_ERROR_RETRYABLE;
    }
    if error.maybe_applied {
        flags |= CACHETORY_ERROR_MAYBE_APPLIED;
    }
    flags
}

/// The name of a status, as the header spells it.
pub(super) fn name(status: i32) -> &'static CStr {
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
        CACHETORY_ERR_DOWN => c"CACHETORY_ERR_DOWN",
        _ => c"CACHETORY_UNKNOWN_STATUS",
    }
}
