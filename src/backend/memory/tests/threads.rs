//! Many callers at once.

use std::sync::atomic::AtomicBool;
use std::sync::{Barrier, mpsc};
use std::thread;

use super::super::index;
use super::*;

const ROUNDS: u32 = 2000;

fn together(threads: usize, body: impl Fn(usize) + Sync) {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        for index in 0..threads {
            let (start, body) = (&start, &body);
            scope.spawn(move || {
                start.wait();
                body(index);
            });
        }
    });
}

fn names(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("key-{i}").into_bytes()).collect()
}

/// Writers and readers of one batch in different orders, each batch of one value: no reader sees two values at once.
#[test]
fn no_batch_is_torn() {
    let store = Store::new(0);
    let names = names(20);
    let orders = [names.clone(), names.iter().rev().cloned().collect()];
    store.mset(&names.iter().map(|key| (&key[..], &b"start"[..])).collect::<Vec<_>>(), None);
    together(6, |index| {
        let keys: Vec<&[u8]> = orders[index % 2].iter().map(|key| &key[..]).collect();
        for round in 0..ROUNDS {
            if index < 3 {
                let value = format!("{index}-{round}").into_bytes();
                let ttl = (round % 2 == 0).then_some(1000);
                store.mset(&keys.iter().map(|key| (*key, &value[..])).collect::<Vec<_>>(), ttl);
            } else {
                let values = store.mget(&keys);
                assert!(values[0].is_some() && values.iter().all(|value| *value == values[0]));
            }
        }
    });
    store.verify();
}

#[test]
fn a_batch_is_deleted_and_cleared_as_one() {
    let store = Store::new(0);
    let names = names(10);
    let keys: Vec<&[u8]> = names.iter().map(|key| &key[..]).collect();
    let items: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (*key, &b"v"[..])).collect();
    together(4, |index| {
        for round in 0..ROUNDS {
            match index {
                0 => store.mset(&items, None),
                1 if round % 8 == 0 => store.clear(),
                1 => assert!([0, 10].contains(&store.mdelete(&keys))),
                _ => {
                    let found = store.mget(&keys).iter().flatten().count();
                    assert!([0, 10].contains(&found), "{found}");
                }
            }
        }
    });
    store.verify();
}

#[test]
fn one_of_many_claims_succeeds() {
    let store = Store::new(1 << 20);
    let won = AtomicI64::new(0);
    together(4, |index| {
        for round in 0..ROUNDS {
            let key = round.to_le_bytes();
            if store.claim(&key, &[index as u8], (round % 2 == 0).then_some(1000)) {
                won.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert_eq!(won.load(Ordering::Relaxed), i64::from(ROUNDS));
    store.verify();
}

/// Everything at once, with eviction, expiry and a clock that moves; what must hold holds when all is quiet.
#[test]
fn the_accounts_are_right_after_a_storm() {
    for max_bytes in [0, 6000] {
        let store = Store::new(max_bytes);
        let names = names(60);
        together(6, |index| {
            for round in 0..ROUNDS as usize {
                let key = &names[(round * 7 + index * 13) % names.len()];
                let other = &names[(round * 11 + index) % names.len()];
                let ttl = (round % 3 == 0).then_some((round % 5) as i64 + 1);
                match (round + index) % 9 {
                    0 => store.set(key, &vec![1; round % 300], ttl),
                    1 => store.mset(&[(key, b"1"), (other, b"2")], ttl),
                    2 => drop(store.claim(key, b"claimed", ttl)),
                    3 => drop(store.expire_in(key, ttl)),
                    4 => drop(store.delete(key)),
                    5 => drop(store.mdelete(&[key, other])),
                    6 => drop(store.mget(&[other, key])),
                    7 if round % 100 == 0 => store.clear(),
                    _ => drop(store.get(key)),
                }
                if round % 10 == 0 {
                    store.advance(1);
                }
            }
        });
        store.set(b"last", b"", None);
        store.delete(b"last");
        store.verify();
    }
}

#[test]
fn nothing_is_added_after_a_close() {
    for _ in 0..50 {
        let store = Store::new(1 << 20);
        let closed = AtomicBool::new(false);
        together(3, |index| {
            let key = [index as u8];
            if index == 0 {
                store.memory.close();
                closed.store(true, Ordering::SeqCst);
                return;
            }
            loop {
                let was_closed = closed.load(Ordering::SeqCst);
                let items = Batch(&[(&key, b"v"), (b"shared", b"v")]);
                match store.memory.call(&Op::MSet { items: &items, ttl_ms: Some(1) }) {
                    Ok(_) => assert!(!was_closed),
                    Err(error) => {
                        assert!(matches!(error.kind, Kind::Closed));
                        return;
                    }
                }
            }
        });
        assert_eq!((store.bytes(), store.entries()), (0, 0));
        assert!((0..SHARDS).all(|index| store.memory.shards.read(index).table.is_empty()));
    }
}

/// A reader under way, with the lock in its hands, does not stop another.
#[test]
fn readers_do_not_stop_each_other() {
    let store = Store::new(1 << 20);
    store.set(b"k", b"v", None);
    let reading = store.memory.shards.read_all(u64::MAX);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| send.send((store.get(b"k"), store.mget(&[b"k", b"absent"]))));
        let (one, many) = receive.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        assert_eq!((one, many.len()), (Some(b"v".to_vec()), 2));
        drop(reading);
    });
}

/// Two threads take turns at reading `key` until one has a door to its shard.
fn contend(store: &Store, key: &[u8]) {
    let index = index(store.memory.hash(key));
    for _ in 0..100 {
        if store.memory.shards.open_doors(index) > 0 {
            return;
        }
        thread::scope(|scope| {
            scope.spawn(|| store.get(key));
        });
        store.get(key);
    }
    panic!("no door");
}

#[test]
fn one_thread_alone_opens_no_door() {
    let store = Store::new(0);
    store.set(b"k", b"v", None);
    (0..1000).for_each(|_| drop(store.get(b"k")));
    assert!((0..SHARDS).all(|index| store.memory.shards.open_doors(index) == 0));
}

#[test]
fn doors_are_closed_by_whatever_writes() {
    let writes: [&dyn Fn(&Store); 8] = [
        &|store| store.set(b"k", b"w", None),
        &|store| assert!(!store.claim(b"k", b"w", None)),
        &|store| store.mset(&[(b"k", b"w"), (b"other", b"w")], Some(5)),
        &|store| assert!(store.expire_in(b"k", Some(5))),
        &|store| assert!(store.delete(b"k")),
        &|store| assert_eq!(store.mdelete(&[b"other", b"k"]), 1),
        &|store| store.clear(),
        &|store| store.memory.close(),
    ];
    for write in writes {
        let store = Store::new(1 << 20);
        store.set(b"k", b"v", None);
        for _ in 0..2 {
            contend(&store, b"k");
            assert_eq!(store.get(b"k").unwrap(), b"v");
        }
        write(&store);
        assert_eq!(store.memory.shards.open_doors(index(store.memory.hash(b"k"))), 0);
        store.verify();
    }
}

#[test]
fn where_threads_contend_a_small_value_is_a_copy_and_a_large_one_is_not() {
    let store = Store::new(0);
    for (len, is_copy) in
        [(0, true), (100, true), (1 << 10, true), (2 << 10, false), (1 << 20, false)]
    {
        let data = vec![7; len];
        store.set(b"k", &data, None);
        let stored = shared_with(&store, b"k");
        // This thread has a door when the reader has changed often enough and then changes to it.
        while store.memory.shards.open_doors(index(store.memory.hash(b"k"))) < 2 {
            thread::scope(|scope| {
                scope.spawn(|| store.get(b"k"));
            });
            store.get(b"k");
        }
        let (at, value) = shared_with(&store, b"k");
        assert_eq!(at != stored.0, is_copy, "{len}");
        assert!(store.delete(b"k"));
        assert_eq!(value.data(), data);
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A writer that lets the readers come back in between, so that doors are opened and closed all the time: each reader
/// sees both keys alike, and never an older value after a newer one.
#[test]
fn no_door_leads_to_the_past() {
    let store = Store::new(1 << 20);
    let (reads, done) = (AtomicI64::new(0), AtomicBool::new(false));
    let put = |round: u64| {
        let value = round.to_le_bytes();
        store.mset(&[(b"one", &value), (b"two", &value)], None);
    };
    put(0);
    together(4, |index| {
        if index == 0 {
            for round in 1..200 {
                let before = reads.load(Ordering::Relaxed);
                while reads.load(Ordering::Relaxed) < before + 50 && !done.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                put(round);
            }
            done.store(true, Ordering::Relaxed);
            return;
        }
        let number =
            |value: Option<Vec<u8>>| u64::from_le_bytes(value.unwrap().try_into().unwrap());
        let mut last = 0;
        // Also when it fails, so that nobody waits for it.
        let _ends = Ends(&done);
        while !done.load(Ordering::Relaxed) {
            let one = number(store.get(b"one"));
            let both: Vec<u64> = store.mget(&[b"two", b"one"]).into_iter().map(number).collect();
            let two = number(store.get(b"two"));
            assert!(last <= one && one <= both[0] && both[0] == both[1] && both[1] <= two);
            last = two;
            reads.fetch_add(1, Ordering::Relaxed);
        }
    });
    store.verify();
}
