//! What the tests stand on: the C symbols behind a safe face, real servers, certificates.

// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod capi;
pub mod certs;
pub mod dir;
pub mod program;
pub mod proxy;
pub mod queue;
pub mod scripted;
pub mod server;
pub mod socket;

use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take on a busy machine before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
#[track_caller]
pub fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
