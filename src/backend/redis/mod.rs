//! Redis and Valkey.

use redis::ConnectionInfo;

use super::Backend;
use crate::config::Config;
use crate::error::{Kind, Result};
use crate::op::{Answer, Op};

pub struct Redis;

impl Redis {
    pub fn new(_config: &Config, _info: &ConnectionInfo) -> Self {
        Self
    }
}

impl Backend for Redis {
    fn call(&self, _op: &Op<'_>) -> Result<Answer> {
        Err(Kind::Unsupported("redis".into()).into())
    }

    fn close(&self) {}
}
