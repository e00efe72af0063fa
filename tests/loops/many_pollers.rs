//! Several threads that poll one queue: one of them drives, and the others sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::support::capi::*;
use super::support::poll;
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, bulk, echo};
use super::support::server::Setup;
use super::{OK, is_value};

const POLLERS: usize = 8;
/// A trickled reply comes in so many pieces, each once the one before has had the time to be noticed.
const PIECES: usize = 300;

const VALUE: u64 = 1;
const OTHER: u64 = 2;

fn trickled() -> Vec<u8> {
    vec![b'v'; PIECES * 1000]
}

/// A server that trickles one value.
fn trickling(pieces: Arc<AtomicUsize>) -> Scripted {
    Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            if command.get(1).is_none_or(|key| key != b"trickled") {
                peer.send(echo(&command));
                continue;
            }
            for piece in bulk(trickled()).chunks(1000) {
                super::support::pause::before_the_next_look();
                pieces.fetch_add(1, Ordering::SeqCst);
                if !peer.send(piece) {
                    return;
                }
            }
        }
    })
}

/// Polls until it is over; how often a turn found nothing.
fn poll_along(queue: &Queue, way: Way, over: &AtomicBool, taken: &AtomicUsize) -> usize {
    let mut poller = Poller::new(queue, way, Watched::Duplicate);
    let mut in_vain = 0;
    while !over.load(Ordering::SeqCst) {
        // The time-out is for the end of the test.
        if !poller.wait(20) {
            continue;
        }
        let some = drain(queue, 4);
        in_vain += usize::from(some.is_empty());
        for completion in some {
            is_value(completion, trickled());
            taken.fetch_add(1, Ordering::SeqCst);
        }
    }
    in_vain
}

/// How many turns found nothing, of so many pollers, while one large value trickles in.
fn count_in_vain(way: Way, a_waiter_drives: bool) -> (usize, usize) {
    let pieces = Arc::new(AtomicUsize::new(0));
    let server = trickling(Arc::clone(&pieces));
    let url = server.url("max_connections=1&socket_timeout=600");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    assert_eq!(cache.ping(), OK);
    let (over, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    let in_vain: usize = thread::scope(|scope| {
        let (queue, over, taken) = (&queue, &over, &taken);
        let waiter = a_waiter_drives.then(|| {
            scope.spawn(move || {
                for completion in queue.wait(1, 600_000).unwrap() {
                    if completion.tag() == VALUE {
                        is_value(completion, trickled());
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        });
        if a_waiter_drives {
            super::support::pause::let_calls_gather();
        }
        let threads: Vec<_> = (0..POLLERS)
            .map(|_| scope.spawn(move || poll_along(queue, way, over, taken)))
            .collect();
        assert_eq!(cache.to(queue).get(VALUE, "trickled"), OK);
        poll("the value has come", || (taken.load(Ordering::SeqCst) == 1).then_some(()));
        over.store(true, Ordering::SeqCst);
        let in_vain = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        // One of the pollers may have taken what the waiter waited for.
        poll("the waiter has something", || {
            let Some(waiter) = waiter.as_ref().filter(|waiter| !waiter.is_finished()) else {
                return Some(());
            };
            assert_eq!(Cache::must_open("memory://").to(queue).ping(OTHER), OK);
            waiter.is_finished().then_some(())
        });
        in_vain
    });
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    (in_vain, pieces.load(Ordering::SeqCst))
}

/// While a thread drives the link, it makes no descriptor readable: the others are woken by what completes, and when
/// the driver comes or goes.
#[test]
fn pollers_sleep_while_a_waiting_thread_drives() {
    for way in PLAIN_WAYS {
        let (in_vain, pieces) = count_in_vain(way, true);
        println!("{way:?}: {in_vain} turns in vain, {pieces} pieces");
        assert!(in_vain <= POLLERS * 12, "{way:?}: {in_vain} turns in vain, {pieces} pieces");
    }
}

/// Each piece wakes all of them, for all of them wait for it; none looks again and again.
#[test]
fn pollers_do_not_spin_while_one_of_them_makes_a_step() {
    for way in PLAIN_WAYS {
        let (in_vain, pieces) = count_in_vain(way, false);
        println!("{way:?}: {in_vain} turns in vain, {pieces} pieces");
        assert!(in_vain <= POLLERS * (pieces + 50), "{way:?}: {in_vain} in vain, {pieces} pieces");
    }
}

/// Two loops, of which one waits for its call behind the other's, on one link: what comes for the other wakes it not.
#[test]
fn a_loop_sleeps_while_another_drives_the_link_that_both_use() {
    let pieces = Arc::new(AtomicUsize::new(0));
    let server = trickling(Arc::clone(&pieces));
    for way in PLAIN_WAYS {
        let url = server.url("max_connections=1&socket_timeout=600");
        let (cache, first, second) = (Cache::must_open(&url), Queue::open(), Queue::open());
        let (over, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
        assert_eq!(cache.ping(), OK);
        let before = pieces.load(Ordering::SeqCst);
        assert_eq!(cache.to(&first).get(VALUE, "trickled"), OK);
        thread::scope(|scope| {
            let drives = scope.spawn(|| poll_along(&first, way, &over, &taken));
            poll("it trickles", || (pieces.load(Ordering::SeqCst) > before).then_some(()));
            let mut poller = Poller::new(&second, way, Watched::Duplicate);
            assert_eq!(cache.to(&second).get(OTHER, "k"), OK);
            let mut in_vain = 0;
            let completion = loop {
                poller.must_wake();
                if let Some(completion) = drain(&second, 4).pop() {
                    break completion;
                }
                in_vain += 1;
            };
            is_value(completion, "k");
            let pieces = pieces.load(Ordering::SeqCst) - before;
            println!("{way:?}: {in_vain} turns in vain, {pieces} pieces");
            assert!(in_vain <= pieces / 4, "{way:?}: {in_vain} turns in vain, {pieces} pieces");
            poll("the value has come", || (taken.load(Ordering::SeqCst) == 1).then_some(()));
            over.store(true, Ordering::SeqCst);
            drives.join().unwrap();
        });
    }
}

/// They take turns, and every call is reported to one of them.
#[test]
fn pollers_of_one_queue_share_its_completions() {
    const CALLS: u64 = 8000;
    let server = Setup::redis().start();
    for url in [server.tcp_url(), format!("{}?max_connections=1", server.unix_url())] {
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let seen: Vec<_> = (0..CALLS).map(|_| AtomicUsize::new(0)).collect();
        let (next, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for number in 0..POLLERS {
                let (cache, queue, seen, next, taken) = (&cache, &queue, &seen, &next, &taken);
                scope.spawn(move || {
                    let way = PLAIN_WAYS[number % 3];
                    let mut poller = Poller::new(queue, way, Watched::Duplicate);
                    while taken.load(Ordering::SeqCst) < CALLS as usize {
                        for _ in 0..3 {
                            let tag = next.fetch_add(1, Ordering::SeqCst) as u64;
                            if tag < CALLS {
                                assert_eq!(cache.to(queue).get(tag, "k"), OK);
                            }
                        }
                        // It has no edge where another has taken what it was for.
                        poller.wait(20);
                        for completion in drain(queue, 5) {
                            assert!(completion.outcome().is_ok());
                            seen[completion.tag() as usize].fetch_add(1, Ordering::SeqCst);
                            taken.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(seen.iter().all(|count| count.load(Ordering::SeqCst) == 1));
        queue.assert_empty();
    }
}
