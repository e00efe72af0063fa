//! One answer that does not come holds up no call that is submitted later, where the server answers others. Where it
//! answers nobody, there is no crowd of links.

use super::support::capi::*;
use super::support::gates::{Gates, wait_for_key};
use super::support::pause;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};

const OK: Outcome = Ok(CACHETORY_OK);
const CALLS: usize = 100;
/// Links that there may be where all are slow for a few seconds, of 64.
const CROWD: usize = 32;

fn warm_up(cache: &Cache, queue: &Queue) {
    for tag in 0..20 {
        assert_eq!(cache.to(queue).get(tag, "k"), OK);
        assert_eq!(queue.next().outcome(), OK);
    }
}

#[test]
fn calls_do_not_stand_behind_a_slow_one() {
    for waits_meanwhile in [false, true] {
        let gates = Gates::default();
        let server = gates.server();
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        warm_up(&cache, &queue);
        for slow in 1..=3 {
            let key = format!("held:{slow}");
            assert_eq!(cache.to(&queue).get(1000 + slow, &key), OK);
            if waits_meanwhile {
                assert_eq!(queue.wait(8, 1).unwrap().len(), 0);
            }
            wait_for_key(&server, &key);
            pause::let_links_go_idle();
            for tag in 0..CALLS {
                assert_eq!(cache.to(&queue).get(tag as u64, "k"), OK);
            }
            let taken = queue.take(CALLS);
            assert!((0..CALLS as u64).all(|tag| taken[&tag].outcome() == OK));
        }
        gates.open(3);
        assert!(queue.take(3).values().all(|completion| completion.outcome() == OK));
    }
}

/// What was sent behind it already goes another way too, where that does no harm: reads, and no write twice.
#[test]
fn reads_that_were_sent_behind_a_slow_one_go_another_way_and_no_write_is_sent_twice() {
    for patience_ms in [1, 60_000] {
        let gates = Gates::default();
        let server = gates.server();
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        warm_up(&cache, &queue);
        assert_eq!(cache.to(&queue).get(1000, "held:1"), OK);
        for tag in 0..CALLS as u64 {
            assert_eq!(cache.to(&queue).get(tag, "k"), OK);
            assert_eq!(cache.to(&queue).set(2000 + tag, "w", "v", NO_EXPIRY, 0), OK);
        }
        let mut taken = Vec::new();
        let is_read = |completion: &&Completion| completion.tag() < 2000;
        while taken.iter().filter(is_read).count() < CALLS {
            taken.extend(queue.wait(64, patience_ms).unwrap());
        }
        assert!(taken.iter().all(|completion| completion.outcome() == OK));
        assert!(taken.iter().all(|completion| completion.tag() != 1000), "it is held");
        gates.open(1);
        let left = 1 + 2 * CALLS - taken.len();
        for _ in 0..left {
            assert_eq!(queue.next().outcome(), OK);
        }
        assert_eq!(server.count("SET"), CALLS);
        queue.assert_empty();
    }
}

#[test]
fn a_server_that_is_slow_for_all_gets_no_crowd_of_links() {
    for waits_meanwhile in [false, true] {
        let gates = Gates::default();
        gates.open(1);
        let gate = gates.clone();
        let server = Scripted::tcp(move |peer| {
            while let Some(command) = peer.request() {
                gate.hold(peer, 1);
                peer.send(echo(&command));
            }
        });
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        warm_up(&cache, &queue);
        gates.open(0);
        for tag in 0..3 * CALLS {
            assert_eq!(cache.to(&queue).get(tag as u64, "k"), OK);
            match waits_meanwhile {
                true => assert_eq!(queue.wait(8, 1).unwrap().len(), 0),
                false => pause::before_the_next_look(),
            }
        }
        let links = server.connections();
        gates.open(1);
        assert!(queue.take(3 * CALLS).values().all(|completion| completion.outcome() == OK));
        assert!(links < CROWD, "{links} links");
    }
}
