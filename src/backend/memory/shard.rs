//! A part of the store that is locked as one: its entries, and when they expire.

use std::sync::atomic::{AtomicI64, Ordering};

use hashbrown::HashTable;

use super::clock::{Clock, Expiry, NEVER, Now};
use super::eviction::{EvictionOrder, Ticket};
use crate::error::{Error, Result};
use crate::reserve;
use crate::value::Value;

/// What an entry is taken to cost beside its key and value: its slot in the table, the headers of its allocations and
/// its tickets. Measured with small entries it is 190 to 280, by how full the table is; without a ttl 30 less.
pub const ENTRY_OVERHEAD: usize = 256;

pub struct Entry {
    pub key: Box<[u8]>,
    pub value: Value,
    pub hash: u64,
    /// Tells the entry from a later one under the same key.
    pub id: u64,
    /// The tick of its last use, where the store is bounded.
    pub used: AtomicI64,
    pub expiry: Expiry,
    /// The time on its ticket, not later than its expiry is due; [`NEVER`]: it has none.
    pub ticket_at: i64,
}

impl Entry {
    pub fn is_live(&self, now: &Now<'_, impl Clock>) -> bool {
        !self.expiry.is_over(now)
    }

    pub fn used(&self) -> i64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn touch(&self, tick: i64) {
        self.used.fetch_max(tick, Ordering::Relaxed);
    }

    pub fn cost(&self) -> i64 {
        cost(self.key.len(), self.value.data().len())
    }
}

pub fn cost(key_len: usize, value_len: usize) -> i64 {
    let bytes = key_len.saturating_add(value_len).saturating_add(ENTRY_OVERHEAD);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[derive(Default)]
pub struct Shard {
    pub table: HashTable<Entry>,
    /// By when their expiry is due.
    pub order: EvictionOrder,
    /// Entries that have a ticket in `order`.
    pub ticketed: usize,
    next_id: u64,
}

impl Shard {
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        self.table.find(hash, |entry| *entry.key == *key)
    }

    pub fn find_id(&self, hash: u64, id: u64) -> Option<&Entry> {
        self.table.find(hash, |entry| entry.id == id)
    }

    /// Makes room for `count` entries, so that as many [`Shard::insert`]s cannot fail.
    pub fn try_reserve(&mut self, count: usize) -> Result<()> {
        let table = &mut self.table;
        if table.capacity() - table.len() >= count {
            return Ok(());
        }
        let grown = reserve::without(|| table.try_reserve(count, |entry| entry.hash));
        grown.map_err(|_| Error::no_memory("memory for the entries"))
    }

    /// Makes room for what is to be noted of `count` entries that expire then.
    pub fn try_reserve_tickets(&mut self, count: usize, expiry: Expiry) -> Result<()> {
        if expiry == Expiry::NEVER {
            return Ok(());
        }
        self.order.try_reserve(count).map_err(|_| Error::no_memory("memory for the entries"))
    }

    /// Replaces the value of a key and gives back the old one; if there is no such key, gives back the new one as the
    /// error.
    pub fn replace(
        &mut self,
        hash: u64,
        key: &[u8],
        value: Value,
        expiry: Expiry,
        tick: i64,
        now: &Now<'_, impl Clock>,
    ) -> Result<Value, Value> {
        let Some(entry) = self.table.find_mut(hash, |entry| *entry.key == *key) else {
            return Err(value);
        };
        *entry.used.get_mut() = tick;
        let old = std::mem::replace(&mut entry.value, value);
        schedule(&mut self.order, &mut self.ticketed, entry, expiry, now);
        Ok(old)
    }

    /// Adds a key that is not there. The ticket is for the order of last use.
    pub fn insert(
        &mut self,
        hash: u64,
        key: Box<[u8]>,
        value: Value,
        expiry: Expiry,
        tick: i64,
        now: &Now<'_, impl Clock>,
    ) -> Ticket {
        let id = self.next_id;
        self.next_id += 1;
        let used = AtomicI64::new(tick);
        let mut entry = Entry { key, value, hash, id, used, expiry, ticket_at: NEVER };
        schedule(&mut self.order, &mut self.ticketed, &mut entry, expiry, now);
        self.table.insert_unique(hash, entry, |entry| entry.hash);
        Ticket { at: tick, hash, id }
    }

    /// Gives a key that is there another expiry.
    pub fn expire(&mut self, hash: u64, key: &[u8], expiry: Expiry, now: &Now<'_, impl Clock>) {
        if let Some(entry) = self.table.find_mut(hash, |entry| *entry.key == *key) {
            schedule(&mut self.order, &mut self.ticketed, entry, expiry, now);
        }
    }

    pub fn remove(&mut self, hash: u64, is_it: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let (entry, _) = self.table.find_entry(hash, is_it).ok()?.remove();
        if entry.ticket_at != NEVER {
            self.ticketed -= 1;
        }
        Some(entry)
    }

    /// Moves expired entries to `removed`, looking at no more than `budget` tickets.
    pub fn sweep(
        &mut self,
        now: &Now<'_, impl Clock>,
        budget: &mut usize,
        removed: &mut Vec<Entry>,
    ) {
        while *budget > 0
            && reserve::try_reserve(removed, 1, "memory for the entries").is_ok()
            && let Some(ticket) = self.order.pop_due(now.get())
        {
            *budget -= 1;
            let is_it = |entry: &Entry| entry.id == ticket.id && entry.ticket_at == ticket.at;
            let Ok(mut found) = self.table.find_entry(ticket.hash, is_it) else {
                continue;
            };
            let entry = found.get_mut();
            entry.ticket_at = NEVER;
            self.ticketed -= 1;
            let expiry = entry.expiry;
            if expiry.is_over(now) {
                removed.push(found.remove().0);
            } else {
                schedule(&mut self.order, &mut self.ticketed, entry, expiry, now);
            }
        }
    }

    /// Gives back memory that has become much too large for what it holds.
    pub fn tidy(&mut self) {
        const SMALLEST: usize = 64;
        if self.table.capacity() > SMALLEST && self.table.len() < self.table.capacity() / 8 {
            self.shrink();
        }
        let table = &self.table;
        self.order.compact(self.ticketed, |ticket| {
            table
                .find(ticket.hash, |entry| entry.id == ticket.id && entry.ticket_at == ticket.at)
                .is_some()
        });
    }

    #[cold]
    fn shrink(&mut self) {
        let mut smaller = HashTable::new();
        let wanted = 2 * self.table.len();
        let hash = |entry: &Entry| entry.hash;
        if reserve::without(|| smaller.try_reserve(wanted, hash)).is_ok() {
            for entry in self.table.drain() {
                smaller.insert_unique(entry.hash, entry, hash);
            }
            self.table = smaller;
        }
    }

    /// Empties the shard. Dropping the answer frees the entries. Ids go on, for there may be tickets with the old ones.
    pub fn take(&mut self) -> Self {
        let next_id = self.next_id;
        std::mem::replace(self, Self { next_id, ..Self::default() })
    }
}

fn schedule(
    order: &mut EvictionOrder,
    ticketed: &mut usize,
    entry: &mut Entry,
    expiry: Expiry,
    now: &Now<'_, impl Clock>,
) {
    entry.expiry = expiry;
    let due = expiry.due(now);
    if due >= entry.ticket_at {
        return;
    }
    if entry.ticket_at == NEVER {
        *ticketed += 1;
    }
    entry.ticket_at = due;
    order.push(Ticket { at: due, hash: entry.hash, id: entry.id });
}
