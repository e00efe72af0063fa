//! Completions on their way to their queues, many at a time.

use std::sync::Weak;

use super::call::Promise;
use super::queue::Completed;
use crate::error::Result;
use crate::op::Answer;
use crate::reserve;

/// Collects completions, and delivers them with one lock and one wake-up per queue. Dropping it delivers too.
#[derive(Default)]
pub struct Delivery {
    completed: Vec<Completed>,
}

impl Delivery {
    pub fn push(&mut self, call: Promise, result: Result<Answer>) {
        if reserve::try_reserve(&mut self.completed, 1, "memory for completions").is_err() {
            self.deliver();
            call.complete(result);
            return;
        }
        self.completed.push(Completed { call, result: Some(result) });
    }

    pub fn is_empty(&self) -> bool {
        self.completed.is_empty()
    }

    pub fn deliver(&mut self) {
        let same =
            |one: &Completed, other: &Completed| Weak::ptr_eq(one.call.queue(), other.call.queue());
        if self.completed.windows(2).any(|pair| !same(&pair[0], &pair[1])) {
            // Few queues report to one cache at the same time, so order within a queue is not worth an allocation.
            self.completed.sort_unstable_by_key(|each| each.call.queue().as_ptr().addr());
        }
        for of_one in self.completed.chunk_by_mut(same) {
            if let Some(queue) = of_one[0].call.queue().upgrade() {
                queue.complete_all(of_one);
            }
        }
        self.completed.clear();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.deliver();
    }
}
