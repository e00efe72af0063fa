//! Synchronous and asynchronous calls on one handle: they share its connections, and each gets its own answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::caller::Caller;
use super::support::capi::*;
use super::support::gates::Gates;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};
use super::support::server::Setup;
use super::support::{pause, poll};
use super::{OK, is_value};

#[test]
fn synchronous_and_asynchronous_calls_get_each_its_own_answer() {
    let server = Setup::redis().start();
    for options in ["", "max_connections=1", "max_connections=1&spin_us=0", "max_connections=2"] {
        println!("{options}");
        let cache = Cache::must_open(&format!("{}?{options}", server.unix_url()));
        thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..150 {
                        let key = format!("{thread}:{}", round % 7);
                        let value = format!("{key}={round}");
                        assert_eq!(cache.set(&key, &value), OK);
                        assert_eq!(cache.get(&key), Ok(Some(value.into_bytes())));
                    }
                });
                scope.spawn(move || {
                    let queue = Queue::open();
                    let to = cache.to(&queue);
                    for round in 0..50 {
                        let key = |tag| format!("async {thread}:{tag}");
                        for tag in 0..20 {
                            let value = format!("{}={round}", key(tag));
                            assert_eq!(to.set(tag, key(tag), value, NO_EXPIRY, 0), OK);
                        }
                        assert!(queue.take(20).values().all(|each| each.outcome() == OK));
                        // A read submitted after a write's completion sees it.
                        for tag in 0..20 {
                            assert_eq!(to.get(tag, key(tag)), OK);
                        }
                        for (tag, completion) in queue.take(20) {
                            is_value(completion, format!("{}={round}", key(tag)));
                        }
                    }
                });
            }
        });
    }
}

/// One thread waits for another's large reply, asynchronous calls go past it.
#[test]
fn a_slow_answer_to_a_synchronous_call_holds_up_no_asynchronous_one() {
    let gates = Gates::default();
    let server = gates.server();
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    thread::scope(|scope| {
        let slow = scope.spawn(|| cache.get("held:1"));
        server.wait_for("GET", 1);
        for tag in 0..500 {
            assert_eq!(cache.to(&queue).get(tag, format!("{tag}")), OK);
        }
        for (tag, completion) in queue.take(500) {
            is_value(completion, format!("{tag}"));
        }
        assert!(!slow.is_finished());
        gates.open(1);
        assert_eq!(slow.join().unwrap(), Ok(Some(b"held:1".to_vec())));
    });
}

/// What a synchronous caller's batch leaves to the I/O thread, when the caller's deadline has passed, has been sent: it
/// is waited for, and neither sent again nor taken for an idle link.
#[test]
fn a_batch_whose_driver_leaves_is_not_sent_again() {
    for options in ["", "&health_check_interval=0.05"] {
        let gates = Gates::default();
        let gate = gates.clone();
        let server = Scripted::tcp(move |peer| {
            let Some(first) = peer.request() else { return };
            peer.hang_until(|| gate.is_open_for(&first));
            peer.send(echo(&first));
            // The batch: it is read, and answered in one when its second gate opens.
            let mut replies = Vec::new();
            for _ in 0..2 {
                let Some(command) = peer.request() else { return };
                replies.extend(echo(&command));
            }
            gate.hold(peer, 2);
            peer.send(replies);
            peer.serve(echo);
        });
        let url = server.url(&format!("socket_timeout=10&max_connections=1&spin_us=0{options}"));
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        let early_caller = Caller::default();
        thread::scope(|scope| {
            let first = scope.spawn(|| cache.get("held:1"));
            server.wait_for("GET", 1);
            let early = scope.spawn(|| {
                early_caller.is_about_to_call();
                cache.get("early")
            });
            early_caller.wait_until_queued();
            // So that there is time for the other after this one has run into its deadline.
            pause::let_deadlines_part(Duration::from_secs(5));
            assert_eq!(to.set(1, "late", "v", NO_EXPIRY, 0), OK);
            gates.open(1);
            assert_eq!(first.join().unwrap(), Ok(Some(b"held:1".to_vec())));
            let failure = early.join().unwrap().unwrap_err();
            assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
            gates.open(2);
            assert_eq!(queue.next().outcome(), OK);
            // The link has survived, and is in step.
            assert_eq!(cache.get("next"), Ok(Some(b"next".to_vec())));
            assert_eq!(to.get(2, "more"), OK);
            is_value(queue.next(), "more");
        });
        assert_eq!((server.connections(), server.count("SET")), (1, 1), "{options}");
    }
}

/// A thread's call and then asynchronous ones, in one batch: the thread's is answered, and the others are withheld
/// until it is known what became of it. Whether they came together like that, which depends on when the thread comes.
fn answer_only_the_thread(options: &str) -> bool {
    let gates = Gates::default();
    let gate = gates.clone();
    let together = Arc::new(AtomicBool::new(false));
    let is_together = Arc::clone(&together);
    let server = Scripted::tcp(move |peer| {
        let Some(first) = peer.request() else { return };
        peer.hang_until(|| gate.is_open_for(&first));
        peer.send(echo(&first));
        let Some(command) = peer.request() else { return };
        let withheld = command[1] == b"thread" && peer.has_more();
        is_together.store(withheld, Ordering::SeqCst);
        peer.send(echo(&command));
        if withheld {
            gate.hold(peer, 2);
        }
        peer.serve(echo);
    });
    let (cache, queue) = (Cache::must_open(&server.url(options)), Queue::open());
    let to = cache.to(&queue);
    let has_begun = AtomicBool::new(false);
    thread::scope(|scope| {
        let (cache, has_begun) = (&cache, &has_begun);
        let first = scope.spawn(|| cache.get("held:1"));
        server.wait_for("GET", 1);
        let thread = scope.spawn(|| {
            has_begun.store(true, Ordering::SeqCst);
            cache.get("thread")
        });
        poll("it has begun", || has_begun.load(Ordering::SeqCst).then_some(()));
        for tag in 0..5 {
            assert_eq!(to.get(tag, format!("{tag}")), OK);
        }
        gates.open(1);
        assert_eq!(first.join().unwrap(), Ok(Some(b"held:1".to_vec())));
        assert_eq!(thread.join().unwrap(), Ok(Some(b"thread".to_vec())));
        let together = together.load(Ordering::SeqCst);
        if together {
            queue.assert_empty();
        }
        gates.open(2);
        for (tag, completion) in queue.take(5) {
            is_value(completion, format!("{tag}"));
        }
        assert_eq!(server.connections(), 1);
        together
    })
}

/// If it did not, they would be late as well, for all were called at the same time.
#[test]
fn a_synchronous_caller_that_has_its_answer_does_not_wait_for_asynchronous_calls() {
    for options in ["", "&spin_us=0", "&spin_us=1000000"] {
        let options = format!("max_connections=1{options}");
        poll("a batch of both", || answer_only_the_thread(&options).then_some(()));
    }
}

#[test]
fn a_server_killed_under_both_kinds_of_call_fails_each_as_documented() {
    let server = Setup::redis().start();
    for options in ["", "max_connections=1"] {
        let cache = Cache::must_open(&format!("{}?{options}", server.tcp_url()));
        let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        let check = |outcome: Result<(), Failure>, writes: bool| {
            if let Err(failure) = outcome {
                let io = failure.status == CACHETORY_ERR_IO;
                assert!(io || failure.status == CACHETORY_ERR_CONNECT, "{failure:?}");
                assert_eq!(failure.is_maybe_applied(), writes && io, "{failure:?}");
            }
        };
        thread::scope(|scope| {
            for thread in 0..3 {
                let (cache, over, rounds) = (&cache, &over, &rounds);
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        check(cache.set(format!("{thread}"), "v").map(drop), true);
                        check(cache.get("k").map(drop), false);
                    }
                });
                scope.spawn(move || {
                    let queue = Queue::open();
                    while !over.load(Ordering::SeqCst) {
                        for tag in 0..20 {
                            match tag % 2 {
                                0 => assert_eq!(cache.to(&queue).get(tag, "k"), OK),
                                _ => {
                                    let set = cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0);
                                    assert_eq!(set, OK);
                                }
                            }
                        }
                        for (tag, completion) in queue.take(20) {
                            check(completion.outcome().map(drop), tag % 2 == 1);
                        }
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..3 {
                let before = rounds.load(Ordering::SeqCst);
                poll("some rounds", || (rounds.load(Ordering::SeqCst) > before + 20).then_some(()));
                server.restart();
            }
            over.store(true, Ordering::SeqCst);
        });
        assert_eq!(cache.set("k", "v"), OK);
    }
}
