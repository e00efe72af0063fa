//! The time, read once in a call and only if it matters. There are two: a time to live is a length of time, whatever
//! the wall clock is set to meanwhile; and a time that a caller named has come when that clock says so.

use std::cell::Cell;

use crate::op::{Ttl, unix_ms_now};
use crate::sys;

/// The clocks in milliseconds; others in tests.
pub trait Clock: Send + Sync {
    /// Since any time. Nobody sets it, and it goes on while the machine is suspended.
    fn steady_ms(&self) -> i64;

    /// The wall clock.
    fn unix_ms(&self) -> i64;
}

pub struct SystemClock;

impl Clock for SystemClock {
    fn steady_ms(&self) -> i64 {
        sys::steady_ms()
    }

    fn unix_ms(&self) -> i64 {
        unix_ms_now()
    }
}

/// One call's idea of now.
pub struct Now<'a, C> {
    clock: &'a C,
    read: Cell<Option<i64>>,
    unix_read: Cell<Option<i64>>,
}

impl<'a, C: Clock> Now<'a, C> {
    pub fn new(clock: &'a C) -> Self {
        Self { clock, read: Cell::new(None), unix_read: Cell::new(None) }
    }

    /// By the steady clock.
    pub fn get(&self) -> i64 {
        once(&self.read, || self.clock.steady_ms())
    }

    /// By the wall clock.
    pub fn unix(&self) -> i64 {
        once(&self.unix_read, || self.clock.unix_ms())
    }

    pub fn is_known(&self) -> bool {
        self.read.get().is_some()
    }
}

fn once(cell: &Cell<Option<i64>>, read: impl FnOnce() -> i64) -> i64 {
    if let Some(now) = cell.get() {
        return now;
    }
    let now = read();
    cell.set(Some(now));
    now
}

#[cold]
fn by_steady_clock(unix_ms: i64, now: &Now<'_, impl Clock>) -> i64 {
    now.get().saturating_add(unix_ms.saturating_sub(now.unix()))
}

/// No expiry.
pub const NEVER: i64 = i64::MAX;

/// When an entry is gone, in one word: [`NEVER`]; by the steady clock; or, below zero, the complement of a time by the
/// wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(i64);

impl Expiry {
    pub const NEVER: Self = Self(NEVER);

    #[inline(always)]
    pub fn after(ttl: Ttl, now: &Now<'_, impl Clock>) -> Self {
        ttl.map_or(Self::NEVER, |ttl| Self(now.get().saturating_add(ttl).max(0)))
    }

    /// `None`: that is over already.
    pub fn at(unix_ms: i64, now: &Now<'_, impl Clock>) -> Option<Self> {
        (unix_ms > now.unix()).then_some(Self(!unix_ms.max(0)))
    }

    #[inline(always)]
    pub fn is_over(self, now: &Now<'_, impl Clock>) -> bool {
        self != Self::NEVER && self.has_come(now)
    }

    fn has_come(self, now: &Now<'_, impl Clock>) -> bool {
        match self {
            Self(at @ 0..) => at <= now.get(),
            Self(at) => !at <= now.unix(),
        }
    }

    /// When it is to be looked at again, by the steady clock: it is over then, unless the wall clock is set meanwhile.
    #[inline(always)]
    pub fn due(self, now: &Now<'_, impl Clock>) -> i64 {
        match self {
            Self(at @ 0..) => at,
            Self(at) => by_steady_clock(!at, now),
        }
    }
}
