//! What is left to a thread that is likely to come and drive it, and who looks after that in case it does not.

use std::mem;
use std::time::{Duration, Instant};

use super::{Actions, Carrier, LONGEST_QUEUEING_BOUND, QUEUEING_BOUND, Scheduler};
use crate::completion::{Misprediction, QueueId};

/// What is left to a thread that is likely to come waits no longer than three times this for it.
const GRACE: Duration = Duration::from_micros(500);

/// One watch over the queue. A newer one supersedes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchId(u64);

pub struct Deferral<L> {
    /// A link in the middle of a batch of asynchronous calls, left by a thread that is likely to come back to it.
    parked: Option<Box<L>>,
    /// Since the reactor looked last, something was left to a thread that is likely to come.
    deferred: bool,
    /// It was left alone once more when the reactor looked, though nothing had moved.
    spared: bool,
    /// When the reactor looks next may be too late for what is left now.
    looks_late: bool,
    watching: Option<WatchId>,
    last_watch: WatchId,
}

impl<L> Default for Deferral<L> {
    fn default() -> Self {
        Self {
            parked: None,
            deferred: false,
            spared: false,
            looks_late: false,
            watching: None,
            last_watch: WatchId::default(),
        }
    }
}

impl<L> Deferral<L> {
    /// The watch that is to begin, where there is none.
    #[inline]
    pub fn watch(&mut self) -> Option<WatchId> {
        if self.watching.is_some() { None } else { Some(self.watch_anew()) }
    }

    #[cold]
    #[inline(never)]
    fn watch_anew(&mut self) -> WatchId {
        self.last_watch.0 += 1;
        self.watching = Some(self.last_watch);
        self.last_watch
    }

    /// Something is left to a thread that is likely to come.
    #[inline]
    pub fn defer(&mut self) -> Option<WatchId> {
        self.deferred = true;
        match mem::take(&mut self.looks_late) {
            true => Some(self.watch_anew()),
            false => self.watch(),
        }
    }
}

/// What came of a look at what is queued.
pub struct Look<L> {
    pub actions: Actions<L>,
    /// When to look again, and what to tell then.
    pub again_in: Duration,
    pub loads: usize,
    /// A thread that something was left to has not come.
    pub missed: Option<Misprediction>,
}

impl<L: Carrier> Scheduler<L> {
    /// The same, or a link that follows a loop, where there are no others and may be no more.
    pub fn unpark_for_others(&mut self, now: impl Fn() -> Instant) -> Option<Box<L>> {
        if let Some(link) = self.unpark() {
            return Some(link);
        }
        let may_have_another = !self.idle.is_empty() || self.has_room(now);
        if may_have_another { None } else { self.claim_loop_link() }
    }

    /// Takes the parked link back.
    pub fn unpark(&mut self) -> Option<Box<L>> {
        self.deferral.parked.take()
    }

    pub(super) fn is_parked(&self) -> bool {
        self.deferral.parked.is_some()
    }

    #[cfg(test)]
    pub(super) fn parked(&self) -> Option<&L> {
        self.deferral.parked.as_deref()
    }

    /// A thread leaves a link in the middle of a batch, and is likely to come back to it: to the queue whose
    /// completions it took. The link comes back where others may wait for what is on it, or for the link.
    pub fn park(&mut self, mut link: Box<L>, queue: QueueId) -> Result<Actions<L>, Box<L>> {
        let is_private = link.batch().waiters().are_only(queue);
        let is_wanted = self.is_claimed() || !self.queue.waiters().are_only(queue);
        if !is_private || is_wanted || self.closed || self.is_parked() {
            return Err(link);
        }
        // A while may pass until somebody goes on with it.
        link.batch_mut().calls = None;
        self.deferral.parked = Some(link);
        Ok(Actions { watch: self.deferral.defer(), ..Actions::default() })
    }

    /// The reactor looks at what is queued. `seen`: what it was told `bound` ago, when it looked last. `None`: this
    /// watch is over.
    pub fn look_after(
        &mut self,
        watch: WatchId,
        seen: Option<usize>,
        bound: Duration,
        now: impl Fn() -> Instant,
    ) -> Option<Look<L>> {
        if self.deferral.watching != Some(watch) {
            return None;
        }
        let was_deferred = mem::take(&mut self.deferral.deferred);
        let is_left = self.has_calls_left() || self.is_parked();
        if self.closed || !(is_left || was_deferred) {
            self.deferral.watching = None;
            return None;
        }
        let has_stood = seen == Some(self.loads);
        let loads = self.loads;
        if was_deferred && !(has_stood && self.deferral.spared) {
            // It may have been left just now.
            self.deferral.spared = has_stood;
            let actions = Actions::default();
            return Some(Look { actions, again_in: GRACE, loads, missed: None });
        }
        let mut missed = None;
        if has_stood {
            // The links in use are slow, or who was to come has not.
            self.begin_epoch(now());
            missed = self.misprediction();
        }
        self.deferral.spared = false;
        self.deferral.looks_late = true;
        let least = QUEUEING_BOUND.max(self.distance.several_round_trips());
        let again_in = match has_stood {
            true => (2 * bound).min(LONGEST_QUEUEING_BOUND.max(least)),
            false => least,
        };
        Some(Look { actions: self.recruit(now), again_in, loads, missed })
    }

    /// Of a thread that something is left to.
    fn misprediction(&self) -> Option<Misprediction> {
        let parked = self.deferral.parked.iter().flat_map(|link| link.batch().entries());
        let calls = parked.chain(self.queue.iter()).filter_map(|entry| entry.call());
        let is_left = |call: &&_| {
            let call: &crate::completion::Promise = call;
            call.wait_is_predicted() && !call.is_completed()
        };
        calls.into_iter().find(is_left).map(|call| call.misprediction())
    }

    /// Whether something was left to a thread that is likely to wait on this queue, and to no other.
    pub fn is_deferred_to(&self, queue: QueueId) -> bool {
        match &self.deferral.parked {
            Some(link) => link.batch().waiters().are_only(queue),
            None => {
                let is_its = self.queue.waiters().are_only(queue);
                self.deferral.deferred && !self.queue.is_empty() && is_its
            }
        }
    }

    /// Gives what is left to a thread to the reactor: the thread drives another node.
    pub fn entrust(&mut self, now: impl Fn() -> Instant) -> Actions<L> {
        match self.has_calls_left() || self.is_parked() {
            true => self.recruit(now),
            // What threads have queued is theirs.
            false => Actions::default(),
        }
    }

    /// A watch has ended, or could not begin; the one that is to take its place, where something is left to look after.
    pub fn end_watch(&mut self, watch: WatchId) -> Option<WatchId> {
        if self.deferral.watching != Some(watch) {
            return None;
        }
        self.deferral.watching = None;
        let is_left = self.has_calls_left() || self.is_parked();
        if is_left && !self.closed { self.deferral.watch() } else { None }
    }

    /// Whether asynchronous calls are queued.
    pub(super) fn has_calls_left(&self) -> bool {
        self.queue.has_calls() || !self.exclusive.is_empty()
    }
}
