//! What the connections to one server know of it together.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Shared by all connections to a server.
#[derive(Default)]
pub struct Pulse {
    beats: AtomicU32,
    is_down: AtomicBool,
}

impl Pulse {
    /// How often something has come from the server, as far as that is counted: what arrives in the first read of a
    /// call is not, for that call tells by itself that it was answered. Only differences matter.
    #[inline(always)]
    pub fn beats(&self) -> u32 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Something has come.
    #[inline]
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the server was found to be down: then a connection that ends was cut off for that.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Acquire)
    }

    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Release);
    }
}
