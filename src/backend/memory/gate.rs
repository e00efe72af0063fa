//! The shards and their locks.
//!
//! Readers do not stop each other at a readers-writer lock, but each writes to it as it comes and as it goes, and
//! memory that several processors write in turn is handed around among them at the price of many reads. So where
//! threads take turns at reading a shard, each opens a door of its own: another lock on the same shard, which it alone
//! uses. The next writer closes the doors again, and waits for who is inside. One thread alone never has a door, and a
//! writer then has one lock to take.
//!
//! A shard's main lock is taken before its doors.

use std::ops::Deref;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use once_cell::race::OnceBox;

use super::clock::NEVER;
use super::shard::Shard;
use super::{SHARDS, indices};
use crate::{reserve, threads};

/// Threads beyond that many share stripes. As many as there are bits in the set of open doors.
const STRIPES: usize = u32::BITS as usize;

/// Doors are opened after so many changes of the reader since the last write, so that a shard that is written often, or
/// read by one thread at a time, goes without.
const TURNS: u32 = 8;

type Lock = RwLock<Option<Arc<Shard>>>;

/// On cache lines of its own, so that what is done to one shard does not slow down those who use the next.
#[repr(align(128))]
struct Slot {
    /// Always holds the shard; a door holds it as long as it is open.
    main: Lock,
    /// When the shard's first ticket of expiry is due. Written under the shard's lock.
    due: AtomicI64,
    /// The stripe that came through the main lock last, and how often that changed, roughly.
    last: AtomicU32,
    turns: AtomicU32,
}

/// What the threads of one number have to themselves.
#[derive(Default)]
#[repr(align(128))]
struct Stripe {
    reads: AtomicU32,
    doors: OnceBox<Doors>,
}

#[repr(align(128))]
struct Doors([Lock; SHARDS]);

pub struct Shards {
    slots: Box<[Slot; SHARDS]>,
    stripes: Box<[Stripe; STRIPES]>,
    /// For each shard, the stripes with an open door to it.
    open: Box<[AtomicU32; SHARDS]>,
}

/// A shard that may be read.
pub struct Reading<'a> {
    lock: RwLockReadGuard<'a, Option<Arc<Shard>>>,
    /// Several threads have been reading it since it was written.
    pub is_contended: bool,
}

impl Deref for Reading<'_> {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        match &*self.lock {
            Some(shard) => shard,
            None => unreachable!("only an open door lets in"),
        }
    }
}

/// A shard that may be written.
pub struct Writing<'a> {
    lock: RwLockWriteGuard<'a, Option<Arc<Shard>>>,
}

impl Writing<'_> {
    pub fn shard(&mut self) -> &mut Shard {
        match self.lock.as_mut().and_then(Arc::get_mut) {
            Some(shard) => shard,
            None => unreachable!("the doors are closed"),
        }
    }
}

impl Shards {
    pub fn new() -> Self {
        let slot = |_| Slot {
            main: RwLock::new(Some(Arc::default())),
            due: AtomicI64::new(NEVER),
            last: AtomicU32::new(u32::MAX),
            turns: AtomicU32::new(0),
        };
        Self {
            slots: Box::new(std::array::from_fn(slot)),
            stripes: Box::default(),
            open: Box::new([const { AtomicU32::new(0) }; SHARDS]),
        }
    }

    pub fn due(&self, index: usize) -> &AtomicI64 {
        &self.slots[index].due
    }

    /// Counts a read of this thread's; the answer is how many there were, roughly.
    pub fn count_read(&self) -> u32 {
        let reads = &self.stripes[stripe()].reads;
        let count = reads.load(Ordering::Relaxed).wrapping_add(1);
        // Not an increment: a count lost to another thread does not matter.
        reads.store(count, Ordering::Relaxed);
        count
    }

    #[inline(always)]
    pub fn read(&self, index: usize) -> Reading<'_> {
        let stripe = stripe();
        if self.open[index].load(Ordering::Relaxed) & 1 << stripe != 0
            && let Some(doors) = self.stripes[stripe].doors.get()
        {
            let lock = read(&doors.0[index]);
            if lock.is_some() {
                return Reading { lock, is_contended: true };
            }
        }
        self.read_main(index, stripe)
    }

    #[inline(always)]
    fn read_main(&self, index: usize, stripe: usize) -> Reading<'_> {
        let slot = &self.slots[index];
        let lock = read(&slot.main);
        if slot.last.load(Ordering::Relaxed) != stripe as u32 {
            slot.last.store(stripe as u32, Ordering::Relaxed);
            let turns = slot.turns.load(Ordering::Relaxed) + 1;
            if turns < TURNS {
                slot.turns.store(turns, Ordering::Relaxed);
            } else {
                self.open_door(index, stripe, &lock);
            }
        }
        Reading { lock, is_contended: false }
    }

    /// To be called with the main lock, so that no writer misses it.
    #[cold]
    fn open_door(&self, index: usize, stripe: usize, shard: &Option<Arc<Shard>>) {
        let make = || {
            let doors = Box::new(Doors(std::array::from_fn(|_| RwLock::default())));
            // It is there to stay.
            if reserve::holds(&*doors) { Err(()) } else { Ok(doors) }
        };
        let Ok(doors) = self.stripes[stripe].doors.get_or_try_init(make) else { return };
        // Another thread of this stripe may be inside. It is not waited for.
        if let Ok(mut door) = doors.0[index].try_write() {
            door.clone_from(shard);
            self.open[index].fetch_or(1 << stripe, Ordering::Relaxed);
        }
    }

    pub fn write(&self, index: usize) -> Writing<'_> {
        let slot = &self.slots[index];
        let lock = slot.main.write().unwrap_or_else(PoisonError::into_inner);
        slot.turns.store(0, Ordering::Relaxed);
        let open = self.open[index].load(Ordering::Relaxed);
        if open != 0 {
            self.close_doors(index, open);
        }
        Writing { lock }
    }

    #[cold]
    fn close_doors(&self, index: usize, open: u32) {
        self.open[index].store(0, Ordering::Relaxed);
        for stripe in indices(u64::from(open)) {
            if let Some(doors) = self.stripes[stripe].doors.get() {
                *doors.0[index].write().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    #[cfg(test)]
    pub fn open_doors(&self, index: usize) -> u32 {
        self.open[index].load(Ordering::Relaxed).count_ones()
    }

    /// Locks the shards whose bits are set, in ascending order.
    pub fn read_all(&self, shards: u64) -> Vec<Reading<'_>> {
        let mut locks = Vec::with_capacity(shards.count_ones() as usize);
        locks.extend(indices(shards).map(|index| self.read(index)));
        locks
    }

    pub fn write_all(&self, shards: u64) -> Vec<Writing<'_>> {
        let mut locks = Vec::with_capacity(shards.count_ones() as usize);
        locks.extend(indices(shards).map(|index| self.write(index)));
        locks
    }
}

fn stripe() -> usize {
    threads::number() % STRIPES
}

fn read(lock: &Lock) -> RwLockReadGuard<'_, Option<Arc<Shard>>> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
