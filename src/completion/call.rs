//! One asynchronous call, and the hand-over to who carries it out.

use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::engine::QueueId;
use super::inflight::Inflight;
use super::queue::Queue;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::Answer;
use crate::sync::AtomicU8;

/// The states of a call.
const QUEUED: u8 = 0;
const SENT: u8 = 1;
const DECIDED: u8 = 2;

/// Who is answerable for a call that nobody completes.
const SUBMITTING: u8 = 0;
const ACCEPTED: u8 = 1;
const DROPPED: u8 = 2;

/// One accepted call.
pub struct Call {
    tag: u64,
    is_read: bool,
    /// It may be left to the thread that submits it, which is about to wait for it.
    is_awaited: bool,
    /// Becomes [`DECIDED`] under the queue's lock only, and stays so.
    state: AtomicU8,
    custody: AtomicU8,
    /// Where the queue's index has it.
    place: u32,
    deadline: Instant,
    /// By how many nanoseconds it was put off; written and read under the queue's lock, or by who carries the call out.
    put_off: AtomicU64,
    /// Completed calls are kept by the queue, to be used again, so it is not kept by them.
    queue: Weak<Queue>,
    inflight: Arc<Inflight>,
}

/// What is particular to a call.
pub(super) struct Request {
    pub(super) tag: u64,
    pub(super) is_read: bool,
    pub(super) deadline: Instant,
}

/// A call in the hands of who carries it out. Dropped uncompleted, the call fails as an internal error.
pub struct Promise(Arc<Call>);

/// Of a thread that was predicted to wait on a queue, and has not.
pub struct Misprediction(Weak<Queue>);

impl Misprediction {
    pub fn report(self) {
        if let Some(queue) = self.0.upgrade() {
            queue.mispredicted();
        }
    }
}

/// Accepts a call and hands it to `backend`, which has the time `span` for it. An error: the call is not accepted and
/// never completes.
pub fn submit(
    queue: &Arc<Queue>,
    inflight: &Arc<Inflight>,
    tag: u64,
    is_read: bool,
    span: Duration,
    backend: impl FnOnce(Promise) -> Result<()>,
) -> Result<()> {
    inflight.admit()?;
    let deadline = Deadline::after(span).instant();
    let call = match queue.accept(inflight, Request { tag, is_read, deadline }) {
        Ok(call) => call,
        Err(error) => {
            inflight.release();
            return Err(error);
        }
    };
    // From here on others may complete it.
    let promise = Promise(Arc::clone(&call));
    match panic::catch_unwind(AssertUnwindSafe(|| backend(promise))) {
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
    /// Uses `spare` again if nobody has it any more.
    pub(super) fn make(
        spare: Option<Arc<Self>>,
        queue: &Arc<Queue>,
        inflight: &Arc<Inflight>,
        request: Request,
        place: u32,
        is_awaited: bool,
    ) -> Arc<Self> {
        let Request { tag, is_read, deadline } = request;
        if let Some(mut call) = spare
            && let Some(own) = Arc::get_mut(&mut call)
            && Arc::ptr_eq(&own.inflight, inflight)
        {
            (own.tag, own.is_read, own.deadline, own.place) = (tag, is_read, deadline, place);
            own.is_awaited = is_awaited;
            own.state = AtomicU8::new(QUEUED);
            own.custody = AtomicU8::new(SUBMITTING);
            own.put_off = AtomicU64::new(0);
            return call;
        }
        Arc::new(Self {
            tag,
            is_read,
            is_awaited,
            state: AtomicU8::new(QUEUED),
            custody: AtomicU8::new(SUBMITTING),
            place,
            deadline,
            put_off: AtomicU64::new(0),
            queue: Arc::downgrade(queue),
            inflight: Arc::clone(inflight),
        })
    }

    pub fn deadline(&self) -> Instant {
        self.deadline + Duration::from_nanos(self.put_off.load(Ordering::Relaxed))
    }

    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// Whether it may be left to the thread that submits it. That this one does not come to wait is a
    /// [`Misprediction`].
    pub fn wait_is_predicted(&self) -> bool {
        self.is_awaited
    }

    /// Which queue it reports to.
    pub fn reports_to(&self) -> QueueId {
        QueueId::of(self.queue.as_ptr())
    }

    /// To be reported when it was left to a thread that has not come to wait for it.
    pub fn misprediction(&self) -> Misprediction {
        Misprediction(self.queue.clone())
    }

    /// The request is about to be written: from here on a write that is cancelled, or late, may have been applied.
    /// `false`: the call is completed already and must not be sent.
    pub fn begin_send(&self) -> bool {
        self.change(QUEUED, SENT)
    }

    /// Nothing of it was written after all.
    pub fn mark_unsent(&self) {
        self.change(SENT, QUEUED);
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let exchange = (Ordering::AcqRel, Ordering::Acquire);
        match self.state.compare_exchange(from, to, exchange.0, exchange.1) {
            Ok(_) => true,
            Err(state) => state == to,
        }
    }

    pub fn is_completed(&self) -> bool {
        self.state.load(Ordering::Acquire) == DECIDED
    }

    /// Decides it, if nobody has, and wakes who waits for it. `false`: it was completed already, and the answer is
    /// dropped.
    pub fn complete(&self, result: Result<Answer>) -> bool {
        !self.is_completed() && self.finish(|_| result)
    }

    /// `false`: it was completed already, or the queue is gone.
    fn finish(&self, result: impl FnOnce(bool) -> Result<Answer>) -> bool {
        self.queue.upgrade().is_some_and(|queue| queue.complete(self, result))
    }

    fn orphan(&self) -> bool {
        self.finish(|was_sent| {
            let kind = Kind::Internal("nobody carries the call out any more".into());
            Err(self.failure(kind, was_sent))
        })
    }

    pub(super) fn cancelled(&self, was_sent: bool) -> Error {
        self.failure(Kind::Cancelled, was_sent)
    }

    pub(super) fn timed_out(&self, was_sent: bool) -> Error {
        let doing = if was_sent { "waiting for the reply" } else { "waiting for a connection" };
        self.failure(Kind::Timeout(doing), was_sent)
    }

    fn failure(&self, kind: Kind, was_sent: bool) -> Error {
        let error = Error::from(kind);
        if was_sent && !self.is_read { error.maybe_applied() } else { error }
    }

    /// Who carries it out has it, or has dropped it already.
    fn accept(&self) {
        if !self.is_completed() && self.custody.swap(ACCEPTED, Ordering::AcqRel) == DROPPED {
            self.orphan();
        }
    }

    /// The backend did not take it. If it was completed meanwhile all the same (cancelled, say), that is what the
    /// caller is told.
    fn refuse(&self, error: Error) -> Result<()> {
        if self.withdraw() { Err(error) } else { Ok(()) }
    }

    /// As if it had never been. `false`: it was completed already.
    fn withdraw(&self) -> bool {
        self.queue.upgrade().is_some_and(|queue| queue.withdraw(self))
    }

    pub(super) fn tag(&self) -> u64 {
        self.tag
    }

    pub(super) fn queue(&self) -> &Weak<Queue> {
        &self.queue
    }

    pub(super) fn put_off(&self, deadline: Instant) {
        let by = deadline.saturating_duration_since(self.deadline).as_nanos();
        self.put_off.store(u64::try_from(by).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn place(&self) -> u32 {
        self.place
    }

    /// Marks it as completed, under the queue's lock; whether it had been sent.
    pub(super) fn settle(&self) -> bool {
        let was = self.state.swap(DECIDED, Ordering::AcqRel);
        self.inflight.release();
        was == SENT
    }
}

impl Promise {
    /// Decides the call, if nobody has. `false`: it was completed already, and the answer is dropped.
    pub fn complete(self, result: Result<Answer>) -> bool {
        self.0.complete(result)
    }

    /// Gives the call `span` from now. Only for one that is a sequence of requests, each with a deadline of its own.
    pub fn renew_deadline(&self, span: Duration) {
        if let Some(queue) = self.0.queue.upgrade() {
            queue.put_off(&self.0, Deadline::after(span).instant());
        }
    }
}

#[cfg(test)]
impl Promise {
    pub(super) fn share(&self) -> Arc<Call> {
        Arc::clone(&self.0)
    }
}

impl Deref for Promise {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.0
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.is_completed() && self.custody.swap(DROPPED, Ordering::AcqRel) == ACCEPTED {
            self.orphan();
        }
    }
}
