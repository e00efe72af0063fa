//! What event loops leave lying: who looks for it, and when.
//!
//! The reactor looks at the loops at times, while they have calls under way. What is ready at two looks, and was not
//! touched in between, goes to the reactor. Where nothing comes over any of their links it sleeps until something does.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Place;
use crate::backend::redis::node::scheduler::{Actions, Carrier, Scheduler};
use crate::completion::{Membership, QueueId};

/// How often it is looked whether something is left lying: what is ready at two looks, and was not touched in between.
pub const LOOK: Duration = Duration::from_millis(10);
/// So many looks in a row that found nothing under way are the last.
const QUIET_LOOKS: u32 = 10;
/// After so many looks at links that nothing comes over it is waited for that.
const SILENT_LOOKS: u32 = 3;

/// Whether somebody looks for what is left lying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookout {
    Nobody,
    /// At times.
    Looks,
    /// When one of the links that nothing comes over has something after all.
    Sleeps,
}

/// What a look found.
#[derive(Default)]
pub struct Seen {
    pub(super) visits: u64,
    pub(super) replies: u64,
    pub(super) was_ready: bool,
    /// Looks since replies came, with calls under way.
    pub(super) silent: u32,
    /// How many links in a row were silent for too long.
    pub(super) replaced: u32,
}

/// Something that may have been left lying: the number of visits to the link that it was seen after.
pub struct Suspect {
    pub queue: QueueId,
    pub(super) membership: Option<Arc<Membership>>,
    pub(super) has_io: bool,
    pub(super) visits: u64,
    /// Calls are held behind a link over which nothing has come for too long.
    pub is_silent: bool,
}

impl Suspect {
    /// Whether there is something to do for it.
    pub fn is_ready(&self) -> bool {
        self.has_io || self.membership.as_ref().is_some_and(|link| link.is_ready())
    }
}

impl<L: Carrier> Scheduler<L> {
    /// Somebody is to look at the loops from now on; who does so far.
    #[inline]
    pub fn watch_loops(&mut self) -> Lookout {
        mem::replace(&mut self.loops.lookout, Lookout::Looks)
    }

    /// Nobody looks any more, for no reason of this.
    pub fn end_to_watch_loops(&mut self) {
        self.loops.lookout = Lookout::Nobody;
    }

    /// Who looks sleeps from now on, unless something has come since; which links are to wake it. `None`: it is to look
    /// again.
    pub fn sleep_over_loops(&mut self) -> Option<Vec<Arc<Membership>>> {
        let busy = self.loops.all.iter().filter(|each| each.has_calls() || each.queue.is_gone());
        let may_have_another = self.has_idle() || self.count < self.most;
        let mut links = Vec::new();
        for own in busy {
            let is_silent = own.seen.silent >= SILENT_LOOKS && own.seen.visits == own.visits;
            let has_io = own.has_more || !own.gathered.is_empty() || own.queue.is_gone();
            let wants_another = may_have_another && own.wants_another();
            let is_asleep = is_silent && !has_io && !own.seen.was_ready && !wants_another;
            let membership = own.membership.as_ref().filter(|_| is_asleep)?;
            links.push(Arc::clone(membership));
        }
        self.loops.lookout = Lookout::Sleeps;
        Some(links)
    }

    /// Looks at what the loops have under way: what may have been left lying. `None`: this was the last look.
    pub fn look_at_loops(&mut self, now: Instant) -> Option<Vec<Suspect>> {
        let is_quiet = self.loops.all.iter().all(|each| !each.has_calls());
        self.loops.quiet_looks = if is_quiet { self.loops.quiet_looks + 1 } else { 0 };
        if self.closed || self.loops.quiet_looks > QUIET_LOOKS {
            self.loops.lookout = Lookout::Nobody;
            return None;
        }
        let slow = self.distance.slow();
        let mut suspects = Vec::new();
        for own in self.loops.all.iter_mut().filter(|each| each.has_calls() || each.queue.is_gone())
        {
            let is_untouched = own.seen.visits == own.visits;
            let has_replies = own.seen.replies != own.replies;
            own.seen.silent = if has_replies { 0 } else { own.seen.silent + 1 };
            if has_replies {
                own.seen.replaced = 0;
            }
            (own.seen.visits, own.seen.replies) = (own.visits, own.replies);
            own.seen.was_ready &= is_untouched;
            let is_late = match &own.link {
                Place::Parked(link) => {
                    link.batch().last_deadline().is_some_and(|deadline| deadline <= now)
                }
                Place::Out => !own.gathered.is_empty(),
                Place::Awaited => false,
            };
            let is_silent = own.is_overdue(slow, now);
            let has_output = !own.gathered.is_empty() && !own.is_held;
            if is_untouched || is_late || is_silent {
                suspects.push(Suspect {
                    queue: own.queue.id(),
                    membership: own.membership.clone(),
                    has_io: is_late || own.has_more || has_output || own.queue.is_gone(),
                    visits: own.visits,
                    is_silent,
                });
            }
        }
        Some(suspects)
    }

    /// Takes what was ready at this look and the one before, and was not touched in between, for the reactor.
    pub fn take_lying(&mut self, suspect: &Suspect, now: impl Fn() -> Instant) -> Actions<L> {
        let Some(index) = self.loops.find(suspect.queue) else { return Actions::default() };
        let own = &mut self.loops.all[index];
        if own.visits != suspect.visits || matches!(own.link, Place::Awaited) {
            return Actions::default();
        }
        if !mem::replace(&mut own.seen.was_ready, true) {
            return Actions::default();
        }
        match own.link {
            Place::Parked(_) => {
                let link = self.unseat_loop(index);
                let actions = Actions { drive: link.into_iter().collect(), ..Actions::default() };
                if self.queue.is_empty() { actions } else { actions.and(self.recruit(now)) }
            }
            // Who has it may be busy for long: its loop goes on without it.
            _ => self.end_loop(index, now),
        }
    }
}
