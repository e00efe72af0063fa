//! What random events need beside a scheduler.

use std::sync::Arc;
use std::time::Duration;

use super::Probe;
use crate::backend::redis::link::requests::Entry;
use crate::completion::{self, CompletionQueue, Engine, Inflight, Promise, Wait};
use crate::op::Access;

/// Never carries anything out, and says that it did, so that waiting on the queue counts as a hit of its prediction.
pub struct Idle;

impl Engine for Idle {
    fn drive(&self, _wait: &dyn Wait) -> bool {
        true
    }

    fn entrust(&self) {}

    fn forget_completed(&self) {}
}

/// A generator of numbers that are the same in each run (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    pub fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}

/// From here on calls are left to the thread that submits them, which is likely to wait for them.
pub fn wait_often(queue: &CompletionQueue) {
    queue.wait(usize::MAX, Some(Duration::ZERO), |_, _| {}).unwrap();
    for _ in 0..20 {
        queue.wait(1, Some(Duration::from_nanos(1)), |_, _| {}).unwrap();
    }
}

pub fn refuse(entry: Entry<Probe>) {
    entry.fail_unsent(crate::error::Kind::Closed.into());
}

pub fn promise(queue: &Arc<CompletionQueue>, inflight: &Arc<Inflight>, tag: u64) -> Promise {
    let mut kept = None;
    let keep = |call| {
        kept = Some(call);
        Ok(())
    };
    let access = if tag.is_multiple_of(2) { Access::Read } else { Access::Write };
    completion::accept(queue, inflight, tag, access, Duration::from_secs(3600), keep).unwrap();
    kept.unwrap()
}
