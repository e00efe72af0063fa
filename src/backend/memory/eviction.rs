//! Which entry goes first, by expiry or by last use.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, TryReserveError};

use crate::reserve;

/// Names an entry, and a time that is never later than the entry's own: the entry may have been prolonged or used
/// since. Whoever takes a ticket compares and, where the entry's time has moved on, puts a later one back. So a ticket
/// is not touched by what happens to its entry most often, and the earliest ticket that still agrees is the earliest
/// entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    pub at: i64,
    pub hash: u64,
    pub id: u64,
}

/// Tickets, the earliest first. Those of entries that are gone stay until they are taken or too many.
#[derive(Default)]
pub struct EvictionOrder {
    heap: BinaryHeap<Reverse<Ticket>>,
}

/// Stale tickets that are not worth a compaction.
const SLACK: usize = 64;

impl EvictionOrder {
    /// Where there is no memory for the ticket its entry goes without, and stays until it is asked for or removed.
    /// `false`: so it is.
    pub fn push(&mut self, ticket: Ticket) -> bool {
        let has_room = self.try_reserve(1).is_ok();
        if has_room {
            self.heap.push(Reverse(ticket));
        }
        has_room
    }

    pub fn pop(&mut self) -> Option<Ticket> {
        self.heap.pop().map(|Reverse(ticket)| ticket)
    }

    /// Takes the earliest ticket if its time has come.
    pub fn pop_due(&mut self, now: i64) -> Option<Ticket> {
        if self.next()? > now {
            return None;
        }
        self.pop()
    }

    pub fn next(&self) -> Option<i64> {
        self.heap.peek().map(|Reverse(ticket)| ticket.at)
    }

    pub fn try_reserve(&mut self, tickets: usize) -> Result<(), TryReserveError> {
        if self.heap.capacity() - self.heap.len() >= tickets {
            return Ok(());
        }
        reserve::without(|| self.heap.try_reserve(tickets))
    }

    /// Drops the stale tickets once they outnumber the `valid` ones, which spreads the cost over the calls that made
    /// them stale.
    pub fn compact(&mut self, valid: usize, is_valid: impl Fn(&Ticket) -> bool) {
        if self.heap.len() <= 2 * valid + SLACK {
            return;
        }
        let mut tickets = std::mem::take(&mut self.heap).into_vec();
        tickets.retain(|Reverse(ticket)| is_valid(ticket));
        // A time that was given up and later taken up again has two tickets alike.
        tickets.sort_unstable();
        tickets.dedup();
        tickets.shrink_to(2 * tickets.len());
        self.heap = tickets.into();
    }

    #[cfg(test)]
    pub fn tickets(&self) -> impl ExactSizeIterator<Item = Ticket> {
        self.heap.iter().map(|Reverse(ticket)| *ticket)
    }
}
