//! Links of loops over which nothing comes, though calls are under way. What comes later does not stand behind them: it
//! is held, and goes when a reply has come; and where that takes long, the loop gets another link, and the reactor goes
//! on with the silent one.

use std::mem;
use std::time::{Duration, Instant};

use super::{ForLoop, Loop, Place, Seen, Suspect};
use crate::backend::redis::link::connection::Seat;
use crate::backend::redis::node::scheduler::{Actions, Carrier, Scheduler, Usage};

/// A link is not doubled in its time to answer more often than this, for each that was silent before it.
const MOST_DOUBLINGS: u32 = 6;

impl<L: Carrier> Loop<L> {
    /// How long calls have been under way over its link without a reply, as far as anybody has looked.
    fn silence(&self, now: Instant) -> Option<Duration> {
        match &self.link {
            Place::Parked(link) if !link.batch().is_complete() => {
                Some(now.saturating_duration_since(link.last_used()))
            }
            _ => None,
        }
    }

    /// Whether it is time to find another link for calls that are held, or wait behind a slow one. `slow`: when it is
    /// for the first link of several in a row.
    pub(super) fn is_overdue(&self, slow: Duration, now: Instant) -> bool {
        let bound = slow * (1 << self.seen.replaced.min(MOST_DOUBLINGS));
        self.silence(now) > Some(bound) && self.wants_another()
    }

    /// Whether calls would go over another link, if the loop had one.
    pub(super) fn wants_another(&self) -> bool {
        let has_reads = |link: &L| link.batch().has_reads_behind();
        self.is_held || matches!(&self.link, Place::Parked(link) if has_reads(link))
    }

    /// A reply has come over its link: what was held goes with it. Whether that was anything.
    pub(super) fn release_held(&mut self, link: &mut L) -> bool {
        let was_held = mem::take(&mut self.is_held) && !self.gathered.is_empty();
        if was_held {
            self.fill(link);
        }
        was_held
    }

    /// Something may hold it up, to be looked at before anything is done about it.
    fn suspect(&self) -> Suspect {
        let (queue, membership) = (self.queue.id(), self.membership.clone());
        Suspect { queue, membership, has_io: false, visits: self.visits, is_silent: true }
    }
}

impl<L: Carrier> Scheduler<L> {
    /// Whether a link that was used last so long ago takes no further calls until a reply has come.
    pub(in super::super) fn holds_up(&self, link: &L, now: Instant) -> bool {
        let silence = now.saturating_duration_since(link.last_used());
        !link.batch().is_complete() && silence > self.distance.holds_up()
    }

    /// A call has come that is the first to be gathered, or that follows others that are held. `None`: it goes with the
    /// link the next time.
    pub(super) fn hold(
        &mut self,
        index: usize,
        was_empty: bool,
        now: impl Fn() -> Instant,
    ) -> Option<ForLoop<L>> {
        let at = now();
        let is_silent = self.loops.all[index].silence(at) > Some(self.distance.holds_up());
        let holds = is_silent && (!was_empty || self.has_another(now));
        let own = &mut self.loops.all[index];
        own.is_held = holds;
        if !holds {
            return None;
        }
        match own.is_overdue(self.distance.slow(), at) {
            true => Some(ForLoop::Silent(own.suspect())),
            false => Some(ForLoop::Gathered(None)),
        }
    }

    /// Nothing has come for a loop whose calls are held: the reactor goes on with its link, and it gets another, where
    /// there may be one.
    pub fn replace_silent(&mut self, suspect: &Suspect, now: impl Fn() -> Instant) -> Actions<L> {
        let mut actions = Actions::default();
        let Some(index) = self.loops.find(suspect.queue) else { return actions };
        let has_idle = self.has_idle();
        let may_have_another = !self.refuses() && (has_idle || self.may_dial_another(&now));
        let own = &mut self.loops.all[index];
        let is_its = own.visits == suspect.visits && own.wants_another();
        if !is_its || !may_have_another {
            return actions;
        }
        match mem::replace(&mut own.link, Place::Awaited) {
            Place::Parked(mut link) => {
                let mut reads = link.batch_mut().double_reads_behind();
                match reads.try_append(mem::take(&mut own.gathered)) {
                    Ok(()) => own.gathered = reads,
                    Err(gathered) => {
                        own.gathered = gathered;
                        self.queue.append(reads);
                    }
                }
                actions.drive.push(link);
            }
            other => {
                own.link = other;
                return actions;
            }
        }
        own.membership = None;
        own.is_held = false;
        let (visits, replies, replaced) = (own.visits, own.replies, own.seen.replaced + 1);
        own.seen = Seen { visits, replies, replaced, ..Seen::default() };
        if let Some(mut link) = has_idle.then(|| self.check_out(Usage::Exclusive)).flatten() {
            *link.seat_mut() = Seat::LOOP;
            if let ForLoop::Attach(link, queue) = self.load_for_loop(index, link) {
                actions.attach = Some((link, queue));
            }
            return actions;
        }
        self.grow_for_loop(now());
        actions.and(self.recruit(now))
    }
}
