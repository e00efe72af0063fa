//! What races for a call (an answer, a cancel, its deadline, the end of its cache, the end of its queue, a carrier that
//! vanishes), and for a thread that waits for a link. In every order a call is completed once, what is said of a
//! cancelled write is true, a link has one owner, and nobody sleeps beside what it waits for.

/// What of the codec is asked for.
mod backend {
    pub mod redis {
        pub mod wire {
            pub mod replies {
                #[derive(Clone, Copy, Debug, PartialEq, Eq)]
                pub enum Reuse {
                    Keep,
                    Close,
                }
            }
        }
    }
}
#[path = "../../../src/completion/mod.rs"]
mod completion;
#[cfg(test)]
#[path = "../../../src/completion/tests/outcome.rs"]
mod completion_outcome;
#[path = "../../../src/deadline.rs"]
mod deadline;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/fork.rs"]
mod fork;
mod futex;
#[path = "../../../src/op.rs"]
mod op;
#[path = "../../../src/backend/redis/link/outcome.rs"]
mod outcome;
#[path = "../../../src/reserve.rs"]
mod reserve;
#[path = "../../../src/spin.rs"]
mod spin;
#[path = "../../../src/sync.rs"]
mod sync;
#[path = "../../../src/sys/mod.rs"]
mod sys;
#[path = "../../../src/value.rs"]
mod value;
#[path = "../../../src/backend/redis/link/waiter.rs"]
mod waiter;
#[path = "../../../src/backend/redis/link/wakeup.rs"]
mod wakeup;

#[cfg(test)]
mod model;
