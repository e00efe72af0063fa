//! Asynchronous calls driven by the thread that waits for their completions: it takes the link that the reactor would
//! be given, and nobody has to be woken. When it has what it waited for, it parks the link as it is, in the middle of a
//! batch perhaps, and finds it again when it comes back. If it does not, the reactor goes on with it.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, poll};

use super::Node;
use super::lease::Lease;
use super::scheduler::Left;
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::drive::{
    Driver, Exchange, NonBlocking, Pause, Sending, Stop, interest,
};
use crate::backend::redis::link::pipeline::Driven;
use crate::backend::redis::net::stream::Stream;
use crate::backend::redis::wire::decode::Inbox;
use crate::backend::redis::wire::replies::Reuse;
use crate::completion::{Engine, QueueId, Wait};
use crate::spin::A_WHILE;
use crate::sys::poll_timeout;

impl Engine for Node {
    fn drive(&self, wait: &dyn Wait) -> bool {
        let taken = self.scheduler().take_link_to_drive(wait.queue(), Instant::now);
        let link = match taken {
            Ok(link) => link,
            Err(actions) => {
                self.perform(actions);
                return false;
            }
        };
        let now = Instant::now();
        let Some(mut link) = self.revalidate_loaded(Lease::of(self, link), now) else {
            return false;
        };
        self.own_core.look();
        if link.batch.sent == 0 {
            link.touch(now);
        }
        self.drive_for(Lease::of(self, link), wait);
        true
    }

    fn step(&self, queue: QueueId, most: &mut usize) -> bool {
        self.step_for_loop(queue, most)
    }

    fn release_queue(&self, queue: QueueId) {
        self.release_loop(queue);
    }

    fn entrust(&self) {
        let actions = self.scheduler().entrust(Instant::now);
        self.perform(actions);
    }

    fn note_timeout(&self, now: Instant) {
        self.calls_timed_out(now);
    }

    fn forget_completed(&self) {
        let mut scheduler = self.scheduler();
        scheduler.forget_unwanted();
        // It is looked through as a whole, so only when there is nothing else in it.
        if self.inflight.count() == 0 {
            scheduler.forget_completed();
        }
    }
}

impl Node {
    /// Sends what was loaded onto a link, as far as that goes, and waits for nothing. `queue`: where the thread is
    /// expected to wait.
    pub fn send_off(&self, link: Box<Link>, queue: QueueId) {
        let now = Instant::now();
        let Some(mut link) = self.revalidate_loaded(Lease::of(self, link), now) else { return };
        if link.batch.sent == 0 {
            link.touch(now);
        }
        link.send_batch();
        self.park(Lease::of(self, link), queue, false);
    }

    /// Drives the batch of a link, and those that come after it, until the wait is over.
    fn drive_for(&self, mut lease: Lease<'_>, wait: &dyn Wait) {
        let mut driver = WaitingThread {
            node: self,
            wait,
            io: NonBlocking::default(),
            has_moved: false,
            slow_at: None,
            is_slow: false,
        };
        loop {
            let Ok(link) = lease.link() else { return };
            let driven = link.drive_batch(self, &mut driver);
            match driven {
                // It is likely to wait again.
                Driven::Paused(Pause::Satisfied) if driver.has_moved => {
                    return self.park(lease, wait.queue(), true);
                }
                Driven::Complete(Reuse::Keep) if link.batch.retries.is_empty() => {
                    lease.deliver();
                    driver.has_moved = true;
                    if !self.refill(&mut lease) {
                        return lease.after(driven, None);
                    }
                }
                // What waits behind the first call goes another way, which is the reactor's business.
                Driven::Paused(_) if driver.is_slow => return lease.after(driven, None),
                Driven::Paused(_) if link.membership.is_some() => {
                    lease.deliver();
                    return self.park(lease, wait.queue(), driver.has_moved);
                }
                driven => return lease.after(driven, None),
            }
        }
    }

    /// Loads the next batch onto a link that has completed one, if it can stay where it is.
    fn refill(&self, lease: &mut Lease<'_>) -> bool {
        let Ok(link) = lease.link() else { return false };
        if link.membership.is_some() {
            // It follows a loop, and what is queued may be others'.
            return false;
        }
        // One over which something has come unasked is given back, and looked at by the next.
        let may = self.scheduler().may_refill() && link.is_sound();
        let is_refilled = may && self.scheduler().refill(link);
        if is_refilled {
            link.touch(Instant::now());
        }
        is_refilled
    }

    /// Leaves a link to the thread that is expected to wait on this queue, or, if others wait for what is on it, to
    /// those.
    fn park(&self, lease: Lease<'_>, queue: QueueId, has_replies: bool) {
        let Some(mut link) = lease.into_link() else { return };
        if has_replies {
            link.heard(Instant::now());
        }
        if link.membership.is_some() {
            // Under TLS more may have come than was taken, of which no socket tells.
            let has_more = link.may_hold_input();
            return self.park_for_loop(link, Left { has_replies, has_more });
        }
        let parked = self.scheduler().park(link, queue);
        match parked {
            Ok(actions) => self.perform(actions),
            Err(link) => Lease::of(self, link).hand_over(None),
        }
    }
}

/// A thread that waits for a completion.
struct WaitingThread<'a> {
    node: &'a Node,
    wait: &'a dyn Wait,
    io: NonBlocking,
    /// Something was completed while it drove.
    has_moved: bool,
    /// When nothing will have come for too long, and calls wait behind the first; and that it is so.
    slow_at: Option<Instant>,
    is_slow: bool,
}

impl Driver for WaitingThread<'_> {
    fn advance<E: Exchange>(
        &mut self,
        stream: &mut Stream,
        inbox: &mut Inbox,
        exchange: &mut E,
        sending: Sending,
    ) -> Result<(), Stop> {
        let pause = match self.io.advance(stream, inbox, exchange, sending) {
            Err(Stop::Paused(pause)) => pause,
            advanced => return advanced,
        };
        self.io = NonBlocking::default();
        if exchange.deliver() {
            self.has_moved = true;
            self.slow_at = None;
        }
        if self.wait.is_over() {
            return Err(Stop::Paused(Pause::Satisfied));
        }
        if self.wait.is_late() {
            return Err(Stop::Paused(Pause::TimedOut));
        }
        if pause == Pause::Yield || self.spin(stream, inbox, exchange, sending)? {
            return Ok(());
        }
        self.sleep(stream, inbox, exchange, sending)
    }
}

impl WaitingThread<'_> {
    /// Whether something came while it spun.
    fn spin<E: Exchange>(
        &self,
        stream: &mut Stream,
        inbox: &mut Inbox,
        exchange: &mut E,
        sending: Sending,
    ) -> Result<bool, Stop> {
        if sending == Sending::Blocked || !stream.is_spin_due() {
            return Ok(false);
        }
        let now = Instant::now();
        let until = self.wait.until().map_or(now + A_WHILE, |until| until.min(now + A_WHILE));
        let room = exchange.room(inbox).map_err(Stop::NoRoom)?;
        Ok(stream.spin(until, room, || self.wait.is_over())?)
    }

    /// Sleeps until there is more to do, or the wait is over, or nobody waits for the batch any more.
    fn sleep<E: Exchange>(
        &mut self,
        stream: &Stream,
        inbox: &Inbox,
        exchange: &E,
        sending: Sending,
    ) -> Result<(), Stop> {
        let now = Instant::now();
        if self.slow_at.is_none() && exchange.waits_behind() {
            self.slow_at = now.checked_add(self.node.scheduler().slow());
        }
        let until = self.wait.until().into_iter().chain(exchange.last_deadline());
        let until = until.chain(self.slow_at).min();
        let left = until.map(|until| until.saturating_duration_since(now));
        if left == Some(Duration::ZERO) {
            self.is_slow = self.slow_at.is_some_and(|at| at <= now);
            return Err(Stop::Paused(Pause::TimedOut));
        }
        let unsent = if stream.has_unsent() { Sending::Blocked } else { sending };
        let events = interest(unsent, inbox);
        self.wait.sleep(&mut |wake| {
            let own = PollFd::new(stream.descriptor(), events);
            let mut fds = [own, PollFd::from_borrowed_fd(wake, rustix::event::PollFlags::IN)];
            // Whatever it returns, there is a look at everything.
            let _ = poll(&mut fds, left.map(poll_timeout).as_ref());
        });
        Ok(())
    }
}
