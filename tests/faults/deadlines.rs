//! One hard deadline over a whole call, whichever phase it is in. Only that a call ends is tested, not how fast.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::support::capi::*;
use super::support::scripted::{Scripted, bulk};
use super::support::server::Setup;
use super::support::socket::Address;
use super::{READS, WRITES, failed, failed_either, within};

const SHORT: &str = "socket_timeout=0.3";
const BOUND: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

#[track_caller]
fn times_out<T: std::fmt::Debug>(flags: u32, call: impl FnOnce() -> Result<T, Failure>) -> String {
    failed(within(BOUND, call), CACHETORY_ERR_TIMEOUT, flags)
}

/// A port whose queue of connections is full: the kernel ignores whoever wants to join it, as a dead host would.
struct FullPort {
    address: Address,
    _sockets: Vec<OwnedFd>,
}

impl FullPort {
    fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![OwnedFd::from(listener)];
        for _ in 0..4 {
            let kind = SocketType::STREAM;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None).unwrap();
            let _ = rustix::net::connect(&socket, &address);
            sockets.push(socket);
        }
        Self { address: Address::Tcp(address.port()), _sockets: sockets }
    }
}

#[test]
fn connect() {
    let port = FullPort::new();
    let cache = Cache::must_open(&port.address.url(SHORT));
    for (name, operation) in READS.iter().chain(&WRITES) {
        println!("{name}");
        times_out(RETRYABLE, || operation(&cache));
    }
}

#[test]
fn connect_has_a_shorter_one_of_its_own() {
    let port = FullPort::new();
    let cache = Cache::must_open(&port.address.url("socket_connect_timeout=0.3&socket_timeout=60"));
    let statuses = [CACHETORY_ERR_CONNECT, CACHETORY_ERR_TIMEOUT];
    failed_either(within(BOUND, || cache.set("k", "v")), &statuses, RETRYABLE);
}

#[test]
fn many_callers_of_a_port_that_ignores_them() {
    let port = FullPort::new();
    let cache = Cache::must_open(&port.address.url("socket_timeout=0.3&max_connections=2"));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| times_out(RETRYABLE, || cache.get("k")));
        }
    });
}

#[test]
fn tls_handshake() {
    let server = Scripted::tcp(|peer| peer.swallow());
    let cache = Cache::must_open(&server.url(SHORT).replace("redis://", "rediss://"));
    times_out(RETRYABLE, || cache.get("k"));
    times_out(RETRYABLE, || cache.set("k", "v"));
}

#[test]
fn tls_handshake_that_drips() {
    // A record that says it is long, so that the other side waits for all of it.
    let server = Scripted::tcp(|peer| {
        let record = [&[22, 3, 3, 16, 0][..], &[0; 4096]].concat();
        peer.drip(record, PAUSE);
    });
    let cache = Cache::must_open(&server.url(SHORT).replace("redis://", "rediss://"));
    times_out(RETRYABLE, || cache.set("k", "v"));
}

#[test]
fn login() {
    let server = Scripted::tcp(|peer| peer.swallow());
    let Address::Tcp(port) = server.address() else { unreachable!() };
    for url in [
        format!("redis://:secret@127.0.0.1:{port}/?{SHORT}"),
        format!("redis://127.0.0.1:{port}/3?{SHORT}"),
        format!("redis://127.0.0.1:{port}/?{SHORT}&protocol=3"),
        format!("redis://127.0.0.1:{port}/?{SHORT}&client_name=c"),
    ] {
        let cache = Cache::must_open(&url);
        let message = times_out(RETRYABLE, || cache.get("k"));
        assert!(!message.contains("secret"), "{message}");
        times_out(RETRYABLE, || cache.set("k", "v"));
    }
}

#[test]
fn login_that_drips() {
    let server = Scripted::tcp(|peer| {
        peer.command();
        peer.drip(format!("+{}", "O".repeat(4000)), PAUSE);
    });
    let Address::Tcp(port) = server.address() else { unreachable!() };
    let cache = Cache::must_open(&format!("redis://:secret@127.0.0.1:{port}/?{SHORT}"));
    times_out(RETRYABLE, || cache.set("k", "v"));
}

#[test]
fn writing_to_a_peer_that_does_not_read() {
    let large = vec![b'x'; 50 << 20];
    for server in [Scripted::tcp(|peer| peer.hang()), Scripted::unix(|peer| peer.hang())] {
        let cache = Cache::must_open(&server.url(SHORT));
        times_out(RETRYABLE | MAYBE_APPLIED, || cache.set("k", &large));
        times_out(RETRYABLE | MAYBE_APPLIED, || cache.set_with("k", &large, 60_000, 0));
        times_out(RETRYABLE | MAYBE_APPLIED, || cache.mset(&[("k", &large)], NO_EXPIRY));
        times_out(RETRYABLE | MAYBE_APPLIED, || cache.mset(&[("k", &large)], 60_000));
        times_out(RETRYABLE, || cache.get(&large));
    }
}

#[test]
fn no_reply() {
    for server in [
        Scripted::tcp(|peer| while peer.request().is_some() {}),
        Scripted::unix(|peer| while peer.request().is_some() {}),
    ] {
        let cache = Cache::must_open(&server.url(SHORT));
        for (name, operation) in READS {
            println!("{name}");
            times_out(RETRYABLE, || operation(&cache));
        }
        for (name, operation) in WRITES {
            println!("{name}");
            times_out(RETRYABLE | MAYBE_APPLIED, || operation(&cache));
        }
        assert_eq!(server.count("GET"), 1, "there is no time left to try again in");
    }
}

#[test]
fn a_reply_that_drips() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.request() {
            let long = vec![b'O'; 2000];
            let is_get = command[0] == b"GET";
            peer.drip(if is_get { bulk(long) } else { [b"+", &long[..]].concat() }, PAUSE);
        }
    });
    let cache = Cache::must_open(&server.url(SHORT));
    times_out(RETRYABLE, || cache.get("k"));
    times_out(RETRYABLE | MAYBE_APPLIED, || cache.set("k", "v"));
}

#[test]
fn a_reply_that_stops_halfway() {
    for reply in [
        "$100\r\nhalf".to_owned(),
        "$".to_owned(),
        "$10".to_owned(),
        "$4\r\nfour".to_owned(),
        "$4\r\nfour\r".to_owned(),
        format!("${}\r\n{}", 100 << 20, "x".repeat(8 << 20)),
        "|1\r\n+ttl\r\n".to_owned(),
        "+".to_owned(),
        "-ERR no end".to_owned(),
    ] {
        let start = reply.get(..20).unwrap_or(&reply).to_owned();
        println!("{start:?}");
        let server = Scripted::tcp(move |peer| {
            while peer.request().is_some() {
                peer.send(&reply);
            }
        });
        let cache = Cache::must_open(&server.url(SHORT));
        times_out(RETRYABLE, || cache.get("k"));
    }
}

#[test]
fn a_batch_that_stops_halfway() {
    for reply in ["*", "*2", "*2\r\n", "*2\r\n$1\r\na\r\n", "*2\r\n$1\r\na\r\n$2\r\nb"] {
        println!("{reply:?}");
        let server = Scripted::tcp(move |peer| {
            while peer.request().is_some() {
                peer.send(reply);
            }
        });
        let cache = Cache::must_open(&server.url(SHORT));
        times_out(RETRYABLE, || cache.mget(&["k", "l"]));
    }
}

#[test]
fn many_callers_of_a_server_that_hangs() {
    let server = Scripted::tcp(|peer| while peer.request().is_some() {});
    let cache = Cache::must_open(&server.url("socket_timeout=0.3&max_connections=1"));
    thread::scope(|scope| {
        for number in 0..16 {
            let cache = &cache;
            scope.spawn(move || times_out(RETRYABLE, || cache.get(format!("k{number}"))));
        }
    });
}

#[test]
fn a_long_line_of_replacements_is_not_a_way_around_it() {
    // Every connection is closed as soon as it is there: replacing them must end some time.
    let server = Scripted::tcp(|_| {});
    let cache = Cache::must_open(&server.url(SHORT));
    for _ in 0..20 {
        let statuses = [CACHETORY_ERR_IO, CACHETORY_ERR_CONNECT, CACHETORY_ERR_TIMEOUT];
        failed_either(within(BOUND, || cache.get("k")), &statuses, RETRYABLE);
        let failure = within(BOUND, || cache.set("k", "v")).unwrap_err();
        assert!(statuses.contains(&failure.status) && failure.is_retryable(), "{failure:?}");
    }
}

#[test]
fn clear_has_one_for_each_round_trip() {
    let rounds = AtomicUsize::new(0);
    let server = Scripted::tcp(move |peer| {
        peer.serve(|_| {
            thread::sleep(Duration::from_millis(400));
            let cursor = (rounds.fetch_add(1, Ordering::SeqCst) + 1) % 4;
            format!("*2\r\n$1\r\n{cursor}\r\n*0\r\n").into_bytes()
        });
    });
    let cache = Cache::must_open(&server.url("socket_timeout=1.2&prefix=p:"));
    assert_eq!(cache.clear(), Ok(CACHETORY_OK));
    assert_eq!(server.count("SCAN"), 4);
}

#[test]
fn a_paused_server() {
    let server = Setup::redis().start();
    for url in [server.tcp_url(), server.unix_url()] {
        let cache = Cache::must_open(&format!("{url}?{SHORT}"));
        assert_eq!(cache.set("k", "before"), Ok(CACHETORY_OK));
        server.pause();
        times_out(RETRYABLE, || cache.get("k"));
        times_out(RETRYABLE | MAYBE_APPLIED, || cache.set("other", "v"));
        server.resume();
        // The write that was sent may still come; a read must see its own answer, also while late ones arrive.
        for _ in 0..20 {
            let value = super::support::poll("the server answers again", || cache.get("k").ok());
            assert_eq!(value.as_deref(), Some(&b"before"[..]));
        }
    }
}

#[test]
fn an_unknown_host() {
    let cache = Cache::must_open(
        "redis://nonexistent.invalid/?socket_timeout=60&socket_connect_timeout=60",
    );
    for outcome in [cache.get("k").map(|_| 0), cache.set("k", "v")] {
        let message = failed(outcome, CACHETORY_ERR_CONNECT, RETRYABLE);
        assert!(message.contains("nonexistent.invalid"), "{message}");
    }
    let cache = Cache::must_open("redis://nonexistent.invalid/?socket_timeout=0.3");
    let statuses = [CACHETORY_ERR_CONNECT, CACHETORY_ERR_TIMEOUT];
    failed_either(within(BOUND, || cache.set("k", "v")), &statuses, RETRYABLE);
}
