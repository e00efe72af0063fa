//! A node over Unix sockets whose other ends the test holds. Where it says so the reactor has no thread, so that
//! whatever goes on is driven by the thread that waits.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::job::Job;
use super::lease::Lease;
use super::scheduler::Checkout;
use super::*;
use crate::backend::redis::link::outcome::Exchanged;
use crate::backend::redis::link::requests::Owner;
use crate::backend::redis::link::waiter::{SleepsOn, Waiter, Waiting, Woken};
use crate::backend::redis::link::wakeup::WakeupSet;
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{self, CompletionQueue, Promise};
use crate::config::Target;
use crate::op::{Access, Answer, Op};
use crate::reactor::Task;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const PONG: &[u8] = b"+PONG\r\n";
const LONG: Duration = Duration::from_secs(3600);

/// A server that does what the test does.
struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cachetory-node-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        Self { path, listener }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The address is asked for at each dial.
struct Counted {
    path: PathBuf,
    asked: Arc<AtomicUsize>,
}

impl Endpoint for Counted {
    fn address(&self, _deadline: &Deadline) -> Result<ConnectionAddr> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(ConnectionAddr::Unix(self.path.clone()))
    }
}

struct Bench {
    server: Server,
    node: Arc<Node>,
    asked: Arc<AtomicUsize>,
}

/// Who completes what.
struct Front {
    queue: Arc<CompletionQueue>,
    inflight: Arc<Inflight>,
}

impl Front {
    fn new() -> Self {
        let inflight = Arc::new(Inflight::new(usize::MAX));
        Self { queue: Arc::new(CompletionQueue::open().unwrap()), inflight }
    }

    fn node(&self) -> Bench {
        let options = "socket_timeout=3600&spin_us=0&max_connections=1";
        let config = Config::parse(&format!("redis://localhost?{options}")).unwrap();
        let Target::Redis(info) = config.target.clone() else { unreachable!() };
        let (server, asked) = (Server::new(), Arc::default());
        let endpoint = Counted { path: server.path.clone(), asked: Arc::clone(&asked) };
        let trust = Arc::new(Trust::new(&config.tls));
        let inflight = Arc::clone(&self.inflight);
        let node = Node::new(&config, &info, Box::new(endpoint), inflight, &trust);
        Bench { server, node, asked }
    }

    fn submit(&self, tag: u64, backend: impl FnOnce(Promise) -> Result<()>) {
        completion::accept(&self.queue, &self.inflight, tag, Access::Write, LONG, backend).unwrap();
    }

    fn promise(&self) -> Promise {
        let mut kept = None;
        self.submit(99, |call| {
            kept = Some(call);
            Ok(())
        });
        kept.unwrap()
    }

    /// Makes it likely that the thread waits for what it submits next.
    fn wait_often(&self) {
        let unanswered = self.promise();
        for _ in 0..20 {
            self.queue.wait(1, Some(Duration::from_nanos(1)), |_, _| {}).unwrap();
        }
        unanswered.complete(Ok(Answer::Done));
        assert_eq!(self.queue.wait(1, None, |_, _| {}).unwrap(), 1);
    }

    /// Waits for one completion, which must be a success; its tag.
    fn next(&self) -> u64 {
        let mut tag = None;
        let put = |_, completion: completion::Completion| {
            assert!(completion.result.is_ok());
            tag = Some(completion.tag);
        };
        assert_eq!(self.queue.wait(1, Some(Duration::from_secs(120)), put).unwrap(), 1);
        tag.unwrap()
    }
}

impl Bench {
    /// From here on nothing is driven but by threads that wait.
    fn without_reactor(self) -> Self {
        assert!(self.node.reactor.set(Reactor::idle().unwrap()).is_ok());
        self
    }

    /// A link that nobody uses, and the server's end of it.
    fn link(&self) -> (Lease<'_>, UnixStream) {
        let checkout = self.node.scheduler().check_out_exclusive(Instant::now);
        let Checkout::Dial(reservation) = checkout else { panic!("there is a link already") };
        let lease = self.node.dial_reserved(reservation, &Deadline::after(LONG)).unwrap();
        (lease, self.server.listener.accept().unwrap().0)
    }

    fn idle_link(&self) -> UnixStream {
        let (lease, peer) = self.link();
        lease.give_back();
        peer
    }

    fn ping(&self, call: Promise) -> Result<()> {
        self.node.submit_shared(call, encode_ping, Expect::Ping)
    }

    /// Links that are there.
    fn links(&self) -> usize {
        self.node.scheduler().links()
    }
}

fn encode_ping(out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(PING);
    Ok(())
}

fn read_pings(peer: &mut UnixStream, count: usize) {
    let mut read = vec![0; count * PING.len()];
    peer.read_exact(&mut read).unwrap();
    assert_eq!(read, PING.repeat(count));
}

#[test]
fn the_thread_that_waits_drives_the_link_itself() {
    let front = Front::new();
    let bench = front.node().without_reactor();
    let mut peer = bench.idle_link();
    front.wait_often();
    front.submit(1, |call| bench.ping(call));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            read_pings(&mut peer, 1);
            peer.write_all(PONG).unwrap();
        });
        assert_eq!(front.next(), 1);
    });
}

#[test]
fn a_link_in_the_middle_of_a_batch_is_parked_and_found_again() {
    let front = Front::new();
    let bench = front.node().without_reactor();
    let mut peer = bench.idle_link();
    front.wait_often();
    [1, 2, 3].into_iter().for_each(|tag| front.submit(tag, |call| bench.ping(call)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            read_pings(&mut peer, 3);
            peer.write_all(PONG).unwrap();
        });
        assert_eq!(front.next(), 1);
    });
    // What is submitted now joins it.
    front.submit(4, |call| bench.ping(call));
    peer.write_all(&PONG.repeat(2)).unwrap();
    assert_eq!([front.next(), front.next()], [2, 3]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            read_pings(&mut peer, 1);
            peer.write_all(PONG).unwrap();
        });
        assert_eq!(front.next(), 4);
    });
}

#[test]
fn a_thread_that_waits_is_served_by_every_node_of_its_cache() {
    let front = Front::new();
    let benches = [front.node(), front.node(), front.node()];
    let peers = benches.each_ref().map(Bench::idle_link);
    front.wait_often();
    for round in 0..20 {
        let tags = [0, 1, 2].map(|node| 10 * round + node as u64);
        for (bench, tag) in benches.iter().zip(tags) {
            front.submit(tag, |call| bench.ping(call));
        }
        std::thread::scope(|scope| {
            for mut peer in peers.iter() {
                scope.spawn(move || {
                    let mut read = vec![0; PING.len()];
                    peer.read_exact(&mut read).unwrap();
                    peer.write_all(PONG).unwrap();
                });
            }
            let mut answered = tags.map(|_| front.next());
            answered.sort_unstable();
            assert_eq!(answered, tags);
        });
    }
}

#[test]
fn a_call_alone_takes_a_link_and_gives_it_back() {
    let front = Front::new();
    let bench = front.node();
    let mut peer = bench.idle_link();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                read_pings(&mut peer, 1);
                peer.write_all(PONG).unwrap();
            });
            let deadline = Deadline::after(LONG);
            let answer = bench.node.call_shared(&Op::Ping, Expect::Ping, b"", &deadline);
            assert!(matches!(answer, Ok(Answer::Done)));
        });
    }
    assert_eq!((bench.links(), bench.asked.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn a_lost_link_is_replaced_at_an_address_that_is_asked_for_anew() {
    let front = Front::new();
    let bench = front.node();
    drop(bench.idle_link());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut peer = bench.server.listener.accept().unwrap().0;
            read_pings(&mut peer, 1);
            peer.write_all(PONG).unwrap();
        });
        let deadline = Deadline::after(LONG);
        let answer = bench.node.call_exclusive(Op::Ping, Expect::Ping, b"", deadline);
        assert!(matches!(answer, Ok(Answer::Done)));
    });
    assert_eq!((bench.links(), bench.asked.load(Ordering::Relaxed)), (1, 2));
}

#[test]
fn a_lease_that_is_dropped_closes_the_link_and_makes_room_for_another() {
    let front = Front::new();
    let bench = front.node();
    let (lease, mut peer) = bench.link();
    assert_eq!(bench.links(), 1);
    drop(lease);
    assert_eq!(bench.links(), 0);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "its socket is closed");
}

#[test]
fn a_dial_that_fails_makes_room_for_another() {
    let front = Front::new();
    let bench = front.node();
    std::fs::remove_file(&bench.server.path).unwrap();
    for _ in 0..3 {
        let deadline = Deadline::after(LONG);
        let failed = bench.node.call_exclusive(Op::Ping, Expect::Ping, b"", deadline);
        assert!(matches!(failed.unwrap_err().kind, Kind::Connect { .. }));
        assert_eq!(bench.links(), 0);
    }
}

/// A link with a batch: the call of a thread, and an asynchronous one.
fn loaded(bench: &Bench, front: &Front) -> (Box<Link>, Arc<Waiter<Link>>, UnixStream) {
    let (lease, peer) = bench.link();
    let mut link = lease.into_link().unwrap();
    let waiter = Arc::new(Waiter::default());
    let waiting = Waiting { waiter: Arc::clone(&waiter), sleeps_on: SleepsOn::Own };
    let mut requests = Requests::default();
    for owner in [Owner::Thread(waiting), Owner::Call(front.promise())] {
        requests.add(owner, encode_ping, Expect::Ping).unwrap();
    }
    requests.begin_send();
    link.batch.load(&mut requests, WakeupSet::default());
    (link, waiter, peer)
}

fn has_failed_inside(waiter: &Waiter<Link>) -> bool {
    let Some(Woken::Answer(Exchanged::Failed(failure))) = waiter.take() else { return false };
    matches!(failure.error.kind, Kind::Internal(_))
}

#[test]
fn a_link_is_handed_to_a_thread_that_waits_in_its_batch_before_the_reactor() {
    let front = Front::new();
    let bench = front.node().without_reactor();
    let (link, waiter, _peer) = loaded(&bench, &front);
    Lease::of(&bench.node, link).hand_over(None);
    let Some(Woken::Link(link)) = waiter.take() else { panic!("it has none") };
    // It cannot drive it itself, and nobody else waits but for the asynchronous call.
    Lease::of(&bench.node, link).hand_over(Some(&waiter));
    assert!(waiter.take().is_none());
    assert_eq!((bench.links(), front.inflight.count()), (1, 1), "the reactor has it");
}

#[test]
fn a_job_that_is_dropped_fails_its_calls_and_gives_up_its_link() {
    let front = Front::new();
    let bench = front.node();
    let (link, waiter, mut peer) = loaded(&bench, &front);
    let mut job = Job::new(Arc::clone(&bench.node), link);
    job.step(Instant::now());
    read_pings(&mut peer, 2);
    drop(job);
    assert!(has_failed_inside(&waiter));
    assert_eq!((bench.links(), front.inflight.count()), (0, 0));
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "its link is closed");
}

#[test]
fn a_job_whose_time_is_over_leaves_the_link_to_the_threads_that_wait_in_it() {
    let front = Front::new();
    let bench = front.node();
    let (link, waiter, _peer) = loaded(&bench, &front);
    let mut job = Job::new(Arc::clone(&bench.node), link);
    let now = Instant::now();
    assert_eq!(job.step(now), crate::reactor::Progress::Waits);
    assert_eq!(job.step(now + 2 * LONG), crate::reactor::Progress::Over);
    let Some(Woken::Link(link)) = waiter.take() else { panic!("it has none") };
    assert_eq!(link.batch.left(), 2);
    drop(Lease::of(&bench.node, link));
    assert_eq!(bench.links(), 0);
}

#[test]
fn closing_cuts_off_the_links_in_use_and_refuses_what_is_queued() {
    let front = Front::new();
    let bench = front.node().without_reactor();
    let (mut lease, _peer) = bench.link();
    front.wait_often();
    // There is no room for it in this test: it stays queued.
    front.submit(1, |call| bench.ping(call));
    bench.node.close();
    assert!(!lease.link().unwrap().is_sound());
    drop(lease);
    assert_eq!(bench.links(), 0);
    let mut closed = 0;
    let put = |_, completion: completion::Completion| {
        assert!(matches!(completion.result.unwrap_err().kind, Kind::Closed));
        closed += 1;
    };
    assert_eq!(front.queue.wait(9, Some(Duration::from_secs(120)), put).unwrap(), 1);
    assert_eq!(closed, 1);
    let refused = bench.node.call_exclusive(Op::Ping, Expect::Ping, b"", Deadline::after(LONG));
    assert!(matches!(refused.unwrap_err().kind, Kind::Closed));
}

#[test]
fn a_driven_wait_is_measured_as_the_round_trip_that_it_was() {
    let front = Front::new();
    let bench = front.node().without_reactor();
    let mut peer = bench.idle_link();
    front.wait_often();
    // Of every sixteen one is measured, and the shortest of 32 counts.
    let rounds = 40 * 16;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                read_pings(&mut peer, 1);
                std::thread::sleep(Duration::from_micros(700));
                peer.write_all(PONG).unwrap();
            }
        });
        for tag in 0..rounds {
            front.submit(tag, |call| bench.ping(call));
            assert_eq!(front.next(), tag);
        }
    });
    assert!(bench.node.scheduler().is_far(), "each took 700 microseconds or more");
}

#[test]
fn what_threads_have_queued_is_not_entrusted_to_the_reactor() {
    let front = Front::new();
    let bench = front.node();
    let mut peer = bench.idle_link();
    let waiter = Arc::new(Waiter::default());
    let own = Arc::clone(&waiter);
    let queued = bench.node.scheduler().enqueue(own, encode_ping, Expect::Ping, Instant::now);
    assert!(queued.is_ok());
    Engine::entrust(&*bench.node);
    assert!(waiter.take().is_none() && bench.links() == 1);
    assert!(bench.node.scheduler().withdraw(&waiter));
    // Nor does that keep calls that come later from being looked after.
    front.wait_often();
    front.submit(1, |call| bench.ping(call));
    read_pings(&mut peer, 1);
}

/// Panics once, in the middle of the look after the deadlines.
struct PanicsOnce(AtomicUsize);

impl Engine for PanicsOnce {
    fn drive(&self, _wait: &dyn completion::Wait) -> bool {
        false
    }

    fn entrust(&self) {}

    fn forget_completed(&self) {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "as it should, once");
    }
}

#[test]
fn deadlines_are_kept_after_a_panic_in_the_look_after_them() {
    let front = Front::new();
    let bench = front.node();
    let panics: Arc<dyn Engine> = Arc::new(PanicsOnce(AtomicUsize::new(0)));
    front.inflight.add_engine(Arc::downgrade(&panics));
    let _silent = bench.idle_link();
    for _ in 0..3 {
        let (queue, inflight) = (&front.queue, &front.inflight);
        let span = Duration::from_millis(10);
        completion::accept(queue, inflight, 1, Access::Read, span, |call| bench.ping(call))
            .unwrap();
        let mut timed_out = false;
        let put = |_, completion: completion::Completion| {
            timed_out = matches!(completion.result.unwrap_err().kind, Kind::Timeout(_));
        };
        assert_eq!(queue.wait(1, Some(Duration::from_secs(120)), put).unwrap(), 1);
        assert!(timed_out);
    }
}

#[test]
fn a_batch_that_is_put_back_counts_as_unsent() {
    let front = Front::new();
    let bench = front.node();
    let (link, _waiter, peer) = loaded(&bench, &front);
    // The server is gone before anything is sent, and no other can be had.
    drop(peer);
    std::fs::remove_file(&bench.server.path).unwrap();
    std::thread::yield_now();
    let later = Instant::now() + Duration::from_secs(1);
    assert!(bench.node.revalidate_loaded(Lease::of(&bench.node, link), later).is_none());
    // Who comes first, this or the dial that fails, is the same to it.
    let _ = front.queue.cancel(99).unwrap();
    let mut sent = true;
    let put = |_, completion: completion::Completion| {
        sent = completion.result.unwrap_err().maybe_applied;
    };
    assert_eq!(front.queue.wait(1, Some(Duration::from_secs(120)), put).unwrap(), 1);
    assert!(!sent);
}
