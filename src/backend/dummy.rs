//! Stores nothing and always misses: switches caching off by configuration.

use super::Backend;
use crate::completion::Promise;
use crate::error::{Error, Result};
use crate::op::{Answer, Op};
use crate::value::Values;

pub struct Dummy;

impl Backend for Dummy {
    fn call(&self, op: &Op<'_>) -> Result<Answer> {
        Ok(match op {
            Op::Ping | Op::Set { .. } | Op::MSet { .. } | Op::Clear => Answer::Done,
            Op::Get { .. } | Op::ExpireIn { .. } | Op::ExpireAt { .. } | Op::Delete { .. } => {
                Answer::NotFound
            }
            Op::MGet { keys } => {
                let mut values = Vec::new();
                values
                    .try_reserve_exact(keys.count())
                    .map_err(|_| Error::no_memory("memory for the answers"))?;
                values.resize_with(keys.count(), || None);
                Answer::Values(Values::Each(values))
            }
            Op::MDelete { .. } => Answer::Deleted(0),
        })
    }

    fn submit(&self, op: &Op<'_>, call: Promise) -> Result<()> {
        super::submit_at_once(self, op, call)
    }

    fn close(&self) {}
}
