//! Whether a thread that waits has a core to itself.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::sys;

/// Whether a thread that drives has a core to itself, or shares it with others, the server perhaps: then it is of no
/// use to send a part of what it submits before the rest, and costs a system call.
#[derive(Default)]
pub struct OwnCore {
    /// Waits since the last look.
    waits: AtomicU32,
    /// How often others had been given the core then.
    switches: AtomicU32,
    has: AtomicBool,
}

/// A look in so many waits.
const LOOK: u32 = 32;
/// So many times in as many waits are by chance.
const CHANCE: u32 = LOOK / 4;

impl OwnCore {
    pub fn is_likely(&self) -> bool {
        self.has.load(Ordering::Relaxed)
    }

    /// Called by the thread that waits.
    pub fn look(&self) {
        let waits = self.waits.load(Ordering::Relaxed);
        self.waits.store(waits.wrapping_add(1), Ordering::Relaxed);
        if waits.is_multiple_of(LOOK) {
            self.learn(sys::involuntary_switches());
        }
    }

    fn learn(&self, switches: u32) {
        let before = self.switches.swap(switches, Ordering::Relaxed);
        self.has.store(switches.wrapping_sub(before) <= CHANCE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_shared_while_others_are_given_it_often() {
        let core = OwnCore::default();
        core.learn(1000);
        assert!(!core.is_likely());
        core.learn(1000 + CHANCE);
        assert!(core.is_likely());
        core.learn(1000 + 2 * CHANCE + 1);
        assert!(!core.is_likely());
    }
}
