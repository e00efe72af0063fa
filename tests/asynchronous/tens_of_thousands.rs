//! Tens of thousands of calls at once to a server that hangs: each is accepted, and completes once, however it ends.
//! That it takes no time per pair of them is tested only as far as this comes to an end.

use super::support::capi::*;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo};
use super::{OK, failed};

const MANY: u64 = 50_000;

/// Reads all that is sent, and says nothing.
fn silent() -> Scripted {
    Scripted::tcp(|peer| peer.swallow())
}

/// Submits as many as may be outstanding, in turn reads and writes.
#[track_caller]
fn submit_many(cache: &Cache, queue: &Queue) {
    let to = cache.to(queue);
    for tag in 0..MANY {
        let outcome = match tag % 2 {
            0 => to.get(tag, "k"),
            _ => to.set(tag, "k", "v", NO_EXPIRY, 0),
        };
        assert_eq!(outcome, OK);
    }
}

/// That all of them are outstanding.
#[track_caller]
fn is_full(cache: &Cache, queue: &Queue) {
    assert_eq!(cache.to(queue).ping(MANY).unwrap_err().status, CACHETORY_ERR_BUSY);
}

fn cache(server: &Scripted, timeout: &str) -> Cache {
    Cache::must_open(&server.url(&format!("max_pending={MANY}&socket_timeout={timeout}")))
}

/// That each has completed once and in this way, and that a write says so where it may have been applied.
#[track_caller]
fn have_all_failed(queue: &Queue, status: i32, flags: u32) {
    for (tag, completion) in queue.take(MANY as usize) {
        let mut failure = completion.failure();
        if tag % 2 == 1 {
            // Some were sent.
            failure.flags &= !MAYBE_APPLIED;
        }
        assert_eq!((failure.status, failure.flags), (status, flags), "{failure:?}");
    }
    queue.assert_empty();
}

#[test]
fn tens_of_thousands_of_calls_are_cancelled_one_by_one() {
    let server = silent();
    let (cache, queue) = (cache(&server, "3600"), Queue::open());
    let orders: [fn(u64) -> u64; 3] = [|tag| tag, |tag| MANY - 1 - tag, |tag| (tag * 7919) % MANY];
    for order in orders {
        submit_many(&cache, &queue);
        is_full(&cache, &queue);
        for tag in (0..MANY).map(order) {
            assert_eq!(queue.cancel(tag), OK);
        }
        have_all_failed(&queue, CACHETORY_ERR_CANCELLED, 0);
    }
}

#[test]
fn tens_of_thousands_of_calls_are_cancelled_by_one_tag() {
    let server = silent();
    let (cache, queue) = (cache(&server, "3600"), Queue::open());
    for _ in 0..MANY {
        assert_eq!(cache.to(&queue).get(7, "k"), OK);
    }
    is_full(&cache, &queue);
    assert_eq!(queue.cancel(7), OK);
    let mut count = 0;
    while let some = queue.wait(1000, 0).unwrap()
        && !some.is_empty()
    {
        some.iter().for_each(|each| drop(failed(each, CACHETORY_ERR_CANCELLED, 0)));
        count += some.len() as u64;
    }
    assert_eq!(count, MANY);
    assert_eq!(queue.cancel(7), Ok(CACHETORY_NOT_FOUND));
}

#[test]
fn tens_of_thousands_of_calls_end_at_their_deadlines() {
    let server = silent();
    let (cache, queue) = (cache(&server, "1&fail_fast=false"), Queue::open());
    for _ in 0..2 {
        submit_many(&cache, &queue);
        have_all_failed(&queue, CACHETORY_ERR_TIMEOUT, RETRYABLE);
    }
}

#[test]
fn tens_of_thousands_of_calls_are_cancelled_with_their_cache() {
    let server = silent();
    let (cache, queue) = (cache(&server, "3600"), Queue::open());
    submit_many(&cache, &queue);
    is_full(&cache, &queue);
    assert_eq!(cache.close(), CACHETORY_OK);
    have_all_failed(&queue, CACHETORY_ERR_CANCELLED, 0);
}

/// Those that were sent are lost or retried, those that were not go over the next connection.
#[test]
fn tens_of_thousands_of_calls_survive_a_connection_that_breaks() {
    let server = Scripted::tcp(|peer| match peer.number {
        0 => peer.swallow(),
        _ => peer.serve(echo),
    });
    let url = format!("max_pending={MANY}&socket_timeout=3600&max_connections=1");
    let (cache, queue) = (Cache::must_open(&server.url(&url)), Queue::open());
    submit_many(&cache, &queue);
    is_full(&cache, &queue);
    server.hang_up();
    let mut lost = 0;
    for (tag, completion) in queue.take(MANY as usize) {
        if completion.outcome() != OK {
            assert_eq!(tag % 2, 1, "a read is tried once more");
            failed(&completion, CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
            lost += 1;
        }
    }
    assert!(lost < MANY / 2, "not all were sent");
    queue.assert_empty();
}
