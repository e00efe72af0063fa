//! What the reactor looks after for asynchronous calls: their deadlines, and those that are queued.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Node;
use super::scheduler::WatchId;
use crate::completion::Inflight;
use crate::reactor::{Progress, Reactor, Task};

/// Deadlines of asynchronous calls are looked at no more often than this.
const COARSE: Duration = Duration::from_millis(1);

/// The deadlines of a cache's calls.
pub struct Deadlines {
    inflight: Weak<Inflight>,
    /// None of them passes before.
    next: Instant,
    /// It has ended as it should.
    is_over: bool,
}

impl Deadlines {
    pub fn new(inflight: &Arc<Inflight>) -> Self {
        Self { inflight: Arc::downgrade(inflight), next: Instant::now(), is_over: false }
    }
}

impl Task for Deadlines {
    fn step(&mut self, now: Instant) -> Progress {
        if now < self.next {
            return Progress::Waits;
        }
        let Some(inflight) = self.inflight.upgrade() else { return Progress::Over };
        let next = inflight.expire(now);
        inflight.engines().for_each(|engine| engine.forget_completed());
        match next.or_else(|| inflight.end_watching_deadlines()) {
            // Not for each of many that pass one behind the other.
            Some(next) => self.next = next.max(now + COARSE),
            None => {
                self.is_over = true;
                return Progress::Over;
            }
        }
        Progress::Waits
    }

    fn until(&self) -> Option<Instant> {
        Some(self.next)
    }
}

impl Drop for Deadlines {
    /// After a panic, or with the reactor, it ends though there may be calls left: then another takes its place.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let Some(inflight) = self.inflight.upgrade() else { return };
        if let Some(next) = inflight.end_watching_deadlines()
            && let Ok(reactor) = Reactor::get()
        {
            let next = next.max(Instant::now() + COARSE);
            reactor.post(Box::new(Self { inflight: self.inflight.clone(), next, is_over: false }));
        }
    }
}

/// What is queued on a node: the links in use may be slow, or a thread that was to come may not.
pub struct Watch {
    node: Weak<Node>,
    id: WatchId,
    /// What was seen last, and how long ago that was.
    loads: Option<usize>,
    bound: Duration,
    /// When to look again.
    next: Instant,
}

impl Watch {
    pub fn new(node: Weak<Node>, id: WatchId) -> Self {
        Self { node, id, loads: None, bound: Duration::ZERO, next: Instant::now() }
    }
}

impl Task for Watch {
    fn step(&mut self, now: Instant) -> Progress {
        if now < self.next {
            return Progress::Waits;
        }
        let Some(node) = self.node.upgrade() else { return Progress::Over };
        let look = node.scheduler().look_after(self.id, self.loads, self.bound, Instant::now);
        let Some(look) = look else { return Progress::Over };
        (self.loads, self.bound) = (Some(look.loads), look.again_in);
        self.next = now + look.again_in;
        if let Some(missed) = look.missed {
            missed.report();
        }
        node.perform(look.actions);
        Progress::Waits
    }

    fn until(&self) -> Option<Instant> {
        Some(self.next)
    }
}

impl Drop for Watch {
    /// After a panic it ends though there may be calls left: then another takes its place.
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            let watch = node.scheduler().end_watch(self.id);
            if let Some(watch) = watch {
                node.begin_watch(watch);
            }
        }
    }
}
