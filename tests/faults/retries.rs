//! Reads are tried once more, writes only when nothing was sent; MAYBE_APPLIED says exactly when a write may have been.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use rustix::net::{AddressFamily, SocketType};

use super::support::capi::*;
use super::support::scripted::{Command, Scripted, array, bulk, name};
use super::support::socket::Address;
use super::{READS, WRITES, failed, failed_either};

const OPTIONS: &str = "socket_timeout=20";

/// The usual answer to anything.
pub fn good(command: &Command) -> Vec<u8> {
    match name(command).as_str() {
        "PING" => b"+PONG\r\n".to_vec(),
        "GET" => bulk("v"),
        "MGET" => array(&vec![bulk("v"); command.len() - 1]),
        "SET" | "MSET" | "MULTI" | "DISCARD" | "FLUSHDB" => b"+OK\r\n".to_vec(),
        // All transactions here are of two.
        "EXEC" => b"*2\r\n+OK\r\n+OK\r\n".to_vec(),
        _ => b":1\r\n".to_vec(),
    }
}

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
            return peer.serve(good);
        }
        let Some(command) = peer.request() else { return };
        if matches!(how, Break::CloseMidway | Break::ResetMidway) {
            peer.send(&good(&command)[..1]);
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
        for (what, operation) in READS {
            println!("{what}, {how:?}");
            let server = breaking(1, how);
            let cache = Cache::must_open(&server.url(OPTIONS));
            assert_eq!(operation(&cache), Ok(CACHETORY_OK));
            assert_eq!((server.requests().len(), server.connections()), (2, 2));
        }
    }
}

#[test]
fn a_read_is_not_tried_a_third_time() {
    for how in BREAKS {
        for (what, operation) in READS {
            println!("{what}, {how:?}");
            let server = breaking(usize::MAX, how);
            let cache = Cache::must_open(&server.url(OPTIONS));
            failed(operation(&cache), CACHETORY_ERR_IO, RETRYABLE);
            assert_eq!(server.requests().len(), 2);
        }
    }
}

#[test]
fn a_write_that_was_sent_is_not_tried_again() {
    for how in BREAKS {
        for (what, operation) in WRITES {
            println!("{what}, {how:?}");
            let server = breaking(1, how);
            let cache = Cache::must_open(&server.url(OPTIONS));
            failed(operation(&cache), CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
            assert!(server.requests().iter().all(|request| request.connection == 0));
            cache.get("k").expect("and then it goes on");
        }
    }
}

#[test]
fn a_write_that_was_sent_in_part() {
    let server = Scripted::tcp(|peer| {
        if peer.number > 0 {
            return peer.serve(good);
        }
        peer.take(100_000);
        peer.reset();
    });
    let cache = Cache::must_open(&server.url(OPTIONS));
    let outcome = cache.set("k", vec![b'v'; 50 << 20]);
    failed(outcome, CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
    assert_eq!(server.requests().len(), 0);
    assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
}

#[test]
fn a_read_whose_question_was_sent_in_part() {
    let server = Scripted::tcp(|peer| {
        if peer.number > 0 {
            return peer.serve(good);
        }
        peer.take(100_000);
        peer.reset();
    });
    let cache = Cache::must_open(&server.url(OPTIONS));
    assert_eq!(cache.get(vec![b'k'; 20 << 20]), Ok(Some(b"v".to_vec())));
}

#[test]
fn nobody_listens() {
    // Taken, so that nobody else listens there meanwhile, but not listening.
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap().port();
    let missing = std::env::temp_dir().join("cachetory-test-no-such-socket");
    let tls = format!("rediss://127.0.0.1:{port}");
    for url in [Address::Tcp(port).url(""), Address::Unix(missing).url(""), tls] {
        let cache = Cache::must_open(&url);
        for (what, operation) in READS.iter().chain(&WRITES) {
            println!("{what}, {url}");
            failed(operation(&cache), CACHETORY_ERR_CONNECT, RETRYABLE);
        }
    }
}

/// The first `bad` connections break in the handshake.
fn breaking_in_the_handshake(bad: usize, how: Break) -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number >= bad {
            return peer.serve(good);
        }
        peer.command();
        if matches!(how, Break::CloseMidway | Break::ResetMidway) {
            peer.send("+OK\r\n+");
        }
        match how {
            Break::Close | Break::CloseMidway => peer.close(),
            Break::Reset | Break::ResetMidway => peer.reset(),
        }
    })
}

fn introduced(server: &Scripted) -> Cache {
    let Address::Tcp(port) = server.address() else { unreachable!() };
    Cache::must_open(&format!("redis://:secret@127.0.0.1:{port}/1"))
}

#[test]
fn a_handshake_that_breaks_is_begun_once_more() {
    for how in BREAKS {
        for (what, operation) in READS.iter().chain(&WRITES) {
            println!("{what}, {how:?}");
            let server = breaking_in_the_handshake(1, how);
            assert_eq!(operation(&introduced(&server)), Ok(CACHETORY_OK));
            assert_eq!(server.connections(), 2);
            assert!(server.requests().iter().all(|request| request.connection == 1));
        }
    }
}

#[test]
fn a_handshake_is_not_begun_a_third_time() {
    for how in BREAKS {
        let server = breaking_in_the_handshake(usize::MAX, how);
        let cache = introduced(&server);
        for (number, (what, operation)) in READS.iter().chain(&WRITES).enumerate() {
            println!("{what}, {how:?}");
            failed(operation(&cache), CACHETORY_ERR_CONNECT, RETRYABLE);
            assert_eq!(server.connections(), 2 * (number + 1));
        }
    }
}

#[test]
fn a_handshake_that_is_answered_or_late_is_not_begun_again() {
    // What the server says to the handshake before it closes the connection, if it does not hang.
    for (words, status, flags) in [
        (Some("-ERR max number of clients reached\r\n"), CACHETORY_ERR_CONNECT, RETRYABLE),
        (Some("-WRONGPASS invalid username-password pair\r\n"), CACHETORY_ERR_AUTH, 0),
        (Some("-ERR invalid password\r\n"), CACHETORY_ERR_AUTH, 0),
        (Some("-LOADING Redis is loading\r\n"), CACHETORY_ERR_SERVER, RETRYABLE),
        (Some("HTTP/1.1 400 Bad Request\r\n"), CACHETORY_ERR_PROTOCOL, 0),
        (None, CACHETORY_ERR_TIMEOUT, RETRYABLE),
    ] {
        println!("{words:?}");
        let server = Scripted::tcp(move |peer| {
            peer.command();
            match words {
                Some(words) => drop(peer.send(words)),
                None => peer.swallow(),
            }
        });
        let Address::Tcp(port) = server.address() else { unreachable!() };
        let url = format!("redis://:secret@127.0.0.1:{port}/1?socket_timeout=0.2");
        failed(Cache::must_open(&url).set("k", "v"), status, flags);
        assert_eq!(server.connections(), 1);
    }
}

#[test]
fn the_tls_handshake_breaks() {
    for close in [true, false] {
        let server = Scripted::tcp(move |peer| {
            peer.take(50);
            if close { peer.close() } else { peer.reset() }
        });
        let cache = Cache::must_open(&server.url("").replace("redis://", "rediss://"));
        for (what, operation) in READS.iter().chain(&WRITES) {
            println!("{what}");
            // Nothing is wrong with the certificate: it may be there again in a moment.
            let statuses = [CACHETORY_ERR_IO, CACHETORY_ERR_CONNECT];
            failed_either(operation(&cache), &statuses, RETRYABLE);
        }
    }
}

#[test]
fn a_refused_handshake_sends_no_write() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.command() {
            let refused = name(&command) == "SELECT";
            peer.send(if refused { "-ERR DB index is out of range\r\n" } else { "+OK\r\n" });
            assert!(["SELECT", "AUTH", "CLIENT", "HELLO"].contains(&name(&command).as_str()));
        }
    });
    let Address::Tcp(port) = server.address() else { unreachable!() };
    let cache = Cache::must_open(&format!("redis://:secret@127.0.0.1:{port}/7"));
    for (what, operation) in READS.iter().chain(&WRITES) {
        println!("{what}");
        let message = failed(operation(&cache), CACHETORY_ERR_SERVER, 0);
        assert!(message.contains("DB index is out of range"), "{message}");
    }
}

#[test]
fn the_default_database_needs_no_handshake() {
    let server = Scripted::tcp(|peer| peer.serve(good));
    let cache = Cache::must_open(&server.url(""));
    assert_eq!(cache.get("k"), Ok(Some(b"v".to_vec())));
    let said = server.handshakes();
    let forbidden = ["HELLO", "SELECT", "AUTH"];
    assert!(!said.iter().any(|request| forbidden.contains(&request.name().as_str())), "{said:?}");
}
