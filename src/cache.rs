//! What a handle names: a configuration, and this process's backend for it.

use std::sync::Arc;

use crate::backend::{self, Backend};
use crate::completion::{self, CompletionQueue, Inflight};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::fork::{self, PerProcess};
use crate::op::{Answer, Condition, MAX_BULK, Op, Ttl, check_set};
use crate::reserve;

/// More than a cache takes that is opened, but for what its URL takes.
const OPENING: usize = 64 << 10;

pub struct Cache {
    config: Config,
    /// The length of the longest key that may be put behind the prefix.
    longest_key: usize,
    /// A child process gets one of its own.
    process: PerProcess<Result<Process>>,
}

/// What a cache is in one process: an empty store, or connections of its own, and its asynchronous calls.
struct Process {
    backend: Box<dyn Backend>,
    inflight: Arc<Inflight>,
}

impl Process {
    fn open(config: &Config) -> Result<Self> {
        let inflight = Arc::new(Inflight::new(config.max_pending));
        Ok(Self { backend: backend::open(config, &inflight)?, inflight })
    }

    /// In a child process of the one that this is of.
    fn reopen(&self, config: &Config) -> Result<Self> {
        let inflight = Arc::new(Inflight::new(config.max_pending));
        Ok(Self { backend: self.backend.reopen(config, &inflight)?, inflight })
    }
}

impl Cache {
    /// Checks the URL and connects to nothing.
    pub fn open(url: &str) -> Result<Self> {
        reserve::expect(OPENING.saturating_add(url.len().saturating_mul(16)))?;
        fork::watch()?;
        let config = Config::parse(url)?;
        let longest_key = MAX_BULK.saturating_sub(config.prefix.len());
        let process = Process::open(&config)?;
        Ok(Self { config, longest_key, process: PerProcess::new(Ok(process)) })
    }

    #[inline(always)]
    pub fn call(&self, op: &Op<'_>) -> Result<Answer> {
        reserve::check()?;
        op.check(self.longest_key)?;
        let backend = &self.process()?.backend;
        match *op {
            Op::Get { key } => backend.get(key),
            _ => backend.call(op),
        }
    }

    /// The same of an `Op::Set`, which is never asked whether it is one.
    #[inline(always)]
    pub fn set(
        &self,
        key: &[u8],
        value: &[u8],
        ttl_ms: Ttl,
        condition: Condition,
    ) -> Result<Answer> {
        reserve::check()?;
        check_set(key, value, ttl_ms, self.longest_key)?;
        self.process()?.backend.set(key, value, ttl_ms, condition)
    }

    /// Has the call carried out without waiting for it; its completion goes to `queue`. An error: it never completes.
    pub fn submit(&self, op: &Op<'_>, queue: &Arc<CompletionQueue>, tag: u64) -> Result<()> {
        reserve::check()?;
        op.check(self.longest_key)?;
        let Process { backend, inflight } = self.process()?;
        let hand_over = |call| backend.submit(op, call);
        completion::accept(queue, inflight, tag, op.access(), self.config.timeout, hand_over)
    }

    #[inline(always)]
    fn process(&self) -> Result<&Process> {
        let open = |inherited: &Result<Process>| {
            let Ok(process) = inherited else { return Process::open(&self.config) };
            process.backend.abandon();
            process.reopen(&self.config)
        };
        match self.process.get_or_make(open) {
            Ok(process) => Ok(process),
            Err(error) => Err(unopened(error)),
        }
    }

    /// Waits for nobody; calls under way finish or fail with [`Kind::Closed`], asynchronous ones with
    /// [`Kind::Cancelled`].
    pub fn close(&self) {
        self.process.for_each(|process, own| match process {
            Ok(process) if own => {
                // First, for the backend would have its own reasons for their failure.
                process.inflight.close();
                process.backend.close();
            }
            Ok(process) => process.backend.abandon(),
            Err(_) => {}
        });
    }
}

#[cold]
fn unopened(error: &Error) -> Error {
    Kind::Internal(error.to_string().into()).into()
}
