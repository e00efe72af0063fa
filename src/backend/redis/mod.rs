//! Redis and Valkey: one server over TCP, TLS or a Unix socket.

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

use std::time::Duration;

use redis::ConnectionInfo;

use self::command::{Pending, Replies};
use self::link::Exchanged;
use self::links::Links;
use super::Backend;
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
        encode: impl Fn(&mut Vec<u8>) -> Result<()>,
        replies: impl Fn() -> R,
        deadline: &Deadline,
    ) -> Result<R::Output> {
        let mut second = false;
        loop {
            let mut lease = self.links.take(deadline, second)?;
            let at_once = lease.at_once && !second;
            let failure = match lease.link()?.call(&encode, replies(), deadline, at_once) {
                Exchanged::Answered { result, link_is_sound } => {
                    if link_is_sound {
                        lease.give_back();
                    }
                    return result;
                }
                Exchanged::Failed(failure) => failure,
            };
            drop(lease);
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
            op => self.exchange(
                op.is_read(),
                |out| command::encode(op, &self.prefix, out),
                || Pending::new(op),
                &deadline,
            ),
        }
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
