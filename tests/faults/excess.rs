//! Peers that say too much: more than was asked for, more than there is time for, or what should not be repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::support::calls::{failed, failed_either, for_each_face};
use super::support::capi::*;
use super::support::must_end;
use super::support::scripted::{Scripted, bulk, name};
use super::support::server::Setup;

/// Sends `piece` for as long as the other side takes it, whatever it asks.
fn flood(piece: &'static [u8]) -> Scripted {
    let pieces = piece.repeat(1 + (64 << 10) / piece.len());
    Scripted::unix(move |peer| while peer.send(&pieces) {})
}

/// What nobody has asked for is never taken for an answer, however lately the connection was used.
#[test]
fn an_answer_that_nobody_asked_for_is_no_calls() {
    for_each_face(|face| {
        let said = Arc::new(AtomicUsize::new(0));
        let has_said = Arc::clone(&said);
        let server = Scripted::unix(move |peer| {
            while let Some(command) = peer.request() {
                peer.send(bulk(&command[1]));
                peer.send(bulk("of another"));
                // The next is asked for as soon as it is here.
                has_said.fetch_add(1, Ordering::Release);
            }
        });
        let cache = Cache::must_open(&server.url("")).with(face);
        for round in 1..=500 {
            let key = format!("k{round}");
            assert_eq!(cache.get(&key), Ok(Some(key.clone().into_bytes())), "{face:?}");
            while said.load(Ordering::Acquire) < round {
                thread::yield_now();
            }
        }
    });
}

#[test]
fn a_flood_of_pushes_is_a_protocol_error_long_before_the_deadline() {
    for (options, face) in [
        ("", Face::Synchronous),
        ("spin_us=0", Face::Waited),
        ("", Face::Polled),
        ("db=1", Face::Synchronous),
        ("protocol=3", Face::Waited),
    ] {
        for piece in [&b">0\r\n"[..], b">2\r\n+message\r\n+none\r\n", b"|1\r\n+a\r\n+b\r\n"] {
            println!("{options} {face:?} {:?}", String::from_utf8_lossy(piece));
            let server = flood(piece);
            let cache = Cache::must_open(&server.url(options)).with(face);
            failed(must_end(|| cache.ping()), CACHETORY_ERR_PROTOCOL, 0);
        }
    }
}

#[test]
fn a_flood_of_answers_does_not_hold_up_a_large_request_for_ever() {
    let server = flood(b"+OK\r\n");
    let large = vec![b'v'; 50 << 20];
    let cache = Cache::must_open(&server.url("socket_timeout=0.4"));
    assert!(must_end(|| cache.set("k", &large)).is_err());
}

#[test]
fn an_answer_too_many_in_the_handshake_is_a_protocol_error() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.command() {
            let select = name(&command) == "SELECT";
            peer.send(if select { "+OK\r\n$5\r\nstale\r\n" } else { "$4\r\nreal\r\n" });
        }
    });
    let cache = Cache::must_open(&server.url("db=1"));
    for _ in 0..3 {
        failed(cache.get("k"), CACHETORY_ERR_PROTOCOL, 0);
    }
}

/// Redis quotes the arguments of a command that it does not know.
#[test]
fn a_password_that_the_server_quotes_is_in_no_message() {
    let secret = "s3cretPW";
    for (renamed, options) in [("HELLO", "protocol=3"), ("AUTH", ""), ("HELLO", "protocol=3&db=1")]
    {
        let server = Setup::redis().args(["--rename-command", renamed, ""]).start();
        for user in ["", "bob"] {
            let address = format!("127.0.0.1:{}", server.port());
            let cache = Cache::must_open(&format!("redis://{user}:{secret}@{address}?{options}"));
            let failure = cache.get("k").unwrap_err();
            let expected = [CACHETORY_ERR_AUTH, CACHETORY_ERR_UNSUPPORTED];
            assert!(expected.contains(&failure.status), "{failure:?}");
            assert!(failure.message.contains(renamed), "{failure:?}");
            assert!(!failure.message.contains(secret), "{failure:?}");
        }
    }
}

/// The server refuses MULTI, runs what follows one by one, and goes away before it has read all of it.
#[test]
fn a_transaction_that_is_refused_while_it_is_sent_may_have_been_applied() {
    let server = Scripted::tcp(|peer| {
        peer.take(200_000);
        peer.send("-NOPERM no MULTI for you\r\n+OK\r\n+OK\r\n");
        peer.reset();
    });
    let value = vec![b'v'; 1 << 20];
    let keys: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let items: Vec<_> = keys.iter().map(|key| (key, &value)).collect();
    let cache = Cache::must_open(&server.url(""));
    let failure = cache.mset(&items, 60_000).unwrap_err();
    assert!(failure.is_maybe_applied(), "{failure:?}");
}

/// A server that is being restarted.
/// More than the sockets' buffers hold.
fn huge() -> Vec<u8> {
    vec![b'x'; 50 << 20]
}

/// Reads some of each request, answers that, and ends the connection.
fn answering_halves(answer: &'static str) -> Scripted {
    Scripted::tcp(move |peer| {
        peer.take(200_000);
        peer.send(answer);
        peer.reset();
    })
}

#[test]
fn an_answer_to_half_a_request_is_none() {
    let huge = huge();
    for_each_face(|face| {
        for answer in ["+OK\r\n", "+OK\r\n-ERR Protocol error: what\r\n"] {
            let server = answering_halves(answer);
            let cache = Cache::must_open(&server.url("socket_timeout=60")).with(face);
            let flags = RETRYABLE | MAYBE_APPLIED;
            failed(cache.set("k", &huge), CACHETORY_ERR_IO, flags);
        }
    });
}

#[test]
fn a_refusal_of_half_a_request_is_the_last_that_a_server_says() {
    let huge = huge();
    for_each_face(|face| {
        for (says, status) in [
            ("-NOAUTH Authentication required.\r\n", CACHETORY_ERR_AUTH),
            ("-ERR Protocol error: invalid bulk length\r\n", CACHETORY_ERR_SERVER),
        ] {
            let server = answering_halves(says);
            let cache = Cache::must_open(&server.url("socket_timeout=60")).with(face);
            failed(cache.set("k", &huge), status, 0);
        }
    });
}

#[test]
fn a_read_whose_every_connection_ends_after_the_handshake_is_worth_another_call() {
    let server = Scripted::tcp(|peer| {
        peer.command();
        peer.send("+OK\r\n");
        peer.close();
    });
    let cache = Cache::must_open(&server.url("db=1"));
    for _ in 0..5 {
        let either = [CACHETORY_ERR_CONNECT, CACHETORY_ERR_IO];
        failed_either(cache.get("k"), &either, RETRYABLE);
    }
}
