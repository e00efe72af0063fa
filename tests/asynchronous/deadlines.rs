//! Servers that hang under many calls: each call ends at its deadline, whoever waits on the queue or does not. Only
//! that it ends is tested, not how fast.

use std::thread;

use super::support::calls::large;
use super::support::capi::*;
use super::support::full_port::FullPort;
use super::support::gates::Gates;
use super::support::poll;
use super::support::queue::*;
use super::support::scripted::Scripted;
use super::support::server::Setup;
use super::{OK, failed};

const SHORT: &str = "socket_timeout=0.3&fail_fast=false";
/// Far beyond the deadline, and the longest there may be.
const LONG_SPIN: &str = "socket_timeout=0.3&spin_us=1000000&fail_fast=false";

/// Where a thread waits on the queue, another for an answer, and the server for the end.
#[test]
fn a_long_spin_holds_up_no_deadline() {
    for server in
        [Scripted::tcp(|peer| while peer.request().is_some() {}), Scripted::tcp(|peer| peer.hang())]
    {
        for options in [LONG_SPIN.to_owned(), format!("{LONG_SPIN}&max_connections=1&db=1")] {
            let (cache, queue) = (Cache::must_open(&server.url(&options)), Queue::open());
            thread::scope(|scope| {
                let waits = scope.spawn(|| cache.get("k"));
                for tag in 0..100 {
                    assert_eq!(cache.to(&queue).get(tag, "k"), OK);
                }
                for completion in queue.take(100).values() {
                    failed(completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
                }
                let failure = waits.join().unwrap().unwrap_err();
                assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
            });
        }
    }
}

/// The one connection hangs in the middle of a call, and there is never another. `None`: on a busy machine that call
/// met its deadline before it was sent.
fn one_connection_that_hangs() -> Option<(Scripted, Cache, Queue)> {
    let server = Scripted::tcp(|peer| {
        if peer.number > 0 {
            return peer.hang();
        }
        while peer.request().is_some() {}
    });
    let url = server.url("db=1&socket_timeout=3&max_connections=1&fail_fast=false");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    assert_eq!(cache.to(&queue).get(1, "sent"), OK);
    queue.is_empty_until(|| server.count("GET") == 1).then_some((server, cache, queue))
}

#[test]
fn writes_that_wait_for_a_connection_were_not_sent_when_their_deadline_passes() {
    let (server, cache, queue) = poll("a call in flight", one_connection_that_hangs);
    let to = cache.to(&queue);
    assert_eq!(to.get(2, "k"), OK);
    assert_eq!(to.set(3, "k", "v", NO_EXPIRY, 0), OK);
    assert_eq!(to.set(4, "k", large(), NO_EXPIRY, 0), OK);
    for completion in queue.appear(4) {
        failed(&completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn hosts_that_ignore_us_hold_up_no_other_cache() {
    let port = FullPort::new();
    let url = port.url("socket_connect_timeout=600&socket_timeout=600");
    let hanging: Vec<_> = (0..10).map(|_| Cache::must_open(&url)).collect();
    let queue = Queue::open();
    for cache in &hanging {
        for tag in 0..8 {
            assert_eq!(cache.to(&queue).get(tag, large()), OK);
        }
    }
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.tcp_url()), Queue::open());
    for tag in 0..100 {
        assert_eq!(cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0), OK);
    }
    for (_, completion) in queue.take(100) {
        assert_eq!(completion.outcome(), OK);
    }
}

/// Neither reads nor writes: small requests fill the socket's buffers, and the rest of them is never sent.
#[test]
fn many_small_writes_to_a_peer_that_does_not_read_end_at_their_deadlines() {
    for server in [Scripted::tcp(|peer| peer.hang()), Scripted::unix(|peer| peer.hang())] {
        let (cache, queue) = (Cache::must_open(&server.url(SHORT)), Queue::open());
        let value = vec![b'x'; 10_000];
        for tag in 0..1000 {
            assert_eq!(cache.to(&queue).set(tag, "k", &value, NO_EXPIRY, 0), OK);
        }
        for completion in queue.appear(1000) {
            assert_eq!(completion.failure().status, CACHETORY_ERR_TIMEOUT);
        }
    }
}

#[test]
fn late_replies_to_several_calls_are_nobody_elses() {
    for options in [SHORT, "socket_timeout=0.3&max_connections=1&fail_fast=false"] {
        let gates = Gates::default();
        let server = gates.server();
        let (cache, queue) = (Cache::must_open(&server.url(options)), Queue::open());
        let to = cache.to(&queue);
        assert_eq!(to.get(1, "held:1"), OK);
        assert_eq!(to.get(2, "held:1"), OK);
        for completion in queue.appear(2) {
            failed(&completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
        }
        gates.open(1);
        for tag in 3..100 {
            let key = format!("{tag}");
            let mut completion = poll("an answer in time", || {
                assert_eq!(to.get(tag, &key), OK);
                Some(queue.next()).filter(|completion| completion.outcome().is_ok())
            });
            assert_eq!(completion.tag(), tag);
            assert_eq!(completion.take_value().unwrap().bytes(), key.as_bytes());
        }
        queue.assert_empty();
    }
}

/// With many calls behind one another, and their deadlines too.
#[test]
fn each_of_many_calls_ends_at_its_deadline() {
    let server = Scripted::tcp(|peer| while peer.request().is_some() {});
    let (cache, queue) = (Cache::must_open(&server.url(SHORT)), Queue::open());
    for tag in 0..20_000 {
        assert_eq!(cache.to(&queue).get(tag, "k"), OK);
    }
    let mut seen = vec![false; 20_000];
    for completion in queue.appear(20_000) {
        failed(&completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
        assert!(!std::mem::replace(&mut seen[completion.tag() as usize], true));
    }
}
