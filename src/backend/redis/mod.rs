//! Redis and Valkey: one server over TCP, TLS or a Unix socket.

mod clear;
pub mod link;
pub mod net;
pub mod node;
pub mod wire;

use std::mem::ManuallyDrop;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use redis::ConnectionInfo;

use super::Backend;
use crate::backend::redis::link::connection::Exchanged;
use crate::backend::redis::node::combine::Entered;
use crate::backend::redis::node::lease::Lease;
use crate::backend::redis::node::links::{Links, UNSEEN};
use crate::backend::redis::node::pool::Pool;
use crate::backend::redis::wire::encode::Outbox;
use crate::backend::redis::wire::replies::{Expect, Pending, Replies};
use crate::backend::redis::wire::{command, replies};
use crate::completion::{Inflight, Promise};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Answer, Op};
use crate::value::Values;

#[derive(Clone)]
pub struct Redis {
    links: Arc<Links>,
    prefix: Arc<[u8]>,
    timeout: Duration,
}

impl Redis {
    pub fn new(config: &Config, info: &ConnectionInfo, inflight: &Arc<Inflight>) -> Self {
        Self {
            links: Links::new(config, info, Arc::clone(inflight)),
            prefix: config.prefix.as_slice().into(),
            timeout: config.timeout,
        }
    }

    /// Sends one request over one link. What was lost before anything was sent goes over another link, and a read is sent
    /// once more.
    fn exchange<R: Replies>(
        &self,
        is_read: bool,
        encode: impl Fn(&mut Outbox<'_, '_>) -> Result<()>,
        replies: impl Fn() -> R,
        deadline: &Deadline,
    ) -> Result<R::Output> {
        self.insist(is_read, |again| {
            let mut lease = self.links.take(deadline, again)?;
            let at_once = lease.at_once && !again;
            let exchanged = lease.link()?.call(&encode, |_| None, &replies, deadline, at_once);
            Ok(lease.end(exchanged))
        })
    }

    /// The same for a small operation, which may be carried out together with others'. There are functions of their own for what
    /// is less usual, so that what is usual costs less. They take copies, so that only they need what is copied in memory.
    #[inline(always)]
    fn carry_out_small(&self, op: &Op<'_>, deadline: &Deadline) -> Result<Answer> {
        let mut pool = self.links.pool();
        let Some(link) = pool.take_at_hand() else {
            return self.carry_out_in_crowd(pool, *op, *deadline);
        };
        let round = pool.round;
        drop(pool);
        if !link.was_used_within(UNSEEN, deadline.started()) {
            let lease = Lease::new(&self.links, Some(link), round);
            return self.carry_out_over_unseen(lease, *op, *deadline);
        }
        self.carry_out_over(Lease::new(&self.links, Some(link), round), op, deadline)
    }

    #[cold]
    #[inline(never)]
    fn carry_out_in_crowd(
        &self,
        pool: MutexGuard<'_, Pool>,
        op: Op<'_>,
        deadline: Deadline,
    ) -> Result<Answer> {
        let copy = |out: &mut Vec<u8>| {
            command::encode(&op, &self.prefix, &mut Outbox { bytes: out, loose: None })
        };
        match self.links.enter(pool, &deadline, copy, Expect::new(&op))? {
            Entered::Leased(lease) => self.carry_out_over_unseen(lease, op, deadline),
            Entered::Done(exchanged) => self.carry_out_alone(op, deadline, Some(exchanged)),
        }
    }

    #[cold]
    #[inline(never)]
    fn carry_out_over_unseen(
        &self,
        lease: Lease<'_>,
        op: Op<'_>,
        deadline: Deadline,
    ) -> Result<Answer> {
        let lease = self.links.look_at(lease, &deadline)?;
        self.carry_out_over(lease, &op, &deadline)
    }

    #[inline(always)]
    fn carry_out_over(
        &self,
        mut lease: Lease<'_>,
        op: &Op<'_>,
        deadline: &Deadline,
    ) -> Result<Answer> {
        let at_once = lease.at_once;
        let mut other = None;
        match lease.link()?.call_small(op, &self.prefix, deadline, at_once, &mut other) {
            Some(answer) => {
                // It stays in registers, for a panic in between would leak it rather than drop it. And there is nothing in the
                // other to drop, which the compiler does not see.
                let answer = ManuallyDrop::new(answer);
                lease.give_back();
                std::mem::forget(other);
                Ok(ManuallyDrop::into_inner(answer))
            }
            None => {
                let first = other.map(|exchanged| lease.end(exchanged));
                self.carry_out_alone(*op, *deadline, first)
            }
        }
    }

    /// Carries an operation out over a link of its own. `first`: what a first attempt came to.
    #[inline(never)]
    fn carry_out_alone(
        &self,
        op: Op<'_>,
        deadline: Deadline,
        mut first: Option<Exchanged<Answer>>,
    ) -> Result<Answer> {
        self.insist(op.is_read(), |again| {
            if let Some(exchanged) = first.take() {
                return Ok(exchanged);
            }
            let mut lease = self.links.take(&deadline, again)?;
            let at_once = lease.at_once && !again;
            let exchanged = lease.link()?.call(
                |out| command::encode(&op, &self.prefix, out),
                |inbox| replies::quick(&op, inbox),
                || Pending::new(Expect::new(&op)),
                &deadline,
                at_once,
            );
            Ok(lease.end(exchanged))
        })
    }

    fn insist<T>(
        &self,
        is_read: bool,
        mut attempt: impl FnMut(bool) -> Result<Exchanged<T>>,
    ) -> Result<T> {
        let (mut again, mut second) = (false, false);
        loop {
            let mut failure = match attempt(again)? {
                Exchanged::Answered { result, .. } => return result,
                Exchanged::Failed(failure) => failure,
            };
            let refused = failure.is_refusal();
            if failure.may_be_tried_again(is_read, second) && (!refused || self.links.has_some()) {
                again = true;
                second |= !refused;
                continue;
            }
            if failure.lost && self.links.is_closed() {
                failure.error = Kind::Closed.into();
            }
            return Err(failure.into_error(is_read));
        }
    }
}

impl Backend for Redis {
    #[inline(always)]
    fn call(&self, op: &Op<'_>) -> Result<Answer> {
        let deadline = Deadline::after(self.timeout);
        if command::is_small(op, &self.prefix) {
            return self.carry_out_small(op, &deadline);
        }
        match op {
            Op::Clear if !self.prefix.is_empty() => self.clear_prefix(&deadline, &mut |_| Ok(())),
            op => match nothing_to_do(op) {
                Some(answer) => self.not_closed(answer),
                None => self.carry_out_alone(*op, deadline, None),
            },
        }
    }

    fn submit(&self, op: &Op<'_>, call: Promise) -> Result<()> {
        let encode = |out: &mut Vec<u8>| {
            command::encode(op, &self.prefix, &mut Outbox { bytes: out, loose: None })
        };
        if command::is_small(op, &self.prefix) {
            return self.links.submit(call, encode, Expect::new(op));
        }
        match op {
            Op::Clear if !self.prefix.is_empty() => self.submit_clear(call),
            op => match nothing_to_do(op) {
                Some(answer) => {
                    call.complete(Ok(self.not_closed(answer)?));
                    Ok(())
                }
                None => self.links.submit_large(call, encode, Expect::new(op)),
            },
        }
    }

    fn close(&self) {
        self.links.close();
    }

    fn abandon(&self) {
        self.links.abandon();
    }
}

/// The answer to an empty batch, which needs no server.
fn nothing_to_do(op: &Op<'_>) -> Option<Answer> {
    match op {
        Op::MGet { keys } if keys.count() == 0 => Some(Answer::Values(Values::Each(Vec::new()))),
        Op::MSet { items, .. } if items.count() == 0 => Some(Answer::Done),
        Op::MDelete { keys } if keys.count() == 0 => Some(Answer::Deleted(0)),
        _ => None,
    }
}

impl Redis {
    /// An answer that needs no server.
    fn not_closed<T>(&self, answer: T) -> Result<T> {
        if self.links.is_closed() { Err(Error::from(Kind::Closed)) } else { Ok(answer) }
    }
}
