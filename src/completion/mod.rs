//! Asynchronous calls, from their acceptance to their completion.
//!
//! A call that was accepted completes **exactly once**. What completes it (an answer, a failure, its deadline, a
//! cancel, the end of its cache or of its queue) comes from any thread at any time, so there is one place where that is
//! settled: the index of outstanding calls of the [`CompletionQueue`] that it reports to, under the queue's lock. Who
//! takes the call out of the index has completed it, and puts its completion beside it; whoever comes later finds it
//! gone, and its answer is dropped.
//!
//! A [`Call`] is known to two: the queue's index, until it is completed; and its carrier, who has it carried out and
//! holds it as a [`Promise`]. A carrier may vanish (a panic, a bug): then the call fails as the promise is dropped. The
//! [`Inflight`] of its cache knows how many calls are in flight and to which queues they report, and so finds them when
//! their deadline passes and when the cache is closed. A completed call stays in the index as a spare: the next one
//! there is the same piece of memory, if its carrier has let go of it.
//!
//! Its state is an atomic beside the index, so that the carrier need not lock to see whether a call is still wanted,
//! and to mark it as sent. A cancelled write either was never sent, or its completion says that it may have been
//! applied: both the mark and the completion are one exchange of the same atomic.
//!
//! Locks: a queue's is taken before that of an [`Inflight`], and none of a backend's is taken under either.

mod call;
mod delivery;
mod descriptor;
mod engine;
mod index;
mod inflight;
mod prediction;
mod queue;
mod state;
#[cfg(all(test, not(loom)))]
mod tests;
mod wait;

pub use self::call::{Call, Misprediction, Promise, QueueHold, accept};
pub use self::delivery::Delivery;
pub use self::descriptor::Membership;
pub use self::engine::{Engine, QueueId, Wait};
pub use self::inflight::Inflight;
pub use self::queue::CompletionQueue;
use crate::error::Result;
use crate::op::Answer;

/// What became of a call.
#[derive(Debug)]
pub struct Completion {
    pub tag: u64,
    pub result: Result<Answer>,
}
