//! Redis and Valkey: one server over TCP, TLS or a Unix socket.

mod batch;
mod clear;
mod command;
mod decode;
mod dial;
mod encode;
mod handshake;
mod link;
mod links;
mod resolve;
mod spin;
mod stream;
mod tls;
mod trust;
mod waiter;

use std::time::Duration;

use redis::ConnectionInfo;

use self::command::{Pending, Replies};
use self::encode::Outbox;
use self::link::Exchanged;
use self::links::{Entered, Links};
use super::Backend;
use crate::completion::Carried;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Answer, Op};
use crate::value::Values;

pub struct Redis {
    links: Links,
    prefix: Vec<u8>,
    timeout: Duration,
}

impl Redis {
    pub fn new(config: &Config, info: &ConnectionInfo) -> Self {
        Self {
            links: Links::new(config, info),
            prefix: config.prefix.clone(),
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
        self.insist(is_read, |second| {
            let mut lease = self.links.take(deadline, second)?;
            let at_once = lease.at_once && !second;
            let exchanged = lease.link()?.call(&encode, |_| None, &replies, deadline, at_once);
            Ok(lease.end(exchanged))
        })
    }

    /// The same for an operation, which may be carried out together with others' if it is small.
    fn carry_out(&self, op: &Op<'_>, deadline: &Deadline) -> Result<Answer> {
        let pending = || Pending::new(op);
        let is_small = command::is_small(op, &self.prefix);
        self.insist(op.is_read(), |second| {
            let mut lease = if is_small && !second {
                let copy = |out: &mut Vec<u8>| {
                    command::encode(op, &self.prefix, &mut Outbox { bytes: out, loose: None })
                };
                match self.links.enter(deadline, copy, pending)? {
                    Entered::Leased(lease) => lease,
                    Entered::Done(exchanged) => return Ok(exchanged),
                }
            } else {
                self.links.take(deadline, second)?
            };
            let at_once = lease.at_once && !second;
            let exchanged = lease.link()?.call(
                |out| command::encode(op, &self.prefix, out),
                |inbox| command::quick(op, inbox),
                pending,
                deadline,
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
        let mut second = false;
        loop {
            let failure = match attempt(second)? {
                Exchanged::Answered { result, .. } => return result,
                Exchanged::Failed(failure) => failure,
            };
            if failure.lost && !second && (is_read || !failure.sent) {
                second = true;
                continue;
            }
            let mut error = failure.error;
            if failure.lost && self.links.is_closed() {
                error = Kind::Closed.into();
            }
            return Err(if failure.sent && !is_read { error.maybe_applied() } else { error });
        }
    }
}

impl Backend for Redis {
    fn call(&self, op: &Op<'_>) -> Result<Answer> {
        let deadline = Deadline::after(self.timeout);
        match op {
            Op::MGet { keys } if keys.count() == 0 => {
                self.not_closed(Answer::Values(Values::Each(Vec::new())))
            }
            Op::MSet { items, .. } if items.count() == 0 => self.not_closed(Answer::Done),
            Op::MDelete { keys } if keys.count() == 0 => self.not_closed(Answer::Deleted(0)),
            Op::Clear if !self.prefix.is_empty() => self.clear_prefix(&deadline),
            op => self.carry_out(op, &deadline),
        }
    }

    fn submit(&self, _op: &Op<'_>, _call: Carried) -> Result<()> {
        Err(Kind::Unsupported("asynchronous calls on Redis are not there yet".into()).into())
    }

    fn close(&self) {
        self.links.close();
    }

    fn abandon(&self) {
        self.links.abandon();
    }
}

impl Redis {
    /// An answer that needs no server.
    fn not_closed(&self, answer: Answer) -> Result<Answer> {
        if self.links.is_closed() { Err(Error::from(Kind::Closed)) } else { Ok(answer) }
    }
}
