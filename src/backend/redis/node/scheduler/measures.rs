//! What a scheduler learns from the calls that it sees.

use std::time::{Duration, Instant};

/// Round trips that never take less are to a server that is far away: there a link for each caller is best.
const FAR: Duration = Duration::from_micros(200);
/// The shortest of so many measured times tells how far the server is.
const TIMES: u32 = 32;
/// Callers contend until so many batches in a row were of one call.
const CONTENDED: u32 = 16;
/// How long a server that had no room for another link is left alone, as long as there is one.
const RESPITE: Duration = Duration::from_secs(1);

/// How far away the server is.
#[derive(Default)]
pub struct Distance {
    shortest: Duration,
    measured: u32,
    is_far: bool,
}

impl Distance {
    pub fn is_far(&self) -> bool {
        self.is_far
    }

    /// A bound that a round trip passes seldom, where the server is far away.
    pub fn several_round_trips(&self) -> Duration {
        if self.is_far { 4 * self.shortest } else { Duration::ZERO }
    }

    pub fn measure(&mut self, took: Duration) {
        self.shortest = if self.measured == 0 { took } else { self.shortest.min(took) };
        self.measured += 1;
        if self.measured == TIMES {
            self.measured = 0;
            self.is_far = self.shortest > FAR;
        }
    }
}

/// Whether callers contend for links: then their calls go together.
#[derive(Default)]
pub struct Contention {
    /// How many more batches of one call there must be before they do not any more.
    left: u32,
}

impl Contention {
    #[inline]
    pub fn is_there(&self) -> bool {
        self.left > 0
    }

    /// A batch of so many calls was sent.
    pub fn see(&mut self, calls: usize) {
        self.left = if calls > 1 { CONTENDED } else { self.left.saturating_sub(1) };
    }
}

/// Whether the server has had no room for another link of late.
#[derive(Default)]
pub struct Respite {
    until: Option<Instant>,
}

impl Respite {
    pub fn begin(&mut self, now: Instant) {
        self.until = Some(now + RESPITE);
    }

    /// `now` is asked only where it matters.
    pub fn lasts(&self, now: impl Fn() -> Instant) -> bool {
        self.until.is_some_and(|until| now() < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_short_round_trip_of_many_makes_a_server_near() {
        let mut distance = Distance::default();
        (0..TIMES).for_each(|_| distance.measure(Duration::from_millis(1)));
        assert!(distance.is_far());
        assert_eq!(distance.several_round_trips(), Duration::from_millis(4));
        distance.measure(Duration::from_micros(50));
        (1..TIMES).for_each(|_| distance.measure(Duration::from_millis(1)));
        assert!(!distance.is_far());
        assert_eq!(distance.several_round_trips(), Duration::ZERO);
    }

    #[test]
    fn contention_ends_after_many_batches_of_one_call() {
        let mut contention = Contention::default();
        contention.see(1);
        assert!(!contention.is_there());
        contention.see(2);
        (1..CONTENDED).for_each(|_| contention.see(1));
        assert!(contention.is_there());
        contention.see(1);
        assert!(!contention.is_there());
    }

    #[test]
    fn a_server_without_room_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut respite = Respite::default();
        assert!(!respite.lasts(|| now));
        respite.begin(now);
        assert!(respite.lasts(|| now));
        assert!(!respite.lasts(|| now + RESPITE));
    }
}
