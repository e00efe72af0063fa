//! Asynchronous calls: what is submitted comes back, once, as the synchronous call would have answered it.

use std::collections::HashSet;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cachetory::ffi::queue::cachetory_completion_free;
use cachetory::ffi::submit::*;
use cachetory::ffi::types::*;

use crate::fixture::{Case, Fixture, case, pattern};
use crate::support::capi::*;
use crate::support::queue::Queue;

pub fn cases() -> Vec<Case> {
    let mut cases = refusals();
    cases.extend([
        case(every_operation_completes),
        case(a_completion_has_the_tag_of_its_call_whatever_it_is),
        case(a_read_after_a_writes_completion_sees_it),
        case(thousands_of_calls_in_flight_get_each_its_own_answer),
        case(a_value_moved_out_of_a_completion_is_released_by_itself),
        case(completions_outlive_cache_and_queue),
        case(synchronous_and_asynchronous_calls_on_one_cache_see_each_other),
        case(several_caches_report_to_one_queue),
        case(many_threads_submit_and_many_take_each_completion_once),
        case(closing_a_cache_leaves_its_queue_to_others),
    ]);
    cases
}

/// Those that hold where nothing is stored, too.
pub fn refusals() -> Vec<Case> {
    vec![
        case(bad_arguments_are_refused),
        case(closed_handles_are_refused),
        case(one_kind_of_handle_is_not_the_other),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);
const NOT_FOUND: Outcome = Ok(CACHETORY_NOT_FOUND);

fn every_operation_completes(f: &Fixture) {
    let queue = Queue::open();
    let to = f.cache.to(&queue);
    let next = |submitted: Outcome, tag: u64| {
        assert_eq!(submitted, OK);
        let completion = queue.next();
        assert_eq!(completion.tag(), tag);
        completion
    };
    assert_eq!(next(to.ping(1), 1).outcome(), OK);
    assert_eq!(next(to.get(2, "a"), 2).outcome(), NOT_FOUND);
    assert_eq!(next(to.set(3, "a", "1", NO_EXPIRY, 0), 3).outcome(), OK);
    let stored = next(to.set(4, "a", "2", NO_EXPIRY, IF_NOT_EXISTS), 4);
    assert_eq!(stored.outcome(), Ok(CACHETORY_NOT_STORED));
    let mut got = next(to.get(5, "a"), 5);
    assert_eq!(got.outcome(), OK);
    assert_eq!(got.take_value().unwrap().bytes(), b"1");
    assert_eq!(next(to.mset(6, &[("b", "2"), ("c", "")], 60_000), 6).outcome(), OK);
    let mut got = next(to.mget(7, &["c", "none", "b", "a"]), 7);
    assert_eq!(got.outcome(), OK);
    let wanted: [Option<&[u8]>; 4] = [Some(b""), None, Some(b"2"), Some(b"1")];
    assert_eq!(got.take_values().to_vec(), wanted.map(|value| value.map(<[u8]>::to_vec)));
    assert_eq!(next(to.expire_in(8, "a", 60_000), 8).outcome(), OK);
    assert_eq!(next(to.expire_in(9, "none", 60_000), 9).outcome(), NOT_FOUND);
    assert_eq!(next(to.expire_at(10, "a", 1), 10).outcome(), OK);
    assert_eq!(next(to.expire_at(11, "a", NO_EXPIRY), 11).outcome(), NOT_FOUND);
    assert_eq!(next(to.delete(12, "b"), 12).outcome(), OK);
    assert_eq!(next(to.delete(13, "b"), 13).outcome(), NOT_FOUND);
    assert_eq!(f.cache.mset(&[("d", ""), ("e", "")], NO_EXPIRY), OK);
    let deleted = next(to.mdelete(14, &["c", "d", "e", "none"]), 14);
    assert_eq!((deleted.outcome(), deleted.deleted()), (OK, 3));
    // Batches of nothing complete as well.
    let mut nothing = next(to.mget::<&str>(15, &[]), 15);
    assert_eq!((nothing.outcome(), nothing.take_values().len()), (OK, 0));
    assert_eq!(next(to.mset::<&str, &str>(16, &[], NO_EXPIRY), 16).outcome(), OK);
    let deleted = next(to.mdelete::<&str>(17, &[]), 17);
    assert_eq!((deleted.outcome(), deleted.deleted()), (OK, 0));
    assert_eq!(f.cache.set("f", "last"), OK);
    assert_eq!(next(to.clear(18), 18).outcome(), OK);
    assert_eq!(f.cache.get("f"), Ok(None));
    queue.assert_empty();
}

fn a_completion_has_the_tag_of_its_call_whatever_it_is(f: &Fixture) {
    let queue = Queue::open();
    let to = f.cache.to(&queue);
    let mut tags = vec![0, 1, 1 << 32, u64::MAX, 7, 7, 7];
    for &tag in &tags {
        assert_eq!(to.get(tag, "key"), OK);
    }
    let mut seen: Vec<u64> = tags.iter().map(|_| queue.next().tag()).collect();
    seen.sort_unstable();
    tags.sort_unstable();
    assert_eq!(seen, tags);
    queue.assert_empty();
}

/// A read that is submitted after a write's completion sees it.
fn a_read_after_a_writes_completion_sees_it(f: &Fixture) {
    let queue = Queue::open();
    let to = f.cache.to(&queue);
    for round in 0..200_u64 {
        let value = round.to_string();
        assert_eq!(to.set(round, "key", &value, NO_EXPIRY, 0), OK);
        assert_eq!(queue.next().outcome(), OK);
        assert_eq!(to.get(round, "key"), OK);
        assert_eq!(queue.next().take_value().unwrap().bytes(), value.as_bytes());
    }
}

fn thousands_of_calls_in_flight_get_each_its_own_answer(f: &Fixture) {
    const MANY: u64 = 5000;
    let queue = Queue::open();
    let to = f.cache.to(&queue);
    let key = |tag: u64| format!("key:{tag}");
    for tag in 0..MANY {
        let value = pattern(tag as usize % 300, tag as usize);
        assert_eq!(to.set(tag, key(tag), value, NO_EXPIRY, 0), OK);
    }
    assert!(queue.take(MANY as usize).values().all(|each| each.outcome() == OK));
    for tag in 0..MANY {
        assert_eq!(to.get(tag, key(tag)), OK);
    }
    for (tag, mut completion) in queue.take(MANY as usize) {
        let value = completion.take_value().unwrap();
        assert!(value.bytes() == pattern(tag as usize % 300, tag as usize), "{tag}");
    }
    queue.assert_empty();
}

/// A value that is moved out is released by itself; one that is not goes with the completion.
fn a_value_moved_out_of_a_completion_is_released_by_itself(f: &Fixture) {
    let queue = Queue::open();
    let to = f.cache.to(&queue);
    let large = pattern(200_000, 1);
    assert_eq!(f.cache.mset(&[("small", &pattern(10, 2)), ("large", &large)], NO_EXPIRY), OK);
    for key in ["small", "large"] {
        assert_eq!(to.get(1, key), OK);
        drop(queue.next());
        assert_eq!(to.get(2, key), OK);
        let mut completion = queue.next();
        let value = completion.take_value().unwrap();
        drop(completion);
        assert!(!value.bytes().is_empty());
    }
    assert_eq!(to.mget(3, &["small", "large", "none"]), OK);
    drop(queue.next());
    assert_eq!(to.mget(4, &["small", "large", "none"]), OK);
    let mut completion = queue.next();
    let values = completion.take_values();
    drop(completion);
    assert!(values.get(1) == Some(&large[..]));
    // A value may also be released where it is.
    assert_eq!(to.get(5, "large"), OK);
    let mut completion = queue.next();
    // SAFETY: the library filled it. NULL is fine.
    unsafe {
        cachetory::ffi::cache::cachetory_value_free(&mut completion.raw().value);
        cachetory_completion_free(ptr::null_mut());
    }
}

fn completions_outlive_cache_and_queue(f: &Fixture) {
    let cache = f.open_again();
    let queue = Queue::open();
    assert_eq!(cache.set("key", "value"), OK);
    assert_eq!(cache.to(&queue).get(1, "key"), OK);
    assert_eq!(cache.to(&queue).mget(2, &["key"]), OK);
    let mut taken = queue.take(2);
    assert_eq!((cache.close(), queue.close()), (CACHETORY_OK, CACHETORY_OK));
    assert_eq!(taken.get_mut(&1).unwrap().take_value().unwrap().bytes(), b"value");
    assert_eq!(taken.get_mut(&2).unwrap().take_values().get(0), Some(&b"value"[..]));
}

fn synchronous_and_asynchronous_calls_on_one_cache_see_each_other(f: &Fixture) {
    let queue = Queue::open();
    thread::scope(|scope| {
        for number in 0..4 {
            let cache = &f.cache;
            scope.spawn(move || {
                for round in 0..200 {
                    let (key, value) = (format!("sync:{number}"), format!("{round}"));
                    assert_eq!(cache.set(&key, &value), OK);
                    assert_eq!(cache.get(&key), Ok(Some(value.into_bytes())));
                }
            });
        }
        let to = f.cache.to(&queue);
        for round in 0..200_u64 {
            let value = round.to_string();
            assert_eq!(to.set(round, "async", &value, NO_EXPIRY, 0), OK);
            assert_eq!(queue.next().outcome(), OK);
            assert_eq!(f.cache.get("async"), Ok(Some(value.into_bytes())));
        }
    });
}

fn several_caches_report_to_one_queue(f: &Fixture) {
    let queue = Queue::open();
    let caches: Vec<Cache> = (0..5).map(|_| f.open_again()).collect();
    for (number, cache) in caches.iter().enumerate() {
        let to = cache.to(&queue);
        let value = number.to_string();
        assert_eq!(to.set(number as u64, format!("key:{number}"), value, NO_EXPIRY, 0), OK);
    }
    assert!(queue.take(caches.len()).values().all(|each| each.outcome() == OK));
    for (number, cache) in caches.iter().enumerate() {
        assert_eq!(cache.to(&queue).get(number as u64, format!("key:{number}")), OK);
    }
    for (tag, mut completion) in queue.take(caches.len()) {
        assert_eq!(completion.take_value().unwrap().bytes(), tag.to_string().as_bytes());
    }
}

fn many_threads_submit_and_many_take_each_completion_once(f: &Fixture) {
    const THREADS: u64 = 4;
    const EACH: u64 = 1000;
    let queue = Queue::open();
    let seen = Mutex::new(HashSet::new());
    let left = AtomicUsize::new((THREADS * EACH) as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let to = f.cache.to(&queue);
            scope.spawn(move || {
                for number in 0..EACH {
                    assert_eq!(to.get(thread * EACH + number, "none"), OK);
                }
            });
        }
        for capacity in [1, 3, 100] {
            let (queue, seen, left) = (&queue, &seen, &left);
            scope.spawn(move || {
                while left.load(Ordering::Relaxed) > 0 {
                    let some = queue.wait(capacity, 20).unwrap();
                    left.fetch_sub(some.len(), Ordering::Relaxed);
                    let mut seen = seen.lock().unwrap();
                    for completion in some {
                        assert_eq!(completion.outcome(), NOT_FOUND);
                        assert!(seen.insert(completion.tag()), "a tag is reported once");
                    }
                }
            });
        }
    });
    assert_eq!(seen.into_inner().unwrap(), (0..THREADS * EACH).collect());
    queue.assert_empty();
}

fn closing_a_cache_leaves_its_queue_to_others(f: &Fixture) {
    let queue = Queue::open();
    let cache = f.open_again();
    assert_eq!(cache.to(&queue).ping(1), OK);
    assert_eq!(queue.next().outcome(), OK);
    assert_eq!(cache.close(), CACHETORY_OK);
    let refused = cache.to(&queue).ping(2).unwrap_err();
    assert_eq!((refused.status, refused.flags), (CACHETORY_ERR_CLOSED, 0));
    assert_eq!(f.cache.to(&queue).ping(3), OK);
    assert_eq!(queue.next().tag(), 3);
    queue.assert_empty();
}

/// One submission of each operation, with this key wherever one goes in.
fn with_key(
    cache: cachetory_t,
    queue: cachetory_queue_t,
    key: cachetory_bytes_t,
) -> Vec<(&'static str, Outcome)> {
    let good = borrow(b"good");
    let keys = [good, key];
    let items =
        [cachetory_item_t { key: good, value: good }, cachetory_item_t { key, value: good }];
    let values =
        [cachetory_item_t { key: good, value: good }, cachetory_item_t { key: good, value: key }];
    let (data, len) = (key.data.cast(), key.len);
    let none = NO_EXPIRY;
    // SAFETY: what is passed is what these tests are about: the library must not touch what it refuses.
    unsafe {
        vec![
            ("get", outcome(|e| cachetory_get_async(cache, queue, 1, data, len, e))),
            (
                "set",
                outcome(|e| {
                    cachetory_set_async(cache, queue, 1, data, len, ptr::null(), 0, none, 0, e)
                }),
            ),
            (
                "set: value",
                outcome(|e| {
                    let key = c"key".as_ptr().cast();
                    cachetory_set_async(cache, queue, 1, key, 3, data, len, none, 0, e)
                }),
            ),
            ("expire_in", outcome(|e| cachetory_expire_in_async(cache, queue, 1, data, len, 9, e))),
            (
                "expire_at",
                outcome(|e| cachetory_expire_at_async(cache, queue, 1, data, len, none, e)),
            ),
            ("delete", outcome(|e| cachetory_delete_async(cache, queue, 1, data, len, e))),
            ("mget", outcome(|e| cachetory_mget_async(cache, queue, 1, keys.as_ptr(), 2, e))),
            ("mdelete", outcome(|e| cachetory_mdelete_async(cache, queue, 1, keys.as_ptr(), 2, e))),
            (
                "mset",
                outcome(|e| cachetory_mset_async(cache, queue, 1, items.as_ptr(), 2, none, 0, e)),
            ),
            (
                "mset: value",
                outcome(|e| cachetory_mset_async(cache, queue, 1, values.as_ptr(), 2, none, 0, e)),
            ),
        ]
    }
}

#[track_caller]
fn assert_refused(outcomes: Vec<(&'static str, Outcome)>, status: i32) {
    for (name, outcome) in outcomes {
        let Err(failure) = outcome else { panic!("{name}: {outcome:?}") };
        assert_eq!((failure.status, failure.flags), (status, 0), "{name}: {failure:?}");
    }
}

/// As the synchronous calls refuse them; and nothing ever comes.
fn bad_arguments_are_refused(f: &Fixture) {
    let queue = Queue::open();
    let (cache, to) = (f.cache.raw(), f.cache.to(&queue));
    let null_and_one = cachetory_bytes_t { data: ptr::null(), len: 1 };
    assert_refused(with_key(cache, queue.raw(), null_and_one), CACHETORY_ERR_INVALID_ARGUMENT);
    // Never touched, for it is too long for any server.
    let too_long = cachetory_bytes_t { data: c"".as_ptr(), len: (512 << 20) + 1 };
    assert_refused(with_key(cache, queue.raw(), too_long), CACHETORY_ERR_INVALID_ARGUMENT);
    let key = c"key".as_ptr().cast();
    let items = [cachetory_item_t { key: borrow(b"k"), value: borrow(b"v") }];
    let mut outcomes = vec![
        ("set: flags", to.set(1, "k", "v", NO_EXPIRY, 2)),
        // SAFETY: the items are borrowed for the call, the error is ours.
        (
            "mset: flags",
            outcome(|e| unsafe {
                cachetory_mset_async(cache, queue.raw(), 1, items.as_ptr(), 1, NO_EXPIRY, 1, e)
            }),
        ),
        ("expire_in: far", to.expire_in(1, "k", i64::MAX - 1)),
    ];
    for ttl in [0, -1, i64::MIN, i64::MAX - 1] {
        outcomes.push(("set: ttl", to.set(1, "k", "v", ttl, 0)));
        outcomes.push(("mset: ttl", to.mset(1, &[("k", "v")], ttl)));
    }
    // SAFETY: NULL is what this is about.
    unsafe {
        let (none, queue) = (ptr::null_mut(), queue.raw());
        let failed = cachetory_mget_async(cache, queue, 1, ptr::null(), 1, none);
        assert_eq!(failed, CACHETORY_ERR_INVALID_ARGUMENT);
        let failed = cachetory_mset_async(cache, queue, 1, ptr::null(), 1, NO_EXPIRY, 0, none);
        assert_eq!(failed, CACHETORY_ERR_INVALID_ARGUMENT);
        // The error may be NULL where the call succeeds, too.
        assert_eq!(cachetory_get_async(cache, queue, 7, key, STRLEN, none), CACHETORY_OK);
    }
    assert_refused(outcomes, CACHETORY_ERR_INVALID_ARGUMENT);
    assert_eq!(queue.next().tag(), 7);
    queue.assert_empty();
}

fn all_closed(cache: cachetory_t, queue: cachetory_queue_t) {
    let borrowed = std::mem::ManuallyDrop::new(Cache::from_raw(cache));
    let to = borrowed.to(&std::mem::ManuallyDrop::new(Queue::from_raw(queue)));
    let mut outcomes = with_key(cache, queue, borrow(b"key"));
    outcomes.extend([
        ("ping", to.ping(1)),
        ("clear", to.clear(1)),
        ("mget of nothing", to.mget::<&str>(1, &[])),
        ("mset of nothing", to.mset::<&str, &str>(1, &[], NO_EXPIRY)),
        ("mdelete of nothing", to.mdelete::<&str>(1, &[])),
    ]);
    assert_refused(outcomes, CACHETORY_ERR_CLOSED);
}

fn closed_handles_are_refused(f: &Fixture) {
    let (cache, queue) = (f.open_again(), Queue::open());
    let (closed_cache, closed_queue) = (f.open_again(), Queue::open());
    assert_eq!((closed_cache.close(), closed_queue.close()), (CACHETORY_OK, CACHETORY_OK));
    all_closed(closed_cache.raw(), queue.raw());
    all_closed(cache.raw(), closed_queue.raw());
    all_closed(cachetory_t { id: 0 }, queue.raw());
    all_closed(cache.raw(), cachetory_queue_t { id: 0 });
    for id in [1, u64::from(u32::MAX), u64::MAX, queue.raw().id ^ 1 << 40] {
        all_closed(cache.raw(), cachetory_queue_t { id });
    }
    queue.assert_empty();
}

fn one_kind_of_handle_is_not_the_other(f: &Fixture) {
    let queue = Queue::open();
    let cache_as_queue = Queue::from_raw(cachetory_queue_t { id: f.cache.raw().id });
    let queue_as_cache = Cache::from_raw(cachetory_t { id: queue.raw().id });
    all_closed(queue_as_cache.raw(), queue.raw());
    all_closed(f.cache.raw(), cache_as_queue.raw());
    assert_eq!(queue_as_cache.ping().unwrap_err().status, CACHETORY_ERR_CLOSED);
    assert_eq!(queue_as_cache.close(), CACHETORY_ERR_CLOSED);
    assert_eq!(cache_as_queue.close(), CACHETORY_ERR_CLOSED);
    assert_eq!(cache_as_queue.fd(), -1);
    assert_eq!(f.cache.ping(), OK);
    queue.assert_empty();
}
