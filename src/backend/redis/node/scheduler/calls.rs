//! A call comes, waits, and is loaded onto a link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Actions, Carrier, QUEUEING_BOUND, Reservation, Scheduler, Usage, Visit, WatchId};
use crate::backend::redis::link::connection::Seat;
use crate::backend::redis::link::outcome::Vintage;
use crate::backend::redis::link::requests::{Entry, Owner, Requests};
use crate::backend::redis::link::waiter::{SleepsOn, Waiter, Waiting};
use crate::backend::redis::link::wakeup::WakeupSet;
use crate::backend::redis::wire::command::may_share;
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{Promise, QueueId};
use crate::error::Result;
use crate::reserve;

/// So many calls that are left to a thread, and at least a quarter of all that are outstanding, are sent before it
/// comes, so that the server need not wait for the rest.
const FEW: usize = 16;
/// Fewer large calls are not looked through for those that nobody wants any more.
const FEW_EXCLUSIVE: usize = 16;

/// What a small call of a thread is to do that found no link at hand.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// See [`Scheduler::refusal`].
    Refused,
    /// Dial a link for itself.
    Dial(Reservation),
    /// Join the queue.
    Queue,
}

/// A thread's call has joined the queue.
pub struct Queued<L> {
    pub ticket: Ticket<L>,
    /// It is to drive what is queued over this link, after others had time to join.
    pub lead: Option<Box<L>>,
    /// It has joined the batch of this link, and is to send it.
    pub visit: Option<Visit<L>>,
}

/// Where a queued thread waits.
pub struct Ticket<L> {
    pub waiter: Arc<Waiter<L>>,
    pub sleeps_on: SleepsOn,
    /// What the threads of its batch sleep on.
    pub batch: usize,
    /// How long it waits before it looks whether there is another link.
    pub bound: Duration,
    /// The server is far away: it lets others add to a batch that it drives.
    pub is_far: bool,
    /// How long its call takes is to be measured.
    pub is_measured: bool,
}

/// What a call is to do that needs a link of its own.
pub enum Checkout<L> {
    /// See [`Scheduler::refusal`].
    Refused,
    Link(Box<L>),
    /// Dial one.
    Dial(Reservation),
    /// Wait until one is free.
    Wait,
}

/// What a thread is to do that has waited for longer than it should.
pub enum WhatNext<L> {
    /// Wait on.
    Wait,
    /// Revalidate this link, and drive what is queued over it.
    Lead(Box<L>),
    /// It has joined the batch of this link, and is to send it.
    Visit(Visit<L>),
    /// Give this link, loaded with what is queued, to the reactor.
    Entrust(Box<L>),
    /// Have a link dialled out of band, and wait on: it may be handed a link that comes back meanwhile.
    Dial,
}

/// What is to be done about a call that was taken in.
pub enum Submitted<L> {
    /// It is left to a thread that is likely to come and drive it. The reactor is to look after it, where that is not
    /// begun.
    Deferred(Option<WatchId>),
    /// It is the reactor's, or one's who drives a link already.
    Entrusted(Actions<L>),
    /// Enough has gathered to be sent before the thread comes.
    SendOff(Box<L>),
}

impl<L: Carrier> Scheduler<L> {
    /// A small call of a thread comes and finds no link at hand.
    pub fn admit(&mut self, now: impl Fn() -> Instant) -> Admission {
        if self.refuses() {
            return Admission::Refused;
        }
        if self.is_free()
            && self.idle.is_empty()
            && !(self.distance.is_far() && self.has_enough(&now))
            && let Some(reservation) = self.reserve_own(Usage::Shared, now)
        {
            return Admission::Dial(reservation);
        }
        Admission::Queue
    }

    /// Has a thread's call join the queue; an error of `encode`: it has not.
    pub fn enqueue(
        &mut self,
        waiter: Arc<Waiter<L>>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
        now: impl Fn() -> Instant,
    ) -> Result<Queued<L>> {
        if self.refuses() {
            return Err(self.refusal().into());
        }
        let is_far = self.distance.is_far();
        self.mixture.see_thread();
        let may_lead = self.combines() && self.is_free() && self.has_idle();
        let leads = may_lead && !(is_far && self.has_enough(&now));
        // From far away replies come one by one.
        let is_alone = is_far || self.queue.is_empty();
        let sleeps_on = if is_alone { SleepsOn::Own } else { SleepsOn::Batch };
        let bound = QUEUEING_BOUND * self.contention.delay();
        let bound = bound.max(self.distance.several_round_trips());
        let batch = self.queue.batch();
        let is_measured = is_far && self.distance.is_due();
        let own = Arc::clone(&waiter);
        let ticket = Ticket { waiter: own, sleeps_on, batch, bound, is_far, is_measured };
        self.queue.add(Owner::Thread(Waiting { waiter, sleeps_on }), encode, expect)?;
        let lead = if leads { self.check_out(Usage::Shared) } else { None };
        let mut visit = None;
        if is_far && lead.is_none() {
            self.contention.see(1 + usize::from(self.are_more_than_links()));
            visit = self.visit(now);
        }
        Ok(Queued { ticket, lead, visit })
    }

    /// A queued thread has waited for longer than it should, since `since`: the links in use are slow.
    pub fn queueing_bound_over(
        &mut self,
        waiter: &Arc<Waiter<L>>,
        since: Instant,
        now: impl Fn() -> Instant,
    ) -> WhatNext<L> {
        if self.closed || !self.queue.has(waiter) {
            return WhatNext::Wait;
        }
        self.distance.suspect_far();
        let may_be_held_up = self.distance.is_far()
            && now().saturating_duration_since(since) < self.distance.patience();
        if let Some(visit) = self.visit(&now) {
            return WhatNext::Visit(visit);
        }
        if !may_be_held_up {
            self.begin_epoch(now());
        }
        if self.has_idle()
            && let Some(link) = self.check_out(Usage::Shared)
        {
            return WhatNext::Lead(link);
        }
        let is_first = self.dials == 0 && self.waiting == 0;
        let may_dial = is_first && !(may_be_held_up && self.has_enough(&now));
        if may_dial && self.may_grow(&now) && self.reserve_out_of_band(&now) {
            self.grow(now());
            return WhatNext::Dial;
        }
        self.claim_for_queue().map_or(WhatNext::Wait, WhatNext::Entrust)
    }

    /// Takes a thread's call back that was not sent; `false`: it is not queued any more.
    pub fn withdraw(&mut self, waiter: &Arc<Waiter<L>>) -> bool {
        self.queue.remove(waiter)
    }

    /// Loads what is queued onto a link whose batch is complete, as far as one batch goes. That may be nothing.
    pub fn load(&mut self, link: &mut L) {
        self.queue.load(link.batch_mut());
        self.loads = self.loads.wrapping_add(1);
        if !self.distance.is_far() {
            self.contention.see(link.batch().left());
        }
    }

    /// Adds what is queued to the batch of a link in use, as far as it goes; whether that was anything.
    pub fn top_up(&mut self, link: &mut L) -> bool {
        let before = link.batch().left();
        self.queue.add_to(link.batch_mut());
        let has_grown = link.batch().left() > before;
        self.loads = self.loads.wrapping_add(usize::from(has_grown));
        has_grown
    }

    /// The same, unless others wait for the link.
    pub fn keep_busy(&mut self, link: &mut L) -> bool {
        let may_stay = !self.queue.is_empty() && !self.is_claimed() && !self.is_retired(link);
        may_stay && self.top_up(link)
    }

    /// Whether there is a batch for a link that has completed one, which can stay where it is.
    pub fn may_refill(&self) -> bool {
        !self.queue.is_empty() && !self.is_claimed() && !self.closed
    }

    /// Loads the next batch onto a link that has completed one, if it can stay where it is.
    pub fn refill(&mut self, link: &mut L) -> bool {
        if !self.may_refill() || self.is_retired(link) {
            return false;
        }
        self.load(link);
        !link.batch().is_complete()
    }

    /// Loads the first of the large calls onto a link; `false` if there is none.
    pub(super) fn load_exclusive(&mut self, link: &mut L) -> bool {
        while let Some(mut call) = self.exclusive.pop_front() {
            call.begin_send();
            if !call.is_empty() {
                link.batch_mut().load(&mut call, WakeupSet::default());
                self.loads = self.loads.wrapping_add(1);
                return true;
            }
        }
        false
    }

    /// A call comes that needs a link of its own.
    pub fn check_out_exclusive(&mut self, now: impl Fn() -> Instant) -> Checkout<L> {
        if self.refuses() {
            return Checkout::Refused;
        }
        if let Some(link) = self.check_out(Usage::Exclusive) {
            return Checkout::Link(link);
        }
        match self.reserve_own(Usage::Exclusive, now) {
            Some(reservation) => Checkout::Dial(reservation),
            None => Checkout::Wait,
        }
    }

    /// A thread waits for a link of its own from now on.
    pub fn begin_to_wait(&mut self) {
        self.waiting += 1;
    }

    pub fn end_to_wait(&mut self) {
        self.waiting -= 1;
    }

    /// Takes in a small asynchronous call. `is_enough`: whether so many that are queued are worth sending before the
    /// rest. An error: it is not taken in.
    #[inline(always)]
    pub fn submit(
        &mut self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
        is_enough: impl FnOnce(usize) -> bool,
        now: impl Fn() -> Instant,
    ) -> Result<Submitted<L>> {
        if self.refuses() {
            return Err(self.refusal().into());
        }
        let is_predicted = call.wait_is_predicted();
        let queue = call.reports_to();
        self.mixture.see_call();
        self.queue.forget_completed_now_and_then();
        self.queue.add(Owner::Call(call), encode, expect)?;
        if !is_predicted {
            return Ok(Submitted::Entrusted(self.recruit(now)));
        }
        if self.queue.len() >= FEW && is_enough(self.queue.len()) {
            return Ok(match self.take_link_to_drive(queue, now) {
                Ok(link) => Submitted::SendOff(link),
                Err(actions) => Submitted::Entrusted(actions),
            });
        }
        Ok(Submitted::Deferred(self.deferral.defer()))
    }

    /// Takes in an asynchronous call that needs a link of its own.
    pub fn submit_exclusive(
        &mut self,
        call: Requests<L>,
        now: impl Fn() -> Instant,
    ) -> Result<Actions<L>> {
        if self.refuses() {
            return Err(self.refusal().into());
        }
        if self.exclusive.len() >= self.sweep_exclusive_at.max(FEW_EXCLUSIVE) {
            self.exclusive.retain(Requests::are_wanted);
            self.sweep_exclusive_at = 2 * self.exclusive.len();
        }
        // Also for those that links have, which may be put back.
        let more = 1 + self.count;
        reserve::try_reserve(&mut self.exclusive, more, "memory for another call")?;
        self.exclusive.push_back(call);
        Ok(self.recruit(now))
    }

    /// Takes asynchronous calls back whose link broke, to go over another: each that needs a link of its own waits for
    /// one again. They come back where calls are refused.
    pub fn retry(
        &mut self,
        calls: Requests<L>,
        now: impl Fn() -> Instant,
    ) -> Result<Actions<L>, Requests<L>> {
        if self.refuses() {
            return Err(calls);
        }
        // It was by itself on its link.
        let needs_link = |entry: &Entry<L>| !may_share(entry.expect, entry.len);
        let is_alone = calls.len() == 1 && calls.iter().any(needs_link);
        if is_alone && self.exclusive.try_reserve(1).is_ok() {
            self.exclusive.push_back(calls);
        } else {
            self.queue.append(calls);
        }
        Ok(self.recruit(now))
    }

    /// How long a link may be silent before it is time for another.
    pub fn slow(&self) -> Duration {
        self.distance.slow()
    }

    /// Whether calls that wait behind a slow one may go over another link.
    pub fn may_spread(&self, now: impl Fn() -> Instant) -> bool {
        self.current != Vintage::NONE && (self.has_idle() || self.may_dial_another(now))
    }

    /// Takes a batch back of which nothing was sent; `seat` is that of its link. It comes back where calls are
    /// refused.
    pub fn put_back(
        &mut self,
        batch: Requests<L>,
        wakeups: WakeupSet,
        seat: Seat,
        now: impl Fn() -> Instant,
    ) -> Result<Actions<L>, Requests<L>> {
        if self.refuses() {
            return Err(batch);
        }
        match seat {
            Seat::Exclusive => self.exclusive.push_front(batch),
            Seat::Shared { .. } => self.queue.put_back(batch, wakeups),
        }
        Ok(self.recruit(now))
    }

    /// A link with a batch that nobody drives, for a thread that waits for completions.
    pub fn take_link_to_drive(
        &mut self,
        queue: QueueId,
        now: impl Fn() -> Instant,
    ) -> Result<Box<L>, Actions<L>> {
        if let Some(mut link) = self.take_busy_for_loop(queue) {
            let is_for_it = !self.queue.is_empty() && self.queue.waiters().are_only(queue);
            if is_for_it && !self.holds_up(&link, now()) {
                self.keep_busy(&mut link);
            }
            return Ok(link);
        }
        if let Some(mut link) = self.unpark() {
            if !self.queue.is_empty() && self.holds_up(&link, now()) && self.has_another(&now) {
                // What came later does not stand behind it.
                let drive = vec![link];
                return Err(Actions { drive, ..Actions::default() }.and(self.recruit(now)));
            }
            self.keep_busy(&mut link);
            return Ok(link);
        }
        if self.closed || !self.queue.has_calls() {
            return Err(Actions::default());
        }
        if self.queue_may_take_another() {
            return self.check_out_loaded().ok_or_else(Actions::default);
        }
        Err(self.recruit(now))
    }

    /// Lets go of large calls that nobody wants any more.
    pub fn forget_unwanted(&mut self) {
        self.exclusive.retain(Requests::are_wanted);
    }

    /// The same of small ones, which may be many.
    pub fn forget_completed(&mut self) {
        self.queue.forget_completed();
    }
}
