//! The structs and macros of the ABI, and the passage of values across it.

use std::ffi::{c_char, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::reserve;
use crate::value::{HEADER, Span, Value, Values};

/// The version of the header: MAJOR.MINOR.PATCH. cachetory_version() tells that of the library.
pub const CACHETORY_VERSION_MAJOR: i32 = 0;
pub const CACHETORY_VERSION_MINOR: i32 = 1;
pub const CACHETORY_VERSION_PATCH: i32 = 0;

/// A time to live, or a time, that never comes.
pub const CACHETORY_NO_EXPIRY: i64 = 9223372036854775807i64;

/// cachetory_set: only where the key is not there yet (SET … NX).
pub const CACHETORY_SET_IF_NOT_EXISTS: u32 = 1u32;

/// cachetory_error_t.flags: trying the same call again later may succeed.
pub const CACHETORY_ERROR_RETRYABLE: u32 = 1u32;
/// cachetory_error_t.flags: a write may have been applied, wholly or partly, or may still be, even after later calls
/// were answered: it left this machine, in whole or in part, and no answer came back.
pub const CACHETORY_ERROR_MAYBE_APPLIED: u32 = 2u32;

/// What a call came to: >= 0 is an answer, < 0 is an error. One of the CACHETORY_ constants above; the list only grows.
pub type cachetory_status_t = i32;

/// A cache. The number is not an address; {0} is no handle.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct cachetory_t {
    pub id: u64,
}

/// A queue of completed asynchronous calls. The number is not an address; {0} is no handle.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct cachetory_queue_t {
    pub id: u64,
}

/// Bytes that belong to somebody else. A key's len may be CACHETORY_STRLEN.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct cachetory_bytes_t {
    pub data: *const c_char,
    pub len: usize,
}

/// A key and its value, for cachetory_mset.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct cachetory_item_t {
    pub key: cachetory_bytes_t,
    pub value: cachetory_bytes_t,
}

/// A value that belongs to the caller, who releases it with cachetory_value_free. Start from {0}.
#[repr(C)]
#[derive(Debug)]
pub struct cachetory_value_t {
    /// Never NULL for a hit, even when len == 0; data[len] == 0.
    pub data: *const c_char,
    pub len: usize,
    /// Opaque; do not touch.
    pub owner: *mut c_void,
}

/// The answers to a batch of keys. They belong to the caller, who releases them as one with cachetory_values_free.
/// Start from {0}.
#[repr(C)]
#[derive(Debug)]
pub struct cachetory_values_t {
    /// items[i] answers keys[i]. A miss has data == NULL; a hit is followed by a NUL that len does not count.
    pub items: *const cachetory_bytes_t,
    pub len: usize,
    /// Opaque; do not touch.
    pub owner: *mut c_void,
}

/// How a call went. The caller's own: nothing in it needs to be released.
#[repr(C)]
pub struct cachetory_error_t {
    /// The same as the call's return value.
    pub status: cachetory_status_t,
    /// CACHETORY_ERROR_RETRYABLE | CACHETORY_ERROR_MAYBE_APPLIED
    pub flags: u32,
    /// NUL-terminated UTF-8, cut at a character boundary. Empty on success, when only message[0] is set.
    pub message: [c_char; 504],
}

impl cachetory_value_t {
    pub const EMPTY: Self = Self { data: ptr::null(), len: 0, owner: ptr::null_mut() };
}

impl cachetory_values_t {
    pub const EMPTY: Self = Self { items: ptr::null(), len: 0, owner: ptr::null_mut() };
}

/// The word in a value's header: the length of its allocation, and in the lowest bit what kind it is.
const BUFFER: u64 = 1;

/// Set in a value's owner when that is a shared buffer, which is aligned to more than this; no other owner is odd.
const SHARED_BUFFER: usize = 1;

fn header(framed: &[u8]) -> u64 {
    let mut word = [0; HEADER];
    word.copy_from_slice(&framed[..HEADER]);
    u64::from_le_bytes(word)
}

/// Hands a value over to the caller.
#[inline(always)]
pub fn give_value(value: Value) -> cachetory_value_t {
    let (framed, len) = match value {
        Value::Shared(bytes) => {
            let len = bytes.len();
            debug_assert_eq!(header(&bytes), (len as u64) << 1);
            (Arc::into_raw(bytes).cast::<u8>(), len)
        }
        Value::Buffer(buffer) => {
            let mut buffer = ManuallyDrop::new(buffer);
            let word = (buffer.capacity() as u64) << 1 | BUFFER;
            buffer[..HEADER].copy_from_slice(&word.to_le_bytes());
            (buffer.as_ptr(), buffer.len())
        }
        Value::SharedBuffer(buffer) => {
            let len = buffer.len() - HEADER - 1;
            return give_part(buffer, HEADER, len);
        }
        Value::Part { of, at, len } => return give_part(of, at as usize, len as usize),
    };
    // SAFETY: every value has a header before its data, in the same allocation.
    let data = unsafe { framed.add(HEADER) };
    cachetory_value_t { data: data.cast(), len: len - HEADER - 1, owner: framed.cast_mut().cast() }
}

fn give_part(buffer: Arc<Vec<u8>>, at: usize, len: usize) -> cachetory_value_t {
    let data = buffer[at..][..len].as_ptr();
    let owner = Arc::into_raw(buffer).map_addr(|address| address | SHARED_BUFFER);
    cachetory_value_t { data: data.cast(), len, owner: owner.cast_mut().cast() }
}

/// Takes back what [`give_value`] gave, and empties the caller's struct.
///
/// # Safety
/// `value` is one that this library filled, or all zero. Its data and len may have been changed; its owner not.
#[inline(always)]
pub unsafe fn release_value(value: &mut cachetory_value_t) {
    let owner = value.owner.cast::<u8>();
    *value = cachetory_value_t::EMPTY;
    if owner.is_null() {
        return;
    }
    if owner.addr() & SHARED_BUFFER != 0 {
        let buffer = owner.map_addr(|address| address & !SHARED_BUFFER).cast::<Vec<u8>>();
        // SAFETY: by the caller's promise the owner is what `give_value` made of such a buffer.
        return drop(unsafe { Arc::from_raw(buffer.cast_const()) });
    }
    // SAFETY: by the caller's promise the owner starts with a header of ours, which says what the allocation is.
    unsafe {
        let word = header(std::slice::from_raw_parts(owner, HEADER));
        let size = (word >> 1) as usize;
        if word & BUFFER == 0 {
            drop(Arc::from_raw(ptr::slice_from_raw_parts(owner, size)));
        } else {
            drop(Vec::from_raw_parts(owner, 0, size));
        }
    }
}

/// A batch of separate values, and the array that shows them to the caller.
struct Separate {
    items: Vec<cachetory_bytes_t>,
    _values: Vec<Option<Value>>,
}

/// Set in a batch's owner when it is a [`Separate`]; both kinds are aligned to more than this.
const SEPARATE: usize = 1;
const MISS: cachetory_bytes_t = cachetory_bytes_t { data: ptr::null(), len: 0 };

/// Hands a batch over to the caller.
pub fn give_values(values: Values) -> Result<cachetory_values_t> {
    let len = values.len();
    if len == 0 {
        return Ok(cachetory_values_t::EMPTY);
    }
    Ok(match values {
        Values::Arena { spans, arena } => give_arena(spans, arena, len),
        Values::Each(values) => {
            let show = |value: &Option<Value>| match value {
                Some(value) => cachetory_bytes_t {
                    data: value.data().as_ptr().cast(),
                    len: value.data().len(),
                },
                None => MISS,
            };
            let mut items = Vec::new();
            reserve::without(|| items.try_reserve_exact(len)).map_err(|_| no_memory())?;
            items.extend(values.iter().map(show));
            let batch = Box::new(Separate { items, _values: values });
            if reserve::holds(&*batch) {
                return Err(no_memory());
            }
            let items = batch.items.as_ptr();
            let owner = Box::into_raw(batch).map_addr(|address| address | SEPARATE);
            cachetory_values_t { items, len, owner: owner.cast() }
        }
    })
}

fn no_memory() -> Error {
    Error::no_memory("memory for the answers")
}

/// Turns the spans into the caller's array where they lie. The two reserved ones keep what releases both allocations.
fn give_arena(spans: Vec<Span>, arena: Vec<u8>, len: usize) -> cachetory_values_t {
    const { assert!(size_of::<Span>() == size_of::<cachetory_bytes_t>()) };
    const { assert!(align_of::<Span>() == align_of::<cachetory_bytes_t>()) };
    const { assert!(Values::RESERVED_SPANS >= 2) };
    let mut spans = ManuallyDrop::new(spans);
    let mut arena = ManuallyDrop::new(arena);
    let base = arena.as_mut_ptr().cast::<c_char>();
    let count = spans.len();
    let spans_at = spans.as_mut_ptr();
    let items = spans_at.cast::<cachetory_bytes_t>();
    // SAFETY: a span and an item have the same size and alignment, so each is rewritten in its own place; every span
    // that is not a miss lies within the arena, counted from where the first reserved one says.
    unsafe {
        let origin = base.add(spans_at.read().at);
        for index in Values::RESERVED_SPANS..count {
            let span = spans_at.add(index).read();
            let item = if span.at == Span::MISS.at {
                MISS
            } else {
                cachetory_bytes_t { data: origin.add(span.at), len: span.len }
            };
            items.add(index).write(item);
        }
        items.write(cachetory_bytes_t { data: base, len: arena.capacity() });
        items.add(1).write(cachetory_bytes_t { data: ptr::null(), len: spans.capacity() });
        let first = items.add(Values::RESERVED_SPANS);
        cachetory_values_t { items: first, len, owner: items.cast() }
    }
}

/// Takes back what [`give_values`] gave, and empties the caller's struct.
///
/// # Safety
/// `values` is one that this library filled, or all zero. Its items and len may have been changed; its owner not.
pub unsafe fn release_values(values: &mut cachetory_values_t) {
    let owner = values.owner;
    *values = cachetory_values_t::EMPTY;
    if owner.is_null() {
        return;
    }
    // SAFETY: by the caller's promise the owner is one of the two kinds that `give_values` makes, told apart by the
    // bit.
    unsafe {
        if owner.addr() & SEPARATE != 0 {
            let batch = owner.map_addr(|address| address & !SEPARATE).cast::<Separate>();
            drop(Box::from_raw(batch));
        } else {
            let items = owner.cast::<cachetory_bytes_t>();
            let arena = items.read();
            let capacity = items.add(1).read().len;
            drop(Vec::from_raw_parts(arena.data.cast_mut().cast::<u8>(), 0, arena.len));
            drop(Vec::from_raw_parts(items.cast::<Span>(), 0, capacity));
        }
    }
}
