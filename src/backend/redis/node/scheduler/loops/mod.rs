//! Links that follow event loops: each queue whose descriptor is polled has one of its own, which its calls go over.
//!
//! A loop is there from a queue's first call that is polled for, until its link goes to somebody else, breaks, or the
//! queue is closed. Its link is parked here, with a batch or without, while nobody works with it: the descriptor of the
//! queue tells when there is something to do. Whoever comes takes it out (`submit_for_loop`, `take_for_loop`) and parks
//! it again (`park_for_loop`). Calls that come while the link is under way are gathered, and go with it the next time.
//!
//! Nothing depends on the loop's coming. `look_at_loops` finds what has been left lying, for the reactor to go on with.
//! And where there may be no more links, what a loop has is taken for all (`claim_loop_link`): then its calls go the
//! way of those that nobody polls for.

mod answers;
mod ending;
mod lying;
mod silent;
mod unused;

use std::mem;
use std::sync::Arc;
use std::time::Instant;

pub use self::answers::{ForLoop, ForStep, Left, Parked};
pub use self::ending::Dissolved;
use self::lying::Seen;
pub use self::lying::{LOOK, Lookout, Suspect};
use super::queue::{MOST_BYTES, MOST_CALLS};
use super::{Actions, Carrier, Scheduler, Usage};
use crate::backend::redis::link::connection::Seat;
use crate::backend::redis::link::requests::{Owner, Requests};
use crate::backend::redis::link::wakeup::WakeupSet;
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{Membership, Promise, QueueHold, QueueId};
use crate::error::Result;
use crate::reserve;

/// After so many bursts the next is expected, and no more than this are counted.
const ENOUGH_BURSTS: u32 = 4;
const MOST_BURSTS: u32 = 8;

pub struct Loop<L> {
    queue: QueueHold,
    link: Place<L>,
    /// That of the link, which is in the queue's descriptor from then on.
    membership: Option<Arc<Membership>>,
    gathered: Requests<L>,
    /// At so many of these it is time to look for those that are completed.
    sweep_at: usize,
    /// How often somebody has had the link, and how often replies came over it.
    visits: u64,
    replies: u64,
    /// There may be input of which the socket does not tell.
    has_more: bool,
    /// How often calls came together between two steps, of late: then the first of them does not go alone.
    bursts: u32,
    /// Since the last step a call came that found nothing under way.
    has_begun: bool,
    /// Nothing has come over the link for a while: what is gathered goes when something has.
    is_held: bool,
    /// While the link is out: somebody has muted it. How often that was.
    is_muted: bool,
    mutes: u64,
    seen: Seen,
}

enum Place<L> {
    Parked(Box<L>),
    /// Somebody works with it.
    Out,
    /// It is being dialled.
    Awaited,
}

impl<L> Loop<L> {
    fn new(queue: QueueHold, link: Place<L>) -> Self {
        Self {
            queue,
            link,
            membership: None,
            gathered: Requests::default(),
            sweep_at: MOST_CALLS,
            visits: 0,
            replies: 0,
            has_more: false,
            bursts: 0,
            has_begun: false,
            is_held: false,
            is_muted: false,
            mutes: 0,
            seen: Seen::default(),
        }
    }
}

/// The loops of a node.
pub struct Loops<L> {
    all: Vec<Loop<L>>,
    /// That of the last call, which is likely that of the next.
    recent: usize,
    lookout: Lookout,
    quiet_looks: u32,
}

impl<L> Default for Loops<L> {
    fn default() -> Self {
        Self { all: Vec::new(), recent: 0, lookout: Lookout::Nobody, quiet_looks: 0 }
    }
}

impl<L: Carrier> Loops<L> {
    fn find(&self, queue: QueueId) -> Option<usize> {
        let is_its = |each: &Loop<L>| each.queue.id() == queue;
        if self.all.get(self.recent).is_some_and(is_its) {
            return Some(self.recent);
        }
        self.all.iter().position(is_its)
    }

    /// Whether any wait for a link.
    #[inline]
    pub fn are_waiting(&self) -> bool {
        !self.all.is_empty() && self.awaiting() > 0
    }

    /// How many wait for a link that is being dialled.
    pub fn awaiting(&self) -> usize {
        self.all.iter().filter(|each| matches!(each.link, Place::Awaited)).count()
    }

    /// All links that are parked, and all calls that are gathered; nothing is left.
    pub fn take_all(&mut self) -> (Vec<Box<L>>, Vec<Requests<L>>) {
        let (mut links, mut requests) = (Vec::new(), Vec::new());
        for each in mem::take(&mut self.all) {
            if let Place::Parked(link) = each.link {
                links.push(link);
            }
            requests.push(each.gathered);
        }
        (links, requests)
    }

    #[cfg(test)]
    pub fn links(&self) -> impl Iterator<Item = &L> {
        self.all.iter().filter_map(|each| match &each.link {
            Place::Parked(link) => Some(&**link),
            _ => None,
        })
    }

    #[cfg(test)]
    pub fn gathered(&self) -> usize {
        self.all.iter().map(|each| each.gathered.len()).sum()
    }
}

impl<L: Carrier> Loop<L> {
    /// Loads what is gathered onto its link, as far as one batch goes.
    fn fill(&mut self, link: &mut L) {
        if self.gathered.is_empty() {
            return;
        }
        let (requests, wakeups) = (&mut self.gathered, WakeupSet::default());
        link.batch_mut().take_from(requests, MOST_CALLS, MOST_BYTES, wakeups);
    }

    /// Takes its link out with what is gathered.
    fn take(&mut self) -> Option<Box<L>> {
        match mem::replace(&mut self.link, Place::Out) {
            Place::Parked(mut link) => {
                self.visits += 1;
                if !self.is_held {
                    self.fill(&mut link);
                }
                Some(link)
            }
            other => {
                self.link = other;
                None
            }
        }
    }

    fn has_calls(&self) -> bool {
        match &self.link {
            Place::Parked(link) => !link.batch().is_complete() || !self.gathered.is_empty(),
            Place::Out | Place::Awaited => true,
        }
    }
}

impl<L: Carrier> Scheduler<L> {
    /// Takes in a small call that is polled for. An error: it is not taken in.
    pub fn submit_for_loop(
        &mut self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
        now: impl Fn() -> Instant,
    ) -> Result<ForLoop<L>> {
        if self.refuses() {
            return Err(self.refusal().into());
        }
        let Some(index) = self.loops.find(call.reports_to()) else {
            return self.begin_loop(call, encode, expect, now);
        };
        self.loops.recent = index;
        let own = &mut self.loops.all[index];
        // Who polls may have been told of what nobody wants any more, and has forgotten it.
        let was_empty = own.gathered.is_empty() || !own.gathered.are_wanted();
        if own.gathered.len() >= own.sweep_at {
            own.gathered.forget_completed();
            own.sweep_at = MOST_CALLS.max(2 * own.gathered.len());
        }
        own.gathered.add(Owner::Call(call), encode, expect)?;
        let Place::Parked(link) = &own.link else { return Ok(ForLoop::Gathered(None)) };
        let is_quiet = link.batch().is_complete();
        own.has_begun |= is_quiet;
        if is_quiet && own.bursts < ENOUGH_BURSTS {
            return Ok(own.take().map_or(ForLoop::Gathered(None), ForLoop::Send));
        }
        if !is_quiet
            && (was_empty || own.is_held)
            && let Some(held) = self.hold(index, was_empty, now)
        {
            return Ok(held);
        }
        let own = &self.loops.all[index];
        let is_blocked = matches!(&own.link, Place::Parked(link) if link.batch().has_unsent());
        Ok(ForLoop::Gathered(own.membership.clone().filter(|_| was_empty && !is_blocked)))
    }

    /// Whether there is another link for a loop, or there may be.
    pub(super) fn has_another(&self, now: impl Fn() -> Instant) -> bool {
        self.has_idle() || self.has_room(now)
    }

    /// The first call of a queue that is polled.
    #[cold]
    fn begin_loop(
        &mut self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
        now: impl Fn() -> Instant,
    ) -> Result<ForLoop<L>> {
        let queue = call.hold_queue();
        if !self.has_another(&now) {
            self.queue.add(Owner::Call(call), encode, expect)?;
            return Ok(ForLoop::Entrusted(self.recruit(now)));
        }
        let mut own = Loop::new(queue, Place::Awaited);
        own.gathered.add(Owner::Call(call), encode, expect)?;
        reserve::try_reserve(&mut self.loops.all, 1, "memory for a loop")?;
        self.loops.recent = self.loops.all.len();
        self.loops.all.push(own);
        Ok(self.find_link_for_loop(self.loops.recent, Actions::default(), now))
    }

    /// A link for a loop that has none.
    fn find_link_for_loop(
        &mut self,
        index: usize,
        actions: Actions<L>,
        now: impl Fn() -> Instant,
    ) -> ForLoop<L> {
        if self.has_idle()
            && actions.drive.is_empty()
            && let Some(mut link) = self.check_out(Usage::Exclusive)
        {
            *link.seat_mut() = Seat::LOOP;
            return self.load_for_loop(index, link);
        }
        ForLoop::Entrusted(actions.and(self.recruit(now)))
    }

    fn load_for_loop(&mut self, index: usize, mut link: Box<L>) -> ForLoop<L> {
        let own = &mut self.loops.all[index];
        own.link = Place::Out;
        own.is_held = false;
        own.fill(&mut link);
        ForLoop::Attach(link, own.queue.clone())
    }

    /// A link that was dialled goes to a loop that waits for one.
    pub(super) fn assign_to_loop(&mut self, mut link: Box<L>) -> Result<Actions<L>, Box<L>> {
        let is_waiting = |each: &Loop<L>| matches!(each.link, Place::Awaited);
        let Some(index) = self.loops.all.iter().position(is_waiting) else { return Err(link) };
        *link.seat_mut() = Seat::LOOP;
        match self.load_for_loop(index, link) {
            ForLoop::Attach(link, queue) => {
                Ok(Actions { attach: Some((link, queue)), ..Actions::default() })
            }
            _ => Ok(Actions::default()),
        }
    }

    /// The link that was given to the loop is in the queue's descriptor; false, where the loop has gone on without it.
    pub fn attached(&mut self, membership: &Arc<Membership>) -> bool {
        let Some(index) = self.loops.find(membership.queue()) else { return false };
        let own = &mut self.loops.all[index];
        let awaits_it = own.membership.is_none() && matches!(own.link, Place::Out);
        if awaits_it {
            own.membership = Some(Arc::clone(membership));
        }
        awaits_it
    }

    /// A link cannot be in the queue's descriptor: its calls go another way.
    pub fn not_attached(&mut self, queue: QueueId, now: impl Fn() -> Instant) -> Actions<L> {
        let is_its = |each: &Loop<L>| each.membership.is_none() && matches!(each.link, Place::Out);
        match self.loops.find(queue).filter(|index| is_its(&self.loops.all[*index])) {
            Some(index) => self.end_loop(index, now),
            None => Actions::default(),
        }
    }

    /// A link leaves its loop, whose further calls go another way.
    pub fn left_loop(&mut self, link: &Arc<Membership>, now: impl Fn() -> Instant) -> Actions<L> {
        let is_its =
            |each: &Loop<L>| each.membership.as_ref().is_some_and(|own| Arc::ptr_eq(own, link));
        match self.loops.all.iter().position(is_its) {
            Some(index) => self.end_loop(index, now),
            None => Actions::default(),
        }
    }

    fn end_loop(&mut self, index: usize, now: impl Fn() -> Instant) -> Actions<L> {
        let own = self.loops.all.swap_remove(index);
        let mut actions = Actions::default();
        if let Place::Parked(mut link) = own.link {
            *link.seat_mut() = self.seat(Usage::Shared);
            actions.drive.push(link);
        }
        if own.gathered.is_empty() || self.closed {
            return actions;
        }
        self.queue.append(own.gathered);
        actions.and(self.recruit(now))
    }

    /// What there is to do for a queue.
    pub fn take_for_loop(&mut self, queue: QueueId) -> ForStep<L> {
        let Some(index) = self.loops.find(queue) else { return ForStep::Nothing };
        let own = &mut self.loops.all[index];
        if mem::take(&mut own.has_begun) {
            let is_burst = own.gathered.len() > 1;
            own.bursts = if is_burst { (own.bursts + 1).min(MOST_BURSTS) } else { own.bursts / 2 };
        }
        if let Some(link) = own.take() {
            return ForStep::Link(link);
        }
        match &own.membership {
            Some(membership) if matches!(own.link, Place::Out) && !own.is_muted => {
                own.is_muted = true;
                own.mutes += 1;
                ForStep::Mute(Arc::clone(membership), own.mutes)
            }
            _ => ForStep::Nothing,
        }
    }

    /// The same for a thread that waits, if there is anything.
    pub(super) fn take_busy_for_loop(&mut self, queue: QueueId) -> Option<Box<L>> {
        let index = self.loops.find(queue)?;
        let own = &mut self.loops.all[index];
        if own.has_calls() { own.take() } else { None }
    }

    /// Parks a link that was out.
    pub fn park_for_loop(
        &mut self,
        mut link: Box<L>,
        left: Left,
        now: impl Fn() -> Instant,
    ) -> Parked<L> {
        let found = link.membership().and_then(|membership| {
            let index = self.loops.find(membership.queue())?;
            let own = &self.loops.all[index];
            let is_its = own.membership.as_ref().is_some_and(|own| Arc::ptr_eq(own, membership));
            is_its.then_some(index)
        });
        let may_stay = link.vintage() == self.current && !self.is_short_of_links(now);
        let Some(index) = found.filter(|_| may_stay) else {
            return Parked::Refused(link);
        };
        let own = &mut self.loops.all[index];
        own.replies += u64::from(left.has_replies);
        let may_go_on = left.has_replies || link.batch().is_complete();
        if may_go_on && own.release_held(&mut link) {
            return Parked::More(link);
        }
        // Where there is no room for more the socket tells when there is.
        let is_blocked = link.batch().has_unsent();
        own.link = Place::Parked(link);
        own.has_more = left.has_more;
        let has_output = !own.gathered.is_empty() && !is_blocked && !own.is_held;
        let has_io = own.has_more || has_output;
        let has_output = own.membership.clone().filter(|_| has_io);
        let unmute = match mem::take(&mut own.is_muted) {
            true => own.membership.clone().map(|membership| (membership, own.mutes)),
            false => None,
        };
        Parked::Parked { has_output, unmute }
    }

    /// Whether somebody waits for a link who cannot have one but a loop's.
    fn is_short_of_links(&self, now: impl Fn() -> Instant) -> bool {
        let is_wanted = self.is_claimed() || (!self.queue.is_empty() && self.in_use == 0);
        is_wanted && self.idle.is_empty() && !self.has_room(now)
    }

    /// Where only loops have links, and none is being dialled, one of theirs is for all that is queued.
    pub(super) fn claim_for_queue(&mut self) -> Option<Box<L>> {
        let nobody_comes = self.in_use == 0 && self.dials == 0 && self.own_dials == 0;
        if self.queue.is_empty() || !nobody_comes || !self.idle.is_empty() {
            return None;
        }
        let mut link = self.claim_loop_link()?;
        self.top_up(&mut link);
        Some(link)
    }

    /// Takes a loop's link for all: an idle one rather than another.
    pub fn claim_loop_link(&mut self) -> Option<Box<L>> {
        let all = &self.loops.all;
        let is_parked = |each: &Loop<L>| matches!(each.link, Place::Parked(_));
        let is_idle = |each: &Loop<L>| is_parked(each) && !each.has_calls();
        let index = all.iter().position(is_idle).or_else(|| all.iter().position(is_parked))?;
        self.unseat_loop(index)
    }

    /// Takes a loop's link away from it, with what is gathered. What does not go into one batch is queued.
    fn unseat_loop(&mut self, index: usize) -> Option<Box<L>> {
        let mut link = self.loops.all[index].take()?;
        let own = self.loops.all.swap_remove(index);
        if !own.gathered.is_empty() {
            self.queue.append(own.gathered);
        }
        *link.seat_mut() = self.seat(Usage::Shared);
        Some(link)
    }

    /// A queue is closed: its link is for others, once its batch is complete.
    pub fn release_loop(&mut self, queue: QueueId) -> Option<Box<L>> {
        let index = self.loops.find(queue)?;
        // Nobody waits for what is gathered.
        drop(mem::take(&mut self.loops.all[index].gathered));
        let link = self.unseat_loop(index);
        if link.is_none() {
            // Whoever has the link finds the loop gone.
            self.loops.all.swap_remove(index);
        }
        link
    }

    /// Where none is being dialled any more for the loops that wait for a link, their calls go another way; whether
    /// there were any.
    pub(super) fn give_up_loops(&mut self) -> bool {
        let has_any = self.dials == 0 && self.loops.awaiting() > 0;
        if !has_any {
            return false;
        }
        while let Some(index) =
            self.loops.all.iter().position(|each| matches!(each.link, Place::Awaited))
        {
            let own = self.loops.all.swap_remove(index);
            self.queue.append(own.gathered);
        }
        true
    }
}
