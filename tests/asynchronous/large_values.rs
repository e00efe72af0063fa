//! Large values and slow answers beside small calls, which they do not hold up.

use super::support::calls::large;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::gates::{Gates, wait_for_key};
use super::support::proxy::{Proxy, Way};
use super::support::queue::*;
use super::support::server::Setup;
use super::support::socket::Address;
use super::{OK, is_value};

/// A value that shows whose it is.
fn value(key: &str, len: usize) -> Vec<u8> {
    key.as_bytes().iter().copied().cycle().take(len).collect()
}

#[test]
fn a_slow_answer_does_not_hold_up_later_calls() {
    let gates = Gates::default();
    let server = gates.server();
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    let to = cache.to(&queue);
    for slow in 1..=3 {
        let key = format!("held:{slow}");
        assert_eq!(to.get(1000 + slow, &key), OK);
        wait_for_key(&server, &key);
        for tag in 0..200 {
            assert_eq!(to.get(tag, format!("{tag}")), OK);
        }
        for (tag, completion) in queue.take(200) {
            is_value(completion, format!("{tag}"));
        }
        gates.open(slow as usize);
        is_value(queue.next(), key);
    }
}

/// Submitted right behind a large one that is slow, over and over, so that it is seen at every moment of its way.
#[test]
fn a_small_call_does_not_wait_behind_a_large_one() {
    let gates = Gates::default();
    let server = gates.server();
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    let to = cache.to(&queue);
    for round in 1..=50 {
        let slow = format!("held:{round}");
        assert_eq!(to.set(1000, &slow, large(), NO_EXPIRY, 0), OK);
        for tag in 0..5 {
            assert_eq!(to.get(tag, format!("{tag}")), OK);
        }
        for (tag, completion) in queue.take(5) {
            assert_ne!(tag, 1000);
            is_value(completion, format!("{tag}"));
        }
        gates.open(round);
        assert_eq!(queue.next().tag(), 1000);
    }
}

#[test]
fn a_large_reply_that_was_held_up_arrives_whole() {
    let server = Setup::redis().start();
    let stuck = Proxy::to(Address::Tcp(server.port()));
    let (cache, queue) = (Cache::must_open(&stuck.address().url("")), Queue::open());
    let to = cache.to(&queue);
    let huge = value("huge", 20 << 20);
    assert_eq!(to.set(1, "huge", &huge, NO_EXPIRY, 0), OK);
    assert_eq!(queue.next().outcome(), OK);
    // What comes back is held up on its way, in the buffers of the proxy and the kernels.
    stuck.pause(Way::ToClient);
    assert_eq!(to.get(2, "huge"), OK);
    stuck.resume(Way::ToClient);
    is_value(queue.next(), &huge);
}

#[test]
fn large_and_small_values_at_the_same_time_arrive_whole() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let ca = certs().ca.cert.display();
    for url in [
        server.tcp_url(),
        server.unix_url(),
        format!("{}?ssl_ca_certs={ca}", server.tls_url()),
        format!("{}?max_connections=1", server.unix_url()),
    ] {
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        let keys: Vec<_> = (0..8).map(|number| format!("large:{number}")).collect();
        let items: Vec<_> =
            keys.iter().zip(1..).map(|(key, step)| (key, value(key, step << 19))).collect();
        for round in 0..3 {
            let mut tag = 0;
            for (key, value) in &items[..4] {
                assert_eq!(to.set(tag, key, value, 600_000, 0), OK);
                tag += 1;
            }
            let ttl = if round == 0 { NO_EXPIRY } else { 600_000 };
            assert_eq!(to.mset(tag, &items[4..], ttl), OK);
            for small in 0..50 {
                let key = format!("small:{small}");
                assert_eq!(to.set(100 + small, &key, &key, NO_EXPIRY, 0), OK);
            }
            assert!(queue.take(55).values().all(|each| each.outcome() == OK));

            for (tag, key) in keys.iter().enumerate() {
                assert_eq!(to.get(tag as u64, key), OK);
            }
            assert_eq!(to.mget(8, &keys), OK);
            for small in 0..50 {
                assert_eq!(to.get(100 + small, format!("small:{small}")), OK);
            }
            for (tag, mut completion) in queue.take(59) {
                assert_eq!(completion.outcome(), OK);
                if tag == 8 {
                    let values = completion.take_values();
                    for (number, (_, value)) in items.iter().enumerate() {
                        assert!(values.get(number) == Some(value), "value {number} of the batch");
                    }
                } else if tag < 8 {
                    let found = completion.take_value().unwrap();
                    assert!(found.bytes() == items[tag as usize].1, "value {tag}");
                } else {
                    is_value(completion, format!("small:{}", tag - 100));
                }
            }
            queue.assert_empty();
        }
        assert_eq!(cache.clear(), OK);
    }
}

/// As many as may be outstanding, of the size that is still carried out together.
#[test]
fn many_values_just_small_enough_to_share_a_connection_arrive_whole() {
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.unix_url()), Queue::open());
    let to = cache.to(&queue);
    for tag in 0..2000 {
        let key = format!("{tag}");
        assert_eq!(to.set(tag, &key, value(&key, 15_000), NO_EXPIRY, 0), OK);
    }
    assert!(queue.take(2000).values().all(|each| each.outcome() == OK));
    for tag in 0..2000 {
        assert_eq!(to.get(tag, format!("{tag}")), OK);
    }
    for (tag, completion) in queue.take(2000) {
        is_value(completion, value(&format!("{tag}"), 15_000));
    }
}
