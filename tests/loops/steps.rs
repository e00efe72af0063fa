//! What makes the descriptor readable, and how much is done in one step of a loop.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use super::support::capi::*;
use super::support::gates::{Gates, wait_for_key};
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, bulk, echo};
use super::support::server::Setup;
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

/// The link of this process to the server on that port, among its descriptors.
fn link_to(port: u16) -> Option<BorrowedFd<'static>> {
    (3..1024).find_map(|number| {
        // SAFETY: looked at in this function, and by who knows that the cache is open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let peer = rustix::net::getpeername(fd).ok()??;
        let peer = SocketAddr::try_from(peer).ok()?;
        (peer.port() == port).then_some(fd)
    })
}

fn pending(fd: BorrowedFd) -> u64 {
    rustix::io::ioctl_fionread(fd).unwrap()
}

const MIB: u64 = 1 << 20;
/// More than one step reads.
const MUCH: u64 = 3 * MIB;

/// Gives the kernel the time to fill its buffer, though not the I/O thread that to come for it; what is pending.
fn wait_for_input(link: BorrowedFd) -> u64 {
    for _ in 0..500 {
        if pending(link) >= MUCH {
            break;
        }
        thread::yield_now();
    }
    pending(link)
}

/// At most a mebibyte is read in one call that does not wait, and what is left makes an edge.
#[test]
fn a_step_is_bounded_and_what_is_left_makes_the_descriptor_readable_anew() {
    const VALUE: usize = 64 << 20;
    let server = Scripted::tcp(|peer| peer.serve(|_| bulk(vec![b'v'; VALUE])));
    let super::support::socket::Address::Tcp(port) = *server.address() else { unreachable!() };
    let url = server.url("max_connections=1&socket_timeout=600");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Itself);
    let mut steps_with_more_to_come = 0;
    poll("a step that leaves something, with nobody else reading", || {
        assert_eq!(cache.to(&queue).get(1, "k"), OK);
        let mut found = None;
        while found.is_none() {
            poller.must_wake();
            // The kernel's buffer grows as it is read from.
            let before = link_to(port).map_or(0, wait_for_input);
            found = queue.wait(1, 0).unwrap().pop();
            let after = link_to(port).map_or(0, pending);
            if found.is_none() && before >= MUCH {
                assert!(after + 2 * MIB > before, "{} bytes at once", before - after);
                steps_with_more_to_come += 1;
                assert!(poller.wait(PATIENCE.as_millis() as u64), "a fresh edge");
            }
            // All that makes the next edge one of what is left then.
            found = found.or_else(|| drain(&queue, 1).pop());
        }
        let mut found = found.unwrap();
        assert_eq!(found.take_value().unwrap().bytes().len(), VALUE);
        (steps_with_more_to_come > 0).then_some(())
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
