//! A link whose other end the test holds.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::call::Start;
use super::connection::Link;
use super::drive::{Blocking, NonBlocking, Pause};
use super::outcome::Exchanged;
use super::outcome::Vintage;
use super::pipeline::Driven;
use super::pipeline::Supervisor;
use super::requests::{Owner, Requests};
use super::waiter::{SleepsOn, Waiter, Waiting, Woken};
use super::wakeup::{WakeupSet, Wakeups};
use crate::backend::redis::net::socket::Socket;
use crate::backend::redis::net::stream::Stream;
use crate::backend::redis::wire::command::encode;
use crate::backend::redis::wire::handshake::Handshake;
use crate::backend::redis::wire::replies::{Expect, Pending, Reuse};
use crate::config::{Config, Target};
use crate::deadline::Deadline;
use crate::error::Kind;
use crate::op::{Answer, Condition, Op};
use crate::sys::SocketFd;

const LONG: Duration = Duration::from_secs(600);
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";

fn handshake(url: &str) -> Handshake {
    let Target::Redis(info) = Config::parse(url).unwrap().target else { unreachable!() };
    Handshake::new(info.redis_settings(), None)
}

fn stream() -> (Stream, UnixStream) {
    spinning_stream(Duration::ZERO)
}

fn spinning_stream(spin: Duration) -> (Stream, UnixStream) {
    let (own, peer) = UnixStream::pair().unwrap();
    let socket = Socket::new(SocketFd::of(own.into()).unwrap(), LONG).unwrap();
    (Stream::new(socket, None, spin, Arc::default()), peer)
}

fn link() -> (Box<Link>, UnixStream) {
    let (stream, peer) = stream();
    let greeted = Link::new(stream, "peer".into(), &handshake("redis://h"), &Deadline::after(LONG));
    (Box::new(greeted.ok().unwrap()), peer)
}

/// Has threads wait for values; `count` of them, on the wakeup of their batch.
fn load(link: &mut Link, count: usize) -> Vec<Arc<Waiter<Link>>> {
    let mut requests = Requests::default();
    let waiters: Vec<_> = (0..count).map(|_| Arc::new(Waiter::default())).collect();
    for waiter in &waiters {
        let waiting = Waiting { waiter: Arc::clone(waiter), sleeps_on: SleepsOn::Batch };
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(GET);
            Ok(())
        };
        requests.add(Owner::Thread(waiting), write, Expect::Get).unwrap();
    }
    link.batch.load(&mut requests, WakeupSet::of(0));
    waiters
}

fn step(link: &mut Link) -> Driven {
    link.drive_batch(&Wakeups::default(), &mut NonBlocking::default())
}

/// What a waiter was answered: a value's bytes, or the kind of a failure and whether it may have been sent.
fn answer(waiter: &Waiter<Link>) -> Result<Vec<u8>, (String, bool, bool)> {
    match waiter.take() {
        Some(Woken::Answer(Exchanged::Answered { result: Ok(Answer::Value(value)), .. })) => {
            Ok(value.data().to_vec())
        }
        Some(Woken::Answer(Exchanged::Answered { result: Err(error), .. })) => {
            Err((error.to_string(), true, false))
        }
        Some(Woken::Answer(Exchanged::Failed(failure))) => {
            Err((failure.error.to_string(), failure.sent, failure.lost))
        }
        _ => panic!("it has no answer"),
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

impl Supervisor for Wakeups {
    fn wakeups(&self) -> &Wakeups {
        self
    }

    fn retire(&self, _vintage: Vintage) {}
}

#[test]
fn replies_complete_the_calls_in_order_however_they_arrive() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 3);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    let mut sent = vec![0; 3 * GET.len()];
    peer.read_exact(&mut sent).unwrap();
    assert_eq!(sent, GET.repeat(3));
    let replies = [bulk(b"one"), bulk(&[b'x'; 100_000]), bulk(b"three")].concat();
    let mut driven = Driven::Paused(Pause::WouldBlock);
    for piece in replies.chunks(4096) {
        assert_eq!(driven, Driven::Paused(Pause::WouldBlock));
        peer.write_all(piece).unwrap();
        driven = step(&mut link);
    }
    assert_eq!(driven, Driven::Complete(Reuse::Keep));
    assert_eq!(answer(&waiters[0]), Ok(b"one".to_vec()));
    assert_eq!(answer(&waiters[1]), Ok(vec![b'x'; 100_000]));
    assert_eq!(answer(&waiters[2]), Ok(b"three".to_vec()));
}

#[test]
fn whatever_comes_of_a_large_value_is_a_sign_of_life() {
    let (mut link, mut peer) = link();
    let _waiters = load(&mut link, 1);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(format!("${}\r\n", 32 << 20).as_bytes()).unwrap();
    for _ in 0..20 {
        let beats = link.stream.pulse().beats();
        peer.write_all(&[b'x'; 1000]).unwrap();
        assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
        assert_ne!(link.stream.pulse().beats(), beats);
    }
}

#[test]
fn a_step_stops_for_others_after_a_mebibyte() {
    let (mut link, peer) = link();
    let waiters = load(&mut link, 1);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    let reply = bulk(&vec![b'x'; 32 << 20]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || (&peer).write_all(&reply));
        let mut steps = 0;
        while !matches!(step(&mut link), Driven::Complete(_)) {
            steps += 1;
        }
        writer.join().unwrap().unwrap();
        // The last read of a step may be as large as what the socket holds.
        assert!(steps >= 8, "a mebibyte in each, and one read more at the most");
    });
    assert_eq!(answer(&waiters[0]).unwrap().len(), 32 << 20);
}

#[test]
fn who_stays_longest_drives_next_unless_others_would_be_woken_with_it() {
    let (mut link, _peer) = link();
    let waiters = load(&mut link, 3);
    let next = |link: &Link, but| link.batch.next_driver(but).unwrap().waiter;
    assert!(Arc::ptr_eq(&next(&link, None), &waiters[0]), "they sleep on one");
    let mut last = Requests::default();
    let waiter = Arc::new(Waiter::default());
    let waiting = Waiting { waiter: Arc::clone(&waiter), sleeps_on: SleepsOn::Own };
    last.add(Owner::Thread(waiting), |_| Ok(()), Expect::Get).unwrap();
    link.batch.take_from(&mut last, usize::MAX, usize::MAX, WakeupSet::default());
    assert!(Arc::ptr_eq(&next(&link, None), &waiter));
    assert!(Arc::ptr_eq(&next(&link, Some(&waiter)), &waiters[0]));
    assert!(waiter.leave().is_none());
    assert!(Arc::ptr_eq(&next(&link, None), &waiters[0]));
    assert!(link.batch.find(&waiter).is_some() && link.batch.find(&Arc::default()).is_none());
}

#[test]
fn what_was_answered_before_the_link_broke_is_answered() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 3);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(&bulk(b"one")).unwrap();
    drop(peer);
    // The end is there, and is seen by who comes again.
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Close));
    assert_eq!(answer(&waiters[0]), Ok(b"one".to_vec()));
    for waiter in &waiters[1..] {
        let (_, sent, lost) = answer(waiter).unwrap_err();
        assert!(sent && lost, "a read goes over another link, a write does not");
    }
}

#[test]
fn the_end_behind_half_a_reply_is_seen_at_once() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 1);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(b"$100\r\nhalf").unwrap();
    drop(peer);
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Close));
    assert!(answer(&waiters[0]).is_err());
}

#[test]
fn an_answer_that_nobody_asked_for_is_the_end_of_a_link() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 1);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(&bulk(b"one").repeat(2)).unwrap();
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Close));
    assert_eq!(answer(&waiters[0]), Ok(b"one".to_vec()));
}

#[test]
fn what_a_server_says_before_it_hangs_up_is_the_end_of_a_link() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 1);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(b"-ERR Protocol error: unauthenticated bulk length\r\n").unwrap();
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Close));
    assert!(answer(&waiters[0]).is_err());
    let (mut link, mut peer) = self::link();
    let waiters = load(&mut link, 1);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(b"-ERR another\r\n").unwrap();
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Keep));
    assert!(answer(&waiters[0]).is_err());
}

#[test]
fn a_server_without_room_has_looked_at_nothing_that_was_sent() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 2);
    peer.write_all(b"-ERR max number of clients reached\r\n").unwrap();
    for _ in 0..2 {
        assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    }
    drop(peer);
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Close));
    for waiter in &waiters {
        let (_, sent, lost) = answer(waiter).unwrap_err();
        assert!(!sent && lost);
    }
    assert!(link.turned_away().is_some());
}

#[test]
fn the_same_words_in_front_of_other_answers_are_an_answer() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 3);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(b"-ERR max number of clients reached\r\n").unwrap();
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    peer.write_all(&[bulk(b"two"), bulk(b"three")].concat()).unwrap();
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Keep));
    assert!(answer(&waiters[0]).is_err());
    assert_eq!(answer(&waiters[1]), Ok(b"two".to_vec()));
    assert_eq!(answer(&waiters[2]), Ok(b"three".to_vec()));
    assert!(link.turned_away().is_none());
}

#[test]
fn who_drives_for_all_leaves_when_its_deadline_has_passed() {
    let (mut link, _peer) = link();
    let waiters = load(&mut link, 2);
    let deadline = Deadline::after(Duration::from_millis(10));
    let mut driver = Blocking::for_all(&deadline, &waiters[0], LONG);
    let driven = link.drive_batch(&Wakeups::default(), &mut driver);
    assert_eq!(driven, Driven::Paused(Pause::TimedOut));
    assert!(deadline.has_passed());
    assert_eq!(link.batch.left(), 2, "others go on with it");
}

#[test]
fn who_drives_for_all_does_not_stay_for_long_when_it_has_its_own_answer() {
    let (mut link, mut peer) = link();
    let waiters = load(&mut link, 2);
    peer.write_all(&bulk(b"one")).unwrap();
    let deadline = Deadline::after(LONG);
    let mut driver = Blocking::for_all(&deadline, &waiters[0], Duration::from_millis(1));
    let driven = link.drive_batch(&Wakeups::default(), &mut driver);
    assert_eq!(driven, Driven::Paused(Pause::TimedOut));
    assert!(!deadline.has_passed());
    assert_eq!(link.batch.left(), 1);
    assert_eq!(answer(&waiters[0]), Ok(b"one".to_vec()));
}

#[test]
fn who_has_its_own_answer_does_not_spin_for_others_for_long() {
    let (stream, mut peer) = spinning_stream(LONG);
    let greeted = Link::new(stream, "peer".into(), &handshake("redis://h"), &Deadline::after(LONG));
    let mut link = Box::new(greeted.ok().unwrap());
    let waiters = load(&mut link, 2);
    peer.write_all(&bulk(b"one")).unwrap();
    let deadline = Deadline::after(LONG);
    let mut driver = Blocking::for_all(&deadline, &waiters[0], Duration::from_millis(1));
    // Without a bound of its own the spin would last for as long as this test may.
    let driven = link.drive_batch(&Wakeups::default(), &mut driver);
    assert_eq!(driven, Driven::Paused(Pause::TimedOut));
    assert!(!deadline.has_passed());
}

#[test]
fn what_is_added_to_a_batch_under_way_is_sent_behind_it() {
    let (mut link, mut peer) = link();
    let first = load(&mut link, 1);
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    let (mut other, _) = self::link();
    let second = load(&mut other, 2);
    link.batch.take_from(&mut other.batch.unload(), usize::MAX, usize::MAX, WakeupSet::of(1));
    assert_eq!(link.batch.calls, None, "what they take together is no round trip");
    assert_eq!(step(&mut link), Driven::Paused(Pause::WouldBlock));
    let mut sent = vec![0; 3 * GET.len()];
    peer.read_exact(&mut sent).unwrap();
    peer.write_all(&[bulk(b"a"), bulk(b"b"), bulk(b"c")].concat()).unwrap();
    assert_eq!(step(&mut link), Driven::Complete(Reuse::Keep));
    let answers = first.iter().chain(&second).map(|waiter| answer(waiter).unwrap());
    assert_eq!(answers.collect::<Vec<_>>(), [b"a", b"b", b"c"]);
}

fn call(link: &mut Link, op: Op<'_>, expect: Expect, deadline: &Deadline) -> Exchanged<Answer> {
    link.call(
        |out| encode(&op, b"", out),
        |inbox| expect.quick(inbox),
        |is_first| Pending::of_link(expect, is_first),
        deadline,
        Start::AfterWait,
    )
}

#[test]
fn a_call_alone_takes_its_reply_in_one_piece_or_in_many() {
    let (mut link, peer) = link();
    let value = vec![b'v'; 300_000];
    for piece in [1 << 20, 1000] {
        std::thread::scope(|scope| {
            let (mut peer, value) = (&peer, &value);
            scope.spawn(move || {
                let mut read = vec![0; GET.len()];
                peer.read_exact(&mut read).unwrap();
                bulk(value).chunks(piece).for_each(|piece| peer.write_all(piece).unwrap());
            });
            let op = Op::Get { key: b"k" };
            let exchanged = call(&mut link, op, Expect::Get, &Deadline::after(LONG));
            let Exchanged::Answered { result: Ok(Answer::Value(found)), reuse: Reuse::Keep } =
                exchanged
            else {
                panic!("no value")
            };
            assert_eq!(found.data(), value);
        });
    }
}

#[test]
fn a_large_value_goes_out_in_pieces_while_the_peer_reads_slowly() {
    let (mut link, peer) = link();
    let value = vec![b'v'; 8 << 20];
    std::thread::scope(|scope| {
        let mut peer = &peer;
        let length = value.len();
        let reader = scope.spawn(move || {
            let mut read = Vec::new();
            let mut buffer = [0; 10_000];
            while read.len() < length || !read.ends_with(b"v\r\n") {
                let count = peer.read(&mut buffer).unwrap();
                read.extend_from_slice(&buffer[..count]);
            }
            peer.write_all(b"+OK\r\n").unwrap();
            read
        });
        let op = Op::Set { key: b"k", value: &value, ttl_ms: None, condition: Condition::Always };
        let exchanged = call(&mut link, op, Expect::Set, &Deadline::after(LONG));
        assert!(matches!(exchanged, Exchanged::Answered { result: Ok(Answer::Done), .. }));
        let read = reader.join().unwrap();
        assert!(read.starts_with(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388608\r\nvv"));
    });
}

#[test]
fn a_silent_peer_costs_a_call_its_deadline_and_says_that_it_was_sent() {
    let (mut link, _peer) = link();
    let deadline = Deadline::after(Duration::from_millis(10));
    let exchanged = call(&mut link, Op::Get { key: b"k" }, Expect::Get, &deadline);
    let Exchanged::Failed(failure) = exchanged else { panic!("an answer from nobody") };
    assert!(matches!(failure.error.kind, Kind::Timeout(_)));
    assert!(failure.sent && !failure.lost && deadline.has_passed());
}

#[test]
fn a_handshake_is_accepted_step_by_step_or_not_at_all() {
    let greet = |replies: &[u8]| {
        let (stream, mut peer) = stream();
        peer.write_all(replies).unwrap();
        let handshake = handshake("redis://:secret-word@h/3");
        Link::new(stream, "peer".into(), &handshake, &Deadline::after(LONG))
    };
    assert!(greet(b"+OK\r\n+OK\r\n").is_ok());
    let refused = greet(b"-WRONGPASS no secret-word here\r\n").err().unwrap();
    assert!(matches!(refused.error.kind, Kind::Auth(_)));
    assert!(!refused.error.to_string().contains("secret-word"));
    let failure = greet(b"+OK\r\n+OK\r\n+OK\r\n").err().unwrap();
    assert!(matches!(failure.error.kind, Kind::Protocol(_)), "more answers than questions");
}

#[test]
fn a_link_that_was_closed_or_spoken_to_while_idle_is_not_sound() {
    let (mut quiet, _peer) = link();
    assert!(quiet.is_sound());
    let (mut closed, peer) = link();
    drop(peer);
    assert!(!closed.is_sound());
    let (mut spoken_to, mut peer) = link();
    peer.write_all(b"+late\r\n").unwrap();
    assert!(!spoken_to.is_sound());
}

#[test]
fn any_answer_to_a_health_check_means_alive_and_silence_does_not() {
    let (mut link, mut peer) = link();
    peer.write_all(b"-LOADING\r\n").unwrap();
    assert!(link.answers(&Deadline::after(LONG)));
    assert!(!link.answers(&Deadline::after(Duration::from_millis(10))));
}
