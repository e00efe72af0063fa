//! Which link serves a call.
//!
//! A call takes an idle link and carries itself out: one write, one read, on the caller's own thread. While as many links
//! are in use as serve a crowd best ([`Pool::lanes`]), a small call joins the queue instead: its request is appended to the queue's
//! requests, and whoever gives a link back hands it, with all that is queued, to the first in the queue, who carries the batch
//! out while the next one gathers (`crowd.rs`). Nobody drives more than one batch. An asynchronous call always joins the
//! queue, and is carried out by the thread that waits for its completion (`steer.rs`), or by the I/O thread (`submit.rs`, `io.rs`).
//!
//! Requests are bound to a link only when it is free to send them, or, where asynchronous calls are under way, replies have just come
//! over it, so a slow answer holds up nobody who comes later: who has waited for [`PATIENCE`] declares the links in use slow, which then count no more, and takes another one, or dials
//! it, for all that is queued. Large calls have a link to themselves from the start.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use redis::ConnectionInfo;

use crate::backend::redis::link::batch::Bells;
use crate::backend::redis::link::connection::{Failure, Link};
use crate::backend::redis::net::dial::Dialer;
use crate::backend::redis::net::stream::{CutOff, Socket};
use crate::backend::redis::node::lease::{ASIDE, Lease};
use crate::backend::redis::node::pool::Pool;
use crate::backend::redis::node::self_drive::Company;
use crate::backend::redis::wire::handshake::Handshake;
use crate::completion::{Engine, Inflight};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::reactor::Io;

/// A link that was used longer ago than this is looked at before it is used again. Shorter than a server takes to go away
/// and come back. Where a call takes longer than this, or calls are further apart, the look costs next to nothing beside it.
pub const UNSEEN: Duration = Duration::from_micros(100);
/// How long a queued call waits for a link in use before it takes another: several round trips to a server that is near.
pub const PATIENCE: Duration = Duration::from_micros(250);
/// The longest it waits between two looks at whether there is another.
pub const LONGEST_PATIENCE: Duration = Duration::from_millis(8);
/// A request above this goes over a link of its own.
pub const SHARED: usize = 16 << 10;

pub struct Links {
    me: Weak<Links>,
    /// The asynchronous calls of the cache.
    pub inflight: Arc<Inflight>,
    dialer: Dialer,
    handshake: Handshake,
    /// The deadline of a call.
    pub timeout: Duration,
    connect_timeout: Duration,
    health_check: Option<Duration>,
    pub spin: Duration,
    pool: Mutex<Pool>,
    pub freed: Condvar,
    pub bells: Bells,
    pub company: Company,
    /// Set by the first asynchronous call.
    pub io: OnceLock<Arc<Io>>,
    /// Whether the I/O thread sees to the deadlines of asynchronous calls, and to those that are queued.
    pub is_timed: AtomicBool,
    pub is_watched: AtomicBool,
}

impl Links {
    pub fn new(config: &Config, info: &ConnectionInfo, inflight: Arc<Inflight>) -> Arc<Self> {
        let pool = Pool::new(config.max_connections, !config.spin.is_zero());
        let links = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            inflight,
            dialer: Dialer::new(config, info.addr()),
            handshake: Handshake::new(info.redis_settings(), config.client_name.as_deref()),
            timeout: config.timeout,
            connect_timeout: config.connect_timeout,
            health_check: config.health_check_interval,
            spin: config.spin,
            pool: Mutex::new(pool),
            freed: Condvar::new(),
            bells: Bells::default(),
            company: Company::default(),
            io: OnceLock::new(),
            is_timed: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
        });
        let engine: Weak<dyn Engine> = links.weak();
        links.inflight.add_engine(engine);
        links
    }

    #[inline(always)]
    pub fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` only while the last reference is being dropped.
    pub fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    pub fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// Links are dropped, those in use under their calls. Whoever waits for one is told.
    pub fn close(&self) {
        let mut pool = self.pool();
        pool.closed = true;
        let idle = std::mem::take(&mut pool.idle);
        pool.count -= idle.len();
        let parked = pool.parked.take();
        let cut_offs = std::mem::take(&mut pool.cut_offs);
        let queue = std::mem::take(&mut pool.queue);
        let large = std::mem::take(&mut pool.large);
        drop(pool);
        drop(idle);
        cut_offs.iter().for_each(CutOff::cut);
        drop(parked.map(|link| Lease::of(self, link)));
        for requests in large.into_iter().chain([queue.requests]) {
            requests.entries.into_iter().for_each(|entry| entry.refuse(Kind::Closed.into()));
        }
        self.bells.ring(u8::MAX);
        self.freed.notify_all();
    }

    /// In a child process: closes the parent's sockets, and nothing else is done to them.
    pub fn abandon(&self) {
        if let Ok(mut pool) = self.pool.try_lock() {
            pool.idle.clear();
            pool.parked = None;
            std::mem::take(&mut pool.cut_offs).iter().for_each(CutOff::close_inherited);
        }
    }

    fn connected(&self, socket: &Socket) -> Result<()> {
        let mut pool = self.pool();
        if pool.closed {
            return Err(Kind::Closed.into());
        }
        pool.cut_offs.retain(|cut_off| !cut_off.is_gone());
        pool.cut_offs.push(socket.cut_off());
        Ok(())
    }

    pub fn is_closed(&self) -> bool {
        self.pool().closed
    }

    /// Whether there is any link.
    pub fn has_some(&self) -> bool {
        self.pool().live() > 0
    }

    /// A link that is not shared with anybody. `wary`: a link has just been found broken, so the others are looked at
    /// however lately they were used.
    pub fn take(&self, deadline: &Deadline, wary: bool) -> Result<Lease<'_>> {
        loop {
            let lease = self.reserve(deadline)?;
            if lease.link.is_none() {
                match self.dialled(lease, deadline) {
                    Err(Error { kind: Kind::Full { .. }, .. }) if self.has_some() => continue,
                    dialled => return dialled,
                }
            }
            if let Some(lease) = self.vet(lease, deadline, wary) {
                return Ok(lease);
            }
        }
    }

    /// Takes an idle link, or the right to dial one.
    #[inline(always)]
    pub fn lease(&self, pool: &mut Pool) -> Lease<'_> {
        let link = pool.take_idle();
        if link.is_none() {
            pool.in_use += 1;
            pool.count += 1;
        }
        Lease::new(self, link, pool.round)
    }

    /// The same, to be counted in no round.
    pub fn lease_aside(&self, pool: &mut Pool) -> Lease<'_> {
        let mut lease = self.lease(pool);
        pool.in_use -= 1;
        lease.round = ASIDE;
        lease
    }

    /// The same; waits for it.
    fn reserve(&self, deadline: &Deadline) -> Result<Lease<'_>> {
        let mut pool = self.pool();
        let mut waited = false;
        loop {
            let is_there = !pool.idle.is_empty() || pool.has_room();
            if pool.closed || is_there {
                if waited {
                    pool.waiting -= 1;
                }
                if pool.closed {
                    return Err(Kind::Closed.into());
                }
                let mut lease = self.lease_aside(&mut pool);
                lease.at_once &= !waited;
                return Ok(lease);
            }
            let left = deadline.remaining();
            if left.is_zero() {
                if waited {
                    pool.waiting -= 1;
                }
                return Err(Kind::Timeout("waiting for a free connection").into());
            }
            if !waited {
                waited = true;
                pool.waiting += 1;
                pool = self.unpark(pool);
                continue;
            }
            pool = self.freed.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The link that was at hand, or another if it is not there any more.
    pub fn look_at<'a>(&'a self, lease: Lease<'a>, deadline: &Deadline) -> Result<Lease<'a>> {
        match self.vet(lease, deadline, false) {
            Some(lease) => Ok(lease),
            None => self.take(deadline, true),
        }
    }

    /// The link, if it is still there.
    pub fn vet<'a>(
        &'a self,
        mut lease: Lease<'a>,
        deadline: &Deadline,
        wary: bool,
    ) -> Option<Lease<'a>> {
        let link = lease.link.as_deref_mut()?;
        let idle = link.idle_at(deadline.started());
        if idle < UNSEEN && !wary {
            return Some(lease);
        }
        let asked = self.must_be_asked(idle);
        let is_sound = link.is_sound() && (!asked || answers_in_time(link, deadline));
        lease.at_once &= !asked;
        is_sound.then_some(lease)
    }

    /// Whether a link that was idle for so long is to be asked PING before use.
    pub fn must_be_asked(&self, idle: Duration) -> bool {
        self.health_check.is_some_and(|interval| idle > interval)
    }

    pub fn dialled<'a>(&'a self, mut lease: Lease<'a>, deadline: &Deadline) -> Result<Lease<'a>> {
        let _dials = Dials::new(self);
        lease.link = Some(Box::new(self.dial(deadline)?));
        Ok(lease)
    }

    pub fn dial(&self, deadline: &Deadline) -> Result<Link> {
        let dialling = deadline.at_most(self.connect_timeout);
        let dial = || {
            let stream = self.dialer.dial(&dialling, |socket| self.connected(socket))?;
            Link::new(stream, self.dialer.peer(), &self.handshake, &dialling)
        };
        let mut dialled = dial();
        if let Err(Failure { lost: true, .. }) = dialled
            && !self.is_closed()
        {
            // A server that stops takes connections that it never answers, and the next one may be its successor's.
            dialled = dial();
        }
        dialled.map_err(|Failure { error, .. }| match error.kind {
            _ if self.is_closed() => Kind::Closed.into(),
            // It was the time to connect that passed, and not the call's.
            Kind::Timeout(doing) if dialling.instant() < deadline.instant() => {
                let reason = format!("timed out after {:?} {doing}", self.connect_timeout);
                Kind::Connect { peer: self.dialer.peer(), reason: reason.into() }.into()
            }
            Kind::Connect { reason, .. } => {
                Kind::Connect { peer: self.dialer.peer(), reason }.into()
            }
            Kind::Full { reason, .. } => {
                self.pool().turned_away();
                Kind::Full { peer: self.dialer.peer(), reason }.into()
            }
            kind => Error { kind, maybe_applied: error.maybe_applied },
        })
    }
}

/// A thread that dials for itself. Until it has, there is one link less than is counted.
struct Dials<'a>(&'a Links);

impl<'a> Dials<'a> {
    fn new(links: &'a Links) -> Self {
        links.pool().own_dials += 1;
        Self(links)
    }
}

impl Drop for Dials<'_> {
    fn drop(&mut self) {
        self.0.pool().own_dials -= 1;
    }
}

/// A question to a link that hangs must leave time for a new one.
pub fn answers_in_time(link: &mut Link, deadline: &Deadline) -> bool {
    link.answers(&deadline.at_most(deadline.remaining() / 2))
}
