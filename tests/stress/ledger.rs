//! What is outstanding on one queue, and what was done to it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Opened;
use crate::calls::Kind;
use crate::support::capi::*;
use crate::support::queue::Queue;

/// One call that was submitted, or is about to be.
#[derive(Clone)]
pub struct Entry {
    pub kind: Kind,
    pub opened: Arc<Opened>,
    pub is_memory: bool,
    /// Somebody has begun to cancel it.
    pub cancelling: bool,
}

/// Tags are spread over so many tables, for threads not to wait for each other.
const SHARDS: usize = 16;

pub struct Ledger {
    queue: Queue,
    shards: [Mutex<HashMap<u64, Entry>>; SHARDS],
    outstanding: AtomicUsize,
    cancels: Mutex<Cancels>,
    closing: AtomicBool,
    closed: AtomicBool,
}

#[derive(Default)]
struct Cancels {
    /// Tags that a cancel answered OK for, less those that were reported as cancelled since.
    owed: HashSet<u64>,
    /// Those that were reported as cancelled before the cancel's answer was noted, or because their cache was closed.
    early: HashSet<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            queue: Queue::open(),
            shards: Default::default(),
            outstanding: AtomicUsize::new(0),
            cancels: Mutex::default(),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    fn shard(&self, tag: u64) -> MutexGuard<'_, HashMap<u64, Entry>> {
        lock(&self.shards[tag as usize % SHARDS])
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::SeqCst)
    }

    /// To be called before the call is submitted, for it may complete at any time from then on.
    pub fn write(&self, tag: u64, kind: Kind, opened: Arc<Opened>, is_memory: bool) {
        let entry = Entry { kind, opened, is_memory, cancelling: false };
        assert!(self.shard(tag).insert(tag, entry).is_none());
        self.outstanding.fetch_add(1, Ordering::SeqCst);
    }

    /// It was not accepted, and so has not been reported either.
    pub fn strike_out(&self, tag: u64) {
        let entry = self.shard(tag).remove(&tag);
        assert!(entry.is_some(), "call {tag} was refused, and reported");
        self.outstanding.fetch_sub(1, Ordering::SeqCst);
    }

    /// It was reported.
    pub fn read(&self, tag: u64) -> Entry {
        let entry = self.shard(tag).remove(&tag);
        let entry = entry.unwrap_or_else(|| panic!("{tag} was reported twice, or never accepted"));
        self.outstanding.fetch_sub(1, Ordering::SeqCst);
        entry
    }

    /// Cancels a tag, if it is outstanding here.
    pub fn cancel(&self, tag: u64) {
        match self.shard(tag).get_mut(&tag) {
            Some(entry) => entry.cancelling = true,
            None => return,
        }
        match self.queue.cancel(tag) {
            Ok(CACHETORY_OK) => {
                let mut cancels = lock(&self.cancels);
                if !cancels.early.remove(&tag) {
                    cancels.owed.insert(tag);
                }
            }
            Ok(status) => assert_eq!(status, CACHETORY_NOT_FOUND),
            Err(failure) => {
                assert!(failure.status == CACHETORY_ERR_CLOSED && self.is_closing());
            }
        }
    }

    pub fn was_cancelled(&self, tag: u64) {
        let mut cancels = lock(&self.cancels);
        if !cancels.owed.remove(&tag) {
            cancels.early.insert(tag);
        }
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Closes the queue.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        assert_eq!(self.queue.close(), CACHETORY_OK);
        self.closed.store(true, Ordering::SeqCst);
        assert_eq!(self.queue.close(), CACHETORY_ERR_CLOSED);
    }

    /// Some that are outstanding, for who wonders why.
    pub fn some(&self) -> Vec<(u64, Kind)> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| {
                let shard = lock(shard);
                shard
                    .iter()
                    .take(2)
                    .map(|(tag, entry)| (*tag, entry.kind.clone()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whatever a cancel answered OK for was reported as cancelled.
    pub fn balance(&self) {
        let owed = &lock(&self.cancels).owed;
        assert!(owed.is_empty(), "cancelled, and reported as something else: {owed:?}");
    }
}
