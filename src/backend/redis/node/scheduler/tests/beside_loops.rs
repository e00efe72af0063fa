//! What loops have is there for others, and what others have is not the loops'.

use super::loops::{Polled, busy_loop, inflight, park, submit};
use super::*;

/// A loop that waits for a dial beside a link that is idle by now.
#[test]
fn a_loop_whose_dial_takes_long_has_the_link_that_comes_back() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let link = scheduler.take_at_hand().unwrap();
    let ForLoop::Entrusted(actions) = submit(&mut scheduler, &mut polled) else { panic!() };
    assert_eq!(actions.dial, 1);
    let mut taken = usize::from(scheduler.give_back(link, true).is_err());
    for _ in 0..10 {
        for suspect in scheduler.look_at_loops(Instant::now()).unwrap() {
            let actions = scheduler.take_lying(&suspect, Instant::now);
            taken += actions.drive.len() + usize::from(actions.attach.is_some());
        }
    }
    assert!(taken > 0, "the call waits for the dial beside an idle link");
}

#[test]
fn a_thread_has_the_link_of_a_loop_where_the_server_has_no_room_for_another() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    let ForStep::Link(link) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
    scheduler.turned_away(Instant::now());
    assert_eq!(scheduler.admit(Instant::now), Admission::Queue);
    let queued = enqueue(&mut scheduler);
    assert!(queued.lead.is_none() && queued.visit.is_none());
    assert!(!park(&mut scheduler, link), "the thread waits for a link, and there is no other");
}

#[test]
fn a_thread_that_has_waited_has_the_link_of_a_loop_where_no_other_can_be_dialled() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let socket = busy_loop(&mut scheduler, &mut polled);
    let Admission::Dial(own) = scheduler.admit(Instant::now) else { panic!() };
    let _ = scheduler.own_dial_over(own, Dialled::Nothing, Instant::now);
    let waiter = enqueue(&mut scheduler).ticket.waiter;
    let since = Instant::now();
    let leads =
        (0..10).any(|_| match scheduler.queueing_bound_over(&waiter, since, Instant::now) {
            WhatNext::Lead(_) => true,
            WhatNext::Dial => {
                let failed = scheduler.dial_failed(Instant::now).ok().unwrap();
                !failed.drive.is_empty() || failed.hand_over.is_some()
            }
            _ => false,
        });
    drop(socket);
    assert!(leads, "the only link that there is lies parked");
}

#[test]
fn a_link_that_others_wait_for_is_not_parked_for_a_loop() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    let _waiter = enqueue(&mut scheduler).ticket.waiter;
    let link = scheduler.take_link_to_drive(polled.queue.id(), Instant::now).ok().unwrap();
    let has_thread = link.batch.entries().any(|entry| entry.thread().is_some());
    assert!(!has_thread || !park(&mut scheduler, link), "the thread would wait for the loop");
}

#[test]
fn calls_that_are_cancelled_while_a_loop_waits_for_its_link_are_forgotten() {
    let mut scheduler: Scheduler<Probe> = Scheduler::new(1, true);
    let mut polled = Polled::new(&inflight());
    for _ in 0..20_000 {
        drop(submit(&mut scheduler, &mut polled));
        assert!(polled.queue.cancel(polled.tag).unwrap());
    }
    scheduler.forget_unwanted();
    scheduler.forget_completed();
    assert_eq!(polled.inflight.count(), 0);
    assert!(scheduler.loops.gathered() <= 4096, "{} are kept", scheduler.loops.gathered());
}

/// A thread of another queue has left something for itself.
#[test]
fn a_loop_that_steps_leaves_what_is_left_to_threads_of_other_queues() {
    let inflight = inflight();
    let (mut scheduler, mut polled) = (with_idle(2), Polled::new(&inflight));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    scheduler.deferral.defer();
    assert!(!scheduler.is_deferred_to(polled.queue.id()), "nothing of this queue's is deferred");
}

#[test]
fn a_call_that_is_gathered_behind_one_that_was_cancelled_is_told_of() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(Some(_))));
    for tag in 1..=polled.tag {
        assert!(polled.queue.cancel(tag).unwrap());
    }
    polled.queue.wait(8, Some(Duration::ZERO), |_, _| {}).unwrap();
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(Some(_))));
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(None)));
}
