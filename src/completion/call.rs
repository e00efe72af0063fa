//! One asynchronous call, and the hand-over to who carries it out.

use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::account::Account;
use super::queue::Queue;
use super::sync::AtomicU8;
use crate::error::{Error, Kind, Result};
use crate::op::Answer;

/// The states of a call.
const QUEUED: u8 = 0;
const SENT: u8 = 1;
const DECIDED: u8 = 2;

/// Who is answerable for a call that nobody decides.
const SUBMITTING: u8 = 0;
const ACCEPTED: u8 = 1;
const DROPPED: u8 = 2;

/// One accepted call.
pub struct Call {
    tag: u64,
    is_read: bool,
    /// Becomes [`DECIDED`] under the queue's lock only, and stays so.
    state: AtomicU8,
    custody: AtomicU8,
    /// Where the queue's index has it; written and read under the queue's lock.
    place: AtomicU32,
    /// In the account's nanoseconds.
    deadline: AtomicU64,
    queue: Arc<Queue>,
    account: Arc<Account>,
}

/// A call in the hands of who carries it out. Dropped undecided, the call fails as an internal error.
pub struct Carried(Arc<Call>);

/// Accepts a call and hands it to `backend`, which has the time `span` for it. An error: the call is not accepted and
/// never completes.
pub fn submit(
    queue: &Arc<Queue>,
    account: &Arc<Account>,
    tag: u64,
    is_read: bool,
    span: Duration,
    backend: impl FnOnce(Carried) -> Result<()>,
) -> Result<()> {
    account.admit()?;
    let call = Arc::new(Call {
        tag,
        is_read,
        state: AtomicU8::new(QUEUED),
        custody: AtomicU8::new(SUBMITTING),
        place: AtomicU32::new(0),
        deadline: AtomicU64::new(account.deadline_after(span)),
        queue: Arc::clone(queue),
        account: Arc::clone(account),
    });
    if let Err(error) = queue.insert(&call) {
        account.release();
        return Err(error);
    }
    // From here on others may decide it.
    if let Err(error) = account.list(&call) {
        return call.refuse(error);
    }
    let carried = Carried(Arc::clone(&call));
    match panic::catch_unwind(AssertUnwindSafe(|| backend(carried))) {
        Ok(Ok(())) => {
            call.accept();
            Ok(())
        }
        Ok(Err(error)) => call.refuse(error),
        Err(panic) => {
            if call.withdraw() {
                panic::resume_unwind(panic);
            }
            Ok(())
        }
    }
}

impl Call {
    pub fn deadline(&self) -> Instant {
        self.account.instant(self.nanoseconds())
    }

    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// The request is about to be written: from here on a write that is cancelled, or late, may have been applied. `false`:
    /// the call is decided already and must not be sent.
    pub fn begin_send(&self) -> bool {
        self.change(QUEUED, SENT)
    }

    /// Nothing of it was written after all.
    pub fn unsent(&self) {
        self.change(SENT, QUEUED);
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let exchange = (Ordering::AcqRel, Ordering::Acquire);
        match self.state.compare_exchange(from, to, exchange.0, exchange.1) {
            Ok(_) => true,
            Err(state) => state == to,
        }
    }

    pub fn is_decided(&self) -> bool {
        self.state.load(Ordering::Acquire) == DECIDED
    }

    /// Decides it, if nobody has, and wakes who waits for it. `false`: it was decided already, and the answer is dropped.
    pub fn decide(&self, result: Result<Answer>) -> bool {
        !self.is_decided() && self.queue.decide(self, |_| result)
    }

    /// The caller wants it no more.
    pub(super) fn cancel(&self) -> bool {
        self.queue.decide(self, |was_sent| Err(self.failure(Kind::Cancelled, was_sent)))
    }

    pub(super) fn time_out(&self) -> bool {
        self.queue.decide(self, |was_sent| {
            let doing = if was_sent { "waiting for the reply" } else { "waiting for a connection" };
            Err(self.failure(Kind::Timeout(doing), was_sent))
        })
    }

    fn orphan(&self) -> bool {
        self.queue.decide(self, |was_sent| {
            let kind = Kind::Internal("nobody carries the call out any more".into());
            Err(self.failure(kind, was_sent))
        })
    }

    pub(super) fn failure(&self, kind: Kind, was_sent: bool) -> Error {
        let error = Error::from(kind);
        if was_sent && !self.is_read { error.maybe_applied() } else { error }
    }

    /// Who carries it out has it, or has dropped it already.
    fn accept(&self) {
        if !self.is_decided() && self.custody.swap(ACCEPTED, Ordering::AcqRel) == DROPPED {
            self.orphan();
        }
    }

    /// The backend did not take it. If it was decided meanwhile all the same (cancelled, say), that is what the caller is told.
    fn refuse(&self, error: Error) -> Result<()> {
        if self.withdraw() { Err(error) } else { Ok(()) }
    }

    /// As if it had never been. `false`: it was decided already.
    fn withdraw(&self) -> bool {
        let withdrawn = self.queue.withdraw(self);
        self.account.tidy();
        withdrawn
    }

    pub(super) fn tag(&self) -> u64 {
        self.tag
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(super) fn nanoseconds(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    pub(super) fn set_nanoseconds(&self, deadline: u64) {
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    pub(super) fn place(&self) -> u32 {
        self.place.load(Ordering::Relaxed)
    }

    pub(super) fn set_place(&self, place: u32) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// Marks it as decided, under the queue's lock; whether it had been sent.
    pub(super) fn settle(&self) -> bool {
        let was = self.state.swap(DECIDED, Ordering::AcqRel);
        self.account.release();
        was == SENT
    }
}

impl Carried {
    /// Decides the call, if nobody has. `false`: it was decided already, and the answer is dropped.
    pub fn decide(self, result: Result<Answer>) -> bool {
        self.0.decide(result)
    }

    /// Gives the call `span` from now. Only for one that is a sequence of requests, each with a deadline of its own. Where
    /// memory is short the old deadline stays.
    pub fn renew_deadline(&self, span: Duration) {
        self.0.account.renew(&self.0, span);
    }
}

impl Deref for Carried {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.0
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !self.is_decided() && self.custody.swap(DROPPED, Ordering::AcqRel) == ACCEPTED {
            self.orphan();
        }
        self.account.tidy();
    }
}
