//! Links that nobody uses. The server may close them, as it does with an idle timeout or when it stops: then they are
//! closed here too, or their sockets would stand half open until somebody wanted to use them.
//!
//! They are looked at when a link was found broken; about once a second while calls are made, over whichever links; and
//! now and then where none are made, by the reactor. It does not run for the sake of a single link of a program that
//! makes none but synchronous calls: whether that is closed the next call finds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::Node;
use super::lease::Lease;
use super::scheduler::Left;
use crate::backend::redis::link::connection::Link;
use crate::reactor::{Progress, Reactor, Task};
use crate::sys::timespec;

/// How often the unused links are looked at, and how often at the least where no calls are made.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(32);

/// When a node's unused links are to be looked at.
pub struct Looks {
    begun: Instant,
    /// In seconds after that.
    next: AtomicU64,
    /// Somebody looks at them now.
    is_looking: AtomicBool,
    /// The reactor has a watch over them.
    is_watching: AtomicBool,
    /// The one that a node holds for this alone, to which nobody leaves a call.
    reactor: OnceLock<Arc<Reactor>>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            next: AtomicU64::new(OFTEN.as_secs()),
            is_looking: AtomicBool::new(false),
            is_watching: AtomicBool::new(false),
            reactor: OnceLock::new(),
        }
    }
}

impl Looks {
    #[inline]
    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun).as_secs() >= self.next.load(Ordering::Relaxed)
    }

    fn put_off(&self, now: Instant) {
        let next = now.saturating_duration_since(self.begun) + OFTEN;
        self.next.store(next.as_secs(), Ordering::Relaxed);
    }
}

/// Ends a look, also after a panic.
struct Looking<'a>(&'a AtomicBool);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Node {
    /// Looks at the unused links, if that was not done of late.
    #[inline]
    pub fn look_at_unused_now_and_then(&self, now: Instant) {
        if self.looks.is_due(now) {
            self.looks.put_off(now);
            self.look_at_unused();
        }
    }

    /// Looks at the unused links, and closes those that are dead. The others stay where they are, for whoever wants
    /// one.
    #[cold]
    #[inline(never)]
    pub fn look_at_unused(&self) {
        if self.looks.is_looking.swap(true, Ordering::Acquire) {
            // This one may be of another's, which it has just closed.
            return;
        }
        let _looking = Looking(&self.looks.is_looking);
        let sockets: Vec<_> = self.scheduler().unused().map(|link| link.watched().0).collect();
        if sockets.is_empty() {
            return;
        }
        let mut fds: Vec<_> =
            sockets.iter().map(|socket| PollFd::new(&**socket, PollFlags::IN)).collect();
        if !poll(&mut fds, Some(&timespec(Duration::ZERO))).is_ok_and(|ready| ready > 0) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (socket, _) in sockets.into_iter().zip(ready).filter(|(_, is_ready)| *is_ready) {
            let is_it = |link: &Link| Arc::ptr_eq(&link.watched().0, &socket);
            let taken = self.scheduler().take_unused(is_it);
            // It is closed with its link.
            drop(socket);
            let Some(mut link) = taken else { continue };
            if !link.is_sound() {
                drop(Lease::of(self, link));
            } else if link.membership.is_some() {
                self.park_for_loop(link, Left::default());
            } else {
                // Under TLS not all that comes is for whoever reads.
                let put_back = self.scheduler().put_back_unused(link);
                match put_back {
                    Ok(actions) => self.perform(actions),
                    Err(link) => drop(Lease::of(self, link)),
                }
            }
        }
    }

    /// The node has another link than the first: the reactor is to look at those that are unused, if it can be had.
    #[cold]
    #[inline(never)]
    pub fn watch_several(&self) {
        if self.looks.is_watching.load(Ordering::Acquire) {
            return;
        }
        if let Ok(reactor) = Reactor::get() {
            self.watch_unused(self.looks.reactor.get_or_init(|| reactor));
        }
    }

    /// Has the reactor look at the unused links where nobody else does.
    pub fn watch_unused(&self, reactor: &Reactor) {
        if !self.looks.is_watching.swap(true, Ordering::AcqRel) {
            reactor.post(Box::new(UnusedWatch::new(self.me.clone())));
        }
    }
}

/// Over the unused links of a node, as long as it has links.
struct UnusedWatch {
    node: Weak<Node>,
    /// Any time that has passed.
    begun: Instant,
    again_in: Duration,
    next: Instant,
}

impl UnusedWatch {
    fn new(node: Weak<Node>) -> Self {
        let begun = Instant::now();
        Self { node, begun, again_in: OFTEN, next: begun + OFTEN }
    }
}

impl Task for UnusedWatch {
    fn step(&mut self, now: Instant) -> Progress {
        let Some(node) = self.node.upgrade() else { return Progress::Over };
        if now < self.next {
            return Progress::Waits;
        }
        self.again_in = match node.looks.is_due(now) {
            true => (2 * self.again_in).min(SELDOM),
            // Calls are made, or were a moment ago.
            false => OFTEN,
        };
        node.look_at_unused_now_and_then(now);
        if !node.has_links() {
            return Progress::Over;
        }
        self.next = now + self.again_in;
        Progress::Waits
    }

    fn until(&self) -> Option<Instant> {
        // A node that is gone is none to wait for.
        Some(if self.node.strong_count() == 0 { self.begun } else { self.next })
    }
}

impl Drop for UnusedWatch {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.looks.is_watching.store(false, Ordering::Release);
        }
    }
}
