//! The outstanding calls of a queue. Each has a slot, which is in two lists: the group of the calls of the same cache,
//! in the order of their deadlines, and, from the first time that a tag is looked for, the chain of the calls whose
//! tags hash alike. Putting in and taking out are a few steps, whatever the tags are.

use std::hash::{BuildHasher, RandomState};
use std::ptr;
use std::sync::{Arc, Weak};

use crate::error::{Error, Kind, Result};
use crate::reserve;

const NONE: u32 = u32::MAX;
/// An empty index gives back more memory than for so many calls.
const KEPT: usize = 1024;

struct Slot<C> {
    tag: u64,
    /// In a free slot, one that was completed, to be used again: that is cheaper than to free it and to make another.
    call: Option<Arc<C>>,
    taken: bool,
    /// The neighbours in the chain; of a free slot, `next` is the next free one.
    next: u32,
    previous: u32,
    group: u32,
    /// The neighbours in the group.
    older: u32,
    newer: u32,
}

/// The calls of one cache. They keep what is known of it alive, a group does not; one whose cache is gone is free.
struct Group<K> {
    cache: Weak<K>,
    oldest: u32,
    newest: u32,
}

/// `C` is a call, `K` what is known of a cache.
pub struct Index<C, K> {
    slots: Vec<Slot<C>>,
    /// The first slot of each chain. As many as a power of two, and at least as many as slots; none before they are
    /// needed.
    chains: Vec<u32>,
    groups: Vec<Group<K>>,
    /// The group of the last call, which is likely that of the next.
    recent: u32,
    free: u32,
    len: usize,
    seed: u64,
}

impl<C, K> Index<C, K> {
    pub fn new() -> Self {
        let seed = RandomState::new().hash_one(0) | 1;
        let (slots, chains, groups) = (Vec::new(), Vec::new(), Vec::new());
        Self { slots, chains, groups, recent: 0, free: NONE, len: 0, seed }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The group of a cache's calls, if it has one.
    pub fn group(&self, cache: &K) -> Option<u32> {
        let is_its = |group: &Group<K>| ptr::eq(group.cache.as_ptr(), cache);
        if self.groups.get(self.recent as usize).is_some_and(is_its) {
            return Some(self.recent);
        }
        self.groups.iter().position(is_its).map(|group| group as u32)
    }

    pub fn has_one_group(&self) -> bool {
        self.groups.len() == 1
    }

    /// The cache whose calls these are, if there has never been another.
    pub fn only_cache(&self) -> Option<Arc<K>> {
        match &self.groups[..] {
            [group] => group.cache.upgrade(),
            _ => None,
        }
    }

    /// The caches that there have been calls of, and that are still there.
    pub fn caches(&self) -> impl Iterator<Item = Arc<K>> {
        self.groups.iter().filter_map(|group| group.cache.upgrade())
    }

    /// Makes a group for a cache that has none. `announce` is called when there is room for it.
    pub fn open_group(
        &mut self,
        cache: &Arc<K>,
        announce: impl FnOnce() -> Result<()>,
    ) -> Result<u32> {
        reserve::try_reserve(&mut self.groups, 1, NO_MEMORY)?;
        announce()?;
        let opened = Group { cache: Arc::downgrade(cache), oldest: NONE, newest: NONE };
        match self.groups.iter().position(|group| group.cache.strong_count() == 0) {
            Some(free) => {
                self.groups[free] = opened;
                Ok(free as u32)
            }
            None => {
                self.groups.push(opened);
                Ok(self.groups.len() as u32 - 1)
            }
        }
    }

    /// Forgets a group that is empty.
    pub fn close_group(&mut self, group: u32) {
        self.groups[group as usize].cache = Weak::new();
    }

    /// Where the call is whose deadline is the first of its group's.
    pub fn oldest(&self, group: u32) -> Option<u32> {
        Some(self.groups[group as usize].oldest).filter(|&place| place != NONE)
    }

    /// The call at `place`, or the one that was there last.
    pub fn call(&self, place: u32) -> Option<&Arc<C>> {
        self.slots[place as usize].call.as_ref()
    }

    /// Which chain a tag belongs to. Tags are addresses, counters, whatever the caller likes; the seed is nobody's to
    /// know.
    fn chain(&self, tag: u64) -> usize {
        let product = u128::from(tag ^ self.seed) * u128::from(self.seed);
        ((product >> 64) as u64 ^ product as u64) as usize & (self.chains.len() - 1)
    }

    /// Puts in a call that `make` makes, given one to use again, if there is one, and the place. `None`: there is no
    /// memory for it.
    pub fn insert(
        &mut self,
        tag: u64,
        group: u32,
        make: impl FnOnce(Option<Arc<C>>, u32) -> Option<Arc<C>>,
    ) -> Result<Arc<C>> {
        let place = self.place()?;
        let slot = &mut self.slots[place as usize];
        let Some(call) = make(slot.call.take(), place) else {
            slot.next = std::mem::replace(&mut self.free, place);
            return Err(no_memory(()));
        };
        slot.tag = tag;
        slot.group = group;
        slot.taken = true;
        slot.call = Some(Arc::clone(&call));
        self.len += 1;
        self.recent = group;
        self.join_group(place);
        if !self.chains.is_empty() {
            self.join_chain(place);
        }
        Ok(call)
    }

    /// A free slot.
    fn place(&mut self) -> Result<u32> {
        if self.free != NONE {
            let place = self.free;
            self.free = self.slots[place as usize].next;
            return Ok(place);
        }
        if self.slots.len() == self.slots.capacity() {
            self.grow()?;
        }
        let place = self.slots.len() as u32;
        let (next, previous, older, newer) = (NONE, NONE, NONE, NONE);
        let (tag, group, call, taken) = (0, 0, None, false);
        self.slots.push(Slot { tag, call, taken, next, previous, group, older, newer });
        Ok(place)
    }

    #[cold]
    fn grow(&mut self) -> Result<()> {
        let wanted = (2 * self.slots.len()).max(16);
        if wanted > 1 << 31 {
            return Err(Kind::Busy.into());
        }
        let more = wanted - self.slots.len();
        reserve::without(|| self.slots.try_reserve_exact(more)).map_err(no_memory)?;
        if self.chains.is_empty() { Ok(()) } else { self.chain_all() }
    }

    /// Puts every call into a chain, and each that comes from now on.
    fn chain_all(&mut self) -> Result<()> {
        let wanted = self.slots.capacity().next_power_of_two();
        let more = wanted - self.chains.len();
        reserve::without(|| self.chains.try_reserve_exact(more)).map_err(no_memory)?;
        self.chains.clear();
        self.chains.resize(wanted, NONE);
        for place in 0..self.slots.len() {
            if self.slots[place].taken {
                self.join_chain(place as u32);
            }
        }
        Ok(())
    }

    fn join_chain(&mut self, place: u32) {
        let chain = self.chain(self.slots[place as usize].tag);
        let next = std::mem::replace(&mut self.chains[chain], place);
        if next != NONE {
            self.slots[next as usize].previous = place;
        }
        let slot = &mut self.slots[place as usize];
        (slot.previous, slot.next) = (NONE, next);
    }

    fn leave_chain(&mut self, tag: u64, next: u32, previous: u32) {
        if next != NONE {
            self.slots[next as usize].previous = previous;
        }
        if previous != NONE {
            self.slots[previous as usize].next = next;
        } else {
            let chain = self.chain(tag);
            self.chains[chain] = next;
        }
    }

    fn join_group(&mut self, place: u32) {
        let group = &mut self.groups[self.slots[place as usize].group as usize];
        let older = std::mem::replace(&mut group.newest, place);
        if older == NONE {
            group.oldest = place;
        } else {
            self.slots[older as usize].newer = place;
        }
        let slot = &mut self.slots[place as usize];
        (slot.older, slot.newer) = (older, NONE);
    }

    fn leave_group(&mut self, place: u32) {
        let Slot { group, older, newer, .. } = self.slots[place as usize];
        let group = &mut self.groups[group as usize];
        if newer == NONE {
            group.newest = older;
        } else {
            self.slots[newer as usize].older = older;
        }
        if older == NONE {
            group.oldest = newer;
        } else {
            self.slots[older as usize].newer = newer;
        }
    }

    /// Its deadline is now the last of its group's.
    pub fn make_newest(&mut self, place: u32) {
        self.leave_group(place);
        self.join_group(place);
    }

    /// Takes out the call at `place`; whether there was one.
    pub fn remove(&mut self, place: u32) -> bool {
        let Some(slot) = self.slots.get_mut(place as usize).filter(|slot| slot.taken) else {
            return false;
        };
        slot.taken = false;
        let (tag, next, previous) = (slot.tag, slot.next, slot.previous);
        slot.next = std::mem::replace(&mut self.free, place);
        self.len -= 1;
        if !self.chains.is_empty() {
            self.leave_chain(tag, next, previous);
        }
        self.leave_group(place);
        true
    }

    /// Gives memory back, if it is empty and has much.
    pub fn shrink(&mut self) {
        if self.len == 0 && self.slots.len() > KEPT {
            (self.slots, self.chains, self.free) = (Vec::new(), Vec::new(), NONE);
        }
    }

    /// Where the first call with that tag is.
    pub fn first(&mut self, tag: u64) -> Result<Option<u32>> {
        if self.len == 0 {
            return Ok(None);
        }
        if self.chains.is_empty() {
            self.chain_all()?;
        }
        Ok(self.seek(tag, self.chains[self.chain(tag)]))
    }

    /// Where the next one with the same tag is.
    pub fn after(&self, place: u32) -> Option<u32> {
        let slot = &self.slots[place as usize];
        self.seek(slot.tag, slot.next)
    }

    fn seek(&self, tag: u64, mut place: u32) -> Option<u32> {
        while place != NONE {
            let slot = &self.slots[place as usize];
            if slot.tag == tag {
                return Some(place);
            }
            place = slot.next;
        }
        None
    }

    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// All there are, in no order.
    pub fn calls(&self) -> impl Iterator<Item = &Arc<C>> {
        self.slots.iter().filter(|slot| slot.taken).filter_map(|slot| slot.call.as_ref())
    }
}

const NO_MEMORY: &str = "memory for another call";

fn no_memory<T>(_: T) -> Error {
    Error::no_memory(NO_MEMORY)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Numbers = Index<u64, ()>;

    fn index() -> (Numbers, Arc<()>, u32) {
        let (mut index, cache) = (Numbers::new(), Arc::new(()));
        let group = index.open_group(&cache, || Ok(())).unwrap();
        (index, cache, group)
    }

    fn insert(index: &mut Numbers, group: u32, tag: u64) -> u32 {
        let mut at = 0;
        let make = |_, place| {
            at = place;
            Some(Arc::new(tag))
        };
        index.insert(tag, group, make).unwrap();
        at
    }

    fn with_tag(index: &mut Numbers, tag: u64) -> Vec<u32> {
        let first = index.first(tag).unwrap();
        let mut places: Vec<u32> =
            std::iter::successors(first, |&place| index.after(place)).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn a_call_that_was_taken_out_is_offered_for_use_again() {
        let (mut index, _cache, group) = index();
        let place = insert(&mut index, group, 1);
        let first = Arc::clone(index.call(place).unwrap());
        assert!(index.remove(place));
        let again = index.insert(2, group, |spare, at| {
            assert_eq!(at, place);
            Some(spare.unwrap())
        });
        assert!(Arc::ptr_eq(&first, &again.unwrap()));
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn a_call_that_cannot_be_made_leaves_its_place_to_the_next() {
        let (mut index, _cache, group) = index();
        let none = |_, _| None;
        assert!(index.insert(1, group, none).is_err());
        assert_eq!((index.len(), index.oldest(group), index.first(1).unwrap()), (0, None, None));
        assert_eq!([2, 3].map(|tag| insert(&mut index, group, tag)), [0, 1]);
        assert_eq!(with_tag(&mut index, 2), [0]);
    }

    #[test]
    fn a_call_is_taken_out_once() {
        let (mut index, _cache, group) = index();
        let place = insert(&mut index, group, 1);
        assert!(!index.remove(place + 1), "nothing has ever been there");
        assert!(index.remove(place) && !index.remove(place));
        assert_eq!((index.len(), index.oldest(group)), (0, None));
    }

    #[test]
    fn every_call_with_a_tag_is_found_however_many_came_before_and_after_the_first_search() {
        let (mut index, _cache, group) = index();
        let mut wanted = Vec::new();
        for number in 0..100 {
            let place = insert(&mut index, group, number % 3);
            if number % 3 == 1 {
                wanted.push(place);
            }
            if number == 50 {
                assert_eq!(with_tag(&mut index, 1), wanted);
            }
        }
        assert_eq!(with_tag(&mut index, 1), wanted);
        index.remove(wanted.swap_remove(7));
        wanted.sort_unstable();
        assert_eq!(with_tag(&mut index, 1), wanted);
        assert!(with_tag(&mut index, 3).is_empty());
    }

    #[test]
    fn the_oldest_of_a_group_is_the_one_that_was_put_in_or_made_newest_first() {
        let (mut index, _cache, group) = index();
        let places = [1, 2, 3].map(|tag| insert(&mut index, group, tag));
        assert_eq!(index.oldest(group), Some(places[0]));
        index.make_newest(places[0]);
        assert_eq!(index.oldest(group), Some(places[1]));
        index.remove(places[1]);
        index.remove(places[2]);
        assert_eq!(index.oldest(group), Some(places[0]));
    }

    #[test]
    fn a_group_whose_cache_is_gone_is_used_again() {
        let (mut index, cache, group) = index();
        assert!(index.has_one_group() && index.only_cache().is_some());
        drop(cache);
        assert!(index.only_cache().is_none());
        let (other, third) = (Arc::new(()), Arc::new(()));
        assert_eq!(index.group(&other), None);
        assert_eq!(index.open_group(&other, || Ok(())).unwrap(), group);
        assert_eq!((index.group(&other), index.groups()), (Some(group), 1));
        index.open_group(&third, || Ok(())).unwrap();
        assert!(!index.has_one_group() && index.only_cache().is_none());
        index.close_group(group);
        assert_eq!(index.group(&other), None);
    }

    #[test]
    fn a_group_that_cannot_be_announced_is_not_made() {
        let (mut index, _cache, _) = index();
        let other = Arc::new(());
        assert!(index.open_group(&other, || Err(Kind::Closed.into())).is_err());
        assert_eq!((index.group(&other), index.groups()), (None, 1));
    }

    #[test]
    fn much_memory_is_given_back_once_it_is_empty() {
        let (mut index, _cache, group) = index();
        let places: Vec<u32> =
            (0..KEPT as u64 + 1).map(|tag| insert(&mut index, group, tag)).collect();
        for &place in &places {
            index.shrink();
            assert!(index.slots.capacity() > KEPT);
            index.remove(place);
        }
        index.shrink();
        assert_eq!(index.slots.capacity(), 0);
        insert(&mut index, group, 1);
        assert_eq!((index.len(), with_tag(&mut index, 1)), (1, vec![0]));
    }
}
