//! Times to live: set, changed, cleared, over.

use std::time::{Duration, Instant};

use crate::fixture::{Case, Fixture, case, unix_ms_now};
use crate::support::capi::*;
use crate::support::poll;

pub fn cases() -> Vec<Case> {
    vec![
        case(a_value_expires),
        case(every_key_of_an_mset_expires),
        case(a_key_set_if_not_exists_expires),
        case(set_clears_an_expiry),
        case(mset_clears_an_expiry),
        case(a_refused_set_if_not_exists_leaves_the_expiry),
        case(expire_in_shortens_a_ttl),
        case(expire_in_lengthens_a_ttl),
        case(expire_at_expires_a_key_at_that_time),
        case(expiring_never_clears_a_ttl),
        case(expire_in_zero_or_less_deletes_at_once),
        case(expire_at_a_past_time_deletes_at_once),
        case(expiring_a_key_that_is_not_there_finds_nothing),
        case(an_expired_key_is_there_for_no_call),
        case(the_longest_ttls_are_accepted),
        case(ttls_out_of_range_are_refused_and_change_nothing),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);
const NOT_FOUND: Outcome = Ok(CACHETORY_NOT_FOUND);
/// What has to come before it is tried until it does: see [`before_it_expires`].
const SOON: i64 = 300;
const LATE: i64 = 600_000;

#[track_caller]
fn until_gone(f: &Fixture, key: &str) {
    poll(key, || f.cache.get(key).unwrap().is_none().then_some(()));
}

/// Waits until what was to expire by now has.
fn outwait(f: &Fixture) {
    assert_eq!(f.cache.set_with("sentinel", "", SOON + 20, 0), OK);
    until_gone(f, "sentinel");
}

/// Does something before a key has expired that was set to do so `SOON`, and is set again by `again`. On a busy machine
/// that is too late now and then, and then it is retried. It must not fail before that time.
#[track_caller]
fn before_it_expires(again: impl Fn(), is_done: impl Fn() -> bool) {
    poll("it is done before the key expires", || {
        let start = Instant::now();
        again();
        if is_done() {
            return Some(());
        }
        // Servers count in whole milliseconds, from a clock that they read before the command.
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(SOON as u64 - 10), "too late after {taken:?}");
        None
    });
}

fn is_there(f: &Fixture, key: &str) -> bool {
    f.cache.get(key).unwrap().is_some()
}

fn a_value_expires(f: &Fixture) {
    let start = Instant::now();
    assert_eq!(f.cache.set_with("key", "value", 200, 0), OK);
    assert_eq!(f.cache.set("stays", "value"), OK);
    until_gone(f, "key");
    // Servers count in whole milliseconds, from a clock that they read before the command.
    assert!(start.elapsed() >= Duration::from_millis(190), "gone after {:?}", start.elapsed());
    assert!(is_there(f, "stays"));
    assert_eq!(f.cache.delete("key"), NOT_FOUND);
}

fn every_key_of_an_mset_expires(f: &Fixture) {
    let start = Instant::now();
    assert_eq!(f.cache.mset(&[("a", "1"), ("b", "2")], 200), OK);
    until_gone(f, "a");
    until_gone(f, "b");
    assert!(start.elapsed() >= Duration::from_millis(190), "gone after {:?}", start.elapsed());
    assert_eq!(f.cache.mget(&["a", "b"]), Ok(vec![None, None]));
    assert_eq!(f.cache.mdelete(&["a", "b"]), Ok(0));
}

fn a_key_set_if_not_exists_expires(f: &Fixture) {
    assert_eq!(f.cache.set_with("claim", "1", SOON, IF_NOT_EXISTS), OK);
    let again = || f.cache.set_with("claim", "2", NO_EXPIRY, IF_NOT_EXISTS).unwrap();
    poll("the claim is free again", || (again() == CACHETORY_OK).then_some(()));
    assert_eq!(f.cache.get("claim"), Ok(Some(b"2".to_vec())));
    outwait(f);
    assert!(is_there(f, "claim"));
}

fn set_clears_an_expiry(f: &Fixture) {
    assert_eq!(f.cache.set_with("key", "old", SOON, 0), OK);
    assert_eq!(f.cache.set("key", "new"), OK);
    outwait(f);
    assert_eq!(f.cache.get("key"), Ok(Some(b"new".to_vec())));
}

fn mset_clears_an_expiry(f: &Fixture) {
    assert_eq!(f.cache.mset(&[("a", "old"), ("b", "old")], SOON), OK);
    assert_eq!(f.cache.mset(&[("a", "new")], NO_EXPIRY), OK);
    assert_eq!(f.cache.mset(&[("b", "new")], LATE), OK);
    outwait(f);
    assert_eq!(f.cache.mget(&["a", "b"]), Ok(vec![Some(b"new".to_vec()); 2]));
}

fn a_refused_set_if_not_exists_leaves_the_expiry(f: &Fixture) {
    let refused = Ok(CACHETORY_NOT_STORED);
    assert_eq!(f.cache.set("for ever", "1"), OK);
    assert_eq!(f.cache.set_with("for ever", "2", SOON, IF_NOT_EXISTS), refused);
    before_it_expires(
        || assert_eq!(f.cache.set_with("soon", "1", SOON, 0), OK),
        || f.cache.set_with("soon", "2", NO_EXPIRY, IF_NOT_EXISTS) == refused,
    );
    outwait(f);
    assert!(is_there(f, "for ever"));
    assert!(!is_there(f, "soon"));
}

fn expire_in_shortens_a_ttl(f: &Fixture) {
    assert_eq!(f.cache.set("a", "1"), OK);
    assert_eq!(f.cache.set_with("b", "2", LATE, 0), OK);
    assert_eq!(f.cache.expire_in("a", SOON), OK);
    assert_eq!(f.cache.expire_in("b", SOON), OK);
    assert_eq!(f.cache.set("stays", ""), OK);
    until_gone(f, "a");
    until_gone(f, "b");
    assert!(is_there(f, "stays"));
}

fn expire_in_lengthens_a_ttl(f: &Fixture) {
    before_it_expires(
        || {
            assert_eq!(f.cache.set_with("key", "value", LATE, 0), OK);
            assert_eq!(f.cache.expire_in("key", SOON), OK);
        },
        || f.cache.expire_in("key", LATE) == OK,
    );
    outwait(f);
    assert_eq!(f.cache.get("key"), Ok(Some(b"value".to_vec())));
}

fn expire_at_expires_a_key_at_that_time(f: &Fixture) {
    assert_eq!(f.cache.set("key", "value"), OK);
    assert_eq!(f.cache.set("late", "value"), OK);
    assert_eq!(f.cache.expire_at("key", unix_ms_now() + SOON), OK);
    assert_eq!(f.cache.expire_at("late", unix_ms_now() + LATE), OK);
    until_gone(f, "key");
    outwait(f);
    assert!(is_there(f, "late"));
}

fn expiring_never_clears_a_ttl(f: &Fixture) {
    let soon = |key: &str| {
        assert_eq!(f.cache.set_with(key, "value", LATE, 0), OK);
        assert_eq!(f.cache.expire_in(key, SOON), OK);
    };
    before_it_expires(|| soon("in"), || f.cache.expire_in("in", NO_EXPIRY) == OK);
    before_it_expires(|| soon("at"), || f.cache.expire_at("at", NO_EXPIRY) == OK);
    outwait(f);
    assert_eq!(f.cache.mget(&["in", "at"]), Ok(vec![Some(b"value".to_vec()); 2]));
    // Now neither has a ttl, and that is no error.
    assert_eq!(f.cache.expire_in("in", NO_EXPIRY), OK);
    assert_eq!(f.cache.expire_at("at", NO_EXPIRY), OK);
    assert_eq!(f.cache.mget(&["in", "at"]), Ok(vec![Some(b"value".to_vec()); 2]));
}

fn expire_in_zero_or_less_deletes_at_once(f: &Fixture) {
    for ttl in [0, -1, -1000, i64::MIN + 1, i64::MIN] {
        for with in [NO_EXPIRY, LATE] {
            assert_eq!(f.cache.set_with("key", "value", with, 0), OK);
            assert_eq!(f.cache.expire_in("key", ttl), OK, "expire_in {ttl}");
            assert_eq!(f.cache.get("key"), Ok(None), "expire_in {ttl}");
            assert_eq!(f.cache.expire_in("key", ttl), NOT_FOUND, "expire_in {ttl}, no key");
        }
    }
}

fn expire_at_a_past_time_deletes_at_once(f: &Fixture) {
    for time in [unix_ms_now() - 1, unix_ms_now() - LATE, 1, 0, -1, i64::MIN + 1, i64::MIN] {
        for with in [NO_EXPIRY, LATE] {
            assert_eq!(f.cache.set_with("key", "value", with, 0), OK);
            assert_eq!(f.cache.expire_at("key", time), OK, "expire_at {time}");
            assert_eq!(f.cache.get("key"), Ok(None), "expire_at {time}");
            assert_eq!(f.cache.expire_at("key", time), NOT_FOUND, "expire_at {time}, no key");
        }
    }
}

fn expiring_a_key_that_is_not_there_finds_nothing(f: &Fixture) {
    for ttl in [NO_EXPIRY, LATE, 1, 0, -1, i64::MIN] {
        assert_eq!(f.cache.expire_in("none", ttl), NOT_FOUND, "expire_in {ttl}");
        assert_eq!(f.cache.expire_at("none", ttl), NOT_FOUND, "expire_at {ttl}");
    }
    assert_eq!(f.cache.expire_at("none", NO_EXPIRY - 1), NOT_FOUND);
    assert_eq!(f.cache.get("none"), Ok(None));
}

fn an_expired_key_is_there_for_no_call(f: &Fixture) {
    let keys = ["a", "b", "c", "d", "e", "f"];
    assert_eq!(f.cache.mset(&keys.map(|key| (key, "value")), SOON), OK);
    outwait(f);
    assert_eq!(f.cache.expire_in("a", LATE), NOT_FOUND);
    assert_eq!(f.cache.expire_at("b", unix_ms_now() + LATE), NOT_FOUND);
    assert_eq!(f.cache.expire_in("c", NO_EXPIRY), NOT_FOUND);
    assert_eq!(f.cache.delete("d"), NOT_FOUND);
    assert_eq!(f.cache.set_with("e", "new", NO_EXPIRY, IF_NOT_EXISTS), OK);
    assert_eq!(f.cache.mdelete(&["e", "f"]), Ok(1));
    assert_eq!(f.cache.mget(&keys), Ok(vec![None; 6]));
}

fn the_longest_ttls_are_accepted(f: &Fixture) {
    let longest = i64::MAX - unix_ms_now() - 60_000;
    for ttl in [i64::from(i32::MAX), 1 << 40, longest] {
        assert_eq!(f.cache.set_with("set", "1", ttl, 0), OK, "{ttl}");
        assert_eq!(f.cache.mset(&[("mset", "2")], ttl), OK, "{ttl}");
        assert_eq!(f.cache.set("in", "3"), OK);
        assert_eq!(f.cache.expire_in("in", ttl), OK, "{ttl}");
        assert_eq!(f.cache.set("at", "4"), OK);
        assert_eq!(f.cache.expire_at("at", unix_ms_now() + ttl), OK, "{ttl}");
        let answers = f.cache.mget(&["set", "mset", "in", "at"]).unwrap();
        assert!(answers.iter().all(Option::is_some), "{ttl}: {answers:?}");
    }
    assert_eq!(f.cache.expire_at("at", NO_EXPIRY - 1), OK);
    assert!(is_there(f, "at"));
}

fn ttls_out_of_range_are_refused_and_change_nothing(f: &Fixture) {
    let bad = |outcome: Outcome, what: &str, ttl: i64| {
        let failure = outcome.expect_err(what);
        assert_eq!(failure.status, CACHETORY_ERR_INVALID_ARGUMENT, "{what} {ttl}: {failure:?}");
        assert_eq!(failure.flags, 0);
    };
    assert_eq!(f.cache.set("there", "old"), OK);
    let overflow = [i64::MAX - 1, i64::MAX - unix_ms_now() + 60_000];
    for ttl in [0, -1, i64::MIN].into_iter().chain(overflow) {
        bad(f.cache.set_with("key", "value", ttl, 0), "set", ttl);
        bad(f.cache.set_with("key", "value", ttl, IF_NOT_EXISTS), "claim", ttl);
        bad(f.cache.mset(&[("key", "value"), ("there", "new")], ttl), "mset", ttl);
    }
    for ttl in overflow {
        bad(f.cache.expire_in("there", ttl), "expire_in", ttl);
        bad(f.cache.expire_in("none", ttl), "expire_in, no key", ttl);
    }
    assert_eq!(f.cache.mget(&["key", "there"]), Ok(vec![None, Some(b"old".to_vec())]));
}
