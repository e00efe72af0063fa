//! What a scheduler learns from the calls that it sees.

use std::time::{Duration, Instant};

use super::QUEUEING_BOUND;

/// Round trips that never take less are to a server that is far away.
const FAR: Duration = Duration::from_micros(200);
/// So many measured times, none of them short, make a server far away that was near: where many contend for one that
/// is near, hardly any is short.
const TIMES: u32 = 1024;
/// Of the calls that others drive one in so many is measured.
const ONE_IN: u32 = 16;
/// The shortest of the first few tells where it is until more is known.
const FIRST_TIMES: u32 = 4;
/// Links that do not answer for so long are not just held up.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same of a link of an event loop, where another may be dialled in its place.
const SILENT: Duration = Duration::from_millis(10);
/// Callers contend until so many batches in a row were of one call.
const CONTENDED: u32 = 16;
/// So many calls in a batch take as long as one by itself, about.
const SHARE: u32 = 4;
/// More calls in a batch than this do not count.
const MOST_CROWD: usize = 64;
/// So many calls of threads without an asynchronous one among them, and they are by themselves.
const MIXED: u32 = 64;
/// How long a server that had no room for another link is left alone, as long as there is one.
const RESPITE: Duration = Duration::from_secs(1);

/// How far away the server is.
#[derive(Default)]
pub struct Distance {
    shortest: Duration,
    measured: u32,
    is_far: bool,
    /// The round trip, once one was measured.
    round_trip: Option<Duration>,
    /// Calls that others drive, while it is far away.
    waited: u32,
}

impl Distance {
    pub fn is_far(&self) -> bool {
        self.is_far
    }

    /// A bound that a round trip passes seldom, where the server is far away.
    pub fn several_round_trips(&self) -> Duration {
        if self.is_far { 4 * self.round_trip.unwrap_or_default() } else { Duration::ZERO }
    }

    /// Who is far away and has been silent for longer than this may not answer at all.
    pub fn silence(&self) -> Duration {
        self.round_trip.map_or(PATIENCE, |round_trip| 4 * round_trip)
    }

    /// A link over which nothing has come for so long takes no further calls of its event loop until something does.
    pub fn holds_up(&self) -> Duration {
        self.round_trip.map_or(SILENT, |_| self.silence().max(QUEUEING_BOUND))
    }

    /// One over which nothing has come for so long is slow.
    pub fn slow(&self) -> Duration {
        self.round_trip.map_or(3 * SILENT, |_| self.silence().max(SILENT))
    }

    /// After so long it is time for others in the place of links that are far away.
    pub fn patience(&self) -> Duration {
        PATIENCE.max(self.silence())
    }

    /// Nothing was measured yet, and no answer has come in the time that a server takes that is near.
    pub fn suspect_far(&mut self) {
        self.is_far |= self.round_trip.is_none();
    }

    /// Whether it is time to measure a call that others drive.
    pub fn is_due(&mut self) -> bool {
        self.waited = self.waited.wrapping_add(1);
        self.waited.is_multiple_of(ONE_IN)
    }

    /// Whether a call took less than any to a server that is far away.
    pub fn is_short(took: Duration) -> bool {
        took <= FAR
    }

    pub fn measure(&mut self, took: Duration) {
        self.shortest = if self.measured == 0 { took } else { self.shortest.min(took) };
        self.measured += 1;
        let times = if self.round_trip.is_none() { FIRST_TIMES } else { TIMES };
        if Self::is_short(took) || self.measured == times {
            self.measured = 0;
            self.is_far = !Self::is_short(self.shortest);
            self.round_trip = Some(self.shortest);
        }
    }
}

/// Whether callers contend for links: then their calls go together.
#[derive(Default)]
pub struct Contention {
    /// How many more batches of one call there must be before they do not any more.
    left: u32,
    /// About how many calls there are in the largest batches of late.
    crowd: usize,
}

impl Contention {
    #[inline]
    pub fn is_there(&self) -> bool {
        self.left > 0
    }

    /// A batch of so many calls was sent.
    pub fn see(&mut self, calls: usize) {
        self.left = if calls > 1 { CONTENDED } else { self.left.saturating_sub(1) };
        self.crowd = calls.max(self.crowd - self.crowd.div_ceil(8));
    }

    /// How many times as long as one call a batch takes at most, about.
    pub fn delay(&self) -> u32 {
        1 + self.crowd.min(MOST_CROWD) as u32 / SHARE
    }
}

/// Whether asynchronous calls come beside those of threads that contend.
#[derive(Default)]
pub struct Mixture {
    /// Calls of threads left since the last one.
    left: u32,
}

impl Mixture {
    pub fn is_there(&self) -> bool {
        self.left > 0
    }

    #[inline]
    pub fn see_call(&mut self) {
        self.left = MIXED;
    }

    pub fn see_thread(&mut self) {
        self.left = self.left.saturating_sub(1);
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
        (1..FIRST_TIMES).for_each(|_| distance.measure(Duration::from_millis(1)));
        assert!(!distance.is_far());
        distance.measure(Duration::from_millis(2));
        assert!(distance.is_far());
        assert_eq!(distance.several_round_trips(), Duration::from_millis(4));
        distance.measure(Duration::from_micros(50));
        assert!(!distance.is_far());
        assert_eq!(distance.several_round_trips(), Duration::ZERO);
        (1..TIMES).for_each(|_| distance.measure(Duration::from_millis(1)));
        assert!(!distance.is_far());
        distance.measure(Duration::from_millis(1));
        assert!(distance.is_far());
    }

    #[test]
    fn a_server_is_taken_to_be_far_away_until_something_is_known() {
        let mut distance = Distance::default();
        distance.suspect_far();
        assert!(distance.is_far());
        assert_eq!(distance.several_round_trips(), Duration::ZERO);
        assert_eq!(distance.silence(), PATIENCE);
        distance.measure(Duration::from_micros(50));
        distance.suspect_far();
        assert!(!distance.is_far());
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
    fn a_batch_takes_the_longer_the_more_calls_there_were_of_late() {
        let mut contention = Contention::default();
        contention.see(1);
        assert_eq!(contention.delay(), 1);
        contention.see(32);
        contention.see(1);
        assert!((2..=1 + 32 / SHARE).contains(&contention.delay()));
        contention.see(1_000_000);
        assert_eq!(contention.delay(), 1 + MOST_CROWD as u32 / SHARE);
        (0..200).for_each(|_| contention.see(1));
        assert_eq!(contention.delay(), 1);
    }

    #[test]
    fn threads_are_by_themselves_after_many_calls_without_an_asynchronous_one() {
        let mut mixture = Mixture::default();
        assert!(!mixture.is_there());
        mixture.see_call();
        (1..MIXED).for_each(|_| mixture.see_thread());
        assert!(mixture.is_there());
        mixture.see_thread();
        assert!(!mixture.is_there());
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
