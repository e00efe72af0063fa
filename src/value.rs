//! Values and batches on their way to the caller: a small value in one exact allocation, or together with a few others,
//! a large one or a batch in the buffer it arrived in.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::reserve;

/// Bytes before every value, for what the C boundary needs to release the value from one pointer. In a shared value,
/// which cannot be written later, twice the length of the whole allocation, little-endian.
pub const HEADER: usize = 8;

/// A value's bytes in one allocation: [`HEADER`] bytes, the data, a NUL that is not part of the data.
#[derive(Clone, Debug)]
pub enum Value {
    /// A buffer that it was read into, or copied to from where it was read. May have spare capacity.
    Buffer(Vec<u8>),
    /// One exact allocation; cheap to clone, so a store in memory can hand it out without a copy.
    Shared(Arc<[u8]>),
    /// A large value that is as cheap to clone as a small one.
    SharedBuffer(Arc<Vec<u8>>),
    /// One of a few small values that came together and share one buffer: at `at` in it, with at least [`HEADER`] bytes
    /// before it and a NUL after it.
    Part { of: Arc<Vec<u8>>, at: u32, len: u32 },
}

/// From here on a value is copied into a buffer: its memory can be asked for without aborting the process when there is
/// none, and need not be zeroed first, which outweighs the second allocation.
const LARGE: usize = 16 << 10;

impl Value {
    /// A copy of `data` that is cheap to clone.
    pub fn copy_of(data: &[u8]) -> Result<Self> {
        if data.len() >= LARGE {
            let mut buffer = reserve::exactly(data.len() + HEADER + 1, NO_MEMORY)?;
            buffer.extend_from_slice(&[0; HEADER]);
            buffer.extend_from_slice(data);
            buffer.push(0);
            let buffer = Arc::new(buffer);
            let stays = !reserve::holds(Arc::as_ptr(&buffer));
            return stays.then_some(Value::SharedBuffer(buffer)).ok_or_else(no_memory);
        }
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, HEADER + data.len() + 1).collect();
        if reserve::holds(bytes.as_ptr()) {
            return Err(no_memory());
        }
        if let Some(room) = Arc::get_mut(&mut bytes) {
            frame(room);
            room[HEADER..HEADER + data.len()].copy_from_slice(data);
        }
        Ok(Value::Shared(bytes))
    }

    /// A copy in one exact allocation of data that has room around it: [`HEADER`] bytes before it and one after, which
    /// is overwritten. `None`: there is no memory for it.
    #[inline(always)]
    pub fn copy_framed(framed: &mut [u8]) -> Option<Self> {
        let end = framed.len().checked_sub(1)?;
        let was = std::mem::replace(framed.get_mut(end)?, 0);
        match reserve::copied(framed) {
            Some(copy) => Some(Value::Buffer(copy)),
            None => {
                framed[end] = was;
                None
            }
        }
    }

    /// A copy that shares nothing with this one. Where there is no memory for it, a clone.
    pub fn copy(&self) -> Self {
        let framed = self.framed();
        let mut buffer = Vec::new();
        if reserve::without(|| buffer.try_reserve_exact(framed.len())).is_err() {
            return self.clone();
        }
        buffer.extend_from_slice(framed);
        Value::Buffer(buffer)
    }

    pub fn data(&self) -> &[u8] {
        let framed = self.framed();
        &framed[HEADER..framed.len() - 1]
    }

    /// The data, and the NUL after it.
    pub fn data_and_nul(&self) -> &[u8] {
        &self.framed()[HEADER..]
    }

    fn framed(&self) -> &[u8] {
        match self {
            Value::Shared(bytes) => bytes,
            Value::Buffer(bytes) => bytes,
            Value::SharedBuffer(bytes) => bytes,
            Value::Part { of, at, len } => {
                &of[*at as usize - HEADER..][..HEADER + *len as usize + 1]
            }
        }
    }
}

const NO_MEMORY: &str = "memory for a value";

#[cold]
fn no_memory() -> Error {
    Error::no_memory(NO_MEMORY)
}

fn frame(framed: &mut [u8]) {
    let word = (framed.len() as u64) << 1;
    framed[..HEADER].copy_from_slice(&word.to_le_bytes());
    if let Some(end) = framed.last_mut() {
        *end = 0;
    }
}

/// Where a value of a batch lies in the batch's arena. `at == MISS` means there is none.
/// The layout is that of a pointer and a length, so that an array of these can be turned into one of those in place.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub at: usize,
    pub len: usize,
}

impl Span {
    pub const MISS: Span = Span { at: usize::MAX, len: 0 };
    /// The first reserved one, where places are counted from the start of the arena.
    pub const ORIGIN: Span = Span { at: 0, len: 0 };
}

/// The answers to a batch of keys, in their order.
#[derive(Debug)]
pub enum Values {
    /// All in one buffer. The answers' spans follow [`Values::RESERVED_SPANS`] others. The first of those says from
    /// where in the buffer the places are counted; for the rest they are free for the C boundary.
    Arena { spans: Vec<Span>, arena: Vec<u8> },
    /// Each on its own.
    Each(Vec<Option<Value>>),
}

impl Values {
    /// Spans kept free before the answers, for what the C boundary needs to release the batch from one pointer.
    pub const RESERVED_SPANS: usize = 2;

    pub fn len(&self) -> usize {
        match self {
            Values::Arena { spans, .. } => spans.len() - Self::RESERVED_SPANS,
            Values::Each(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much memory they hold together.
    pub fn held(&self) -> usize {
        match self {
            Values::Arena { spans, arena } => {
                arena.capacity() + spans.capacity() * size_of::<Span>()
            }
            Values::Each(_) => 0,
        }
    }

    /// The answer at `index`: `None` for a miss.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        match self {
            Values::Arena { spans, arena } => {
                let start = spans[0].at;
                let span = spans[Self::RESERVED_SPANS + index];
                (span.at != Span::MISS.at).then(|| &arena[start + span.at..][..span.len])
            }
            Values::Each(values) => values[index].as_ref().map(Value::data),
        }
    }
}
