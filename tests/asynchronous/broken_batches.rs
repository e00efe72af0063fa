//! Connections that break: a read is tried once more, a write only when nothing was sent, and nothing is reported twice.

use std::thread;
use std::time::Duration;

use super::support::capi::*;
use super::support::certs::certs;
use super::support::poll;
use super::support::proxy::{End, Proxy, Way};
use super::support::queue::*;
use super::support::scripted::Scripted;
use super::support::server::Setup;
use super::support::socket::Address;
use super::{OK, READS, WRITES, all_succeed, echo, failed, is_value};

const OPTIONS: &str = "socket_timeout=60";

#[derive(Clone, Copy, Debug)]
enum Break {
    Close,
    Reset,
    /// After the first byte of the answer.
    CloseMidway,
    ResetMidway,
}

const BREAKS: [Break; 4] = [Break::Close, Break::Reset, Break::CloseMidway, Break::ResetMidway];

/// The first `bad` connections break in the middle of their first request.
fn breaking(bad: usize, how: Break) -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number >= bad {
            return peer.serve(echo);
        }
        let Some(command) = peer.request() else { return };
        if matches!(how, Break::CloseMidway | Break::ResetMidway) {
            peer.send(&echo(&command)[..1]);
        }
        match how {
            Break::Close | Break::CloseMidway => peer.close(),
            Break::Reset | Break::ResetMidway => peer.reset(),
        }
    })
}

#[test]
fn a_read_is_tried_once_more() {
    for how in BREAKS {
        for (what, submit) in READS {
            println!("{what}, {how:?}");
            let server = breaking(1, how);
            let (cache, queue) = (Cache::must_open(&server.url(OPTIONS)), Queue::open());
            assert_eq!(submit(cache.to(&queue), 1), OK);
            assert_eq!(queue.next().outcome(), OK);
            assert_eq!((server.requests().len(), server.connections()), (2, 2));
            queue.assert_empty();
        }
    }
}

#[test]
fn a_read_is_not_tried_a_third_time() {
    for how in BREAKS {
        for (what, submit) in READS {
            println!("{what}, {how:?}");
            let server = breaking(usize::MAX, how);
            let (cache, queue) = (Cache::must_open(&server.url(OPTIONS)), Queue::open());
            assert_eq!(submit(cache.to(&queue), 1), OK);
            failed(&queue.next(), CACHETORY_ERR_IO, RETRYABLE);
            assert_eq!(server.requests().len(), 2);
        }
    }
}

#[test]
fn a_write_that_was_sent_is_not_tried_again() {
    for how in BREAKS {
        for (what, submit) in WRITES {
            println!("{what}, {how:?}");
            let server = breaking(1, how);
            let (cache, queue) = (Cache::must_open(&server.url(OPTIONS)), Queue::open());
            assert_eq!(submit(cache.to(&queue), 1), OK);
            failed(&queue.next(), CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
            // What comes next finds a connection, and is behind any second attempt.
            assert_eq!(cache.to(&queue).get(2, "k"), OK);
            is_value(queue.next(), "k");
            let requests = server.requests();
            assert_eq!(requests.len(), 2, "{requests:?}");
            assert_eq!(requests[1].name(), "GET");
        }
    }
}

/// The first `bad` connections are closed in the handshake.
fn closing_in_the_handshake(bad: usize) -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number >= bad {
            return peer.serve(echo);
        }
        peer.command();
        peer.close();
    })
}

#[test]
fn a_handshake_that_breaks_is_begun_once_more() {
    let server = closing_in_the_handshake(1);
    all_succeed(&Cache::must_open(&server.url("db=1&max_connections=1")));
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_handshake_is_not_begun_a_third_time() {
    let server = closing_in_the_handshake(usize::MAX);
    let (cache, queue) = (Cache::must_open(&server.url("db=1")), Queue::open());
    for (number, (what, submit)) in READS.iter().chain(&WRITES).enumerate() {
        println!("{what}");
        assert_eq!(submit(cache.to(&queue), 1), OK);
        failed(&queue.next(), CACHETORY_ERR_CONNECT, RETRYABLE);
        assert_eq!(server.connections(), 2 * (number + 1));
    }
}

/// Calls that gather behind one that is held, and go out together.
#[test]
fn a_batch_that_breaks_loses_no_read_and_repeats_no_write() {
    for answered in [0, 1, 5, 12] {
        let gates = super::Gates::default();
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
        let url = server.url("socket_timeout=60&max_connections=1");
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

#[test]
fn cuts_at_every_byte_of_a_reply() {
    let server = Setup::redis().start();
    let proxy = Proxy::to(Address::Tcp(server.port()));
    let (cache, queue) = (Cache::must_open(&proxy.address().url(OPTIONS)), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(cache.set("k", "value"), OK);
    // $5\r\nvalue\r\n
    for bytes in 0..11 {
        let end = if bytes % 2 == 0 { End::Close } else { End::Reset };
        proxy.cut_after(Way::ToClient, bytes, end);
        assert_eq!(to.get(1, "k"), OK);
        is_value(queue.next(), "value");
        assert!(!proxy.cut_pending(Way::ToClient));
    }
    // +OK\r\n
    for bytes in 0..5 {
        proxy.cut_after(Way::ToClient, bytes, End::Close);
        assert_eq!(to.set(2, "k", "value", NO_EXPIRY, 0), OK);
        failed(&queue.next(), CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
    }
    // In the middle of a large request, the beginning of which was sent.
    for bytes in [1, 1000, 50_000] {
        proxy.cut_after(Way::ToServer, bytes, End::Reset);
        assert_eq!(to.set(3, "other", super::large(), NO_EXPIRY, 0), OK);
        failed(&queue.next(), CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
        assert_eq!(to.get(4, "other"), OK);
        assert_eq!(queue.next().outcome(), Ok(CACHETORY_NOT_FOUND));
    }
}

/// A server that is killed in the middle of a stream of calls, and comes back.
#[test]
fn a_server_killed_in_the_middle_of_a_batch() {
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
fn clients_killed_again_and_again() {
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.tcp_url()), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(cache.set("k", "v"), OK);
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut client = server.client(0);
            for _ in 0..100 {
                let kill = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut client);
                kill.unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        let mut tag = 0;
        while !killer.is_finished() {
            for _ in 0..64 {
                assert_eq!(to.get(tag, "k"), OK);
                tag += 1;
            }
            for (_, completion) in queue.take(64) {
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
