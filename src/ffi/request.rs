//! A call's arguments as C passes them -> an [`Op`], once for the synchronous and the asynchronous call. Batches are
//! borrowed from what [`arg::keys`] and [`items`] have checked.
//!
//! All of it is inlined, so that an operation is made where it is used.

use std::ffi::c_void;

use super::arg::{self, CheckedItems};
use super::types::{CACHETORY_NO_EXPIRY, CACHETORY_SET_IF_NOT_EXISTS, cachetory_item_t};
use crate::error::{Error, Result};
use crate::op::{Condition, Op, Ttl};

fn time(ms: i64) -> Option<i64> {
    (ms != CACHETORY_NO_EXPIRY).then_some(ms)
}

/// # Safety
/// As [`arg::key`].
#[inline(always)]
pub unsafe fn get<'a>(key: *const c_void, key_len: usize) -> Result<Op<'a>> {
    // SAFETY: by the caller's promise.
    Ok(Op::Get { key: unsafe { arg::key(key, key_len)? } })
}

/// What an `Op::Set` consists of.
pub struct Setting<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub ttl_ms: Ttl,
    pub condition: Condition,
}

impl<'a> Setting<'a> {
    #[inline(always)]
    pub fn op(self) -> Op<'a> {
        let Self { key, value, ttl_ms, condition } = self;
        Op::Set { key, value, ttl_ms, condition }
    }
}

/// # Safety
/// The key as [`arg::key`], the value as [`arg::bytes`].
#[inline(always)]
pub unsafe fn set<'a>(
    key: *const c_void,
    key_len: usize,
    value: *const c_void,
    value_len: usize,
    ttl_ms: i64,
    flags: u32,
) -> Result<Setting<'a>> {
    if flags & !CACHETORY_SET_IF_NOT_EXISTS != 0 {
        return Err(Error::invalid_argument(format!("unknown flag in {flags:#x}")));
    }
    Ok(Setting {
        // SAFETY: by the caller's promise.
        key: unsafe { arg::key(key, key_len)? },
        // SAFETY: by the caller's promise.
        value: unsafe { arg::bytes(value, value_len, "value")? },
        ttl_ms: time(ttl_ms),
        condition: match flags & CACHETORY_SET_IF_NOT_EXISTS {
            0 => Condition::Always,
            _ => Condition::NotExists,
        },
    })
}

/// The items and flags of an mset.
///
/// # Safety
/// As [`arg::items`].
#[inline(always)]
pub unsafe fn items<'a>(
    items: *const cachetory_item_t,
    count: usize,
    flags: u32,
) -> Result<CheckedItems<'a>> {
    if flags != 0 {
        return Err(Error::invalid_argument("flags must be 0"));
    }
    // SAFETY: by the caller's promise.
    unsafe { arg::items(items, count) }
}

#[inline(always)]
pub fn mset<'a>(items: &'a CheckedItems<'a>, ttl_ms: i64) -> Op<'a> {
    Op::MSet { items, ttl_ms: time(ttl_ms) }
}

/// # Safety
/// As [`arg::key`].
#[inline(always)]
pub unsafe fn expire_in<'a>(key: *const c_void, key_len: usize, ttl_ms: i64) -> Result<Op<'a>> {
    // SAFETY: by the caller's promise.
    Ok(Op::ExpireIn { key: unsafe { arg::key(key, key_len)? }, ttl_ms: time(ttl_ms) })
}

/// # Safety
/// As [`arg::key`].
#[inline(always)]
pub unsafe fn expire_at<'a>(key: *const c_void, key_len: usize, unix_ms: i64) -> Result<Op<'a>> {
    // SAFETY: by the caller's promise.
    Ok(Op::ExpireAt { key: unsafe { arg::key(key, key_len)? }, unix_ms: time(unix_ms) })
}

/// # Safety
/// As [`arg::key`].
#[inline(always)]
pub unsafe fn delete<'a>(key: *const c_void, key_len: usize) -> Result<Op<'a>> {
    // SAFETY: by the caller's promise.
    Ok(Op::Delete { key: unsafe { arg::key(key, key_len)? } })
}
