use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use redis::ConnectionInfo;

use super::*;
use crate::backend::redis::link::batch::{Owner, Requests};
use crate::backend::redis::link::connection::{Exchanged, Failure};
use crate::backend::redis::link::waiter::{Completed, Waiter};
use crate::backend::redis::net::stream::{Socket, Stream};
use crate::backend::redis::wire::handshake::Handshake;
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{self, Inflight, Promise, Queue};
use crate::config::{Config, Target};
use crate::error::Kind;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const LONG: Duration = Duration::from_secs(3600);

/// A cache's links, which the test connects by hand.
struct Bench {
    config: Config,
    info: ConnectionInfo,
    inflight: Arc<Inflight>,
    queue: Arc<Queue>,
    links: Arc<Links>,
}

/// What a job was made of.
struct Held {
    peer: UnixStream,
    waiter: Arc<Waiter>,
}

impl Bench {
    fn new() -> Self {
        crate::reserve::set_aside().unwrap();
        let config = Config::parse("redis://localhost?socket_timeout=3600").unwrap();
        let Target::Redis(info) = config.target.clone() else { unreachable!() };
        let inflight = Arc::new(Inflight::new(usize::MAX));
        let links = Links::new(&config, &info, Arc::clone(&inflight));
        Self { config, info, inflight, queue: Arc::new(Queue::open().unwrap()), links }
    }

    /// A link in use, whose batch is the call of a thread and an asynchronous one.
    fn job(&self) -> (Job, Held) {
        let (own, peer) = UnixStream::pair().unwrap();
        let socket = Socket::new(own.into(), self.config.timeout).unwrap();
        let handshake = Handshake::new(self.info.redis_settings(), None);
        let stream = Stream::new(socket, None, Duration::ZERO);
        let link = Link::new(stream, "peer".into(), &handshake, &Deadline::after(LONG));
        let Ok(mut link) = link else { panic!("there is nothing to shake hands about") };
        let waiter = Arc::new(Waiter::default());
        let owner = Owner::Thread { waiter: Arc::clone(&waiter), is_first: true };
        let mut requests = Requests::default();
        for owner in [owner, Owner::Call(self.call())] {
            let encode = |out: &mut Vec<u8>| {
                out.extend_from_slice(PING);
                Ok(())
            };
            requests.add(owner, encode, Expect::Ping).unwrap();
        }
        requests.begin_send();
        link.load(&mut requests, 0);
        let mut pool = self.links.pool();
        pool.count += 1;
        pool.in_use += 1;
        link.turn.round = pool.round;
        drop(pool);
        (Job::new(Arc::clone(&self.links), Box::new(link)), Held { peer, waiter })
    }

    fn call(&self) -> Promise {
        let mut kept = None;
        let keep = |call| {
            kept = Some(call);
            Ok(())
        };
        completion::submit(&self.queue, &self.inflight, 1, true, LONG, keep).unwrap();
        kept.unwrap()
    }

    /// Links that are there, and those of them in use.
    fn counts(&self) -> (usize, usize) {
        let pool = self.links.pool();
        (pool.count, pool.in_use)
    }
}

impl Held {
    /// The peer reads both requests and answers them.
    fn answer(&mut self) {
        let mut read = vec![0; 2 * PING.len()];
        self.peer.read_exact(&mut read).unwrap();
        assert_eq!(read, [PING, PING].concat());
        self.peer.write_all(b"+PONG\r\n+PONG\r\n").unwrap();
    }

    fn is_answered(&self) -> bool {
        let Some(Completed::Answer(answer)) = self.waiter.take() else { return false };
        matches!(answer, Exchanged::Answered { result: Ok(_), .. })
    }

    fn has_failed_inside(&self) -> bool {
        let Some(Completed::Answer(answer)) = self.waiter.take() else { return false };
        let Exchanged::Failed(Failure { error, .. }) = answer else { return false };
        matches!(error.kind, Kind::Internal(_))
    }
}

fn shared() -> Shared {
    Shared::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap())
}

#[test]
fn a_panic_ends_one_job_and_loses_nothing_else() {
    let bench = Bench::new();
    let shared = shared();
    let mut reactor = Reactor::new(&shared);
    let (torn, held) = bench.job();
    let (sound, mut first) = bench.job();
    for mail in [
        Mail::Job(torn),
        Mail::Timed(bench.links.weak()),
        Mail::Watched(bench.links.weak()),
        Mail::Job(sound),
    ] {
        shared.post(mail);
    }
    reactor.take_mail();
    reactor.step();
    assert_eq!((bench.counts(), bench.inflight.count()), ((2, 2), 2));

    let goes_on = reactor.jobs[0].guarded(|job| {
        job.ready = false;
        panic!("as it should, in the middle of a batch");
    });
    assert!(!goes_on);
    assert!(held.has_failed_inside());
    assert_eq!((bench.counts(), bench.inflight.count()), ((1, 1), 1));
    assert_eq!((&held.peer).read(&mut [0; 100]).unwrap(), 2 * PING.len());
    assert_eq!((&held.peer).read(&mut [0]).unwrap(), 0, "its link is closed");

    let (another, mut second) = bench.job();
    shared.post(Mail::Job(another));
    reactor.take_mail();
    reactor.step();
    assert_eq!((reactor.jobs.len(), reactor.timed.len(), reactor.watches.len()), (2, 1, 1));
    for held in [&mut first, &mut second] {
        held.answer();
    }
    reactor.jobs.iter_mut().for_each(|job| job.ready = true);
    reactor.step();
    assert!(reactor.jobs.is_empty());
    assert!(first.is_answered() && second.is_answered());
    assert_eq!((bench.counts(), bench.inflight.count()), ((2, 0), 0));
    assert_eq!(bench.links.pool().idle.len(), 2);
}

#[test]
fn a_job_that_nobody_steps_gives_its_link_back() {
    let bench = Bench::new();
    let (job, held) = bench.job();
    drop(job);
    assert!(held.has_failed_inside());
    assert_eq!((bench.counts(), bench.inflight.count()), ((0, 0), 0));
}
