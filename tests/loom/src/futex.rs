//! A futex as the system has it: who sleeps looks at the word under a lock that who wakes takes. A wakeup that is
//! missing is a deadlock, which the model checker finds.

use std::time::Duration;

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};

#[derive(Default)]
struct Sleepers {
    /// The word that each sleeps on, and the sleeper's number.
    asleep: Vec<(usize, u64)>,
    last: u64,
}

loom::lazy_static! {
    static ref SLEEPERS: Mutex<Sleepers> = Mutex::new(Sleepers::default());
    static ref WOKEN: Condvar = Condvar::new();
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

/// Sleeps while the word is `expected`, until it is woken. The time never passes, nor is anybody woken for no reason.
pub fn futex_wait(word: &AtomicU32, expected: u32, _left: Duration) {
    let mut sleepers = SLEEPERS.lock().unwrap();
    if word.load(Ordering::Relaxed) != expected {
        return;
    }
    sleepers.last += 1;
    let own = (address(word), sleepers.last);
    sleepers.asleep.push(own);
    while sleepers.asleep.contains(&own) {
        sleepers = WOKEN.wait(sleepers).unwrap();
    }
}

pub fn futex_wake_all(word: &AtomicU32) {
    let mut sleepers = SLEEPERS.lock().unwrap();
    sleepers.asleep.retain(|(slept_on, _)| *slept_on != address(word));
    WOKEN.notify_all();
}
