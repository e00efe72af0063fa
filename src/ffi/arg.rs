//! Pointer and length -> slice, arrays, strings, outputs. Whatever a C caller can get wrong is found here.

use std::ffi::{CStr, c_char, c_void};

use super::types::{cachetory_bytes_t, cachetory_item_t};
use crate::error::{Error, Result};
use crate::op::{Items, Keys};

/// `CACHETORY_STRLEN`: the key is NUL-terminated, measure it.
pub const STRLEN: usize = usize::MAX;

const LONGEST: usize = isize::MAX as usize;

/// # Safety
/// Unless NULL, `data` points to `len` readable bytes for as long as `'a`.
#[inline]
pub unsafe fn bytes<'a>(data: *const c_void, len: usize, what: &'static str) -> Result<&'a [u8]> {
    if is_usual(data, len) {
        // SAFETY: not NULL, not above isize::MAX, and readable by the caller's promise.
        return Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) });
    }
    if len == 0 { Ok(&[]) } else { Err(refused(data, what)) }
}

/// Whether nothing is special about these bytes: two questions instead of four.
#[inline(always)]
fn is_usual(data: *const c_void, len: usize) -> bool {
    !data.is_null() && len.wrapping_sub(1) < LONGEST
}

/// What is wrong with bytes that are NULL or too long.
#[cold]
fn refused(data: *const c_void, what: &'static str) -> Error {
    Error::invalid_argument(if data.is_null() {
        format!("{what} is NULL but its length is not 0")
    } else {
        format!("the length of {what} is above PTRDIFF_MAX")
    })
}

/// # Safety
/// As [`bytes`]; where `len` is [`STRLEN`], `data` is NUL-terminated.
#[inline]
pub unsafe fn key<'a>(data: *const c_void, len: usize) -> Result<&'a [u8]> {
    if is_usual(data, len) {
        // SAFETY: not NULL, not above isize::MAX, and readable by the caller's promise.
        return Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) });
    }
    // SAFETY: by the caller's promise.
    unsafe { unusual_key(data, len) }
}

/// # Safety
/// As [`key`].
#[cold]
unsafe fn unusual_key<'a>(data: *const c_void, len: usize) -> Result<&'a [u8]> {
    // SAFETY: by the caller's promise.
    unsafe {
        if len == STRLEN {
            string(data.cast(), "key").map(CStr::to_bytes)
        } else {
            bytes(data, len, "key")
        }
    }
}

/// # Safety
/// Unless NULL, `data` is NUL-terminated and readable for as long as `'a`.
pub unsafe fn string<'a>(data: *const c_char, what: &'static str) -> Result<&'a CStr> {
    if data.is_null() {
        return Err(Error::invalid_argument(format!("{what} is NULL")));
    }
    // SAFETY: not NULL, and NUL-terminated by the caller's promise.
    Ok(unsafe { CStr::from_ptr(data) })
}

/// A required output.
///
/// # Safety
/// Unless NULL, `out` points to memory of the caller's that may be written as a `T` for as long as `'a`.
#[inline]
pub unsafe fn output<'a, T>(out: *mut T, empty: T) -> Result<&'a mut T> {
    if out.is_null() {
        return Err(Error::invalid_argument("the output is NULL"));
    }
    // SAFETY: not NULL, and the caller's to write. It may be uninitialised, so it is written before it is borrowed.
    unsafe {
        out.write(empty);
        Ok(&mut *out)
    }
}

/// # Safety
/// Unless NULL, `data` points to `count` readable elements for as long as `'a`.
unsafe fn array<'a, T>(data: *const T, count: usize, what: &'static str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Error::invalid_argument(format!("{what} is NULL but count is not 0")));
    }
    if count > LONGEST / size_of::<T>() {
        return Err(Error::invalid_argument("count is larger than memory"));
    }
    // SAFETY: not NULL, its size is not above isize::MAX, and readable by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// Keys whose pointers and lengths have been checked.
pub struct CheckedKeys<'a> {
    array: &'a [cachetory_bytes_t],
    longest: usize,
    total: usize,
}

/// Items whose pointers and lengths have been checked.
pub struct CheckedItems<'a> {
    array: &'a [cachetory_item_t],
    longest_key: usize,
    longest_value: usize,
    total: usize,
}

/// # Safety
/// As [`array`], and each element as [`key`].
pub unsafe fn keys<'a>(data: *const cachetory_bytes_t, count: usize) -> Result<CheckedKeys<'a>> {
    // SAFETY: by the caller's promise.
    let array = unsafe { array(data, count, "keys")? };
    let mut keys = CheckedKeys { array, longest: 0, total: 0 };
    for element in array {
        let len = match plain_len(element) {
            Some(len) => len,
            // SAFETY: by the caller's promise.
            None => unsafe { key(element.data.cast(), element.len)? }.len(),
        };
        keys.longest = keys.longest.max(len);
        keys.total = keys.total.saturating_add(len);
    }
    check_total(keys.total)?;
    Ok(keys)
}

/// # Safety
/// As [`array`], each key as [`key`] and each value as [`bytes`].
pub unsafe fn items<'a>(data: *const cachetory_item_t, count: usize) -> Result<CheckedItems<'a>> {
    // SAFETY: by the caller's promise.
    let array = unsafe { array(data, count, "items")? };
    let mut items = CheckedItems { array, longest_key: 0, longest_value: 0, total: 0 };
    for element in array {
        let key = match plain_len(&element.key) {
            Some(len) => len,
            // SAFETY: by the caller's promise.
            None => unsafe { key(element.key.data.cast(), element.key.len)? }.len(),
        };
        let value = match plain_len(&element.value) {
            Some(len) => len,
            // SAFETY: by the caller's promise.
            None => unsafe { bytes(element.value.data.cast(), element.value.len, "value")? }.len(),
        };
        items.longest_key = items.longest_key.max(key);
        items.longest_value = items.longest_value.max(value);
        items.total = items.total.saturating_add(key).saturating_add(value);
    }
    check_total(items.total)?;
    Ok(items)
}

/// The length of bytes that nothing can be wrong with, which is the usual case.
#[inline]
fn plain_len(bytes: &cachetory_bytes_t) -> Option<usize> {
    (!bytes.data.is_null() && bytes.len <= LONGEST).then_some(bytes.len)
}

fn check_total(total: usize) -> Result<()> {
    if total > LONGEST {
        return Err(Error::invalid_argument("the batch is above PTRDIFF_MAX bytes"));
    }
    Ok(())
}

#[inline]
fn checked(bytes: &cachetory_bytes_t) -> &[u8] {
    if bytes.len == STRLEN {
        // SAFETY: checked not to be NULL, and NUL-terminated by the caller's promise.
        return unsafe { CStr::from_ptr(bytes.data) }.to_bytes();
    }
    if bytes.len == 0 {
        return &[];
    }
    // SAFETY: checked not to be NULL nor too long, and readable by the caller's promise.
    unsafe { std::slice::from_raw_parts(bytes.data.cast(), bytes.len) }
}

impl Keys for CheckedKeys<'_> {
    fn count(&self) -> usize {
        self.array.len()
    }

    fn key(&self, index: usize) -> &[u8] {
        checked(&self.array[index])
    }

    fn keys<'k>(&'k self, from: usize, chunk: &mut [&'k [u8]]) {
        for (key, element) in chunk.iter_mut().zip(&self.array[from..]) {
            *key = checked(element);
        }
    }

    fn longest_key(&self) -> usize {
        self.longest
    }

    fn total_len(&self) -> usize {
        self.total
    }
}

impl Keys for CheckedItems<'_> {
    fn count(&self) -> usize {
        self.array.len()
    }

    fn key(&self, index: usize) -> &[u8] {
        checked(&self.array[index].key)
    }

    fn longest_key(&self) -> usize {
        self.longest_key
    }

    fn total_len(&self) -> usize {
        self.total
    }
}

impl Items for CheckedItems<'_> {
    fn value(&self, index: usize) -> &[u8] {
        checked(&self.array[index].value)
    }

    fn items<'i>(&'i self, from: usize, chunk: &mut [(&'i [u8], &'i [u8])]) {
        for (item, element) in chunk.iter_mut().zip(&self.array[from..]) {
            *item = (checked(&element.key), checked(&element.value));
        }
    }

    fn longest_value(&self) -> usize {
        self.longest_value
    }
}
