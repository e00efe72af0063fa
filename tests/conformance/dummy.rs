//! `dummy://` says OK to what is set and misses what is asked for; bad arguments it refuses like the others.

use crate::fixture::Target;
use crate::support::capi::*;
use crate::{arguments, async_calls, async_queues, fixture, handles};

const OK: Outcome = Ok(CACHETORY_OK);
const NOT_FOUND: Outcome = Ok(CACHETORY_NOT_FOUND);

#[test]
fn dummy_says_ok_and_stores_nothing() {
    FACES.into_iter().for_each(|face| stores_nothing(Cache::must_open("dummy://").with(face)));
}

fn stores_nothing(cache: Cache) {
    assert_eq!(cache.ping(), OK);
    assert_eq!(cache.set("key", "value"), OK);
    assert_eq!(cache.set_with("key", "value", 1000, IF_NOT_EXISTS), OK);
    assert_eq!(cache.set_with("key", "value", 1000, IF_NOT_EXISTS), OK);
    assert_eq!(cache.mset(&[("key", "value"), ("other", "")], 1000), OK);
    assert_eq!(cache.get("key"), Ok(None));
    assert_eq!(cache.mget(&["key", "other", "key"]), Ok(vec![None; 3]));
    assert_eq!(cache.mget::<&str>(&[]), Ok(Vec::new()));
    assert_eq!(cache.expire_in("key", 1000), NOT_FOUND);
    assert_eq!(cache.expire_in("key", NO_EXPIRY), NOT_FOUND);
    assert_eq!(cache.expire_at("key", 0), NOT_FOUND);
    assert_eq!(cache.delete("key"), NOT_FOUND);
    assert_eq!(cache.mdelete(&["key", "other"]), Ok(0));
    assert_eq!(cache.clear(), OK);
    assert_eq!(cache.close(), CACHETORY_OK);
}

#[test]
fn dummy_refuses_bad_arguments() {
    let target = Target::memory("dummy://?prefix=app:").prefix(b"app:");
    fixture::run_cases(&target, arguments::refusals());
    fixture::run_cases(&target, async_calls::refusals());
    for ttl in [0, -1, i64::MIN, i64::MAX - 1] {
        let cache = Cache::must_open("dummy://");
        let refused = |outcome: Outcome| outcome.unwrap_err().status;
        assert_eq!(refused(cache.set_with("k", "v", ttl, 0)), CACHETORY_ERR_INVALID_ARGUMENT);
        assert_eq!(refused(cache.mset(&[("k", "v")], ttl)), CACHETORY_ERR_INVALID_ARGUMENT);
    }
    let cache = Cache::must_open("dummy://");
    let overflow = cache.expire_in("k", i64::MAX - 1).unwrap_err();
    assert_eq!(overflow.status, CACHETORY_ERR_INVALID_ARGUMENT);
}

#[test]
fn dummy_completes_submitted_calls() {
    fixture::run_cases(&Target::memory("dummy://"), async_queues::cases());
}

#[test]
fn dummy_refuses_closed_and_made_up_handles() {
    fixture::run_cases(&Target::memory("dummy://"), handles::closed());
}
