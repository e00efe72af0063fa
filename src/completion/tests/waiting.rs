//! Who waits on a queue, and its descriptor.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

fn take(queue: &CompletionQueue, room: usize, timeout: Option<Duration>) -> Result<usize> {
    queue.wait(room, timeout, |_, _| {})
}

fn is_readable(queue: &CompletionQueue) -> bool {
    // Who asks for the descriptor watches it from then on.
    queue.fd().unwrap();
    queue.is_readable()
}

/// Until so many sleep in it.
fn until_asleep(queue: &CompletionQueue, wanted: usize) {
    while queue.sleeping() < wanted {
        thread::yield_now();
    }
}

#[test]
fn the_descriptor_is_readable_however_a_call_completes() {
    let bench = Bench::new();
    let queue = &bench.queue;
    let drain = || {
        while take(queue, 1, Some(Duration::ZERO)).unwrap() > 0 {}
        assert!(!is_readable(queue));
    };
    drain();
    let call = bench.read(1);
    assert!(!is_readable(queue));
    call.complete(done());
    assert!(is_readable(queue));
    drain();
    let (_first, _second) = (bench.read(1), bench.read(1));
    queue.cancel(1).unwrap();
    assert!(is_readable(queue));
    take(queue, 1, None).unwrap();
    assert!(is_readable(queue), "one is left");
    drain();
    let late = bench.promise(1, Access::Read, Duration::ZERO);
    bench.inflight.expire(late.deadline());
    assert!(is_readable(queue));
    drain();
    drop(bench.read(1));
    assert!(is_readable(queue));
    drain();
    let mut delivery = Delivery::default();
    (0..10).for_each(|tag| delivery.push(bench.read(tag), done()));
    assert!(!is_readable(queue));
    delivery.deliver();
    assert!(is_readable(queue));
    drain();
    let _call = bench.read(1);
    bench.inflight.close();
    assert!(is_readable(queue));
    drain();
}

#[test]
fn a_delivery_of_many_wakes_all_that_can_take() {
    for room in [1, 2, 5] {
        let bench = Bench::new();
        let left = AtomicUsize::new(20);
        thread::scope(|scope| {
            for _ in 0..20 / room {
                scope.spawn(|| {
                    let mut own = 0;
                    while own < room {
                        own += take(&bench.queue, room - own, None).unwrap();
                    }
                    left.fetch_sub(own, Ordering::Relaxed);
                });
            }
            until_asleep(&bench.queue, 20 / room);
            let mut delivery = Delivery::default();
            (0..20).for_each(|tag| delivery.push(bench.read(tag), done()));
            delivery.deliver();
        });
        assert_eq!(left.into_inner(), 0);
    }
}

#[test]
fn closing_wakes_all_who_wait() {
    let bench = Bench::new();
    thread::scope(|scope| {
        for timeout in [None, None, Some(LONG), Some(Duration::MAX)] {
            let queue = &bench.queue;
            scope.spawn(move || {
                let closed = take(queue, 1, timeout).unwrap_err();
                assert_eq!(Outcome::of_error(&closed), Outcome::Closed);
            });
        }
        until_asleep(&bench.queue, 4);
        bench.queue.close().unwrap();
    });
    assert!(bench.queue.close().is_ok(), "the handle is what is closed once");
}

#[test]
fn each_of_many_completions_finds_a_waiter() {
    let bench = Bench::new();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    assert_eq!(take(&bench.queue, 1, None).unwrap(), 1);
                }
            });
        }
        for tag in 0..3000 {
            bench.read(tag).complete(done());
        }
    });
    assert_eq!(bench.taken(), []);
}

#[test]
fn completions_are_taken_in_the_order_that_the_calls_completed_in_and_as_many_as_there_is_room_for()
{
    let bench = Bench::new();
    let calls: Vec<Promise> = (0..5).map(|tag| bench.read(tag)).collect();
    calls.into_iter().rev().for_each(|call| assert!(call.complete(done())));
    let mut taken = Vec::new();
    for (room, wanted) in [(2, 2), (1, 1), (9, 2), (9, 0)] {
        let put = |index, completion: Completion| taken.push((index, completion.tag));
        assert_eq!(bench.queue.wait(room, Some(Duration::ZERO), put).unwrap(), wanted);
    }
    assert_eq!(taken, [(0, 4), (1, 3), (0, 2), (0, 1), (1, 0)]);
}

#[test]
fn a_wait_for_nothing_ends_at_its_time() {
    let bench = Bench::new();
    let start = std::time::Instant::now();
    assert_eq!(take(&bench.queue, 1, Some(Duration::from_millis(5))).unwrap(), 0);
    assert!(start.elapsed() >= Duration::from_millis(5));
}

#[test]
fn a_descriptor_that_is_asked_for_late_tells_of_what_is_there() {
    let bench = Bench::new();
    bench.read(1).complete(done());
    assert!(!bench.queue.is_readable(), "it costs no system call until then");
    let fd = bench.queue.fd().unwrap();
    assert!(bench.queue.is_readable());
    assert_eq!(bench.queue.fd().unwrap(), fd);
}

#[test]
fn a_tag_that_no_outstanding_call_has_cancels_nothing() {
    let bench = Bench::new();
    let call = bench.read(1);
    assert!(!bench.queue.cancel(2).unwrap());
    call.complete(done());
    assert!(!bench.queue.cancel(1).unwrap());
    assert_eq!(bench.taken(), [(1, Outcome::Done, false)]);
}
