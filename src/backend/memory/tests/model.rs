//! Random calls, compared with the plainest store there can be.

use super::super::ENTRY_OVERHEAD;
use super::*;

struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
    expires_at: i64,
}

impl Row {
    fn cost(&self) -> usize {
        self.key.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

/// Live rows, the least recently used first.
struct Model {
    rows: Vec<Row>,
    limit: usize,
    now: i64,
}

impl Model {
    fn expire(&mut self) {
        let now = self.now;
        self.rows.retain(|row| row.expires_at > now);
    }

    fn take(&mut self, key: &[u8]) -> Option<Row> {
        let index = self.rows.iter().position(|row| row.key == key)?;
        Some(self.rows.remove(index))
    }

    /// Uses a key and shows its row.
    fn find(&mut self, key: &[u8]) -> Option<&mut Row> {
        let row = self.take(key)?;
        self.rows.push(row);
        self.rows.last_mut()
    }

    fn put(&mut self, key: &[u8], value: &[u8], ttl: Ttl) {
        self.take(key);
        let expires_at = ttl.map_or(NEVER, |ttl| self.now + ttl);
        let row = Row { key: key.to_vec(), value: value.to_vec(), expires_at };
        if row.cost() <= self.limit {
            self.rows.push(row);
        }
    }

    fn evict(&mut self) {
        while self.rows.iter().map(Row::cost).sum::<usize>() > self.limit {
            self.rows.remove(0);
        }
    }

    fn expire_at(&mut self, key: &[u8], at: Option<i64>) -> bool {
        let now = self.now;
        let Some(row) = self.find(key) else { return false };
        row.expires_at = at.unwrap_or(NEVER);
        if row.expires_at <= now {
            self.take(key);
        }
        true
    }
}

/// Sebastiano Vigna's SplitMix64: enough, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn key(&mut self, keys: u64) -> Vec<u8> {
        format!("k{}", self.below(keys)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        let len = if self.below(40) == 0 { 3000 } else { self.below(60) };
        vec![self.below(256) as u8; len as usize]
    }

    fn ttl(&mut self) -> Ttl {
        (self.below(2) == 0).then(|| 1 + self.below(50) as i64)
    }
}

fn run(seed: u64, max_bytes: u64, keys: u64, steps: u32) {
    let store = Store::new(max_bytes);
    let limit = if max_bytes == 0 { usize::MAX } else { max_bytes as usize };
    let mut model = Model { rows: Vec::new(), limit, now: START };
    let random = &mut Random(seed);
    for step in 0..steps {
        if random.below(4) == 0 {
            let ms = random.below(12) as i64;
            store.advance(ms);
            model.now += ms;
        }
        model.expire();
        let key = random.key(keys);
        let context = format!("seed {seed}, step {step}");
        match random.below(16) {
            0..=3 => {
                let expected = model.find(&key).map(|row| row.value.clone());
                assert_eq!(store.get(&key), expected, "{context}");
            }
            4..=6 => {
                let (value, ttl) = (random.value(), random.ttl());
                store.set(&key, &value, ttl);
                model.put(&key, &value, ttl);
            }
            7 => {
                let (value, ttl) = (random.value(), random.ttl());
                let is_new = model.find(&key).is_none();
                if is_new {
                    model.put(&key, &value, ttl);
                }
                assert_eq!(store.claim(&key, &value, ttl), is_new, "{context}");
            }
            8 | 9 => {
                let batch: Vec<_> =
                    (0..random.below(8)).map(|_| (random.key(keys), random.value())).collect();
                let ttl = random.ttl();
                let items: Vec<(&[u8], &[u8])> =
                    batch.iter().map(|(key, value)| (&key[..], &value[..])).collect();
                store.mset(&items, ttl);
                batch.iter().for_each(|(key, value)| model.put(key, value, ttl));
            }
            10 | 11 => {
                let batch: Vec<_> = (0..random.below(8)).map(|_| random.key(keys)).collect();
                let list: Vec<&[u8]> = batch.iter().map(|key| &key[..]).collect();
                let expected: Vec<_> =
                    list.iter().map(|key| model.find(key).map(|row| row.value.clone())).collect();
                assert_eq!(store.mget(&list), expected, "{context}");
            }
            12 => {
                let ttl = (random.below(4) > 0).then(|| random.below(40) as i64 - 5);
                let expected = model.expire_at(&key, ttl.map(|ttl| model.now + ttl));
                assert_eq!(store.expire_in(&key, ttl), expected, "{context}");
            }
            13 => {
                let at = (random.below(4) > 0).then(|| model.now + random.below(40) as i64 - 5);
                assert_eq!(store.expire_at(&key, at), model.expire_at(&key, at), "{context}");
            }
            14 => assert_eq!(store.delete(&key), model.take(&key).is_some(), "{context}"),
            _ if random.below(50) == 0 => {
                store.clear();
                model.rows.clear();
            }
            _ => {
                let batch: Vec<_> = (0..random.below(5)).map(|_| random.key(keys)).collect();
                let list: Vec<&[u8]> = batch.iter().map(|key| &key[..]).collect();
                let gone = list.iter().filter(|key| model.take(key).is_some()).count();
                assert_eq!(store.mdelete(&list), gone as u64, "{context}");
            }
        }
        model.evict();
        if step % 16 == 0 {
            store.verify();
        }
    }
    model.expire();
    store.verify();
    for row in &model.rows {
        assert_eq!(store.get(&row.key).as_ref(), Some(&row.value), "seed {seed}");
    }
    let keys: Vec<_> = (0..keys).map(|i| format!("k{i}").into_bytes()).collect();
    let list: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    assert_eq!(store.mdelete(&list), model.rows.len() as u64, "seed {seed}");
    store.advance(1000);
    (0..1000).for_each(|_| assert!(store.done(Op::Ping)));
    assert_eq!((store.bytes(), store.entries()), (0, 0), "seed {seed}");
}

#[test]
fn without_a_bound() {
    (0..6).for_each(|seed| run(seed, 0, 40, 3000));
    run(100, 0, 2000, 10_000);
}

#[test]
fn with_a_bound() {
    (0..6).for_each(|seed| run(seed, 2500, 40, 3000));
    (0..3).for_each(|seed| run(50 + seed, 20_000, 200, 5000));
}
