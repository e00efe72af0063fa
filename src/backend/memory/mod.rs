//! The process's own memory, as strict as Redis in every answer.
//!
//! Keys are spread over shards by a hash with a secret seed. A shard is behind a readers-writer lock, so that readers
//! do not stop each other ([`gate`]); a batch locks the shards it needs in ascending order and is atomic against
//! everything else. Values are reference-counted: a hit is handed out without a copy, and stays the caller's whatever
//! becomes of the entry. Only where several threads read is a small one copied, for they would contend for its count,
//! and in the answer to a batch, where one buffer for all costs less.
//!
//! **Expiry.** An entry is gone, for every call, from the millisecond its time comes: by a clock that nobody sets where
//! it has a time to live, and by the wall clock, whatever that is set to, where the caller named a time. Its memory is
//! freed by later calls (any, on any key; `ping` too), which look at a bounded number of expired entries each; while
//! nothing is due that costs them one atomic load. There is no thread for it: a cache that nobody calls keeps what it
//! has, and does not grow.
//!
//! **`max_bytes`** bounds the sum over all entries of key length, value length and [`ENTRY_OVERHEAD`]. When a write
//! returns the sum is within the bound (a write in another thread may be about to make its own room): expired entries
//! went first, then the least recently used of the whole store; in one of more than a thousand entries, use is told
//! apart to a thousandth of their number. Every call that finds a key uses it, `expire_*` and `set` if-not-exists
//! included, as in Redis. A value that could not stay even alone is treated as stored and evicted at once: the answer
//! is the usual one, an older value under the key is gone, and nothing else has to go for it. A cache may forget at any
//! time, so that is no error, and a program that works with a large bound works, if slower, with a small one.
//!
//! Locks are taken in this order: `recency`, then shards, ascending. Only [`room`] holds `recency` and a shard at once.

mod batch;
mod clock;
mod eviction;
mod gate;
mod hash;
mod room;
mod shard;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::clock::{Clock, Expiry, NEVER, Now, SystemClock};
use self::eviction::EvictionOrder;
use self::gate::{Shards, Writing};
use self::hash::Hasher;
pub use self::shard::ENTRY_OVERHEAD;
use self::shard::{Entry, Shard, cost};
use super::Backend;
use crate::completion::Promise;
use crate::error::{Kind, Result};
use crate::op::{Answer, Condition, Op, Ttl};
use crate::reserve::exactly as reserved;
use crate::value::Value;

/// As many as there are bits in the set of shards that a batch needs.
const SHARDS: usize = u64::BITS as usize;

/// Up to here a copy costs less than a count that several threads change.
const SMALL: usize = 1 << 10;

/// What every write changes, and in a bounded store every use: apart from what is only read.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    /// What the entries cost together, and their number.
    bytes: AtomicI64,
    entries: AtomicUsize,
    /// Counts uses, where there is a bound.
    tick: AtomicI64,
}

pub struct Memory<C = SystemClock> {
    clock: C,
    hasher: Hasher,
    shards: Shards,
    /// Not later than any shard's `due`, except while a sweep works it out anew.
    next_due: AtomicI64,
    closed: AtomicBool,
    counts: Counts,
    /// `max_bytes`, if there is a bound.
    limit: Option<i64>,
    /// A ticket for each entry, ordered by last use, where there is a bound.
    recency: Mutex<EvictionOrder>,
}

impl Memory {
    /// Apart: who opens a cache on a server needs none of it.
    #[inline(never)]
    pub fn new(max_bytes: u64) -> Self {
        Self::with_clock(max_bytes, SystemClock)
    }
}

impl<C: Clock> Backend for Memory<C> {
    /// The functions called here stay functions: as one, each would prepare for the largest.
    fn call(&self, op: &Op<'_>) -> Result<Answer> {
        match *op {
            Op::Ping => self.ping(),
            Op::Get { key } => self.get(key),
            Op::MGet { keys } => self.mget(keys),
            Op::Set { key, value, ttl_ms, condition } => self.set(key, value, ttl_ms, condition),
            Op::MSet { items, ttl_ms } => self.mset(items, ttl_ms),
            Op::ExpireIn { key, ttl_ms } => self.expire(key, |now| {
                ttl_ms.is_none_or(|ttl| ttl > 0).then(|| Expiry::after(ttl_ms, now))
            }),
            Op::ExpireAt { key, unix_ms } => self.expire(key, |now| match unix_ms {
                Some(unix_ms) => Expiry::at(unix_ms, now),
                None => Some(Expiry::NEVER),
            }),
            Op::Delete { key } => self.delete(key),
            Op::MDelete { keys } => self.mdelete(keys),
            Op::Clear => self.clear(),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Answer> {
        self.get(key)
    }

    fn set(&self, key: &[u8], value: &[u8], ttl_ms: Ttl, condition: Condition) -> Result<Answer> {
        self.set(key, value, ttl_ms, condition)
    }

    fn submit(&self, op: &Op<'_>, call: Promise) -> Result<()> {
        super::submit_at_once(self, op, call)
    }

    fn close(&self) {
        // Before the shards are emptied: who locks one later sees it, and adds nothing.
        self.closed.store(true, Ordering::Release);
        let freed = self.take_all();
        let tickets = std::mem::take(&mut *lock(&self.recency));
        drop((freed, tickets));
    }
}

impl<C: Clock> Memory<C> {
    fn with_clock(max_bytes: u64, clock: C) -> Self {
        Self {
            clock,
            hasher: Hasher::new(),
            shards: Shards::new(),
            next_due: AtomicI64::new(NEVER),
            closed: AtomicBool::new(false),
            counts: Counts::default(),
            limit: (max_bytes > 0).then(|| i64::try_from(max_bytes).unwrap_or(i64::MAX)),
            recency: Mutex::default(),
        }
    }

    #[inline(never)]
    fn ping(&self) -> Result<Answer> {
        self.check_open()?;
        self.sweep(&Now::new(&self.clock), 1);
        Ok(Answer::Done)
    }

    #[inline(never)]
    fn get(&self, key: &[u8]) -> Result<Answer> {
        let now = Now::new(&self.clock);
        let hash = self.hash(key);
        let index = index(hash);
        let value = {
            let shard = self.shards.read(index);
            self.check_open()?;
            match self.find(&shard, hash, key, &now) {
                // Another reference would be counted where the other threads count theirs, as it is made and as it is
                // dropped.
                Some(Entry { value: value @ Value::Shared(_), .. })
                    if shard.is_contended && value.data().len() <= SMALL =>
                {
                    Some(value.copy())
                }
                Some(entry) => Some(entry.value.clone()),
                None => None,
            }
        };
        self.after_read(&now);
        Ok(match value {
            Some(value) => Answer::Value(value),
            None => Answer::NotFound,
        })
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    /// Finds a key, and notes the use.
    #[inline(always)]
    fn find<'a>(
        &self,
        shard: &'a Shard,
        hash: u64,
        key: &[u8],
        now: &Now<'_, C>,
    ) -> Option<&'a Entry> {
        let entry = shard.find(hash, key).filter(|entry| entry.is_live(now))?;
        self.touch(entry);
        Some(entry)
    }

    #[inline(never)]
    fn set(&self, key: &[u8], value: &[u8], ttl: Ttl, condition: Condition) -> Result<Answer> {
        let now = Now::new(&self.clock);
        let hash = self.hash(key);
        let index = index(hash);
        let expiry = Expiry::after(ttl, &now);
        let fits = self.fits(key, value);
        let value = if fits { Some(Value::copy_of(value)?) } else { None };
        let mut fresh = None;
        // Dropped after the lock is released.
        let mut _replaced = None;
        let answer = 'locked: {
            let mut lock = self.shards.write(index);
            let shard = lock.shard();
            self.check_open()?;
            if condition == Condition::NotExists
                && let Some(entry) = shard.find(hash, key).filter(|entry| entry.is_live(&now))
            {
                self.touch(entry);
                break 'locked Answer::NotStored;
            }
            shard.try_reserve_tickets(1, expiry)?;
            match value {
                None => _replaced = self.remove(shard, hash, key).map(|entry| entry.value),
                Some(value) => {
                    let (added, tick) = (value.data().len(), self.tick());
                    match shard.replace(hash, key, value, expiry, tick, &now) {
                        Ok(old) => {
                            self.count_replaced(&old, added);
                            _replaced = Some(old);
                        }
                        Err(value) => {
                            shard.try_reserve(1)?;
                            let key = boxed(key)?;
                            self.count_in(key.len(), added);
                            fresh = Some(shard.insert(hash, key, value, expiry, tick, &now));
                        }
                    }
                }
            }
            self.publish(index, shard);
            Answer::Done
        };
        self.admit(&now, fresh.as_slice().iter().copied());
        self.sweep(&now, 1);
        Ok(answer)
    }

    /// `expiry`: none, where that is over.
    #[inline(never)]
    fn expire(
        &self,
        key: &[u8],
        expiry: impl FnOnce(&Now<'_, C>) -> Option<Expiry>,
    ) -> Result<Answer> {
        let now = Now::new(&self.clock);
        let hash = self.hash(key);
        let index = index(hash);
        let expiry = expiry(&now);
        let mut removed = None;
        let answer = 'locked: {
            let mut lock = self.shards.write(index);
            let shard = lock.shard();
            self.check_open()?;
            match shard.find(hash, key).filter(|entry| entry.is_live(&now)) {
                None => break 'locked Answer::NotFound,
                Some(entry) => self.touch(entry),
            }
            if let Some(expiry) = expiry {
                shard.try_reserve_tickets(1, expiry)?;
            }
            match expiry {
                None => removed = self.remove(shard, hash, key),
                Some(expiry) => shard.expire(hash, key, expiry, &now),
            }
            self.publish(index, shard);
            Answer::Done
        };
        if removed.is_some() {
            self.after_removal();
        }
        self.sweep(&now, 1);
        Ok(answer)
    }

    #[inline(never)]
    fn delete(&self, key: &[u8]) -> Result<Answer> {
        let now = Now::new(&self.clock);
        let hash = self.hash(key);
        let index = index(hash);
        let removed = {
            let mut lock = self.shards.write(index);
            let shard = lock.shard();
            self.check_open()?;
            let removed = self.remove(shard, hash, key);
            if removed.is_some() {
                self.publish(index, shard);
            }
            removed
        };
        if removed.is_some() {
            self.after_removal();
        }
        self.sweep(&now, 1);
        let was_live = removed.is_some_and(|entry| entry.is_live(&now));
        Ok(if was_live { Answer::Done } else { Answer::NotFound })
    }

    #[inline(never)]
    fn clear(&self) -> Result<Answer> {
        self.check_open()?;
        drop(self.take_all());
        self.after_removal();
        Ok(Answer::Done)
    }

    /// Empties all shards at one moment.
    fn take_all(&self) -> Vec<Shard> {
        let mut locks = self.shards.write_all(u64::MAX);
        self.counts.bytes.store(0, Ordering::Relaxed);
        self.counts.entries.store(0, Ordering::Relaxed);
        let take = |(index, lock): (usize, &mut Writing<'_>)| {
            let shard = lock.shard();
            let taken = shard.take();
            self.publish(index, shard);
            taken
        };
        locks.iter_mut().enumerate().map(take).collect()
    }

    /// To be called with the lock of every shard concerned: then nothing is added once [`Backend::close`] has been
    /// there.
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Kind::Closed.into());
        }
        Ok(())
    }

    /// Whether an entry could stay if it were alone.
    fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        self.limit.is_none_or(|limit| cost(key.len(), value.len()) <= limit)
    }

    /// The next use's number.
    fn tick(&self) -> i64 {
        if self.limit.is_none() { 0 } else { self.counts.tick.fetch_add(1, Ordering::Relaxed) }
    }

    /// Notes a use. That of an entry which was used just before changes nothing, and in a large store an entry that is
    /// among the last used thousandth is not noted anew: the most popular keys would have every thread write here.
    fn touch(&self, entry: &Entry) {
        if self.limit.is_some() {
            let since = self.counts.tick.load(Ordering::Relaxed) - 1 - entry.used();
            if since > (self.counts.entries.load(Ordering::Relaxed) / 1024) as i64 {
                entry.touch(self.tick());
            }
        }
    }

    fn remove(&self, shard: &mut Shard, hash: u64, key: &[u8]) -> Option<Entry> {
        let removed = shard.remove(hash, |entry| *entry.key == *key)?;
        self.count_out(&removed);
        Some(removed)
    }

    // The counts are changed under the lock of the shard concerned, so that they never fall below what is there.

    fn count_in(&self, key_len: usize, value_len: usize) {
        self.counts.bytes.fetch_add(cost(key_len, value_len), Ordering::Relaxed);
        self.counts.entries.fetch_add(1, Ordering::Relaxed);
    }

    fn count_out(&self, entry: &Entry) {
        self.counts.bytes.fetch_sub(entry.cost(), Ordering::Relaxed);
        self.counts.entries.fetch_sub(1, Ordering::Relaxed);
    }

    fn count_replaced(&self, old: &Value, new_len: usize) {
        let change = cost(0, new_len) - cost(0, old.data().len());
        self.counts.bytes.fetch_add(change, Ordering::Relaxed);
    }
}

/// The shard of a key: by bits that the table in it uses neither for the slot nor for the tag.
fn index(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

fn indices(mut shards: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = shards.trailing_zeros() as usize;
        shards &= shards.wrapping_sub(1);
        (index < SHARDS).then_some(index)
    })
}

fn boxed(key: &[u8]) -> Result<Box<[u8]>> {
    let mut copy = reserved(key.len(), "memory for a key")?;
    copy.extend_from_slice(key);
    Ok(copy.into_boxed_slice())
}

/// A panic under a lock is a bug that the caller is told of; the data are whole at every point where there could be
/// one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
