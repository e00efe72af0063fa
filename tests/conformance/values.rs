//! get, mget, set, mset: what goes in comes out.

use crate::fixture::{Case, Fixture, case};
use crate::support::capi::*;

pub fn cases() -> Vec<Case> {
    vec![
        case(a_ping_is_answered),
        case(a_miss_is_an_answer),
        case(a_value_that_was_set_is_found_under_its_key_alone),
        case(an_empty_value_is_a_hit),
        case(an_empty_key_is_a_key),
        case(keys_and_values_are_binary),
        case(text_of_the_protocol_is_only_text),
        case(numbers_stay_as_they_were_written),
        case(a_set_replaces_the_value),
        case(mget_answers_in_order),
        case(mget_answers_duplicates_each),
        case(mget_of_no_keys_answers_nothing),
        case(mset_sets_every_item),
        case(mset_of_no_items_succeeds),
        case(of_a_key_twice_the_last_wins),
        case(set_if_not_exists_stores_only_the_first),
        case(set_if_not_exists_stores_again_after_an_expiry),
        case(values_outlive_their_cache),
        case(freeing_twice_is_harmless),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);

fn a_ping_is_answered(f: &Fixture) {
    assert_eq!(f.cache.ping(), OK);
}

fn a_miss_is_an_answer(f: &Fixture) {
    assert_eq!(f.cache.get("nothing"), Ok(None));
    assert_eq!(f.cache.mget(&["nothing"]), Ok(vec![None]));
}

fn a_value_that_was_set_is_found_under_its_key_alone(f: &Fixture) {
    assert_eq!(f.cache.set("key", "value"), OK);
    assert_eq!(f.cache.get("key"), Ok(Some(b"value".to_vec())));
    assert_eq!(f.cache.get("key"), Ok(Some(b"value".to_vec())));
    assert_eq!(f.cache.get("Key"), Ok(None));
    assert_eq!(f.cache.get("key "), Ok(None));
}

fn an_empty_value_is_a_hit(f: &Fixture) {
    assert_eq!(f.cache.set("empty", ""), OK);
    assert_eq!(f.cache.get("empty"), Ok(Some(Vec::new())));
    assert_eq!(f.cache.mset(&[("empty too", "")], NO_EXPIRY), OK);
    let answers = f.cache.mget(&["empty", "none", "empty too"]);
    assert_eq!(answers, Ok(vec![Some(Vec::new()), None, Some(Vec::new())]));
}

fn an_empty_key_is_a_key(f: &Fixture) {
    assert_eq!(f.cache.get(""), Ok(None));
    assert_eq!(f.cache.set("", "value"), OK);
    assert_eq!(f.cache.get(""), Ok(Some(b"value".to_vec())));
    assert_eq!(f.cache.mget(&["", "x"]), Ok(vec![Some(b"value".to_vec()), None]));
    assert_eq!(f.cache.expire_in("", 60_000), OK);
    assert_eq!(f.cache.expire_at("", NO_EXPIRY), OK);
    assert_eq!(f.cache.delete(""), OK);
    assert_eq!(f.cache.get(""), Ok(None));
    assert_eq!(f.cache.mset(&[("", "")], NO_EXPIRY), OK);
    assert_eq!(f.cache.mdelete(&[""]), Ok(1));
}

fn keys_and_values_are_binary(f: &Fixture) {
    let all: Vec<u8> = (0..=255).collect();
    let reversed: Vec<u8> = all.iter().rev().copied().collect();
    let strange: [&[u8]; 9] =
        [&all, &reversed, b"\0", b"\0\0", b"a\0b", b"a\0c", b"\r\n", b"\r\n\r\n", b"\xff\xfe"];
    for key in strange {
        for value in strange {
            assert_eq!(f.cache.set(key, value), OK);
            assert_eq!(f.cache.get(key), Ok(Some(value.to_vec())), "{key:?}");
        }
    }
    let items: Vec<_> = strange.iter().zip(strange.iter().rev()).collect();
    assert_eq!(f.cache.mset(&items, NO_EXPIRY), OK);
    let expected = strange.iter().rev().map(|value| Some(value.to_vec())).collect();
    assert_eq!(f.cache.mget(&strange), Ok(expected));
    assert_eq!(f.cache.mdelete(&strange), Ok(9));
}

fn text_of_the_protocol_is_only_text(f: &Fixture) {
    for text in ["$-1\r\n", "-ERR no\r\n", "+OK\r\n", "*2\r\n$3\r\nGET\r\n", "_\r\n", ">2\r\n"] {
        assert_eq!(f.cache.set(text, text), OK);
        assert_eq!(f.cache.get(text), Ok(Some(text.as_bytes().to_vec())));
        assert_eq!(f.cache.mset(&[(text, text)], 60_000), OK);
        assert_eq!(f.cache.mget(&[text, text]), Ok(vec![Some(text.as_bytes().to_vec()); 2]));
    }
}

fn numbers_stay_as_they_were_written(f: &Fixture) {
    for text in ["0", "-0", "007", "12345", " 1", "1e3", "9223372036854775808", "1.50"] {
        assert_eq!(f.cache.set("number", text), OK);
        assert_eq!(f.cache.get("number"), Ok(Some(text.as_bytes().to_vec())));
    }
}

fn a_set_replaces_the_value(f: &Fixture) {
    for value in ["a longer value than the next", "short", "", "and longer again"] {
        assert_eq!(f.cache.set("key", value), OK);
        assert_eq!(f.cache.get("key"), Ok(Some(value.as_bytes().to_vec())));
        let other = format!("{value}!");
        assert_eq!(f.cache.mset(&[("key", &other)], NO_EXPIRY), OK);
        assert_eq!(f.cache.get("key"), Ok(Some(other.into_bytes())));
    }
}

fn mget_answers_in_order(f: &Fixture) {
    for key in ["a", "b", "c", "d"] {
        assert_eq!(f.cache.set(key, key.repeat(3)), OK);
    }
    let answers = f.cache.mget(&["d", "x", "a", "y", "z", "c"]).unwrap();
    let some = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(answers, [some("ddd"), None, some("aaa"), None, None, some("ccc")]);
}

fn mget_answers_duplicates_each(f: &Fixture) {
    assert_eq!(f.cache.set("a", "1"), OK);
    let answers = f.cache.mget(&["a", "x", "a", "x", "a"]).unwrap();
    let one = || Some(b"1".to_vec());
    assert_eq!(answers, [one(), None, one(), None, one()]);
}

fn mget_of_no_keys_answers_nothing(f: &Fixture) {
    assert_eq!(f.cache.mget::<&str>(&[]), Ok(Vec::new()));
}

fn mset_sets_every_item(f: &Fixture) {
    assert_eq!(f.cache.set("b", "old"), OK);
    assert_eq!(f.cache.mset(&[("a", "1"), ("b", "2"), ("c", "3")], NO_EXPIRY), OK);
    let some = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(f.cache.mget(&["a", "b", "c"]), Ok(vec![some("1"), some("2"), some("3")]));
    assert_eq!(f.cache.mset(&[("a", "4"), ("c", "5"), ("d", "6")], 60_000), OK);
    let all = f.cache.mget(&["a", "b", "c", "d"]);
    assert_eq!(all, Ok(vec![some("4"), some("2"), some("5"), some("6")]));
}

fn mset_of_no_items_succeeds(f: &Fixture) {
    assert_eq!(f.cache.mset::<&str, &str>(&[], NO_EXPIRY), OK);
    assert_eq!(f.cache.mset::<&str, &str>(&[], 1000), OK);
    let status = f.cache.mset::<&str, &str>(&[], 0).map_err(|failure| failure.status);
    assert_eq!(status, Err(CACHETORY_ERR_INVALID_ARGUMENT), "a bad ttl is one for nothing too");
}

fn of_a_key_twice_the_last_wins(f: &Fixture) {
    for ttl in [NO_EXPIRY, 60_000] {
        let items = [("a", "first"), ("b", "b"), ("a", "second"), ("a", "last")];
        assert_eq!(f.cache.mset(&items, ttl), OK);
        assert_eq!(f.cache.get("a"), Ok(Some(b"last".to_vec())));
        assert_eq!(f.cache.get("b"), Ok(Some(b"b".to_vec())));
    }
}

fn set_if_not_exists_stores_only_the_first(f: &Fixture) {
    let claim = |value: &str| f.cache.set_with("claim", value, NO_EXPIRY, IF_NOT_EXISTS);
    assert_eq!(claim("first"), OK);
    assert_eq!(claim("second"), Ok(CACHETORY_NOT_STORED));
    assert_eq!(f.cache.get("claim"), Ok(Some(b"first".to_vec())));
    assert_eq!(f.cache.delete("claim"), OK);
    assert_eq!(claim("third"), OK);
    assert_eq!(f.cache.get("claim"), Ok(Some(b"third".to_vec())));
    assert_eq!(f.cache.set("empty", ""), OK);
    let refused = f.cache.set_with("empty", "x", NO_EXPIRY, IF_NOT_EXISTS);
    assert_eq!(refused, Ok(CACHETORY_NOT_STORED), "an empty value is there");
}

fn set_if_not_exists_stores_again_after_an_expiry(f: &Fixture) {
    let claim = |value: &str, ttl| f.cache.set_with("claim", value, ttl, IF_NOT_EXISTS);
    assert_eq!(claim("first", 60_000), OK);
    assert_eq!(claim("second", 1), Ok(CACHETORY_NOT_STORED));
    assert_eq!(f.cache.get("claim"), Ok(Some(b"first".to_vec())));
    assert_eq!(f.cache.expire_in("claim", 0), OK);
    assert_eq!(claim("third", 60_000), OK, "what has expired does not exist");
    assert_eq!(f.cache.get("claim"), Ok(Some(b"third".to_vec())));
}

fn values_outlive_their_cache(f: &Fixture) {
    let cache = f.open_again();
    let large = vec![7; 300_000];
    assert_eq!(cache.set("small", "value"), OK);
    assert_eq!(cache.set("large", &large), OK);
    let small = cache.get_value("small").unwrap().unwrap();
    let one = cache.get_value("large").unwrap().unwrap();
    let batch = cache.mget_values(&["small", "none", "large"]).unwrap();
    assert_eq!(cache.set("small", "other"), OK);
    assert_eq!(cache.clear(), OK);
    assert_eq!(cache.close(), CACHETORY_OK);
    drop(cache);
    // Another thread may read and free them.
    let read = move || {
        assert_eq!(small.bytes(), b"value");
        assert_eq!(one.bytes(), large);
        assert_eq!(batch.to_vec(), [Some(b"value".to_vec()), None, Some(large)]);
    };
    std::thread::spawn(read).join().expect("whole values");
}

fn freeing_twice_is_harmless(f: &Fixture) {
    use cachetory::ffi::cache::{cachetory_value_free, cachetory_values_free};
    assert_eq!(f.cache.set("key", "value"), OK);
    let mut value = f.cache.get_value("key").unwrap().unwrap();
    let mut batch = f.cache.mget_values(&["key", "none"]).unwrap();
    // SAFETY: both were filled by the library, and it empties what it frees.
    unsafe {
        for _ in 0..3 {
            cachetory_value_free(value.raw());
            cachetory_values_free(batch.raw());
        }
        cachetory_value_free(std::ptr::null_mut());
        cachetory_values_free(std::ptr::null_mut());
    }
    assert!(value.raw().data.is_null() && value.raw().owner.is_null() && value.raw().len == 0);
    assert!(batch.raw().items.is_null() && batch.raw().owner.is_null() && batch.raw().len == 0);
}
