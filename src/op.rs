//! The ten operations and their answers as data, once, for every backend.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
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

/// A request. Its bounds are those of [`Op::check`].
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
        condition: Condition,
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

/// Ten thousand years. No clock need be read to see that a shorter ttl ends in time.
const FAR: i64 = 10_000 * 366 * 24 * 3600 * 1000;

/// What an operation does to what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it may be carried out twice without anybody noticing.
    Read,
    Write,
}

/// Whether a `set` changes a key that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Always,
    NotExists,
}

impl Op<'_> {
    /// The bounds that hold on every backend alike. `longest_key` is what the server takes less the prefix.
    #[inline(always)]
    pub fn check(&self, longest_key: usize) -> Result<()> {
        match *self {
            Op::Ping | Op::Clear => Ok(()),
            Op::Get { key } | Op::Delete { key } => check_key(key.len(), longest_key),
            Op::MGet { keys } | Op::MDelete { keys } => check_key(keys.longest_key(), longest_key),
            Op::Set { key, value, ttl_ms, .. } => check_set(key, value, ttl_ms, longest_key),
            Op::MSet { items, ttl_ms } => {
                check_ttl(ttl_ms)?;
                check_key(items.longest_key(), longest_key)?;
                check_value(items.longest_value())
            }
            Op::ExpireIn { key, ttl_ms } => {
                check_key(key.len(), longest_key)?;
                check_end(ttl_ms)
            }
            Op::ExpireAt { key, .. } => check_key(key.len(), longest_key),
        }
    }

    pub fn access(&self) -> Access {
        match self {
            Op::Ping | Op::Get { .. } | Op::MGet { .. } => Access::Read,
            _ => Access::Write,
        }
    }
}

/// [`Op::check`] of an `Op::Set`.
#[inline(always)]
pub fn check_set(key: &[u8], value: &[u8], ttl_ms: Ttl, longest_key: usize) -> Result<()> {
    check_key(key.len(), longest_key)?;
    check_value(value.len())?;
    if ttl_ms.is_some() { check_ttl(ttl_ms) } else { Ok(()) }
}

#[inline]
fn check_key(len: usize, longest: usize) -> Result<()> {
    if len > longest {
        return Err(Error::invalid_argument("the key is longer than 512 MiB"));
    }
    Ok(())
}

#[inline]
fn check_value(len: usize) -> Result<()> {
    if len > MAX_BULK {
        return Err(Error::invalid_argument("the value is longer than 512 MiB"));
    }
    Ok(())
}

#[inline]
fn check_ttl(ttl_ms: Ttl) -> Result<()> {
    if ttl_ms.is_some_and(|ttl| ttl < 1) {
        return Err(Error::invalid_argument(
            "the ttl must be at least 1 ms, unless the key shall never expire",
        ));
    }
    check_end(ttl_ms)
}

/// A ttl must end within 64 bits of milliseconds, or the server would refuse it.
#[inline]
fn check_end(ttl_ms: Option<i64>) -> Result<()> {
    match ttl_ms {
        Some(ttl) if ttl > FAR && unix_ms_now().checked_add(ttl).is_none() => {
            Err(Error::invalid_argument("the ttl ends later than 64 bits of milliseconds can say"))
        }
        _ => Ok(()),
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Bytes that are only counted.
    fn bytes(len: usize) -> Vec<u8> {
        vec![b'x'; len]
    }

    struct Batch(Vec<(Vec<u8>, Vec<u8>)>);

    impl Keys for Batch {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn key(&self, index: usize) -> &[u8] {
            &self.0[index].0
        }
    }

    impl Items for Batch {
        fn value(&self, index: usize) -> &[u8] {
            &self.0[index].1
        }
    }

    #[test]
    fn a_key_of_any_operation_is_as_long_as_may_be_and_no_longer() {
        let key = bytes(10);
        let batch = Batch(vec![(bytes(3), bytes(1)), (bytes(10), bytes(1))]);
        let with_keys = [
            Op::Get { key: &key },
            Op::MGet { keys: &batch },
            Op::Set { key: &key, value: b"", ttl_ms: None, condition: Condition::Always },
            Op::MSet { items: &batch, ttl_ms: None },
            Op::ExpireIn { key: &key, ttl_ms: None },
            Op::ExpireAt { key: &key, unix_ms: None },
            Op::Delete { key: &key },
            Op::MDelete { keys: &batch },
        ];
        for op in with_keys {
            assert!(op.check(10).is_ok() && op.check(9).is_err());
        }
        assert!(Op::Ping.check(0).is_ok() && Op::Clear.check(0).is_ok());
    }

    #[test]
    fn a_value_above_512_mib_is_refused() {
        // Zeroed, so that it takes no memory.
        let value = vec![0; MAX_BULK + 1];
        let set = |value| Op::Set { key: b"k", value, ttl_ms: None, condition: Condition::Always };
        assert!(set(&value[1..]).check(1).is_ok() && set(&value).check(1).is_err());
        let items = Batch(vec![(bytes(1), value), (bytes(1), bytes(1))]);
        assert!(Op::MSet { items: &items, ttl_ms: None }.check(1).is_err());
    }

    #[test]
    fn a_ttl_is_at_least_a_millisecond_and_ends_within_64_bits() {
        let items = Batch(Vec::new());
        for (ttl, may_set, may_expire) in [
            (None, true, true),
            (Some(1), true, true),
            (Some(0), false, true),
            (Some(-1), false, true),
            (Some(FAR + 1), true, true),
            (Some(i64::MAX - 1), false, false),
        ] {
            let set = Op::Set { key: b"k", value: b"", ttl_ms: ttl, condition: Condition::Always };
            let mset = Op::MSet { items: &items, ttl_ms: ttl };
            assert_eq!((set.check(1).is_ok(), mset.check(1).is_ok()), (may_set, may_set));
            let expire = Op::ExpireIn { key: b"k", ttl_ms: ttl };
            assert_eq!(expire.check(1).is_ok(), may_expire);
            let expire = Op::ExpireAt { key: b"k", unix_ms: ttl };
            assert!(expire.check(1).is_ok(), "any time will do");
        }
    }
}
