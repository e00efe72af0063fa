//! Calls of several threads that one of them carries out over one link: the requests lie one behind the other in the link's
//! outbox, the replies come in the same order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::command::Pending;
use super::link::{Exchanged, Failure};
use super::waiter::{Bell, Waiter};
use crate::error::Error;
use crate::op::Answer;

/// One call in a batch.
pub struct Entry {
    pub owner: Arc<Waiter>,
    /// Its owner sleeps on a bell of its own.
    pub is_first: bool,
    pub pending: Pending,
    /// The length of its request.
    pub len: usize,
}

impl Entry {
    pub fn decide(&self, answer: Exchanged<Answer>) {
        self.owner.answer(answer);
        if self.is_first {
            self.owner.bell.ring();
        }
    }
}

/// The bells that the callers of one queue sleep on: those of one batch on one, those of the next on another. Where two batches
/// meet on one bell, some are woken for nothing.
#[derive(Default)]
pub struct Bells([Bell; Bells::COUNT]);

impl Bells {
    pub const COUNT: usize = 8;

    pub fn get(&self, batch: usize) -> &Bell {
        &self.0[batch % Self::COUNT]
    }

    /// Rings those whose bits are set.
    pub fn ring(&self, bells: u8) {
        for (index, bell) in self.0.iter().enumerate() {
            if bells & 1 << index != 0 {
                bell.ring();
            }
        }
    }
}

#[derive(Default)]
pub struct Batch {
    /// Those that are not decided yet.
    pub entries: VecDeque<Entry>,
    /// Which bells their owners sleep on.
    pub bells: u8,
    /// How much of the outbox has been sent.
    pub sent: usize,
    /// Where the first entry's request begins in the outbox.
    pub start: usize,
}

impl Batch {
    /// Decides the first entry.
    pub fn decide(&mut self, answer: Exchanged<Answer>) {
        if let Some(entry) = self.entries.pop_front() {
            self.start += entry.len;
            entry.decide(answer);
        }
    }

    /// Fails all that are left, each with an error of its own. `lost`: another link may do better.
    pub fn fail(&mut self, lost: bool, error: impl Fn() -> Error) {
        while !self.entries.is_empty() {
            let sent = self.sent > self.start;
            self.decide(Exchanged::Failed(Failure { error: error(), sent, lost }));
        }
    }

    /// Somebody who still waits for an answer in it, and whether on a bell of its own.
    pub fn next_to_lead(&self, but: Option<&Arc<Waiter>>) -> Option<(Arc<Waiter>, bool)> {
        let can = |entry: &&Entry| {
            but.is_none_or(|but| !Arc::ptr_eq(but, &entry.owner)) && !entry.owner.is_gone()
        };
        let waiting = self.entries.iter().find(can)?;
        Some((Arc::clone(&waiting.owner), waiting.is_first))
    }
}
