//! Connections that break: a read is sent once more, a write only when nothing of it was sent, and MAYBE_APPLIED says
//! exactly when a write may have been applied.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use rustix::net::{AddressFamily, SocketType};

use super::support::calls::*;
use super::support::capi::*;
use super::support::proxy::{End, Proxy, Way};
use super::support::scripted::{Peer, Scripted, echo, name};
use super::support::server::Setup;
use super::support::socket::Address;

const OK: Outcome = Ok(CACHETORY_OK);

#[derive(Clone, Copy, Debug)]
enum Break {
    Close,
    Reset,
    /// After the first byte of the answer.
    CloseMidway,
    ResetMidway,
}

const BREAKS: [Break; 4] = [Break::Close, Break::Reset, Break::CloseMidway, Break::ResetMidway];

impl Break {
    /// `begun`: what is sent of an answer.
    fn happen(self, peer: &Peer, begun: &[u8]) {
        if matches!(self, Self::CloseMidway | Self::ResetMidway) {
            peer.send(begun);
        }
        match self {
            Self::Close | Self::CloseMidway => peer.close(),
            Self::Reset | Self::ResetMidway => peer.reset(),
        }
    }
}

/// The first `bad` connections break in the middle of their first request.
fn breaking(bad: usize, how: Break) -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number >= bad {
            return peer.serve(echo);
        }
        let Some(command) = peer.request() else { return };
        how.happen(peer, &echo(&command)[..1]);
    })
}

#[test]
fn a_read_is_sent_once_more_when_its_connection_breaks() {
    for_each_face(|face| {
        for how in BREAKS {
            for (what, operation) in READS {
                println!("{what}, {how:?}");
                let server = breaking(1, how);
                let cache = Cache::must_open(&server.url("")).with(face);
                assert_eq!(operation(&cache), OK);
                assert_eq!((server.requests().len(), server.connections()), (2, 2));
            }
        }
    });
}

#[test]
fn a_read_is_not_sent_a_third_time() {
    for_each_face(|face| {
        for how in BREAKS {
            for (what, operation) in READS {
                println!("{what}, {how:?}");
                let server = breaking(usize::MAX, how);
                let cache = Cache::must_open(&server.url("")).with(face);
                failed(operation(&cache), CACHETORY_ERR_IO, RETRYABLE);
                assert_eq!(server.requests().len(), 2);
            }
        }
    });
}

#[test]
fn a_write_that_was_sent_is_not_sent_again() {
    for_each_face(|face| {
        for how in BREAKS {
            for (what, operation) in WRITES {
                println!("{what}, {how:?}");
                let server = breaking(1, how);
                let cache = Cache::must_open(&server.url("")).with(face);
                failed(operation(&cache), CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
                // What comes next finds a connection, and is behind any second attempt.
                assert_eq!(cache.get("next"), Ok(Some(b"next".to_vec())));
                let requests = server.requests();
                assert_eq!(requests.len(), 2, "{requests:?}");
                assert_eq!(requests[1].name(), "GET");
            }
        }
    });
}

/// The first connection breaks in the middle of a large request.
fn breaking_in_a_request() -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number > 0 {
            return peer.serve(echo);
        }
        peer.take(100_000);
        peer.reset();
    })
}

#[test]
fn a_write_that_was_sent_in_part_may_have_been_applied() {
    for_each_face(|face| {
        let server = breaking_in_a_request();
        let cache = Cache::must_open(&server.url("")).with(face);
        let outcome = cache.set("k", vec![b'v'; 50 << 20]);
        failed(outcome, CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
        assert_eq!(server.requests().len(), 0);
        assert_eq!(cache.set("k", "v"), OK);
    });
}

#[test]
fn a_read_whose_request_was_sent_in_part_is_sent_once_more() {
    for_each_face(|face| {
        let server = breaking_in_a_request();
        let cache = Cache::must_open(&server.url("")).with(face);
        let key = vec![b'k'; 20 << 20];
        assert!(cache.get(&key).unwrap() == Some(key));
    });
}

#[test]
fn a_reply_that_is_cut_at_any_byte_is_asked_for_again() {
    let server = Setup::redis().start();
    for_each_face(|face| {
        let proxy = Proxy::to(Address::Tcp(server.port()));
        let cache = Cache::must_open(&proxy.address().url("")).with(face);
        let key = format!("{face:?}");
        assert_eq!(cache.set(&key, "value"), OK);
        // $5\r\nvalue\r\n
        for bytes in 0..11 {
            let end = if bytes % 2 == 0 { End::Close } else { End::Reset };
            proxy.cut_after(Way::ToClient, bytes, end);
            assert_eq!(cache.get(&key), Ok(Some(b"value".to_vec())), "cut after {bytes} bytes");
            assert!(!proxy.cut_pending(Way::ToClient));
        }
        // +OK\r\n
        for bytes in 0..5 {
            proxy.cut_after(Way::ToClient, bytes, End::Close);
            failed(cache.set(&key, "value"), CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
        }
        // In the middle of a large request, the beginning of which was sent.
        let other = format!("other {key}");
        for bytes in [1, 1000, 50_000] {
            proxy.cut_after(Way::ToServer, bytes, End::Reset);
            failed(cache.set(&other, large()), CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
            assert_eq!(cache.get(&other), Ok(None));
        }
    });
}

#[test]
fn a_call_where_nobody_listens_was_not_sent() {
    // Taken, so that nobody else listens there meanwhile, but not listening.
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap().port();
    let missing = std::env::temp_dir().join("cachetory-test-no-such-socket");
    let tls = format!("rediss://127.0.0.1:{port}");
    let urls = [Address::Tcp(port).url(""), Address::Unix(missing).url(""), tls];
    for_each_face(|face| {
        for url in &urls {
            let cache = Cache::must_open(url).with(face);
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}, {url}");
                failed(operation(&cache), CACHETORY_ERR_CONNECT, RETRYABLE);
            }
        }
    });
}

/// The first `bad` connections break in the handshake.
fn breaking_in_the_handshake(bad: usize, how: Break) -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number >= bad {
            return peer.serve(echo);
        }
        peer.command();
        how.happen(peer, b"+OK\r\n+");
    })
}

fn introduced(server: &Scripted, face: Face) -> Cache {
    let Address::Tcp(port) = server.address() else { unreachable!() };
    Cache::must_open(&format!("redis://:secret@127.0.0.1:{port}/1?max_connections=1")).with(face)
}

#[test]
fn a_handshake_that_breaks_is_begun_once_more() {
    for_each_face(|face| {
        for how in BREAKS {
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}, {how:?}");
                let server = breaking_in_the_handshake(1, how);
                assert_eq!(operation(&introduced(&server, face)), OK);
                assert_eq!(server.connections(), 2);
                assert!(server.requests().iter().all(|request| request.connection == 1));
            }
        }
    });
}

#[test]
fn a_handshake_is_not_begun_a_third_time() {
    for_each_face(|face| {
        for how in BREAKS {
            let server = breaking_in_the_handshake(usize::MAX, how);
            let cache = introduced(&server, face);
            for (number, (what, operation)) in READS.iter().chain(&WRITES).enumerate() {
                println!("{what}, {how:?}");
                failed(operation(&cache), CACHETORY_ERR_CONNECT, RETRYABLE);
                assert_eq!(server.connections(), 2 * (number + 1));
            }
        }
    });
}

#[test]
fn a_handshake_that_is_answered_is_not_begun_again() {
    // What the server says to the handshake before it closes the connection.
    for (words, status, flags) in [
        ("-ERR max number of clients reached\r\n", CACHETORY_ERR_CONNECT, RETRYABLE),
        ("-WRONGPASS invalid username-password pair\r\n", CACHETORY_ERR_AUTH, 0),
        ("-ERR invalid password\r\n", CACHETORY_ERR_AUTH, 0),
        ("-LOADING Redis is loading\r\n", CACHETORY_ERR_SERVER, RETRYABLE),
        ("HTTP/1.1 400 Bad Request\r\n", CACHETORY_ERR_PROTOCOL, 0),
    ] {
        for_each_face(|face| {
            println!("{words:?}");
            let server = Scripted::tcp(move |peer| {
                peer.command();
                peer.send(words);
            });
            failed(introduced(&server, face).set("k", "v"), status, flags);
            assert_eq!(server.connections(), 1);
        });
    }
}

#[test]
fn a_handshake_that_hangs_is_not_begun_again() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| peer.swallow());
        let Address::Tcp(port) = server.address() else { unreachable!() };
        let url = format!("redis://:secret@127.0.0.1:{port}/1?socket_timeout=0.3&fail_fast=false");
        times_out(RETRYABLE, || Cache::must_open(&url).with(face).set("k", "v"));
        // On a busy machine the deadline may pass before the first has begun.
        assert!(server.connections() <= 1);
    });
}

#[test]
fn a_tls_handshake_that_breaks_is_worth_another_call() {
    for_each_face(|face| {
        for close in [true, false] {
            let server = Scripted::tcp(move |peer| {
                peer.take(50);
                if close { peer.close() } else { peer.reset() }
            });
            let url = server.url("").replace("redis://", "rediss://");
            let cache = Cache::must_open(&url).with(face);
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}");
                // Nothing is wrong with the certificate: it may be there again in a moment.
                let statuses = [CACHETORY_ERR_IO, CACHETORY_ERR_CONNECT];
                failed_either(operation(&cache), &statuses, RETRYABLE);
            }
        }
    });
}

#[test]
fn nothing_is_sent_behind_a_handshake_that_was_refused() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| {
            while let Some(command) = peer.command() {
                let refused = name(&command) == "SELECT";
                peer.send(if refused { "-ERR DB index is out of range\r\n" } else { "+OK\r\n" });
                assert!(["SELECT", "AUTH", "CLIENT", "HELLO"].contains(&name(&command).as_str()));
            }
        });
        let Address::Tcp(port) = server.address() else { unreachable!() };
        let cache = Cache::must_open(&format!("redis://:secret@127.0.0.1:{port}/7")).with(face);
        for (what, operation) in READS.iter().chain(&WRITES) {
            println!("{what}");
            let message = failed(operation(&cache), CACHETORY_ERR_SERVER, 0);
            assert!(message.contains("DB index is out of range"), "{message}");
        }
    });
}

#[test]
fn the_default_database_needs_no_handshake() {
    let server = Scripted::tcp(|peer| peer.serve(echo));
    let cache = Cache::must_open(&server.url(""));
    assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
    let said = server.handshakes();
    let forbidden = ["HELLO", "SELECT", "AUTH"];
    assert!(!said.iter().any(|request| forbidden.contains(&request.name().as_str())), "{said:?}");
}
