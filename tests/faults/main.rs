//! Time and failure, through the C symbols: against a scripted server, a breaking network, and real servers in trouble.

#[path = "../support/mod.rs"]
mod support;

mod closing;
mod combined_calls;
mod deadlines;
mod excess;
mod hostile;
mod idle_links;
mod late_replies;
mod processes;
mod refusals;
mod retries;
mod transactions_and_clears;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use support::capi::*;

/// Asserts that a call failed in exactly this way; the answer is its message.
#[track_caller]
fn failed<T: Debug>(result: Result<T, Failure>, status: i32, flags: u32) -> String {
    let failure = result.expect_err("a failure");
    assert_eq!((failure.status, failure.flags), (status, flags), "{}", failure.message);
    failure.message
}

/// Asserts that a call failed in one of these ways, where the contract leaves it open which.
#[track_caller]
fn failed_either<T: Debug>(result: Result<T, Failure>, statuses: &[i32], flags: u32) -> String {
    let failure = result.expect_err("a failure");
    assert!(statuses.contains(&failure.status), "{failure:?}");
    assert_eq!(failure.flags, flags, "{failure:?}");
    failure.message
}

/// Runs a call that must end by itself long before `bound`. The bound is there to tell an end from a hang.
#[track_caller]
fn within<T>(bound: Duration, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let taken = start.elapsed();
    assert!(taken < bound, "took {taken:?}, more than {bound:?}");
    result
}

/// An operation with arguments that any server can answer.
type Operation = (&'static str, fn(&Cache) -> Outcome);

const READS: [Operation; 3] = [
    ("ping", |cache| cache.ping()),
    ("get", |cache| cache.get("k").map(|_| CACHETORY_OK)),
    ("mget", |cache| cache.mget(&["k", "l"]).map(|_| CACHETORY_OK)),
];

const WRITES: [Operation; 11] = [
    ("set", |cache| cache.set("k", "v")),
    ("set with a ttl", |cache| cache.set_with("k", "v", 60_000, 0)),
    ("set if not exists", |cache| cache.set_with("k", "v", NO_EXPIRY, IF_NOT_EXISTS)),
    ("mset", |cache| cache.mset(&[("k", "v"), ("l", "w")], NO_EXPIRY)),
    ("mset with a ttl", |cache| cache.mset(&[("k", "v"), ("l", "w")], 60_000)),
    ("expire_in", |cache| cache.expire_in("k", 60_000)),
    ("expire_in, never", |cache| cache.expire_in("k", NO_EXPIRY)),
    ("expire_at", |cache| cache.expire_at("k", 4_000_000_000_000)),
    ("delete", |cache| cache.delete("k")),
    ("mdelete", |cache| cache.mdelete(&["k", "l"]).map(|_| CACHETORY_OK)),
    ("clear", |cache| cache.clear()),
];
