//! Whether the thread that submits a call will come to wait for it.
//!
//! A thread that submits calls and then waits for them needs no other to carry them out. So a call of a thread that is
//! likely to wait next is left where it is, and carried out in the wait. How likely it is is learnt: from the times
//! that it came (a hit), and from those that it did not (a miss), which somebody else has to notice.

/// After so many hits the next is predicted.
const ENOUGH: i32 = 4;
/// After so many hits the misses before them are forgotten.
const FULL: i32 = 64;
/// The back-off after the first miss, and the longest: how many hits it takes until they count again.
const FIRST_BACK_OFF: i32 = 16;
const LONGEST_BACK_OFF: i32 = 4096;

pub(super) struct Prediction {
    /// Hits that count. Below zero: hits that are still to come before they do.
    hits: i32,
    back_off: i32,
}

impl Default for Prediction {
    fn default() -> Self {
        Self { hits: 0, back_off: FIRST_BACK_OFF }
    }
}

impl Prediction {
    /// Whether the next thread that submits is expected to wait.
    pub(super) fn is_hit_likely(&self) -> bool {
        self.hits >= ENOUGH
    }

    /// One has come.
    pub(super) fn hit(&mut self) {
        if self.hits < FULL {
            self.hits += 1;
        } else {
            self.back_off = FIRST_BACK_OFF;
        }
    }

    /// One has not. A second miss before the next hit counts no more than one.
    pub(super) fn miss(&mut self) {
        if self.hits > 0 {
            self.hits = -self.back_off;
            self.back_off = (2 * self.back_off).min(LONGEST_BACK_OFF);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// How many hits it takes until the next is likely.
    fn hits(prediction: &mut Prediction) -> usize {
        (1..)
            .find(|_| {
                prediction.hit();
                prediction.is_hit_likely()
            })
            .unwrap_or(0)
    }

    #[test]
    fn each_miss_backs_off_for_longer_until_enough_hits_forget_it() {
        let mut prediction = Prediction::default();
        assert!(!prediction.is_hit_likely());
        assert_eq!(hits(&mut prediction), 4);
        for wanted in [20, 36, 68] {
            prediction.miss();
            prediction.miss();
            assert!(!prediction.is_hit_likely());
            assert_eq!(hits(&mut prediction), wanted, "two misses in a row are as good as one");
        }
        (0..100).for_each(|_| prediction.hit());
        prediction.miss();
        assert_eq!(hits(&mut prediction), 20, "the misses are forgotten");
    }

    #[test]
    fn the_back_off_has_an_end() {
        let mut prediction = Prediction::default();
        for _ in 0..20 {
            hits(&mut prediction);
            prediction.miss();
        }
        assert_eq!(hits(&mut prediction), (LONGEST_BACK_OFF + ENOUGH) as usize);
    }
}
