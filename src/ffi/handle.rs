//! Handles: an id -> live object table, generation-checked, in which a stale, closed or made-up id is an error and never
//! undefined behaviour. A look-up takes no lock and waits for nobody, nor does anything else here: a lock that another thread
//! holds at the time of a fork would stay locked in the child for ever.

use std::cell::UnsafeCell;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;

use crate::error::{Error, Kind, Result};

/// A slot's state in one word: how many calls are using the object, whether it may be looked up, whether the slot is
/// taken, and the generation, which changes with every object and is part of its id.
const REFS: u64 = (1 << 24) - 1;
const OPEN: u64 = 1 << 24;
const TAKEN: u64 = 1 << 25;
const GENERATION_SHIFT: u32 = 26;

const INDEX_BITS: u32 = 20;
const PAGE_BITS: u32 = 9;
const PAGE: usize = 1 << PAGE_BITS;
const PAGES: usize = 1 << (INDEX_BITS - PAGE_BITS);
/// Generations start here, so that no id fits in 32 bits.
const FIRST_GENERATION: u64 = 1 << 32;
const GENERATIONS: u64 = 1 << (64 - GENERATION_SHIFT);
/// A generation's remainder by this is its table's kind, so that no id is one of two tables.
const KINDS: u64 = 2;

struct Slot<T> {
    state: AtomicU64,
    object: UnsafeCell<Option<T>>,
}

// SAFETY: the object is written only by the one thread that took the slot while nobody can look it up, and read only by
// threads that hold a reference, which keeps it from being taken out.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

pub struct Table<T> {
    kind: u64,
    pages: [OnceBox<[Slot<T>; PAGE]>; PAGES],
}

/// A reference to an object of a table. It lives on while this does, even when its handle is closed meanwhile.
pub struct Ref<'a, T> {
    slot: &'a Slot<T>,
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a reference is counted, so nobody takes the object out; only slots that hold one are given out.
        match unsafe { &*self.slot.object.get() } {
            Some(object) => object,
            None => unreachable!("a counted slot holds an object"),
        }
    }
}

impl<T> Drop for Ref<'_, T> {
    fn drop(&mut self) {
        self.slot.release();
    }
}

impl<T> Slot<T> {
    fn release(&self) {
        let left = self.state.fetch_sub(1, Ordering::Release) - 1;
        if left & (REFS | OPEN | TAKEN) == TAKEN {
            self.empty(left);
        }
    }

    /// Drops the object of a closed slot that nobody uses. Several may find that it is time; one does it.
    fn empty(&self, seen: u64) {
        let claimed = seen & !TAKEN | OPEN;
        // OPEN without TAKEN: being emptied. No look-up accepts it and no open takes it.
        if self.state.compare_exchange(seen, claimed, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // SAFETY: no references are left, none can be made, and this thread alone made the exchange.
        drop(unsafe { (*self.object.get()).take() });
        let next = next_generation(seen >> GENERATION_SHIFT);
        // A stray look-up may hold a reference for an instant; it must not be lost.
        let delta = (next << GENERATION_SHIFT).wrapping_sub(claimed);
        self.state.fetch_add(delta, Ordering::Release);
    }
}

fn next_generation(generation: u64) -> u64 {
    let next = generation + KINDS;
    if next < GENERATIONS { next } else { FIRST_GENERATION + next % KINDS }
}

impl<T> Table<T> {
    /// An id of this table is none of a table of another `kind`, which is below [`KINDS`].
    pub const fn new(kind: u64) -> Self {
        assert!(kind < KINDS);
        Self { kind, pages: [const { OnceBox::new() }; PAGES] }
    }

    /// Takes the object in; the answer is its id.
    pub fn open(&self, object: T) -> Result<u64> {
        for (number, page) in self.pages.iter().enumerate() {
            let page = page.get_or_init(|| new_page(self.kind));
            for (offset, slot) in page.iter().enumerate() {
                let state = slot.state.load(Ordering::Relaxed);
                if state & (REFS | OPEN | TAKEN) != 0 {
                    continue;
                }
                let taken = state | TAKEN;
                // TAKEN with no OPEN and one reference: being filled. The reference keeps `release` from emptying it.
                let filling = taken + 1;
                let exchange = (Ordering::Acquire, Ordering::Relaxed);
                if slot.state.compare_exchange(state, filling, exchange.0, exchange.1).is_err() {
                    continue;
                }
                // SAFETY: the slot is empty, no look-up accepts it, and this thread alone took it.
                unsafe { *slot.object.get() = Some(object) };
                slot.state.fetch_add(OPEN - 1, Ordering::Release);
                let index = (number * PAGE + offset) as u64;
                return Ok((state >> GENERATION_SHIFT) << INDEX_BITS | index);
            }
        }
        Err(Error::no_memory("another handle"))
    }

    pub fn get(&self, id: u64) -> Result<Ref<'_, T>> {
        let Some(slot) = self.slot(id) else { return Err(Kind::Closed.into()) };
        if !names(slot.state.load(Ordering::Relaxed), id) {
            return Err(Kind::Closed.into());
        }
        let state = slot.state.fetch_add(1, Ordering::Acquire);
        if !names(state, id) {
            slot.release();
            return Err(Kind::Closed.into());
        }
        Ok(Ref { slot })
    }

    /// Ends the handle. The object is dropped with the last reference to it.
    pub fn close(&self, id: u64) -> Result<Ref<'_, T>> {
        let slot = self.slot(id).ok_or(Kind::Closed)?;
        let mut state = slot.state.load(Ordering::Relaxed);
        while names(state, id) {
            let closed = (state & !OPEN) + 1;
            match slot.state.compare_exchange_weak(
                state,
                closed,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(Ref { slot }),
                Err(current) => state = current,
            }
        }
        Err(Kind::Closed.into())
    }

    fn slot(&self, id: u64) -> Option<&Slot<T>> {
        let index = (id & ((1 << INDEX_BITS) - 1)) as usize;
        Some(&self.pages[index >> PAGE_BITS].get()?[index & (PAGE - 1)])
    }
}

fn names(state: u64, id: u64) -> bool {
    state & (OPEN | TAKEN) == OPEN | TAKEN && state >> GENERATION_SHIFT == id >> INDEX_BITS
}

/// Generations start anywhere, so that an id made up, or kept from another process, names nothing.
fn new_page<T>(kind: u64) -> Box<[Slot<T>; PAGE]> {
    let random = RandomState::new();
    Box::new(std::array::from_fn(|offset| {
        let start = random.hash_one(offset) % ((GENERATIONS - FIRST_GENERATION) / KINDS);
        let start = FIRST_GENERATION + start * KINDS + kind;
        Slot { state: AtomicU64::new(start << GENERATION_SHIFT), object: UnsafeCell::new(None) }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn ids_are_large_and_stale_ones_are_refused() {
        let table = Table::new(0);
        let first = table.open("first").unwrap();
        let second = table.open("second").unwrap();
        assert!(first > u64::from(u32::MAX) && second > u64::from(u32::MAX));
        assert_eq!(*table.get(second).unwrap(), "second");
        drop(table.close(first).unwrap());
        assert!(table.get(first).is_err() && table.close(first).is_err());
        let reused = table.open("reused").unwrap();
        assert_ne!(reused, first);
        assert!(table.get(first).is_err());
        assert_eq!(*table.get(reused).unwrap(), "reused");
        for made_up in [0, 1, u64::MAX, 1 << 32, 1 << 52, reused ^ 1 << 63, reused + 1] {
            assert!(table.get(made_up).is_err() && table.close(made_up).is_err());
        }
    }

    #[test]
    fn an_object_lives_until_its_last_reference() {
        let table = Table::new(0);
        let object = Arc::new(());
        let id = table.open(Arc::clone(&object)).unwrap();
        let in_use = table.get(id).unwrap();
        drop(table.close(id).unwrap());
        assert_eq!(Arc::strong_count(&object), 2);
        drop(in_use);
        assert_eq!(Arc::strong_count(&object), 1);
    }

    #[test]
    fn no_id_is_one_of_two_tables() {
        let tables = [Table::new(0), Table::new(1)];
        for round in 0..1000 {
            let ids = tables.each_ref().map(|table| table.open(round).unwrap());
            assert!(tables[1].get(ids[0]).is_err() && tables[0].get(ids[1]).is_err());
            assert!(ids.iter().enumerate().all(|(kind, id)| (id >> INDEX_BITS) % 2 == kind as u64));
            tables.iter().zip(ids).for_each(|(table, id)| drop(table.close(id).unwrap()));
        }
        let last = GENERATIONS - KINDS;
        assert_eq!([last, last + 1].map(next_generation), [FIRST_GENERATION, FIRST_GENERATION + 1]);
    }

    struct Counted<'a>(&'a AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_object_is_dropped_once_whatever_races() {
        let dropped = AtomicUsize::new(0);
        let opened = AtomicUsize::new(0);
        let table = Table::new(0);
        let shared = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let id = table.open(Counted(&dropped)).unwrap();
                        opened.fetch_add(1, Ordering::Relaxed);
                        let other = shared.swap(id, Ordering::Relaxed);
                        let _in_use = table.get(other);
                        drop(table.get(id));
                        let _ = table.close(other);
                    }
                });
            }
        });
        let _ = table.close(shared.load(Ordering::Relaxed));
        assert_eq!(dropped.load(Ordering::Relaxed), opened.load(Ordering::Relaxed));
    }
}
