//! Redis and Valkey: one server over TCP, TLS or a Unix socket.

mod batch;
mod clear;
mod command;
mod crowd;
mod decode;
mod dial;
mod encode;
mod handshake;
mod io;
mod lease;
mod link;
mod links;
mod pool;
mod resolve;
mod spin;
mod stream;
mod submit;
mod tls;
mod trust;
mod waiter;

use std::sync::Arc;
use std::time::Duration;

use redis::ConnectionInfo;

use self::command::{Expect, Pending, Replies};
use self::encode::Outbox;
use self::link::Exchanged;
use self::crowd::Entered;
use self::links::Links;
use super::Backend;
use crate::completion::{Account, Carried};
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
    pub fn new(config: &Config, info: &ConnectionInfo, account: &Arc<Account>) -> Self {
        Self {
            links: Links::new(config, info, Arc::clone(account)),
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
        self.insist(is_read, |second| {
            let mut lease = self.links.take(deadline, second)?;
            let at_once = lease.at_once && !second;
            let exchanged = lease.link()?.call(&encode, |_| None, &replies, deadline, at_once);
            Ok(lease.end(exchanged))
        })
    }

    /// The same for an operation, which may be carried out together with others' if it is small.
    fn carry_out(&self, op: &Op<'_>, deadline: &Deadline) -> Result<Answer> {
        let pending = || Pending::new(Expect::new(op));
        let is_small = command::is_small(op, &self.prefix);
        self.insist(op.is_read(), |second| {
            let mut lease = if is_small && !second {
                let copy = |out: &mut Vec<u8>| {
                    command::encode(op, &self.prefix, &mut Outbox { bytes: out, loose: None })
                };
                match self.links.enter(deadline, copy, Expect::new(op))? {
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
            let mut failure = match attempt(second)? {
                Exchanged::Answered { result, .. } => return result,
                Exchanged::Failed(failure) => failure,
            };
            if failure.may_be_tried_again(is_read, second) {
                second = true;
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
    fn call(&self, op: &Op<'_>) -> Result<Answer> {
        let deadline = Deadline::after(self.timeout);
        match op {
            Op::Clear if !self.prefix.is_empty() => self.clear_prefix(&deadline, &mut |_| Ok(())),
            op => match nothing_to_do(op) {
                Some(answer) => self.not_closed(answer),
                None => self.carry_out(op, &deadline),
            },
        }
    }

    fn submit(&self, op: &Op<'_>, call: Carried) -> Result<()> {
        if let Some(answer) = nothing_to_do(op) {
            call.decide(Ok(self.not_closed(answer)?));
            return Ok(());
        }
        if let Op::Clear = op
            && !self.prefix.is_empty()
        {
            return self.submit_clear(call);
        }
        self.links.submit(
            call,
            command::is_small(op, &self.prefix),
            |out| command::encode(op, &self.prefix, &mut Outbox { bytes: out, loose: None }),
            Expect::new(op),
        )
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
