//! The queue itself: waiting, its descriptor, its end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cachetory::ffi::queue::*;
use cachetory::ffi::types::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_getfd};

use crate::fixture::{Case, Fixture, case};
use crate::support::capi::*;
use crate::support::queue::*;

pub fn cases() -> Vec<Case> {
    vec![
        case(a_wait_returns_no_more_than_there_is_room_for),
        case(a_wait_with_nothing_to_come_returns_nothing_at_its_timeout),
        case(bad_waits_are_refused),
        case(the_descriptor_is_readable_while_completions_wait),
        case(an_edge_triggered_poller_is_told_of_every_change_from_none_to_some),
        case(a_descriptor_asked_for_after_a_completion_is_readable),
        case(closing_makes_a_duplicate_of_the_descriptor_readable),
        case(every_call_on_a_closed_queue_says_closed),
        case(closing_wakes_every_waiter),
        case(completions_that_nobody_takes_are_freed_with_the_queue),
        case(every_waiter_is_woken_while_completions_wait),
        case(a_cancel_without_such_a_call_finds_nothing),
        case(a_queue_closed_under_those_who_submit_says_closed),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);

fn a_wait_returns_no_more_than_there_is_room_for(f: &Fixture) {
    let queue = Queue::open();
    for tag in 0..10 {
        assert_eq!(f.cache.to(&queue).ping(tag), OK);
    }
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let some = queue.wait(3, 60_000).unwrap();
        assert!((1..=3).contains(&some.len()));
        seen.extend(some.iter().map(Completion::tag));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<u64>>());
    queue.assert_empty();
}

fn a_wait_with_nothing_to_come_returns_nothing_at_its_timeout(_: &Fixture) {
    let queue = Queue::open();
    assert_eq!(queue.wait(1, 0).unwrap().len(), 0);
    assert_eq!(queue.wait(8, 5).unwrap().len(), 0);
}

fn bad_waits_are_refused(f: &Fixture) {
    let queue = Queue::open();
    assert_eq!(f.cache.to(&queue).ping(1), OK);
    let mut out = rubbish_completion();
    let mut count = 77;
    let refused = |out: *mut _, capacity, timeout, count: *mut usize| {
        // SAFETY: NULL is what this is about; else the output, the count and the error are ours.
        let waited = outcome(|error| unsafe {
            cachetory_queue_wait(queue.raw(), out, capacity, timeout, count, error)
        });
        assert_eq!(waited.unwrap_err().status, CACHETORY_ERR_INVALID_ARGUMENT);
    };
    refused(&mut out, 0, 0, &mut count);
    assert_eq!(count, 0);
    refused(&mut out, 1, -1, &mut count);
    refused(&mut out, 1, i64::MIN, &mut count);
    refused(&mut out, 1, 0, ptr::null_mut());
    refused(ptr::null_mut(), 1, 0, &mut count);
    // SAFETY: NULL is what this is about.
    let opened = outcome(|error| unsafe { cachetory_queue_open(ptr::null_mut(), error) });
    assert_eq!(opened.unwrap_err().status, CACHETORY_ERR_INVALID_ARGUMENT);
    assert_eq!(queue.next().tag(), 1);
}

fn borrowed(queue: &Queue) -> BorrowedFd<'_> {
    let fd = queue.fd();
    assert!(fd >= 0);
    // SAFETY: open as long as the queue is.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Within `ms`.
fn is_readable(fd: impl AsFd, ms: i64) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout))).unwrap() == 1
}

fn the_descriptor_is_readable_while_completions_wait(f: &Fixture) {
    let queue = Queue::open();
    let fd = borrowed(&queue);
    assert_eq!(queue.fd(), fd.as_raw_fd(), "always the same");
    assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    // SAFETY: it asks for the flags of a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    assert_ne!(flags & libc::O_NONBLOCK, 0);
    for round in 0..3 {
        assert!(!is_readable(fd, 0), "{round}");
        assert_eq!(f.cache.to(&queue).ping(1), OK);
        assert_eq!(f.cache.to(&queue).ping(2), OK);
        assert!(is_readable(fd, 60_000));
        assert!(is_readable(fd, 60_000), "polling does not change it");
        let mut taken = queue.wait(1, 60_000).unwrap().len();
        while taken < 2 {
            assert!(is_readable(fd, 60_000), "as long as one is left, or when it comes");
            taken += queue.wait(1, 60_000).unwrap().len();
        }
    }
    assert!(!is_readable(fd, 0));
}

fn an_edge_triggered_poller_is_told_of_every_change_from_none_to_some(f: &Fixture) {
    use rustix::event::epoll::*;
    let queue = Queue::open();
    let epoll = create(CreateFlags::CLOEXEC).unwrap();
    let flags = EventFlags::IN | EventFlags::ET;
    add(&epoll, borrowed(&queue), EventData::new_u64(1), flags).unwrap();
    let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
    let mut events = Vec::with_capacity(4);
    let mut taken = 0;
    for round in 0..200 {
        for tag in 0..3 {
            assert_eq!(f.cache.to(&queue).ping(tag), OK);
        }
        // Until all of the round is taken: after each drain that left some to come there is another edge.
        while taken < (round + 1) * 3 {
            events.clear();
            wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&minute)).unwrap();
            assert!(!events.is_empty(), "an edge");
            loop {
                let some = queue.wait(2, 0).unwrap().len();
                taken += some;
                if some == 0 {
                    break;
                }
            }
        }
    }
    assert_eq!(taken, 600);
}

fn a_descriptor_asked_for_after_a_completion_is_readable(f: &Fixture) {
    let queue = Queue::open();
    assert_eq!(f.cache.to(&queue).ping(1), OK);
    // It is there before anybody watches.
    let first = queue.next();
    assert_eq!(f.cache.to(&queue).ping(2), OK);
    assert!(is_readable(borrowed(&queue), 60_000));
    assert_eq!((first.tag(), queue.next().tag()), (1, 2));
    assert!(!is_readable(borrowed(&queue), 0));
}

fn closing_makes_a_duplicate_of_the_descriptor_readable(_: &Fixture) {
    let queue = Queue::open();
    let duplicate: OwnedFd = borrowed(&queue).try_clone_to_owned().unwrap();
    thread::scope(|scope| {
        let poller = scope.spawn(|| is_readable(&duplicate, 60_000));
        assert_eq!(queue.close(), CACHETORY_OK);
        assert!(poller.join().unwrap());
    });
    assert!(is_readable(&duplicate, 0));
    assert_eq!(queue.fd(), -1);
}

#[track_caller]
fn assert_closed(queue: &Queue) {
    let closed = |outcome: Result<i32, Failure>| {
        let failure = outcome.unwrap_err();
        assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_CLOSED, 0));
    };
    closed(queue.wait(1, 0).map(|_| 0));
    closed(queue.wait(1, NO_EXPIRY).map(|_| 0));
    closed(queue.cancel(1));
    assert_eq!(queue.fd(), -1);
}

fn every_call_on_a_closed_queue_says_closed(_: &Fixture) {
    let queue = Queue::open();
    assert_eq!(queue.close(), CACHETORY_OK);
    assert_closed(&queue);
    assert_eq!(queue.close(), CACHETORY_ERR_CLOSED);
    let others: Vec<Queue> = (0..20).map(|_| Queue::open()).collect();
    assert_closed(&queue);
    others.iter().for_each(Queue::assert_empty);
    let none = Queue::from_raw(cachetory_queue_t { id: 0 });
    assert_closed(&none);
    assert_eq!(none.close(), CACHETORY_OK);
    for id in [1, u64::from(u32::MAX), u64::MAX, others[0].raw().id ^ 1 << 40] {
        let made_up = Queue::from_raw(cachetory_queue_t { id });
        assert_closed(&made_up);
        assert_eq!(made_up.close(), CACHETORY_ERR_CLOSED);
    }
}

fn closing_wakes_every_waiter(_: &Fixture) {
    for _ in 0..20 {
        let queue = Queue::open();
        let started = AtomicUsize::new(0);
        thread::scope(|scope| {
            for timeout in [NO_EXPIRY, NO_EXPIRY, 60_000, NO_EXPIRY - 1] {
                let (queue, started) = (&queue, &started);
                scope.spawn(move || {
                    started.fetch_add(1, Ordering::Relaxed);
                    let failure = queue.wait(1, timeout).map(|_| 0).unwrap_err();
                    assert_eq!(failure.status, CACHETORY_ERR_CLOSED);
                });
            }
            while started.load(Ordering::Relaxed) < 4 {
                thread::yield_now();
            }
            assert_eq!(queue.close(), CACHETORY_OK);
        });
    }
}

fn completions_that_nobody_takes_are_freed_with_the_queue(f: &Fixture) {
    let queue = Queue::open();
    let to = f.cache.to(&queue);
    assert_eq!(f.cache.set("key", vec![b'x'; 100_000]), OK);
    for tag in 0..100 {
        assert_eq!(to.get(tag, "key"), OK);
        assert_eq!(to.mget(tag, &["key", "none"]), OK);
    }
    drop(queue.next());
    // Some are complete, others may be in flight.
    assert_eq!(queue.close(), CACHETORY_OK);
    assert_eq!(f.cache.ping(), OK);
}

/// One wakeup for many completions must not leave another waiter asleep beside them.
fn every_waiter_is_woken_while_completions_wait(f: &Fixture) {
    for _ in 0..50 {
        let queue = Queue::open();
        thread::scope(|scope| {
            for _ in 0..4 {
                let queue = &queue;
                // Each takes only one.
                scope.spawn(|| assert_eq!(queue.wait(1, NO_EXPIRY).unwrap().len(), 1));
            }
            for tag in 0..4 {
                assert_eq!(f.cache.to(&queue).ping(tag), OK);
            }
        });
        queue.assert_empty();
    }
}

fn a_cancel_without_such_a_call_finds_nothing(f: &Fixture) {
    let queue = Queue::open();
    assert_eq!(queue.cancel(1), Ok(CACHETORY_NOT_FOUND));
    assert_eq!(f.cache.to(&queue).ping(1), OK);
    let completion = queue.next();
    assert_eq!((completion.tag(), completion.outcome()), (1, OK));
    assert_eq!(queue.cancel(1), Ok(CACHETORY_NOT_FOUND));
    queue.assert_empty();
}

fn a_queue_closed_under_those_who_submit_says_closed(f: &Fixture) {
    for _ in 0..20 {
        let queue = Queue::open();
        thread::scope(|scope| {
            for thread in 0..3 {
                let (to, queue) = (f.cache.to(&queue), &queue);
                scope.spawn(move || {
                    let failure = loop {
                        if let Err(failure) = to.get(thread, "key") {
                            break failure;
                        }
                        if let Err(failure) = queue.wait(4, 1) {
                            break failure;
                        }
                    };
                    assert_eq!(failure.status, CACHETORY_ERR_CLOSED, "{failure:?}");
                });
            }
            let _ = queue.wait(1, 60_000);
            assert_eq!(queue.close(), CACHETORY_OK);
        });
    }
}
