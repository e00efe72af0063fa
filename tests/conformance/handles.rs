//! Handles that are closed, stale, empty or made up: an error on every function, and never more than that.

use cachetory::ffi::types::cachetory_t;

use crate::arguments::with_key;
use crate::fixture::{Case, Fixture, case};
use crate::support::capi::*;

pub fn cases() -> Vec<Case> {
    let mut cases = closed();
    cases.extend([
        case(closing_one_handle_leaves_the_others),
        case(a_cache_closed_under_its_callers_says_so),
    ]);
    cases
}

/// Those that hold where nothing is stored, too.
pub fn closed() -> Vec<Case> {
    vec![
        case(every_call_on_a_closed_handle_says_closed),
        case(every_call_on_the_zero_handle_says_closed),
        case(every_call_on_a_made_up_handle_says_closed),
        case(a_thousand_handles_all_differ),
    ]
}

#[track_caller]
fn all_closed(handle: cachetory_t) {
    let cache = std::mem::ManuallyDrop::new(Cache::from_raw(handle));
    let mut outcomes = with_key(handle, borrow(b"key"));
    outcomes.push(("ping", cache.ping()));
    outcomes.push(("clear", cache.clear()));
    // Nothing to do is no reason to say OK.
    outcomes.push(("mget of nothing", cache.mget::<&str>(&[]).map(|_| CACHETORY_OK)));
    outcomes.push(("mset of nothing", cache.mset::<&str, &str>(&[], NO_EXPIRY)));
    outcomes.push(("mdelete of nothing", cache.mdelete::<&str>(&[]).map(|_| CACHETORY_OK)));
    for (name, outcome) in outcomes {
        let Err(failure) = outcome else { panic!("{name} with {handle:?}: {outcome:?}") };
        assert_eq!(failure.status, CACHETORY_ERR_CLOSED, "{name} with {handle:?}: {failure:?}");
        assert_eq!(failure.flags, 0, "{name}");
    }
}

fn every_call_on_a_closed_handle_says_closed(f: &Fixture) {
    let handle = f.cache.raw();
    assert_eq!(f.cache.set("key", "value"), Ok(CACHETORY_OK));
    assert_eq!(f.cache.close(), CACHETORY_OK);
    all_closed(handle);
    assert_eq!(f.cache.close(), CACHETORY_ERR_CLOSED);
    // Not even when another cache takes its place.
    let others: Vec<Cache> = (0..20).map(|_| f.open_again()).collect();
    all_closed(handle);
    assert_eq!(f.cache.close(), CACHETORY_ERR_CLOSED);
    assert!(others.iter().all(|other| other.ping() == Ok(CACHETORY_OK)));
}

fn every_call_on_the_zero_handle_says_closed(_: &Fixture) {
    let none = cachetory_t { id: 0 };
    all_closed(none);
    assert_eq!(Cache::from_raw(none).close(), CACHETORY_OK);
}

fn every_call_on_a_made_up_handle_says_closed(f: &Fixture) {
    let own = f.cache.raw().id;
    let made_up = [1, 2, 77, 0xdead_beef, u64::from(u32::MAX), u64::MAX, 1 << 63, own ^ 1 << 40];
    for id in made_up {
        let handle = cachetory_t { id };
        all_closed(handle);
        assert_eq!(Cache::from_raw(handle).close(), CACHETORY_ERR_CLOSED);
    }
    assert_eq!(f.cache.ping(), Ok(CACHETORY_OK));
}

fn a_thousand_handles_all_differ(f: &Fixture) {
    let many: Vec<Cache> = (0..1000).map(|_| f.open_again()).collect();
    let mut ids: Vec<u64> = many.iter().map(|cache| cache.raw().id).collect();
    ids.push(f.cache.raw().id);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1001);
    assert!(ids[0] > u64::from(u32::MAX));
}

fn closing_one_handle_leaves_the_others(f: &Fixture) {
    let other = f.open_again();
    assert_eq!(f.cache.set("key", "value"), Ok(CACHETORY_OK));
    assert_eq!(other.set("key", "value"), Ok(CACHETORY_OK));
    assert_eq!(f.cache.close(), CACHETORY_OK);
    assert_eq!(other.get("key"), Ok(Some(b"value".to_vec())));
}

fn a_cache_closed_under_its_callers_says_so(f: &Fixture) {
    for _ in 0..20 {
        let cache = f.open_again();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    let key = format!("key:{thread}");
                    let failure = loop {
                        if let Err(failure) = cache.set(&key, "value") {
                            break failure;
                        }
                        match cache.get(&key) {
                            Ok(answer) => assert_eq!(answer, Some(b"value".to_vec())),
                            Err(failure) => break failure,
                        }
                    };
                    // An asynchronous call that was accepted is cancelled.
                    let statuses = [CACHETORY_ERR_CLOSED, cache.face().closed_under_way()];
                    assert!(statuses.contains(&failure.status), "{failure:?}");
                    assert!(!failure.is_retryable(), "{failure:?}");
                });
            }
            assert_eq!(cache.ping(), Ok(CACHETORY_OK));
            assert_eq!(cache.close(), CACHETORY_OK);
        });
    }
}
