//! What happens to a link that a loop keeps and does not use makes its descriptor readable once, and not for good.

use super::OK;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};
use super::support::server::Setup;
use super::support::socket::connected_to;

/// So long nothing must happen before a loop counts as asleep.
const QUIET_MS: u64 = 300;

/// Turns a loop that has nothing outstanding until it sleeps; how often it was woken.
#[track_caller]
fn turns_until_quiet(queue: &Queue, poller: &mut Poller) -> usize {
    let mut turns = 0;
    while poller.wait(QUIET_MS) {
        assert_eq!(drain(queue, 8).len(), 0);
        turns += 1;
        assert!(turns < 1000, "readable again and again");
    }
    turns
}

/// More than one for each link would be too many; there may be a link or two that was dialled on the side.
const FEW: usize = 20;

#[track_caller]
fn work(cache: &Cache, queue: &Queue, poller: &mut Poller) {
    for _ in 0..20 {
        for tag in 0..50 {
            assert_eq!(cache.to(queue).get(tag, "k"), OK);
        }
        for completion in take(queue, poller, 50) {
            assert!(completion.outcome().is_ok(), "{:?}", completion.outcome());
        }
    }
    turns_until_quiet(queue, poller);
}

#[test]
fn a_server_that_hangs_up_wakes_the_loop_once() {
    let server = Scripted::tcp(|peer| peer.serve(echo));
    for way in PLAIN_WAYS {
        for watched in [Watched::Itself, Watched::Duplicate] {
            let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
            let mut poller = Poller::new(&queue, way, watched);
            for _ in 0..3 {
                work(&cache, &queue, &mut poller);
                server.hang_up();
                let turns = turns_until_quiet(&queue, &mut poller);
                assert!(turns <= FEW, "{way:?}: woken {turns} times");
                assert_eq!(connected_to(server.address(), |_| {}), 0, "{way:?}: closed here too");
            }
        }
    }
}

#[test]
fn a_server_that_is_killed_wakes_the_loop_once() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    for url in [server.tcp_url(), server.unix_url(), tls] {
        for way in PLAIN_WAYS {
            let (cache, queue) = (Cache::must_open(&url), Queue::open());
            let mut poller = Poller::new(&queue, way, Watched::Itself);
            work(&cache, &queue, &mut poller);
            server.kill();
            let turns = turns_until_quiet(&queue, &mut poller);
            assert!(turns <= FEW, "{way:?}: woken {turns} times");
            server.restart();
            work(&cache, &queue, &mut poller);
        }
    }
}

/// Nobody looks for a while: the queue knows of it no more than once.
#[test]
fn a_loop_that_comes_after_its_server_went_is_woken_once() {
    let server = Scripted::unix(|peer| peer.serve(echo));
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    let mut poller = Poller::new(&queue, Way::Level(1), Watched::Duplicate);
    for round in 0..10 {
        work(&cache, &queue, &mut poller);
        server.hang_up();
        if round % 2 == 0 {
            // It takes completions in another way meanwhile.
            assert_eq!(cache.to(&queue).get(1, "k"), OK);
            assert!(queue.next().outcome().is_ok());
        }
        let turns = turns_until_quiet(&queue, &mut poller);
        assert!(turns <= FEW, "woken {turns} times");
    }
}

/// Bytes that nobody asked for, over and over.
#[test]
fn a_server_that_talks_to_itself_does_not_keep_the_loop_awake() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.request() {
            let is_over = command.get(1).is_some_and(|key| key == b"chatter");
            if !peer.send(echo(&command)) {
                return;
            }
            if is_over {
                for _ in 0..100 {
                    if !peer.send(b"+what\r\n") {
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        }
    });
    for way in PLAIN_WAYS {
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        for _ in 0..3 {
            work(&cache, &queue, &mut poller);
            assert_eq!(cache.to(&queue).get(1, "chatter"), OK);
            super::is_value(take(&queue, &mut poller, 1).pop().unwrap(), "chatter");
            let turns = turns_until_quiet(&queue, &mut poller);
            assert!(turns <= 100 + FEW, "{way:?}: woken {turns} times");
        }
    }
}

/// Two loops, each with links of its own that go.
#[test]
fn a_link_that_goes_does_not_keep_another_loop_awake() {
    let server = Setup::redis().start();
    let cache = Cache::must_open(&server.tcp_url());
    let (first, second) = (Queue::open(), Queue::open());
    let mut firsts = Poller::new(&first, Way::Poll, Watched::Itself);
    let mut seconds = Poller::new(&second, Way::Level(1), Watched::Itself);
    for _ in 0..5 {
        work(&cache, &first, &mut firsts);
        work(&cache, &second, &mut seconds);
        server.query::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let turns = turns_until_quiet(&first, &mut firsts);
        let others = turns_until_quiet(&second, &mut seconds);
        assert!(turns <= FEW && others <= FEW, "woken {turns} and {others} times");
    }
}

/// What is closed goes out of the descriptor.
#[test]
fn a_closed_cache_leaves_nothing_in_the_descriptor() {
    let server = Scripted::tcp(|peer| peer.serve(echo));
    let queue = Queue::open();
    for way in PLAIN_WAYS {
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        for _ in 0..20 {
            let cache = Cache::must_open(&server.url(""));
            for tag in 0..20 {
                assert_eq!(cache.to(&queue).get(tag, "k"), OK);
            }
            take(&queue, &mut poller, 20);
            assert_eq!(cache.close(), CACHETORY_OK);
        }
        let turns = turns_until_quiet(&queue, &mut poller);
        assert!(turns <= FEW, "{way:?}: woken {turns} times");
    }
}
