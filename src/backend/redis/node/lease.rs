//! A link in the hands of a call, and to whom it goes afterwards.

use std::mem;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::Node;
use super::scheduler::Scheduler;
use crate::backend::redis::link::call::Start;
use crate::backend::redis::link::connection::{Link, Seat};
use crate::backend::redis::link::outcome::{Exchanged, Vintage};
use crate::backend::redis::link::pipeline::Driven;
use crate::backend::redis::link::requests::Requests;
use crate::backend::redis::link::waiter::{SleepsOn, Waiter, Waiting};
use crate::backend::redis::wire::replies::Reuse;
use crate::error::{Error, Kind, Result};

/// One in so many calls over a link is measured, and each of the first ones.
const MEASURED: u32 = 16;
const FIRST: u32 = 5;

/// A link in the hands of a call. Unless it is given back or handed over it is closed.
pub struct Lease<'a> {
    node: &'a Node,
    link: Option<Box<Link>>,
    pub start: Start,
}

impl<'a> Lease<'a> {
    /// Of a link that was had at once.
    #[inline(always)]
    pub fn new(node: &'a Node, link: Box<Link>) -> Self {
        Self { node, link: Some(link), start: Start::AtOnce }
    }

    /// Of one that was waited for, or handed over.
    pub fn of(node: &'a Node, link: Box<Link>) -> Self {
        Self { node, link: Some(link), start: Start::AfterWait }
    }

    pub fn link(&mut self) -> Result<&mut Link> {
        self.link
            .as_deref_mut()
            .ok_or_else(|| Kind::Internal("a lease without a link".into()).into())
    }

    /// Takes the link out, which counts as before.
    pub fn into_link(mut self) -> Option<Box<Link>> {
        self.link.take()
    }

    /// Gives the link back, unless the call was its last.
    #[inline]
    pub fn end<T>(self, exchanged: Exchanged<T>) -> Exchanged<T> {
        match &exchanged {
            Exchanged::Answered { reuse: Reuse::Keep, .. } => self.give_back(),
            Exchanged::Failed(failure) if failure.refused.is_some() && !failure.lost => {
                self.give_back();
            }
            _ => {}
        }
        exchanged
    }

    /// The call is done, and the link may serve the next: the first in the queue, with all that is queued, or whoever
    /// comes.
    #[inline(always)]
    pub fn give_back(mut self) {
        if let Some(link) = self.link.take() {
            self.node.take_back(link);
        }
    }

    /// The same, of a lease that lies where it is.
    #[inline(always)]
    pub fn give_back_at_once(&mut self) {
        if let Some(link) = self.link.take() {
            self.node.take_back(link);
        }
    }

    /// Hands the link to a thread that waits in its batch; where none does, to the reactor. `but`: a thread that
    /// cannot.
    pub fn hand_over(mut self, but: Option<&Arc<Waiter<Link>>>) {
        let Some(link) = self.offer_to_waiter(but) else { return };
        if link.batch.has_calls() {
            return self.node.to_reactor(link);
        }
        self.give_up(link);
    }

    /// Gives the link back if nothing is under way over it, and hands it over otherwise.
    pub fn pass_on(self) {
        match self.link.as_deref().is_some_and(|link| link.batch.is_complete()) {
            true => self.give_back(),
            false => self.hand_over(None),
        }
    }

    /// Hands the link to a thread of its batch that has come for it, or, if it has gone, to another.
    pub fn hand_over_to(mut self, driver: &Arc<Waiter<Link>>) {
        let Some(link) = self.link.take() else { return };
        let waiting = link.batch.find(driver).cloned();
        match driver.hand_over(link) {
            Ok(()) => waiting.iter().for_each(|waiting| self.node.wake(waiting)),
            Err(link) => {
                self.link = Some(link);
                self.hand_over(None);
            }
        }
    }

    /// Hands the link to a thread that waits in its batch; where none does, nobody wants the rest, and it is closed.
    pub fn hand_over_or_close(mut self) {
        if let Some(link) = self.offer_to_waiter(None) {
            self.give_up(link);
        }
    }

    /// The link comes back if no thread takes it.
    fn offer_to_waiter(&mut self, but: Option<&Arc<Waiter<Link>>>) -> Option<Box<Link>> {
        let mut link = self.link.take()?;
        self.node.leave_loop(&mut link);
        while let Some(next) = link.batch.next_driver(but) {
            match next.waiter.hand_over(link) {
                Ok(()) => {
                    self.node.wake(&next);
                    return None;
                }
                Err(back) => link = back,
            }
        }
        Some(link)
    }

    fn give_up(&mut self, mut link: Box<Link>) {
        if link.batch.has_calls() {
            self.node.calls_timed_out(Instant::now());
        }
        link.give_up_batch();
        self.link = Some(link);
    }

    /// Hands out what has become of a batch so far.
    pub fn deliver(&mut self) {
        if let Some(link) = self.link.as_deref_mut() {
            self.node.deliver(link);
        }
    }

    /// Deals with what has come of a batch. `but`: the thread that drove it.
    pub fn after(mut self, driven: Driven, but: Option<&Arc<Waiter<Link>>>) {
        let node = self.node;
        let Some(link) = self.link.as_deref_mut() else { return };
        let wakeups = link.batch.wakeups;
        link.batch.completed.deliver();
        let retries = Retries::take(link);
        match driven {
            Driven::Complete(Reuse::Keep) => self.give_back(),
            Driven::Complete(Reuse::Close) => drop(self),
            Driven::Paused(_) => self.hand_over(but),
        }
        node.wakeups.wake(wakeups);
        node.retry(retries);
    }
}

/// Asynchronous calls of a link's batch that may go over another, and why.
struct Retries {
    calls: Requests<Link>,
    turned_away: Option<Error>,
    /// Some of them were refused by a server that takes no writes.
    refusal: Option<Error>,
    vintage: Vintage,
}

impl Retries {
    fn take(link: &mut Link) -> Self {
        Self {
            calls: mem::take(&mut link.batch.retries),
            turned_away: link.turned_away().map(|error| error.again()),
            refusal: link.batch.refusal.take(),
            vintage: link.vintage,
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.node.close_link(link);
            // Others may have ended with it.
            self.node.look_at_unused();
        }
    }
}

/// A link's place among those of its node. Dropped, it is another's: at the end, for the socket is closed before
/// another may be dialled in its place, and also after a panic.
struct Place<'a> {
    node: &'a Node,
    seat: Seat,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let actions = self.node.scheduler().lost(self.seat, Instant::now);
        self.node.perform(actions);
    }
}

impl Node {
    /// Wakes a thread that was handed a link.
    fn wake(&self, waiting: &Waiting<Link>) {
        match waiting.sleeps_on {
            SleepsOn::Own => waiting.waiter.wakeup.wake(),
            SleepsOn::Batch => self.wakeups.wake_all(),
        }
    }

    /// Takes a link back that a call is done with.
    #[inline(never)]
    fn take_back(&self, mut link: Box<Link>) {
        if link.membership.is_some() {
            self.leave_loop(&mut link);
        }
        self.count_use(&mut link);
        if link.is_outdated {
            link.is_outdated = false;
            self.retire_links(link.vintage);
        }
        let spins = link.spins();
        let mut scheduler = self.scheduler();
        if let Err(link) = scheduler.give_back(link, spins) {
            self.assign(scheduler, link);
        }
    }

    #[inline(always)]
    pub fn count_use(&self, link: &mut Link) {
        let uses = link.count_use();
        if uses.is_multiple_of(MEASURED) || uses <= FIRST {
            self.measure(link);
        }
    }

    #[cold]
    #[inline(never)]
    fn assign(&self, mut scheduler: MutexGuard<'_, Scheduler<Link>>, link: Box<Link>) {
        let was_calmed = scheduler.calm(&link, Instant::now());
        if scheduler.is_retired(&link) && !scheduler.is_closed() {
            drop(scheduler);
            return drop(Lease::of(self, link));
        }
        let mut actions = scheduler.assign(link);
        if was_calmed {
            actions = actions.and(scheduler.go_on(Instant::now));
        }
        drop(scheduler);
        if was_calmed {
            self.calmed();
        }
        self.perform(actions);
    }

    /// Hands out what has become of a batch so far, also to those of its calls that go over another link.
    pub fn deliver(&self, link: &mut Link) {
        link.batch.completed.deliver();
        self.wakeups.wake(link.batch.wakeups);
        if !link.batch.retries.is_empty() {
            self.retry(Retries::take(link));
        }
    }

    #[cold]
    fn close_link(&self, mut link: Box<Link>) {
        self.leave_loop(&mut link);
        if link.is_outdated {
            self.retire_links(link.vintage);
        }
        let _place = Place { node: self, seat: link.seat };
        if link.turned_away().is_some() {
            self.scheduler().turned_away(Instant::now());
        }
        let wakeups = link.batch.wakeups;
        // Nothing is left in it, unless there was a panic in the middle.
        if !link.batch.is_complete() {
            link.shut_down();
        }
        link.batch.fail(|| Kind::Internal("the call of another thread failed".into()).into());
        drop(link);
        self.wakeups.wake(wakeups);
    }

    /// Asynchronous calls whose link broke, or that were refused, go over another.
    fn retry(&self, retries: Retries) {
        let Retries { mut calls, turned_away, refusal, vintage } = retries;
        if let Some(error) = refusal.filter(|_| !self.retire_links(vintage)) {
            calls.fail_those(|entry| entry.attempts.was_refused(), &error);
        }
        if calls.is_empty() {
            return;
        }
        if let Some(error) = turned_away.filter(|_| !self.may_retry_after(true)) {
            return self.fail_unsent(vec![calls], &error);
        }
        self.resend(calls);
    }

    /// Asynchronous calls whose link broke, or is slow, go over another.
    pub fn resend(&self, calls: Requests<Link>) {
        let retried = self.scheduler().retry(calls, Instant::now);
        match retried {
            Ok(actions) => self.perform(actions),
            Err(calls) => {
                let refusal = self.refusal().unwrap_or(Kind::Closed);
                self.fail_unsent(vec![calls], &refusal.into());
            }
        }
    }
}
