//! Handles: an id -> live object table, generation-checked, in which a stale, closed or made-up id is an error and
//! never undefined behaviour. A look-up takes no lock and waits for nobody, nor does anything else here: a lock that
//! another thread holds at the time of a fork would stay locked in the child for ever.

use std::cell::UnsafeCell;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use once_cell::race::OnceBox;

use crate::error::{Error, Kind, Result};
use crate::{reserve, threads};

/// A slot's state in one word: a flag or two, and the generation, which changes with every object and is part of its
/// id. Neither flag: free. Both: the object may be looked up. TAKEN alone: closed, and to be emptied when nobody uses
/// it. OPEN alone: being filled or emptied by one thread, and of no concern to others. All other bits below the
/// generation are zero; [`names`] says why the flags are not the lowest.
const OPEN: u64 = 1 << 6;
const TAKEN: u64 = 1 << 7;
const GENERATION_SHIFT: u32 = 26;

const INDEX_BITS: u32 = 20;
/// Few slots, for a page is resident as a whole with the first handle, and most programs have one or two.
const PAGE_BITS: u32 = 6;
const PAGE: usize = 1 << PAGE_BITS;
const PAGES: usize = 1 << (INDEX_BITS - PAGE_BITS);
/// Generations start here, so that no id fits in 32 bits.
const FIRST_GENERATION: u64 = 1 << 32;
const GENERATIONS: u64 = 1 << (64 - GENERATION_SHIFT);
/// A generation's remainder by this is its table's kind, so that no id is one of two tables.
const KINDS: u64 = 2;

/// Threads beyond that many share stripes.
const STRIPES: usize = 16;

struct Slot<T> {
    state: AtomicU64,
    object: UnsafeCell<Option<T>>,
}

/// How many calls of some threads are using the object in each slot. There are several stripes, because a count that
/// every thread changes twice in a call would be handed around among the processors, at a price above that of the rest
/// of a call.
#[repr(align(128))]
struct Stripe([AtomicU32; PAGE]);

struct Page<T> {
    slots: [Slot<T>; PAGE],
    stripes: [Box<Stripe>; STRIPES],
}

// SAFETY: the object is written only by the one thread that took the slot while nobody can look it up, and read only by
// threads that hold a reference, which keeps it from being taken out.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

pub struct Table<T> {
    kind: u64,
    pages: [OnceBox<Page<T>>; PAGES],
}

/// A reference to an object of a table. It lives on while this does, even when its handle is closed meanwhile.
pub struct Ref<'a, T> {
    slot: &'a Slot<T>,
    page: &'a Page<T>,
    offset: usize,
    count: &'a AtomicU32,
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
        self.count.fetch_sub(1, Ordering::SeqCst);
        let state = self.slot.state.load(Ordering::SeqCst);
        if state & (OPEN | TAKEN) == TAKEN {
            self.page.empty(self.offset, state);
        }
    }
}

// The order of accesses, all of them SeqCst: a reference is counted and then looks at the state; the slot is closed, or
// a reference taken back, and then the counts are looked at. So a reference that found the slot open is seen by whoever
// empties it; and of several who leave, the last sees that all have left.

impl<T> Page<T> {
    /// Counts a reference, before it is known whether there is such an object.
    #[inline]
    fn enter(&self, offset: usize) -> Ref<'_, T> {
        let count = &self.stripes[threads::number() % STRIPES].0[offset];
        count.fetch_add(1, Ordering::SeqCst);
        Ref { slot: &self.slots[offset], page: self, offset, count }
    }

    /// Drops the object of a closed slot if nobody uses it. Several may find that it is time; one does it.
    #[cold]
    fn empty(&self, offset: usize, seen: u64) {
        // In a closed slot only a look-up that comes too late counts up, and it touches nothing: where a stripe was
        // once seen at zero, nobody uses the object any more.
        if self.stripes.iter().any(|stripe| stripe.0[offset].load(Ordering::SeqCst) != 0) {
            return;
        }
        let slot = &self.slots[offset];
        let claimed = seen & !TAKEN | OPEN;
        let exchange = (Ordering::Acquire, Ordering::Relaxed);
        if slot.state.compare_exchange(seen, claimed, exchange.0, exchange.1).is_err() {
            return;
        }
        // SAFETY: no references are left, none can be made, and this thread alone made the exchange.
        drop(unsafe { (*slot.object.get()).take() });
        let next = next_generation(seen >> GENERATION_SHIFT);
        slot.state.store(next << GENERATION_SHIFT, Ordering::Release);
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
            let page = page.get_or_try_init(|| new_page(self.kind))?;
            for (offset, slot) in page.slots.iter().enumerate() {
                let state = slot.state.load(Ordering::Relaxed);
                if state & (OPEN | TAKEN) != 0 {
                    continue;
                }
                let filling = state | OPEN;
                let exchange = (Ordering::Acquire, Ordering::Relaxed);
                if slot.state.compare_exchange(state, filling, exchange.0, exchange.1).is_err() {
                    continue;
                }
                // SAFETY: the slot is empty, no look-up accepts it, and this thread alone took it.
                unsafe { *slot.object.get() = Some(object) };
                slot.state.store(state | OPEN | TAKEN, Ordering::SeqCst);
                let index = (number * PAGE + offset) as u64;
                return Ok((state >> GENERATION_SHIFT) << INDEX_BITS | index);
            }
        }
        Err(Error::no_memory("another handle"))
    }

    #[inline]
    pub fn get(&self, id: u64) -> Result<Ref<'_, T>> {
        let Some((page, offset)) = self.find(id) else { return Err(closed()) };
        let found = page.enter(offset);
        // An id that names nothing may have counted a reference to what is in the slot now, or to nothing: for a
        // moment, and whoever empties the slot at that moment leaves it to this one.
        if !names(found.slot.state.load(Ordering::SeqCst), id) {
            return Err(closed());
        }
        Ok(found)
    }

    /// Ends the handle. The object is dropped with the last reference to it.
    pub fn close(&self, id: u64) -> Result<Ref<'_, T>> {
        let Some((page, offset)) = self.find(id) else { return Err(closed()) };
        let found = page.enter(offset);
        let close = |state| names(state, id).then_some(state & !OPEN);
        match found.slot.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, close) {
            Ok(_) => Ok(found),
            Err(_) => Err(closed()),
        }
    }

    /// Where the object with this id is, if there is one.
    #[inline]
    fn find(&self, id: u64) -> Option<(&Page<T>, usize)> {
        let index = (id & ((1 << INDEX_BITS) - 1)) as usize;
        Some((self.pages[index >> PAGE_BITS].get()?, index & (PAGE - 1)))
    }
}

#[cold]
fn closed() -> Error {
    Kind::Closed.into()
}

#[inline]
fn names(state: u64, id: u64) -> bool {
    // One comparison for all. Rotated, the generation lies where the id has it; above it come the zeros, against
    // whatever else an id that is made up has there; and then the flags, which are zero if they were both set, above
    // all that an id has.
    const {
        assert!(OPEN.rotate_right(GENERATION_SHIFT) > u64::MAX >> INDEX_BITS);
        assert!(TAKEN.rotate_right(GENERATION_SHIFT) > u64::MAX >> INDEX_BITS);
    }
    (state ^ (OPEN | TAKEN)).rotate_right(GENERATION_SHIFT) == id >> INDEX_BITS
}

/// Generations start anywhere, so that an id made up, or kept from another process, names nothing.
fn new_page<T>(kind: u64) -> Result<Box<Page<T>>> {
    let random = RandomState::new();
    let slot = |offset| {
        let start = random.hash_one(offset) % ((GENERATIONS - FIRST_GENERATION) / KINDS);
        let start = FIRST_GENERATION + start * KINDS + kind;
        Slot { state: AtomicU64::new(start << GENERATION_SHIFT), object: UnsafeCell::new(None) }
    };
    let stripe = |_| Box::new(Stripe([const { AtomicU32::new(0) }; PAGE]));
    let (slots, stripes) = (std::array::from_fn(slot), std::array::from_fn(stripe));
    let page = Box::new(Page { slots, stripes });
    // It is there to stay.
    if reserve::holds(&*page) || page.stripes.iter().any(|stripe| reserve::holds(&**stripe)) {
        return Err(Error::no_memory("memory for another handle"));
    }
    Ok(page)
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
    fn nothing_above_the_generation_is_overlooked() {
        let table = Table::new(0);
        let is_refused = |id: u64| {
            let made_up = (1..64).map(|above| id ^ above << 58);
            made_up.into_iter().all(|id| table.get(id).is_err() && table.close(id).is_err())
        };
        let id = table.open(()).unwrap();
        assert!(is_refused(id), "of an object that is there");
        let in_use = table.close(id).unwrap();
        assert!(is_refused(id), "of one that is closed");
        drop(in_use);
        let next = next_generation(id >> INDEX_BITS) << INDEX_BITS | id & ((1 << INDEX_BITS) - 1);
        assert!(is_refused(next), "of none");
        assert_eq!(table.open(()).unwrap(), next);
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
