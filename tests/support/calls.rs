//! Calls that any server can answer, and what is asserted of how they end.

use std::fmt::Debug;
use std::thread;

use super::capi::*;
use super::{must_end, poll};

/// An operation with its arguments.
pub type Operation = (&'static str, fn(&Cache) -> Outcome);

/// Above what shares a connection with other calls.
const LARGE: usize = 100_000;

pub fn large() -> Vec<u8> {
    vec![b'x'; LARGE]
}

pub const READS: [Operation; 4] = [
    ("ping", |cache| cache.ping()),
    ("get", |cache| cache.get("k").map(|_| CACHETORY_OK)),
    ("mget", |cache| cache.mget(&["k", "l"]).map(|_| CACHETORY_OK)),
    ("large get", |cache| cache.get(large()).map(|_| CACHETORY_OK)),
];

pub const WRITES: [Operation; 13] = [
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
    ("large set", |cache| cache.set("k", large())),
    ("large mset", |cache| cache.mset(&[("k", large()), ("l", large())], NO_EXPIRY)),
];

/// Runs a scenario once for each way in which calls are made, all at the same time.
#[track_caller]
pub fn for_each_face(scenario: impl Fn(Face) + Sync) {
    thread::scope(|scope| {
        for face in FACES {
            let scenario = &scenario;
            // A failed assertion is shown with the name of its thread.
            let thread = thread::Builder::new().name(format!("{face:?}"));
            thread.spawn_scoped(scope, move || scenario(face)).unwrap();
        }
    });
}

/// Asserts that a call failed in exactly this way; the answer is its message.
#[track_caller]
pub fn failed<T: Debug>(result: Result<T, Failure>, status: i32, flags: u32) -> String {
    let failure = result.expect_err("a failure");
    assert_eq!((failure.status, failure.flags), (status, flags), "{}", failure.message);
    failure.message
}

/// Asserts that a call failed in one of these ways, where the contract leaves it open which.
#[track_caller]
pub fn failed_either<T: Debug>(result: Result<T, Failure>, statuses: &[i32], flags: u32) -> String {
    let failure = result.expect_err("a failure");
    assert!(statuses.contains(&failure.status), "{failure:?}");
    assert_eq!(failure.flags, flags, "{failure:?}");
    failure.message
}

/// Asserts that a call ends at its deadline.
#[track_caller]
pub fn times_out<T: Debug>(flags: u32, call: impl FnOnce() -> Result<T, Failure>) -> String {
    failed(must_end(call), CACHETORY_ERR_TIMEOUT, flags)
}

/// Asserts that a write ends at its deadline after it was sent. On a busy machine the deadline may pass before, which
/// the call says; then it is made again. `arrived`: how many requests for it the server has read, which is none unless
/// it was sent.
#[track_caller]
pub fn times_out_once_sent<T: Debug>(
    arrived: impl Fn() -> usize,
    call: impl Fn() -> Result<T, Failure>,
) {
    poll("the write is sent before its deadline", || {
        let failure = must_end(&call).expect_err("a deadline that passes");
        assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
        assert!(failure.is_retryable(), "{failure:?}");
        if failure.is_maybe_applied() {
            return Some(());
        }
        assert_eq!(arrived(), 0, "{failure:?}");
        None
    });
}

/// The answer of a server that is well, on a cache whose deadline is short. On a busy machine a call may miss that, and
/// is made again; it may fail in no other way.
#[track_caller]
pub fn in_time<T>(call: impl Fn() -> Result<T, Failure>) -> T {
    poll("an answer in time", || match call() {
        Ok(answer) => Some(answer),
        Err(failure) => {
            assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
            None
        }
    })
}
