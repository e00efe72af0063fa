//! The end of a queue, of a cache and of a call, under a loop that polls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::support::capi::*;
use super::support::gates::Gates;
use super::support::poller::*;
use super::support::queue::*;
use super::support::server::Setup;
use super::support::{PATIENCE, poll};
use super::{OK, failed, is_value};

#[track_caller]
fn is_closed(queue: &Queue) {
    let failure = queue.wait(1, 0).err().expect("a queue that is closed");
    assert_eq!(failure.status, CACHETORY_ERR_CLOSED);
    assert_eq!(queue.fd(), -1);
}

/// What is on the queue when it is closed.
#[derive(Clone, Copy, Debug)]
enum Load {
    Nothing,
    Outstanding,
    Completed,
    /// Its loop has been at it.
    Driven,
}

#[test]
fn closing_a_queue_wakes_everybody_and_leaves_duplicates_readable() {
    let gates = Gates::default();
    let server = gates.server();
    let memory = Cache::must_open("memory://");
    for load in [Load::Nothing, Load::Outstanding, Load::Completed, Load::Driven] {
        let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
        let pollers: Vec<_> =
            WAYS.iter().map(|&way| Poller::new(&queue, way, Watched::Duplicate)).collect();
        let kept = duplicate(&queue);
        match load {
            Load::Nothing => {}
            Load::Outstanding => assert_eq!(cache.to(&queue).get(1, "held:1"), OK),
            Load::Completed => assert_eq!(memory.to(&queue).get(1, "k"), OK),
            Load::Driven => {
                assert_eq!(cache.to(&queue).get(1, "k"), OK);
                assert_eq!(cache.to(&queue).get(2, "held:1"), OK);
                let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Itself);
                assert_eq!(take(&queue, &mut poller, 1).len(), 1);
            }
        }
        let woken = AtomicUsize::new(0);
        let is_silent = !matches!(load, Load::Completed);
        thread::scope(|scope| {
            for mut poller in pollers {
                let (queue, woken) = (&queue, &woken);
                scope.spawn(move || {
                    // It may be the loop's turn for something else before; then there is nothing to take.
                    loop {
                        poller.must_wake();
                        match queue.wait(1, 0) {
                            Err(failure) => {
                                assert_eq!(failure.status, CACHETORY_ERR_CLOSED);
                                break;
                            }
                            Ok(some) => assert!(some.is_empty() || !is_silent),
                        }
                    }
                    woken.fetch_add(1, Ordering::SeqCst);
                });
            }
            scope.spawn(|| {
                while let Ok(some) = queue.wait(1, NO_EXPIRY) {
                    assert!(!is_silent || some.is_empty());
                }
                woken.fetch_add(1, Ordering::SeqCst);
            });
            super::support::pause::let_calls_gather();
            assert_eq!(woken.load(Ordering::SeqCst), 0);
            assert_eq!(queue.close(), CACHETORY_OK);
        });
        assert_eq!(woken.load(Ordering::SeqCst), WAYS.len() + 1, "{load:?}");
        is_closed(&queue);
        for _ in 0..5 {
            assert!(is_readable(&kept, 0), "{load:?}: for good");
        }
        // A loop that has not seen it before, whose event is as good as one that was waiting.
        let another = kept.try_clone().unwrap();
        for ways in [rustix::event::epoll::EventFlags::IN, rustix::event::epoll::EventFlags::ET] {
            use rustix::event::epoll::*;
            let epoll = create(CreateFlags::CLOEXEC).unwrap();
            add(&epoll, &another, EventData::new_u64(1), EventFlags::IN | ways).unwrap();
            assert!(is_readable(&epoll, 0), "{load:?}: in a new epoll instance");
        }
        gates.open(1);
        assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())), "the cache goes on");
        gates.open(0);
    }
}

/// The duplicate stays what it is when the library has descriptors and links of its own again.
#[test]
fn a_duplicate_of_a_closed_queue_has_nothing_to_do_with_later_queues() {
    let server = Setup::redis().start();
    let cache = Cache::must_open(&server.tcp_url());
    let mut kept = Vec::new();
    for round in 0..100 {
        let queue = Queue::open();
        let mut poller = Poller::new(&queue, PLAIN_WAYS[round % 3], Watched::Itself);
        assert!(!is_readable(descriptor(&queue), 0), "{round}");
        for tag in 0..5 {
            assert_eq!(cache.to(&queue).ping(tag), OK);
        }
        assert_eq!(take(&queue, &mut poller, 5).len(), 5);
        kept.push(duplicate(&queue));
        assert_eq!(queue.close(), CACHETORY_OK);
        assert!(kept.iter().all(|fd| is_readable(fd, 0)), "{round}");
    }
}

#[test]
fn a_cache_closed_under_its_loop_gives_the_loop_its_completions() {
    let gates = Gates::default();
    let server = gates.server();
    for options in ["", "max_connections=1"] {
        for way in PLAIN_WAYS {
            let (cache, queue) = (Cache::must_open(&server.url(options)), Queue::open());
            let mut poller = Poller::new(&queue, way, Watched::Itself);
            for tag in 0..30 {
                assert_eq!(cache.to(&queue).get(tag, "held:1"), OK);
            }
            thread::scope(|scope| {
                let taken = scope.spawn(|| take(&queue, &mut poller, 30));
                super::support::pause::let_calls_gather();
                assert_eq!(cache.close(), CACHETORY_OK);
                for completion in taken.join().unwrap() {
                    failed(&completion, CACHETORY_ERR_CANCELLED, 0);
                }
            });
            queue.assert_empty();
            assert!(!poller.wait(0), "{way:?}: nothing is left of the cache");
        }
    }
}

#[test]
fn a_cancelled_call_wakes_the_loop() {
    let gates = Gates::default();
    let server = gates.server();
    let cache = Cache::must_open(&server.url(""));
    for way in PLAIN_WAYS {
        let queue = Queue::open();
        let mut poller = Poller::new(&queue, way, Watched::Duplicate);
        for tag in 0..20 {
            assert_eq!(cache.to(&queue).get(tag, "held:1"), OK);
        }
        thread::scope(|scope| {
            let taken = scope.spawn(|| take(&queue, &mut poller, 20));
            for tag in 0..20 {
                assert_eq!(queue.cancel(tag), OK);
            }
            for completion in taken.join().unwrap() {
                failed(&completion, CACHETORY_ERR_CANCELLED, 0);
            }
        });
        queue.assert_empty();
    }
}

/// Links break under a loop, which gets an answer or an error for each of its calls.
#[test]
fn a_link_that_breaks_under_a_loop_loses_no_call() {
    let server = Setup::redis().start();
    for url in [server.tcp_url(), server.unix_url()] {
        for way in PLAIN_WAYS {
            let (cache, queue) = (Cache::must_open(&url), Queue::open());
            let mut poller = Poller::new(&queue, way, Watched::Itself);
            for round in 0..30 {
                for tag in 0..100 {
                    let key = format!("{tag}");
                    assert_eq!(
                        match tag % 2 {
                            0 => cache.to(&queue).get(tag, key),
                            _ => cache.to(&queue).set(tag, key, vec![b'v'; 5000], NO_EXPIRY, 0),
                        },
                        OK
                    );
                }
                if round % 3 == 0 {
                    server.query::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                }
                for completion in take(&queue, &mut poller, 100) {
                    if let Err(failure) = completion.outcome() {
                        assert_eq!(failure.status, CACHETORY_ERR_IO, "{failure:?}");
                        assert!(failure.is_retryable());
                    }
                }
            }
            queue.assert_empty();
        }
    }
}

#[test]
fn a_loop_sees_its_server_go_and_come_back() {
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.tcp_url()), Queue::open());
    let mut poller = Poller::new(&queue, Way::Edge(1), Watched::Itself);
    for _ in 0..3 {
        assert_eq!(cache.to(&queue).set(1, "k", "v", NO_EXPIRY, 0), OK);
        poll("the server is there", || {
            if take(&queue, &mut poller, 1)[0].outcome().is_ok() {
                return Some(());
            }
            assert_eq!(cache.to(&queue).set(1, "k", "v", NO_EXPIRY, 0), OK);
            None
        });
        server.kill();
        for tag in 0..50 {
            assert_eq!(cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0), OK);
        }
        for completion in take(&queue, &mut poller, 50) {
            let failure = completion.failure();
            assert!(failure.is_retryable(), "{failure:?}");
        }
        server.restart();
    }
}

#[test]
fn several_caches_report_to_one_loop() {
    let server = Setup::redis().start();
    let urls = [server.tcp_url(), server.unix_url(), "memory://".into(), "dummy://".into()];
    let caches = urls.map(|url| Cache::must_open(&url));
    for way in WAYS {
        let queue = Queue::open();
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        for _ in 0..50 {
            for tag in 0..40 {
                let cache = &caches[tag as usize % 4];
                let key = format!("{tag}");
                assert_eq!(cache.to(&queue).set(tag, key, "v", NO_EXPIRY, 0), OK);
            }
            for completion in take(&queue, &mut poller, 40) {
                assert_eq!(completion.outcome(), OK);
            }
        }
        queue.assert_empty();
    }
}

/// Each completion comes to the queue that it was submitted to, and wakes who polls that.
#[test]
fn several_queues_on_one_cache_get_each_its_own() {
    let server = Setup::redis().start();
    for url in [format!("{}?max_connections=1", server.tcp_url()), "memory://".to_owned()] {
        let cache = Cache::must_open(&url);
        for number in 0..4 {
            assert_eq!(cache.set(format!("{number}"), format!("value {number}")), OK);
        }
        let queues: [Queue; 4] = std::array::from_fn(|_| Queue::open());
        let mut pollers: Vec<_> = queues
            .iter()
            .map(|queue| Poller::new(queue, Way::Edge(1), Watched::Duplicate))
            .collect();
        for _ in 0..100 {
            for tag in 0..40 {
                let number = tag as usize % 4;
                assert_eq!(cache.to(&queues[number]).get(tag, format!("{number}")), OK);
            }
            for (number, (queue, poller)) in queues.iter().zip(&mut pollers).enumerate() {
                for completion in take(queue, poller, 10) {
                    assert_eq!(completion.tag() as usize % 4, number);
                    is_value(completion, format!("value {number}"));
                }
            }
        }
    }
}

/// Where the store is in the process a call is complete when its submission returns.
#[test]
fn a_completion_that_another_thread_brings_wakes_the_loop() {
    let cache = Cache::must_open("memory://");
    for way in WAYS {
        let queue = Queue::open();
        let mut poller = Poller::new(&queue, way, Watched::Itself);
        thread::scope(|scope| {
            scope.spawn(|| {
                for tag in 0..3000 {
                    assert_eq!(cache.to(&queue).get(tag, "k"), Ok(CACHETORY_OK));
                    if tag % 7 == 0 {
                        thread::yield_now();
                    }
                }
            });
            let mut taken = 0;
            while taken < 3000 {
                assert!(poller.wait(PATIENCE.as_millis() as u64), "{way:?}: {taken}");
                taken += drain(&queue, 5).len();
            }
        });
        queue.assert_empty();
        assert!(!poller.wait(0), "{way:?}");
    }
}
