//! Decisions on their way to their queues, many at a time.

use std::sync::Weak;

use super::call::Carried;
use crate::error::Result;
use crate::op::Answer;

/// Collects decisions, and delivers them with one lock and one wake-up per queue. Dropping it delivers too.
#[derive(Default)]
pub struct Delivery {
    decided: Vec<Decided>,
}

pub(super) struct Decided {
    pub(super) call: Carried,
    /// Taken when it is delivered.
    pub(super) result: Option<Result<Answer>>,
}

impl Delivery {
    pub fn push(&mut self, call: Carried, result: Result<Answer>) {
        if self.decided.try_reserve(1).is_err() {
            self.deliver();
            call.decide(result);
            return;
        }
        self.decided.push(Decided { call, result: Some(result) });
    }

    pub fn is_empty(&self) -> bool {
        self.decided.is_empty()
    }

    pub fn deliver(&mut self) {
        let same =
            |one: &Decided, other: &Decided| Weak::ptr_eq(one.call.queue(), other.call.queue());
        if self.decided.windows(2).any(|pair| !same(&pair[0], &pair[1])) {
            // Few queues report to one cache at the same time, so order within a queue is not worth an allocation.
            self.decided.sort_unstable_by_key(|each| each.call.queue().as_ptr().addr());
        }
        for group in self.decided.chunk_by_mut(same) {
            if let Some(queue) = group[0].call.queue().upgrade() {
                queue.decide_all(group);
            }
        }
        self.decided.clear();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.deliver();
    }
}
