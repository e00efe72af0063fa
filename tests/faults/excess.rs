//! Peers that say too much: more than was asked for, more than there is time for, or what should not be repeated.

use std::thread;
use std::time::Duration;

use super::support::capi::*;
use super::support::scripted::{Scripted, name};
use super::support::server::Setup;
use super::{failed, failed_either, within};

const BOUND: Duration = Duration::from_secs(10);

/// Sends `piece` for as long as the other side takes it, whatever it asks.
fn flood(piece: &'static [u8]) -> Scripted {
    let pieces = piece.repeat(1 + (64 << 10) / piece.len());
    Scripted::unix(move |peer| while peer.send(&pieces) {})
}

#[test]
fn a_flood_does_not_outlast_the_deadline() {
    for options in ["socket_timeout=0.4", "socket_timeout=0.4&spin_us=0", "socket_timeout=0.4&db=1"]
    {
        for piece in [&b">0\r\n"[..], b">2\r\n+message\r\n+none\r\n", b"|1\r\n+a\r\n+b\r\n"] {
            let server = flood(piece);
            let cache = Cache::must_open(&server.url(options));
            let either = [CACHETORY_ERR_TIMEOUT, CACHETORY_ERR_CONNECT];
            failed_either(within(BOUND, || cache.ping()), &either, RETRYABLE);
        }
    }
}

#[test]
fn a_flood_while_a_large_value_is_sent() {
    let server = flood(b"+OK\r\n");
    let large = vec![b'v'; 50 << 20];
    let cache = Cache::must_open(&server.url("socket_timeout=0.4"));
    assert!(within(BOUND, || cache.set("k", &large)).is_err());
}

#[test]
fn more_answers_than_questions_in_the_handshake() {
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
fn a_password_that_the_server_quotes() {
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

#[test]
fn a_health_check_that_hangs_leaves_time_for_a_new_link() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.command() {
            // The first connection falls silent after its first answer.
            if peer.number == 0 && name(&command) == "PING" {
                peer.hang();
                return;
            }
            peer.send("$1\r\nv\r\n");
        }
    });
    let options = "health_check_interval=0.01&socket_timeout=2&max_connections=1";
    let cache = Cache::must_open(&server.url(options));
    assert_eq!(cache.get("k"), Ok(Some(b"v".to_vec())));
    thread::sleep(Duration::from_millis(20));
    assert_eq!(cache.get("k"), Ok(Some(b"v".to_vec())));
    assert_eq!(server.connections(), 2);
}

/// The server refuses MULTI, runs what follows one by one, and goes away before it has read all of it.
#[test]
fn a_transaction_that_is_refused_while_it_is_sent() {
    let server = Scripted::tcp(|peer| {
        peer.take(200_000);
        peer.send("-NOPERM no MULTI for you\r\n+OK\r\n+OK\r\n");
        peer.reset();
    });
    let value = vec![b'v'; 1 << 20];
    let keys: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let items: Vec<_> = keys.iter().map(|key| (key, &value)).collect();
    let cache = Cache::must_open(&server.url("socket_timeout=5"));
    let failure = cache.mset(&items, 60_000).unwrap_err();
    assert!(failure.is_maybe_applied(), "{failure:?}");
}

/// A server that is being restarted.
#[test]
fn an_end_right_after_the_handshake_may_be_tried_again() {
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
