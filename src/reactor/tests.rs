use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};

use super::*;

/// Tells each step, and reads one byte in each where it has a stream. It ends with a `.`, and panics at a `!`.
struct Probe {
    name: &'static str,
    stream: Option<UnixStream>,
    until: Option<Instant>,
    told: Sender<&'static str>,
}

impl Task for Probe {
    fn step(&mut self, now: Instant) -> Progress {
        let _ = self.told.send(self.name);
        if self.until.is_some_and(|until| until <= now) {
            return Progress::Over;
        }
        let mut byte = [0];
        match self.stream.as_mut().map(|stream| stream.read(&mut byte)) {
            Some(Ok(1)) if byte[0] == b'.' => Progress::Over,
            Some(Ok(1)) => {
                assert!(byte[0] != b'!', "as it should, in the middle of a step");
                Progress::Yields
            }
            _ => Progress::Waits,
        }
    }

    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.stream.as_ref().map(|stream| (stream.as_fd(), PollFlags::IN))
    }

    fn until(&self) -> Option<Instant> {
        self.until
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.told.send("dropped");
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let (own, peer) = UnixStream::pair().unwrap();
    own.set_nonblocking(true).unwrap();
    (own, peer)
}

#[test]
fn a_panic_ends_one_task_and_no_other() {
    let shared = Shared::new().unwrap();
    let mut events = Loop::new(&shared);
    let (told, steps) = channel();
    let mut peers = Vec::new();
    for name in ["first", "second", "third"] {
        let (own, peer) = pair();
        peers.push(peer);
        shared.post(Box::new(Probe { name, stream: Some(own), until: None, told: told.clone() }));
    }
    let took = |events: &mut Loop<'_>| {
        events.take_news();
        events.step();
        steps.try_iter().collect::<Vec<_>>()
    };
    peers[1].write_all(b"!").unwrap();
    assert_eq!(took(&mut events), ["first", "second", "dropped", "third"]);
    peers[0].write_all(b"x.").unwrap();
    events.poll(None);
    assert_eq!(took(&mut events), ["first"], "one byte, and it yields");
    assert_eq!(took(&mut events), ["first", "dropped"]);
    assert_eq!(events.tasks.len(), 1);
}

#[test]
fn a_task_goes_on_when_its_time_has_come() {
    let reactor = Reactor::get().unwrap();
    let (told, steps) = channel();
    let until = Some(Instant::now() + Duration::from_millis(20));
    reactor.post(Box::new(Probe { name: "timed", stream: None, until, told }));
    let steps: Vec<_> = steps.iter().collect();
    assert_eq!(steps.first(), Some(&"timed"));
    assert_eq!(steps.last(), Some(&"dropped"));
    assert!(steps.len() >= 3, "at first, at its time, and at its end");
}

#[test]
fn a_task_goes_on_when_its_descriptor_is_ready() {
    let reactor = Reactor::get().unwrap();
    let (told, steps) = channel();
    let (own, mut peer) = pair();
    reactor.post(Box::new(Probe { name: "read", stream: Some(own), until: None, told }));
    assert_eq!(steps.recv(), Ok("read"));
    peer.write_all(b"x.").unwrap();
    // The reactor goes on with what it has after its last holder has gone.
    drop(reactor);
    let rest: Vec<_> = steps.iter().collect();
    assert_eq!(rest.last(), Some(&"dropped"));
    assert!(rest.len() >= 2);
}

/// Is spun for, for long.
struct Spins;

impl Task for Spins {
    fn step(&mut self, _now: Instant) -> Progress {
        Progress::Waits
    }

    fn until(&self) -> Option<Instant> {
        None
    }

    fn spin(&self) -> Duration {
        Duration::from_secs(600)
    }
}

#[test]
fn what_is_ready_does_not_wait_for_the_spin_of_another_task() {
    let shared = Shared::new().unwrap();
    let mut events = Loop::new(&shared);
    let (told, steps) = channel();
    let (own, mut peer) = pair();
    shared.post(Box::new(Probe { name: "read", stream: Some(own), until: None, told }));
    shared.post(Box::new(Spins));
    events.take_news();
    events.step();
    assert_eq!(steps.recv(), Ok("read"));
    peer.write_all(b"x").unwrap();
    assert!(events.spin(), "the other has read a byte, and yields");
    assert_eq!(steps.try_recv(), Ok("read"));
}

#[test]
fn a_task_that_goes_on_and_on_keeps_no_other_waiting() {
    const MUCH: usize = 100_000;
    let shared = Shared::new().unwrap();
    let mut events = Loop::new(&shared);
    let (told, steps) = channel();
    let mut peers = Vec::new();
    for name in ["busy", "other"] {
        let (own, peer) = pair();
        peers.push(peer);
        shared.post(Box::new(Probe { name, stream: Some(own), until: None, told: told.clone() }));
    }
    peers[0].write_all(&[b'x'; MUCH]).unwrap();
    assert!(events.iterate());
    assert_eq!(steps.try_iter().collect::<Vec<_>>(), ["busy", "other"]);
    peers[1].write_all(b".").unwrap();
    let mut busy = 0;
    while !steps.try_iter().any(|name| name == "other") {
        busy += 1;
        assert!(busy < MUCH / 2, "the other was kept waiting");
        assert!(events.iterate());
    }
}
