//! States that several threads change: an enum in an atomic.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use crate::sync::AtomicU8;

/// A state that fits in a byte.
pub(super) trait State: Copy {
    fn byte(self) -> u8;
    /// That of [`State::byte`].
    fn of(byte: u8) -> Self;
}

/// Every access orders what the threads did before and do afterwards.
pub(super) struct Atomic<S> {
    byte: AtomicU8,
    state: PhantomData<S>,
}

impl<S: State> Atomic<S> {
    pub(super) fn new(state: S) -> Self {
        Self { byte: AtomicU8::new(state.byte()), state: PhantomData }
    }

    pub(super) fn get(&self) -> S {
        S::of(self.byte.load(Ordering::Acquire))
    }

    /// Makes it `new`; what it was before.
    pub(super) fn replace(&self, new: S) -> S {
        S::of(self.byte.swap(new.byte(), Ordering::AcqRel))
    }

    /// Makes it `new` where it is `old`; what it was before.
    pub(super) fn replace_if(&self, old: S, new: S) -> S {
        let exchange = (Ordering::AcqRel, Ordering::Acquire);
        let was = self.byte.compare_exchange(old.byte(), new.byte(), exchange.0, exchange.1);
        S::of(was.unwrap_or_else(|was| was))
    }
}
