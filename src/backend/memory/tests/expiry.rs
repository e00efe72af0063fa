//! Times to live.

use super::*;

#[test]
fn an_entry_is_gone_when_its_time_comes() {
    let store = Store::new(0);
    store.set(b"k", b"v", Some(10));
    store.mset(&[(b"m", b"v"), (b"n", b"v")], Some(10));
    store.advance(9);
    assert!(store.get(b"k").is_some());
    assert!(store.mget(&[b"m", b"n"]).iter().all(Option::is_some));
    store.advance(1);
    assert_eq!(store.get(b"k"), None);
    assert!(store.mget(&[b"m", b"n"]).iter().all(Option::is_none));
    store.verify();
}

#[test]
fn an_expired_entry_counts_for_nothing() {
    let each = |check: &dyn Fn(&Store)| {
        let store = Store::new(0);
        store.set(b"k", b"v", Some(10));
        store.advance(10);
        check(&store);
        assert_eq!(store.get(b"k"), None);
        store.verify();
        assert_eq!(store.entries(), 0);
    };
    each(&|store| assert!(!store.delete(b"k")));
    each(&|store| assert_eq!(store.mdelete(&[b"k", b"k"]), 0));
    each(&|store| assert!(!store.expire_in(b"k", Some(1000))));
    each(&|store| assert!(!store.expire_in(b"k", Some(0))));
    each(&|store| assert!(!store.expire_in(b"k", None)));
    each(&|store| assert!(!store.expire_at(b"k", Some(START + 1000))));
    each(&|store| assert!(!store.expire_at(b"k", Some(0))));
    each(&|store| assert!(!store.expire_at(b"k", None)));
    each(&|store| store.clear());
}

#[test]
fn expire_changes_the_time() {
    let store = Store::new(0);
    assert!(!store.expire_in(b"k", Some(10)));
    store.set(b"k", b"v", None);
    assert!(store.expire_in(b"k", None));
    assert!(store.expire_in(b"k", Some(100)));
    assert!(store.expire_at(b"k", Some(START + 50)));
    store.advance(49);
    assert!(store.expire_in(b"k", Some(20)));
    store.advance(19);
    assert!(store.get(b"k").is_some());
    store.verify();
    assert!(store.expire_at(b"k", None));
    store.advance(1_000_000);
    assert!(store.get(b"k").is_some());
    assert!(store.expire_in(b"k", Some(5)));
    store.advance(5);
    assert_eq!(store.get(b"k"), None);
    store.verify();
}

#[test]
fn a_time_that_has_passed_removes_at_once() {
    let store = Store::new(1 << 20);
    for (at, ttl) in [
        (None, Some(0)),
        (None, Some(-1)),
        (None, Some(i64::MIN)),
        (Some(START), None),
        (Some(-5), None),
    ] {
        store.set(b"k", b"v", Some(1000));
        let done =
            if at.is_some() { store.expire_at(b"k", at) } else { store.expire_in(b"k", ttl) };
        assert!(done);
        assert_eq!((store.get(b"k"), store.bytes()), (None, 0));
        store.verify();
    }
}

#[test]
fn a_write_clears_an_earlier_expiry() {
    let store = Store::new(0);
    store.set(b"k", b"v", Some(10));
    store.set(b"k", b"w", None);
    store.set(b"m", b"v", Some(10));
    store.mset(&[(b"m", b"w")], None);
    store.advance(100);
    assert_eq!(store.get(b"k").unwrap(), b"w");
    assert_eq!(store.get(b"m").unwrap(), b"w");
    store.verify();
}

#[test]
fn a_ttl_to_the_end_of_time_is_kept() {
    let store = Store::new(0);
    store.set(b"k", b"v", Some(i64::MAX - START));
    assert!(store.expire_at(b"k", Some(i64::MAX - 1)));
    assert!(store.get(b"k").is_some());
    store.verify();
}

/// Calls that have nothing to do with the expired keys free them all in the end.
#[test]
fn what_nobody_asks_for_again_is_freed() {
    let calls: [&dyn Fn(&Store); 10] = [
        &|store| drop(store.get(b"other")),
        &|store| drop(store.mget(&[b"other", b"absent"])),
        &|store| assert!(!store.delete(b"absent")),
        &|store| assert_eq!(store.mdelete(&[b"absent"]), 0),
        &|store| assert!(!store.claim(b"other", b"v", None)),
        &|store| assert!(!store.expire_in(b"absent", Some(1))),
        &|store| assert!(store.expire_at(b"other", None)),
        &|store| store.set(b"other", b"v", None),
        &|store| store.mset(&[(b"other", b"v")], None),
        &|store| assert!(store.done(Op::Ping)),
    ];
    for call in calls {
        let store = Store::new(0);
        store.set(b"other", b"v", None);
        for i in 0..1000u32 {
            store.set(&i.to_le_bytes(), b"value", Some(10));
        }
        store.advance(10);
        // A read that needs no clock looks only now and then.
        for _ in 0..64 * 1000 / 32 + 64 {
            call(&store);
        }
        assert_eq!(store.entries(), 1);
        store.verify();
    }
}

#[test]
fn a_writer_of_short_lived_keys_does_not_outrun_the_sweep() {
    let store = Store::new(0);
    for round in 0..200u32 {
        let keys: Vec<Vec<u8>> = (0..100u32).map(|i| format!("{round}-{i}").into_bytes()).collect();
        let items: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (&key[..], &b"v"[..])).collect();
        store.mset(&items, Some(1));
        store.advance(1);
        assert!(store.entries() <= 300, "{}", store.entries());
    }
    store.verify();
}

#[test]
fn the_order_does_not_grow_by_overwriting() {
    let store = Store::new(1 << 20);
    let ttls: [&dyn Fn(i64) -> Ttl; 4] = [
        &|_| Some(1000),
        &|i| Some(1_000_000 - i),
        &|i| Some(if i % 2 == 0 { 10 } else { 1_000_000 }),
        &|i| (i % 2 == 0).then_some(1000 + i % 7),
    ];
    for ttl in ttls {
        for i in 0..3000 {
            store.set(b"k", b"v", ttl(i));
            store.mset(&[(b"m", b"v")], ttl(i));
            store.expire_in(b"k", ttl(i + 1));
            if i % 5 == 0 {
                store.delete(b"m");
            }
            if i % 100 == 0 {
                store.verify();
                store.advance(1);
            }
        }
    }
    let tickets: usize =
        (0..SHARDS).map(|index| store.memory.shards.read(index).order.tickets().len()).sum();
    assert!(tickets <= 2 * 66, "{tickets}");
}

/// Going back to a time that was given up leaves two tickets alike. If they stayed, every later call could find too
/// many.
#[test]
fn tickets_alike_are_dropped() {
    let mut order = EvictionOrder::default();
    for i in 0..300 {
        order.push(Ticket { at: i % 10, hash: 1, id: 1 });
    }
    order.compact(5, |ticket| ticket.at < 5);
    assert_eq!(order.tickets().len(), 5);
    assert_eq!((0..5).map(|_| order.pop_due(9).unwrap().at).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_time_to_live_is_as_long_whatever_the_wall_clock_is_set_to() {
    for set in [-7_200_000, 7_200_000, -2 * START] {
        let store = Store::new(1 << 20);
        store.set(b"set", b"v", Some(10));
        store.mset(&[(b"mset", b"v")], Some(10));
        store.set(b"later", b"v", None);
        assert!(store.expire_in(b"later", Some(10)));
        assert!(store.claim(b"lock", b"v", Some(10)));
        store.set_wall_clock(set);
        store.advance(9);
        assert!(store.mget(&[b"set", b"mset", b"later"]).iter().all(Option::is_some));
        assert!(!store.claim(b"lock", b"w", Some(10)));
        store.advance(1);
        assert!(store.mget(&[b"set", b"mset", b"later"]).iter().all(Option::is_none));
        assert!(store.claim(b"lock", b"w", Some(10)));
        store.verify();
        assert_eq!(store.entries(), 1);
    }
}

#[test]
fn a_time_that_was_named_comes_when_the_wall_clock_says_so() {
    let store = Store::new(0);
    let named = |key| {
        store.set(key, b"v", None);
        assert!(store.expire_at(key, Some(START + 1000)));
    };
    named(b"ahead");
    store.set_wall_clock(1000);
    assert_eq!(store.get(b"ahead"), None);
    store.set(b"k", b"v", None);
    assert!(store.expire_at(b"k", Some(START + 1000)), "it is over, so the key is gone");
    assert_eq!(store.get(b"k"), None);
    store.set_wall_clock(-2000);
    named(b"back");
    store.set_wall_clock(-1000);
    store.advance(2999);
    assert!(store.get(b"back").is_some());
    store.verify();
    store.advance(1);
    assert_eq!(store.get(b"back"), None);
    assert!(store.done(Op::Ping));
    assert_eq!(store.entries(), 0);
    store.verify();
}
