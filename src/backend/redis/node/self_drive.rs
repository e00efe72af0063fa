//! Asynchronous calls carried out by the thread that waits for their completions: it takes the link that the I/O thread would be
//! given, and nobody has to be woken. When it has what it waited for, it leaves the link as it is, in the middle of a batch
//! perhaps, and finds it again when it comes back. If it does not, the I/O thread goes on with it.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::drive::Driven;
use crate::backend::redis::net::stream::Broken;
use crate::backend::redis::node::lease::Lease;
use crate::backend::redis::node::links::Links;
use crate::backend::redis::node::pool::Pool;
use crate::backend::redis::wire::replies::Replies;
use crate::completion::{Engine, QueueId, Wait};
use crate::spin::A_WHILE;
use crate::sys;

/// Whether a waiting thread shares its processor with others, the server perhaps: then it is of no use to send a part of what
/// it submits before the rest, and costs a system call.
#[derive(Default)]
pub struct Company {
    /// Waits since the last look.
    waits: AtomicU32,
    /// How often others had been given the processor then.
    switches: AtomicU32,
    is_alone: AtomicBool,
}

/// A look in so many waits.
const LOOK: u32 = 32;
/// So many times in as many waits are by chance.
const CHANCE: u32 = LOOK / 4;

impl Company {
    pub fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Relaxed)
    }

    /// Called by the thread that waits.
    fn look(&self) {
        let waits = self.waits.load(Ordering::Relaxed);
        self.waits.store(waits.wrapping_add(1), Ordering::Relaxed);
        if waits.is_multiple_of(LOOK) {
            let now = sys::involuntary_switches();
            let before = self.switches.swap(now, Ordering::Relaxed);
            self.is_alone.store(now.wrapping_sub(before) <= CHANCE, Ordering::Relaxed);
        }
    }
}

impl Engine for Links {
    fn drive(&self, wait: &dyn Wait) -> bool {
        let now = Instant::now();
        let link = self.link_to_steer(self.pool()).and_then(|link| self.begin(link, now));
        let Some(link) = link else { return false };
        self.company.look();
        let begins = link.batch.sent == 0;
        self.steer(Lease::of(self, link), begins.then_some(now), wait);
        true
    }

    fn entrust(&self) {
        self.recruit(self.pool());
    }

    fn forget_completed(&self) {
        self.pool().queue.forget_completed();
    }
}

impl Links {
    /// Sends what is queued, as far as that goes, and waits for nothing. `queue`: where the thread is expected to wait.
    pub fn send_off(&self, pool: MutexGuard<'_, Pool>, queue: QueueId) {
        let now = Instant::now();
        let link = self.link_to_steer(pool).and_then(|link| self.begin(link, now));
        if let Some(link) = link {
            let mut lease = Lease::of(self, link);
            if let Some(link) = lease.link.as_deref_mut() {
                link.send_off(now);
            }
            self.let_go(lease, Some(queue));
        }
    }

    /// A link with a batch that nobody carries out.
    fn link_to_steer(&self, mut pool: MutexGuard<'_, Pool>) -> Option<Box<Link>> {
        if let Some(mut link) = pool.parked.take() {
            drop(pool);
            self.keep_busy(&mut link);
            return Some(link);
        }
        if pool.queue.is_empty() || pool.closed {
            return None;
        }
        if pool.in_use < pool.lanes_for_calls()
            && pool.has_idle()
            && let Some(mut link) = pool.idle.pop()
        {
            pool.load_queued(&mut link);
            if link.batch.entries.is_empty() {
                pool.idle.push(link);
                return None;
            }
            pool.in_use += 1;
            link.turn.round = pool.round;
            return Some(link);
        }
        self.recruit(pool);
        None
    }

    /// Carries out the batch of a link, and those that come after it, until the wait is over.
    fn steer(&self, mut lease: Lease<'_>, mut begun: Option<Instant>, wait: &dyn Wait) {
        let mut has_moved = false;
        loop {
            let Some(link) = lease.link.as_deref_mut() else { return };
            let uncompleted = link.batch.entries.len();
            let driven = link.step(begun.take());
            if link.batch.entries.len() < uncompleted {
                has_moved = true;
                self.bells.ring(link.batch.bells);
                link.batch.uncompleted.delivery.deliver();
            }
            match driven {
                Driven::More | Driven::Unfinished if wait.is_over() => {
                    return self.let_go(lease, has_moved.then_some(wait.queue()));
                }
                Driven::More | Driven::Unfinished if wait.is_late() => {
                    return self.let_go(lease, None);
                }
                Driven::More => {}
                Driven::Unfinished => match link.await_more(wait) {
                    Ok(true) => {}
                    Ok(false) => return self.let_go(lease, None),
                    Err(broken) => {
                        let driven = link.driven(Err(broken));
                        return lease.after(driven, None);
                    }
                },
                Driven::Sound if self.load_next(link) => begun = Some(Instant::now()),
                driven => return lease.after(driven, None),
            }
        }
    }

    /// Gives a link that has done its batch the next, if it can stay where it is.
    fn load_next(&self, link: &mut Link) -> bool {
        if !link.batch.uncompleted.again.is_empty() {
            return false;
        }
        let mut pool = self.pool();
        if pool.queue.is_empty() || pool.is_claimed() || pool.closed {
            return false;
        }
        pool.load_queued(link);
        !link.batch.entries.is_empty()
    }

    /// Gives a link in the middle of a batch what was queued meanwhile, unless others wait for it; whether that was anything.
    pub fn keep_busy(&self, link: &mut Link) -> bool {
        let mut pool = self.pool();
        !pool.queue.is_empty() && !pool.is_claimed() && !pool.closed && pool.top_up(link)
    }

    /// The thread has what it waited for, or its time is up. `queue`: where it is likely to wait again, and go on with the link, if
    /// nobody waits elsewhere for what that is about.
    fn let_go(&self, mut lease: Lease<'_>, queue: Option<QueueId>) {
        if let (Some(queue), Some(link)) = (queue, lease.link.as_deref())
            && link.batch.audience.is_only(queue)
        {
            let mut pool = self.pool();
            let is_wanted = pool.is_claimed() || !pool.queue.is_only(queue);
            if !pool.closed && !is_wanted && pool.parked.is_none() {
                pool.parked = lease.link.take().map(Link::untimed);
                // It is counted there from here on.
                std::mem::forget(lease);
                return self.defer(pool);
            }
        }
        lease.hand_over(None, true);
    }
}

impl Link {
    fn send_off(&mut self, now: Instant) {
        if self.batch.sent == 0 {
            self.touch(now);
        }
        let mut sent = self.batch.sent;
        // If the link is broken, whoever goes on with it will see.
        let _ = self.stream.write(&self.outbox, &[], &mut sent);
        self.batch.sent = sent;
    }

    /// Waits until there is more to do, or the wait is over: `false`, when its time is up, or nobody waits for the batch any more.
    fn await_more(&mut self, wait: &dyn Wait) -> Result<bool, Broken> {
        Ok(self.spin_for(wait)? || self.sleep_for(wait))
    }

    /// Whether something came while it spun.
    fn spin_for(&mut self, wait: &dyn Wait) -> Result<bool, Broken> {
        if self.has_unsent() || !self.stream.is_spin_due() {
            return Ok(false);
        }
        let now = Instant::now();
        let until = wait.until().map_or(now + A_WHILE, |until| until.min(now + A_WHILE));
        let Some(pending) = self.batch.pending() else { return Ok(true) };
        let Ok(room) = pending.room(&mut self.inbox) else { return Ok(true) };
        self.stream.spin(until, room, || wait.is_over())
    }

    fn sleep_for(&mut self, wait: &dyn Wait) -> bool {
        let until = wait.until().into_iter().chain(self.batch.last_deadline()).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let (descriptor, events) = self.waits_for();
        wait.sleep(&mut |wake| {
            let mut fds = [PollFd::new(descriptor, events), PollFd::new(&wake, PollFlags::IN)];
            // Whatever it returns, there is a look at everything.
            let _ = poll(&mut fds, timeout.as_ref());
        });
        left != Some(Duration::ZERO)
    }
}
