//! Calls whose promises the test holds.

use std::cell::RefCell;
use std::time::Duration;

use self::outcome::Outcome;
use super::*;
use crate::error::{Error, Kind};
use crate::op::Access;

mod deadlines;
mod engines;
mod many;
mod once;
mod outcome;
mod waiting;

use std::sync::Arc;

const LONG: Duration = Duration::from_secs(3600);

/// A queue, and a cache's in-flight calls.
struct Bench {
    queue: Arc<CompletionQueue>,
    inflight: Arc<Inflight>,
}

impl Bench {
    fn new() -> Self {
        Self::with_room_for(usize::MAX)
    }

    fn with_room_for(max_pending: usize) -> Self {
        let queue = Arc::new(CompletionQueue::open().unwrap());
        Self { queue, inflight: Arc::new(Inflight::new(max_pending)) }
    }

    fn submit(
        &self,
        tag: u64,
        access: Access,
        backend: impl FnOnce(Promise) -> Result<()>,
    ) -> Result<()> {
        accept(&self.queue, &self.inflight, tag, access, LONG, backend)
    }

    /// Submits a call and keeps its promise.
    fn promise(&self, tag: u64, access: Access, span: Duration) -> Promise {
        let kept = RefCell::new(None);
        let keep = |call| {
            *kept.borrow_mut() = Some(call);
            Ok(())
        };
        accept(&self.queue, &self.inflight, tag, access, span, keep).unwrap();
        kept.into_inner().unwrap()
    }

    fn read(&self, tag: u64) -> Promise {
        self.promise(tag, Access::Read, LONG)
    }

    fn write(&self, tag: u64) -> Promise {
        self.promise(tag, Access::Write, LONG)
    }

    /// All that is complete: tags, outcomes, and whether a write may have been applied.
    fn taken(&self) -> Vec<(u64, Outcome, bool)> {
        taken(&self.queue)
    }
}

fn taken(queue: &CompletionQueue) -> Vec<(u64, Outcome, bool)> {
    let mut taken = Vec::new();
    let put = |_, completion: Completion| {
        let maybe_applied = completion.result.as_ref().is_err_and(|error| error.maybe_applied);
        taken.push((completion.tag, Outcome::of(&completion.result), maybe_applied));
    };
    queue.wait(usize::MAX, Some(Duration::ZERO), put).unwrap();
    taken
}

fn done() -> Result<Answer> {
    Ok(Answer::Done)
}
