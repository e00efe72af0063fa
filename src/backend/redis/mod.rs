//! Redis and Valkey: an operation on however many servers there are.
//!
//! The rooms, and which of them know of which, from the top: `topology` says which server, `node` is one server, `link`
//! one connection; below it `net` has sockets and knows no RESP, and `wire` has bytes and does no I/O.

mod clear;
pub mod link;
pub mod net;
pub mod node;
pub mod topology;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use redis::ConnectionInfo;

use self::net::trust::Trust;
use self::node::Node;
use self::topology::Topology;
use self::wire::command::{self, Plan};
use self::wire::encode::Outbox;
use self::wire::replies::{Expect, Pending};
use super::Backend;
use crate::completion::{Inflight, Promise};
use crate::config::{Config, Target};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Access, Answer, Op};

#[derive(Clone)]
pub struct Redis {
    topology: Topology,
    prefix: Arc<[u8]>,
    timeout: Duration,
    trust: Arc<Trust>,
}

impl Redis {
    pub fn new(config: &Config, info: &ConnectionInfo, inflight: &Arc<Inflight>) -> Self {
        Self::trusting(Trust::new(&config.tls), config, info, inflight)
    }

    fn trusting(
        trust: Trust,
        config: &Config,
        info: &ConnectionInfo,
        inflight: &Arc<Inflight>,
    ) -> Self {
        let trust = Arc::new(trust);
        Self {
            topology: Topology::single(config, info, inflight, &trust),
            prefix: config.prefix.as_slice().into(),
            timeout: config.timeout,
            trust,
        }
    }

    /// A call with a link to itself; once more, in other words, where the server has refused newer ones.
    #[inline(never)]
    fn call_exclusive(
        &self,
        node: &Node,
        op: &Op<'_>,
        expect: Expect,
        deadline: Deadline,
    ) -> Result<Answer> {
        let result = node.call_exclusive(*op, expect, &self.prefix, deadline);
        let Err(error) = result else { return result };
        let Some((expect, request)) = command::older_form(expect, &error) else {
            return Err(error);
        };
        let encode = |out: &mut Outbox<'_, '_>| out.arguments(request);
        node.exchange(Access::Write, encode, || Pending::new(expect), &deadline)
    }

    /// An answer that needs no server.
    fn not_closed<T>(&self, answer: T) -> Result<T> {
        match self.topology.nodes().any(Node::is_closed) {
            true => Err(Error::from(Kind::Closed)),
            false => Ok(answer),
        }
    }
}

impl Backend for Redis {
    #[inline(always)]
    fn call(&self, op: &Op<'_>) -> Result<Answer> {
        let deadline = Deadline::after(self.timeout);
        let node = self.topology.route(op);
        match command::plan(op, &self.prefix) {
            Plan::Shared(expect) => node.call_shared(op, expect, &self.prefix, &deadline),
            Plan::Exclusive(expect) => self.call_exclusive(node, op, expect, deadline),
            Plan::ClearPrefix => self.clear_prefix(&deadline, &mut |_| Ok(())),
            Plan::Answered(answer) => self.not_closed(answer),
        }
    }

    fn submit(&self, op: &Op<'_>, call: Promise) -> Result<()> {
        let node = self.topology.route(op);
        let encode = |out: &mut Vec<u8>| {
            command::encode(op, &self.prefix, &mut Outbox { bytes: out, borrowed: None })
        };
        match command::plan(op, &self.prefix) {
            Plan::Shared(expect) => node.submit_shared(call, encode, expect),
            Plan::Exclusive(expect) => node.submit_exclusive(call, encode, expect),
            Plan::ClearPrefix => self.submit_clear(call),
            Plan::Answered(answer) => {
                call.complete(Ok(self.not_closed(answer)?));
                Ok(())
            }
        }
    }

    fn close(&self) {
        self.topology.nodes().for_each(Node::close);
    }

    fn abandon(&self) {
        self.topology.nodes().for_each(Node::abandon);
    }

    fn reopen(&self, config: &Config, inflight: &Arc<Inflight>) -> Result<Box<dyn Backend>> {
        match &config.target {
            Target::Redis(info) => {
                Ok(Box::new(Self::trusting(self.trust.inherit(), config, info, inflight)))
            }
            _ => super::open(config, inflight),
        }
    }
}
