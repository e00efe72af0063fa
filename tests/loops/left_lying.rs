//! A loop that submits and does not come: nothing depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::drive::*;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::gates::Gates;
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, bulk, echo};
use super::support::server::Setup;
use super::support::{must_end, poll};
use super::{OK, failed, is_value};

/// A queue whose descriptor was asked for.
fn polled() -> Queue {
    let queue = Queue::open();
    let _ = descriptor(&queue);
    queue
}

/// Somebody else takes over then, and hands back: whoever has a link, each call completes once.
#[test]
fn a_loop_that_is_late_now_and_then_misses_nothing() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    let load = Load { late_one_in: 3, large_one_in: 20, most_in_flight: 60, ..Load::default() };
    thread::scope(|scope| {
        for url in [server.tcp_url(), format!("{}?max_connections=1", server.unix_url()), tls] {
            for (number, way) in PLAIN_WAYS.into_iter().enumerate() {
                let url = url.clone();
                scope.spawn(move || {
                    let (cache, queue) = (Cache::must_open(&url), Queue::open());
                    prepare(&cache);
                    let mut poller = Poller::new(&queue, way, Watched::Duplicate);
                    for capacity in [1, 64] {
                        let load = Load { capacity, seed: number as u64, ..load };
                        run(&cache, &queue, &mut poller, load);
                    }
                });
            }
        }
    });
}

/// Submits another call once all before it are complete: there is room for no more of them on that cache.
#[track_caller]
fn wait_until_complete(cache: &Cache, room: u64) {
    let other = Queue::open();
    poll("all calls are complete", || {
        for tag in 0..room {
            match cache.to(&other).get(tag, "k") {
                Ok(_) => {}
                Err(failure) => {
                    assert_eq!(failure.status, CACHETORY_ERR_BUSY, "{failure:?}");
                    other.take(tag as usize);
                    return None;
                }
            }
        }
        Some(())
    });
    other.take(room as usize);
}

#[test]
fn writes_that_nobody_waits_for_arrive() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    for url in
        [server.tcp_url(), server.unix_url(), tls.clone(), format!("{tls}&max_connections=1")]
    {
        let cache = Cache::must_open(&url);
        for count in [1, 2, 100, 5000] {
            let queue = polled();
            assert_eq!(cache.clear(), OK);
            for tag in 0..count {
                assert_eq!(cache.to(&queue).set(tag, format!("{tag}"), "v", NO_EXPIRY, 0), OK);
            }
            poll("every write arrives", || {
                (server.query::<u64>(&["DBSIZE"]) == count).then_some(())
            });
            assert!(is_readable(descriptor(&queue), 60_000), "the completions are there");
            assert_eq!(queue.take(count as usize).len(), count as usize);
            queue.assert_empty();
        }
    }
}

#[test]
fn replies_that_nobody_takes_complete_their_calls() {
    let server = Setup::redis().start();
    for options in ["", "&max_connections=1", "&spin_us=0"] {
        let url = format!("{}?max_pending=50{options}", server.tcp_url());
        let (cache, queue) = (Cache::must_open(&url), polled());
        let value = vec![b'v'; 200_000];
        assert_eq!(cache.set("k", &value), OK);
        // In the second round the loop has come once, and left what it was in the middle of.
        for comes in [false, true, true] {
            for tag in 0..50 {
                assert_eq!(cache.to(&queue).get(tag, "k"), OK);
            }
            let mut taken: Vec<_> = if comes {
                Poller::new(&queue, Way::Level(1), Watched::Itself).must_wake();
                queue.wait(1, 0).unwrap()
            } else {
                Vec::new()
            };
            wait_until_complete(&cache, 50);
            taken.extend(drain(&queue, 7));
            assert_eq!(taken.len(), 50);
            for completion in taken {
                is_value(completion, &value);
            }
        }
    }
}

#[test]
fn deadlines_end_calls_that_nobody_asks_for() {
    let gates = Gates::default();
    let server = gates.server();
    for options in ["", "&max_connections=1"] {
        let url = server.url(&format!("socket_timeout=0.3&max_pending=2{options}"));
        let (cache, queue) = (Cache::must_open(&url), polled());
        for round in 0..3 {
            // With the second of them, there is output that the loop has to see to.
            assert_eq!(cache.to(&queue).get(2 * round, "held:1"), OK);
            assert_eq!(cache.to(&queue).get(2 * round + 1, "held:1"), OK);
            let other = Queue::open();
            poll("there is room for another", || match cache.to(&other).ping(1) {
                Ok(_) => Some(()),
                Err(failure) => {
                    assert_eq!(failure.status, CACHETORY_ERR_BUSY);
                    None
                }
            });
            // One that met its deadline has made room, and the other meets its own.
            assert!(is_readable(descriptor(&queue), 60_000));
            for completion in queue.take(2).values() {
                failed(completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
            }
        }
    }
}

/// And it is the loop that sees to them, where it is there: it need not ask in time.
#[test]
fn a_deadline_wakes_the_loop() {
    let gates = Gates::default();
    let server = gates.server();
    for way in PLAIN_WAYS {
        let (cache, queue) = (Cache::must_open(&server.url("socket_timeout=0.2")), polled());
        let mut poller = Poller::new(&queue, way, Watched::Duplicate);
        for round in 0..3 {
            for tag in 0..20 {
                assert_eq!(cache.to(&queue).set(20 * round + tag, "held:1", "", NO_EXPIRY, 0), OK);
            }
            for completion in take(&queue, &mut poller, 20) {
                let failure = completion.failure();
                assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
                assert!(failure.is_retryable());
            }
        }
    }
}

#[test]
fn other_threads_calls_go_on_over_the_link_that_a_loop_left() {
    let gates = Gates::default();
    let server = gates.server();
    for options in ["max_connections=1", "max_connections=1&spin_us=0"] {
        for _ in 0..10 {
            gates.open(0);
            let (cache, queue) = (Cache::must_open(&server.url(options)), polled());
            for (tag, key) in ["first", "held:1", "k", "l"].iter().enumerate() {
                assert_eq!(cache.to(&queue).get(tag as u64, key), OK);
            }
            // The loop comes for the first of them, and no more.
            let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Itself);
            assert_eq!(take(&queue, &mut poller, 1)[0].tag(), 0);
            thread::scope(|scope| {
                let small = scope.spawn(|| cache.get("small"));
                let large = scope.spawn(|| cache.set("large", vec![b'v'; 200_000]));
                gates.open(1);
                assert_eq!(small.join().unwrap(), Ok(Some(b"small".to_vec())));
                assert_eq!(large.join().unwrap(), OK);
            });
            assert_eq!(queue.take(3).len(), 3);
        }
    }
}

/// They have deadlines of their own, and the server answers nothing that the loop has asked.
#[test]
fn synchronous_calls_behind_what_a_loop_left_meet_their_deadlines() {
    let gates = Gates::default();
    let server = gates.server();
    for _ in 0..3 {
        let url = server.url("max_connections=1&socket_timeout=0.4");
        let (cache, queue) = (Cache::must_open(&url), polled());
        for tag in 0..3 {
            assert_eq!(cache.to(&queue).get(tag, "held:1"), OK);
        }
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let failure = must_end(|| cache.get("held:1")).unwrap_err();
                    assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
                });
            }
        });
        for completion in queue.take(3).values() {
            failed(completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
        }
    }
}

/// A reply of which the loop has read a part.
#[test]
fn a_reply_that_a_loop_left_half_read_is_read_to_its_end() {
    let ready = Arc::new(AtomicBool::new(false));
    let goes_on = Arc::clone(&ready);
    let value = vec![b'v'; 2_000_000];
    let reply = bulk(&value);
    let server = Scripted::unix(move |peer| {
        while let Some(command) = peer.request() {
            let is_sent = if command[1] == b"half" {
                let sent = peer.send(&reply[..1_000_000]);
                peer.hang_until(|| goes_on.load(Ordering::SeqCst));
                sent && peer.send(&reply[1_000_000..])
            } else {
                peer.send(echo(&command))
            };
            if !is_sent {
                return;
            }
        }
    });
    for _ in 0..5 {
        ready.store(false, Ordering::SeqCst);
        let url = server.url("max_connections=1&socket_timeout=600");
        let (cache, queue) = (Cache::must_open(&url), polled());
        assert_eq!(cache.to(&queue).get(1, "half"), OK);
        // If the loop is late, somebody else has read that part.
        Poller::new(&queue, Way::Level(1), Watched::Itself).wait(500);
        assert_eq!(drain(&queue, 1).len(), 0);
        thread::scope(|scope| {
            let behind = scope.spawn(|| cache.get("k"));
            ready.store(true, Ordering::SeqCst);
            assert_eq!(behind.join().unwrap(), Ok(Some(b"k".to_vec())));
        });
        is_value(queue.next(), &value);
    }
}

/// A request of which the loop has written a part.
#[test]
fn a_request_that_a_loop_left_half_written_is_written_to_its_end() {
    let reads = Arc::new(AtomicBool::new(false));
    let may_read = Arc::clone(&reads);
    let server = Scripted::unix(move |peer| {
        peer.hang_until(|| may_read.load(Ordering::SeqCst));
        peer.serve(echo);
    });
    for comes in [false, true] {
        reads.store(false, Ordering::SeqCst);
        let (cache, queue) = (Cache::must_open(&server.url("max_connections=1")), polled());
        let to = cache.to(&queue);
        assert_eq!(to.set(1, "large", vec![b'v'; 8_000_000], NO_EXPIRY, 0), OK);
        assert_eq!(to.set(2, "small", "v", NO_EXPIRY, 0), OK);
        if comes {
            let mut poller = Poller::new(&queue, Way::Level(1), Watched::Itself);
            for _ in 0..10 {
                poller.wait(10);
                assert_eq!(drain(&queue, 1).len(), 0);
            }
        }
        let before = server.count("SET");
        reads.store(true, Ordering::SeqCst);
        server.wait_for("SET", before + 2);
        assert_eq!(queue.take(2).len(), 2);
    }
}

#[test]
fn a_thread_that_ends_in_the_middle_of_its_loop_leaves_nothing_undone() {
    let server = Setup::redis().start();
    for options in ["", "?max_connections=1"] {
        let cache = Cache::must_open(&format!("{}{options}", server.tcp_url()));
        assert_eq!(cache.set("k", vec![b'v'; 50_000]), OK);
        let queue = polled();
        for round in 0..20 {
            let taken = thread::scope(|scope| {
                let looped = scope.spawn(|| {
                    for tag in 0..40 {
                        assert_eq!(cache.to(&queue).get(tag, "k"), OK);
                    }
                    let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Duplicate);
                    let mut taken = 0;
                    for _ in 0..round {
                        poller.must_wake();
                        taken += drain(&queue, 1).len();
                        if taken > 0 {
                            break;
                        }
                    }
                    taken
                });
                looped.join().unwrap()
            });
            assert_eq!(cache.get("k").unwrap().unwrap().len(), 50_000);
            assert_eq!(queue.take(40 - taken).len(), 40 - taken);
        }
    }
}

/// One link, and one of the loops on it never comes.
#[test]
fn a_loop_that_does_not_come_holds_up_no_other_loop() {
    let server = Setup::redis().start();
    for options in ["max_connections=1", "max_connections=2&spin_us=0", ""] {
        let cache = Cache::must_open(&format!("{}?{options}", server.unix_url()));
        let lazy = polled();
        for tag in 0..1000 {
            assert_eq!(cache.to(&lazy).set(tag, "k", vec![b'v'; 500], NO_EXPIRY, 0), OK);
        }
        thread::scope(|scope| {
            for way in PLAIN_WAYS {
                let (cache, lazy) = (&cache, &lazy);
                scope.spawn(move || {
                    let queue = polled();
                    let mut poller = Poller::new(&queue, way, Watched::Duplicate);
                    for round in 0..100 {
                        assert_eq!(cache.to(lazy).get(1000, "k"), OK);
                        for tag in 0..10 {
                            assert_eq!(cache.to(&queue).get(tag, "k"), OK);
                        }
                        assert_eq!(take(&queue, &mut poller, 10).len(), 10, "{round}");
                    }
                });
            }
        });
        let mut rest = 0;
        poll("what was left lying", || {
            rest += drain(&lazy, 64).len();
            (rest == 1300).then_some(())
        });
        lazy.assert_empty();
    }
}

/// Closed with all that it left lying; the cache and its links go on.
#[test]
fn a_queue_closed_with_what_its_loop_left_harms_no_other() {
    let server = Setup::redis().start();
    let cache = Cache::must_open(&format!("{}?max_connections=1", server.tcp_url()));
    assert_eq!(cache.set("k", vec![b'v'; 10_000]), OK);
    for round in 0..50 {
        let queue = polled();
        for tag in 0..100 {
            assert_eq!(cache.to(&queue).get(tag, "k"), OK);
        }
        if round % 2 == 1 {
            let mut poller = Poller::new(&queue, Way::Level(1), Watched::Itself);
            poller.must_wake();
            let _ = queue.wait(1, 0).unwrap();
        }
        assert_eq!(queue.close(), CACHETORY_OK);
        assert_eq!(cache.get("k").unwrap().unwrap().len(), 10_000);
    }
}
