//! What makes the descriptor readable, and how much is done in one step of a loop.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use rustix::net::SocketAddrUnix;

use super::support::capi::*;
use super::support::gates::{Gates, wait_for_key};
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, bulk, echo};
use super::support::server::Setup;
use super::support::socket::Address;
use super::support::{PATIENCE, poll};
use super::{OK, is_value};

#[test]
fn a_first_submission_is_sent_though_nobody_polls_or_waits() {
    let server = Scripted::tcp(|peer| peer.serve(echo));
    for round in 0..20 {
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        let _ = descriptor(&queue);
        // One that has to dial, and one on a link that is idle.
        for which in ["dialled", "idle"] {
            let key = format!("{which}:{round}");
            assert_eq!(cache.to(&queue).get(1, &key), OK);
            wait_for_key(&server, &key);
            let mut poller = Poller::new(&queue, Way::Poll, Watched::Itself);
            let mut taken = take(&queue, &mut poller, 1);
            is_value(taken.pop().unwrap(), key);
        }
    }
}

/// Where nobody comes, they are sent all the same, so a busy machine may send them before the loop looks.
#[test]
fn submissions_beside_one_that_is_outstanding_are_the_loops_to_send() {
    let gates = Gates::default();
    let server = gates.server();
    let mut was_readable = false;
    poll("a submission that the loop has to send", || {
        let (cache, queue) = (Cache::must_open(&server.url("max_connections=1")), Queue::open());
        gates.open(0);
        let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Itself);
        let to = cache.to(&queue);
        let before = server.count("GET");
        assert_eq!(to.get(0, "held:1"), OK);
        server.wait_for("GET", before + 1);
        // What there was to see to is seen to.
        while poller.wait(0) {
            assert_eq!(drain(&queue, 1).len(), 0);
        }
        for tag in 1..20 {
            assert_eq!(to.get(tag, format!("{tag}")), OK);
        }
        was_readable = poller.wait(0);
        assert_eq!(drain(&queue, 1).len(), 0);
        gates.open(1);
        server.wait_for("GET", before + 20);
        let mut poller = Poller::new(&queue, Way::Poll, Watched::Itself);
        for completion in take(&queue, &mut poller, 20) {
            assert_eq!(completion.outcome(), OK);
        }
        was_readable.then_some(())
    });
}

/// No reply comes, and nothing else: then there is nothing to do.
#[test]
fn a_loop_sleeps_while_its_server_is_silent() {
    let gates = Gates::default();
    let server = gates.server();
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    for way in PLAIN_WAYS {
        gates.open(0);
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        for tag in 0..10 {
            assert_eq!(cache.to(&queue).get(tag, "held:1"), OK);
        }
        let mut looks = 0;
        while poller.wait(300) {
            assert_eq!(drain(&queue, 8).len(), 0);
            looks += 1;
            assert!(looks < 100, "{way:?}: readable again and again");
        }
        gates.open(1);
        assert_eq!(take(&queue, &mut poller, 10).len(), 10);
    }
}

/// Nor is there while a request waits for a server that does not read.
#[test]
fn a_loop_sleeps_while_its_server_does_not_read() {
    let gates = Gates::default();
    let gate = gates.clone();
    let server = Scripted::unix(move |peer| {
        gate.hold(peer, 1);
        peer.serve(echo);
    });
    for way in PLAIN_WAYS {
        gates.open(0);
        let (cache, queue) = (Cache::must_open(&server.url("max_connections=1")), Queue::open());
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        for tag in 0..5 {
            assert_eq!(cache.to(&queue).set(tag, "k", vec![b'v'; 3_000_000], NO_EXPIRY, 0), OK);
        }
        let mut looks = 0;
        while poller.wait(300) {
            assert_eq!(drain(&queue, 8).len(), 0);
            looks += 1;
            assert!(looks < 100, "{way:?}: readable again and again");
        }
        gates.open(1);
        for completion in take(&queue, &mut poller, 5) {
            assert_eq!(completion.outcome(), OK);
        }
    }
}

/// The links of this process to the server there, among its descriptors.
fn links_to(server: &Scripted) -> Vec<BorrowedFd<'static>> {
    let Address::Unix(path) = server.address() else { panic!("a Unix socket") };
    let is_link = |fd: &BorrowedFd| {
        let peer = rustix::net::getpeername(fd).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
        peer.is_some_and(|peer| peer.path_bytes() == Some(path.as_os_str().as_encoded_bytes()))
    };
    // SAFETY: what is not open or no socket is found to be so, and the links are open as long as their caches.
    let all = (3..1024).map(|number| unsafe { BorrowedFd::borrow_raw(number) });
    all.filter(is_link).collect()
}

/// How many bytes of replies have arrived there and were not read yet.
fn pending(links: &[BorrowedFd]) -> u64 {
    links.iter().map(|link| rustix::io::ioctl_fionread(link).unwrap_or(0)).sum()
}

/// At most a mebibyte is read in one call that does not wait, and what is left makes an edge. The replies of many links
/// are pending at once, for there is little room in the kernel for one; if the loop is late, somebody else reads them.
#[test]
fn a_step_is_bounded_and_what_is_left_makes_the_descriptor_readable_anew() {
    const MIB: u64 = 1 << 20;
    const LINKS: usize = 50;
    let gates = Gates::default();
    let gate = gates.clone();
    let value = vec![b'v'; 140_000];
    let reply = bulk(&value);
    let server = Scripted::unix(move |peer| {
        while let Some(command) = peer.request() {
            peer.hang_until(|| gate.is_open_for(&command));
            if !peer.send(&reply) {
                return;
            }
        }
    });
    let queue = Queue::open();
    let caches: Vec<_> = (0..LINKS).map(|_| Cache::must_open(&server.url(""))).collect();
    for cache in &caches {
        assert!(cache.get("k").unwrap().is_some());
    }
    let bytes_of = |taken: &[Completion]| (taken.len() * value.len()) as u64;
    let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Itself);
    let mut rounds = 0;
    let mut in_a_row = 0;
    // By chance somebody else may read just so much, though not time and again.
    poll("steps that leave something, with nobody else reading", || {
        rounds += 1;
        gates.open(0);
        for (tag, cache) in caches.iter().enumerate() {
            assert_eq!(cache.to(&queue).get(tag as u64, "held:1"), OK);
        }
        server.wait_for("GET", LINKS * (rounds + 1));
        let links = links_to(&server);
        // What there was to see to is seen to, so that the next edge is that of the first reply.
        while poller.wait(0) {
            assert_eq!(drain(&queue, 1).len(), 0);
        }
        gates.open(1);
        for _ in 0..2000 {
            if pending(&links) >= 5 * MIB {
                break;
            }
            thread::yield_now();
        }
        poller.must_wake();
        let before = pending(&links);
        let mut taken = queue.wait(LINKS, 0).unwrap();
        let read = before.saturating_sub(pending(&links));
        let is_bounded = before >= 4 * MIB && read.max(bytes_of(&taken)) <= 2 * MIB;
        println!("{read} of {before} bytes at once");
        while taken.len() < LINKS {
            assert!(poller.wait(PATIENCE.as_millis() as u64), "a fresh edge");
            taken.extend(drain(&queue, LINKS));
        }
        for completion in taken {
            is_value(completion, &value);
        }
        in_a_row = if is_bounded { in_a_row + 1 } else { 0 };
        (in_a_row == 5).then_some(())
    });
}

/// Replies of many calls, more than a step reads, which an edge-triggered loop takes step by step.
#[test]
fn a_loop_that_makes_one_step_for_each_edge_gets_everything() {
    let server = Setup::redis().start();
    let value = vec![b'v'; 60_000];
    for url in [server.tcp_url(), server.unix_url()] {
        let cache = Cache::must_open(&format!("{url}?max_connections=2"));
        assert_eq!(cache.set("k", &value), OK);
        let queue = Queue::open();
        let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Itself);
        for _ in 0..5 {
            for tag in 0..200 {
                assert_eq!(cache.to(&queue).get(tag, "k"), OK);
            }
            let mut taken = 0;
            while taken < 200 {
                poller.must_wake();
                for completion in drain(&queue, 3) {
                    is_value(completion, &value);
                    taken += 1;
                }
            }
        }
        queue.assert_empty();
    }
}

/// A loop's thread may be another one each time.
#[test]
fn the_steps_of_a_loop_may_be_made_by_one_thread_after_the_other() {
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.tcp_url()), Queue::open());
    let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Duplicate);
    for round in 0..200 {
        for tag in 0..10 {
            assert_eq!(cache.to(&queue).set(tag, format!("{tag}"), "v", NO_EXPIRY, 0), OK);
        }
        let taken = thread::scope(|scope| {
            let taken = scope.spawn(|| take(&queue, &mut poller, 10).len());
            taken.join().unwrap()
        });
        assert_eq!(taken, 10, "{round}");
    }
    queue.assert_empty();
}

/// A server that is not there yet, or hangs in the handshake, is no matter of the loop's.
#[test]
fn a_dial_does_not_keep_the_descriptor_readable() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("redis://127.0.0.1:{port}/1?socket_timeout=600");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    let mut poller = Poller::new(&queue, Way::Poll, Watched::Itself);
    for tag in 0..10 {
        assert_eq!(cache.to(&queue).get(tag, "k"), OK);
    }
    let mut looks = 0;
    while poller.wait(300) {
        assert_eq!(drain(&queue, 8).len(), 0);
        looks += 1;
        assert!(looks < 100, "readable again and again");
    }
    assert!(poller.fd().as_fd().try_clone_to_owned().is_ok());
    assert_eq!(cache.close(), CACHETORY_OK);
    for completion in take(&queue, &mut poller, 10) {
        super::failed(&completion, CACHETORY_ERR_CANCELLED, 0);
    }
}
