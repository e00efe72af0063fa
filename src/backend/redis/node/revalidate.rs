//! Whether a link that was idle is still there.

use std::time::{Duration, Instant};

use super::Node;
use super::lease::Lease;
use crate::backend::redis::link::call::Start;
use crate::backend::redis::link::connection::Link;
use crate::deadline::Deadline;

/// A link that was used longer ago than this is looked at before it is used again. Shorter than a server takes to go
/// away and come back. Where a call takes longer than this, or calls are further apart, the look costs next to nothing
/// beside it.
const RECENT: Duration = Duration::from_micros(100);

/// Which links are revalidated before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revalidate {
    /// Those that were not used of late.
    Idle,
    /// All: one has just been found broken.
    All,
}

/// What must be done before a link is used.
pub enum Check {
    Nothing,
    /// Look whether it is still there, as far as this machine knows.
    Look,
    /// Look, and ask PING.
    Ask,
}

impl Node {
    /// Whether a link was used so lately that it need not be revalidated.
    #[inline(always)]
    pub fn is_recent(link: &Link, now: Instant) -> bool {
        link.was_used_within(RECENT, now)
    }

    pub fn check_before_use(&self, link: &Link, now: Instant, which: Revalidate) -> Check {
        let idle = link.idle_at(now);
        if idle < RECENT && which == Revalidate::Idle {
            return Check::Nothing;
        }
        self.look_at_unused_now_and_then(now);
        match self.health_check.is_some_and(|interval| idle > interval) {
            true => Check::Ask,
            false => Check::Look,
        }
    }

    /// The link, if it is still there.
    pub fn revalidate<'a>(
        &'a self,
        mut lease: Lease<'a>,
        deadline: &Deadline,
        which: Revalidate,
    ) -> Option<Lease<'a>> {
        let link = lease.link().ok()?;
        let is_sound = match self.check_before_use(link, deadline.started(), which) {
            Check::Nothing => true,
            Check::Look => link.is_sound(),
            Check::Ask => {
                let answers = link.is_sound() && answers_in_time(link, deadline);
                lease.start = Start::AfterWait;
                answers
            }
        };
        is_sound.then_some(lease)
    }
}

/// A question to a link that hangs must leave time for a new one.
pub fn answers_in_time(link: &mut Link, deadline: &Deadline) -> bool {
    link.answers(&deadline.at_most(deadline.remaining() / 2))
}
