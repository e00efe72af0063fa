//! A thread that submits and waits in turn drives the I/O of its calls itself, and parks its connection in the middle
//! of a batch when it has something to return with. Whatever happens then, nothing is lost, and nobody waits for it.

use std::thread;
use std::time::Duration;

use super::support::calls::large;
use super::support::capi::*;
use super::support::gates::Gates;
use super::support::program::Program;
use super::support::queue::*;
use super::support::scripted::Scripted;
use super::support::server::Setup;
use super::support::{note, patient, pause, poll};
use super::{OK, failed, is_value};

/// Nobody else can: the library's I/O thread is stopped, as a debugger stops one.
#[test]
fn a_waiting_thread_drives_its_calls_while_the_io_thread_is_stopped() {
    let server = Setup::redis().start();
    let program = Program::build("caller_driven");
    for url in [server.tcp_url(), server.unix_url(), format!("{}?spin_us=0", server.unix_url())] {
        println!("{url}");
        let printed = program.run(&[patient(&url)]);
        if printed.starts_with("SKIPPED") {
            note(&printed);
        }
    }
}

/// So often the thread has come to wait before it is expected to.
const OFTEN: u64 = 8;

/// Submits and waits in turn, so that the thread is predicted to wait for its calls.
#[track_caller]
fn get_into_habit(cache: &Cache, queue: &Queue) {
    for tag in 0..OFTEN {
        assert_eq!(cache.to(queue).get(tag, "k"), OK);
        is_value(queue.next(), "k");
    }
}

/// Gates, and one connection whose first answer has been taken, while the server keeps the second back. The tag of that
/// one is 2; to its server nothing more can be said.
fn left_in_the_middle(options: &str) -> (Gates, Scripted, Cache, Queue) {
    let gates = Gates::default();
    let server = gates.server();
    let url = server.url(&format!("max_connections=1{options}"));
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    get_into_habit(&cache, &queue);
    let to = cache.to(&queue);
    assert_eq!(to.get(1, "first"), OK);
    assert_eq!(to.get(2, "held:1"), OK);
    is_value(queue.next(), "first");
    (gates, server, cache, queue)
}

/// The scenarios race with the thread of the library that takes over when nobody comes: each is tried often enough to
/// meet both.
fn often(scenario: impl Fn(&str)) {
    for options in ["", "&spin_us=0"] {
        (0..20).for_each(|_| scenario(options));
    }
}

#[test]
fn a_waiting_thread_resumes_the_batch_it_parked() {
    often(|options| {
        let (gates, server, cache, queue) = left_in_the_middle(options);
        let to = cache.to(&queue);
        for tag in 3..100 {
            assert_eq!(to.get(tag, format!("{tag}")), OK);
        }
        gates.open(1);
        let mut rest = queue.take(98);
        is_value(rest.remove(&2).unwrap(), "held:1");
        for (tag, completion) in rest {
            is_value(completion, format!("{tag}"));
        }
        assert_eq!((server.connections(), server.count("GET")), (1, OFTEN as usize + 99));
    });
}

#[test]
fn a_parked_batch_goes_on_when_its_thread_only_polls_the_descriptor() {
    often(|options| {
        let (gates, _server, cache, queue) = left_in_the_middle(options);
        assert_eq!(cache.to(&queue).set(3, "k", "v", NO_EXPIRY, 0), OK);
        gates.open(1);
        queue.await_readable();
        assert_eq!(queue.take(2).len(), 2);
    });
}

#[test]
fn a_call_is_sent_though_its_thread_never_waits() {
    let server = Setup::redis().start();
    for options in ["", "?spin_us=0"] {
        let cache = Cache::must_open(&format!("{}{options}", server.unix_url()));
        let (queue, other) = (Queue::open(), Cache::must_open(&server.unix_url()));
        for round in 0..20 {
            assert_eq!(cache.set("k", "k"), OK);
            get_into_habit(&cache, &queue);
            let value = format!("{round}");
            assert_eq!(cache.to(&queue).set(1, "never", &value, NO_EXPIRY, 0), OK);
            poll("the value", || {
                (other.get("never") == Ok(Some(value.clone().into()))).then_some(())
            });
            assert_eq!(queue.next().outcome(), OK);
        }
    }
}

#[test]
fn cancelling_a_parked_call_wakes_the_thread_that_drives_it() {
    often(|options| {
        let (_gates, _server, cache, queue) = left_in_the_middle(options);
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.next());
            assert_eq!(queue.cancel(2), OK);
            failed(&waits.join().unwrap(), CACHETORY_ERR_CANCELLED, 0);
        });
        assert_eq!(cache.close(), CACHETORY_OK);
        queue.assert_empty();
    });
}

#[test]
fn a_completion_of_another_cache_wakes_the_thread_that_drives() {
    often(|options| {
        let (_gates, _server, _cache, queue) = left_in_the_middle(options);
        let memory = Cache::must_open("memory://");
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.next());
            assert_eq!(memory.to(&queue).set(7, "k", "v", NO_EXPIRY, 0), OK);
            assert_eq!(waits.join().unwrap().tag(), 7);
        });
    });
}

/// Submits a call and waits for it. On a busy machine it may miss the short deadline, and is then submitted again.
#[track_caller]
fn get_in_time(to: Submit, queue: &Queue) {
    poll("an answer in time", || {
        assert_eq!(to.get(1, "k"), OK);
        let completion = queue.next();
        if completion.outcome().is_ok() {
            is_value(completion, "k");
            return Some(());
        }
        failed(&completion, CACHETORY_ERR_TIMEOUT, RETRYABLE);
        None
    });
}

#[test]
fn a_call_that_its_thread_drives_ends_at_its_deadline() {
    let gates = Gates::default();
    let server = gates.server();
    for options in ["", "&spin_us=0"] {
        let url = server.url(&format!("max_connections=1&socket_timeout=0.1{options}"));
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        for round in 0..6 {
            // A connection that hung is no hindrance to the next call.
            (0..OFTEN).for_each(|_| get_in_time(to, &queue));
            poll("the write is sent before its deadline", || {
                assert_eq!(to.set(1, "held:1", "v", NO_EXPIRY, 0), OK);
                // Where the time of a wait is up first, that is no failure of the call.
                let early = if round % 2 == 0 { queue.wait(1, 1).unwrap().pop() } else { None };
                let failure = early.unwrap_or_else(|| queue.next()).failure();
                assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
                (failure.flags == RETRYABLE | MAYBE_APPLIED).then_some(())
            });
        }
    }
}

#[test]
fn closing_the_cache_cancels_what_is_parked_or_driven() {
    often(|options| {
        for waits in [false, true] {
            let (_gates, _server, cache, queue) = left_in_the_middle(options);
            thread::scope(|scope| {
                let waiter = waits.then(|| scope.spawn(|| queue.next()));
                assert_eq!(cache.close(), CACHETORY_OK);
                let completion =
                    waiter.map_or_else(|| queue.next(), |waiter| waiter.join().unwrap());
                failed(&completion, CACHETORY_ERR_CANCELLED, 0);
            });
        }
    });
}

#[test]
fn closing_the_queue_frees_a_parked_connection_for_others() {
    often(|options| {
        let (gates, _server, cache, queue) = left_in_the_middle(options);
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.wait(1, NO_EXPIRY));
            assert_eq!(queue.close(), CACHETORY_OK);
            assert_eq!(
                waits.join().unwrap().err().map(|failure| failure.status),
                Some(CACHETORY_ERR_CLOSED)
            );
        });
        gates.open(1);
        assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
    });
}

#[test]
fn a_parked_connection_is_given_to_a_thread_that_needs_it() {
    often(|options| {
        let (gates, server, cache, queue) = left_in_the_middle(options);
        thread::scope(|scope| {
            let small = scope.spawn(|| cache.get("k"));
            let large = scope.spawn(|| cache.set("k", large()));
            gates.open(1);
            assert_eq!(small.join().unwrap(), Ok(Some(b"k".to_vec())));
            assert_eq!(large.join().unwrap(), OK);
        });
        is_value(queue.next(), "held:1");
        assert_eq!(server.connections(), 1);
    });
}

/// Two threads, each with a queue of its own, and one connection: who leaves does not leave the other's call behind.
#[test]
fn a_thread_that_stops_driving_leaves_no_other_threads_call_behind() {
    often(|options| {
        let gates = Gates::default();
        let server = gates.server();
        let url = server.url(&format!("max_connections=1{options}"));
        let (cache, mine, others) = (Cache::must_open(&url), Queue::open(), Queue::open());
        get_into_habit(&cache, &mine);
        get_into_habit(&cache, &others);
        thread::scope(|scope| {
            assert_eq!(cache.to(&mine).get(1, "held:1"), OK);
            let first = scope.spawn(|| mine.next());
            server.wait_for("GET", 2 * OFTEN as usize + 1);
            assert_eq!(cache.to(&others).get(2, "k"), OK);
            let second = scope.spawn(|| others.next());
            gates.open(1);
            is_value(first.join().unwrap(), "held:1");
            is_value(second.join().unwrap(), "k");
        });
    });
}

#[test]
fn a_parked_connection_that_breaks_loses_no_call() {
    often(|options| {
        let (_gates, server, cache, queue) = left_in_the_middle(options);
        let to = cache.to(&queue);
        assert_eq!(to.get(3, "more"), OK);
        server.hang_up();
        assert_eq!(to.get(4, "last"), OK);
        // The one that was held is asked for again, and held again.
        let mut answers = queue.take(0);
        while answers.len() < 2 && server.connections() < 2 {
            answers.extend(queue.wait(8, 10).unwrap().into_iter().map(|each| (each.tag(), each)));
        }
        assert_eq!(cache.close(), CACHETORY_OK);
        for (tag, completion) in queue.take(3 - answers.len()) {
            answers.insert(tag, completion);
        }
        assert_eq!(answers.len(), 3);
    });
}

#[test]
fn thousands_in_flight_get_each_its_own_value() {
    let server = Setup::redis().start();
    for options in ["", "&spin_us=0", "&max_pending=100000"] {
        let url = format!("{}?max_connections=1{options}", server.tcp_url());
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        let value = |number: u64| format!("{number}").repeat(number as usize % 300);
        let key = |number: u64| format!("{}", number % 1000);
        for number in 0..1000 {
            assert_eq!(cache.set(key(number), value(number)), OK);
        }
        for window in [1, 16, 64, 3000] {
            let (mut next, mut taken) = (0, 0);
            let mut kept = Vec::new();
            while taken < 12_000 {
                while next < 12_000 && next - taken < window {
                    // Misses among them, and writes.
                    match next % 11 {
                        3 => assert_eq!(to.get(next, "there is none"), OK),
                        7 => assert_eq!(
                            to.set(next, key(next), value(next % 1000), NO_EXPIRY, 0),
                            OK
                        ),
                        _ => assert_eq!(to.get(next, key(next)), OK),
                    }
                    next += 1;
                }
                for mut completion in queue.wait(100, 60_000).unwrap() {
                    taken += 1;
                    let number = completion.tag();
                    match number % 11 {
                        3 => assert_eq!(completion.outcome(), Ok(CACHETORY_NOT_FOUND)),
                        7 => assert_eq!(completion.outcome(), OK),
                        _ => kept.push((number, completion.take_value().unwrap())),
                    }
                    // Values that came together are released in any order, the last of them long after.
                    if kept.len() > 500 {
                        let (number, kept) = kept.swap_remove(number as usize % 400);
                        assert_eq!(kept.bytes(), value(number % 1000).as_bytes());
                    }
                }
            }
            queue.assert_empty();
            thread::spawn(move || {
                for (number, kept) in kept {
                    assert_eq!(kept.bytes(), value(number % 1000).as_bytes());
                }
            })
            .join()
            .unwrap();
        }
    }
}

/// Who shares memory is seen by the owner. No more than sixteen do, and none of 1000 bytes or more.
#[test]
fn at_most_sixteen_short_values_share_one_buffer() {
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.unix_url()), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(cache.set("short", "s".repeat(999)), OK);
    assert_eq!(cache.set("long", "l".repeat(1000)), OK);
    let mut most = 0;
    let mut round = 0;
    poll("some values that came together", || {
        round += 1;
        let mut owners = std::collections::HashMap::new();
        for tag in 0..64 {
            let key = if round % 2 == 1 && tag % 8 == 0 { "long" } else { "short" };
            assert_eq!(to.get(tag, key), OK);
        }
        let mut taken = queue.take(64);
        for completion in taken.values_mut() {
            let value = &completion.raw().value;
            owners.entry(value.owner.addr()).or_insert_with(Vec::new).push(value.len);
        }
        for sharing in owners.values() {
            assert!(sharing.len() <= 16, "{}", sharing.len());
            assert!(sharing.len() == 1 || sharing.iter().all(|&len| len == 999));
            most = most.max(sharing.len());
        }
        (most > 1 && round >= 50).then_some(())
    });
}

/// What is left for the thread is not forgotten when it does not come to wait any more.
#[test]
fn a_thread_that_turns_from_waiting_to_polling_is_not_forgotten() {
    let server = Setup::redis().start();
    let (cache, queue) = (Cache::must_open(&server.unix_url()), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(cache.set("k", "k"), OK);
    for round in 0..10 {
        get_into_habit(&cache, &queue);
        assert_eq!(to.get(100, "k"), OK);
        pause::provoke_for(Duration::from_millis(round));
        // Without waiting: the prediction misses.
        let completion = poll("a completion", || queue.wait(1, 0).unwrap().pop());
        is_value(completion, "k");
    }
}
