//! What is called, and what may come of it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::ledger::Entry;
use crate::support::capi::*;
use crate::support::queue::{Completion, Submit};
use crate::support::random::Random;

const KEYS: usize = 500;

#[derive(Clone, Debug)]
pub enum Kind {
    Ping,
    Get(String),
    MGet(Vec<String>),
    Set { key: String, ttl: i64, flags: u32 },
    MSet { keys: Vec<String>, ttl: i64 },
    Expire { key: String, ttl: i64 },
    ExpireAt(String),
    Delete(String),
    MDelete(Vec<String>),
    Clear,
}

fn key(random: &mut Random) -> String {
    format!("key:{}", random.below(KEYS))
}

fn keys(random: &mut Random) -> Vec<String> {
    (0..random.below(20)).map(|_| key(random)).collect()
}

fn ttl(random: &mut Random) -> i64 {
    [NO_EXPIRY, 60_000, 3_600_000, 1 + random.below(100) as i64][random.below(4)]
}

impl Kind {
    pub fn random(random: &mut Random) -> Self {
        match random.below(1000) {
            0..30 => Self::Ping,
            30..380 => Self::Get(key(random)),
            380..470 => Self::MGet(keys(random)),
            470..720 => Self::Set { key: key(random), ttl: ttl(random), flags: 0 },
            720..780 => Self::Set { key: key(random), ttl: ttl(random), flags: IF_NOT_EXISTS },
            780..870 => {
                let mut keys = keys(random);
                // Of a key twice the last would win, and both are the same.
                keys.dedup();
                Self::MSet { keys, ttl: ttl(random) }
            }
            870..910 => Self::Expire { key: key(random), ttl: ttl(random) },
            910..930 => Self::ExpireAt(key(random)),
            930..980 => Self::Delete(key(random)),
            980..999 => Self::MDelete(keys(random)),
            _ => Self::Clear,
        }
    }

    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Ping | Self::Get(_) | Self::MGet(_))
    }

    pub fn submit(&self, to: Submit, tag: u64) -> Outcome {
        match self {
            Self::Ping => to.ping(tag),
            Self::Get(key) => to.get(tag, key),
            Self::MGet(keys) => to.mget(tag, keys),
            Self::Set { key, ttl, flags } => to.set(tag, key, value(key, tag), *ttl, *flags),
            Self::MSet { keys, ttl } => {
                let items: Vec<_> = keys.iter().map(|key| (key, value(key, tag))).collect();
                to.mset(tag, &items, *ttl)
            }
            Self::Expire { key, ttl } => to.expire_in(tag, key, *ttl),
            Self::ExpireAt(key) => to.expire_at(tag, key, 4_000_000_000_000),
            Self::Delete(key) => to.delete(tag, key),
            Self::MDelete(keys) => to.mdelete(tag, keys),
            Self::Clear => to.clear(tag),
        }
    }
}

/// What the write with this tag stores: whose it is can be told from it, and whether it is whole. One in some hundreds
/// is large.
fn value(key: &str, tag: u64) -> Vec<u8> {
    let mut value = format!("{key}={tag};").into_bytes();
    let random = Random(tag).draw() as usize;
    let filler =
        if random.is_multiple_of(500) { random / 500 % 200_000 } else { random / 500 % 120 };
    let pattern = random.to_le_bytes();
    value.extend(pattern.iter().cycle().take(filler));
    value
}

/// The tag of the write that stored it under `key`.
fn writer(key: &str, found: &[u8]) -> u64 {
    let head = String::from_utf8_lossy(&found[..found.len().min(60)]);
    let tag = || head.strip_prefix(key)?.strip_prefix('=')?.split_once(';')?.0.parse().ok();
    let tag = tag().unwrap_or_else(|| panic!("a value of {key}: {head}"));
    assert!(found == value(key, tag), "a value of {key} that is not whole: {head}");
    tag
}

/// Of each write, whether its value was seen, and whether it is said not to have been applied.
pub struct Applied {
    seen: Vec<AtomicBool>,
    not: Vec<AtomicBool>,
}

impl Applied {
    pub fn new(calls: u64) -> Self {
        let none = || (0..calls).map(|_| AtomicBool::new(false)).collect();
        Self { seen: none(), not: none() }
    }

    pub fn is_not(&self, tag: u64) {
        self.not[tag as usize].store(true, Ordering::Relaxed);
    }

    fn is_seen(&self, tag: u64) {
        self.seen[tag as usize].store(true, Ordering::Relaxed);
    }

    pub fn balance(&self) {
        for (tag, (seen, not)) in self.seen.iter().zip(&self.not).enumerate() {
            let both = seen.load(Ordering::Relaxed) && not.load(Ordering::Relaxed);
            assert!(!both, "write {tag} was applied, though its completion denies it");
        }
    }
}

/// Holds a completion against its call; its status.
pub fn check(entry: &Entry, completion: &mut Completion, applied: &Applied) -> Result<i32, i32> {
    let tag = completion.tag();
    let kind = &entry.kind;
    let status = match completion.outcome() {
        Ok(status) => status,
        Err(failure) => {
            check_failure(entry, &failure);
            if kind.is_write() && !failure.is_maybe_applied() {
                applied.is_not(tag);
            }
            return Err(failure.status);
        }
    };
    let may_miss =
        matches!(kind, Kind::Get(_) | Kind::Delete(_) | Kind::Expire { .. } | Kind::ExpireAt(_));
    match status {
        CACHETORY_OK => {}
        CACHETORY_NOT_FOUND if may_miss => {}
        CACHETORY_NOT_STORED if matches!(kind, Kind::Set { flags: IF_NOT_EXISTS, .. }) => {
            applied.is_not(tag);
        }
        _ => panic!("call {tag}, {kind:?}: {status}"),
    }
    let deleted = completion.deleted() as usize;
    let (value, values) = (completion.take_value(), completion.take_values());
    match kind {
        Kind::Get(key) if status == CACHETORY_OK => {
            applied.is_seen(writer(key, value.as_ref().expect("a value").bytes()));
        }
        _ => assert!(value.is_none(), "call {tag}, {kind:?}: a value"),
    }
    match kind {
        Kind::MGet(keys) => {
            assert_eq!(values.len(), keys.len());
            for (index, key) in keys.iter().enumerate() {
                if let Some(found) = values.get(index) {
                    applied.is_seen(writer(key, found));
                }
            }
        }
        _ => assert_eq!(values.len(), 0, "call {tag}, {kind:?}: values"),
    }
    match kind {
        Kind::MDelete(keys) => assert!(deleted <= keys.len()),
        _ => assert_eq!(deleted, 0),
    }
    Ok(status)
}

fn check_failure(entry: &Entry, failure: &Failure) {
    let kind = &entry.kind;
    let is_network = match failure.status {
        CACHETORY_ERR_CONNECT | CACHETORY_ERR_TIMEOUT | CACHETORY_ERR_IO | CACHETORY_ERR_DOWN => {
            true
        }
        CACHETORY_ERR_CANCELLED => {
            let closing = entry.opened.closing.load(Ordering::SeqCst);
            assert!(entry.cancelling || closing, "{kind:?} was cancelled by nobody");
            false
        }
        _ => panic!("{kind:?}: {failure:?}"),
    };
    assert!(!is_network || !entry.is_memory, "{kind:?} on memory://: {failure:?}");
    assert_eq!(failure.is_retryable(), is_network, "{failure:?}");
    if failure.is_maybe_applied() {
        assert!(kind.is_write(), "{kind:?} is no write: {failure:?}");
        // A clear within a prefix is many requests, of which the first may have been carried out.
        let may = failure.status != CACHETORY_ERR_CONNECT || matches!(kind, Kind::Clear);
        assert!(may, "{kind:?} was never sent: {failure:?}");
    }
}
