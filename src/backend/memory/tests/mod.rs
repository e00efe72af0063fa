//! The store against a clock that stands still unless told.

mod bound;
mod expiry;
mod model;
mod threads;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::clock::{Clock, NEVER, Now};
use super::eviction::{EvictionOrder, Ticket};
use super::{Memory, SHARDS, lock};
use crate::backend::Backend;
use crate::error::{Kind, Result};
use crate::op::{Answer, Condition, Items, Keys, Op, Ttl};
use crate::value::{Value, Values};

const START: i64 = 1_700_000_000_000;

#[derive(Clone)]
struct FakeClock {
    steady: Arc<AtomicI64>,
    wall: Arc<AtomicI64>,
}

impl Clock for FakeClock {
    fn steady_ms(&self) -> i64 {
        self.steady.load(Ordering::Relaxed)
    }

    fn unix_ms(&self) -> i64 {
        self.wall.load(Ordering::Relaxed)
    }
}

struct Batch<'a>(&'a [(&'a [u8], &'a [u8])]);

impl Keys for Batch<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn key(&self, index: usize) -> &[u8] {
        self.0[index].0
    }
}

impl Items for Batch<'_> {
    fn value(&self, index: usize) -> &[u8] {
        self.0[index].1
    }
}

struct KeyList<'a>(&'a [&'a [u8]]);

impl Keys for KeyList<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn key(&self, index: usize) -> &[u8] {
        self.0[index]
    }
}

/// A store and its clock, with one method for each operation.
struct Store {
    memory: Memory<FakeClock>,
    clock: FakeClock,
}

impl Store {
    fn new(max_bytes: u64) -> Self {
        let clock = FakeClock { steady: Arc::default(), wall: Arc::new(AtomicI64::new(START)) };
        Self { memory: Memory::with_clock(max_bytes, clock.clone()), clock }
    }

    fn advance(&self, ms: i64) {
        self.clock.steady.fetch_add(ms, Ordering::Relaxed);
        self.set_wall_clock(ms);
    }

    /// By so much more.
    fn set_wall_clock(&self, ms: i64) {
        self.clock.wall.fetch_add(ms, Ordering::Relaxed);
    }

    fn call(&self, op: Op<'_>) -> Answer {
        self.memory.call(&op).unwrap()
    }

    fn done(&self, op: Op<'_>) -> bool {
        match self.call(op) {
            Answer::Done => true,
            Answer::NotFound | Answer::NotStored => false,
            other => panic!("{other:?}"),
        }
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.call(Op::Get { key }) {
            Answer::Value(value) => Some(value.data().to_vec()),
            Answer::NotFound => None,
            other => panic!("{other:?}"),
        }
    }

    fn mget(&self, keys: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        match self.call(Op::MGet { keys: &KeyList(keys) }) {
            Answer::Values(values) => {
                (0..values.len()).map(|i| values.get(i).map(<[u8]>::to_vec)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn set(&self, key: &[u8], value: &[u8], ttl_ms: Ttl) {
        assert!(self.done(Op::Set { key, value, ttl_ms, condition: Condition::Always }));
    }

    fn claim(&self, key: &[u8], value: &[u8], ttl_ms: Ttl) -> bool {
        self.done(Op::Set { key, value, ttl_ms, condition: Condition::NotExists })
    }

    fn mset(&self, items: &[(&[u8], &[u8])], ttl_ms: Ttl) {
        assert!(self.done(Op::MSet { items: &Batch(items), ttl_ms }));
    }

    fn expire_in(&self, key: &[u8], ttl_ms: Ttl) -> bool {
        self.done(Op::ExpireIn { key, ttl_ms })
    }

    fn expire_at(&self, key: &[u8], unix_ms: Option<i64>) -> bool {
        self.done(Op::ExpireAt { key, unix_ms })
    }

    fn delete(&self, key: &[u8]) -> bool {
        self.done(Op::Delete { key })
    }

    fn mdelete(&self, keys: &[&[u8]]) -> u64 {
        match self.call(Op::MDelete { keys: &KeyList(keys) }) {
            Answer::Deleted(count) => count,
            other => panic!("{other:?}"),
        }
    }

    fn clear(&self) {
        assert!(self.done(Op::Clear));
    }

    fn bytes(&self) -> i64 {
        self.memory.counts.bytes.load(Ordering::Relaxed)
    }

    fn entries(&self) -> usize {
        self.memory.counts.entries.load(Ordering::Relaxed)
    }

    /// Whether the wall clock has been set.
    fn was_set(&self) -> bool {
        self.clock.unix_ms() != START + self.clock.steady_ms()
    }

    /// What must hold whenever no call is under way.
    fn verify(&self) {
        let (mut bytes, mut entries, mut first) = (0, 0, NEVER);
        let mut recency: HashMap<(u64, u64), Vec<i64>> = HashMap::new();
        for ticket in lock(&self.memory.recency).tickets() {
            recency.entry((ticket.hash, ticket.id)).or_default().push(ticket.at);
        }
        for index in 0..SHARDS {
            let shard = self.memory.shards.read(index);
            let order: BTreeSet<Ticket> = shard.order.tickets().collect();
            let now = Now::new(&self.clock);
            let mut ticketed = 0;
            for entry in &shard.table {
                let ticket = |at| Ticket { at, hash: entry.hash, id: entry.id };
                bytes += entry.cost();
                entries += 1;
                assert!(entry.ticket_at <= entry.expiry.due(&now) || self.was_set());
                if entry.ticket_at != NEVER {
                    ticketed += 1;
                    assert!(order.contains(&ticket(entry.ticket_at)));
                }
                if self.memory.limit.is_some() {
                    let used = entry.used.load(Ordering::Relaxed);
                    let ticks = &recency[&(entry.hash, entry.id)];
                    assert!(ticks.len() == 1 && ticks[0] <= used);
                }
            }
            assert_eq!(shard.ticketed, ticketed);
            assert!(shard.order.tickets().len() <= 2 * ticketed + 64);
            let due = self.memory.shards.due(index).load(Ordering::Relaxed);
            assert_eq!(due, shard.order.next().unwrap_or(NEVER));
            first = first.min(due);
        }
        assert_eq!((self.bytes(), self.entries()), (bytes, entries));
        assert!(self.memory.next_due.load(Ordering::Relaxed) <= first);
        assert!(recency.len() <= 2 * entries + 64);
        if let Some(limit) = self.memory.limit {
            assert!(bytes <= limit);
        }
    }
}

fn shared_with(store: &Store, key: &[u8]) -> (*const u8, Value) {
    match store.call(Op::Get { key }) {
        Answer::Value(value) => (value.data().as_ptr(), value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_set_is_found() {
    let store = Store::new(0);
    assert_eq!(store.get(b"k"), None);
    store.set(b"k", b"one", None);
    store.set(b"", b"", None);
    store.set(b"\0\xff", b"a\0b", None);
    assert_eq!(store.get(b"k").unwrap(), b"one");
    assert_eq!(store.get(b"").unwrap(), b"");
    assert_eq!(store.get(b"\0\xff").unwrap(), b"a\0b");
    store.set(b"k", b"two", None);
    assert_eq!(
        store.mget(&[b"k", b"absent", b"k"]),
        [Some(b"two".to_vec()), None, Some(b"two".to_vec())]
    );
    store.verify();
}

#[test]
fn a_hit_is_not_a_copy_and_outlives_its_entry() {
    let store = Store::new(0);
    for len in [0, 100, 16 << 10, 3 << 20] {
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        store.set(b"k", &data, None);
        let (first, value) = shared_with(&store, b"k");
        assert_eq!(shared_with(&store, b"k").0, first);
        assert!(store.delete(b"k"));
        store.clear();
        assert_eq!(value.data(), data);
    }
    assert_eq!(store.bytes(), 0);
}

#[test]
fn if_not_exists_stores_once() {
    let store = Store::new(0);
    assert!(store.claim(b"k", b"first", None));
    assert!(!store.claim(b"k", b"second", Some(5)));
    store.advance(10);
    assert_eq!(store.get(b"k").unwrap(), b"first");
    assert!(store.delete(b"k"));
    assert!(store.claim(b"k", b"third", Some(5)));
    assert!(!store.claim(b"k", b"fourth", None));
    store.advance(5);
    assert!(store.claim(b"k", b"fifth", None));
    assert_eq!(store.get(b"k").unwrap(), b"fifth");
    store.verify();
}

#[test]
fn of_a_key_twice_in_a_batch() {
    let store = Store::new(0);
    store.mset(&[(b"k", b"1"), (b"other", b"2"), (b"k", b"3")], None);
    assert_eq!(store.get(b"k").unwrap(), b"3");
    assert_eq!(store.mdelete(&[b"k", b"k", b"absent", b"other", b"k"]), 2);
    assert_eq!(store.mdelete(&[b"k"]), 0);
    assert_eq!((store.bytes(), store.entries()), (0, 0));
    store.verify();
}

#[test]
fn empty_batches_are_answered() {
    let store = Store::new(1000);
    store.mset(&[], Some(1));
    assert_eq!(store.mget(&[]).len(), 0);
    assert_eq!(store.mdelete(&[]), 0);
    store.verify();
}

#[test]
fn clear_drops_everything_with_its_memory() {
    let store = Store::new(1 << 30);
    let keys: Vec<[u8; 4]> = (0..5000u32).map(u32::to_le_bytes).collect();
    for (i, key) in keys.iter().enumerate() {
        store.set(key, b"value", (i % 2 == 0).then_some(1000));
    }
    store.clear();
    store.verify();
    assert_eq!((store.bytes(), store.entries()), (0, 0));
    assert!(keys.iter().all(|key| store.get(key).is_none()));
    assert_eq!(capacity(&store), 0);
    store.set(b"k", b"v", None);
    assert_eq!(store.get(b"k").unwrap(), b"v");
}

#[test]
fn deleting_everything_gives_the_memory_back() {
    let store = Store::new(1 << 30);
    let keys: Vec<[u8; 4]> = (0..20_000u32).map(u32::to_le_bytes).collect();
    for (i, key) in keys.iter().enumerate() {
        store.set(key, b"value", (i % 2 == 0).then_some(1_000_000));
    }
    let full: usize = capacity(&store);
    for (i, key) in keys.iter().enumerate() {
        if i % 3 == 0 {
            assert_eq!(store.mdelete(&[key]), 1);
        } else {
            assert!(store.delete(key));
        }
    }
    store.verify();
    assert_eq!((store.bytes(), store.entries()), (0, 0));
    assert!(capacity(&store) <= full / 4);
}

fn capacity(store: &Store) -> usize {
    (0..SHARDS).map(|index| store.memory.shards.read(index).table.capacity()).sum()
}

#[test]
fn a_closed_store_is_closed_for_every_call() {
    let store = Store::new(1 << 20);
    store.set(b"k", b"v", Some(10));
    let (_, value) = shared_with(&store, b"k");
    store.memory.close();
    store.memory.close();
    assert_eq!((store.bytes(), store.entries()), (0, 0));
    assert_eq!(value.data(), b"v");
    let key: &[u8] = b"k";
    let (one, none) = (KeyList(&[b"k"]), KeyList(&[]));
    let (item, no_item) = (Batch(&[(b"k", b"v")]), Batch(&[]));
    for op in [
        Op::Ping,
        Op::Get { key },
        Op::MGet { keys: &one },
        Op::MGet { keys: &none },
        Op::Set { key, value: key, ttl_ms: None, condition: Condition::Always },
        Op::Set { key, value: key, ttl_ms: Some(5), condition: Condition::NotExists },
        Op::MSet { items: &item, ttl_ms: None },
        Op::MSet { items: &no_item, ttl_ms: None },
        Op::ExpireIn { key, ttl_ms: Some(5) },
        Op::ExpireAt { key, unix_ms: None },
        Op::Delete { key },
        Op::MDelete { keys: &one },
        Op::MDelete { keys: &none },
        Op::Clear,
    ] {
        let answer: Result<Answer> = store.memory.call(&op);
        assert!(matches!(answer.unwrap_err().kind, Kind::Closed));
    }
    assert_eq!(store.entries(), 0);
}

#[test]
fn a_batch_that_memory_cannot_hold_is_refused_and_changes_nothing() {
    struct Endless;
    impl Keys for Endless {
        fn count(&self) -> usize {
            isize::MAX as usize / 16
        }
        fn key(&self, _: usize) -> &[u8] {
            b"k"
        }
    }
    impl Items for Endless {
        fn value(&self, _: usize) -> &[u8] {
            b"new"
        }
    }
    let store = Store::new(0);
    store.set(b"k", b"old", None);
    for op in [
        Op::MGet { keys: &Endless },
        Op::MSet { items: &Endless, ttl_ms: None },
        Op::MDelete { keys: &Endless },
    ] {
        assert!(matches!(store.memory.call(&op).unwrap_err().kind, Kind::NoMemory(_)));
    }
    assert_eq!(store.get(b"k").unwrap(), b"old");
}

#[test]
fn a_panic_under_a_lock_does_not_end_the_store() {
    let store = Store::new(1 << 20);
    store.set(b"k", b"v", None);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guards = store.memory.shards.write_all(u64::MAX);
        let _recency = lock(&store.memory.recency);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(store.get(b"k").unwrap(), b"v");
    store.set(b"other", b"v", Some(1));
    store.verify();
}

#[test]
fn large_answers_to_a_batch_are_not_copies() {
    let store = Store::new(0);
    store.set(b"k", &[1; 10_000], None);
    let keys = KeyList(&[b"k", b"k"]);
    let Answer::Values(Values::Each(values)) = store.call(Op::MGet { keys: &keys }) else {
        panic!("not separate values");
    };
    let at = |i: usize| values[i].as_ref().unwrap().data().as_ptr();
    assert_eq!(at(0), at(1));
}

#[test]
fn small_answers_to_a_batch_are_in_one_piece() {
    let store = Store::new(0);
    store.set(b"k", b"v", None);
    store.set(b"empty", b"", None);
    let keys = KeyList(&[b"k", b"absent", b"empty", b"k"]);
    let Answer::Values(Values::Arena { spans, arena, .. }) = store.call(Op::MGet { keys: &keys })
    else {
        panic!("separate values");
    };
    assert_eq!((spans.len(), &arena[..]), (Values::RESERVED_SPANS + 4, &b"v\0\0v\0"[..]));
}
