//! Event loops on the descriptor of a queue, through the C symbols: every way of polling it and every kind of loop, in
//! great numbers and with large values; what a loop leaves lying; loops beside each other, and their end.

#[path = "../support/mod.rs"]
mod support;

mod beside_each_other;
mod closing;
mod drive;
mod idle_links;
mod left_lying;
mod many_pollers;
mod polling;
mod programs;
mod silent_links;
mod steps;

use support::capi::*;
use support::queue::*;

const OK: Outcome = Ok(CACHETORY_OK);

#[track_caller]
fn is_value(mut completion: Completion, value: impl AsRef<[u8]>) {
    assert_eq!(completion.outcome(), OK, "call {}", completion.tag());
    assert!(completion.take_value().unwrap().bytes() == value.as_ref());
}

/// Asserts that a call failed in exactly this way.
#[track_caller]
fn failed(completion: &Completion, status: i32, flags: u32) {
    let failure = completion.failure();
    assert_eq!((failure.status, failure.flags), (status, flags), "{failure:?}");
}
