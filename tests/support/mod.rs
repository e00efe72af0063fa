//! What the tests stand on: the C symbols behind a safe face, real servers, certificates.

// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod caller;
pub mod calls;
pub mod capi;
pub mod certs;
pub mod dir;
pub mod full_port;
pub mod gates;
pub mod pause;
pub mod poller;
pub mod program;
pub mod proxy;
pub mod queue;
pub mod random;
pub mod scripted;
pub mod server;
pub mod socket;

use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How long anything may take before a test takes it for something that never ends. Longer than any machine is busy,
/// and than the deadlines of [`patient`], so that a call that hangs says so itself.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer.
#[track_caller]
pub fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
        pause::before_the_next_look();
    }
}

/// The URL with deadlines that no call meets, however busy the machine, where it says nothing of them itself.
pub fn patient(url: &str) -> String {
    if url.starts_with("memory:") || url.starts_with("dummy:") {
        return url.to_owned();
    }
    // Of an option that is given twice the first counts.
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}socket_timeout=60&socket_connect_timeout=60")
}

/// Makes a call that must end by itself. It is not measured: the bound is there to tell an end from a hang.
#[track_caller]
pub fn must_end<T>(call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let taken = start.elapsed();
    assert!(taken < PATIENCE, "took {taken:?}");
    result
}

/// Says that something was not tested, past the harness, which keeps what a test prints from those who need to see it.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}
