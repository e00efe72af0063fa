//! What a cache knows of its outstanding calls: how many, and in which order their deadlines pass.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::call::Call;
use super::sync::{Mutex, MutexGuard, lock};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::fork;

/// So many decided calls may be listed beside as many as are outstanding.
const SLACK: usize = 64;

/// The calls of one cache in one process.
pub struct Account {
    /// A child process has an account of its own.
    generation: u64,
    max_pending: usize,
    /// Deadlines count from here.
    start: Instant,
    outstanding: AtomicUsize,
    /// How many are in the list. Written under its lock.
    listed: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    closed: bool,
    /// In the order of their deadlines, which is that of their submission: all have the same time. Some may be decided.
    calls: VecDeque<Listed>,
}

struct Listed {
    /// In nanoseconds. A call that was given another deadline is listed once more.
    deadline: u64,
    /// Who carries a call out keeps it alive, not the list.
    call: Weak<Call>,
}

impl Listed {
    fn outstanding(&self) -> Option<Arc<Call>> {
        let call = self.call.upgrade()?;
        (!call.is_decided() && call.nanoseconds() == self.deadline).then_some(call)
    }
}

impl Account {
    pub fn new(max_pending: usize) -> Self {
        Self {
            generation: fork::generation(),
            max_pending,
            start: Instant::now(),
            outstanding: AtomicUsize::new(0),
            listed: AtomicUsize::new(0),
            list: Mutex::new(List::default()),
        }
    }

    /// How many calls were accepted and are not decided.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// The earliest deadline of a call that is not decided.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut list = self.lock().ok()?;
        self.first(&mut list).map(|(deadline, _)| deadline)
    }

    /// Fails the calls whose deadline has passed; the next deadline.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        loop {
            let late = {
                let mut list = self.lock().ok()?;
                let (deadline, call) = self.first(&mut list)?;
                if deadline > now {
                    return Some(deadline);
                }
                list.calls.pop_front();
                self.note_len(&list);
                call
            };
            late.time_out();
        }
    }

    /// The cache is closed: its outstanding calls are cancelled, and no more accepted.
    pub fn close(&self) {
        let Ok(mut list) = self.lock() else { return };
        list.closed = true;
        let calls = std::mem::take(&mut list.calls);
        self.note_len(&list);
        drop(list);
        for call in calls.iter().filter_map(Listed::outstanding) {
            call.cancel();
        }
    }

    /// Counts one more.
    pub(super) fn admit(&self) -> Result<()> {
        let one_more = |count| (count < self.max_pending).then_some(count + 1);
        match self.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(()),
            Err(_) => Err(Kind::Busy.into()),
        }
    }

    /// One less.
    pub(super) fn release(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// Keeps the call for its deadline and the end of the cache.
    pub(super) fn list(&self, call: &Arc<Call>) -> Result<()> {
        let mut list = self.open_list()?;
        list.calls.try_reserve(1).map_err(|_| Error::no_memory("memory for another call"))?;
        list.calls.push_back(Listed { deadline: call.nanoseconds(), call: Arc::downgrade(call) });
        self.note_len(&list);
        Ok(())
    }

    /// Gives the call a deadline `span` from now; not if the list has no room.
    pub(super) fn renew(&self, call: &Arc<Call>, span: Duration) {
        let Ok(mut list) = self.open_list() else { return };
        if list.calls.try_reserve(1).is_ok() {
            let deadline = self.deadline_after(span);
            call.set_nanoseconds(deadline);
            list.calls.push_back(Listed { deadline, call: Arc::downgrade(call) });
            self.note_len(&list);
        }
    }

    /// Forgets decided calls once there are too many of them: a few steps for each, and memory that is bounded by what is
    /// outstanding, even where an old call hangs while thousands come and go behind it.
    pub(super) fn tidy(&self) {
        if self.listed.load(Ordering::Relaxed) > 2 * self.outstanding() + SLACK {
            self.forget_decided();
        }
    }

    #[cold]
    fn forget_decided(&self) {
        let Ok(mut list) = self.lock() else { return };
        list.calls.retain(|listed| listed.outstanding().is_some());
        let (len, room) = (list.calls.len(), list.calls.capacity());
        if room > 4 * (len + SLACK) {
            let mut smaller = VecDeque::new();
            if smaller.try_reserve(2 * len).is_ok() {
                smaller.append(&mut list.calls);
                list.calls = smaller;
            }
        }
        self.note_len(&list);
    }

    /// The deadline that a call gets now.
    pub(super) fn deadline_after(&self, span: Duration) -> u64 {
        let since = self.start.elapsed() + span.min(Deadline::LONGEST);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn instant(&self, deadline: u64) -> Instant {
        self.start + Duration::from_nanos(deadline)
    }

    fn first(&self, list: &mut List) -> Option<(Instant, Arc<Call>)> {
        loop {
            let listed = list.calls.front()?;
            if let Some(call) = listed.outstanding() {
                return Some((self.instant(listed.deadline), call));
            }
            list.calls.pop_front();
            self.note_len(list);
        }
    }

    fn note_len(&self, list: &List) {
        self.listed.store(list.calls.len(), Ordering::Relaxed);
    }

    fn open_list(&self) -> Result<MutexGuard<'_, List>> {
        let list = self.lock()?;
        if list.closed { Err(Kind::Closed.into()) } else { Ok(list) }
    }

    /// Not in a child process, where a thread that is not there might hold it.
    fn lock(&self) -> Result<MutexGuard<'_, List>> {
        if self.generation == fork::generation() {
            Ok(lock(&self.list))
        } else {
            Err(Kind::Closed.into())
        }
    }
}
