//! `max_bytes`.

use super::super::ENTRY_OVERHEAD;
use super::*;

/// What an entry with a key of 2 bytes and a value of 8 costs.
const COST: u64 = 10 + ENTRY_OVERHEAD as u64;

fn name(i: usize) -> [u8; 2] {
    (i as u16).to_be_bytes()
}

fn fill(store: &Store, keys: std::ops::Range<usize>) {
    keys.for_each(|i| store.set(&name(i), b"12345678", None));
}

/// Which of `keys` are there, without using them.
fn held(store: &Store, keys: std::ops::Range<usize>) -> Vec<usize> {
    let is_held = |i: &usize| {
        let hash = store.memory.hash(&name(*i));
        store.memory.shards.read(super::super::index(hash)).find(hash, &name(*i)).is_some()
    };
    keys.filter(is_held).collect()
}

#[test]
fn the_least_recently_used_goes_first_over_all_shards() {
    let store = Store::new(100 * COST);
    fill(&store, 0..100);
    assert_eq!(store.bytes() as u64, 100 * COST);
    // Newest first, by each kind of use.
    for i in (0..100).rev() {
        let key = name(i);
        match i % 6 {
            0 => assert!(store.get(&key).is_some()),
            1 => assert!(store.mget(&[&key])[0].is_some()),
            2 => store.set(&key, b"87654321", None),
            3 => store.mset(&[(&key, b"87654321")], None),
            4 => assert!(!store.claim(&key, b"", None)),
            _ => assert!(store.expire_in(&key, Some(1000))),
        }
    }
    for i in 0..100 {
        fill(&store, 100 + i..101 + i);
        assert_eq!(held(&store, 0..100), (0..99 - i).collect::<Vec<_>>());
        store.verify();
    }
    assert_eq!(held(&store, 0..300), (100..200).collect::<Vec<_>>());
}

#[test]
fn a_batch_is_used_in_its_order() {
    let store = Store::new(4 * COST);
    fill(&store, 0..4);
    let keys = [name(2), name(0), name(3), name(1)];
    assert_eq!(store.mget(&keys.each_ref().map(|key| &key[..])).len(), 4);
    for (i, gone) in [2, 0, 3, 1].into_iter().enumerate() {
        assert!(held(&store, 0..4).contains(&gone));
        fill(&store, 10 + i..11 + i);
        assert!(!held(&store, 0..4).contains(&gone));
    }
}

#[test]
fn the_expired_go_before_the_living() {
    let store = Store::new(10 * COST);
    fill(&store, 0..5);
    for i in 5..10 {
        store.set(&name(i), b"12345678", Some(10));
    }
    store.advance(10);
    fill(&store, 10..15);
    assert_eq!(held(&store, 0..15), [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
    fill(&store, 15..16);
    assert_eq!(held(&store, 0..16), [1, 2, 3, 4, 10, 11, 12, 13, 14, 15]);
    store.verify();
}

#[test]
fn a_value_that_grows_makes_others_go() {
    let store = Store::new(3 * COST);
    fill(&store, 0..3);
    store.set(&name(0), &[0; 9], None);
    assert_eq!(held(&store, 0..3), [0, 2]);
    store.set(&name(0), b"12345678", None);
    fill(&store, 3..4);
    assert_eq!(held(&store, 0..4), [0, 2, 3]);
    store.verify();
}

#[test]
fn what_can_never_fit_is_stored_and_evicted_at_once() {
    let store = Store::new(3 * COST);
    let whole = vec![0; 3 * COST as usize - ENTRY_OVERHEAD - 2];
    let too_much = vec![0; whole.len() + 1];
    fill(&store, 0..3);

    store.set(&name(9), &too_much, None);
    assert_eq!(held(&store, 0..10), [0, 1, 2]);
    // Never an older value than the last that was set.
    store.set(&name(1), &too_much, Some(1000));
    assert_eq!(held(&store, 0..10), [0, 2]);
    assert!(!store.claim(&name(0), &too_much, None));
    assert!(store.claim(&name(9), &too_much, None));
    assert!(store.claim(&name(9), &too_much, None));
    assert_eq!(held(&store, 0..10), [0, 2]);
    store.mset(&[(&name(5), b"12345678"), (&name(2), &too_much), (&name(5), &too_much)], None);
    assert_eq!(held(&store, 0..10), [0]);
    store.mset(&[(&name(2), &too_much), (&name(2), b"12345678")], None);
    assert_eq!(held(&store, 0..10), [0, 2]);
    store.verify();

    store.set(&name(7), &whole, None);
    assert_eq!(held(&store, 0..10), [7]);
    store.verify();
    store.delete(&name(7));
    assert_eq!(store.bytes(), 0);
}

#[test]
fn a_batch_larger_than_the_bound_keeps_its_last() {
    let store = Store::new(5 * COST);
    fill(&store, 100..103);
    let keys: Vec<[u8; 2]> = (0..20).map(name).collect();
    let items: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (&key[..], &b"12345678"[..])).collect();
    store.mset(&items, Some(1000));
    assert_eq!(held(&store, 0..103), [15, 16, 17, 18, 19]);
    store.verify();
}

#[test]
fn a_bound_too_small_for_anything_still_answers() {
    let store = Store::new(1);
    store.set(b"k", b"v", None);
    store.mset(&[(b"k", b"v")], Some(5));
    assert_eq!((store.get(b"k"), store.bytes()), (None, 0));
    store.verify();
}

#[test]
fn the_order_does_not_grow_with_keys_that_come_and_go() {
    let store = Store::new(1 << 30);
    for i in 0..5000u32 {
        store.set(&i.to_le_bytes(), b"v", (i % 3 == 0).then_some(1));
        store.set(&i.to_le_bytes(), b"w", None);
        store.delete(&i.to_le_bytes());
        store.set(b"short", b"v", Some(1));
        store.advance(1);
        assert!(lock(&store.memory.recency).tickets().len() <= 70);
    }
    store.verify();
}
