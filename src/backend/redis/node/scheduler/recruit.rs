//! Finds links for asynchronous calls.

use std::time::Instant;

use super::{Actions, Carrier, MOST_DIALS, Scheduler, Usage};

impl<L: Carrier> Scheduler<L> {
    /// Finds links for asynchronous calls that wait for one.
    pub(super) fn recruit(&mut self, now: impl Fn() -> Instant) -> Actions<L> {
        let mut actions = Actions::default();
        actions.drive.extend(self.unpark());
        let for_loops = self.loops.awaiting();
        if for_loops > 0 || !self.exclusive.is_empty() || self.in_use < self.most_for_calls() {
            self.recruit_idle(&mut actions.drive);
            let needs_link = !self.queue.is_empty()
                && self.in_use < self.most_for_calls()
                && self.may_grow(&now);
            let most = if self.links() > 0 { MOST_DIALS } else { 1 };
            let wanted = (for_loops + self.exclusive.len() + usize::from(needs_link)).min(most);
            while self.dials < wanted && self.reserve_out_of_band(&now) {
                actions.dial += 1;
            }
            if needs_link && actions.dial > 0 {
                self.grow(now());
            }
        }
        if for_loops > 0 && self.dials == 0 {
            // There may be no more. The loops' calls are queued with all others.
            self.give_up_loops();
            self.recruit_idle(&mut actions.drive);
        }
        actions.drive.extend(self.claim_for_queue());
        if !self.exclusive.is_empty() && self.dials == 0 && self.idle.is_empty() {
            actions.drive.extend(self.claim_loop_link());
        }
        actions.visit = self.visit(&now);
        if !self.queue.is_empty() || !self.exclusive.is_empty() {
            actions.watch = self.deferral.watch();
        }
        actions
    }

    fn recruit_idle(&mut self, links: &mut Vec<Box<L>>) {
        while !self.exclusive.is_empty()
            && self.has_idle()
            && let Some(mut link) = self.check_out(Usage::Exclusive)
        {
            match self.load_exclusive(&mut link) {
                true => links.push(link),
                false => self.idle.push(link),
            }
        }
        while self.queue_may_take_another()
            && let Some(link) = self.check_out_loaded()
        {
            links.push(link);
        }
    }

    pub(super) fn queue_may_take_another(&self) -> bool {
        !self.queue.is_empty() && self.in_use < self.most_for_calls() && self.has_idle()
    }

    /// An idle link with what is queued; `None` if nobody wants that any more.
    pub(super) fn check_out_loaded(&mut self) -> Option<Box<L>> {
        let mut link = self.check_out(Usage::Shared)?;
        self.load(&mut link);
        if link.batch().is_complete() {
            self.vacate(*link.seat_mut());
            self.idle.push(link);
            return None;
        }
        Some(link)
    }
}
