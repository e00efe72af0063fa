//! One server: its endpoint, its links, the scheduler that says which call goes over which of them, and who drives it.
//!
//! The scheduler is a value under the node's lock ([`Node::scheduler`]). Its node tells it what has happened, lets go
//! of the lock, and does what it said ([`Node::perform`]). Nothing else is locked under that lock but by the system's
//! allocator.
//!
//! Who drives a link: a calling thread for its own call (`call`), or for all that is queued (`combine`), and, where the
//! server is far away, for all that comes while it sleeps (`dock`); a thread in a completion queue's wait
//! (`self_drive`); or the reactor (`job`). Whoever has a link holds it as a [`Lease`](lease::Lease), or hands it over:
//! to a waiter, to the reactor, or to the scheduler, which may park it.
//!
//! A server that is silent is asked afresh, by no call (`probe`).

pub mod call;
pub mod combine;
pub mod dialing;
mod dock;
mod idle;
mod job;
pub mod lease;
mod loops;
mod own_core;
mod probe;
mod revalidate;
pub mod scheduler;
pub mod self_drive;
pub mod submit;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::{ConnectionAddr, ConnectionInfo};

use self::idle::Looks;
use self::own_core::OwnCore;
use self::scheduler::{Actions, Carrier, Remains, Scheduler, WatchId};
use self::watch::Alarm;
use super::link::batch::Batch;
use super::link::connection::{Link, Seat};
use super::link::outcome::{Attempts, Failure, Vintage};
use super::link::pipeline::Supervisor;
use super::link::requests::{Owner, Requests};
use super::link::wakeup::Wakeups;
use super::net::dial::Dialer;
use super::net::socket::CutOff;
use super::wire::handshake::Handshake;
use crate::completion::{Delivery, Engine, Inflight, Membership};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::Access;
use crate::reactor::Reactor;

/// Where a server is to be found.
pub trait Endpoint: Send + Sync {
    /// The server's address now. Asked at each dial; may wait until the deadline.
    fn address(&self, deadline: &Deadline) -> Result<ConnectionAddr>;
}

pub struct Node {
    me: Weak<Node>,
    /// The asynchronous calls of the cache, over all its nodes.
    inflight: Arc<Inflight>,
    endpoint: Box<dyn Endpoint>,
    dialer: Dialer,
    handshake: Handshake,
    /// The deadline of a call.
    timeout: Duration,
    connect_timeout: Duration,
    health_check: Option<Duration>,
    spin: Duration,
    fail_fast: bool,
    scheduler: Mutex<Scheduler<Link>>,
    /// Threads that wait for a link of their own.
    freed: Condvar,
    wakeups: Wakeups,
    own_core: OwnCore,
    /// Wakes who looks after event loops.
    loop_alarm: Arc<Alarm>,
    looks: Looks,
    /// Set by the first asynchronous call.
    reactor: OnceLock<Arc<Reactor>>,
    /// To end the calls that wait on a link when the cache is closed.
    cut_offs: Mutex<Vec<CutOff>>,
}

impl Carrier for Link {
    fn batch(&self) -> &Batch<Self> {
        &self.batch
    }

    fn batch_mut(&mut self) -> &mut Batch<Self> {
        &mut self.batch
    }

    fn seat_mut(&mut self) -> &mut Seat {
        &mut self.seat
    }

    fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    #[inline(always)]
    fn vintage(&self) -> Vintage {
        self.vintage
    }

    fn last_used(&self) -> Instant {
        Link::last_used(self)
    }
}

impl Supervisor for Node {
    fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    fn retire(&self, vintage: Vintage) {
        self.retire_links(vintage);
    }
}

impl Node {
    pub fn new(
        config: &Config,
        info: &ConnectionInfo,
        endpoint: Box<dyn Endpoint>,
        inflight: Arc<Inflight>,
    ) -> Arc<Self> {
        let scheduler = Scheduler::new(config.max_connections, !config.spin.is_zero());
        let node = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            inflight,
            endpoint,
            dialer: Dialer::new(config),
            handshake: Handshake::new(info.redis_settings(), config.client_name.as_deref()),
            timeout: config.timeout,
            connect_timeout: config.connect_timeout,
            health_check: config.health_check_interval,
            spin: config.spin,
            fail_fast: config.fail_fast,
            scheduler: Mutex::new(scheduler),
            freed: Condvar::new(),
            wakeups: Wakeups::default(),
            own_core: OwnCore::default(),
            loop_alarm: Arc::default(),
            looks: Looks::default(),
            reactor: OnceLock::new(),
            cut_offs: Mutex::default(),
        });
        let engine: Weak<dyn Engine> = node.me.clone();
        node.inflight.add_engine(engine);
        node
    }

    #[inline(always)]
    fn scheduler(&self) -> MutexGuard<'_, Scheduler<Link>> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut_offs(&self) -> MutexGuard<'_, Vec<CutOff>> {
        self.cut_offs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_closed(&self) -> bool {
        self.scheduler().is_closed()
    }

    /// Why calls are refused, if they are.
    fn refusal(&self) -> Option<Kind> {
        let scheduler = self.scheduler();
        scheduler.refuses().then(|| scheduler.refusal())
    }

    /// Whether there is any link.
    fn has_links(&self) -> bool {
        self.scheduler().links() > 0
    }

    /// Whether a synchronous call that failed goes over another link. Of asynchronous ones the batch asks
    /// [`Attempts`] itself, and `Lease::after` whether they may.
    fn may_retry(&self, failure: &Failure, attempts: &mut Attempts, access: Access) -> bool {
        attempts.allow_another(failure, access)
            && self.may_retry_after(failure.is_turned_away())
            && failure.refused.is_none_or(|vintage| self.retire_links(vintage))
    }

    /// Where the server had no room for a link, a call goes over one that is there, and is not dialled for again.
    fn may_retry_after(&self, was_turned_away: bool) -> bool {
        !was_turned_away || self.has_links()
    }

    /// Does what the scheduler said. Its lock is not held.
    fn perform(&self, actions: Actions<Link>) {
        let Actions { hand_over, drive, attach, visit, dial, wake_one, watch, close } = actions;
        drive.into_iter().for_each(|link| self.to_reactor(link));
        if let Some(visit) = visit {
            self.visit(visit);
        }
        for _ in 0..dial {
            self.dial_out_of_band();
        }
        drop(close);
        if let Some((link, queue)) = attach {
            self.attach(link, &queue);
        }
        if let Some(link) = hand_over {
            lease::Lease::of(self, link).hand_over(None);
        }
        if wake_one {
            self.freed.notify_one();
        }
        if let Some(watch) = watch {
            self.begin_watch(watch);
        }
    }

    /// The reactor, which is started if need be.
    fn reactor(&self) -> Result<&Arc<Reactor>> {
        if let Some(reactor) = self.reactor.get() {
            return Ok(reactor);
        }
        let reactor = Reactor::get()?;
        Ok(self.reactor.get_or_init(|| reactor))
    }

    /// Has the reactor drive the batch of a link.
    fn to_reactor(&self, mut link: Box<Link>) {
        self.leave_loop(&mut link);
        match (self.reactor.get(), self.me.upgrade()) {
            (Some(reactor), Some(node)) => reactor.post(Box::new(job::Job::new(node, link))),
            _ => drop(lease::Lease::of(self, link)),
        }
    }

    /// Has the reactor look after what is queued: the links in use may be slow.
    fn begin_watch(&self, id: WatchId) {
        match self.reactor.get() {
            Some(reactor) => reactor.post(Box::new(watch::Watch::new(self.me.clone(), id))),
            // Only calls of threads are queued, who look after themselves.
            None => {
                self.scheduler().end_watch(id);
            }
        }
    }

    /// Idle links are closed, and those in use cut off under their calls, whose owners close them. Whoever waits for
    /// one is told.
    pub fn close(&self) {
        let Remains { links, parked, requests } = self.scheduler().close();
        drop(links);
        // Whoever connects now is told, after this, that the node is closed.
        std::mem::take(&mut *self.cut_offs()).iter().for_each(CutOff::cut);
        parked.into_iter().for_each(|link| drop(lease::Lease::of(self, link)));
        self.fail_unsent(requests, &Kind::Closed.into());
        self.freed.notify_all();
        self.loop_alarm.ring();
        self.reactor.get().into_iter().for_each(|reactor| reactor.rouse());
    }

    /// Fails calls that are not on their way: nothing of them was sent, or they are reads whose link broke.
    fn fail_unsent(&self, requests: Vec<Requests<Link>>, error: &Error) {
        let mut completed = Delivery::default();
        for entry in requests.into_iter().flat_map(Requests::into_entries) {
            match entry.owner {
                Owner::Call(call) => {
                    completed.push(call, Err(error.again()));
                }
                Owner::Thread(_) => {
                    entry.fail_unsent(error.again());
                }
            }
        }
        drop(completed);
        self.wakeups.wake_all();
    }

    /// In a child process: closes the parent's sockets, and nothing else is done to them.
    pub fn abandon(&self) {
        if let Ok(mut scheduler) = self.scheduler.try_lock() {
            drop(scheduler.abandon());
        }
        if let Ok(mut cut_offs) = self.cut_offs.try_lock() {
            std::mem::take(&mut *cut_offs).iter().for_each(CutOff::close_inherited);
        }
    }

    fn measure(&self, link: &Link) {
        self.look_at_unused_now_and_then(link.last_used());
        if link.uses() == 1 {
            return self.scheduler().new_link_answers();
        }
        // What a batch of more calls takes is no round trip.
        const MOST: usize = 8;
        let is_shared = matches!(link.seat, Seat::Shared { .. });
        // The first may have waited for the link to be dialled.
        if is_shared && link.batch.calls.is_some_and(|calls| (1..=MOST).contains(&calls)) {
            let took = link.idle_at(Instant::now());
            self.scheduler().measure(took);
        }
    }
}
