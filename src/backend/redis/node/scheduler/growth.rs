//! How fast links grow in number where those in use are slow: another may do better, but where the server is slow for
//! all it must not come to a crowd of them.

use std::time::{Duration, Instant};

use super::{Carrier, Scheduler};
use crate::backend::redis::link::connection::Seat;

/// After a link was dialled in the place of slow ones it has so long to answer before there is the next, which has
/// twice as long, and so on.
const FIRST_TERM: Duration = Duration::from_millis(10);
const LONGEST_TERM: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Growth {
    /// How long the link that was dialled last has to answer, and until when.
    term: Duration,
    until: Option<Instant>,
}

impl Growth {
    /// `now` is asked only where it matters.
    fn may_go_on(&self, now: impl Fn() -> Instant) -> bool {
        self.until.is_none_or(|until| now() >= until)
    }

    /// Another link is dialled. `least`: what any has to answer.
    fn go_on(&mut self, least: Duration, now: Instant) {
        let is_in_a_row = self.until.is_some_and(|until| now < until + self.term);
        let term = if is_in_a_row { 2 * self.term } else { FIRST_TERM };
        self.term = term.min(LONGEST_TERM).max(least);
        self.until = Some(now + self.term);
    }

    fn end(&mut self) {
        self.until = None;
    }
}

impl<L: Carrier> Scheduler<L> {
    /// A link has answered that was dialled of late: it is not the server that is slow.
    pub fn new_link_answers(&mut self) {
        self.growth.end();
    }

    /// Begins a new epoch: the links in use are slow, and count no more.
    pub(super) fn begin_epoch(&mut self, now: Instant) {
        self.epoch_begun = Some(now);
        self.epoch = self.epoch.saturating_add(1);
        self.slow += self.in_use;
        self.in_use = 0;
    }

    /// Whether a link may be dialled in the place of those in use, for what is queued.
    pub(super) fn may_grow(&self, now: impl Fn() -> Instant) -> bool {
        self.slow == 0 || self.growth.may_go_on(now)
    }

    /// One is.
    pub(super) fn grow(&mut self, now: Instant) {
        if self.slow > 0 {
            self.grow_for_loop(now);
        }
    }

    /// The same for calls whose link is slow.
    pub(super) fn may_dial_another(&self, now: impl Fn() -> Instant) -> bool {
        self.growth.may_go_on(&now) && self.has_room(now)
    }

    pub(super) fn grow_for_loop(&mut self, now: Instant) {
        self.growth.go_on(self.distance.several_round_trips(), now);
    }

    /// A link that is not of this epoch is in use no more.
    #[cold]
    pub(super) fn vacate_earlier(&mut self, seat: Seat) {
        if seat != Seat::LOOP && matches!(seat, Seat::Shared { .. }) {
            self.slow -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_twice_as_long_to_answer_as_the_one_before_until_one_does() {
        let (mut growth, mut now) = (Growth::default(), Instant::now());
        assert!(growth.may_go_on(|| now));
        let mut terms = Vec::new();
        for _ in 0..9 {
            growth.go_on(Duration::ZERO, now);
            assert!(!growth.may_go_on(|| now + growth.term / 2));
            now += growth.term;
            assert!(growth.may_go_on(|| now));
            terms.push(growth.term.as_millis());
        }
        assert_eq!(terms, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        growth.end();
        assert!(growth.may_go_on(|| now));
        growth.go_on(Duration::ZERO, now);
        assert_eq!(growth.term, FIRST_TERM);
        now += 3 * growth.term;
        growth.go_on(Duration::ZERO, now);
        assert_eq!(growth.term, FIRST_TERM, "it has answered for a while");
        growth.go_on(Duration::from_secs(2), now);
        assert_eq!(growth.term, Duration::from_secs(2), "from far away nothing comes sooner");
    }
}
