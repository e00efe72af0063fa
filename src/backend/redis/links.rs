//! Which link serves a call.
//!
//! A call takes an idle link and carries itself out: one write, one read, on the caller's own thread. While as many links
//! are in use as serve a crowd best ([`Pool::lanes`]), a small call joins the queue instead: its request is appended to the queue's
//! outbox, and whoever gives a link back hands it, with all that is queued, to the first in the queue, who carries the batch
//! out while the next one gathers. Nobody drives more than one batch.
//!
//! Requests are bound to a link only when it is free to send them, so a slow answer holds up nobody who comes later: who
//! has waited for [`PATIENCE`] declares the links in use slow, which then count no more, and takes another one, or dials
//! it, for all that is queued. Large calls have a link to themselves from the start.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::ConnectionInfo;

use super::batch::{Bells, Entry};
use super::command::Pending;
use super::dial::Dialer;
use super::handshake::Handshake;
use super::link::{Driven, Exchanged, Failure, Link};
use super::stream::{CutOff, Socket};
use super::waiter::{Decided, Waiter};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::Answer;

/// A link that was used longer ago than this is looked at before it is used again. Shorter than a server takes to go away
/// and come back. Where a call takes longer than this, or calls are further apart, the look costs next to nothing beside it.
const UNSEEN: Duration = Duration::from_micros(100);
/// How long a queued call waits for a link in use before it takes another: several round trips to a server that is near.
const PATIENCE: Duration = Duration::from_micros(250);
/// The longest it waits between two looks at whether there is another.
const LONGEST_PATIENCE: Duration = Duration::from_millis(8);
/// Round trips that never take less are to a server that is far away: there a link for each caller is best.
const FAR: Duration = Duration::from_micros(200);
/// Links in use beyond which callers queue, when they spin for the reply and when they sleep.
const LANES: usize = 1;
const LANES_ASLEEP: usize = 2;
/// A request above this goes over a link of its own.
pub const SHARED: usize = 16 << 10;
/// A batch takes so many calls, and so many bytes, before the rest is left to the next.
const MOST_CALLS: usize = 256;
const MOST_BYTES: usize = 64 << 10;
/// One in so many calls over a link is timed, and the shortest of so many times tells how far the server is.
const TIMED: u32 = 16;
const TIMES: u32 = 32;

pub struct Links {
    dialer: Dialer,
    handshake: Handshake,
    connect_timeout: Duration,
    health_check: Option<Duration>,
    spin: Duration,
    pool: Mutex<Pool>,
    freed: Condvar,
    bells: Bells,
}

#[derive(Default)]
pub struct Pool {
    most: usize,
    spins: bool,
    /// The one used last at the end: the others may then be left to the server's idle timeout.
    #[expect(
        clippy::vec_box,
        reason = "a link changes hands twice a call: a pointer is moved, not the link"
    )]
    idle: Vec<Box<Link>>,
    /// Links that are there, idle, in use or being dialled.
    count: usize,
    /// Those in use that were taken in this round; the others are slow, or serve one large call.
    in_use: usize,
    /// Goes up when the links in use are found to be slow.
    round: u64,
    /// A queued caller is dialling for all that are queued.
    is_dialling: bool,
    queue: Queue,
    /// Calls that wait for a link of their own, and whether it is their turn.
    waiting: usize,
    turn: bool,
    closed: bool,
    /// To end the calls that wait on a link when the cache is closed.
    cut_offs: Vec<CutOff>,
    /// The shortest round trip of late, and how many were timed.
    shortest: Duration,
    timed: u32,
    is_far: bool,
}

/// Calls whose requests are written one behind the other, to be sent over the next link that is free.
#[derive(Default)]
struct Queue {
    outbox: Vec<u8>,
    entries: VecDeque<Entry>,
    /// The number of the batch that is being gathered.
    batch: usize,
}

/// A link in the hands of a call. Unless it is given back it is closed.
pub struct Lease<'a> {
    links: &'a Links,
    link: Option<Box<Link>>,
    round: u64,
    /// Nothing has been waited for to get it.
    pub at_once: bool,
}

/// The round of a link that counts in none.
const ASIDE: u64 = u64::MAX;

pub enum Entered<'a> {
    /// The call has a link to itself.
    Leased(Lease<'a>),
    /// It was carried out by another caller, or together with others'.
    Done(Exchanged<Answer>),
}

impl Pool {
    /// How many links may be in use before callers queue.
    #[inline]
    fn lanes(&self) -> usize {
        match (self.is_far, self.spins) {
            (true, _) => usize::MAX,
            (false, true) => LANES,
            (false, false) => LANES_ASLEEP,
        }
    }

    /// Whether there is a link for a small call, which is the usual case.
    #[inline(always)]
    pub fn has_one_at_hand(&self) -> bool {
        self.is_free() && self.idle.len() > self.waiting && !self.closed
    }

    /// Whether a small call need not queue.
    #[inline(always)]
    fn is_free(&self) -> bool {
        self.in_use < self.lanes() && self.queue.entries.is_empty()
    }

    fn has_room(&self) -> bool {
        self.count < self.most
    }

    /// Counts a link out that was taken in that round.
    fn back_from(&mut self, round: u64) {
        if round == self.round {
            self.in_use -= 1;
        }
    }

    fn find(&self, owner: &Arc<Waiter>) -> Option<usize> {
        self.queue.entries.iter().position(|entry| Arc::ptr_eq(&entry.owner, owner))
    }

    fn time(&mut self, took: Duration) {
        self.shortest = if self.timed == 0 { took } else { self.shortest.min(took) };
        self.timed += 1;
        if self.timed == TIMES {
            self.timed = 0;
            self.is_far = self.shortest > FAR;
        }
    }
}

impl Queue {
    /// Moves what is queued to the link, as far as one batch goes.
    fn load(&mut self, link: &mut Link) {
        let bells = 1 << (self.batch % Bells::COUNT);
        if self.entries.len() <= MOST_CALLS && self.outbox.len() <= MOST_BYTES {
            link.load(&mut self.outbox, &mut self.entries, bells);
            // What came back is an empty buffer of the last batch's.
            self.outbox.clear();
            self.batch = self.batch.wrapping_add(1);
            return;
        }
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry.len;
            bytes <= MOST_BYTES
        };
        let count = self.entries.iter().take(MOST_CALLS).take_while(fits).count().max(1);
        let mut entries: VecDeque<Entry> = self.entries.drain(..count).collect();
        let bytes = entries.iter().map(|entry| entry.len).sum::<usize>();
        let mut outbox: Vec<u8> = self.outbox.drain(..bytes).collect();
        link.load(&mut outbox, &mut entries, bells);
    }

    /// Adds what is queued to the link's batch, which has not been begun.
    fn add_to(&mut self, link: &mut Link) {
        if self.entries.len() > MOST_CALLS || self.outbox.len() > MOST_BYTES {
            return;
        }
        link.add(&self.outbox, &mut self.entries, 1 << (self.batch % Bells::COUNT));
        self.outbox.clear();
        self.batch = self.batch.wrapping_add(1);
    }

    /// Takes a call back that was not sent.
    fn remove(&mut self, index: usize) {
        let start: usize = self.entries.iter().take(index).map(|entry| entry.len).sum();
        if let Some(entry) = self.entries.remove(index) {
            self.outbox.drain(start..start + entry.len);
        }
    }
}

impl Links {
    pub fn new(config: &Config, info: &ConnectionInfo) -> Self {
        let pool =
            Pool { most: config.max_connections, spins: !config.spin.is_zero(), ..Pool::default() };
        Self {
            dialer: Dialer::new(config, info.addr()),
            handshake: Handshake::new(info.redis_settings(), config.client_name.as_deref()),
            connect_timeout: config.connect_timeout,
            health_check: config.health_check_interval,
            spin: config.spin,
            pool: Mutex::new(pool),
            freed: Condvar::new(),
            bells: Bells::default(),
        }
    }

    #[inline(always)]
    pub fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links are dropped, those in use under their calls. Whoever waits for one is told.
    pub fn close(&self) {
        let mut pool = self.pool();
        pool.closed = true;
        let idle = std::mem::take(&mut pool.idle);
        pool.count -= idle.len();
        let cut_offs = std::mem::take(&mut pool.cut_offs);
        let queue = std::mem::take(&mut pool.queue);
        drop(pool);
        drop(idle);
        cut_offs.iter().for_each(CutOff::cut);
        for entry in queue.entries {
            let error = Kind::Closed.into();
            entry.decide(Exchanged::Failed(Failure { error, sent: false, lost: false }));
        }
        self.bells.ring(u8::MAX);
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

    /// The link that [`Pool::has_one_at_hand`].
    #[inline(always)]
    pub fn at_hand<'a>(&'a self, mut pool: MutexGuard<'a, Pool>) -> Lease<'a> {
        self.lease(&mut pool)
    }

    /// A link for a small call that found none at hand, if the call is not carried out together with others.
    pub fn enter<'a>(
        &'a self,
        mut pool: MutexGuard<'a, Pool>,
        deadline: &Deadline,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        pending: impl FnOnce() -> Pending,
    ) -> Result<Entered<'a>> {
        if pool.closed {
            return Err(Kind::Closed.into());
        }
        let is_free = pool.is_free();
        if is_free && pool.idle.is_empty() && pool.has_room() {
            let lease = self.lease(&mut pool);
            drop(pool);
            return Ok(Entered::Leased(self.dialled(lease, deadline)?));
        }
        let owner = Waiter::own();
        let before = pool.queue.outbox.len();
        if let Err(error) = encode(&mut pool.queue.outbox) {
            pool.queue.outbox.truncate(before);
            return Err(error);
        }
        let entry = Entry {
            owner: Arc::clone(&owner),
            is_first: pool.queue.entries.is_empty(),
            pending: pending(),
            len: pool.queue.outbox.len() - before,
        };
        let place = Place { owner, is_first: entry.is_first, bell: pool.queue.batch };
        pool.queue.entries.push_back(entry);
        drop(pool);
        self.wait(place, deadline).map(Entered::Done)
    }

    /// A link that is not shared with anybody. `wary`: a link has just been found broken, so the others are looked at
    /// however lately they were used.
    pub fn take(&self, deadline: &Deadline, wary: bool) -> Result<Lease<'_>> {
        loop {
            let lease = self.reserve(deadline)?;
            if lease.link.is_none() {
                return self.dialled(lease, deadline);
            }
            if let Some(lease) = self.vet(lease, deadline, wary) {
                return Ok(lease);
            }
        }
    }

    /// Takes an idle link, or the right to dial one.
    #[inline(always)]
    fn lease(&self, pool: &mut Pool) -> Lease<'_> {
        pool.in_use += 1;
        let link = pool.idle.pop();
        if link.is_none() {
            pool.count += 1;
        }
        Lease { links: self, at_once: link.is_some(), link, round: pool.round }
    }

    /// The same, to be counted in no round; waits for it.
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
                let mut lease = self.lease(&mut pool);
                pool.in_use -= 1;
                lease.round = ASIDE;
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
    fn vet<'a>(
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
        let asked = self.health_check.is_some_and(|interval| idle > interval);
        // A question to a link that hangs must leave time for a new one.
        let half = || deadline.at_most(deadline.remaining() / 2);
        let is_sound = link.is_sound() && (!asked || link.answers(&half()));
        lease.at_once &= !asked;
        is_sound.then_some(lease)
    }

    fn dialled<'a>(&'a self, mut lease: Lease<'a>, deadline: &Deadline) -> Result<Lease<'a>> {
        lease.link = Some(Box::new(self.dial(deadline)?));
        Ok(lease)
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

/// Where a queued caller waits.
struct Place {
    owner: Arc<Waiter>,
    is_first: bool,
    /// The bell of the others of its batch.
    bell: usize,
}

impl Links {
    /// Waits until the call is carried out, carrying it out with others' when it is this one's turn.
    fn wait(&self, place: Place, deadline: &Deadline) -> Result<Exchanged<Answer>> {
        let owner = &place.owner;
        let mut patience = PATIENCE;
        let mut look = deadline.started() + patience;
        owner.spin(self.spin, deadline);
        loop {
            match owner.take() {
                Some(Decided::Answer(answer)) => {
                    place.owner.keep();
                    return Ok(answer);
                }
                Some(Decided::Link(link)) => {
                    let mut lease = self.led(link);
                    lease.link.as_deref_mut().into_iter().for_each(|link| self.top_up(link));
                    self.drive(lease, owner, deadline);
                    continue;
                }
                None => {}
            }
            let bell = if place.is_first { &owner.bell } else { self.bells.get(place.bell) };
            bell.sleep(look.min(deadline.instant()), || owner.is_decided());
            if owner.is_decided() {
                continue;
            }
            let now = Instant::now();
            if now >= deadline.instant() {
                if let Some(ended) = self.leave(&place, deadline) {
                    return ended;
                }
            } else if now >= look {
                self.lose_patience(owner, deadline)?;
                patience = (patience * 2).min(LONGEST_PATIENCE);
                look = now + patience;
            }
        }
    }

    fn led(&self, link: Box<Link>) -> Lease<'_> {
        Lease { links: self, round: link.turn.round, link: Some(link), at_once: false }
    }

    /// The deadline has passed. `None`: the call was decided at the last moment.
    fn leave(&self, place: &Place, deadline: &Deadline) -> Option<Result<Exchanged<Answer>>> {
        let owner = &place.owner;
        let mut pool = self.pool();
        if let Some(index) = pool.find(owner) {
            pool.queue.remove(index);
            drop(pool);
            return Some(Err(Kind::Timeout("waiting for a free connection").into()));
        }
        drop(pool);
        match owner.leave() {
            None => {
                let error = Kind::Timeout("waiting for the reply").into();
                Some(Ok(Exchanged::Failed(Failure { error, sent: true, lost: false })))
            }
            Some(Decided::Answer(answer)) => Some(Ok(answer)),
            Some(Decided::Link(link)) => {
                self.drive(self.led(link), owner, deadline);
                None
            }
        }
    }

    /// The links in use are slow: finds another for the queue.
    fn lose_patience(&self, owner: &Arc<Waiter>, deadline: &Deadline) -> Result<()> {
        let mut pool = self.pool();
        loop {
            if pool.closed || pool.find(owner).is_none() {
                return Ok(());
            }
            pool.round += 1;
            pool.in_use = 0;
            if pool.idle.len() <= pool.waiting {
                break;
            }
            let lease = self.lease(&mut pool);
            drop(pool);
            let sound = self.vet(lease, deadline, false);
            pool = self.pool();
            if let Some(lease) = sound {
                self.serve(pool, lease, owner, deadline);
                return Ok(());
            }
        }
        if pool.is_dialling || !pool.has_room() || pool.waiting > 0 {
            return Ok(());
        }
        pool.is_dialling = true;
        let lease = self.lease(&mut pool);
        drop(pool);
        let dialled = self.dialled(lease, deadline);
        let mut pool = self.pool();
        pool.is_dialling = false;
        match dialled {
            Ok(lease) => self.serve(pool, lease, owner, deadline),
            Err(error) => {
                // Unless somebody else has taken the call, which is better luck.
                if let Some(index) = pool.find(owner) {
                    pool.queue.remove(index);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Carries out what is queued.
    fn serve(
        &self,
        mut pool: MutexGuard<'_, Pool>,
        mut lease: Lease<'_>,
        owner: &Arc<Waiter>,
        deadline: &Deadline,
    ) {
        if let Some(link) = lease.link.as_deref_mut() {
            pool.queue.load(link);
        }
        drop(pool);
        self.drive(lease, owner, deadline);
    }

    /// Drives the batch of a link, and hands the link on. The driver's own call may be part of it.
    fn drive(&self, mut lease: Lease<'_>, owner: &Arc<Waiter>, deadline: &Deadline) {
        let Some(link) = lease.link.as_deref_mut() else { return };
        let bells = link.batch.bells;
        match link.drive(deadline, &self.bells) {
            Driven::Sound => lease.give_back(),
            Driven::Broken => drop(lease),
            Driven::Unfinished => lease.hand_over(Some(owner)),
        }
        self.bells.ring(bells);
    }

    /// Takes a link back that was taken in that round.
    #[inline(never)]
    fn take_back(&self, mut link: Box<Link>, round: u64) {
        link.turn.calls = link.turn.calls.wrapping_add(1);
        let is_timed = link.turn.calls.is_multiple_of(TIMED) && round != ASIDE;
        let took = if is_timed { Some(link.idle_at(Instant::now())) } else { None };
        let mut pool = self.pool();
        if let Some(took) = took {
            pool.time(took);
        }
        pool.back_from(round);
        if pool.waiting > 0 || !pool.queue.entries.is_empty() || pool.closed {
            return self.pass_on(pool, link);
        }
        pool.turn = false;
        pool.idle.push(link);
    }

    /// Passes a link that was given back on to whoever waits.
    #[inline(never)]
    fn pass_on(&self, mut pool: MutexGuard<'_, Pool>, mut link: Box<Link>) {
        if pool.closed {
            pool.count -= 1;
            drop(pool);
            return;
        }
        let is_for_one =
            pool.waiting > pool.idle.len() && (pool.queue.entries.is_empty() || pool.turn);
        if is_for_one || pool.queue.entries.is_empty() {
            pool.turn = false;
            let anybody = pool.waiting > 0;
            pool.idle.push(link);
            drop(pool);
            if anybody {
                self.freed.notify_one();
            }
            return;
        }
        pool.turn = true;
        pool.queue.load(&mut link);
        pool.in_use += 1;
        link.turn.round = pool.round;
        drop(pool);
        let lease = Lease { links: self, round: link.turn.round, link: Some(link), at_once: true };
        lease.hand_over(None);
    }

    /// What was queued since the link was handed over goes with it.
    fn top_up(&self, link: &mut Link) {
        let mut pool = self.pool();
        if !pool.queue.entries.is_empty() && link.batch.sent == 0 {
            pool.queue.add_to(link);
        }
    }
}

impl Lease<'_> {
    pub fn link(&mut self) -> Result<&mut Link> {
        self.link
            .as_deref_mut()
            .ok_or_else(|| Kind::Internal("a lease without a link".into()).into())
    }

    /// Gives the link back, unless the call was its last.
    #[inline]
    pub fn end<T>(self, exchanged: Exchanged<T>) -> Exchanged<T> {
        if let Exchanged::Answered { link_is_sound: true, .. } = exchanged {
            self.give_back();
        }
        exchanged
    }

    /// Whether the link was used so lately that it need not be looked at.
    #[inline(always)]
    pub fn was_seen(&self, deadline: &Deadline) -> bool {
        self.link.as_ref().is_some_and(|link| link.was_used_within(UNSEEN, deadline.started()))
    }

    /// The call is done, and the link may serve the next: the first in the queue, with all that is queued, or whoever comes.
    #[inline(always)]
    pub fn give_back(mut self) {
        let Some(link) = self.link.take() else { return };
        let (links, round) = (self.links, self.round);
        // From here on it is counted there.
        std::mem::forget(self);
        links.take_back(link, round);
    }

    /// Has the next in the batch go on with it; when nobody waits for it any more, that is the end of the link. `but`: who
    /// cannot.
    fn hand_over(mut self, but: Option<&Arc<Waiter>>) {
        let Some(mut link) = self.link.take() else { return };
        while let Some((next, bell)) = link.batch.next_to_lead(but) {
            match next.lead(link) {
                None => {
                    match bell {
                        true => next.bell.ring(),
                        false => self.links.bells.ring(u8::MAX),
                    }
                    std::mem::forget(self);
                    return;
                }
                Some(back) => link = back,
            }
        }
        link.batch.fail(false, || Kind::Timeout("waiting for the reply").into());
        drop(link);
        drop(self);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The socket is closed before another may be dialled in its place.
        if let Some(mut link) = self.link.take() {
            let bells = link.batch.bells;
            // Nothing is left in it, unless there was a panic in the middle.
            link.batch
                .fail(false, || Kind::Internal("the call of another thread failed".into()).into());
            drop(link);
            self.links.bells.ring(bells);
        }
        let mut pool = self.links.pool();
        pool.back_from(self.round);
        pool.count -= 1;
        let anybody = pool.waiting > 0;
        drop(pool);
        if anybody {
            self.links.freed.notify_one();
        }
    }
}
