//! The ten operations and their answers as data, once, for every backend.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::value::{Value, Values};

/// The largest key or value: past it the server would drop the connection (`proto-max-bulk-len`).
pub const MAX_BULK: usize = 512 << 20;

/// Keys of a batch, borrowed from wherever the caller keeps them.
pub trait Keys {
    fn count(&self) -> usize;
    /// The key at `index`, which is below [`Keys::count`].
    fn key(&self, index: usize) -> &[u8];

    /// Fills `chunk` with the keys from `from` on, of which there are so many at least.
    fn keys<'k>(&'k self, from: usize, chunk: &mut [&'k [u8]]) {
        for (key, index) in chunk.iter_mut().zip(from..) {
            *key = self.key(index);
        }
    }

    /// The length of the longest key.
    fn longest_key(&self) -> usize {
        (0..self.count()).map(|index| self.key(index).len()).max().unwrap_or(0)
    }

    /// All there is to copy: keys, and values where there are any. Not above `isize::MAX`.
    fn total_len(&self) -> usize {
        (0..self.count()).map(|index| self.key(index).len()).sum()
    }
}

/// Keys and values of a batch, borrowed from wherever the caller keeps them.
pub trait Items: Keys {
    /// The value at `index`, which is below [`Keys::count`].
    fn value(&self, index: usize) -> &[u8];

    /// Fills `chunk` with the items from `from` on, of which there are so many at least.
    fn items<'i>(&'i self, from: usize, chunk: &mut [(&'i [u8], &'i [u8])]) {
        for (item, index) in chunk.iter_mut().zip(from..) {
            *item = (self.key(index), self.value(index));
        }
    }

    /// The length of the longest value.
    fn longest_value(&self) -> usize {
        (0..self.count()).map(|index| self.value(index).len()).max().unwrap_or(0)
    }
}

/// How many keys or items are fetched at once: a call through the trait for each would outweigh what is done with it.
const CHUNK: usize = 16;

/// Visits all keys in their order.
#[inline]
pub fn each_key<'k>(keys: &'k dyn Keys, mut visit: impl FnMut(&'k [u8])) {
    let count = keys.count();
    let mut chunk: [&[u8]; CHUNK] = [&[]; CHUNK];
    for from in (0..count).step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(count - from)];
        keys.keys(from, chunk);
        chunk.iter().for_each(|key| visit(key));
    }
}

/// Visits all items in their order.
#[inline]
pub fn each_item<'i>(items: &'i dyn Items, mut visit: impl FnMut(&'i [u8], &'i [u8])) {
    let count = items.count();
    let mut chunk: [(&[u8], &[u8]); CHUNK] = [(&[], &[]); CHUNK];
    for from in (0..count).step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(count - from)];
        items.items(from, chunk);
        chunk.iter().for_each(|(key, value)| visit(key, value));
    }
}

/// A request whose arguments have been checked: see [`crate::cache::Cache`] for the bounds.
#[derive(Clone, Copy)]
pub enum Op<'a> {
    Ping,
    Get {
        key: &'a [u8],
    },
    MGet {
        keys: &'a dyn Keys,
    },
    Set {
        key: &'a [u8],
        value: &'a [u8],
        ttl_ms: Ttl,
        if_not_exists: bool,
    },
    MSet {
        items: &'a dyn Items,
        ttl_ms: Ttl,
    },
    /// `None`: the key shall not expire. Zero or negative: it is gone at once.
    ExpireIn {
        key: &'a [u8],
        ttl_ms: Option<i64>,
    },
    /// `None`: the key shall not expire. A time in the past: it is gone at once.
    ExpireAt {
        key: &'a [u8],
        unix_ms: Option<i64>,
    },
    Delete {
        key: &'a [u8],
    },
    MDelete {
        keys: &'a dyn Keys,
    },
    Clear,
}

/// Milliseconds to live, at least 1; `None`: for ever.
pub type Ttl = Option<i64>;

impl Op<'_> {
    /// Whether it may be carried out twice without anybody noticing.
    pub fn is_read(&self) -> bool {
        matches!(self, Op::Ping | Op::Get { .. } | Op::MGet { .. })
    }
}

#[derive(Debug)]
pub enum Answer {
    /// `ping`, `set`, `mset`, `expire_*` and `delete` of a key that was there, `clear`.
    Done,
    /// `get`, `expire_*`, `delete`: no such key.
    NotFound,
    /// `set` if-not-exists: the key was there.
    NotStored,
    /// `get`.
    Value(Value),
    /// `mget`.
    Values(Values),
    /// `mdelete`.
    Deleted(u64),
}

/// The wall clock in milliseconds, as Redis counts expiry.
pub fn unix_ms_now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}
