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

    /// The length of the longest value.
    fn longest_value(&self) -> usize {
        (0..self.count()).map(|index| self.value(index).len()).max().unwrap_or(0)
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
