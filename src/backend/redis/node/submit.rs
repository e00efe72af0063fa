//! Asynchronous calls: they join the queue that threads queue in, or, if they are large, wait for a link of their own.
//!
//! Nothing here waits for the network. Where an idle link is there it goes to the reactor with all that is queued;
//! where none is, one is dialled out of band, and given to the queue like any other link that becomes free. Calls of a
//! thread that is likely to wait for them next are left in the queue for it (`self_drive.rs`).

use std::sync::Arc;
use std::time::Instant;

use super::Node;
use super::dialing::DIALLERS;
use super::lease::Lease;
use super::revalidate::{Check, Revalidate, answers_in_time};
use super::scheduler::Submitted;
use super::watch::Deadlines;
use crate::backend::redis::link::connection::{Link, Seat};
use crate::backend::redis::link::requests::{Owner, Requests};
use crate::backend::redis::wire::replies::Expect;
use crate::completion::Promise;
use crate::deadline::Deadline;
use crate::error::{Kind, Result};

impl Node {
    /// Takes in a small call, whose request `encode` writes. An error: it is not taken in.
    #[inline(always)]
    pub fn submit_shared(
        &self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        self.watch_deadlines()?;
        if call.is_polled_for() {
            return self.submit_for_loop(call, encode, expect);
        }
        let queue = call.reports_to();
        let is_enough = |queued| self.own_core.is_likely() && 4 * queued >= self.inflight.count();
        let mut scheduler = self.scheduler();
        let submitted = scheduler.submit(call, encode, expect, is_enough, Instant::now)?;
        drop(scheduler);
        match submitted {
            Submitted::Deferred(None) => {}
            Submitted::Deferred(Some(watch)) => self.begin_watch(watch),
            Submitted::Entrusted(actions) => self.perform(actions),
            Submitted::SendOff(link) => self.send_off(link, queue),
        }
        Ok(())
    }

    /// Takes in a call that gets a link of its own.
    pub fn submit_exclusive(
        &self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        self.watch_deadlines()?;
        // Encoded without the lock, for it may take its time.
        let mut requests = Requests::default();
        requests.add(Owner::Call(call), encode, expect)?;
        let actions = self.scheduler().submit_exclusive(requests, Instant::now)?;
        self.perform(actions);
        Ok(())
    }

    /// Has the reactor see to the deadlines of asynchronous calls.
    #[inline(always)]
    pub fn watch_deadlines(&self) -> Result<()> {
        match self.inflight.is_watching_deadlines() && self.reactor.get().is_some() {
            true => Ok(()),
            false => self.begin_to_watch_deadlines(),
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_to_watch_deadlines(&self) -> Result<()> {
        let reactor = self.reactor()?;
        if !self.inflight.is_watching_deadlines() && self.inflight.begin_watching_deadlines() {
            reactor.post(Box::new(Deadlines::new(&self.inflight)));
        }
        self.watch_unused(reactor);
        Ok(())
    }

    /// Looks at a link before its batch is begun; it comes back if it may be used. Otherwise the batch is back in the
    /// queue, or the link is being asked whether it is there.
    pub fn revalidate_loaded(&self, mut lease: Lease<'_>, now: Instant) -> Option<Box<Link>> {
        let link = lease.link().ok()?;
        if link.batch.sent > 0 {
            // A thread has begun it, and left.
            return lease.into_link();
        }
        let has_lost_link = link.batch.entries().any(|entry| entry.attempts.has_lost_link());
        let which = if has_lost_link { Revalidate::All } else { Revalidate::Idle };
        match self.check_before_use(link, now, which) {
            Check::Nothing => return lease.into_link(),
            Check::Look | Check::Ask if !link.is_sound() => {
                lease.into_link().into_iter().for_each(|link| self.put_back_batch(link));
                return None;
            }
            Check::Look => return lease.into_link(),
            Check::Ask => {}
        }
        let node = self.me.upgrade()?;
        let mut asked = Asked { node, link: lease.into_link(), has_begun: false };
        let _ = DIALLERS.run(move || asked.ask());
        None
    }

    /// Closes a link and puts its batch back, of which nothing was sent.
    fn put_back_batch(&self, mut link: Box<Link>) {
        let (wakeups, seat) = (link.batch.wakeups, link.seat);
        let batch = link.batch.unload();
        batch.mark_unsent();
        drop(Lease::of(self, link));
        let put_back = self.scheduler().put_back(batch, wakeups, seat, Instant::now);
        match put_back {
            Ok(actions) => self.perform(actions),
            Err(batch) => {
                let refusal = self.refusal().unwrap_or(Kind::Closed);
                self.fail_unsent(vec![batch], &refusal.into());
            }
        }
    }
}

/// A link with a batch that is asked whether it is there, in no call's hands. Dropped, it is closed, and its batch goes
/// over another. Where no thread can be had to ask it, it is used as it is: another could not be dialled either.
struct Asked {
    node: Arc<Node>,
    link: Option<Box<Link>>,
    has_begun: bool,
}

impl Asked {
    fn ask(&mut self) {
        self.has_begun = true;
        let Some(link) = self.link.as_deref_mut() else { return };
        let deadline = Deadline::after(self.node.timeout);
        let wakeups = link.batch.wakeups;
        let mut batch = link.batch.unload();
        batch.mark_unsent();
        let answers = answers_in_time(link, &deadline);
        batch.begin_send();
        link.batch.load(&mut batch, wakeups);
        if answers {
            link.touch(Instant::now());
            if let Some(link) = self.link.take() {
                self.node.to_reactor(link);
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        if self.has_begun {
            return self.node.put_back_batch(link);
        }
        link.touch(Instant::now());
        self.node.to_reactor(link);
    }
}

/// Whether a link may have been topped up: those that one call has to itself are not.
pub fn is_shared(link: &Link) -> bool {
    matches!(link.seat, Seat::Shared { .. })
}
