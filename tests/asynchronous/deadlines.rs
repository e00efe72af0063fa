//! Servers that hang: every call ends at its deadline, whoever waits on the queue or does not. Only that it ends is tested,
//! not how fast.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::support::capi::*;
use super::support::poll;
use super::support::queue::*;
use super::support::scripted::Scripted;
use super::support::server::Setup;
use super::support::socket::Address;
use super::{Gates, OK, READS, WRITES, all_fail, failed, is_value};

const SHORT: &str = "socket_timeout=0.2";
/// Long enough to connect and to begin to send in, also on a busy machine.
const LONGER: &str = "socket_timeout=1";
/// Far beyond the deadline, and the longest there may be.
const LONG_SPIN: &str = "socket_timeout=0.2&spin_us=1000000";

/// Takes so many completions without ever waiting on the queue.
#[track_caller]
fn appear(queue: &Queue, count: usize) -> Vec<Completion> {
    let mut all = Vec::new();
    poll("the completions are there", || {
        all.extend(queue.wait(64, 0).unwrap());
        (all.len() >= count).then_some(())
    });
    assert_eq!(all.len(), count);
    all
}

#[test]
fn no_reply() {
    for server in [
        Scripted::tcp(|peer| while peer.request().is_some() {}),
        Scripted::unix(|peer| while peer.request().is_some() {}),
    ] {
        for options in [
            SHORT,
            "socket_timeout=0.2&max_connections=64",
            "socket_timeout=0.2&spin_us=0",
            LONG_SPIN,
        ] {
            let (cache, queue) = (Cache::must_open(&server.url(options)), Queue::open());
            for (tag, (what, submit)) in READS.iter().chain(&WRITES).enumerate() {
                assert_eq!(submit(cache.to(&queue), tag as u64), OK, "{what}");
            }
            for completion in appear(&queue, READS.len() + WRITES.len()) {
                let failure = completion.failure();
                assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
                assert!(failure.is_retryable());
                let may = completion.tag() >= READS.len() as u64;
                assert!(may || !failure.is_maybe_applied(), "{failure:?}");
            }
        }
    }
}

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

#[test]
fn each_write_alone_may_have_been_applied() {
    let server = Scripted::tcp(|peer| while peer.request().is_some() {});
    for (what, submit) in WRITES {
        println!("{what}");
        let (cache, queue) = (Cache::must_open(&server.url(LONGER)), Queue::open());
        assert_eq!(submit(cache.to(&queue), 1), OK);
        failed(&appear(&queue, 1)[0], CACHETORY_ERR_TIMEOUT, RETRYABLE | MAYBE_APPLIED);
    }
}

/// The one connection hangs, and there is never another.
#[test]
fn calls_that_still_wait_for_a_connection() {
    let server = Scripted::tcp(|peer| {
        if peer.number > 0 {
            return peer.hang();
        }
        while peer.request().is_some() {}
    });
    let (cache, queue) =
        (Cache::must_open(&server.url("db=1&socket_timeout=1&max_connections=1")), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.get(1, "sent"), OK);
    server.wait_for("GET", 1);
    assert_eq!(to.get(2, "k"), OK);
    assert_eq!(to.set(3, "k", "v", NO_EXPIRY, 0), OK);
    assert_eq!(to.set(4, "k", super::large(), NO_EXPIRY, 0), OK);
    for completion in appear(&queue, 4) {
        failed(&completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
    }
    assert_eq!(server.requests().len(), 1);
    // And where there never was any.
    let server = Scripted::tcp(|peer| peer.hang());
    let cache = Cache::must_open(&server.url("db=1&socket_timeout=0.2"));
    all_fail(&cache, &READS, CACHETORY_ERR_TIMEOUT, RETRYABLE);
    all_fail(&cache, &WRITES, CACHETORY_ERR_TIMEOUT, RETRYABLE);
}

/// A port whose queue of connections is full: the kernel ignores whoever wants to join it, as a dead host would.
pub struct FullPort {
    pub address: Address,
    _sockets: Vec<OwnedFd>,
}

impl FullPort {
    pub fn new() -> Self {
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
fn a_host_that_ignores_us() {
    let port = FullPort::new();
    let cache = Cache::must_open(&port.address.url(SHORT));
    all_fail(&cache, &READS, CACHETORY_ERR_TIMEOUT, RETRYABLE);
    all_fail(&cache, &WRITES, CACHETORY_ERR_TIMEOUT, RETRYABLE);
    let url = port.address.url("socket_connect_timeout=0.2&socket_timeout=60");
    let cache = Cache::must_open(&url);
    all_fail(&cache, &READS, CACHETORY_ERR_CONNECT, RETRYABLE);
    all_fail(&cache, &WRITES, CACHETORY_ERR_CONNECT, RETRYABLE);
}

#[test]
fn hosts_that_ignore_us_hold_up_no_other() {
    let port = FullPort::new();
    let url = port.address.url("socket_connect_timeout=60&socket_timeout=60");
    let hanging: Vec<_> = (0..10).map(|_| Cache::must_open(&url)).collect();
    let queue = Queue::open();
    for cache in &hanging {
        for tag in 0..8 {
            assert_eq!(cache.to(&queue).get(tag, super::large()), OK);
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

/// Neither reads nor writes: the request fills the socket's buffers, and the rest of it is never sent.
#[test]
fn a_peer_that_does_not_read() {
    let huge = vec![b'x'; 50 << 20];
    for server in [Scripted::tcp(|peer| peer.hang()), Scripted::unix(|peer| peer.hang())] {
        let (cache, queue) = (Cache::must_open(&server.url(LONGER)), Queue::open());
        let to = cache.to(&queue);
        assert_eq!(to.set(1, "k", &huge, NO_EXPIRY, 0), OK);
        failed(&appear(&queue, 1)[0], CACHETORY_ERR_TIMEOUT, RETRYABLE | MAYBE_APPLIED);
        assert_eq!(to.mset(2, &[("k", &huge)], 60_000), OK);
        failed(&appear(&queue, 1)[0], CACHETORY_ERR_TIMEOUT, RETRYABLE | MAYBE_APPLIED);
        assert_eq!(to.get(3, &huge), OK);
        failed(&appear(&queue, 1)[0], CACHETORY_ERR_TIMEOUT, RETRYABLE);
        // Small ones too, until that is full.
        let value = vec![b'x'; 10_000];
        for tag in 0..1000 {
            assert_eq!(to.set(tag, "k", &value, NO_EXPIRY, 0), OK);
        }
        for completion in appear(&queue, 1000) {
            assert_eq!(completion.failure().status, CACHETORY_ERR_TIMEOUT);
        }
    }
}

#[test]
fn a_late_reply_goes_to_nobody() {
    for options in [SHORT, "socket_timeout=0.2&max_connections=1"] {
        let gates = Gates::default();
        let server = gates.server();
        let (cache, queue) = (Cache::must_open(&server.url(options)), Queue::open());
        let to = cache.to(&queue);
        assert_eq!(to.get(1, "held:1"), OK);
        assert_eq!(to.get(2, "held:1"), OK);
        for completion in appear(&queue, 2) {
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

#[test]
fn a_paused_server() {
    let server = Setup::redis().start();
    for url in [server.tcp_url(), server.unix_url()] {
        let (cache, queue) = (Cache::must_open(&format!("{url}?{LONGER}")), Queue::open());
        let to = cache.to(&queue);
        assert_eq!(cache.set("k", "before"), OK);
        server.pause();
        assert_eq!(to.get(1, "k"), OK);
        failed(&appear(&queue, 1)[0], CACHETORY_ERR_TIMEOUT, RETRYABLE);
        assert_eq!(to.set(2, "other", "v", NO_EXPIRY, 0), OK);
        failed(&appear(&queue, 1)[0], CACHETORY_ERR_TIMEOUT, RETRYABLE | MAYBE_APPLIED);
        server.resume();
        let completion = poll("the server answers again", || {
            assert_eq!(to.get(3, "k"), OK);
            Some(queue.next()).filter(|completion| completion.outcome().is_ok())
        });
        is_value(completion, "before");
        queue.assert_empty();
    }
}

/// With many calls behind one another, and their deadlines too.
#[test]
fn many_deadlines() {
    let server = Scripted::tcp(|peer| while peer.request().is_some() {});
    let (cache, queue) = (Cache::must_open(&server.url(SHORT)), Queue::open());
    for tag in 0..20_000 {
        assert_eq!(cache.to(&queue).get(tag, "k"), OK);
    }
    let mut seen = vec![false; 20_000];
    for completion in appear(&queue, 20_000) {
        failed(&completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
        assert!(!std::mem::replace(&mut seen[completion.tag() as usize], true));
    }
}
