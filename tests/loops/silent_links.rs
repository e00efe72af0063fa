//! One answer that does not come holds up no call that comes later, where the server answers others. Where it answers
//! nobody, there is no crowd of links.

use super::support::capi::*;
use super::support::gates::{Gates, wait_for_key};
use super::support::pause;
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};
use super::{OK, is_value};

const CALLS: usize = 100;
/// Links that there may be where all are slow for a few seconds, of 64.
const CROWD: usize = 32;

/// So that the library knows how near the server is.
fn warm_up(cache: &Cache, queue: &Queue, poller: &mut Poller) {
    for tag in 0..20 {
        assert_eq!(cache.to(queue).get(tag, "k"), OK);
        take(queue, poller, 1).into_iter().for_each(|completion| is_value(completion, "k"));
    }
}

#[test]
fn calls_do_not_stand_behind_a_slow_one() {
    for way in PLAIN_WAYS {
        let gates = Gates::default();
        let server = gates.server();
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        warm_up(&cache, &queue, &mut poller);
        // One behind the other, over whichever link.
        for slow in 1..=3 {
            let key = format!("held:{slow}");
            assert_eq!(cache.to(&queue).get(1000 + slow, &key), OK);
            while poller.wait(0) {
                assert_eq!(drain(&queue, 8).len(), 0);
            }
            wait_for_key(&server, &key);
            pause::let_links_go_idle();
            for tag in 0..CALLS {
                assert_eq!(cache.to(&queue).get(tag as u64, "k"), OK);
            }
            for completion in take(&queue, &mut poller, CALLS) {
                is_value(completion, "k");
            }
        }
        gates.open(3);
        let mut rest = take(&queue, &mut poller, 3);
        rest.sort_by_key(Completion::tag);
        for (completion, key) in rest.into_iter().zip(["held:1", "held:2", "held:3"]) {
            is_value(completion, key);
        }
    }
}

/// What was sent behind it already goes another way too, where that does no harm: reads, and no write twice.
#[test]
fn reads_that_were_sent_behind_a_slow_one_go_another_way_and_no_write_is_sent_twice() {
    for way in PLAIN_WAYS {
        let gates = Gates::default();
        let server = gates.server();
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        warm_up(&cache, &queue, &mut poller);
        assert_eq!(cache.to(&queue).get(1000, "held:1"), OK);
        for tag in 0..CALLS as u64 {
            assert_eq!(cache.to(&queue).get(tag, "k"), OK);
            assert_eq!(cache.to(&queue).set(2000 + tag, "w", "v", NO_EXPIRY, 0), OK);
        }
        let mut writes = 0;
        let mut reads = 0;
        while reads < CALLS {
            poller.must_wake();
            for completion in drain(&queue, 64) {
                assert_ne!(completion.tag(), 1000, "it is held");
                match completion.tag() {
                    2000.. => writes += 1,
                    _ => reads += 1,
                }
                assert_eq!(completion.outcome(), OK);
            }
        }
        gates.open(1);
        let left = take(&queue, &mut poller, 1 + CALLS - writes);
        assert!(left.iter().all(|completion| completion.outcome() == OK));
        assert_eq!(server.count("SET"), CALLS);
        queue.assert_empty();
    }
}

#[test]
fn a_server_that_is_slow_for_all_gets_no_crowd_of_links() {
    for loops in [1, 4] {
        let gates = Gates::default();
        gates.open(1);
        let gate = gates.clone();
        let server = Scripted::tcp(move |peer| {
            while let Some(command) = peer.request() {
                gate.hold(peer, 1);
                peer.send(echo(&command));
            }
        });
        let cache = Cache::must_open(&server.url(""));
        let queues: Vec<_> = (0..loops).map(|_| Queue::open()).collect();
        let pollers = queues.iter().map(|queue| Poller::new(queue, Way::Level(1), Watched::Itself));
        let mut pollers: Vec<_> = pollers.collect();
        for (queue, poller) in queues.iter().zip(&mut pollers) {
            warm_up(&cache, queue, poller);
        }
        gates.open(0);
        for tag in 0..3 * CALLS {
            for (queue, poller) in queues.iter().zip(&mut pollers) {
                assert_eq!(cache.to(queue).get(tag as u64, "k"), OK);
                if poller.wait(1) {
                    assert_eq!(drain(queue, 8).len(), 0);
                }
            }
        }
        let links = server.connections();
        gates.open(1);
        for (queue, poller) in queues.iter().zip(&mut pollers) {
            for completion in take(queue, poller, 3 * CALLS) {
                is_value(completion, "k");
            }
        }
        assert!(links < CROWD, "{links} links for {loops} loops");
    }
}
