//! An asynchronous clear within a prefix: many round trips, between which it may be cancelled.

use super::support::capi::*;
use super::support::gates::Gates;
use super::support::poll;
use super::support::queue::*;
use super::support::scripted::{Scripted, array, bulk, echo, name};
use super::support::server::Setup;
use super::{OK, failed, is_value};

#[test]
fn a_clear_of_thousands_of_keys_takes_none_without_the_prefix() {
    let server = Setup::redis().start();
    let mut pipe = redis::pipe();
    for number in 0..5000 {
        pipe.set(format!("app:{number}"), "v").ignore();
        pipe.set(format!("apple:{number}"), "v").ignore();
    }
    pipe.set("app", "v").ignore().exec(&mut server.client(0)).unwrap();
    let (cache, queue) =
        (Cache::must_open(&format!("{}?prefix=app:", server.tcp_url())), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.clear(1), OK);
    for tag in 2..100 {
        assert_eq!(to.get(tag, "nothing"), OK);
    }
    for (tag, completion) in queue.take(99) {
        let expected = if tag == 1 { CACHETORY_OK } else { CACHETORY_NOT_FOUND };
        assert_eq!(completion.outcome(), Ok(expected));
    }
    assert_eq!(server.query::<usize>(&["DBSIZE"]), 5001);
    let left: Vec<String> = server.query(&["KEYS", "app:*"]);
    assert!(left.is_empty());
}

/// SCAN has two pages, with keys of a neighbour's among them, and the second comes when gate 1 opens, the answer to
/// UNLINK when gate 2 does.
fn two_pages(gates: &Gates) -> Scripted {
    let gates = gates.clone();
    Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            let reply = match name(&command).as_str() {
                "SCAN" if command[1] == b"0" => {
                    array(&[bulk("7"), array(&[bulk("p:1"), bulk("neighbour"), bulk("p:2")])])
                }
                "SCAN" => {
                    gates.hold(peer, 1);
                    array(&[bulk("0"), array(&[bulk("p:3")])])
                }
                "UNLINK" => {
                    gates.hold(peer, 2);
                    b":2\r\n".to_vec()
                }
                _ => echo(&command),
            };
            if !peer.send(reply) {
                return;
            }
        }
    })
}

#[test]
fn a_clear_that_is_cancelled_midway_may_have_been_applied_and_goes_no_further() {
    let gates = Gates::default();
    let server = two_pages(&gates);
    let url = server.url("prefix=p:&max_connections=2");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.clear(1), OK);
    server.wait_for("UNLINK", 1);
    assert_eq!(queue.cancel(1), OK);
    failed(&queue.next(), CACHETORY_ERR_CANCELLED, MAYBE_APPLIED);
    gates.open(2);
    // One that is not cancelled goes all the way.
    assert_eq!(to.clear(2), OK);
    assert_eq!(queue.next().outcome(), OK);
    assert_eq!(server.count("UNLINK"), 3);
    for request in server.requests() {
        assert!(request.name() != "UNLINK" || !request.command.contains(&b"neighbour".to_vec()));
    }
    queue.assert_empty();
}

#[test]
fn a_clear_that_is_cancelled_before_it_deletes_was_not_applied() {
    let gates = Gates::default();
    let gate = gates.clone();
    let server = Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            if name(&command) == "SCAN" {
                gate.hold(peer, 1);
                peer.send(array(&[bulk("0"), array(&[bulk("p:1")])]));
            } else {
                peer.send(echo(&command));
            }
        }
    });
    let url = server.url("prefix=p:&max_connections=1");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.clear(1), OK);
    server.wait_for("SCAN", 1);
    assert_eq!(queue.cancel(1), OK);
    failed(&queue.next(), CACHETORY_ERR_CANCELLED, 0);
    gates.open(1);
    // Over the same link, behind what the clear might have sent.
    assert_eq!(to.get(2, "k"), OK);
    is_value(queue.next(), "p:k");
    assert_eq!(server.count("UNLINK"), 0);
}

#[test]
fn a_clear_under_a_closed_cache_is_cancelled() {
    let gates = Gates::default();
    let server = two_pages(&gates);
    let url = server.url("prefix=p:");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    assert_eq!(cache.to(&queue).clear(1), OK);
    server.wait_for("UNLINK", 1);
    assert_eq!(cache.close(), CACHETORY_OK);
    failed(&queue.next(), CACHETORY_ERR_CANCELLED, MAYBE_APPLIED);
    queue.assert_empty();
}

/// Clears that hang hold up neither other calls nor, for longer than their deadline, other clears.
#[test]
fn clears_that_hang_hold_up_no_others() {
    let server = Setup::redis().start();
    let hung = Scripted::tcp(|peer| while peer.request().is_some() {});
    let queue = Queue::open();
    let caches: Vec<_> = (0..6)
        .map(|number| Cache::must_open(&hung.url(&format!("prefix={number}:&socket_timeout=1"))))
        .collect();
    for cache in &caches {
        assert_eq!(cache.to(&queue).clear(1), OK);
        assert_eq!(cache.to(&queue).clear(2), OK);
    }
    let real = Cache::must_open(&format!("{}?prefix=p:", server.tcp_url()));
    let other = Queue::open();
    for tag in 0..10 {
        assert_eq!(real.to(&other).clear(tag), OK);
    }
    assert!(other.take(10).values().all(|each| each.outcome() == OK));
    let mut seen = 0;
    poll("the others are over", || {
        for completion in queue.wait(64, 0).unwrap() {
            failed(&completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
            seen += 1;
        }
        (seen == 12).then_some(())
    });
}
