//! Calls of several threads that one of them carries out for all.

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use crate::backend::redis::link::batch::Owner;
use crate::backend::redis::link::connection::{Exchanged, Failure, Link};
use crate::backend::redis::link::waiter::{Completed, Waiter};
use crate::backend::redis::node::lease::Lease;
use crate::backend::redis::node::links::{LONGEST_PATIENCE, Links, PATIENCE};
use crate::backend::redis::node::pool::Pool;
use crate::backend::redis::wire::replies::Expect;
use crate::deadline::Deadline;
use crate::error::{Kind, Result};
use crate::op::Answer;

pub enum Entered<'a> {
    /// The call has a link to itself.
    Leased(Lease<'a>),
    /// It was carried out by another caller, or together with others'.
    Done(Exchanged<Answer>),
}

impl Links {
    /// A link for a small call that found none at hand, if the call is not carried out together with others.
    pub fn enter<'a>(
        &'a self,
        mut pool: MutexGuard<'a, Pool>,
        deadline: &Deadline,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<Entered<'a>> {
        pool = self.unpark(pool);
        if pool.closed {
            return Err(Kind::Closed.into());
        }
        if pool.is_free() && pool.idle.is_empty() && pool.has_room() {
            let lease = self.lease(&mut pool);
            drop(pool);
            let dialled = self.dialled(lease, deadline);
            pool = self.pool();
            match dialled {
                Ok(lease) => return Ok(Entered::Leased(lease)),
                Err(error) if pool.live() == 0 || pool.closed => return Err(error),
                // The server has no room for another, but there are others.
                Err(_) => {}
            }
        }
        let leads = pool.gathers() && pool.is_free() && pool.has_idle();
        let waiter = Waiter::own();
        let is_first = pool.queue.is_empty();
        let place = Place { owner: Arc::clone(&waiter), is_first, bell: pool.queue.batch };
        pool.queue.requests.add(Owner::Thread { waiter, is_first }, encode, expect)?;
        if leads {
            let lease = self.lease(&mut pool);
            drop(pool);
            self.gather(lease, &place.owner, deadline);
        } else {
            drop(pool);
        }
        self.wait(place, deadline).map(Entered::Done)
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
        if !owner.is_completed() {
            owner.spin(self.spin, deadline);
        }
        loop {
            match owner.take() {
                Some(Completed::Answer(answer)) => {
                    place.owner.keep();
                    return Ok(answer);
                }
                Some(Completed::Link(link)) => {
                    let mut lease = Lease::of(self, link);
                    lease.link.as_deref_mut().into_iter().for_each(|link| self.top_up(link));
                    self.drive(lease, owner, deadline);
                    continue;
                }
                None => {}
            }
            let bell = if place.is_first { &owner.bell } else { self.bells.get(place.bell) };
            bell.sleep(look.min(deadline.instant()), || owner.is_completed());
            if owner.is_completed() {
                continue;
            }
            let now = Instant::now();
            if now >= deadline.instant() {
                if let Some(ended) = self.leave(&place, deadline) {
                    return ended;
                }
            } else if now >= look {
                self.lose_patience(owner, deadline);
                patience = (patience * 2).min(LONGEST_PATIENCE);
                look = now + patience;
            }
        }
    }

    /// The deadline has passed. `None`: the call was completed at the last moment.
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
            Some(Completed::Answer(answer)) => Some(Ok(answer)),
            Some(Completed::Link(link)) => {
                self.drive(Lease::of(self, link), owner, deadline);
                None
            }
        }
    }

    /// Lets others of a crowd join, and carries out what is queued then.
    fn gather(&self, lease: Lease<'_>, owner: &Arc<Waiter>, deadline: &Deadline) {
        rustix::thread::sched_yield();
        match self.vet(lease, deadline, false) {
            Some(lease) => self.serve(self.pool(), lease, owner, deadline),
            None => self.lose_patience(owner, deadline),
        }
    }

    /// The links in use are slow: finds another for the queue.
    fn lose_patience(&self, owner: &Arc<Waiter>, deadline: &Deadline) {
        let mut pool = self.pool();
        loop {
            if pool.closed || pool.find(owner).is_none() {
                return;
            }
            pool.round += 1;
            pool.in_use = 0;
            if !pool.has_idle() {
                break;
            }
            let lease = self.lease(&mut pool);
            drop(pool);
            let sound = self.vet(lease, deadline, false);
            pool = self.pool();
            if let Some(lease) = sound {
                return self.serve(pool, lease, owner, deadline);
            }
        }
        if pool.dialling == 0 && pool.has_room() && pool.waiting == 0 {
            // Not here: this thread may be handed a link that comes back meanwhile.
            pool.dialling += 1;
            pool.count += 1;
            drop(pool);
            self.dial_aside();
        }
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
            pool.load_queued(link);
        }
        drop(pool);
        self.drive(lease, owner, deadline);
    }

    /// Drives the batch of a link, and hands the link on. The driver's own call may be part of it.
    fn drive(&self, mut lease: Lease<'_>, owner: &Arc<Waiter>, deadline: &Deadline) {
        let Some(link) = lease.link.as_deref_mut() else { return };
        let driven = link.drive(deadline, &self.bells, owner);
        lease.after(driven, Some(owner));
    }

    /// What was queued since the link was handed over goes with it.
    pub fn top_up(&self, link: &mut Link) {
        if link.batch.sent == 0 {
            self.pool().top_up(link);
        }
    }
}
