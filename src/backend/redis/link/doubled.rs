//! Reads behind a call that is slow, which go over another link as well. The answer that comes over that is theirs.

use std::mem;
use std::sync::Arc;

use super::batch::Batch;
use super::requests::{Entry, Owner, Requests};
use super::waiter::{SleepsOn, Waiter, Waiting};

/// Whether a call behind a slow one may go over another link as well.
fn may_be_doubled<L>(entry: &Entry<L>) -> bool {
    entry
        .call()
        .is_some_and(|call| entry.attempts.may_be_doubled(call.access()) && !call.is_completed())
}

impl<L> Batch<L> {
    /// Whether there are reads behind the first call that may go over another link as well.
    pub fn has_reads_behind(&self) -> bool {
        self.entries().skip(1).any(may_be_doubled)
    }

    /// Takes those out, to go over another link. Here their answers are dropped.
    pub fn double_reads_behind(&mut self) -> Requests<L> {
        let mut doubled = Requests::default();
        let nobody = Arc::new(Waiter::default());
        nobody.leave();
        let (outbox, mut at, entries) = self.sent_entries();
        for (index, entry) in entries.iter_mut().enumerate() {
            let request = at..at + entry.len;
            at = request.end;
            if index == 0 || !may_be_doubled(entry) {
                continue;
            }
            entry.attempts.double();
            let waiter = Arc::clone(&nobody);
            let nobody = Owner::Thread(Waiting { waiter, sleeps_on: SleepsOn::Batch });
            let owner = mem::replace(&mut entry.owner, nobody);
            let Entry { expect, len, attempts, .. } = *entry;
            let request = outbox.get(request).unwrap_or_default();
            let pushed = doubled.try_push(Entry { owner, expect, len, attempts }, request);
            if let Err(back) = pushed {
                // Without memory it waits where it is.
                entry.owner = back.owner;
                break;
            }
        }
        doubled
    }
}
