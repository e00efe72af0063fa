//! The outstanding calls of a queue: slots, and through each a chain of those whose tags hash alike. Putting in and taking
//! out are a few steps whatever the tags are; looking for a tag walks its chain.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::call::Call;
use crate::error::{Error, Kind, Result};

const NONE: u32 = u32::MAX;
/// An empty index gives back more memory than for so many calls.
const KEPT: usize = 1024;

struct Slot {
    tag: u64,
    /// `None`: the slot is free.
    call: Option<Arc<Call>>,
    /// The neighbours in the chain; of a free slot, `next` is the next free one.
    next: u32,
    previous: u32,
}

pub struct Index {
    slots: Vec<Slot>,
    /// The first slot of each chain. As many as a power of two, and at least as many as slots are taken.
    chains: Vec<u32>,
    free: u32,
    len: usize,
    seed: u64,
}

impl Index {
    pub fn new() -> Self {
        let seed = RandomState::new().hash_one(0) | 1;
        Self { slots: Vec::new(), chains: Vec::new(), free: NONE, len: 0, seed }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Which chain a tag belongs to. Tags are addresses, counters, whatever the caller likes; the seed is nobody's to know.
    fn chain(&self, tag: u64) -> usize {
        let product = u128::from(tag ^ self.seed) * u128::from(self.seed);
        ((product >> 64) as u64 ^ product as u64) as usize & (self.chains.len() - 1)
    }

    /// Where it was put.
    pub fn insert(&mut self, tag: u64, call: Arc<Call>) -> Result<u32> {
        let place = self.place()?;
        self.len += 1;
        self.slots[place as usize].call = Some(call);
        self.slots[place as usize].tag = tag;
        self.link(place);
        Ok(place)
    }

    /// A free slot, in no chain.
    fn place(&mut self) -> Result<u32> {
        let no_memory = |_| Error::no_memory("memory for another call");
        if self.len == self.chains.len() {
            let wanted = (2 * self.len).max(16);
            let more = wanted - self.chains.len();
            self.chains.try_reserve_exact(more).map_err(no_memory)?;
            self.slots.try_reserve_exact(wanted - self.slots.len()).map_err(no_memory)?;
            self.chains.clear();
            self.chains.resize(wanted, NONE);
            for place in 0..self.slots.len() {
                self.link(place as u32);
            }
        }
        if self.free == NONE {
            let place = u32::try_from(self.slots.len()).ok().filter(|&place| place != NONE);
            let place = place.ok_or(Kind::Busy)?;
            self.slots.push(Slot { tag: 0, call: None, next: NONE, previous: NONE });
            return Ok(place);
        }
        let place = self.free;
        self.free = self.slots[place as usize].next;
        Ok(place)
    }

    fn link(&mut self, place: u32) {
        let chain = self.chain(self.slots[place as usize].tag);
        let next = std::mem::replace(&mut self.chains[chain], place);
        if next != NONE {
            self.slots[next as usize].previous = place;
        }
        let slot = &mut self.slots[place as usize];
        (slot.previous, slot.next) = (NONE, next);
    }

    /// Takes out the call at `place`, where there must be one.
    pub fn remove(&mut self, place: u32) -> Option<Arc<Call>> {
        let free = self.free;
        let slot = self.slots.get_mut(place as usize)?;
        let call = slot.call.take()?;
        let (tag, next, previous) = (slot.tag, slot.next, slot.previous);
        slot.next = free;
        self.free = place;
        self.len -= 1;
        if next != NONE {
            self.slots[next as usize].previous = previous;
        }
        if previous != NONE {
            self.slots[previous as usize].next = next;
        } else {
            let chain = self.chain(tag);
            self.chains[chain] = next;
        }
        if self.len == 0 && self.slots.len() > KEPT {
            (self.slots, self.chains, self.free) = (Vec::new(), Vec::new(), NONE);
        }
        Some(call)
    }

    /// Where the first call with that tag is.
    pub fn first(&self, tag: u64) -> Option<u32> {
        if self.len == 0 { None } else { self.seek(tag, self.chains[self.chain(tag)]) }
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

    /// All there are, in no order.
    pub fn calls(&self) -> impl Iterator<Item = &Arc<Call>> {
        self.slots.iter().filter_map(|slot| slot.call.as_ref())
    }
}
