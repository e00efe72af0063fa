//! Closing a cache and closing a queue with calls in flight; two queues on one cache, one queue over several.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::support::calls::large;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::gates::Gates;
use super::support::poll;
use super::support::queue::*;
use super::support::server::Setup;
use super::{OK, failed, is_value};

const ONE: &str = "max_connections=1";

#[test]
fn closing_a_cache_cancels_what_is_sent_and_what_is_queued_at_once() {
    let gates = Gates::default();
    let server = gates.server();
    for (number, first) in ["GET", "SET"].into_iter().enumerate() {
        let (cache, queue) = (Cache::must_open(&server.url(ONE)), Queue::open());
        let to = cache.to(&queue);
        match first {
            "GET" => assert_eq!(to.get(1, "held:1"), OK),
            _ => assert_eq!(to.set(1, "held:1", "v", NO_EXPIRY, 0), OK),
        }
        server.wait_for(first, 1);
        assert_eq!(to.get(2, "k"), OK);
        assert_eq!(to.set(3, "k", "v", NO_EXPIRY, 0), OK);
        assert_eq!(to.set(4, "k", large(), NO_EXPIRY, 0), OK);
        assert_eq!(to.clear(5), OK);
        assert_eq!(cache.close(), CACHETORY_OK);
        let closed = queue.wait(64, 0).unwrap();
        assert_eq!(closed.len(), 5, "at once");
        for completion in closed {
            let may = completion.tag() == 1 && first == "SET";
            let flags = if may { MAYBE_APPLIED } else { 0 };
            failed(&completion, CACHETORY_ERR_CANCELLED, flags);
        }
        assert_eq!(to.get(6, "k").unwrap_err().status, CACHETORY_ERR_CLOSED);
        queue.assert_empty();
        assert_eq!(server.requests().len(), number + 1);
    }
}

#[test]
fn a_cache_closed_under_those_who_submit_loses_no_accepted_call() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let ca = certs().ca.cert.display();
    for url in [
        server.tcp_url(),
        server.unix_url(),
        format!("{}?ssl_ca_certs={ca}", server.tls_url()),
        format!("{}?max_connections=1", server.tcp_url()),
    ] {
        for _ in 0..10 {
            let (cache, queue) = (Cache::must_open(&url), Queue::open());
            let submitted = AtomicUsize::new(0);
            let accepted: usize = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|thread| {
                        let (cache, queue, submitted) = (&cache, &queue, &submitted);
                        scope.spawn(move || submit_until_closed(cache, queue, thread, submitted))
                    })
                    .collect();
                poll("calls", || (submitted.load(Ordering::SeqCst) > 1000).then_some(()));
                assert_eq!(cache.close(), CACHETORY_OK);
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            // All are there at once: nothing is left to wait for.
            for (tag, completion) in take_at_once(&queue, accepted) {
                let Err(failure) = completion.outcome() else { continue };
                assert_eq!(failure.status, CACHETORY_ERR_CANCELLED, "{failure:?}");
                assert!(!failure.is_retryable());
                assert!(!failure.is_maybe_applied() || tag % 2 == 1, "{failure:?}");
            }
            queue.assert_empty();
        }
    }
    poll("all connections are gone", || {
        let list: String = server.query(&["CLIENT", "LIST"]);
        (list.lines().count() == 1).then_some(())
    });
}

fn take_at_once(queue: &Queue, count: usize) -> Vec<(u64, Completion)> {
    let mut taken = Vec::new();
    loop {
        let some = queue.wait(64, 0).unwrap();
        if some.is_empty() {
            assert_eq!(taken.len(), count);
            return taken;
        }
        taken.extend(some.into_iter().map(|each| (each.tag(), each)));
    }
}

/// How many were accepted. Odd tags are writes.
fn submit_until_closed(
    cache: &Cache,
    queue: &Queue,
    thread: u64,
    submitted: &AtomicUsize,
) -> usize {
    let to = cache.to(queue);
    let mut accepted = 0;
    for round in 0.. {
        let tag = thread << 32 | round;
        let outcome = match round % 20 {
            19 => to.set(tag, "k", large(), NO_EXPIRY, 0),
            odd if odd % 2 == 1 => to.set(tag, format!("{tag}"), "v", NO_EXPIRY, 0),
            _ => to.get(tag, "k"),
        };
        match outcome {
            Ok(_) => {
                accepted += 1;
                submitted.fetch_add(1, Ordering::SeqCst);
            }
            Err(failure) if failure.status == CACHETORY_ERR_BUSY => thread::yield_now(),
            Err(failure) => {
                assert_eq!(failure.status, CACHETORY_ERR_CLOSED, "{failure:?}");
                break;
            }
        }
    }
    accepted
}

#[test]
fn closing_a_queue_drops_its_calls_and_no_others() {
    let gates = Gates::default();
    let server = gates.server();
    let cache = Cache::must_open(&server.url(ONE));
    let (closed, other) = (Queue::open(), Queue::open());
    assert_eq!(cache.to(&closed).set(1, "held:1", "v", NO_EXPIRY, 0), OK);
    server.wait_for("SET", 1);
    assert_eq!(cache.to(&closed).set(2, "never", "v", NO_EXPIRY, 0), OK);
    assert_eq!(cache.to(&other).get(3, "other"), OK);
    assert_eq!(cache.to(&closed).set(4, "never", large(), NO_EXPIRY, 0), OK);
    assert_eq!(closed.close(), CACHETORY_OK);
    assert_eq!(closed.wait(64, 0).err().unwrap().status, CACHETORY_ERR_CLOSED);
    assert_eq!(cache.to(&closed).get(5, "k").unwrap_err().status, CACHETORY_ERR_CLOSED);
    gates.open(1);
    is_value(other.next(), "other");
    assert_eq!(cache.get("waits"), Ok(Some(b"waits".to_vec())));
    assert_eq!(cache.to(&other).set(6, "last", large(), NO_EXPIRY, 0), OK);
    assert_eq!(other.next().tag(), 6);
    // The one that was sent has taken nobody's link along, and the others never were.
    assert_eq!(server.connections(), 1);
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.command[1] != b"never"));
    other.assert_empty();
}

#[test]
fn two_queues_on_one_cache_get_each_its_own_completions() {
    let server = Setup::redis().start();
    for options in ["", "max_connections=1"] {
        let cache = Cache::must_open(&format!("{}?{options}", server.unix_url()));
        for key in 0..10 {
            assert_eq!(cache.set(format!("{key}"), format!("value {key}")), OK);
        }
        let queues = [Queue::open(), Queue::open()];
        thread::scope(|scope| {
            for (number, queue) in queues.iter().enumerate() {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..50 {
                        for tag in 0..50 {
                            let key = (tag + round + number as u64) % 10;
                            assert_eq!(cache.to(queue).get(tag, format!("{key}")), OK);
                        }
                        for (tag, completion) in queue.take(50) {
                            let key = (tag + round + number as u64) % 10;
                            is_value(completion, format!("value {key}"));
                        }
                        queue.assert_empty();
                    }
                });
            }
        });
    }
}

#[test]
fn one_queue_serves_several_caches() {
    let (first, second) = (Setup::redis().start(), Setup::redis().start());
    let gone = Setup::redis().start();
    gone.kill();
    let caches = [&first.tcp_url(), &second.unix_url(), "memory://", &gone.tcp_url()]
        .map(|url| Cache::must_open(url));
    let queue = Queue::open();
    for (number, cache) in caches.iter().enumerate() {
        assert_eq!(cache.to(&queue).set(number as u64, "k", format!("{number}"), NO_EXPIRY, 0), OK);
    }
    for (tag, completion) in queue.take(4) {
        match tag {
            3 => drop(failed(&completion, CACHETORY_ERR_CONNECT, RETRYABLE)),
            _ => assert_eq!(completion.outcome(), OK),
        }
    }
    for tag in 0..400 {
        let number = tag as usize % 4;
        assert_eq!(caches[number].to(&queue).get(tag, "k"), OK);
    }
    assert_eq!(caches[0].close(), CACHETORY_OK);
    for (tag, completion) in queue.take(400) {
        match tag % 4 {
            0 if completion.outcome().is_err() => {
                failed(&completion, CACHETORY_ERR_CANCELLED, 0);
            }
            3 => drop(failed(&completion, CACHETORY_ERR_CONNECT, RETRYABLE)),
            number => is_value(completion, format!("{number}")),
        }
    }
    queue.assert_empty();
}
