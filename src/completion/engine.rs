//! What carries calls out, and can be driven by the thread that waits for them. Both sides are traits: an engine knows
//! no queue, and a queue no engine.

use std::os::fd::BorrowedFd;
use std::time::Instant;

/// What carries out calls of a cache. A thread that waits for completions may be lent to it: then nobody has to be
/// woken.
pub trait Engine: Send + Sync {
    /// Goes on with what is to be done until the wait is over. `false`: there was nothing that this thread could do;
    /// then it returned at once. Before it waits for anything it asks `wait` whether it should, and holds no lock then:
    /// other engines may be told something.
    fn drive(&self, wait: &dyn Wait) -> bool;

    /// Sees to the input and the output that there are for the calls of a queue, and waits for nothing; whether it left
    /// some for the next time. It reads no more than about `most` bytes, which are counted down, or for a millisecond.
    fn step(&self, queue: QueueId, most: &mut usize) -> bool {
        let _ = (queue, most);
        false
    }

    /// The queue is closed: nobody comes to step for it any more.
    fn release_queue(&self, queue: QueueId) {
        let _ = queue;
    }

    /// Gives what was left for a waiting thread to the library's I/O thread, for the thread that came drives another
    /// engine. Never blocks.
    fn entrust(&self);

    /// Drops the queued calls that are completed already: cancelled, say, or too late.
    fn forget_completed(&self);

    /// The deadlines of some calls have passed by now.
    fn note_timeout(&self, now: Instant) {
        let _ = now;
    }
}

/// A thread that waits for a completion, as the engine that it drives sees it.
pub trait Wait {
    /// Where it waits.
    fn queue(&self) -> QueueId;

    /// Whether what it waits for is there.
    fn is_over(&self) -> bool;

    /// Whether its time is up.
    fn is_late(&self) -> bool;

    /// When it ends in any case.
    fn until(&self) -> Option<Instant>;

    /// Calls `sleep`, which is to return when the descriptor is readable, unless the wait is over already.
    fn sleep(&self, sleep: &mut dyn FnMut(BorrowedFd<'_>));
}

/// Tells queues apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueId(usize);

impl QueueId {
    /// That of the queue at this address.
    pub(super) fn of<Q>(queue: *const Q) -> Self {
        Self(queue.addr())
    }
}
