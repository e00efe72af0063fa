//! One instant that bounds everything that may wait in a call.

use std::time::{Duration, Instant};

/// The end of a call, and the length it was given (a `clear` gets a fresh one for each round trip).
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    started: Instant,
    span: Duration,
}

impl Deadline {
    /// The longest wait that is handed to the clock: far above any use, far below any overflow.
    pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    pub fn after(span: Duration) -> Self {
        Self { started: Instant::now(), span }
    }

    /// The same span, counted from now.
    pub fn renewed(&self) -> Self {
        Self::after(self.span)
    }

    /// When it was set.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The earlier of this deadline and `span` from now.
    pub fn at_most(&self, span: Duration) -> Self {
        let other = Self::after(span);
        if other.instant() < self.instant() { other } else { *self }
    }

    /// When it passes. Worked out where it is asked for: most calls have their answer before it matters.
    pub fn instant(&self) -> Instant {
        self.started + self.span.min(Self::LONGEST)
    }

    /// What is left; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.instant().saturating_duration_since(Instant::now())
    }

    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }
}
