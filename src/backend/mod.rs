//! What carries operations out: the trait, and the table from a configuration to a backend.

use std::sync::Arc;

use crate::completion::{Inflight, Promise};
use crate::config::{Config, Target};
use crate::error::{Kind, Result};
use crate::op::{Answer, Condition, Op, Ttl};

pub mod dummy;
pub mod memory;
pub mod redis;

/// Carries operations out. Any thread may call it at any time; a call returns within its deadline.
pub trait Backend: Send + Sync {
    fn call(&self, op: &Op<'_>) -> Result<Answer>;

    /// [`Backend::call`] of `Op::Get`. This and the next are what callers do most, so each is compiled by itself,
    /// without the questions which operation it is.
    fn get(&self, key: &[u8]) -> Result<Answer> {
        self.call(&Op::Get { key })
    }

    /// The same of `Op::Set`.
    fn set(&self, key: &[u8], value: &[u8], ttl_ms: Ttl, condition: Condition) -> Result<Answer> {
        self.call(&Op::Set { key, value, ttl_ms, condition })
    }

    /// Takes an asynchronous call; never blocks. `Ok`: the call will be completed, if it is not already. An error: it
    /// is refused, and as if it had never been. The operation is borrowed until this returns.
    fn submit(&self, op: &Op<'_>, call: Promise) -> Result<()>;

    /// Frees what can be freed now and fails what waits; calls that are under way finish or fail. Waits for nobody.
    fn close(&self);

    /// In a child process, of a backend that its parent opened: lets go of what the child should not keep. Takes no
    /// lock that another thread of the parent's might have held.
    fn abandon(&self) {}

    /// In a child process, of a backend that its parent opened: another for this process, with what may be kept of this
    /// one. Takes no such lock either.
    fn reopen(&self, config: &Config, inflight: &Arc<Inflight>) -> Result<Box<dyn Backend>> {
        open(config, inflight)
    }
}

/// A submission to a backend that has its answers at once.
fn submit_at_once(backend: &impl Backend, op: &Op<'_>, call: Promise) -> Result<()> {
    if !call.begin_send() {
        return Ok(());
    }
    match backend.call(op) {
        Err(error) if matches!(error.kind, Kind::Closed) => Err(error),
        result => {
            call.complete(result);
            Ok(())
        }
    }
}

/// Opens what `config` names. Connects to nothing: the first call does. `inflight` has the asynchronous calls of the
/// cache.
pub fn open(config: &Config, inflight: &Arc<Inflight>) -> Result<Box<dyn Backend>> {
    match &config.target {
        Target::Memory => Ok(Box::new(memory::Memory::new(config.max_bytes))),
        Target::Dummy => Ok(Box::new(dummy::Dummy)),
        Target::Redis(info) => Ok(Box::new(redis::Redis::new(config, info, inflight))),
        Target::Cluster(_) => {
            Err(Kind::Unsupported("Redis Cluster is not supported yet".into()).into())
        }
        Target::Sentinel { .. } => {
            Err(Kind::Unsupported("Redis Sentinel is not supported yet".into()).into())
        }
    }
}
