//! What threads meet at: the standard library's and the system's, or the model checker's.

#[cfg(not(loom))]
mod real {
    use std::time::Duration;

    pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
    pub use std::sync::{Condvar, Mutex, MutexGuard};

    pub use crate::sys::futex_wake_all;

    /// Sleeps while the word is `expected`, until it is woken, for so long at most, or for no reason.
    pub fn futex_wait(word: &AtomicU32, expected: u32, left: Duration) {
        crate::sys::futex_wait(word, expected, Some(left));
    }
}

#[cfg(loom)]
mod real {
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
    pub use loom::sync::{Condvar, Mutex, MutexGuard};

    pub use crate::futex::{futex_wait, futex_wake_all};
}

use std::sync::PoisonError;

pub use self::real::*;

/// A thread that panicked leaves nothing half done here.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
