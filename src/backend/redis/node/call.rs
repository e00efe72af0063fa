//! Synchronous calls.

use std::mem::ManuallyDrop;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Node;
use super::lease::Lease;
use super::revalidate::Revalidate;
use super::scheduler::{Checkout, Scheduler};
use crate::backend::redis::link::call::Start;
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::outcome::{Attempts, Exchanged};
use crate::backend::redis::wire::command;
use crate::backend::redis::wire::encode::Outbox;
use crate::backend::redis::wire::replies::{Expect, Pending, Replies};
use crate::deadline::Deadline;
use crate::error::{Kind, Result};
use crate::op::{Access, Answer, Op};

/// A thread that waits for a link of its own looks this often by itself: nobody is told that one may be dialled again.
const NEXT_LOOK: Duration = Duration::from_secs(1);

impl Node {
    /// Carries out an operation that may share a link with others. There are functions of their own for what is less
    /// usual, so that what is usual costs less. They take copies, so that only they need what is copied in memory.
    #[inline(always)]
    pub fn call_shared(
        &self,
        op: &Op<'_>,
        expect: Expect,
        prefix: &[u8],
        deadline: &Deadline,
    ) -> Result<Answer> {
        let mut scheduler = self.scheduler();
        let Some(link) = scheduler.take_at_hand() else {
            return self.call_queued(scheduler, *op, expect, prefix, *deadline);
        };
        drop(scheduler);
        let is_ready = self.is_ready(&link, deadline.started());
        let lease = Lease::new(self, link);
        if !is_ready {
            return self.call_over_idle(lease, *op, expect, prefix, *deadline);
        }
        self.call_over(lease, op, expect, prefix, deadline)
    }

    #[cold]
    #[inline(never)]
    fn call_queued(
        &self,
        scheduler: MutexGuard<'_, Scheduler<Link>>,
        op: Op<'_>,
        expect: Expect,
        prefix: &[u8],
        deadline: Deadline,
    ) -> Result<Answer> {
        use super::combine::Joined;
        let copy = |out: &mut Vec<u8>| {
            command::encode(&op, prefix, &mut Outbox { bytes: out, borrowed: None })
        };
        match self.join(scheduler, &deadline, copy, expect)? {
            Joined::Alone(lease) => self.call_over_idle(lease, op, expect, prefix, deadline),
            Joined::Over(exchanged) => {
                self.call_alone(op, expect, prefix, deadline, Some(exchanged))
            }
        }
    }

    /// Over a link that may not be there any more.
    #[cold]
    #[inline(never)]
    fn call_over_idle(
        &self,
        lease: Lease<'_>,
        op: Op<'_>,
        expect: Expect,
        prefix: &[u8],
        deadline: Deadline,
    ) -> Result<Answer> {
        let lease = match self.revalidate(lease, &deadline, Revalidate::Used) {
            Some(lease) => lease,
            None => self.take(&deadline, Revalidate::All)?,
        };
        self.call_over(lease, &op, expect, prefix, &deadline)
    }

    #[inline(always)]
    fn call_over(
        &self,
        mut lease: Lease<'_>,
        op: &Op<'_>,
        expect: Expect,
        prefix: &[u8],
        deadline: &Deadline,
    ) -> Result<Answer> {
        let start = lease.start;
        let mut other = None;
        match lease.link()?.call_shared(op, expect, prefix, deadline, start, &mut other) {
            Some(answer) => {
                // It stays in registers, for a panic in between would leak it rather than drop it. And there is nothing
                // in the other to drop, which the compiler does not see.
                let answer = ManuallyDrop::new(answer);
                lease.give_back_at_once();
                std::mem::forget(other);
                Ok(ManuallyDrop::into_inner(answer))
            }
            None => {
                let first = other.map(|exchanged| lease.end(exchanged));
                self.call_alone(*op, expect, prefix, *deadline, first)
            }
        }
    }

    /// Carries an operation out over a link that it has to itself.
    #[inline(never)]
    pub fn call_exclusive(
        &self,
        op: Op<'_>,
        expect: Expect,
        prefix: &[u8],
        deadline: Deadline,
    ) -> Result<Answer> {
        self.call_alone(op, expect, prefix, deadline, None)
    }

    /// The same. `first`: what a first attempt came to.
    #[inline(never)]
    fn call_alone(
        &self,
        op: Op<'_>,
        expect: Expect,
        prefix: &[u8],
        deadline: Deadline,
        mut first: Option<Exchanged<Answer>>,
    ) -> Result<Answer> {
        self.with_retry(op.access(), &deadline, |attempt| {
            if let Some(exchanged) = first.take() {
                return Ok(exchanged);
            }
            let (mut lease, start) = attempt.lease()?;
            let exchanged = lease.link()?.call(
                |out| command::encode(&op, prefix, out),
                |inbox| expect.quick(inbox),
                |is_first| Pending::of_link(expect, is_first),
                &deadline,
                start,
            );
            Ok(lease.end(exchanged))
        })
    }

    /// Sends a request that is no operation of its own, over a link that it has to itself.
    pub fn exchange<'a, R: Replies + Send + 'static>(
        &self,
        access: Access,
        encode: impl Fn(&mut Outbox<'_, 'a>) -> Result<()>,
        replies: impl Fn() -> R,
        deadline: &Deadline,
    ) -> Result<R::Output> {
        self.with_retry(access, deadline, |attempt| {
            let (mut lease, start) = attempt.lease()?;
            let exchanged = lease.link()?.call(&encode, |_| None, |_| replies(), deadline, start);
            Ok(lease.end(exchanged))
        })
    }

    /// Attempts a call, and attempts it again over another link where that may be.
    fn with_retry<T>(
        &self,
        access: Access,
        deadline: &Deadline,
        mut call: impl FnMut(&Attempt<'_>) -> Result<Exchanged<T>>,
    ) -> Result<T> {
        let mut attempts = Attempts::default();
        let mut attempt = Attempt { node: self, deadline, is_first: true };
        loop {
            let mut failure = match call(&attempt)? {
                Exchanged::Answered { result, .. } => return result,
                Exchanged::Failed(failure) => failure,
            };
            if self.may_retry(&failure, &mut attempts, access) {
                attempt.is_first = false;
                continue;
            }
            if failure.silent {
                self.note_silence(deadline.started());
            }
            if failure.lost
                && let Some(refusal) = self.refusal()
            {
                failure.error = refusal.into();
            }
            return Err(failure.into_error(access));
        }
    }

    /// A link that is not shared with anybody.
    fn take(&self, deadline: &Deadline, which: Revalidate) -> Result<Lease<'_>> {
        loop {
            match self.check_out(deadline)? {
                Taken::Lease(lease) => {
                    if let Some(lease) = self.revalidate(lease, deadline, which) {
                        return Ok(lease);
                    }
                }
                Taken::Dialled(Err(error)) if error.is_no_room() && self.has_links() => {}
                Taken::Dialled(dialled) => return dialled,
            }
        }
    }

    /// Takes an idle link, or dials one; waits until either can be done.
    fn check_out(&self, deadline: &Deadline) -> Result<Taken<'_>> {
        let mut scheduler = self.scheduler();
        let mut has_waited = false;
        loop {
            let checkout = scheduler.check_out_exclusive(Instant::now);
            let left = deadline.remaining();
            if has_waited && (!matches!(checkout, Checkout::Wait) || left.is_zero()) {
                scheduler.end_to_wait();
            }
            match checkout {
                Checkout::Refused => return Err(scheduler.refusal().into()),
                Checkout::Link(link) => {
                    drop(scheduler);
                    let lease = match has_waited {
                        true => Lease::of(self, link),
                        false => Lease::new(self, link),
                    };
                    return Ok(Taken::Lease(lease));
                }
                Checkout::Dial(reservation) => {
                    drop(scheduler);
                    return Ok(Taken::Dialled(self.dial_reserved(reservation, deadline)));
                }
                Checkout::Wait if left.is_zero() => {
                    return Err(Kind::Timeout("waiting for a free connection").into());
                }
                Checkout::Wait if !has_waited => {
                    has_waited = true;
                    scheduler.begin_to_wait();
                    scheduler = self.unpark(scheduler);
                }
                Checkout::Wait => {
                    let woken = self.freed.wait_timeout(scheduler, left.min(NEXT_LOOK));
                    scheduler = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Has the reactor go on with a link that was left to a thread: others want links.
    pub fn unpark<'a>(
        &'a self,
        mut scheduler: MutexGuard<'a, Scheduler<Link>>,
    ) -> MutexGuard<'a, Scheduler<Link>> {
        let Some(link) = scheduler.unpark_for_others(Instant::now) else { return scheduler };
        drop(scheduler);
        self.to_reactor(link);
        self.scheduler()
    }
}

enum Taken<'a> {
    Lease(Lease<'a>),
    Dialled(Result<Lease<'a>>),
}

/// One of the attempts at a call.
struct Attempt<'a> {
    node: &'a Node,
    deadline: &'a Deadline,
    is_first: bool,
}

impl<'a> Attempt<'a> {
    /// A link of its own, and whether anything was waited for since the deadline was set.
    fn lease(&self) -> Result<(Lease<'a>, Start)> {
        let which = if self.is_first { Revalidate::Used } else { Revalidate::All };
        let lease = self.node.take(self.deadline, which)?;
        let start = if self.is_first { lease.start } else { Start::AfterWait };
        Ok((lease, start))
    }
}
