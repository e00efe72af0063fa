//! Deadlines, and what is remembered for their sake.

use std::time::Instant;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn deadlines_pass_in_their_order() {
    let bench = Bench::new();
    let start = Instant::now();
    let calls: Vec<Promise> =
        (1..=5).map(|tag| bench.promise(tag, Access::Read, tag as u32 * SECOND)).collect();
    assert!(calls.windows(2).all(|pair| pair[0].deadline() < pair[1].deadline()));
    assert!(calls[0].deadline() >= start + SECOND);
    assert_eq!(bench.inflight.next_deadline(), Some(calls[0].deadline()));
    assert_eq!(bench.inflight.expire(start), Some(calls[0].deadline()));
    assert_eq!(bench.taken(), []);
    // Those that are completed do not count.
    bench.queue.cancel(1).unwrap();
    bench.queue.cancel(3).unwrap();
    assert_eq!(bench.inflight.next_deadline(), Some(calls[1].deadline()));
    assert_eq!(bench.taken().len(), 2);
    let left = bench.inflight.expire(calls[3].deadline());
    assert_eq!(left, Some(calls[4].deadline()));
    let late = [(2, Outcome::TimedOut, false), (4, Outcome::TimedOut, false)];
    assert_eq!(bench.taken(), late);
    assert_eq!(bench.inflight.count(), 1);
    drop(calls);
    assert_eq!(bench.inflight.next_deadline(), None);
}

#[test]
fn a_renewed_deadline_comes_after_the_others() {
    let bench = Bench::new();
    let first = bench.promise(1, Access::Write, SECOND);
    let second = bench.promise(2, Access::Read, 2 * SECOND);
    let old = first.deadline();
    first.renew_deadline(3 * SECOND);
    assert!(first.deadline() > old + SECOND);
    assert_eq!(bench.inflight.next_deadline(), Some(second.deadline()));
    assert_eq!(bench.inflight.expire(second.deadline()), Some(first.deadline()));
    assert_eq!(bench.inflight.expire(first.deadline()), None);
    assert_eq!(bench.taken(), [(2, Outcome::TimedOut, false), (1, Outcome::TimedOut, false)]);
    first.renew_deadline(SECOND);
    assert_eq!(bench.inflight.next_deadline(), None);
}

#[test]
fn the_longest_deadline_overflows_nothing() {
    let bench = Bench::new();
    let call = bench.promise(1, Access::Read, Duration::MAX);
    assert!(call.deadline() > Instant::now() + LONG);
    assert_eq!(bench.inflight.next_deadline(), Some(call.deadline()));
}

/// The calls of several caches and queues do not stand in each other's way.
#[test]
fn each_cache_has_deadlines_of_its_own() {
    let bench = Bench::new();
    let other = Bench { queue: Arc::clone(&bench.queue), inflight: Bench::new().inflight };
    let elsewhere = Bench { queue: Bench::new().queue, inflight: Arc::clone(&bench.inflight) };
    let long = bench.promise(1, Access::Read, 3 * SECOND);
    let short = other.promise(2, Access::Read, SECOND);
    let between = elsewhere.promise(3, Access::Read, 2 * SECOND);
    assert_eq!(bench.inflight.next_deadline(), Some(between.deadline()));
    assert_eq!(other.inflight.next_deadline(), Some(short.deadline()));
    assert_eq!(bench.inflight.expire(between.deadline()), Some(long.deadline()));
    assert_eq!((bench.taken(), elsewhere.taken().len()), (vec![], 1));
    other.inflight.close();
    assert_eq!(bench.taken(), [(2, Outcome::Cancelled, false)]);
    assert_eq!(bench.inflight.next_deadline(), Some(long.deadline()));
    bench.queue.close().unwrap();
    assert_eq!(bench.inflight.next_deadline(), None);
}

/// A queue that outlives many caches, and a cache that outlives many queues, keep nothing of them.
#[test]
fn queues_and_caches_that_come_and_go_leave_nothing_behind() {
    let bench = Bench::new();
    for _ in 0..1000 {
        let passing = Bench { queue: Arc::clone(&bench.queue), inflight: Bench::new().inflight };
        let _call = passing.read(1);
        passing.inflight.close();
        let passing = Bench { queue: Bench::new().queue, inflight: Arc::clone(&bench.inflight) };
        let _call = passing.read(1);
        passing.queue.close().unwrap();
    }
    assert_eq!((bench.queue.groups(), bench.inflight.queues()), (1, 1));
    assert_eq!(bench.taken().len(), 1000);
}

#[test]
fn calls_keep_no_queue_alive_and_a_queue_no_cache() {
    let bench = Bench::new();
    let (queue, inflight) = (Arc::downgrade(&bench.queue), Arc::downgrade(&bench.inflight));
    let (first, second) = (bench.read(1), bench.read(2));
    first.complete(done());
    drop(bench);
    // As if the queue had been closed.
    assert!(queue.upgrade().is_none());
    assert_eq!(inflight.upgrade().unwrap().count(), 0);
    assert!(second.is_completed() && !second.complete(done()));
    assert!(inflight.upgrade().is_none());
}

/// A completed call is used again, once its carrier has dropped it.
#[test]
fn the_memory_of_a_completed_call_is_used_again() {
    let bench = Bench::new();
    let first = bench.write(1);
    let address = |call: &Promise| Arc::as_ptr(&call.share()).addr();
    let one = address(&first);
    assert!(first.begin_send());
    bench.queue.cancel(1).unwrap();
    let second = bench.write(2);
    assert!(first.is_completed() && !second.is_completed());
    let two = address(&second);
    assert_ne!(one, two, "the first is still held");
    second.begin_send();
    second.renew_deadline(2 * LONG);
    let late = second.deadline();
    assert!(second.complete(done()));
    let third = bench.read(3);
    assert_eq!(address(&third), two);
    assert!(!third.is_completed() && third.access() == Access::Read && third.deadline() < late);
    bench.queue.cancel(3).unwrap();
    let outcomes = [Outcome::Cancelled, Outcome::Done, Outcome::Cancelled];
    let sent = [true, false, false];
    let wanted = (0..3).map(|n| (n as u64 + 1, outcomes[n], sent[n])).collect::<Vec<_>>();
    assert_eq!(bench.taken(), wanted);
    drop(first);
}

#[test]
fn one_at_a_time_watches_the_deadlines() {
    let bench = Bench::new();
    assert!(!bench.inflight.is_watching_deadlines());
    assert!(bench.inflight.begin_watching_deadlines());
    assert!(!bench.inflight.begin_watching_deadlines() && bench.inflight.is_watching_deadlines());
    assert_eq!(bench.inflight.end_watching_deadlines(), None);
    assert!(!bench.inflight.is_watching_deadlines() && bench.inflight.begin_watching_deadlines());
    let call = bench.read(1);
    assert_eq!(bench.inflight.end_watching_deadlines(), Some(call.deadline()));
    assert!(bench.inflight.is_watching_deadlines(), "there is a call after all");
    bench.inflight.close();
    assert_eq!(bench.inflight.end_watching_deadlines(), None);
}
