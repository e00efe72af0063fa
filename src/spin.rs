//! Spinning for a reply before sleeping for it: a sleep and a wake-up cost more than all the rest of a call to a server
//! that is near. It is tried while it pays, and left alone, for longer and longer, while replies come from far away or
//! the processor has others to serve.
//!
//! Between two looks the processor is offered to others. So spinning threads that share a processor take turns at next
//! to no cost, and what the others take is not counted as spinning: a look counts as a microsecond, which is what it
//! takes. But where others take much longer, they are at work, and the time is better left to them.

use std::time::{Duration, Instant};

/// The most waits in a row that are not spun for, after spinning has been in vain again and again.
const LONGEST_PAUSE: u32 = 1024;
/// After so many waits in a row that were not spun for it is not likely to pay soon.
const LONG_PAUSE: u32 = 8;
/// Far above any spin, which has its own bound.
pub const A_WHILE: Duration = Duration::from_secs(1);
/// How much longer than the limit all may take, with what others take.
const PATIENCE: u32 = 10;

pub struct Spinner {
    limit: Duration,
    /// As many microseconds, and one at least unless it is zero.
    looks: u32,
    /// Waits to pass over before the next try.
    pause: u32,
    /// Its length after the next failure.
    next_pause: u32,
}

impl Default for Spinner {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

impl Spinner {
    pub fn new(limit: Duration) -> Self {
        Self { limit, looks: looks(limit), pause: 0, next_pause: 1 }
    }

    /// How long it may take from now on.
    pub fn limit(&mut self, limit: Duration) {
        self.limit = limit;
        self.looks = looks(limit);
    }

    /// Whether a spin is too short to matter to a deadline.
    pub fn is_short(&self) -> bool {
        self.limit <= Duration::from_micros(100)
    }

    /// Whether it has been of use of late.
    pub fn pays(&self) -> bool {
        self.looks != 0 && self.next_pause <= LONG_PAUSE
    }

    /// Calls `ready` again and again, letting others run in between, until it has an answer, the limit is reached, or
    /// the deadline.
    pub fn spin<T>(&mut self, deadline: Instant, ready: impl FnMut() -> Option<T>) -> Option<T> {
        if self.is_due() { self.spin_now(deadline, ready) } else { None }
    }

    /// Whether this wait is one to spin for.
    #[inline]
    pub fn is_due(&mut self) -> bool {
        if self.looks == 0 {
            return false;
        }
        let is_due = self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        is_due
    }

    /// Spins, where it is due.
    pub fn spin_now<T>(
        &mut self,
        deadline: Instant,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let until = deadline.min(Instant::now() + self.limit * PATIENCE);
        let mut look = 0;
        loop {
            rustix::thread::sched_yield();
            let answer = ready();
            look += 1;
            // An answer that came only after another thread had used up its share of the processor is no success.
            let is_late = Instant::now() >= until;
            let is_over = is_late || answer.is_some() || look >= self.looks;
            if is_over {
                self.learn(is_late, answer.is_some());
                return answer;
            }
        }
    }
}

fn looks(limit: Duration) -> u32 {
    let least = u32::from(!limit.is_zero());
    u32::try_from(limit.as_micros()).unwrap_or(u32::MAX).max(least)
}

impl Spinner {
    /// Misses count for more than hits: to spin beside somebody who computes costs a hundred times what it can save.
    fn learn(&mut self, is_late: bool, is_answered: bool) {
        let next = match (is_late, is_answered) {
            (true, _) => self.next_pause * 8,
            (false, false) => self.next_pause * 2,
            (false, true) => return self.next_pause = (self.next_pause / 2).max(1),
        };
        self.pause = self.next_pause;
        self.next_pause = next.min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// One that looks once, however long that takes.
    fn brief() -> Spinner {
        Spinner { looks: 1, ..Spinner::new(Duration::from_secs(3600)) }
    }

    /// Spins `waits` times in vain; how often it was tried.
    fn tries(spinner: &mut Spinner, waits: u32) -> u32 {
        (0..waits)
            .map(|_| {
                let mut tried = 0;
                assert_eq!(
                    spinner.spin(far(), || -> Option<()> {
                        tried = 1;
                        None
                    }),
                    None
                );
                tried
            })
            .sum()
    }

    #[test]
    fn what_does_not_pay_is_tried_less_and_less() {
        let mut spinner = brief();
        // Before waits 0, 2, 5, 10, 19, 36, 69: each pause is twice the one before.
        assert_eq!(tries(&mut spinner, 70), 7);
        for _ in 0..7 {
            while spinner.spin(far(), || Some(())).is_none() {}
        }
        assert_eq!(tries(&mut spinner, 3), 2, "as many successes, and it is tried as at first");
    }

    #[test]
    fn what_others_take_counts_only_if_it_is_much() {
        let mut spinner = Spinner::new(Duration::from_micros(3));
        let mut looks = 0;
        let look = || -> Option<()> {
            looks += 1;
            None
        };
        // No clock can tell less than a nanosecond, so this ends by the number of looks or later.
        spinner.spin(far(), look);
        assert!(looks <= 3);
        let mut spinner = Spinner::new(Duration::from_millis(1));
        let mut looks = 0;
        let slow = || -> Option<()> {
            looks += 1;
            std::thread::sleep(Duration::from_millis(11));
            None
        };
        assert_eq!(spinner.spin(far(), slow), None);
        assert_eq!(looks, 1, "whoever takes so long has work to do");
        assert_eq!(tries(&mut spinner, 2), 1);
        assert_eq!(spinner.pause, 8, "and is left alone for long");
    }

    #[test]
    fn it_pays_until_it_has_been_in_vain_for_long() {
        let mut spinner = brief();
        assert!(spinner.pays());
        tries(&mut spinner, 70);
        assert!(!spinner.pays());
        assert!(!Spinner::new(Duration::ZERO).pays());
    }

    #[test]
    fn a_deadline_ends_it() {
        let mut spinner = Spinner::new(Duration::from_secs(3600));
        assert_eq!(spinner.spin(Instant::now(), || None::<()>), None);
    }

    #[test]
    fn zero_means_never() {
        assert_eq!(tries(&mut Spinner::new(Duration::ZERO), 10), 0);
        assert_eq!(Spinner::new(Duration::ZERO).spin(far(), || Some(())), None);
    }
}
