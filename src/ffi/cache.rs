//! The `cachetory_*` calls on a cache. Their comments become those of the header.

use std::ffi::{c_char, c_void};
use std::ptr;

use super::arg;
use super::guard::{guard, release, silence_panics};
use super::handle::Table;
use super::request;
use super::status::{self, CACHETORY_NOT_FOUND, CACHETORY_NOT_STORED, CACHETORY_OK};
use super::types::*;
use crate::cache::Cache;
use crate::error::{Error, Kind, Result};
use crate::op::{Answer, Op};

pub(super) static CACHES: Table<Box<Cache>> = Table::new(0);

#[inline(always)]
fn call(cache: cachetory_t, op: &Op<'_>) -> Result<Answer> {
    CACHES.get(cache.id)?.call(op)
}

/// The status of an answer that carries nothing.
#[inline(always)]
fn plain(answer: Result<Answer>) -> Result<cachetory_status_t> {
    match answer {
        Ok(Answer::Done) => Ok(CACHETORY_OK),
        other => no_value(other),
    }
}

/// The same of any other answer, apart, so that the usual one is handed on by itself.
#[cold]
fn no_value(answer: Result<Answer>) -> Result<cachetory_status_t> {
    match answer? {
        Answer::Done => Ok(CACHETORY_OK),
        Answer::NotFound => Ok(CACHETORY_NOT_FOUND),
        Answer::NotStored => Ok(CACHETORY_NOT_STORED),
        other => Err(unexpected(&other)),
    }
}

#[cold]
fn unexpected(answer: &Answer) -> Error {
    let name = match answer {
        Answer::Done => "Done",
        Answer::NotFound => "NotFound",
        Answer::NotStored => "NotStored",
        Answer::Value(_) => "Value",
        Answer::Values(_) => "Values",
        Answer::Deleted(_) => "Deleted",
    };
    Kind::Internal(format!("an answer of another operation: {name}").into()).into()
}

/// Opens the cache that `url` names.
///
/// Checks the URL and connects to nothing: the first call connects, so a program starts while its server is down
/// (cachetory_ping tells). The URL is the whole configuration; README.md lists its schemes and options.
///
/// `out` receives a handle for any number of threads; end it with cachetory_close. `url` is not kept.
/// Never blocks. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT (`url` or `out` is NULL), CACHETORY_ERR_INVALID_URL (the
/// message names what is wrong), CACHETORY_ERR_UNSUPPORTED (a scheme this version knows but cannot serve),
/// CACHETORY_ERR_NO_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_open_url(
    url: *const c_char,
    out: *mut cachetory_t,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            silence_panics();
            let out = arg::output(out, cachetory_t::default())?;
            let url = arg::string(url, "url")?
                .to_str()
                .map_err(|_| Error::invalid_url("the URL is not UTF-8"))?;
            out.id = CACHES.open(Box::new(Cache::open(url)?))?;
            Ok(CACHETORY_OK)
        })
    }
}

/// Ends a handle and frees what it holds.
///
/// Waits for nobody: calls of other threads that are inside the cache finish, or return CACHETORY_ERR_CLOSED. What was
/// handed out (values, batches) stays the caller's. Closing {0} does nothing. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED (closed already, or never opened).
#[unsafe(no_mangle)]
pub extern "C-unwind" fn cachetory_close(cache: cachetory_t) -> cachetory_status_t {
    if cache.id == 0 {
        return CACHETORY_OK;
    }
    let body = || {
        CACHES.close(cache.id)?.close();
        Ok(CACHETORY_OK)
    };
    // SAFETY: there is no error to fill.
    unsafe { guard(ptr::null_mut(), body) }
}

/// Asks the server whether it is there and lets this client in (PING).
///
/// Blocks up to the deadline of a call (URL option `socket_timeout`). Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED,
/// _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_ping(
    cache: cachetory_t,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointer is the caller's, as the header describes it.
    unsafe { guard(error, || plain(call(cache, &Op::Ping))) }
}

/// Gets the value of a key (GET).
///
/// On CACHETORY_OK `out` holds the value and belongs to the caller: release it with cachetory_value_free. Otherwise it
/// is empty. `key` is not kept; `key_len` may be CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Tried once more when its connection breaks. Any thread.
///
/// Returns CACHETORY_OK, CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT,
/// _IO, _PROTOCOL, _SERVER (the key holds another type than a string, say), _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_get(
    cache: cachetory_t,
    key: *const c_void,
    key_len: usize,
    out: *mut cachetory_value_t,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let out = arg::output(out, cachetory_value_t::EMPTY)?;
            match call(cache, &request::get(key, key_len)?) {
                Ok(Answer::Value(value)) => {
                    *out = give_value(value);
                    Ok(CACHETORY_OK)
                }
                other => no_value(other),
            }
        })
    }
}

/// Gets the values of `count` keys at once (MGET): on one server, an atomic snapshot.
///
/// On CACHETORY_OK `out->items[i]` answers `keys[i]` (a miss has `data == NULL`; a key given twice is answered twice)
/// and `out` belongs to the caller: release it with cachetory_values_free. Otherwise it is empty. With `count` 0 it is
/// empty and the answer OK. `keys` is not kept; each key's len may be CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Tried once more when its connection breaks. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL,
/// _SERVER (an error in the place of one of the answers, as proxies have it, is the call's), _UNSUPPORTED, _NO_MEMORY,
/// _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_mget(
    cache: cachetory_t,
    keys: *const cachetory_bytes_t,
    count: usize,
    out: *mut cachetory_values_t,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let out = arg::output(out, cachetory_values_t::EMPTY)?;
            let keys = arg::keys(keys, count)?;
            match call(cache, &Op::MGet { keys: &keys })? {
                Answer::Values(values) => {
                    *out = give_values(values)?;
                    Ok(CACHETORY_OK)
                }
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// Sets the value of a key (SET), to live for `ttl_ms` milliseconds (PX; at least 1), or for ever with
/// CACHETORY_NO_EXPIRY: then an earlier expiry is cleared.
///
/// `flags`: 0, or CACHETORY_SET_IF_NOT_EXISTS (NX): nothing is changed where the key is there. Nothing is kept of what
/// is passed in; `key_len` may be CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
///
/// Returns CACHETORY_OK, CACHETORY_NOT_STORED; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH,
/// _TIMEOUT, _IO, _PROTOCOL, _SERVER (out of memory or a read-only replica, say: RETRYABLE), _UNSUPPORTED, _NO_MEMORY,
/// _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_set(
    cache: cachetory_t,
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
    ttl_ms: i64,
    flags: u32,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let request::Setting { key, value, ttl_ms, condition } =
                request::set(key, key_len, value, value_len, ttl_ms, flags)?;
            plain(CACHES.get(cache.id).and_then(|cache| cache.set(key, value, ttl_ms, condition)))
        })
    }
}

/// Sets `count` keys at once (MSET; with a ttl MULTI, SET … PX for each, EXEC): on one server all or nothing.
///
/// Of a key given twice the last value wins. `ttl_ms` as for cachetory_set. `flags` must be 0. With `count` 0 the
/// answer is OK. Nothing is kept of what is passed in; each key's len may be CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH (a server that refuses MULTI
/// alone runs each SET by itself: MAYBE_APPLIED), _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY,
/// _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_mset(
    cache: cachetory_t,
    items: *const cachetory_item_t,
    count: usize,
    ttl_ms: i64,
    flags: u32,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let items = request::items(items, count, flags)?;
            plain(call(cache, &request::mset(&items, ttl_ms)))
        })
    }
}

/// Has a key expire `ttl_ms` milliseconds from now (PEXPIRE), or never with CACHETORY_NO_EXPIRY (PERSIST and EXISTS in
/// one write).
///
/// With 0 or less the key is gone at once, and the answer is still OK. `key` is not kept; `key_len` may be
/// CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
///
/// Returns CACHETORY_OK, CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT (the ttl ends after the last int64_t
/// millisecond, say), _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY,
/// _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_expire_in(
    cache: cachetory_t,
    key: *const c_void,
    key_len: usize,
    ttl_ms: i64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe { guard(error, || plain(call(cache, &request::expire_in(key, key_len, ttl_ms)?))) }
}

/// Has a key expire at `unix_ms` milliseconds after 1970-01-01 UTC (PEXPIREAT), or never with CACHETORY_NO_EXPIRY
/// (PERSIST and EXISTS in one write).
///
/// With a time in the past the key is gone at once, and the answer is still OK. `key` is not kept; `key_len` may be
/// CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
///
/// Returns CACHETORY_OK, CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT,
/// _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_expire_at(
    cache: cachetory_t,
    key: *const c_void,
    key_len: usize,
    unix_ms: i64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe { guard(error, || plain(call(cache, &request::expire_at(key, key_len, unix_ms)?))) }
}

/// Deletes a key (DEL).
///
/// `key` is not kept; `key_len` may be CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
///
/// Returns CACHETORY_OK (it was there), CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS,
/// _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_delete(
    cache: cachetory_t,
    key: *const c_void,
    key_len: usize,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe { guard(error, || plain(call(cache, &request::delete(key, key_len)?))) }
}

/// Deletes `count` keys at once (DEL).
///
/// `deleted`, which may be NULL, receives how many of them were there. With `count` 0 that is 0 and the answer OK.
/// `keys` is not kept; each key's len may be CACHETORY_STRLEN.
/// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL,
/// _SERVER, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_mdelete(
    cache: cachetory_t,
    keys: *const cachetory_bytes_t,
    count: usize,
    deleted: *mut u64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let deleted = if deleted.is_null() { None } else { Some(arg::output(deleted, 0)?) };
            let keys = arg::keys(keys, count)?;
            match call(cache, &Op::MDelete { keys: &keys })? {
                Answer::Deleted(number) => {
                    if let Some(deleted) = deleted {
                        *deleted = number;
                    }
                    Ok(CACHETORY_OK)
                }
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// Deletes every key of the cache's database (FLUSHDB ASYNC, or FLUSHDB where that is refused); with the URL option
/// `prefix` only the keys that start with it (SCAN and UNLINK, or DEL where that is unknown), which is not atomic: keys
/// set meanwhile may stay.
///
/// Blocks up to the deadline of a call, which with a `prefix` holds for each round trip. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED,
/// _NO_MEMORY, _DOWN, _INTERNAL; with MAYBE_APPLIED once the first keys may be gone.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_clear(
    cache: cachetory_t,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointer is the caller's, as the header describes it.
    unsafe { guard(error, || plain(call(cache, &Op::Clear))) }
}

/// Releases a value and empties the struct, so that a second call does nothing; NULL does nothing. Any thread, also
/// after the cache was closed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_value_free(value: *mut cachetory_value_t) {
    // SAFETY: NULL, or a struct that the library filled or the caller zeroed, as the header says.
    release(|| unsafe {
        if let Some(value) = value.as_mut() {
            release_value(value);
        }
    });
}

/// Releases a batch and empties the struct, so that a second call does nothing; NULL does nothing. Any thread, also
/// after the cache was closed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_values_free(values: *mut cachetory_values_t) {
    // SAFETY: NULL, or a struct that the library filled or the caller zeroed, as the header says.
    release(|| unsafe {
        if let Some(values) = values.as_mut() {
            release_values(values);
        }
    });
}

/// The name of a status, such as "CACHETORY_OK"; never NULL, also for a number that is no status. Static: not to be
/// released. Any thread.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn cachetory_status_name(status: cachetory_status_t) -> *const c_char {
    status::name(status).as_ptr()
}

/// The version of the library, such as "0.1.0". Static: not to be released. Any thread.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn cachetory_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
