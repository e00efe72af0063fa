//! Connections that break under a batch: a read is sent once more, a write only when nothing of it was sent, and
//! nothing is reported twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::support::capi::*;
use super::support::certs::certs;
use super::support::gates::Gates;
use super::support::poll;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};
use super::support::server::Setup;
use super::{OK, failed, is_value};

/// Calls that wait behind one that is held, and are sent as one batch.
#[test]
fn a_batch_that_breaks_loses_no_read_and_sends_no_write_twice() {
    for answered in [0, 1, 5, 12] {
        let gates = Gates::default();
        let gate = gates.clone();
        let server = Scripted::tcp(move |peer| {
            if peer.number > 0 {
                return peer.serve(echo);
            }
            for _ in 0..=answered {
                let Some(command) = peer.request() else { return };
                peer.hang_until(|| gate.is_open_for(&command));
                peer.send(echo(&command));
            }
            // So that the rest of the batch has been sent when it breaks.
            peer.request();
            peer.reset();
        });
        let url = server.url("max_connections=1");
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        assert_eq!(to.get(100, "held:1"), OK);
        server.wait_for("GET", 1);
        for number in 0..20 {
            let key = format!("{number}");
            match number % 2 {
                0 => assert_eq!(to.get(number, key), OK),
                _ => assert_eq!(to.set(number, key, "v", NO_EXPIRY, 0), OK),
            }
        }
        gates.open(1);
        let mut taken = queue.take(21);
        is_value(taken.remove(&100).unwrap(), "held:1");
        for (number, completion) in taken {
            let key = format!("{number}");
            let sent = server.requests();
            let sent = sent.iter().filter(|request| request.command[1] == key.as_bytes()).count();
            if number % 2 == 0 {
                is_value(completion, key);
            } else if completion.outcome().is_err() {
                failed(&completion, CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
                assert!(sent <= 1, "{sent} writes of {key}");
            } else {
                assert_eq!(sent, 1, "writes of {key}");
            }
        }
        queue.assert_empty();
    }
}

/// A server that is killed in the middle of a stream of calls, and comes back.
#[test]
fn a_server_killed_in_the_middle_of_a_batch_fails_each_call_once() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let ca = certs().ca.cert.display();
    let tls = format!("{}?ssl_ca_certs={ca}", server.tls_url());
    for url in [server.tcp_url(), server.unix_url(), tls] {
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        let mut tag = 0;
        let mut submit_some = || {
            for _ in 0..500 {
                let key = format!("{tag}");
                match tag % 2 {
                    0 => assert_eq!(to.get(tag, "nothing"), OK),
                    _ => assert_eq!(to.set(tag, key, "v", NO_EXPIRY, 0), OK),
                }
                tag += 1;
            }
        };
        submit_some();
        assert_eq!(queue.take(500).values().filter(|each| each.outcome().is_err()).count(), 0);
        submit_some();
        server.kill();
        submit_some();
        for (tag, completion) in queue.take(1000) {
            let Err(failure) = completion.outcome() else { continue };
            let io = failure.status == CACHETORY_ERR_IO;
            assert!(io || failure.status == CACHETORY_ERR_CONNECT, "{failure:?}");
            assert!(failure.is_retryable(), "{failure:?}");
            assert_eq!(failure.is_maybe_applied(), io && tag % 2 == 1, "{failure:?}");
        }
        server.restart();
        assert_eq!(to.set(1, "k", "v", NO_EXPIRY, 0), OK);
        assert_eq!(queue.next().outcome(), OK);
        queue.assert_empty();
    }
}

#[test]
fn connections_killed_again_and_again_fail_no_call_but_by_io() {
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.tcp_url()), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(cache.set("k", "v"), OK);
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut client = server.client(0);
            for _ in 0..100 {
                let kill = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut client);
                kill.unwrap();
                // Until calls go on, or are over.
                let before = taken.load(Ordering::SeqCst);
                let has_moved = || taken.load(Ordering::SeqCst) > before;
                poll("calls go on", || has_moved().then_some(()));
            }
        });
        let mut tag = 0;
        while !killer.is_finished() {
            for _ in 0..64 {
                assert_eq!(to.get(tag, "k"), OK);
                tag += 1;
            }
            for (_, completion) in queue.take(64) {
                taken.fetch_add(1, Ordering::SeqCst);
                match completion.outcome() {
                    Ok(_) => is_value(completion, "v"),
                    // Two links may be killed under one read.
                    Err(_) => drop(failed(&completion, CACHETORY_ERR_IO, RETRYABLE)),
                }
            }
        }
    });
    poll("calls are answered again", || {
        assert_eq!(to.get(1, "k"), OK);
        queue.next().outcome().ok()
    });
}

/// A loop that submits in bursts, and whose server has gone while nothing was under way.
#[test]
fn a_burst_of_writes_over_a_link_that_is_gone_goes_over_another() {
    let server = Scripted::tcp(|peer| peer.serve(echo));
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    assert!(queue.fd() >= 0);
    let burst =
        || (0..5).for_each(|tag| assert_eq!(cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0), OK));
    for _ in 0..10 {
        burst();
        assert!(queue.appear(5).iter().all(|completion| completion.outcome() == OK));
    }
    queue.assert_empty();
    server.hang_up();
    queue.await_readable();
    burst();
    for completion in queue.appear(5) {
        assert_eq!(completion.outcome(), OK, "{:?}", completion.failure());
    }
}
