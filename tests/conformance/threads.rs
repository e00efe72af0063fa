//! One handle, many threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::fixture::{Case, Fixture, case, pattern};
use crate::support::capi::*;

pub fn cases() -> Vec<Case> {
    vec![
        case(every_thread_sees_its_own_values),
        case(of_many_that_set_if_not_exists_one_succeeds),
        case(an_mset_is_seen_whole_or_not_at_all),
        case(an_mset_with_a_ttl_is_seen_whole_or_not_at_all),
        case(of_many_that_delete_a_key_one_is_told_that_it_was_there),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);
const THREADS: usize = 16;

fn every_thread_sees_its_own_values(f: &Fixture) {
    thread::scope(|scope| {
        for number in 0..THREADS {
            scope.spawn(move || (0..40).for_each(|round| mixed(&f.cache, number, round)));
        }
    });
}

/// A bit of everything, on keys that only this thread uses, with values that only it writes.
fn mixed(cache: &Cache, thread: usize, round: usize) {
    let key = |name: &str| format!("{thread}:{name}");
    let seed = thread * 1000 + round;
    // One in ten is large, so that small replies have to pass.
    let len = if (thread + round).is_multiple_of(10) { 200_000 } else { seed % 300 };
    let value = pattern(len, seed);
    assert_eq!(cache.set(key("a"), &value), OK);
    assert!(cache.get(key("a")).unwrap().as_ref() == Some(&value), "another's value");
    assert_eq!(cache.get(key("none")), Ok(None));
    let batch: Vec<_> =
        (0..20).map(|i| (key(&format!("b{i}")), pattern(i * 7, seed + i))).collect();
    let ttl = if round.is_multiple_of(2) { NO_EXPIRY } else { 600_000 };
    assert_eq!(cache.mset(&batch, ttl), OK);
    let keys: Vec<&String> = batch.iter().map(|(key, _)| key).collect();
    let answers = cache.mget(&keys).unwrap();
    assert!(answers.iter().zip(&batch).all(|(answer, (_, value))| answer.as_ref() == Some(value)));
    assert_eq!(cache.set_with(key("a"), "x", NO_EXPIRY, IF_NOT_EXISTS), Ok(CACHETORY_NOT_STORED));
    assert_eq!(cache.expire_in(key("a"), 600_000), OK);
    assert_eq!(cache.expire_at(key("b0"), NO_EXPIRY), OK);
    assert_eq!(cache.expire_in(key("none"), 1), Ok(CACHETORY_NOT_FOUND));
    assert_eq!(cache.ping(), OK);
    assert_eq!(cache.delete(key("a")), OK);
    assert_eq!(cache.delete(key("a")), Ok(CACHETORY_NOT_FOUND));
    assert_eq!(cache.mdelete(&keys), Ok(20));
}

fn of_many_that_set_if_not_exists_one_succeeds(f: &Fixture) {
    let start = Barrier::new(THREADS);
    let winners: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (start, winners) = (&start, &winners);
            scope.spawn(move || {
                for (round, winner) in winners.iter().enumerate() {
                    start.wait();
                    let ttl = if number.is_multiple_of(2) { NO_EXPIRY } else { 600_000 };
                    let name = number.to_string();
                    let claim = f.cache.set_with(format!("{round}"), name, ttl, IF_NOT_EXISTS);
                    match claim.unwrap() {
                        CACHETORY_OK => {
                            let before = winner.swap(number + 1, Ordering::Relaxed);
                            assert_eq!(before, 0, "two won");
                        }
                        other => assert_eq!(other, CACHETORY_NOT_STORED),
                    }
                }
            });
        }
    });
    for (round, winner) in winners.iter().enumerate() {
        let winner = winner.load(Ordering::Relaxed).checked_sub(1).expect("somebody won");
        assert_eq!(f.cache.get(format!("{round}")), Ok(Some(winner.to_string().into_bytes())));
    }
}

fn an_mset_is_seen_whole_or_not_at_all(f: &Fixture) {
    seen_whole(f, NO_EXPIRY);
}

fn an_mset_with_a_ttl_is_seen_whole_or_not_at_all(f: &Fixture) {
    seen_whole(f, 600_000);
}

fn seen_whole(f: &Fixture, ttl: i64) {
    let keys: Vec<String> = (0..10).map(|i| format!("key:{i}")).collect();
    let write = |text: &str| {
        let items: Vec<_> = keys.iter().map(|key| (key, text)).collect();
        assert_eq!(f.cache.mset(&items, ttl), OK);
    };
    write("start");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let write = &write;
                scope.spawn(move || (0..100).for_each(|i| write(&format!("{writer}:{i}"))))
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let answers = f.cache.mget(&keys).unwrap();
                    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
                    assert!(answers[0].is_some());
                }
            });
        }
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
}

fn of_many_that_delete_a_key_one_is_told_that_it_was_there(f: &Fixture) {
    let items: Vec<_> = (0..200).map(|i| (format!("key:{i}"), "value")).collect();
    let keys: Vec<&String> = items.iter().map(|(key, _)| key).collect();
    assert_eq!(f.cache.mset(&items, NO_EXPIRY), OK);
    let deleted = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (keys, deleted) = (&keys, &deleted);
            scope.spawn(move || {
                for pair in keys.chunks(2) {
                    let count = if number.is_multiple_of(2) {
                        f.cache.mdelete(pair).unwrap() as usize
                    } else {
                        let one = |key| usize::from(f.cache.delete(key) == OK);
                        one(pair[0]) + one(pair[1])
                    };
                    deleted.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(deleted.load(Ordering::Relaxed), 200);
}
