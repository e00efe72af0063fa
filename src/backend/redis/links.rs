//! Which link serves a call: the one used last, if it is still there, or a new one, up to the most there may be.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::ConnectionInfo;

use super::dial::Dialer;
use super::handshake::Handshake;
use super::link::Link;
use super::stream::{CutOff, Socket};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};

/// A link that was used longer ago than this is looked at before it is used again. Shorter than a server takes to go away
/// and come back. Where a call takes longer than this, or calls are further apart, the look costs next to nothing beside it.
const UNSEEN: Duration = Duration::from_micros(100);

pub struct Links {
    dialer: Dialer,
    handshake: Handshake,
    connect_timeout: Duration,
    health_check: Option<Duration>,
    most: usize,
    pool: Mutex<Pool>,
    freed: Condvar,
}

#[derive(Default)]
struct Pool {
    /// The one used last at the end: the others may then be left to the server's idle timeout.
    #[expect(
        clippy::vec_box,
        reason = "a link changes hands twice a call: a pointer is moved, not the link"
    )]
    idle: Vec<Box<Link>>,
    /// Links that are there, idle, in use or being dialled.
    count: usize,
    closed: bool,
    /// To end the calls that wait on a link when the cache is closed.
    cut_offs: Vec<CutOff>,
}

/// A link in the hands of a call. Unless it is given back it is closed.
pub struct Lease<'a> {
    links: &'a Links,
    link: Option<Box<Link>>,
    /// Nothing has been waited for to get it.
    pub at_once: bool,
}

impl Links {
    pub fn new(config: &Config, info: &ConnectionInfo) -> Self {
        Self {
            dialer: Dialer::new(config, info.addr()),
            handshake: Handshake::new(info.redis_settings(), config.client_name.as_deref()),
            connect_timeout: config.connect_timeout,
            health_check: config.health_check_interval,
            most: config.max_connections,
            pool: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links are dropped, those in use under their calls. Whoever waits for one is told.
    pub fn close(&self) {
        let mut pool = self.pool();
        pool.closed = true;
        let idle = std::mem::take(&mut pool.idle);
        pool.count -= idle.len();
        let cut_offs = std::mem::take(&mut pool.cut_offs);
        drop(pool);
        drop(idle);
        cut_offs.iter().for_each(CutOff::cut);
        self.freed.notify_all();
    }

    /// In a child process: closes the parent's sockets, and nothing else is done to them.
    pub fn abandon(&self) {
        if let Ok(mut pool) = self.pool.try_lock() {
            pool.idle.clear();
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

    /// `wary`: a link has just been found broken, so the others are looked at however lately they were used.
    pub fn take(&self, deadline: &Deadline, wary: bool) -> Result<Lease<'_>> {
        loop {
            let mut lease = self.reserve(deadline)?;
            let Some(link) = &mut lease.link else {
                lease.link = Some(Box::new(self.dial(deadline)?));
                return Ok(lease);
            };
            let idle = link.idle_at(deadline.started());
            if idle < UNSEEN && !wary {
                return Ok(lease);
            }
            let asked = self.health_check.is_some_and(|interval| idle > interval);
            lease.at_once &= !asked;
            // A question to a link that hangs must leave time for a new one.
            let half = || deadline.at_most(deadline.remaining() / 2);
            if link.is_sound() && (!asked || link.answers(&half())) {
                return Ok(lease);
            }
        }
    }

    /// An idle link, or the right to dial one.
    fn reserve(&self, deadline: &Deadline) -> Result<Lease<'_>> {
        let mut pool = self.pool();
        let mut at_once = true;
        loop {
            if pool.closed {
                return Err(Kind::Closed.into());
            }
            if let Some(link) = pool.idle.pop() {
                return Ok(Lease { links: self, link: Some(link), at_once });
            }
            if pool.count < self.most {
                pool.count += 1;
                return Ok(Lease { links: self, link: None, at_once: false });
            }
            let left = deadline.remaining();
            if left.is_zero() {
                return Err(Kind::Timeout("waiting for a free connection").into());
            }
            at_once = false;
            let waited = self.freed.wait_timeout(pool, left);
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn dial(&self, deadline: &Deadline) -> Result<Link> {
        let dialling = deadline.at_most(self.connect_timeout);
        let dial = || {
            let stream = self.dialer.dial(&dialling, |socket| self.connected(socket))?;
            Link::new(stream, self.dialer.peer(), &self.handshake, &dialling)
        };
        dial().map_err(|error| match error.kind {
            _ if self.is_closed() => Kind::Closed.into(),
            // It was the time to connect that passed, and not the call's.
            Kind::Timeout(doing) if dialling.instant() < deadline.instant() => {
                let reason = format!("timed out after {:?} {doing}", self.connect_timeout);
                Kind::Connect { peer: self.dialer.peer(), reason: reason.into() }.into()
            }
            Kind::Connect { reason, .. } => {
                Kind::Connect { peer: self.dialer.peer(), reason }.into()
            }
            kind => Error { kind, maybe_applied: error.maybe_applied },
        })
    }
}

impl Lease<'_> {
    pub fn link(&mut self) -> Result<&mut Link> {
        self.link
            .as_deref_mut()
            .ok_or_else(|| Kind::Internal("a lease without a link".into()).into())
    }

    pub fn give_back(mut self) {
        let link = self.link.take();
        let mut pool = self.links.pool();
        match link {
            Some(link) if !pool.closed => {
                pool.idle.push(link);
                drop(pool);
                self.links.freed.notify_one();
                std::mem::forget(self);
            }
            _ => drop(pool),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The socket is closed before another may be dialled in its place.
        self.link = None;
        self.links.pool().count -= 1;
        self.links.freed.notify_one();
    }
}
