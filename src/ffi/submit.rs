//! The `cachetory_*_async` calls. Their comments become those of the header.

use std::ffi::c_void;

use super::cache::CACHES;
use super::guard::guard;
use super::queue::QUEUES;
use super::status::CACHETORY_OK;
use super::types::*;
use super::{arg, request};
use crate::error::Result;
use crate::op::Op;

fn submit(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    op: &Op<'_>,
) -> Result<cachetory_status_t> {
    let queue = QUEUES.get(queue.id)?;
    CACHES.get(cache.id)?.submit(op, &queue, tag)?;
    Ok(CACHETORY_OK)
}

/// Submits a cachetory_ping.
///
/// What holds for every cachetory_*_async call: with CACHETORY_OK the call is accepted, and its completion comes to
/// `queue`, with this `tag` (any number; more calls may have the same) and the status that cachetory_ping would have
/// returned. Otherwise nothing ever comes. Nothing is kept of what is passed in: it is copied. Never blocks. Any
/// thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED (the cache or the queue), _BUSY (`max_pending` calls of the cache are
/// outstanding: let some complete, and try again), _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_ping_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointer is the caller's, as the header describes it.
    unsafe { guard(error, || submit(cache, queue, tag, &Op::Ping)) }
}

/// Submits a cachetory_get. See cachetory_ping_async.
///
/// On CACHETORY_OK the completion's `value` is the value; CACHETORY_NOT_FOUND has none. `key_len` may be
/// CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_get_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    key: *const c_void,
    key_len: usize,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe { guard(error, || submit(cache, queue, tag, &request::get(key, key_len)?)) }
}

/// Submits a cachetory_mget. See cachetory_ping_async.
///
/// On CACHETORY_OK the completion's `values` are the answers; with `count` 0 they are empty. Each key's len may be
/// CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_mget_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    keys: *const cachetory_bytes_t,
    count: usize,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let keys = arg::keys(keys, count)?;
            submit(cache, queue, tag, &Op::MGet { keys: &keys })
        })
    }
}

/// Submits a cachetory_set. See cachetory_ping_async.
///
/// The completion's status is CACHETORY_OK, CACHETORY_NOT_STORED or an error. `key_len` may be CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_set_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
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
            let op = request::set(key, key_len, value, value_len, ttl_ms, flags)?;
            submit(cache, queue, tag, &op)
        })
    }
}

/// Submits a cachetory_mset. See cachetory_ping_async.
///
/// `flags` must be 0. Each key's len may be CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_mset_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
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
            submit(cache, queue, tag, &request::mset(&items, ttl_ms))
        })
    }
}

/// Submits a cachetory_expire_in. See cachetory_ping_async.
///
/// The completion's status is CACHETORY_OK, CACHETORY_NOT_FOUND or an error. `key_len` may be CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_expire_in_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    key: *const c_void,
    key_len: usize,
    ttl_ms: i64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || submit(cache, queue, tag, &request::expire_in(key, key_len, ttl_ms)?))
    }
}

/// Submits a cachetory_expire_at. See cachetory_ping_async.
///
/// The completion's status is CACHETORY_OK, CACHETORY_NOT_FOUND or an error. `key_len` may be CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_expire_at_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    key: *const c_void,
    key_len: usize,
    unix_ms: i64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || submit(cache, queue, tag, &request::expire_at(key, key_len, unix_ms)?))
    }
}

/// Submits a cachetory_delete. See cachetory_ping_async.
///
/// The completion's status is CACHETORY_OK, CACHETORY_NOT_FOUND or an error. `key_len` may be CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_delete_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    key: *const c_void,
    key_len: usize,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe { guard(error, || submit(cache, queue, tag, &request::delete(key, key_len)?)) }
}

/// Submits a cachetory_mdelete. See cachetory_ping_async.
///
/// On CACHETORY_OK the completion's `deleted` is how many keys were there. Each key's len may be CACHETORY_STRLEN.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_mdelete_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    keys: *const cachetory_bytes_t,
    count: usize,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let keys = arg::keys(keys, count)?;
            submit(cache, queue, tag, &Op::MDelete { keys: &keys })
        })
    }
}

/// Submits a cachetory_clear. See cachetory_ping_async.
///
/// With the URL option `prefix` each round trip has the deadline to itself, as in cachetory_clear.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cachetory_clear_async(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    tag: u64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointer is the caller's, as the header describes it.
    unsafe { guard(error, || submit(cache, queue, tag, &Op::Clear)) }
}
