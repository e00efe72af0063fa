//! Values, keys and batches of every size at which a buffer might end.

use crate::fixture::{Case, Fixture, case, pattern};
use crate::support::capi::*;

pub fn cases() -> Vec<Case> {
    vec![
        case(values_of_every_size_come_back_whole),
        case(values_that_end_around_the_end_of_a_buffer_come_back_whole),
        case(long_keys_are_told_apart),
        case(large_values_in_a_batch_come_back_whole),
        case(batches_that_end_anywhere_in_a_buffer_come_back_whole),
        case(ten_thousand_keys_in_one_batch_are_set_found_and_deleted),
        case(ten_thousand_keys_with_a_ttl_in_one_batch_are_set_found_and_deleted),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);

#[track_caller]
fn there_and_back(f: &Fixture, len: usize) {
    let value = pattern(len, len);
    assert_eq!(f.cache.set("sized", &value), OK, "{len} bytes");
    assert!(f.cache.get("sized").unwrap() == Some(value), "{len} bytes came back otherwise");
}

fn values_of_every_size_come_back_whole(f: &Fixture) {
    for len in (0..80).chain([127, 128, 255, 256, 1000, 4096, 1 << 20, 2_000_003, 5_000_000]) {
        there_and_back(f, len);
    }
    there_and_back(f, 1);
}

fn values_that_end_around_the_end_of_a_buffer_come_back_whole(f: &Fixture) {
    for buffer in [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10] {
        // A reply is framed by up to 11 bytes before and 2 after the value.
        for len in buffer - 20..=buffer + 3 {
            there_and_back(f, len);
        }
    }
}

fn long_keys_are_told_apart(f: &Fixture) {
    for len in [100, 1000, 16 << 10, 64 << 10, (128 << 10) + 1, 1 << 20] {
        let key = pattern(len, 3);
        assert_eq!(f.cache.set(&key, len.to_string()), OK);
        assert_eq!(f.cache.get(&key), Ok(Some(len.to_string().into_bytes())));
        assert_eq!(f.cache.get(&key[1..]), Ok(None));
        assert_eq!(f.cache.mdelete(&[&key[..], b"none"]), Ok(1));
    }
}

fn large_values_in_a_batch_come_back_whole(f: &Fixture) {
    let sizes = [1 << 20, 0, 5_000_000, 1, 70_000, 16_384, 131_072, 3];
    let items: Vec<_> = (0..sizes.len()).map(|i| (format!("k{i}"), pattern(sizes[i], i))).collect();
    let keys: Vec<&String> = items.iter().map(|(key, _)| key).collect();
    for ttl in [NO_EXPIRY, 60_000] {
        assert_eq!(f.cache.mset(&items, ttl), OK);
        let answers = f.cache.mget(&keys).unwrap();
        for ((key, value), answer) in items.iter().zip(answers) {
            assert!(answer.as_ref() == Some(value), "{key} came back otherwise");
        }
        assert_eq!(f.cache.mdelete(&keys), Ok(items.len() as u64));
    }
}

/// Batches whose replies end at, before and after the end of a buffer, also in the middle of a header.
fn batches_that_end_anywhere_in_a_buffer_come_back_whole(f: &Fixture) {
    for buffer in [16 << 10, 64 << 10, 128 << 10] {
        for short in 0..24 {
            let first = pattern(buffer - 30 + short, 1);
            let items = [("first", &first[..]), ("second", b"2"), ("third", b""), ("last", b"end")];
            assert_eq!(f.cache.mset(&items, NO_EXPIRY), OK);
            let keys = ["first", "none", "second", "third", "last"];
            let answers = f.cache.mget(&keys).unwrap();
            let some = |bytes: &[u8]| Some(bytes.to_vec());
            let expected = [some(&first), None, some(b"2"), some(b""), some(b"end")];
            assert!(answers == expected, "{} bytes before the rest", first.len());
        }
    }
}

fn ten_thousand_keys_in_one_batch_are_set_found_and_deleted(f: &Fixture) {
    many(f, NO_EXPIRY);
}

fn ten_thousand_keys_with_a_ttl_in_one_batch_are_set_found_and_deleted(f: &Fixture) {
    many(f, 600_000);
}

fn many(f: &Fixture, ttl: i64) {
    let items: Vec<_> = (0..10_000).map(|i| (format!("key:{i}"), pattern(i % 200, i))).collect();
    assert_eq!(f.cache.mset(&items, ttl), OK);
    let mut keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
    keys.extend((0..100).map(|i| format!("none:{i}")));
    let answers = f.cache.mget(&keys).unwrap();
    let (hits, misses) = answers.split_at(items.len());
    for ((key, value), answer) in items.iter().zip(hits) {
        assert_eq!(answer.as_ref(), Some(value), "{key}");
    }
    assert!(misses.iter().all(Option::is_none));
    assert_eq!(f.cache.mdelete(&keys), Ok(10_000));
    assert_eq!(f.cache.mdelete(&keys), Ok(0));
    assert!(f.cache.mget(&keys).unwrap().iter().all(Option::is_none));
}
