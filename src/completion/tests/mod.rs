//! Calls whose carrier is the test.

use std::cell::RefCell;
use std::time::Duration;

use super::*;
use crate::error::{
    CACHETORY_ERR_BUSY, CACHETORY_ERR_CANCELLED, CACHETORY_ERR_CLOSED, CACHETORY_ERR_INTERNAL,
    CACHETORY_ERR_NO_MEMORY, CACHETORY_ERR_TIMEOUT, CACHETORY_OK, Error, Kind,
};

mod deadlines;
mod many;
mod once;
mod waiting;

use std::sync::Arc;

const LONG: Duration = Duration::from_secs(3600);

/// A queue and a cache's inflight.
struct Bench {
    queue: Arc<Queue>,
    inflight: Arc<Inflight>,
}

impl Bench {
    fn new() -> Self {
        Self::with_room_for(usize::MAX)
    }

    fn with_room_for(max_pending: usize) -> Self {
        crate::reserve::set_aside().unwrap();
        let queue = Arc::new(Queue::open().unwrap());
        Self { queue, inflight: Arc::new(Inflight::new(max_pending)) }
    }

    fn submit(
        &self,
        tag: u64,
        is_read: bool,
        backend: impl FnOnce(Promise) -> Result<()>,
    ) -> Result<()> {
        submit(&self.queue, &self.inflight, tag, is_read, LONG, backend)
    }

    /// Submits a call and keeps what its carrier has of it.
    fn promise(&self, tag: u64, is_read: bool, span: Duration) -> Promise {
        let kept = RefCell::new(None);
        let keep = |call| {
            *kept.borrow_mut() = Some(call);
            Ok(())
        };
        submit(&self.queue, &self.inflight, tag, is_read, span, keep).unwrap();
        kept.into_inner().unwrap()
    }

    fn read(&self, tag: u64) -> Promise {
        self.promise(tag, true, LONG)
    }

    fn write(&self, tag: u64) -> Promise {
        self.promise(tag, false, LONG)
    }

    /// All that is complete: tags, statuses, and whether a write may have been applied.
    fn taken(&self) -> Vec<(u64, i32, bool)> {
        taken(&self.queue)
    }
}

fn taken(queue: &Queue) -> Vec<(u64, i32, bool)> {
    let mut taken = Vec::new();
    let put = |_, completion: Completion| {
        let (status, maybe_applied) = match &completion.result {
            Ok(_) => (CACHETORY_OK, false),
            Err(error) => (error.status(), error.maybe_applied),
        };
        taken.push((completion.tag, status, maybe_applied));
    };
    queue.wait(usize::MAX, Some(Duration::ZERO), put).unwrap();
    taken
}

fn done() -> Result<Answer> {
    Ok(Answer::Done)
}
