//! Loops on threads of their own, each with a queue, on one handle; and threads beside them that call synchronously.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::OK;
use super::drive::*;
use super::support::capi::*;
use super::support::poll;
use super::support::poller::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};
use super::support::server::Setup;

const LOOPS: usize = 4;

/// Loops beside each other on one cache; what each has counted.
#[track_caller]
fn loops(cache: &Cache, ways: &[Way], load: Load) -> Vec<Counts> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..LOOPS)
            .map(|number| {
                let way = ways[number % ways.len()];
                scope.spawn(move || {
                    let queue = Queue::open();
                    let mut poller = Poller::new(&queue, way, Watched::Duplicate);
                    run(cache, &queue, &mut poller, Load { seed: number as u64, ..load })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn four_loops_on_one_handle_take_each_its_own_calls() {
    let server = Setup::redis().start();
    for url in [
        server.tcp_url(),
        server.unix_url(),
        format!("{}?max_connections=1", server.tcp_url()),
        format!("{}?max_connections=2&spin_us=0", server.unix_url()),
        "memory://".to_owned(),
    ] {
        let cache = Cache::must_open(&url);
        prepare(&cache);
        loops(&cache, &WAYS, Load { calls: 4000, large_one_in: 500, ..Load::default() });
    }
}

/// Links follow loops: each keeps one, and none uses another's. A loop that is late on a busy machine loses its link to
/// who sees to its calls meanwhile, and gets another; so it is tried until none was late.
#[test]
fn each_loop_keeps_a_link_of_its_own() {
    poll("loops that keep their links", || {
        let server = Scripted::tcp(|peer| peer.serve(echo));
        let cache = Cache::must_open(&server.url(""));
        thread::scope(|scope| {
            for number in 0..LOOPS {
                let cache = &cache;
                scope.spawn(move || one_of_the_loops(cache, number));
            }
        });
        let connections = server.connections();
        let changes = changes_of_owner(&server);
        println!("{connections} connections, {changes} changes of who uses one");
        (connections <= LOOPS + 1 && changes <= LOOPS).then_some(())
    });
}

fn one_of_the_loops(cache: &Cache, number: usize) {
    let queue = Queue::open();
    let mut poller = Poller::new(&queue, PLAIN_WAYS[number % 3], Watched::Itself);
    for _ in 0..300 {
        for tag in 0..4 {
            assert_eq!(cache.to(&queue).get(tag, format!("{number}")), OK);
        }
        for completion in take(&queue, &mut poller, 4) {
            super::is_value(completion, format!("{number}"));
        }
    }
}

/// How often a link carried a call of another loop than the one before.
fn changes_of_owner(server: &Scripted) -> usize {
    let mut last = HashMap::new();
    let changes = server.requests().into_iter().filter(|request| {
        let owner = request.command[1].clone();
        let before = last.insert(request.connection, owner.clone());
        before.is_some_and(|before| before != owner)
    });
    changes.count()
}

/// A loop is woken by what is its own: a turn that finds nothing is rare.
#[test]
fn no_loop_is_woken_by_another_loops_completions() {
    let server = Setup::redis().start();
    for url in [server.tcp_url(), server.unix_url()] {
        let cache = Cache::must_open(&url);
        prepare(&cache);
        let load = Load { calls: 4000, most_in_flight: 1, ..Load::default() };
        for counts in loops(&cache, &PLAIN_WAYS, load) {
            println!("{counts:?}");
            assert!(counts.in_vain <= counts.wakes / 4, "{counts:?}");
        }
    }
}

/// Synchronous calls of other threads, over the same links.
#[test]
fn loops_and_synchronous_calls_go_on_beside_each_other() {
    let server = Setup::redis().start();
    for options in ["", "?max_connections=1", "?max_connections=2&spin_us=0"] {
        let cache = Cache::must_open(&format!("{}{options}", server.unix_url()));
        prepare(&cache);
        let over = AtomicBool::new(false);
        let made = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..4 {
                let (cache, over, made) = (&cache, &over, &made);
                scope.spawn(move || {
                    let key = format!("sync:{number}");
                    while !over.load(Ordering::SeqCst) {
                        assert_eq!(cache.set(&key, &key), OK);
                        assert_eq!(cache.get(&key), Ok(Some(key.clone().into())));
                        made.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            let load = Load { calls: 2000, large_one_in: 300, ..Load::default() };
            loops(&cache, &PLAIN_WAYS, load);
            over.store(true, Ordering::SeqCst);
        });
        println!("{options}: {} pairs of synchronous calls", made.load(Ordering::SeqCst));
        assert!(made.load(Ordering::SeqCst) > 0);
    }
}

/// It has calls of its own in flight on the one link there is, and a step to make.
#[test]
fn a_loop_may_call_synchronously_between_its_steps() {
    let server = Setup::redis().start();
    for options in ["?max_connections=1", "?max_connections=1&spin_us=0", ""] {
        let cache = Cache::must_open(&format!("{}{options}", server.unix_url()));
        for way in PLAIN_WAYS {
            let queue = Queue::open();
            let mut poller = Poller::new(&queue, way, Watched::Itself);
            for round in 0..100 {
                let value = format!("{round}");
                for tag in 0..20 {
                    assert_eq!(cache.to(&queue).set(tag, format!("{tag}"), "v", NO_EXPIRY, 0), OK);
                }
                assert_eq!(cache.set("k", &value), OK);
                let mut taken = 0;
                while taken < 20 {
                    poller.must_wake();
                    taken += queue.wait(3, 0).unwrap().len();
                    assert_eq!(cache.get("k"), Ok(Some(value.clone().into())));
                    // What one step left is there for the next, edge or no edge.
                    taken += drain(&queue, 3).len();
                }
                assert_eq!(taken, 20);
            }
            queue.assert_empty();
        }
    }
}

/// Submitted by threads that do not poll, for a loop that does not submit.
#[test]
fn a_loop_takes_what_other_threads_submit() {
    const THREADS: u64 = 4;
    const EACH: u64 = 2000;
    let server = Setup::redis().start();
    for options in ["", "?max_connections=1"] {
        let (cache, queue) =
            (Cache::must_open(&format!("{}{options}", server.tcp_url())), Queue::open());
        for way in WAYS {
            let mut poller = Poller::new(&queue, way, Watched::Duplicate);
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (cache, queue) = (&cache, &queue);
                    scope.spawn(move || {
                        for number in 0..EACH {
                            let tag = thread * EACH + number;
                            assert_eq!(cache.to(queue).get(tag, "k"), OK);
                            if number % 50 == 0 {
                                thread::yield_now();
                            }
                        }
                    });
                }
                let all = take(&queue, &mut poller, (THREADS * EACH) as usize);
                assert!(all.iter().all(|each| each.outcome().is_ok()));
            });
            queue.assert_empty();
        }
    }
}
