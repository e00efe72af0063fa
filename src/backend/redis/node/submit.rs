//! Asynchronous calls: they join the queue that threads queue in, or, if they are large, wait for a link of their own.
//!
//! Nothing here waits for the network. Where an idle link is there it goes to the I/O thread with all that is queued; where
//! none is, one is dialled on a thread for that, and given to the queue like any other link that becomes free. Calls of a thread
//! that is likely to wait for them next are left in the queue for it (`steer.rs`).

use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::backend::redis::link::batch::{Owner, Requests};
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::node::lease::{ASIDE, Lease};
use crate::backend::redis::node::links::{LONGEST_PATIENCE, Links, UNSEEN, answers_in_time};
use crate::backend::redis::node::pool::Pool;
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{Delivery, Promise};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::reactor::{Io, Job, Mail};
use crate::threads::Workers;

/// Where links are dialled for asynchronous calls.
static DIALLERS: Workers = Workers::new("cachetory-dial", 64);
/// The most that are dialled at once for one cache. One that has no link yet dials one, so that servers that are not there do
/// not take all the threads.
const MOST_DIALLED: usize = 4;
/// What is left to a thread that is likely to come waits no longer than three times this for it.
const GRACE: Duration = Duration::from_micros(500);
/// So many calls that are left to a thread, and at least a quarter of all that are outstanding, are sent before it comes, so that
/// the server need not wait for the rest.
const FEW: usize = 16;

impl Links {
    /// Accepts a small call, whose request `encode` writes. An error: it is not accepted.
    #[inline(always)]
    pub fn submit(
        &self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        self.see_to_deadlines()?;
        let (is_awaited, queue) = (call.wait_is_predicted(), call.reports_to());
        let mut pool = self.open_pool()?;
        pool.queue.drop_completed_now_and_then();
        pool.queue.requests.add(Owner::Call(call), encode, expect)?;
        if !is_awaited {
            self.recruit(pool);
        } else if pool.queue.len() >= FEW && self.is_enough(&pool) {
            self.send_off(pool, queue);
        } else {
            self.defer(pool);
        }
        Ok(())
    }

    /// Whether it is worth while to send what is queued before the rest.
    fn is_enough(&self, pool: &Pool) -> bool {
        self.company.is_alone() && 4 * pool.queue.len() >= self.inflight.count()
    }

    /// Accepts a call that gets a link of its own.
    pub fn submit_large(
        &self,
        call: Promise,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<()> {
        self.see_to_deadlines()?;
        // Encoded without the lock, for it may take its time.
        let mut large = Requests::default();
        large.add(Owner::Call(call), encode, expect)?;
        let mut pool = self.open_pool()?;
        pool.drop_completed_large();
        pool.large.push_back(large);
        self.recruit(pool);
        Ok(())
    }

    /// Has the I/O thread see to the deadlines of asynchronous calls.
    #[inline]
    pub fn see_to_deadlines(&self) -> Result<()> {
        if self.is_timed.load(Ordering::SeqCst) { Ok(()) } else { self.begin_to_see_to_them() }
    }

    #[cold]
    fn begin_to_see_to_them(&self) -> Result<()> {
        let io = self.io()?;
        if !self.is_timed.swap(true, Ordering::SeqCst) {
            io.post(Mail::Timed(self.weak()));
        }
        Ok(())
    }

    /// Called by the I/O thread: ends the calls whose deadline has passed. When the next one passes, if there is one.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let next = self.inflight.expire(now);
        let mut pool = self.pool();
        pool.large.retain(|large| large.is_wanted());
        if next.is_none() {
            pool.queue.forget_completed();
        }
        drop(pool);
        next.or_else(|| {
            self.is_timed.store(false, Ordering::SeqCst);
            // A call that came in between is seen here, or has the thread told.
            let next = self.inflight.next_deadline()?;
            (!self.is_timed.swap(true, Ordering::SeqCst)).then_some(next)
        })
    }

    fn open_pool(&self) -> Result<MutexGuard<'_, Pool>> {
        let pool = self.pool();
        if pool.closed { Err(Kind::Closed.into()) } else { Ok(pool) }
    }

    /// The I/O thread, which is started if need be.
    fn io(&self) -> Result<&Arc<Io>> {
        if let Some(io) = self.io.get() {
            return Ok(io);
        }
        let io = Io::get()?;
        Ok(self.io.get_or_init(|| io))
    }

    /// Finds links for asynchronous calls that wait for one.
    pub fn recruit(&self, pool: MutexGuard<'_, Pool>) {
        let mut pool = self.unpark(pool);
        if pool.large.is_empty() && pool.in_use >= pool.lanes_for_calls() {
            // As most of the time: those in use serve the queue when they come back.
            let is_left = !pool.queue.is_empty();
            drop(pool);
            if is_left {
                self.watch();
            }
            return;
        }
        // Handed over once the pool is free again.
        let mut jobs = Vec::new();
        while !pool.large.is_empty()
            && pool.has_idle()
            && let Some(mut link) = pool.idle.pop()
        {
            link.turn.round = ASIDE;
            if pool.load_large(&mut link) {
                jobs.push(link);
            } else {
                pool.idle.push(link);
            }
        }
        while !pool.queue.is_empty()
            && pool.in_use < pool.lanes_for_calls()
            && pool.has_idle()
            && let Some(mut link) = pool.idle.pop()
        {
            pool.load_queued(&mut link);
            if link.batch.entries.is_empty() {
                pool.idle.push(link);
            } else {
                pool.in_use += 1;
                link.turn.round = pool.round;
                jobs.push(link);
            }
        }
        let needs_lane = !pool.queue.is_empty() && pool.in_use < pool.lanes_for_calls();
        let most = if pool.live() > 0 { MOST_DIALLED } else { 1 };
        let wanted = (pool.large.len() + usize::from(needs_lane)).min(most);
        let mut dials = 0;
        while pool.dialling < wanted && pool.has_room() {
            pool.dialling += 1;
            pool.count += 1;
            dials += 1;
        }
        let is_left = !pool.queue.is_empty() || !pool.large.is_empty();
        drop(pool);
        jobs.into_iter().for_each(|link| self.to_io(link));
        for _ in 0..dials {
            self.dial_aside();
        }
        if is_left {
            self.watch();
        }
    }

    /// Leaves what is queued, or parked, to a thread that is likely to come.
    pub fn defer(&self, mut pool: MutexGuard<'_, Pool>) {
        pool.deferred = true;
        let looks_late = mem::take(&mut pool.looks_late);
        drop(pool);
        if looks_late {
            self.is_watched.store(true, Ordering::SeqCst);
            self.have_watched();
        } else {
            self.watch();
        }
    }

    /// Has the I/O thread go on with a link that was left to a thread.
    pub fn unpark<'a>(&'a self, mut pool: MutexGuard<'a, Pool>) -> MutexGuard<'a, Pool> {
        let Some(link) = pool.parked.take() else { return pool };
        drop(pool);
        self.to_io(link);
        self.pool()
    }

    /// Has the I/O thread look after what is queued: the links in use may be slow.
    fn watch(&self) {
        if !self.is_watched.load(Ordering::SeqCst) && !self.is_watched.swap(true, Ordering::SeqCst)
        {
            self.have_watched();
        }
    }

    fn have_watched(&self) {
        if let Some(io) = self.io.get() {
            io.post(Mail::Watched(self.weak()));
        }
    }

    /// Dials a link, which is counted already, for whoever is next when it is there.
    pub fn dial_aside(&self) {
        let Some(links) = self.me() else { return };
        let error = Error::no_memory("a thread to connect on");
        let mut dial = Dial { links, error: Some(error) };
        // Where no thread can be had, the task is dropped, and fails.
        let _ = DIALLERS.run(move || dial.run());
    }

    /// Has the I/O thread carry out the batch of a link.
    pub fn to_io(&self, link: Box<Link>) {
        match (self.io.get(), self.me()) {
            (Some(io), Some(links)) => io.post(Mail::Job(Job::new(links, link))),
            _ => drop(Lease::of(self, link)),
        }
    }

    /// Asynchronous calls whose link broke go over another.
    pub fn queue_again(&self, mut again: Requests) {
        let mut pool = self.pool();
        if pool.closed {
            drop(pool);
            return again.entries.into_iter().for_each(|entry| entry.refuse(Kind::Closed.into()));
        }
        pool.queue.requests.append(&mut again);
        self.recruit(pool);
    }

    /// Looks at a link before its batch is begun; it comes back if it may be used. Otherwise the batch is back in the queue, or
    /// the link is being asked whether it is there.
    pub fn begin(&self, link: Box<Link>, now: Instant) -> Option<Box<Link>> {
        // Whatever happens in here, it is counted.
        let mut lease = Lease::of(self, link);
        let link = lease.link.as_deref_mut()?;
        if link.batch.sent > 0 {
            // A thread has begun it, and left.
            return lease.into_link();
        }
        if link.turn.round != ASIDE {
            self.top_up(link);
        }
        let idle = link.idle_at(now);
        let is_wary = link.batch.entries.iter().any(|entry| entry.second);
        if idle < UNSEEN && !is_wary {
            return lease.into_link();
        }
        if !link.is_sound() {
            lease.into_link().into_iter().for_each(|link| self.end_unbegun(link));
            return None;
        }
        if !self.must_be_asked(idle) {
            return lease.into_link();
        }
        let links = self.me()?;
        // Dropped in a thread that cannot be had, the batch fails as one that was not begun.
        let mut held = Held { links, link: lease.into_link() };
        let task = move || {
            let deadline = Deadline::after(held.links.timeout);
            let Some(link) = held.link.as_deref_mut() else { return };
            let bells = link.batch.bells;
            let mut batch = link.unload();
            batch.mark_unsent();
            let answers = answers_in_time(link, &deadline);
            batch.begin_send();
            link.load(&mut batch, bells);
            if answers {
                link.touch(Instant::now());
                if let Some(link) = held.link.take() {
                    held.links.to_io(link);
                }
            }
        };
        let _ = DIALLERS.run(task);
        None
    }

    /// Closes a link and puts its batch back, of which nothing was sent.
    fn end_unbegun(&self, mut link: Box<Link>) {
        let (bells, round) = (link.batch.bells, link.turn.round);
        let batch = link.unload();
        batch.mark_unsent();
        drop(Lease::of(self, link));
        let mut pool = self.pool();
        if pool.closed {
            drop(pool);
            batch.entries.into_iter().for_each(|entry| entry.refuse(Kind::Closed.into()));
            return self.bells.ring(bells);
        }
        if round == ASIDE {
            pool.large.push_front(batch);
        } else {
            pool.queue.put_back(batch, bells);
        }
        self.recruit(pool);
    }

    /// Fails the calls that wait for a link where there is none, and none can be had.
    fn fail_waiting(&self, mut pool: MutexGuard<'_, Pool>, error: &Error) {
        if pool.live() > 0 {
            return;
        }
        let mut failed = pool.queue.take_all();
        for mut large in mem::take(&mut pool.large) {
            failed.append(&mut large);
        }
        drop(pool);
        let mut delivery = Delivery::default();
        for entry in failed.entries {
            match entry.owner {
                Owner::Call(call) => delivery.push(call, Err(error.again())),
                Owner::Thread { .. } => entry.refuse(error.again()),
            }
        }
        self.bells.ring(u8::MAX);
    }

    /// Called by the I/O thread while asynchronous calls are queued. `loads`: how many batches links had been given when it looked
    /// last, `patience` ago. How many now, and how long until it is to look again.
    pub fn look_after(
        &self,
        loads: Option<usize>,
        patience: Duration,
    ) -> Option<(usize, Duration)> {
        let mut pool = self.pool();
        let was_deferred = mem::take(&mut pool.deferred);
        let is_left = pool.queue.has_calls() || !pool.large.is_empty() || pool.parked.is_some();
        if pool.closed || !(is_left || was_deferred) {
            self.is_watched.store(false, Ordering::SeqCst);
            return None;
        }
        let has_stood = loads == Some(pool.loads);
        if was_deferred && !(has_stood && pool.spared) {
            // It may have been left just now.
            pool.spared = has_stood;
            return Some((pool.loads, GRACE));
        }
        if has_stood {
            // The links in use are slow, or who was to come has not.
            pool.round += 1;
            pool.in_use = 0;
            pool.mispredicted();
        }
        pool.spared = false;
        pool.looks_late = true;
        let patience = match has_stood {
            true => (2 * patience).min(LONGEST_PATIENCE.max(pool.patience())),
            false => pool.patience(),
        };
        let again = (pool.loads, patience);
        self.recruit(pool);
        Some(again)
    }
}

/// A link in no thread's hands. Dropped, it is closed, and its batch goes over another.
struct Held {
    links: Arc<Links>,
    link: Option<Box<Link>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.links.end_unbegun(link);
        }
    }
}

/// The dialling of a link. Unless it comes to something, it fails whoever waits for it as it is dropped.
struct Dial {
    links: Arc<Links>,
    /// Taken when it comes to something.
    error: Option<Error>,
}

impl Dial {
    fn run(&mut self) {
        match self.links.dial(&Deadline::after(self.links.timeout)) {
            Ok(link) => {
                self.error = None;
                let mut pool = self.links.pool();
                pool.dialling -= 1;
                self.links.pass_on(pool, Box::new(link));
            }
            Err(error) => self.error = Some(error),
        }
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        if let Some(error) = self.error.take() {
            let mut pool = self.links.pool();
            pool.dialling -= 1;
            pool.count -= 1;
            // Under the same lock, or another link is dialled for those that are about to fail.
            self.links.fail_waiting(pool, &error);
            self.links.freed.notify_one();
        }
    }
}
