//! A reply that comes after its deadline never answers another call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::calls::*;
use super::support::capi::*;
use super::support::gates::Gates;
use super::support::poll;
use super::support::proxy::{Proxy, Way};
use super::support::scripted::{Command, Scripted, array, bulk};
use super::support::server::Setup;
use super::support::socket::Address;

const SHORT: &str = "socket_timeout=0.3&max_connections=1";

/// What the scripted servers here hold under every key.
fn value_of(key: &[u8]) -> Vec<u8> {
    [b"value of ", key].concat()
}

fn answer(command: &Command) -> Vec<u8> {
    match command[0].as_slice() {
        b"GET" => bulk(value_of(&command[1])),
        b"MGET" => {
            let values: Vec<_> = command[1..].iter().map(|key| bulk(value_of(key))).collect();
            array(&values)
        }
        _ => b"+OK\r\n".to_vec(),
    }
}

/// Holds the answers about keys that begin with `late` back until a gate is open; `early` bytes of each go at once.
fn holding(early: usize, gates: &Gates) -> Scripted {
    let gates = gates.clone();
    Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            let reply = answer(&command);
            let held = command.get(1).is_some_and(|key| key.starts_with(b"late"));
            let early = if held { early } else { 0 };
            peer.send(&reply[..early]);
            if held {
                gates.hold(peer, 1);
            }
            peer.send(&reply[early..]);
        }
    })
}

/// Makes a read whose answer is late, until the server has read it in time.
fn miss_a_reply<T: std::fmt::Debug>(server: &Scripted, call: impl Fn() -> Result<T, Failure>) {
    poll("the request comes in time", || {
        times_out(RETRYABLE, &call);
        (!server.requests().is_empty()).then_some(())
    });
}

#[test]
fn a_reply_to_a_get_that_comes_late_is_nobody_elses() {
    for_each_face(|face| {
        for early in [0, 1, 4, 9] {
            let gates = Gates::default();
            let server = holding(early, &gates);
            let cache = Cache::must_open(&server.url(SHORT)).with(face);
            miss_a_reply(&server, || cache.get("late"));
            gates.open(1);
            for key in ["b", "c", "late", "d"] {
                let value = in_time(|| cache.get(key));
                assert_eq!(value, Some(value_of(key.as_bytes())), "{early} bytes early");
            }
            let keys = ["e", "f", "g"];
            let values = keys.map(|key| Some(value_of(key.as_bytes()))).to_vec();
            assert_eq!(in_time(|| cache.mget(&keys)), values);
        }
    });
}

#[test]
fn a_reply_to_a_write_that_comes_late_is_nobody_elses() {
    for_each_face(|face| {
        for early in [0, 1, 4] {
            let gates = Gates::default();
            let server = holding(early, &gates);
            let cache = Cache::must_open(&server.url(SHORT)).with(face);
            times_out_once_sent(|| server.count("SET"), || cache.set("late", "v"));
            gates.open(1);
            assert_eq!(in_time(|| cache.get("b")), Some(value_of(b"b")));
            assert!(server.count("SET") <= 1, "a write is not sent again");
            in_time(|| cache.set("c", "v"));
        }
    });
}

#[test]
fn a_reply_to_mget_that_comes_late_is_nobody_elses() {
    for_each_face(|face| {
        // Cut in the middle of an element, and between two.
        for early in [1, 4, 15, 20, 40] {
            let gates = Gates::default();
            let server = holding(early, &gates);
            let cache = Cache::must_open(&server.url(SHORT)).with(face);
            miss_a_reply(&server, || cache.mget(&["late", "x", "y"]));
            gates.open(1);
            assert_eq!(in_time(|| cache.get("b")), Some(value_of(b"b")));
            assert_eq!(in_time(|| cache.mget(&["c"])), vec![Some(value_of(b"c"))]);
        }
    });
}

#[test]
fn a_call_does_not_wait_behind_a_reply_that_is_late() {
    for_each_face(|face| {
        // The gate stays shut: the next call must not have to wait on the same link.
        let server = holding(0, &Gates::default());
        let cache = Cache::must_open(&server.url(SHORT)).with(face);
        miss_a_reply(&server, || cache.get("late"));
        assert_eq!(in_time(|| cache.get("b")), Some(value_of(b"b")));
    });
}

/// How many calls were answered, and how many were late.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    late: AtomicUsize,
}

impl Counts {
    /// Whether there were some of each.
    fn are_mixed(&self) -> Option<()> {
        let is_some = |count: &AtomicUsize| count.load(Ordering::Relaxed) > 0;
        (is_some(&self.answered) && is_some(&self.late)).then_some(())
    }
}

#[test]
fn many_threads_with_late_replies_among_theirs_get_each_its_own() {
    // Some answers come in time, some do not.
    let server = Scripted::tcp(|peer| {
        let mut number = peer.number as u64;
        while let Some(command) = peer.request() {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
            let delay = if number >> 60 < 3 { 150 + (number >> 50) % 100 } else { 0 };
            if !peer.send_after(Duration::from_millis(delay), answer(&command)) {
                return;
            }
        }
    });
    for_each_face(|face| {
        let url = server.url("socket_timeout=0.2&max_connections=4&fail_fast=false");
        let (cache, counts) = (Cache::must_open(&url).with(face), Counts::default());
        poll("some answers in time and some late", || {
            check_many(&cache, 16, 25, &counts);
            counts.are_mixed()
        });
    });
}

/// Threads that get keys of their own; every answer must be the right one.
fn check_many(cache: &Cache, threads: usize, rounds: usize, counts: &Counts) {
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for round in 0..rounds {
                    let key = format!("{thread}:{round}");
                    let other = format!("other {thread}:{round}");
                    let right = |key: &str| Some(value_of(key.as_bytes()));
                    let result = if round % 2 == 0 {
                        cache.get(&key).map(|value| assert_eq!(value, right(&key)))
                    } else {
                        let expected = vec![right(&key), right(&other)];
                        cache.mget(&[&key, &other]).map(|values| assert_eq!(values, expected))
                    };
                    match result {
                        Ok(()) => counts.answered.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => {
                            let seen = (failure.status, failure.flags);
                            assert_eq!(seen, (CACHETORY_ERR_TIMEOUT, RETRYABLE), "{failure:?}");
                            counts.late.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
    });
}

#[test]
fn many_threads_on_a_network_that_stalls_get_each_its_own() {
    let server = Setup::redis().start();
    let mut client = server.client(0);
    for thread in 0..8 {
        for round in 0..40 {
            for key in [format!("{thread}:{round}"), format!("other {thread}:{round}")] {
                let value = value_of(key.as_bytes());
                redis::cmd("SET").arg(key).arg(value).exec(&mut client).unwrap();
            }
        }
    }
    for_each_face(|face| {
        let proxy = Proxy::to(Address::Tcp(server.port()));
        let url = proxy.address().url("socket_timeout=0.15&max_connections=3&fail_fast=false");
        let (cache, counts) = (Cache::must_open(&url).with(face), Counts::default());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for way in [Way::ToClient, Way::ToServer].iter().cycle() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    proxy.stall_now_and_then(*way);
                }
            });
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                poll("some answers in time and some late", || {
                    check_many(&cache, 8, 40, &counts);
                    counts.are_mixed()
                });
            }));
            over.store(true, Ordering::SeqCst);
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        });
        in_time(|| cache.get("0:0"));
    });
}
