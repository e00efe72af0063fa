//! A reply that comes after its deadline is never handed to another call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::failed;
use super::support::capi::*;
use super::support::poll;
use super::support::proxy::{Proxy, Way};
use super::support::scripted::{Command, Scripted, array, bulk};
use super::support::server::Setup;
use super::support::socket::Address;

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

/// Holds the answers about keys that begin with `late` back until told; `early` bytes of each go at once.
fn holding(early: usize, released: Arc<AtomicBool>) -> Scripted {
    Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            let reply = answer(&command);
            let held = command.get(1).is_some_and(|key| key.starts_with(b"late"));
            let early = if held { early } else { 0 };
            peer.send(&reply[..early]);
            if held {
                peer.hang_until(|| released.load(Ordering::SeqCst));
            }
            peer.send(&reply[early..]);
        }
    })
}

#[test]
fn after_a_read() {
    for early in [0, 1, 4, 9] {
        let released = Arc::new(AtomicBool::new(false));
        let server = holding(early, Arc::clone(&released));
        let cache = Cache::must_open(&server.url("socket_timeout=0.3&max_connections=1"));
        failed(cache.get("late"), CACHETORY_ERR_TIMEOUT, RETRYABLE);
        released.store(true, Ordering::SeqCst);
        for key in ["b", "c", "late", "d"] {
            assert_eq!(cache.get(key), Ok(Some(value_of(key.as_bytes()))), "{early} bytes early");
        }
        let keys = ["e", "f", "g"];
        let values = keys.map(|key| Some(value_of(key.as_bytes()))).to_vec();
        assert_eq!(cache.mget(&keys), Ok(values));
    }
}

#[test]
fn after_a_write() {
    for early in [0, 1, 4] {
        let released = Arc::new(AtomicBool::new(false));
        let server = holding(early, Arc::clone(&released));
        let cache = Cache::must_open(&server.url("socket_timeout=0.3&max_connections=1"));
        let outcome = cache.set("late", "v");
        failed(outcome, CACHETORY_ERR_TIMEOUT, RETRYABLE | MAYBE_APPLIED);
        released.store(true, Ordering::SeqCst);
        assert_eq!(cache.get("b"), Ok(Some(value_of(b"b"))));
        assert_eq!(cache.set("c", "v"), Ok(CACHETORY_OK));
        assert_eq!(server.count("SET"), 2);
    }
}

#[test]
fn after_a_batch() {
    // Cut in the middle of an element, and between two.
    for early in [1, 4, 15, 20, 40] {
        let released = Arc::new(AtomicBool::new(false));
        let server = holding(early, Arc::clone(&released));
        let cache = Cache::must_open(&server.url("socket_timeout=0.3&max_connections=1"));
        failed(cache.mget(&["late", "x", "y"]), CACHETORY_ERR_TIMEOUT, RETRYABLE);
        released.store(true, Ordering::SeqCst);
        assert_eq!(cache.get("b"), Ok(Some(value_of(b"b"))));
        assert_eq!(cache.mget(&["c"]), Ok(vec![Some(value_of(b"c"))]));
    }
}

#[test]
fn while_it_is_still_awaited() {
    // Nothing was released yet: the next call must not have to wait for it on the same link.
    let released = Arc::new(AtomicBool::new(false));
    let server = holding(0, Arc::clone(&released));
    let cache = Cache::must_open(&server.url("socket_timeout=0.5&max_connections=1"));
    failed(cache.get("late"), CACHETORY_ERR_TIMEOUT, RETRYABLE);
    assert_eq!(cache.get("b"), Ok(Some(value_of(b"b"))));
}

#[test]
fn many_threads_at_once() {
    // Some answers come in time, some do not.
    let server = Scripted::tcp(|peer| {
        let mut number = peer.number as u64;
        peer.serve(|command| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
            if number >> 60 < 3 {
                thread::sleep(Duration::from_millis(150 + (number >> 50) % 100));
            }
            answer(command)
        });
    });
    let cache = Cache::must_open(&server.url("socket_timeout=0.2&max_connections=4"));
    check_many(&cache, 16, 25);
}

/// Threads that get keys of their own; every answer must be the right one, and some must come and some not.
fn check_many(cache: &Cache, threads: usize, rounds: usize) {
    let (answered, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..threads {
            let (answered, late) = (&answered, &late);
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
                        Ok(()) => answered.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => {
                            let seen = (failure.status, failure.flags);
                            assert_eq!(seen, (CACHETORY_ERR_TIMEOUT, RETRYABLE), "{failure:?}");
                            late.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
    });
    let (answered, late) = (answered.into_inner(), late.into_inner());
    assert!(answered > 0 && late > 0, "{answered} answered, {late} late");
}

#[test]
fn a_network_that_stalls() {
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
    let proxy = Proxy::to(Address::Tcp(server.port()));
    let cache = Cache::must_open(&proxy.address().url("socket_timeout=0.15&max_connections=3"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut way = Way::ToClient;
            while !over.load(Ordering::SeqCst) {
                proxy.pause(way);
                thread::sleep(Duration::from_millis(250));
                proxy.resume(way);
                thread::sleep(Duration::from_millis(60));
                way = if way == Way::ToClient { Way::ToServer } else { Way::ToClient };
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check_many(&cache, 8, 40);
        }));
        over.store(true, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    proxy.resume(Way::ToClient);
    proxy.resume(Way::ToServer);
    poll("calls succeed again", || cache.get("0:0").ok());
}
