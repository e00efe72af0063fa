//! The time, read once in a call and only if it matters.

use std::cell::Cell;

/// The wall clock in milliseconds; another one in tests.
pub trait Clock: Send + Sync {
    fn unix_ms(&self) -> i64;
}

pub struct WallClock;

impl Clock for WallClock {
    fn unix_ms(&self) -> i64 {
        crate::op::unix_ms_now()
    }
}

/// One call's idea of now.
pub struct Now<'a, C> {
    clock: &'a C,
    read: Cell<Option<i64>>,
}

impl<'a, C: Clock> Now<'a, C> {
    pub fn new(clock: &'a C) -> Self {
        Self { clock, read: Cell::new(None) }
    }

    pub fn get(&self) -> i64 {
        if let Some(now) = self.read.get() {
            return now;
        }
        let now = self.clock.unix_ms();
        self.read.set(Some(now));
        now
    }

    pub fn is_known(&self) -> bool {
        self.read.get().is_some()
    }
}
