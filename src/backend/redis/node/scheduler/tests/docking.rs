//! Links that are docked while their drivers sleep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::random::World;
use super::{Probe, encode, enqueue, with_idle};
use crate::backend::redis::link::connection::Seat;
use crate::backend::redis::link::waiter::Waiter;
use crate::backend::redis::node::scheduler::*;
use crate::backend::redis::wire::replies::Expect;

impl World {
    pub fn begin_visit(&mut self, visit: Option<Visit<Probe>>) {
        let Some(visit) = visit else { return };
        self.see("a visit");
        self.visits.push(visit);
    }

    /// Links that are docked, also those in the hands of visitors.
    pub fn docked(&self) -> impl Iterator<Item = &Probe> {
        self.scheduler.dock.links().chain(self.visits.iter().map(|visit| &*visit.link))
    }

    pub fn dock_event(&mut self) {
        match self.random.below(4) {
            0 => self.dock_link(),
            1 => self.driver_comes(),
            2 => self.visitor_leaves(),
            _ if self.random.one_in(8) => self.scheduler.measure(Duration::from_micros(50)),
            _ => (0..1024).for_each(|_| self.scheduler.measure(Duration::from_millis(300))),
        }
    }

    /// A thread of its batch drives a link, and sleeps.
    fn dock_link(&mut self) {
        let Some(link) = self.take_out() else { return };
        let driver = link.batch.next_driver(None).map(|waiting| waiting.waiter);
        let (Some(driver), Seat::Shared { .. }) = (driver, link.seat) else {
            return self.out.push(link);
        };
        let heard = (!self.random.one_in(8)).then_some(self.now);
        match self.scheduler.dock(link, &driver, heard) {
            Ok(()) => {
                self.see("a docked link");
                self.drivers.push(driver);
            }
            Err(link) => {
                assert!(!self.scheduler.closed);
                self.out.push(link);
            }
        }
    }

    fn driver_comes(&mut self) {
        let Some(index) = self.drivers.len().checked_sub(1) else { return };
        let index = self.random.below(index + 1);
        let driver = Arc::clone(&self.drivers[index]);
        match self.scheduler.undock(&driver) {
            Some(link) => {
                assert!(link.batch.find(&driver).is_some());
                self.drivers.swap_remove(index);
                self.out.push(link);
            }
            None => {
                self.see("a link called for");
                assert!(self.visits.iter().any(|visit| Arc::ptr_eq(&visit.driver, &driver)));
            }
        }
    }

    fn visitor_leaves(&mut self) {
        let Some(index) = self.visits.len().checked_sub(1) else { return };
        let Visit { link, driver } = self.visits.swap_remove(self.random.below(index + 1));
        match self.scheduler.end_visit(link, &driver) {
            Visited::Docked => {}
            Visited::More(link) => self.visits.push(Visit { link, driver }),
            Visited::HandOver(link) => {
                self.drivers.retain(|other| !Arc::ptr_eq(other, &driver));
                self.out.push(link);
            }
        }
    }

    pub fn check_dock(&self) {
        assert_eq!(self.docked().count(), self.drivers.len());
        for driver in &self.drivers {
            let driven = self.docked().filter(|link| link.batch.find(driver).is_some());
            assert_eq!(driven.count(), 1, "its own call is in the batch that it drives");
        }
    }
}

/// One with so many idle links to a server that is far away, and another thread's call in the batch of the first, which
/// is docked.
fn far_away(links: usize) -> (Scheduler<Probe>, Arc<Waiter<Probe>>) {
    let mut scheduler = with_idle(links);
    (0..4).for_each(|_| scheduler.measure(Duration::from_millis(2)));
    assert!(scheduler.is_far());
    scheduler.contention.see(2);
    assert!(scheduler.take_at_hand().is_none(), "who comes now may be joined by others");
    let Queued { ticket, lead, .. } = enqueue(&mut scheduler);
    let mut link = lead.unwrap();
    scheduler.load(&mut link);
    assert!(scheduler.dock(link, &ticket.waiter, Some(Instant::now())).is_ok());
    (scheduler, ticket.waiter)
}

/// Joins the queue, and a docked link if there is any.
fn come(scheduler: &mut Scheduler<Probe>) -> Option<Visit<Probe>> {
    scheduler.most = scheduler.count;
    assert_eq!(scheduler.admit(Instant::now), Admission::Queue);
    enqueue(scheduler).visit
}

#[test]
fn who_comes_joins_the_batch_of_a_link_whose_driver_sleeps() {
    let (mut scheduler, driver) = far_away(1);
    let Visit { link, driver: of } = come(&mut scheduler).unwrap();
    assert!(Arc::ptr_eq(&of, &driver) && link.batch.left() == 2);
    // Another comes while the first has it, and a third while that is docked again.
    assert!(come(&mut scheduler).is_none());
    let Visited::More(link) = scheduler.end_visit(link, &driver) else { panic!() };
    assert_eq!(link.batch.left(), 3);
    assert!(matches!(scheduler.end_visit(link, &driver), Visited::Docked));
    let visit = come(&mut scheduler).unwrap();
    assert!(matches!(scheduler.end_visit(visit.link, &driver), Visited::Docked));
    assert_eq!(scheduler.undock(&driver).unwrap().batch.left(), 4);
}

#[test]
fn a_driver_that_comes_during_a_visit_is_handed_the_link() {
    let (mut scheduler, driver) = far_away(1);
    let Visit { link, .. } = come(&mut scheduler).unwrap();
    assert!(scheduler.undock(&driver).is_none());
    assert!(matches!(scheduler.end_visit(link, &driver), Visited::HandOver(_)));
    assert!(scheduler.undock(&driver).is_none(), "it is not docked any more");
}

#[test]
fn what_is_queued_goes_before_a_link_is_docked() {
    let (mut scheduler, driver) = far_away(1);
    let link = scheduler.undock(&driver).unwrap();
    assert!(come(&mut scheduler).is_none());
    let link = scheduler.dock(link, &driver, Some(Instant::now())).unwrap_err();
    assert_eq!(link.batch.left(), 2);
    assert!(scheduler.dock(link, &driver, Some(Instant::now())).is_ok());
}

#[test]
fn a_link_that_is_silent_or_in_the_middle_of_a_reply_takes_nothing_more() {
    let (mut scheduler, driver) = far_away(1);
    let link = scheduler.undock(&driver).unwrap();
    assert!(scheduler.dock(link, &driver, None).is_ok());
    assert!(come(&mut scheduler).is_none());
    let link = scheduler.undock(&driver).unwrap();
    let long_ago = Instant::now().checked_sub(Duration::from_millis(9)).unwrap();
    let Err(link) = scheduler.dock(link, &driver, Some(long_ago)) else { panic!() };
    assert!(scheduler.dock(link, &driver, Some(long_ago)).is_ok());
    assert!(come(&mut scheduler).is_none(), "several round trips have passed");
}

#[test]
fn silent_links_are_replaced_after_a_while_and_count_again_when_they_answer() {
    let (mut scheduler, driver) = far_away(1);
    let link = scheduler.undock(&driver).unwrap();
    assert!(scheduler.dock(link, &driver, None).is_ok());
    scheduler.most = 1;
    let waiter = Arc::new(Waiter::default());
    let queued = scheduler.enqueue(Arc::clone(&waiter), encode, Expect::Ping, Instant::now);
    assert!(queued.unwrap().visit.is_none());
    scheduler.most = 2;
    scheduler.dials = IN_USE_FAR;
    let now = Instant::now();
    let next = scheduler.queueing_bound_over(&waiter, now, || now);
    assert!(matches!(next, WhatNext::Wait), "the links may be held up");
    scheduler.dials = 0;
    let later = now + Duration::from_millis(60);
    assert!(matches!(scheduler.queueing_bound_over(&waiter, now, || later), WhatNext::Dial));
    assert_eq!(scheduler.in_use, 0, "they count no more");
    let link = scheduler.undock(&driver).unwrap();
    let heard = later + Duration::from_millis(1);
    let Err(link) = scheduler.dock(link, &driver, Some(heard)) else { panic!() };
    assert!(scheduler.dock(link, &driver, Some(heard)).is_ok());
    assert_eq!(scheduler.in_use, 1);
}

#[test]
fn a_link_that_somebody_wants_for_itself_takes_nothing_more() {
    let (mut scheduler, driver) = far_away(1);
    scheduler.begin_to_wait();
    assert!(come(&mut scheduler).is_none());
    let link = scheduler.undock(&driver).unwrap();
    assert!(scheduler.dock(link, &driver, Some(Instant::now())).is_ok());
    assert_eq!(scheduler.queue.len(), 1);
}

#[test]
fn as_many_links_as_serve_best_are_dialled_and_no_more() {
    for (contend, most) in [(false, IN_USE_FAR), (true, IN_USE_FAR_CONTENDED)] {
        let (mut scheduler, _driver) = far_away(1);
        scheduler.most = usize::MAX;
        if !contend {
            (0..16).for_each(|_| scheduler.contention.see(1));
        }
        for _ in 1..most {
            assert!(matches!(scheduler.admit(Instant::now), Admission::Dial(_)));
        }
        assert_eq!(scheduler.admit(Instant::now), Admission::Queue);
        assert!(enqueue(&mut scheduler).visit.is_some());
    }
}

#[test]
fn an_asynchronous_call_visits_as_well() {
    use super::outside::promise;
    use crate::completion::{CompletionQueue, Inflight};
    let (mut scheduler, driver) = far_away(1);
    scheduler.most = 1;
    let (queue, inflight) =
        (Arc::new(CompletionQueue::open().unwrap()), Arc::new(Inflight::new(usize::MAX)));
    let call = promise(&queue, &inflight, 1);
    let submitted = scheduler.submit(call, encode, Expect::Ping, |_| false, Instant::now);
    let Ok(Submitted::Entrusted(Actions { visit: Some(visit), .. })) = submitted else { panic!() };
    assert_eq!(visit.link.batch.left(), 2);
    assert!(matches!(scheduler.end_visit(visit.link, &driver), Visited::Docked));
}

#[test]
fn a_link_that_ends_in_a_visitors_hands_is_nowhere() {
    let (mut scheduler, driver) = far_away(1);
    let visit = come(&mut scheduler).unwrap();
    assert!(Arc::ptr_eq(&visit.driver, &driver));
    let _ = scheduler.lost(visit.link.seat, Instant::now);
    scheduler.forget_docked(&visit.driver);
    assert!(scheduler.undock(&driver).is_none());
    assert_eq!((scheduler.count, scheduler.dock.links().count()), (0, 0));
    assert!(matches!(scheduler.end_visit(visit.link, &driver), Visited::HandOver(_)));
}
