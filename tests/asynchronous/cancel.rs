//! Cancelling: before a call is sent, after, of many at once; and the bound on what is outstanding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::support::calls::large;
use super::support::capi::*;
use super::support::gates::{Gates, wait_for_key};
use super::support::queue::*;
use super::support::scripted::{Scripted, bulk, echo, name};
use super::support::{pause, poll};
use super::{OK, failed, is_value};

const ONE: &str = "max_connections=1";

#[test]
fn a_call_that_is_cancelled_before_it_is_sent_never_is() {
    let gates = Gates::default();
    let server = gates.server();
    let (cache, queue) = (Cache::must_open(&server.url(ONE)), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.get(1, "held:1"), OK);
    server.wait_for("GET", 1);
    assert_eq!(to.set(2, "k", "v", NO_EXPIRY, 0), OK);
    assert_eq!(to.set(3, "k", large(), NO_EXPIRY, 0), OK);
    assert_eq!(to.get(4, "k"), OK);
    assert_eq!(to.mset(5, &[("k", "v"), ("l", "w")], 60_000), OK);
    assert_eq!(to.get(6, "stays"), OK);
    for tag in 2..6 {
        assert_eq!(queue.cancel(tag), OK);
        let completion = queue.next();
        assert_eq!(completion.tag(), tag);
        failed(&completion, CACHETORY_ERR_CANCELLED, 0);
        assert_eq!(queue.cancel(tag), Ok(CACHETORY_NOT_FOUND));
    }
    gates.open(1);
    let mut taken = queue.take(2);
    is_value(taken.remove(&1).unwrap(), "held:1");
    is_value(taken.remove(&6).unwrap(), "stays");
    // Behind whatever might still have been sent.
    assert_eq!(to.set(7, "last", large(), NO_EXPIRY, 0), OK);
    assert_eq!(queue.next().tag(), 7);
    let keys: Vec<_> =
        server.requests().into_iter().map(|request| request.command[1].clone()).collect();
    assert_eq!(keys, [&b"held:1"[..], b"stays", b"last"]);
    queue.assert_empty();
}

#[test]
fn a_write_that_is_cancelled_after_it_was_sent_may_have_been_applied() {
    for options in [ONE, ""] {
        let gates = Gates::default();
        let server = gates.server();
        let (cache, queue) = (Cache::must_open(&server.url(options)), Queue::open());
        let to = cache.to(&queue);
        assert_eq!(to.set(1, "held:1", "v", NO_EXPIRY, 0), OK);
        server.wait_for("SET", 1);
        assert_eq!(queue.cancel(1), OK);
        failed(&queue.next(), CACHETORY_ERR_CANCELLED, MAYBE_APPLIED);
        gates.open(1);
        assert_eq!(to.get(2, "held:2"), OK);
        wait_for_key(&server, "held:2");
        assert_eq!(queue.cancel(2), OK);
        failed(&queue.next(), CACHETORY_ERR_CANCELLED, 0);
        assert_eq!(to.get(3, "own"), OK);
        gates.open(2);
        is_value(queue.next(), "own");
        queue.assert_empty();
    }
}

#[test]
fn a_cancel_ends_every_call_of_the_tag_on_that_queue() {
    let gates = Gates::default();
    let server = gates.server();
    let (cache, queue) = (Cache::must_open(&server.url(ONE)), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.set(7, "held:1", "v", NO_EXPIRY, 0), OK);
    server.wait_for("SET", 1);
    assert_eq!(to.set(7, "k", "v", NO_EXPIRY, 0), OK);
    assert_eq!(to.get(8, "other"), OK);
    assert_eq!(to.get(7, "k"), OK);
    let elsewhere = Queue::open();
    assert_eq!(cache.to(&elsewhere).get(7, "elsewhere"), OK);
    assert_eq!(queue.cancel(7), OK);
    let cancelled = queue.wait(64, 0).unwrap();
    assert_eq!(cancelled.len(), 3);
    let mut flags: Vec<_> = cancelled.iter().map(|each| each.failure().flags).collect();
    flags.sort_unstable();
    assert_eq!(flags, [0, 0, MAYBE_APPLIED]);
    assert!(cancelled.iter().all(|each| each.failure().status == CACHETORY_ERR_CANCELLED));
    assert_eq!(queue.cancel(7), Ok(CACHETORY_NOT_FOUND));
    gates.open(1);
    is_value(queue.next(), "other");
    // A tag is its queue's.
    is_value(elsewhere.next(), "elsewhere");
    queue.assert_empty();
}

/// The link for a call turned out to be gone before anything was sent, and there is no other yet.
#[test]
fn a_write_that_lost_its_link_before_it_was_sent_is_cancelled_as_not_applied() {
    type Submission = fn(Submit) -> Outcome;
    let writes: [Submission; 2] =
        [|to| to.set(1, "k", "v", NO_EXPIRY, 0), |to| to.set(1, "k", large(), NO_EXPIRY, 0)];
    for write in writes {
        let closed = Arc::new(AtomicBool::new(false));
        let is_closed = Arc::clone(&closed);
        let server = Scripted::tcp(move |peer| {
            if peer.number > 0 {
                return peer.hang();
            }
            while let Some(command) = peer.request() {
                peer.send(echo(&command));
                if command[1] == b"last" {
                    peer.close();
                    return is_closed.store(true, Ordering::SeqCst);
                }
            }
        });
        let (cache, queue) = (Cache::must_open(&server.url("db=1")), Queue::open());
        assert_eq!(cache.to(&queue).get(9, "last"), OK);
        is_value(queue.next(), "last");
        poll("the link is closed", || closed.load(Ordering::SeqCst).then_some(()));
        pause::let_links_go_idle();
        assert_eq!(write(cache.to(&queue)), OK);
        poll("another link is being made", || (server.connections() > 1).then_some(()));
        assert_eq!(queue.cancel(1), OK);
        failed(&queue.next(), CACHETORY_ERR_CANCELLED, 0);
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_large_write_that_is_cancelled_midway_leaves_its_link_to_nobody() {
    let huge = vec![b'x'; 50 << 20];
    let server = Scripted::tcp(|peer| {
        if peer.number > 0 {
            return peer.serve(echo);
        }
        let Some(command) = peer.request() else { return };
        peer.send(echo(&command));
        peer.hang();
    });
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.get(1, "first"), OK);
    is_value(queue.next(), "first");
    assert_eq!(to.set(2, "k", &huge, NO_EXPIRY, 0), OK);
    // It is in flight for sure when another call has found another link.
    assert_eq!(to.get(3, "beside"), OK);
    is_value(queue.next(), "beside");
    assert_eq!(queue.cancel(2), OK);
    failed(&queue.next(), CACHETORY_ERR_CANCELLED, MAYBE_APPLIED);
    // The link is in the middle of the request, and is not used for anything else.
    for tag in 4..100 {
        assert_eq!(to.get(tag, format!("{tag}")), OK);
        is_value(queue.next(), format!("{tag}"));
    }
}

#[test]
fn a_cancel_that_races_an_answer_completes_the_call_once() {
    let server = Scripted::tcp(|peer| peer.serve(|command| bulk(&command[1])));
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    let to = cache.to(&queue);
    for round in 0..500 {
        for tag in 0..16 {
            assert_eq!(to.get(tag, format!("{round}:{tag}")), OK);
        }
        for tag in 0..16 {
            assert!(matches!(queue.cancel(tag), Ok(CACHETORY_OK | CACHETORY_NOT_FOUND)));
        }
        for (tag, completion) in queue.take(16) {
            match completion.outcome() {
                Ok(_) => is_value(completion, format!("{round}:{tag}")),
                Err(_) => drop(failed(&completion, CACHETORY_ERR_CANCELLED, 0)),
            }
        }
        queue.assert_empty();
    }
}

#[test]
fn max_pending_bounds_what_is_outstanding_over_all_queues() {
    let gates = Gates::default();
    let server = gates.server();
    let url = server.url("max_pending=3");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    let to = cache.to(&queue);
    for tag in 1..=3 {
        let key = format!("held:{tag}");
        assert_eq!(to.get(tag, &key), OK);
        wait_for_key(&server, &key);
    }
    let is_busy = || {
        for outcome in [to.get(4, "k"), to.set(4, "k", large(), NO_EXPIRY, 0), to.clear(4)] {
            let failure = outcome.unwrap_err();
            assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_BUSY, RETRYABLE));
        }
    };
    is_busy();
    // A bound of the cache's, whatever the queue; and none for threads that wait.
    let other = Queue::open();
    assert_eq!(cache.to(&other).ping(1).unwrap_err().status, CACHETORY_ERR_BUSY);
    assert_eq!(cache.get("waits"), Ok(Some(b"waits".to_vec())));
    // A call that is complete makes room, whether it is taken or not.
    gates.open(1);
    poll("there is room", || to.get(4, "held:4").ok());
    is_busy();
    is_value(queue.next(), "held:1");
    is_busy();
    assert_eq!(queue.cancel(4), OK);
    assert_eq!(to.get(5, "held:5"), OK);
    is_busy();
    assert_eq!(queue.close(), CACHETORY_OK);
    for tag in 0..3 {
        assert_eq!(cache.to(&other).get(tag, format!("{tag}")), OK);
    }
    gates.open(10);
    for (tag, completion) in other.take(3) {
        is_value(completion, format!("{tag}"));
    }
}

/// The link for it is being asked whether it is there.
#[test]
fn a_write_that_is_cancelled_during_a_health_check_was_not_sent() {
    let server = Scripted::tcp(|peer| {
        let mut was_used = false;
        while let Some(command) = peer.request() {
            if name(&command) == "PING" && was_used {
                return peer.hang();
            }
            was_used |= name(&command) == "GET";
            peer.send(echo(&command));
        }
    });
    let url = server.url(&format!("{}&max_connections=1", pause::HEALTH_CHECK));
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.get(1, "k"), OK);
    is_value(queue.next(), "k");
    let before = server.count("PING");
    pause::let_links_need_a_ping();
    assert_eq!(to.set(2, "k", "v", NO_EXPIRY, 0), OK);
    server.wait_for("PING", before + 1);
    assert_eq!(queue.cancel(2), OK);
    failed(&queue.next(), CACHETORY_ERR_CANCELLED, 0);
}
