//! Asynchronous calls of event loops, driven by the loop's own thread: it polls the descriptor of its queue, which
//! holds the socket of a link of its own, and comes when there is something to do. What it leaves lying the reactor
//! goes on with (`watch.rs`).

use std::sync::Arc;
use std::time::Instant;

use super::Node;
use super::lease::Lease;
use super::scheduler::{ForLoop, ForStep, Left, Lookout, Parked, Suspect};
use super::watch::LoopWatch;
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::drive::{NonBlocking, Pause};
use crate::backend::redis::link::pipeline::Driven;
use crate::backend::redis::wire::replies::{Expect, Reuse};
use crate::completion::{Promise, QueueHold, QueueId};
use crate::error::Result;

impl Node {
    /// Takes in a small call of a queue that is polled: it is sent at once where nothing is under way. An error: it is
    /// not taken in.
    pub fn submit_for_loop(
        &self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        let mut scheduler = self.scheduler();
        let submitted = scheduler.submit_for_loop(call, encode, expect, Instant::now)?;
        let lookout = scheduler.watch_loops();
        drop(scheduler);
        if lookout != Lookout::Looks {
            self.watch_loops(lookout);
        }
        match submitted {
            ForLoop::Send(link) => self.send_for_loop(link),
            ForLoop::Gathered(None) => {}
            ForLoop::Gathered(Some(membership)) => membership.descriptor().has_output(),
            ForLoop::Attach(link, queue) => self.attach(link, &queue),
            ForLoop::Silent(suspect) => self.hold_for_loop(&suspect),
            ForLoop::Entrusted(actions) => self.perform(actions),
        }
        Ok(())
    }

    /// Has the reactor look at the loops. `before`: what it did so far.
    #[cold]
    fn watch_loops(&self, before: Lookout) {
        match self.reactor.get() {
            Some(reactor) if before == Lookout::Nobody => {
                reactor.post(Box::new(LoopWatch::new(self.me.clone(), &self.loop_alarm)));
            }
            Some(reactor) => {
                self.loop_alarm.ring();
                reactor.rouse();
            }
            None => self.scheduler().end_to_watch_loops(),
        }
    }

    /// Gives a loop a link, whose batch is sent. Where the queue's descriptor cannot have it, the reactor drives it.
    #[cold]
    pub fn attach(&self, mut link: Box<Link>, queue: &QueueHold) {
        if link.join(queue)
            && let Some(membership) = &link.membership
        {
            if self.scheduler().attached(membership) {
                return self.send_for_loop(link);
            }
            // Its loop has gone on without it meanwhile.
            return self.to_reactor(link);
        }
        let actions = self.scheduler().not_attached(queue.id(), Instant::now);
        self.perform(actions);
        self.to_reactor(link);
    }

    /// Sends what is loaded onto a loop's link, as far as that goes, and parks it.
    fn send_for_loop(&self, link: Box<Link>) {
        self.send_and_park(link, Left::default());
    }

    fn send_and_park(&self, link: Box<Link>, left: Left) {
        let now = Instant::now();
        let Some(mut link) = self.revalidate_loaded(Lease::of(self, link), now) else { return };
        if link.batch.sent == 0 {
            link.touch(now);
        }
        link.send_batch();
        self.park_for_loop(link, left);
    }

    /// Calls are held behind a link over which nothing has come for long. Unless something has that nobody has looked
    /// at yet, the loop gets another.
    #[cold]
    pub fn hold_for_loop(&self, silent: &Suspect) {
        if !silent.is_ready() {
            let actions = self.scheduler().replace_silent(silent, Instant::now);
            self.perform(actions);
        }
    }

    /// Parks a loop's link.
    pub fn park_for_loop(&self, link: Box<Link>, left: Left) {
        if let Some(membership) = &link.membership {
            membership.wait_for(link.interest().1);
        }
        let parked = self.scheduler().park_for_loop(link, left, Instant::now);
        match parked {
            Parked::More(link) => self.send_and_park(link, Left { has_replies: false, ..left }),
            Parked::Parked { has_output, unmute } => {
                if let Some((membership, turn)) = unmute {
                    membership.unmute(turn);
                }
                if let Some(membership) = has_output {
                    membership.descriptor().has_output();
                }
            }
            Parked::Refused(link) => {
                let lease = Lease::of(self, link);
                if self.is_closed() {
                    return drop(lease);
                }
                lease.pass_on();
            }
        }
    }

    /// Sees to what there is to do for a queue, and waits for nothing; whether there is more.
    pub fn step_for_loop(&self, queue: QueueId, most: &mut usize) -> bool {
        let mut scheduler = self.scheduler();
        let found = scheduler.take_for_loop(queue);
        // A thread was expected to wait, and polls.
        let is_deferred = scheduler.is_deferred_to(queue);
        drop(scheduler);
        let has_more = match found {
            ForStep::Nothing => false,
            ForStep::Mute(membership, turn) => {
                membership.mute(turn);
                false
            }
            ForStep::Link(link) => self.step_over(link, most),
        };
        if is_deferred {
            let actions = self.scheduler().entrust(Instant::now);
            self.perform(actions);
        }
        has_more
    }

    fn step_over(&self, mut link: Box<Link>, most: &mut usize) -> bool {
        if link.batch.is_complete() {
            // It is idle, and has been closed, perhaps.
            match link.is_sound() {
                true => self.park_for_loop(link, Left::default()),
                false => drop(Lease::of(self, link)),
            }
            return false;
        }
        if link.batch.sent == 0 {
            // Nothing was under way, so the link may be gone.
            let now = Instant::now();
            match self.revalidate_loaded(Lease::of(self, link), now) {
                Some(sound) => link = sound,
                None => return false,
            }
            link.touch(now);
        }
        let mut lease = Lease::of(self, link);
        let Ok(link) = lease.link() else { return false };
        let left = link.batch.left();
        let mut io = NonBlocking::reading(*most);
        let driven = link.drive_batch(self, &mut io);
        *most = io.left();
        let has_replies = link.batch.left() < left;
        let has_more = driven == Driven::Paused(Pause::Yield);
        let stays = match driven {
            Driven::Paused(_) => true,
            Driven::Complete(reuse) => reuse == Reuse::Keep && link.batch.retries.is_empty(),
        };
        if !stays {
            lease.after(driven, None);
            return false;
        }
        lease.deliver();
        if let Some(mut link) = lease.into_link() {
            if link.batch.is_complete() {
                self.count_use(&mut link);
                // It has just been heard from.
                link.touch(Instant::now());
            } else if has_replies {
                link.heard(Instant::now());
            }
            self.park_for_loop(link, Left { has_replies, has_more });
        }
        has_more
    }

    /// A queue is closed.
    pub fn release_loop(&self, queue: QueueId) {
        let link = self.scheduler().release_loop(queue);
        if let Some(link) = link {
            Lease::of(self, link).pass_on();
        }
    }

    /// A link goes to somebody else than the loop that it has followed, if it has.
    pub fn leave_loop(&self, link: &mut Link) {
        if let Some(membership) = link.membership.as_ref().map(Arc::clone) {
            link.leave_descriptor();
            let actions = self.scheduler().left_loop(&membership, Instant::now);
            self.perform(actions);
        }
    }
}
