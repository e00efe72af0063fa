//! What only asynchronous calls have, through the C symbols: batches of them, queues, cancelling, the descriptor, and
//! the thread that drives them, in trouble and in large numbers. How one call fails is tested in `tests/faults`, for
//! each kind of call.

#[path = "../support/mod.rs"]
mod support;

mod beside_synchronous_calls;
mod broken_batches;
mod caller_driven;
mod cancel;
mod closing;
mod deadlines;
mod large_values;
mod prefix_clears;
mod processes;
mod slow_links;
mod tens_of_thousands;
mod together;

use support::capi::*;
use support::queue::*;

const OK: Outcome = Ok(CACHETORY_OK);

/// Asserts that a call failed in exactly this way; the answer is its message.
#[track_caller]
fn failed(completion: &Completion, status: i32, flags: u32) -> String {
    let Failure { status: found, flags: found_flags, message } = completion.failure();
    let tag = completion.tag();
    assert_eq!((found, found_flags), (status, flags), "call {tag}: {message}");
    message
}

#[track_caller]
fn is_value(mut completion: Completion, value: impl AsRef<[u8]>) {
    assert_eq!(completion.outcome(), OK, "call {}", completion.tag());
    assert_eq!(completion.take_value().unwrap().bytes(), value.as_ref());
}
