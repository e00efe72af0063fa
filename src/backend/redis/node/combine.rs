//! Calls of several threads that one of them drives for all.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::Node;
use super::lease::Lease;
use super::revalidate::Revalidate;
use super::scheduler::{
    Admission, LONGEST_QUEUEING_BOUND, QUEUEING_BOUND, Queued, Scheduler, Ticket, WhatNext,
};
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::drive::Blocking;
use crate::backend::redis::link::outcome::{Exchanged, Failure};
use crate::backend::redis::link::waiter::{SleepsOn, Waiter, Woken};
use crate::backend::redis::wire::replies::Expect;
use crate::deadline::Deadline;
use crate::error::{Kind, Result};
use crate::op::Answer;
use crate::{reserve, threads};

/// What a small call came to that found no link at hand.
pub enum Joined<'a> {
    /// It has a link to itself.
    Alone(Lease<'a>),
    /// It was carried out with others', or failed with them.
    Over(Exchanged<Answer>),
}

/// Where threads keep their waiters while they do not wait: each at its number, some at the same. A thread-local would
/// have to be dropped with its thread, and where there is no memory to take note of that, the C library ends the
/// process.
#[repr(align(128))]
struct Spare(Mutex<Option<Arc<Waiter<Link>>>>);

const SPARES: usize = 64;
static SPARE: [Spare; SPARES] = [const { Spare(Mutex::new(None)) }; SPARES];

/// The one that this thread may use, unless another does at the moment.
fn spare() -> Option<MutexGuard<'static, Option<Arc<Waiter<Link>>>>> {
    // Nobody is waited for: in a child process it may be a thread that is not there.
    SPARE[threads::number() % SPARES].0.try_lock().ok()
}

/// A waiter that was kept, or a new one.
fn own_waiter() -> Arc<Waiter<Link>> {
    spare().and_then(|mut spare| spare.take()).unwrap_or_default()
}

/// Keeps it for the next wait. Not to be called while somebody may still answer it.
fn keep_waiter(waiter: Arc<Waiter<Link>>) {
    if !reserve::holds(Arc::as_ptr(&waiter))
        && let Some(mut spare) = spare()
    {
        *spare = Some(waiter);
    }
}

impl Node {
    /// A small call that found no link at hand. `encode` writes its request.
    pub fn join<'a>(
        &'a self,
        scheduler: MutexGuard<'a, Scheduler<Link>>,
        deadline: &Deadline,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
        expect: Expect,
    ) -> Result<Joined<'a>> {
        let mut scheduler = self.unpark(scheduler);
        match scheduler.admit(Instant::now) {
            Admission::Refused => return Err(scheduler.refusal().into()),
            Admission::Queue => {}
            Admission::Dial(reservation) => {
                drop(scheduler);
                let dialled = self.dial_reserved(reservation, deadline);
                scheduler = self.scheduler();
                match dialled {
                    Ok(lease) => return Ok(Joined::Alone(lease)),
                    Err(error) if scheduler.links() == 0 || scheduler.is_closed() => {
                        return Err(error);
                    }
                    // The server has no room for another, but there are others.
                    Err(_) => {}
                }
            }
        }
        let queued = scheduler.enqueue(own_waiter(), encode, expect, Instant::now)?;
        drop(scheduler);
        let Queued { ticket, lead, visit } = queued;
        if let Some(link) = lead {
            self.combine(Lease::new(self, link), &ticket, deadline);
        } else if let Some(visit) = visit {
            self.visit(visit);
        }
        self.wait(ticket, deadline).map(Joined::Over)
    }

    /// Waits until the call is complete; drives it with others' when it is this one's turn.
    fn wait(&self, ticket: Ticket<Link>, deadline: &Deadline) -> Result<Exchanged<Answer>> {
        let waiter = &ticket.waiter;
        let mut bound = ticket.bound;
        let mut look = deadline.started() + bound;
        let beats = self.dialer.pulse().beats();
        // From far away nothing comes so soon.
        if !ticket.is_far && !waiter.is_completed() {
            waiter.spin(self.spin, deadline);
        }
        loop {
            match waiter.take() {
                Some(Woken::Answer(answer)) => {
                    if ticket.is_far && matches!(answer, Exchanged::Answered { .. }) {
                        self.measure_waited(&ticket, deadline);
                    }
                    keep_waiter(ticket.waiter);
                    return Ok(answer);
                }
                Some(Woken::Link(link)) => {
                    let mut lease = Lease::of(self, link);
                    self.top_up_unbegun(&mut lease);
                    self.drive_handed_over(lease, &ticket, deadline);
                    continue;
                }
                None => {}
            }
            let wakeup = match ticket.sleeps_on {
                SleepsOn::Own => &waiter.wakeup,
                SleepsOn::Batch => self.wakeups.get(ticket.batch),
            };
            wakeup.sleep(look.min(deadline.instant()), || waiter.is_completed());
            if waiter.is_completed() {
                continue;
            }
            let now = Instant::now();
            if now >= deadline.instant() {
                if let Some(ended) = self.leave(&ticket, deadline, beats) {
                    return ended;
                }
            } else if now >= look {
                self.find_another_link(&ticket, deadline);
                bound = (bound * 2).min(LONGEST_QUEUEING_BOUND.max(ticket.bound));
                look = now + bound;
            }
        }
    }

    /// The deadline has passed. `beats`: what had come from the server when the call was queued. `None`: something came
    /// at the last moment.
    fn leave(
        &self,
        ticket: &Ticket<Link>,
        deadline: &Deadline,
        beats: u32,
    ) -> Option<Result<Exchanged<Answer>>> {
        let waiter = &ticket.waiter;
        if self.scheduler().withdraw(waiter) {
            return Some(Err(Kind::Timeout("waiting for a free connection").into()));
        }
        match waiter.leave() {
            None => {
                let failure = Failure::sent(Kind::Timeout("waiting for the reply").into());
                let silent = self.dialer.pulse().beats() == beats;
                Some(Ok(Exchanged::Failed(Failure { silent, ..failure })))
            }
            Some(Woken::Answer(answer)) => Some(Ok(answer)),
            Some(Woken::Link(link)) => {
                self.drive_handed_over(Lease::of(self, link), ticket, deadline);
                None
            }
        }
    }

    /// Lets others join, and drives what is queued then.
    fn combine(&self, lease: Lease<'_>, ticket: &Ticket<Link>, deadline: &Deadline) {
        // To a server that is far away they may join when it is sent.
        if !ticket.is_far {
            rustix::thread::sched_yield();
        }
        match self.revalidate(lease, deadline, Revalidate::Used) {
            Some(lease) => self.drive_queued(lease, ticket, deadline),
            None => self.find_another_link(ticket, deadline),
        }
    }

    /// The links in use are slow: finds another for the queue.
    fn find_another_link(&self, ticket: &Ticket<Link>, deadline: &Deadline) {
        let (waiter, since) = (&ticket.waiter, deadline.started());
        loop {
            let next = self.scheduler().queueing_bound_over(waiter, since, Instant::now);
            match next {
                WhatNext::Wait => return,
                WhatNext::Dial => return self.dial_out_of_band(),
                WhatNext::Visit(visit) => return self.visit(visit),
                WhatNext::Entrust(link) => return self.to_reactor(link),
                WhatNext::Lead(link) => {
                    let lease = Lease::new(self, link);
                    if let Some(lease) = self.revalidate(lease, deadline, Revalidate::Used) {
                        return self.drive_queued(lease, ticket, deadline);
                    }
                }
            }
        }
    }

    /// Drives what is queued.
    fn drive_queued(&self, mut lease: Lease<'_>, ticket: &Ticket<Link>, deadline: &Deadline) {
        if let Ok(link) = lease.link() {
            self.scheduler().load(link);
        }
        self.drive_for_all(lease, ticket, deadline);
    }

    /// Drives the batch of a link that was handed over, if it may be used: otherwise the batch is in the queue again.
    fn drive_handed_over(&self, lease: Lease<'_>, ticket: &Ticket<Link>, deadline: &Deadline) {
        match self.look_at_loaded(lease) {
            Some(lease) => self.drive_for_all(lease, ticket, deadline),
            None => self.find_another_link(ticket, deadline),
        }
    }

    /// Drives the batch of a link, and hands the link on. The driver's own call may be part of it.
    fn drive_for_all(&self, mut lease: Lease<'_>, ticket: &Ticket<Link>, deadline: &Deadline) {
        let waiter = &ticket.waiter;
        let Ok(link) = lease.link() else { return };
        if link.batch.sent == 0 {
            link.touch(Instant::now());
        }
        if ticket.is_far && link.batch.find(waiter).is_some() {
            return self.drive_docked(lease, ticket, deadline);
        }
        let mut driver = Blocking::for_all(deadline, waiter, QUEUEING_BOUND);
        let driven = link.drive_batch(self, &mut driver);
        lease.after(driven, Some(waiter));
    }

    /// What was queued since the link was handed over goes with it.
    pub fn top_up_unbegun(&self, lease: &mut Lease<'_>) {
        if let Ok(link) = lease.link()
            && link.batch.sent == 0
        {
            self.scheduler().top_up(link);
        }
    }
}
