//! Making room: expired entries go a few at a call, the least recently used when the bound is passed.

use std::sync::atomic::Ordering;

use super::clock::{Clock, NEVER, Now};
use super::eviction::{EvictionOrder, Ticket};
use super::shard::{Entry, Shard};
use super::{Memory, SHARDS, lock};
use crate::error::{Error, Result};
use crate::reserve;

/// Tickets of expired entries that a call looks at, beside two for each key it writes: enough to keep up with any
/// writer, few enough not to be felt.
const SWEEP: usize = 32;

/// One in so many reads looks for expired entries although it had no need of the time.
const READS_BETWEEN_SWEEPS: u32 = 64;

impl<C: Clock> Memory<C> {
    /// To be called before the lock of a shard that was written is released.
    pub(super) fn publish(&self, index: usize, shard: &mut Shard) {
        shard.tidy();
        let due = shard.order.next().unwrap_or(NEVER);
        let published = self.shards.due(index);
        if due == published.load(Ordering::Relaxed) {
            return;
        }
        // A sweep forgets `next_due` first and looks at every shard's `due` then; here it is the other way round. So
        // either it sees this shard's, or this lowers what it will have found.
        published.store(due, Ordering::SeqCst);
        if due < self.next_due.load(Ordering::SeqCst) {
            self.next_due.fetch_min(due, Ordering::SeqCst);
        }
    }

    /// To be called after a read, without a lock.
    pub(super) fn after_read(&self, now: &Now<'_, C>) {
        if self.next_due.load(Ordering::Relaxed) == NEVER {
            return;
        }
        let count = self.shards.count_read();
        if now.is_known() || count.is_multiple_of(READS_BETWEEN_SWEEPS) {
            self.sweep(now, 0);
        }
    }

    /// Frees expired entries, if there are any; `written` is the number of keys the call has written. To be called
    /// without any lock.
    pub(super) fn sweep(&self, now: &Now<'_, C>, written: usize) {
        if self.free_expired(now, written) {
            self.after_removal();
        }
    }

    /// Answers whether there was anything to look at.
    fn free_expired(&self, now: &Now<'_, C>, written: usize) -> bool {
        let due = self.next_due.load(Ordering::Relaxed);
        if due == NEVER || due > now.get() {
            return false;
        }
        let most = SWEEP.saturating_add(written.saturating_mul(2));
        let mut budget = most;
        let mut removed = Vec::new();
        // While this looks, others find nothing due and go on.
        self.next_due.store(NEVER, Ordering::SeqCst);
        let mut next = NEVER;
        for index in 0..SHARDS {
            let due = self.shards.due(index);
            if budget > 0 && due.load(Ordering::SeqCst) <= now.get() {
                let mut lock = self.shards.write(index);
                let shard = lock.shard();
                let first = removed.len();
                shard.sweep(now, &mut budget, &mut removed);
                removed[first..].iter().for_each(|entry| self.count_out(entry));
                self.publish(index, shard);
            }
            next = next.min(due.load(Ordering::SeqCst));
        }
        self.next_due.fetch_min(next, Ordering::SeqCst);
        budget < most
    }

    /// Makes room for tickets, so that a large batch that has none fails rather than ends the process.
    pub(super) fn reserve_recency(&self, tickets: usize) -> Result<()> {
        if tickets == 0 {
            return Ok(());
        }
        let reserved = lock(&self.recency).try_reserve(tickets);
        reserved.map_err(|_| Error::no_memory("memory for the batch"))
    }

    /// Takes the new entries' tickets and evicts what must go. To be called after a write, without a lock on a shard.
    pub(super) fn admit(
        &self,
        now: &Now<'_, C>,
        fresh: impl IntoIterator<Item = Ticket, IntoIter: ExactSizeIterator>,
    ) {
        let Some(limit) = self.limit else { return };
        let fresh = fresh.into_iter();
        if fresh.len() == 0 && self.counts.bytes.load(Ordering::Relaxed) <= limit {
            return;
        }
        let mut evicted = Vec::new();
        let mut recency = lock(&self.recency);
        for ticket in fresh {
            if !recency.push(ticket) {
                // It would stay for ever.
                self.remove_with(&ticket);
            }
        }
        while self.counts.bytes.load(Ordering::Relaxed) > limit {
            if self.free_expired(now, 0) {
                continue;
            }
            match self.evict(&mut recency) {
                Some(entry) => {
                    // Where there is no memory to keep it until the lock is released, it goes at once.
                    if reserve::try_reserve(&mut evicted, 1, "memory to evict").is_ok() {
                        evicted.push(entry);
                    }
                }
                // What is over the bound was added by a call that has yet to come here.
                None => break,
            }
        }
        self.compact(&mut recency);
        drop(recency);
    }

    /// Drops the tickets of entries that are gone. To be called after a removal, without a lock on a shard.
    pub(super) fn after_removal(&self) {
        if self.limit.is_some() {
            self.compact(&mut lock(&self.recency));
        }
    }

    /// Removes the least recently used entry.
    fn evict(&self, recency: &mut EvictionOrder) -> Option<Entry> {
        while let Some(ticket) = recency.pop() {
            let index = super::index(ticket.hash);
            let mut lock = self.shards.write(index);
            let shard = lock.shard();
            let Some(entry) = shard.find_id(ticket.hash, ticket.id) else {
                continue;
            };
            let used = entry.used();
            if used > ticket.at {
                recency.push(Ticket { at: used, ..ticket });
                continue;
            }
            let removed = shard.remove(ticket.hash, |entry| entry.id == ticket.id);
            if let Some(entry) = &removed {
                self.count_out(entry);
                self.publish(index, shard);
            }
            return removed;
        }
        None
    }

    /// Removes the entry that a ticket is for.
    #[cold]
    fn remove_with(&self, ticket: &Ticket) {
        let index = super::index(ticket.hash);
        let mut lock = self.shards.write(index);
        let shard = lock.shard();
        if let Some(entry) = shard.remove(ticket.hash, |entry| entry.id == ticket.id) {
            self.count_out(&entry);
            self.publish(index, shard);
        }
    }

    fn compact(&self, recency: &mut EvictionOrder) {
        let entries = self.counts.entries.load(Ordering::Relaxed);
        recency.compact(entries, |ticket| {
            let shard = self.shards.read(super::index(ticket.hash));
            shard.find_id(ticket.hash, ticket.id).is_some()
        });
    }
}
