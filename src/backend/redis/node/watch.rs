//! What the reactor looks after for asynchronous calls: their deadlines, those that are queued, and what event loops
//! leave lying.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::Node;
use super::scheduler::{LOOK, WatchId};
use crate::completion::{Inflight, Membership};
use crate::reactor::{Progress, Reactor, Task};
use crate::sys::Poller;

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
        let is_due = inflight.next_deadline().is_some_and(|next| next <= now);
        if is_due {
            // Before who waits for them calls again.
            inflight.engines().for_each(|engine| engine.note_timeout(now));
        }
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

/// Has who sleeps over the loops of a node look at them again.
#[derive(Default)]
pub struct Alarm(AtomicBool);

impl Alarm {
    /// The reactor is to be roused as well.
    pub fn ring(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What the loops of a node have under way: one may not come. Looks at times, and sleeps where nothing comes at all.
pub struct LoopWatch {
    node: Weak<Node>,
    alarm: Arc<Alarm>,
    /// Any time that has passed.
    begun: Instant,
    next: Instant,
    silent: Option<SilentLinks>,
    is_over: bool,
}

/// What a watch sleeps on: the sockets of links that nothing comes over.
struct SilentLinks {
    poller: Arc<Poller>,
    /// Those that have left their loops tell no more.
    links: Vec<Weak<Membership>>,
}

impl Drop for SilentLinks {
    fn drop(&mut self) {
        self.links.iter().filter_map(Weak::upgrade).for_each(|link| link.stop_telling());
    }
}

impl LoopWatch {
    pub fn new(node: Weak<Node>, alarm: &Arc<Alarm>) -> Self {
        let begun = Instant::now();
        let (alarm, next) = (Arc::clone(alarm), begun + LOOK);
        Self { node, alarm, begun, next, silent: None, is_over: false }
    }

    fn must_look(&self, now: Instant) -> bool {
        let is_told = match &self.silent {
            Some(silent) => self.alarm.0.load(Ordering::Acquire) || silent.poller.is_ready(),
            None => false,
        };
        is_told || now >= self.next
    }

    /// Sleeps until something comes, or the calls of the loops have met their deadlines.
    fn sleep(&mut self, node: &Node, now: Instant) {
        let Ok(poller) = Poller::new() else { return };
        self.alarm.0.store(false, Ordering::Release);
        let Some(links) = node.scheduler().sleep_over_loops() else { return };
        let silent = SilentLinks {
            poller: Arc::new(poller),
            links: links.iter().map(Arc::downgrade).collect(),
        };
        if links.iter().all(|link| link.tell(&silent.poller)) {
            self.next = now + node.timeout;
            self.silent = Some(silent);
        } else {
            node.scheduler().watch_loops();
        }
    }
}

impl Task for LoopWatch {
    fn step(&mut self, now: Instant) -> Progress {
        let Some(node) = self.node.upgrade() else { return Progress::Over };
        if !self.must_look(now) {
            return Progress::Waits;
        }
        if self.silent.take().is_some() {
            node.scheduler().watch_loops();
        }
        let suspects = node.scheduler().look_at_loops(now);
        let Some(suspects) = suspects else {
            self.is_over = true;
            return Progress::Over;
        };
        self.next = now + LOOK;
        let mut has_ready = false;
        for suspect in suspects.iter().filter(|suspect| suspect.is_ready()) {
            has_ready = true;
            let actions = node.scheduler().take_lying(suspect, Instant::now);
            node.perform(actions);
        }
        let silent = suspects.iter().filter(|suspect| suspect.is_silent);
        silent.for_each(|suspect| node.hold_for_loop(suspect));
        if !suspects.is_empty() && !has_ready {
            self.sleep(&node, now);
        }
        Progress::Waits
    }

    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.silent.as_ref().map(|silent| (silent.poller.as_fd(), PollFlags::IN))
    }

    fn until(&self) -> Option<Instant> {
        let is_told = self.silent.is_some() && self.alarm.0.load(Ordering::Acquire);
        let is_due = is_told || self.node.strong_count() == 0;
        Some(if is_due { self.begun } else { self.next })
    }
}

impl Drop for LoopWatch {
    /// After a panic the next call of a loop begins another.
    fn drop(&mut self) {
        if !self.is_over
            && let Some(node) = self.node.upgrade()
        {
            node.scheduler().end_to_watch_loops();
        }
    }
}
