//! A batch that the reactor drives.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::Node;
use super::lease::Lease;
use super::submit::is_shared;
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::drive::{NonBlocking, Pause};
use crate::backend::redis::link::pipeline::Driven;
use crate::deadline::Deadline;
use crate::reactor::{Progress, Task};

/// A link with a batch. Dropped, it ends with the batch. A batch that no answer comes to is given up when nobody waits
/// for it any more but threads, who go on with it themselves.
pub struct Job {
    node: Arc<Node>,
    link: Option<Box<Link>>,
    begun: bool,
    /// Nobody waits for asynchronous calls in it after this.
    until: Instant,
    /// How long the link may be silent, and when it has been so for long enough that what waits behind its first call
    /// goes over another as well.
    slow: Duration,
    spread_at: Option<Instant>,
}

impl Job {
    pub fn new(node: Arc<Node>, link: Box<Link>) -> Self {
        Self {
            node,
            link: Some(link),
            begun: false,
            until: Instant::now(),
            slow: Duration::MAX,
            spread_at: None,
        }
    }

    /// Looks at the link before the batch is begun.
    fn begin(&mut self) {
        self.begun = true;
        let deadline = Deadline::after(self.node.timeout);
        let now = deadline.started();
        self.until = deadline.instant();
        let Some(link) = self.link.take() else { return };
        let is_fresh = link.batch.sent == 0;
        if !is_fresh {
            // Somebody has begun it, and left.
            self.until = link.batch.last_deadline().unwrap_or(now);
        }
        let mut lease = Lease::of(&self.node, link);
        if lease.link().is_ok_and(|link| is_shared(link)) {
            self.node.top_up_unbegun(&mut lease);
        }
        self.slow = self.node.scheduler().slow();
        self.link = self.node.revalidate_loaded(lease, now);
        if is_fresh && let Some(link) = self.link.as_deref_mut() {
            link.touch(now);
        }
    }

    /// Reads behind a call that is slow go over another link as well.
    fn spread(&mut self, now: Instant) {
        let Some(link) = self.link.as_deref_mut() else { return };
        self.spread_at = None;
        if link.batch.left() <= 1 {
            return;
        }
        let at = link.last_used().checked_add(self.slow).filter(|at| now < *at);
        if at.is_some() {
            self.spread_at = at;
        } else if link.batch.has_reads_behind() {
            let may_spread = self.node.scheduler().may_spread(|| now);
            match may_spread {
                true => self.node.spread(link.batch.double_reads_behind()),
                false => self.spread_at = now.checked_add(self.slow),
            }
        }
    }

    fn drive(&mut self, now: Instant) -> Progress {
        let Some(link) = self.link.as_deref_mut() else { return Progress::Over };
        let left = link.batch.left();
        let driven = link.drive_batch(&*self.node, &mut NonBlocking::default());
        let Driven::Paused(pause) = driven else {
            if let Some(link) = self.link.take() {
                Lease::of(&self.node, link).after(driven, None);
            }
            return Progress::Over;
        };
        if link.batch.left() < left {
            link.heard(now);
            self.node.deliver(link);
            if self.node.scheduler().keep_busy(link) {
                self.until = Deadline::after(self.node.timeout).instant();
                return Progress::Yields;
            }
        }
        if pause == Pause::Yield { Progress::Yields } else { Progress::Waits }
    }
}

impl Task for Job {
    fn step(&mut self, now: Instant) -> Progress {
        if !self.begun {
            self.begin();
        }
        let progress = self.drive(now);
        if progress == Progress::Waits {
            self.spread(now);
        }
        if progress != Progress::Over && now >= self.until {
            if let Some(link) = self.link.take() {
                Lease::of(&self.node, link).hand_over_or_close();
            }
            return Progress::Over;
        }
        progress
    }

    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let (fd, events) = self.link.as_deref()?.interest();
        Some((fd.as_fd(), events))
    }

    fn until(&self) -> Option<Instant> {
        Some(self.spread_at.map_or(self.until, |at| at.min(self.until)))
    }

    fn spin(&self) -> Duration {
        self.node.spin
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            drop(Lease::of(&self.node, link));
        }
    }
}
