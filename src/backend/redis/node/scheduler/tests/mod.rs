//! A scheduler without a thread, a socket or a clock.

mod beside_loops;
mod docking;
mod health;
mod leaving;
mod loops;
mod outside;
mod random;
mod silent;

use std::sync::Arc;

use super::*;
use crate::backend::redis::wire::replies::Expect;
use crate::error::Result;

struct Probe {
    batch: Batch<Probe>,
    seat: Seat,
    membership: Option<Arc<Membership>>,
    vintage: Vintage,
    last_used: Instant,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            batch: Batch::default(),
            seat: Seat::default(),
            membership: None,
            vintage: Vintage::FIRST,
            last_used: Instant::now(),
        }
    }
}

impl Carrier for Probe {
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

    fn vintage(&self) -> Vintage {
        self.vintage
    }

    fn last_used(&self) -> Instant {
        self.last_used
    }
}

fn encode(out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(b"request");
    Ok(())
}

/// A scheduler with so many idle links, whose callers spin.
fn with_idle(links: usize) -> Scheduler<Probe> {
    let mut scheduler = Scheduler::new(8, true);
    for _ in 0..links {
        assert!(scheduler.reserve_out_of_band(Instant::now));
        assert!(scheduler.dialled(Box::default(), Instant::now).hand_over.is_none());
    }
    scheduler
}

fn enqueue(scheduler: &mut Scheduler<Probe>) -> Queued<Probe> {
    scheduler.enqueue(Arc::default(), encode, Expect::Ping, Instant::now).unwrap()
}

#[test]
fn a_link_given_back_goes_to_all_that_is_queued() {
    let mut scheduler = with_idle(2);
    let links = [scheduler.take_at_hand().unwrap(), scheduler.take_at_hand().unwrap()];
    assert!(
        scheduler.take_at_hand().is_none(),
        "as many are in use as serve spinning callers best"
    );
    assert_eq!(scheduler.admit(Instant::now), Admission::Queue);
    assert!(enqueue(&mut scheduler).lead.is_none());
    assert!(enqueue(&mut scheduler).lead.is_none());
    let [first, second] = links;
    let first = scheduler.give_back(first, true).err().unwrap();
    let handed = scheduler.assign(first).hand_over.unwrap();
    assert_eq!(handed.batch.left(), 2);
    assert!(scheduler.give_back(second, true).is_ok(), "nothing is left for another");
}

#[test]
fn contending_callers_share_one_link_and_combine() {
    let mut scheduler = with_idle(2);
    scheduler.contention.see(2);
    assert!(scheduler.take_at_hand().is_none(), "others are about to join");
    let queued = enqueue(&mut scheduler);
    assert!(queued.lead.is_some());
    assert!(enqueue(&mut scheduler).lead.is_none(), "one leads");
}

#[test]
fn a_few_who_sleep_have_a_link_each_and_those_who_contend_share_one() {
    let mut scheduler: Scheduler<Probe> = Scheduler::new(64, false);
    let dials: Vec<Admission> = (0..9).map(|_| scheduler.admit(Instant::now)).collect();
    assert!(dials[..8].iter().all(|admission| matches!(admission, Admission::Dial(_))));
    assert_eq!(dials[8], Admission::Queue);
    let mut scheduler = with_idle(2);
    scheduler.spins = false;
    scheduler.contention.see(9);
    assert!(enqueue(&mut scheduler).lead.is_some());
    assert!(enqueue(&mut scheduler).lead.is_none());
    let alone = with_idle(1).enqueue(Arc::default(), encode, Expect::Ping, Instant::now).unwrap();
    let crowded = enqueue(&mut scheduler).ticket;
    assert!(crowded.bound > alone.ticket.bound, "a large batch takes longer");
}

#[test]
fn an_impatient_caller_gets_another_link_and_the_slow_one_counts_no_more() {
    let mut scheduler = with_idle(3);
    let slow = scheduler.take_at_hand().unwrap();
    let _other = scheduler.take_at_hand().unwrap();
    let waiter = enqueue(&mut scheduler).ticket.waiter;
    scheduler.measure(Duration::from_micros(50));
    let since = Instant::now();
    let next = scheduler.queueing_bound_over(&waiter, since, Instant::now);
    let WhatNext::Lead(link) = next else { panic!() };
    assert_eq!(link.seat, Seat::Shared { epoch: scheduler.epoch });
    assert_eq!(scheduler.in_use, 1);
    assert_ne!(slow.seat, link.seat);
    assert!(scheduler.give_back(slow, true).is_err(), "the call is still queued");
    assert_eq!(scheduler.in_use, 1);
}

#[test]
fn one_thread_after_the_other_gets_a_link_of_its_own() {
    let mut scheduler: Scheduler<Probe> = Scheduler::new(1, true);
    let Checkout::Dial(reservation) = scheduler.check_out_exclusive(Instant::now) else { panic!() };
    assert!(matches!(scheduler.check_out_exclusive(Instant::now), Checkout::Wait));
    scheduler.begin_to_wait();
    let mut link = Box::new(Probe::default());
    let dialled = Dialled::Link(&mut *link);
    assert!(!scheduler.own_dial_over(reservation, dialled, Instant::now).wake_one);
    let link = scheduler.give_back(link, true).err().unwrap();
    assert!(scheduler.assign(link).wake_one);
    assert!(scheduler.take_at_hand().is_none(), "it is promised");
    assert!(matches!(scheduler.check_out_exclusive(Instant::now), Checkout::Link(_)));
}

#[test]
fn a_server_without_room_is_not_dialled_while_there_is_a_link() {
    let mut scheduler = with_idle(1);
    let now = Instant::now();
    scheduler.turned_away(now);
    let _link = scheduler.take_at_hand().unwrap();
    assert!(matches!(scheduler.check_out_exclusive(|| now), Checkout::Wait));
    let later = || now + Duration::from_secs(2);
    assert!(matches!(scheduler.check_out_exclusive(later), Checkout::Dial(_)));
}

#[test]
fn a_newer_watch_supersedes_the_older() {
    let mut scheduler = with_idle(0);
    let first = scheduler.deferral.defer().unwrap();
    assert!(scheduler.deferral.watch().is_none());
    let look = |scheduler: &mut Scheduler<Probe>, watch, seen| {
        scheduler.look_after(watch, seen, Duration::ZERO, Instant::now)
    };
    let loads = look(&mut scheduler, first, None).unwrap().loads;
    // Something is left to a thread, and has stood there once more: the next look is late for what is left after that.
    scheduler.deferral.defer();
    assert!(look(&mut scheduler, first, Some(loads)).is_some());
    scheduler.deferral.defer();
    assert!(look(&mut scheduler, first, Some(loads)).is_some());
    let second = scheduler.deferral.defer().unwrap();
    assert_ne!(first, second);
    assert!(look(&mut scheduler, first, Some(loads)).is_none());
    assert!(look(&mut scheduler, second, None).is_some());
}
