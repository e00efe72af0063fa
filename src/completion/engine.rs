//! Threads that wait for completions and bring them about themselves.

use std::sync::Arc;
use std::time::Instant;

use super::call::QueueId;
use super::queue::Queue;
use crate::sys::Event;

/// What carries out the calls of a cache, and can be lent a waiting thread for it.
pub trait Engine: Send + Sync {
    /// Goes on with what is to be done until the wait is over. `false`: there is nothing that this thread could do.
    fn drive(&self, wait: &Wait<'_>) -> bool;
}

/// A thread that waits for a completion.
pub struct Wait<'a> {
    pub(super) queue: &'a Queue,
    pub(super) until: Option<Instant>,
    pub(super) wake: Arc<Event>,
}

impl Wait<'_> {
    /// Where it waits.
    pub fn queue(&self) -> QueueId {
        QueueId::of(self.queue)
    }

    /// Whether what it waits for is there.
    pub fn is_over(&self) -> bool {
        self.queue.has_news()
    }

    /// Whether its time is up.
    pub fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// When it ends in any case.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Calls `sleep`, which returns when the descriptor is readable, unless the wait is over already.
    pub fn sleep(&self, sleep: impl FnOnce(&Event)) {
        self.queue.sleep_on_descriptor(|| sleep(&self.wake));
    }
}
