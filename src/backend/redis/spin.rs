//! Spinning for a reply before sleeping for it: a sleep and a wake-up cost more than all the rest of a call to a server that
//! is near. It is tried while it pays, and left alone, for longer and longer, while replies come from far away or the
//! processor has others to serve.

use std::time::{Duration, Instant};

/// The most waits in a row that are not spun for, after spinning has been in vain again and again.
const LONGEST_PAUSE: u32 = 1024;

pub struct Spinner {
    limit: Duration,
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
        Self { limit, pause: 0, next_pause: 1 }
    }

    /// How long it may take from now on.
    pub fn limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Whether a spin is too short to matter to a deadline.
    pub fn is_short(&self) -> bool {
        self.limit <= Duration::from_millis(1)
    }

    /// Calls `ready` again and again, letting others run in between, until it has an answer, the limit is reached, or the
    /// deadline.
    pub fn spin<T>(&mut self, deadline: Instant, ready: impl FnMut() -> Option<T>) -> Option<T> {
        if self.is_due() { self.spin_now(deadline, ready) } else { None }
    }

    /// Whether this wait is one to spin for.
    #[inline]
    pub fn is_due(&mut self) -> bool {
        if self.limit.is_zero() {
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
        let until = deadline.min(Instant::now() + self.limit);
        loop {
            rustix::thread::sched_yield();
            let answer = ready();
            // An answer that came only after another thread had used up its share of the processor is no success.
            let in_vain = Instant::now() >= until;
            if in_vain {
                self.pause = self.next_pause;
                self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
            } else if answer.is_some() {
                self.next_pause = 1;
            }
            if in_vain || answer.is_some() {
                return answer;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
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
        let mut spinner = Spinner::new(Duration::from_nanos(1));
        // Before waits 0, 2, 5, 10, 19, 36, 69: each pause is twice the one before.
        assert_eq!(tries(&mut spinner, 70), 7);
        let limit = std::mem::replace(&mut spinner.limit, Duration::from_secs(3600));
        while spinner.spin(far(), || Some(())).is_none() {}
        spinner.limit = limit;
        assert_eq!(tries(&mut spinner, 3), 2, "one success, and it is tried as at first");
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
