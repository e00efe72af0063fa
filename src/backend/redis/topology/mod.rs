//! Which node an operation goes to. Today there is one kind of topology: a single server.

use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo};

use super::net::trust::Trust;
use super::node::{Endpoint, Node};
use crate::completion::Inflight;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::op::Op;

#[derive(Clone)]
pub enum Topology {
    Single(Arc<Node>),
}

impl Topology {
    pub fn single(
        config: &Config,
        info: &ConnectionInfo,
        inflight: &Arc<Inflight>,
        trust: &Arc<Trust>,
    ) -> Self {
        let endpoint = Box::new(Fixed(info.addr().clone()));
        Self::Single(Node::new(config, info, endpoint, Arc::clone(inflight), trust))
    }

    /// The node that an operation goes to.
    #[inline(always)]
    pub fn route(&self, _op: &Op<'_>) -> &Node {
        match self {
            Self::Single(node) => node,
        }
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        match self {
            Self::Single(node) => std::iter::once(&**node),
        }
    }
}

/// A server whose address does not change.
struct Fixed(ConnectionAddr);

impl Endpoint for Fixed {
    fn address(&self, _deadline: &Deadline) -> Result<ConnectionAddr> {
        Ok(self.0.clone())
    }
}
