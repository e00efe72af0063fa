//! Every way of polling, on every kind of link: no call is missed and none is reported twice.

use std::thread;

use super::OK;
use super::drive::*;
use super::support::calls::large;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};
use super::support::server::{Server, Setup};

fn with_everything() -> Server {
    Setup::redis().tls(&certs().server, None).start()
}

/// Of a server of [`with_everything`], and one without any.
fn urls(server: &Server) -> Vec<String> {
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    vec![
        server.tcp_url(),
        format!("{}?max_connections=1", server.tcp_url()),
        server.unix_url(),
        format!("{}?max_connections=1&spin_us=0", server.unix_url()),
        format!("{tls}&max_connections=1"),
        tls,
        "memory://".to_owned(),
    ]
}

/// Runs the load in each of these ways, for each URL.
#[track_caller]
fn in_each_way(ways: &[Way], load: Load) {
    let server = with_everything();
    for url in urls(&server) {
        let cache = Cache::must_open(&url);
        prepare(&cache);
        for (number, &way) in ways.iter().enumerate() {
            for watched in [Watched::Itself, Watched::Duplicate] {
                let queue = Queue::open();
                let mut poller = Poller::new(&queue, way, watched);
                let counts = run(&cache, &queue, &mut poller, Load { seed: number as u64, ..load });
                println!("{url} {way:?} {watched:?} {counts:?}");
            }
        }
    }
}

#[test]
fn every_way_of_polling_takes_every_call_once() {
    in_each_way(&WAYS, Load { most_in_flight: 50, ..Load::default() });
}

#[test]
fn thousands_in_flight_are_taken_one_by_one() {
    let load = Load { calls: 6000, most_in_flight: 3000, capacity: 1, ..Load::default() };
    in_each_way(&PLAIN_WAYS, load);
}

#[test]
fn a_loop_with_one_call_in_flight_misses_none() {
    in_each_way(&WAYS, Load { calls: 500, most_in_flight: 1, capacity: 1, ..Load::default() });
}

#[test]
fn large_values_among_small_ones_are_taken_in_steps() {
    for capacity in [1, 64] {
        let load =
            Load { calls: 400, most_in_flight: 40, capacity, large_one_in: 12, ..Load::default() };
        in_each_way(&[Way::Poll, Way::Level(3), Way::Edge(1), Way::Edge(3)], load);
    }
}

/// As loops do that are told again and again while there is something.
#[test]
fn a_level_triggered_loop_may_call_once_each_time() {
    for capacity in [1, 64] {
        let load = Load { drains: false, capacity, large_one_in: 200, ..Load::default() };
        in_each_way(&[Way::Poll, Way::Level(1), Way::Level(3)], load);
    }
}

/// What TLS has decrypted, or has read and not decrypted yet, no poller sees on the socket.
#[test]
fn nothing_that_tls_has_read_already_is_forgotten() {
    let server = with_everything();
    let url = format!(
        "{}?ssl_ca_certs={}&max_connections=1",
        server.tls_url(),
        certs().ca.cert.display()
    );
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    assert_eq!(cache.set("k", "v".repeat(50)), OK);
    assert_eq!(cache.set("large", large()), OK);
    for way in PLAIN_WAYS {
        let mut poller = Poller::new(&queue, way, Watched::Duplicate);
        for round in 0..100 {
            // Many replies in one record, and many records in one read.
            for tag in 0..400 {
                let key = if tag % 80 == round % 80 { "large" } else { "k" };
                assert_eq!(cache.to(&queue).get(tag, key), OK);
            }
            for completion in take(&queue, &mut poller, 400) {
                assert_eq!(completion.outcome(), OK);
            }
        }
        queue.assert_empty();
    }
}

/// However the bytes of the replies are cut.
#[test]
fn replies_that_come_in_pieces_are_taken_whole() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.request() {
            let reply = echo(&command);
            let middle = reply.len() / 2;
            let is_sent = reply[..middle].chunks(3).chain([&reply[middle..]]).all(|piece| {
                thread::yield_now();
                peer.send(piece)
            });
            if !is_sent {
                return;
            }
        }
    });
    for options in ["", "max_connections=1"] {
        let cache = Cache::must_open(&server.url(options));
        for way in PLAIN_WAYS {
            let queue = Queue::open();
            let mut poller = Poller::new(&queue, way, Watched::Itself);
            for window in [1, 2, 30] {
                for _ in 0..20 {
                    for tag in 0..window {
                        assert_eq!(cache.to(&queue).get(tag, format!("key:{tag}")), OK);
                    }
                    for completion in take(&queue, &mut poller, window as usize) {
                        let key = format!("key:{}", completion.tag());
                        super::is_value(completion, key);
                    }
                }
            }
            queue.assert_empty();
        }
    }
}

/// Loops come and go, on queues of their own and on one that stays.
#[test]
fn a_poller_that_comes_late_finds_what_is_there() {
    let server = with_everything();
    for url in urls(&server) {
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        for way in WAYS {
            for tag in 0..50 {
                assert_eq!(cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0), OK);
            }
            // Its first look may come before the first answer, and after the last.
            let mut poller = Poller::new(&queue, way, Watched::Itself);
            assert_eq!(take(&queue, &mut poller, 50).len(), 50);
            // Another one, while one completion is there, must see it too.
            assert_eq!(cache.to(&queue).ping(1), OK);
            poller.must_wake();
            let mut other = Poller::new(&queue, way, Watched::Duplicate);
            assert_eq!(take(&queue, &mut other, 1).len(), 1);
        }
        queue.assert_empty();
    }
}

/// It has been waited on before, and is waited on again.
#[test]
fn waiting_and_polling_take_turns_on_one_queue() {
    let server = with_everything();
    for url in urls(&server) {
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        for way in PLAIN_WAYS {
            let mut poller = Poller::new(&queue, way, Watched::Duplicate);
            for round in 0..30 {
                for tag in 0..round {
                    assert_eq!(cache.to(&queue).ping(tag), OK);
                }
                assert_eq!(queue.take(round as usize).len(), round as usize);
                for tag in 0..round {
                    assert_eq!(cache.to(&queue).ping(tag), OK);
                }
                assert_eq!(take(&queue, &mut poller, round as usize).len(), round as usize);
            }
            queue.assert_empty();
        }
    }
}
