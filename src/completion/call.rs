//! One asynchronous call, and the hand-over to who carries it out.

use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::descriptor::Membership;
use super::engine::QueueId;
use super::inflight::Inflight;
use super::queue::CompletionQueue;
use super::state::{Atomic, State};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Access, Answer};
use crate::reserve;
use crate::sys::SocketFd;

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Queued,
    /// Some of the request may have left this machine.
    Sent,
    Completed,
}

/// Who is answerable for a call that nobody completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Custody {
    /// The thread that submits it.
    Submitter,
    /// Whoever has its promise.
    Promise,
    /// The promise is gone.
    Nobody,
}

impl State for Progress {
    fn byte(self) -> u8 {
        self as u8
    }

    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Queued,
            1 => Self::Sent,
            _ => Self::Completed,
        }
    }
}

impl State for Custody {
    fn byte(self) -> u8 {
        self as u8
    }

    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Submitter,
            1 => Self::Promise,
            _ => Self::Nobody,
        }
    }
}

/// One accepted call.
pub struct Call {
    terms: Terms,
    /// Becomes [`Progress::Completed`] under the queue's lock only, and stays so.
    progress: Atomic<Progress>,
    custody: Atomic<Custody>,
    /// By how many nanoseconds its deadline was put off; written and read under the queue's lock, or by its carrier.
    put_off: AtomicU64,
    /// Completed calls are kept by the queue, to be used again, so they do not keep it.
    queue: Weak<CompletionQueue>,
    inflight: Arc<Inflight>,
}

/// What is asked for.
pub(super) struct Request {
    pub(super) tag: u64,
    pub(super) access: Access,
    pub(super) deadline: Instant,
}

/// What is particular to a call: all that another which uses the same memory does not have.
pub(super) struct Terms {
    pub(super) request: Request,
    /// Where the queue's index has it.
    pub(super) place: u32,
    pub(super) expected_driver: ExpectedDriver,
}

/// Who is likely to carry a call out, by what is usual with the queue that it reports to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedDriver {
    /// The thread that submits it, which is about to wait.
    Waiter,
    /// Whoever polls the queue's descriptor.
    EventLoop,
    /// Neither, so the reactor, or who drives a link already.
    Reactor,
}

/// A call in the hands of its carrier. Dropped uncompleted, the call fails as an internal error.
pub struct Promise(Arc<Call>);

/// Keeps a queue from being mistaken for another that takes its place in memory. It does not keep it open.
#[derive(Clone)]
pub struct QueueHold(Weak<CompletionQueue>);

impl QueueHold {
    pub fn id(&self) -> QueueId {
        QueueId::of(self.0.as_ptr())
    }

    /// Whether nobody can submit to it or wait on it any more.
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Has the queue's descriptor look at a link's socket as well. `None`: it cannot.
    pub fn join(&self, socket: &Arc<SocketFd>) -> Option<Arc<Membership>> {
        let descriptor = self.0.upgrade()?.descriptor()?;
        Membership::new(descriptor, self.id(), socket).map(Arc::new)
    }
}

/// The report that a thread was predicted to wait on a queue, and has not.
pub struct Misprediction(Weak<CompletionQueue>);

impl Misprediction {
    pub fn report(self) {
        if let Some(queue) = self.0.upgrade() {
            queue.mispredicted();
        }
    }
}

/// Accepts a call and hands it to `backend`, which has the time `span` for it. An error: the call is not accepted and
/// never completes.
pub fn accept(
    queue: &Arc<CompletionQueue>,
    inflight: &Arc<Inflight>,
    tag: u64,
    access: Access,
    span: Duration,
    backend: impl FnOnce(Promise) -> Result<()>,
) -> Result<()> {
    inflight.admit()?;
    let deadline = Deadline::after(span).instant();
    let call = match queue.insert(inflight, Request { tag, access, deadline }) {
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
            call.leave_to_promise();
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
    /// Uses `spare` again if nobody has it any more. `None`: there is no memory for another.
    pub(super) fn make(
        spare: Option<Arc<Self>>,
        queue: &Arc<CompletionQueue>,
        inflight: &Arc<Inflight>,
        terms: Terms,
    ) -> Option<Arc<Self>> {
        if let Some(mut call) = spare
            && let Some(own) = Arc::get_mut(&mut call)
            && Arc::ptr_eq(&own.inflight, inflight)
        {
            own.terms = terms;
            own.progress = Atomic::new(Progress::Queued);
            own.custody = Atomic::new(Custody::Submitter);
            own.put_off = AtomicU64::new(0);
            return Some(call);
        }
        let call = Arc::new(Self {
            terms,
            progress: Atomic::new(Progress::Queued),
            custody: Atomic::new(Custody::Submitter),
            put_off: AtomicU64::new(0),
            queue: Arc::downgrade(queue),
            inflight: Arc::clone(inflight),
        });
        // It may be outstanding for long, and is then kept.
        if reserve::holds(Arc::as_ptr(&call)) { None } else { Some(call) }
    }

    pub fn deadline(&self) -> Instant {
        self.terms.request.deadline + Duration::from_nanos(self.put_off.load(Ordering::Relaxed))
    }

    /// Whether it changes anything.
    pub fn access(&self) -> Access {
        self.terms.request.access
    }

    /// Whether it may be left to the thread that submits it. That this one does not come to wait is a
    /// [`Misprediction`].
    pub fn wait_is_predicted(&self) -> bool {
        self.terms.expected_driver == ExpectedDriver::Waiter
    }

    /// Whether who polls its queue's descriptor is to carry it out.
    pub fn is_polled_for(&self) -> bool {
        self.terms.expected_driver == ExpectedDriver::EventLoop
    }

    /// A hold on the queue that it reports to.
    pub fn hold_queue(&self) -> QueueHold {
        QueueHold(self.queue.clone())
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
        self.progress.replace_if(Progress::Queued, Progress::Sent) != Progress::Completed
    }

    /// Nothing of it was written after all.
    pub fn mark_unsent(&self) {
        self.progress.replace_if(Progress::Sent, Progress::Queued);
    }

    pub fn is_completed(&self) -> bool {
        self.progress.get() == Progress::Completed
    }

    /// Completes it, if nobody has, and wakes who waits for it. `false`: it was completed already, and the answer is
    /// dropped.
    pub fn complete(&self, result: Result<Answer>) -> bool {
        !self.is_completed() && self.finish(|_| result)
    }

    /// `false`: it was completed already, or the queue is gone.
    fn finish(&self, result: impl FnOnce(Progress) -> Result<Answer>) -> bool {
        self.queue.upgrade().is_some_and(|queue| queue.complete(self, result))
    }

    fn orphan(&self) -> bool {
        self.finish(|progress| {
            let kind = Kind::Internal("nobody carries the call out any more".into());
            Err(self.failure(kind, progress))
        })
    }

    pub(super) fn cancelled(&self, progress: Progress) -> Error {
        self.failure(Kind::Cancelled, progress)
    }

    pub(super) fn timed_out(&self, progress: Progress) -> Error {
        let doing = match progress {
            Progress::Queued => "waiting for a connection",
            Progress::Sent | Progress::Completed => "waiting for the reply",
        };
        self.failure(Kind::Timeout(doing), progress)
    }

    /// The failure of a call that had come so far.
    fn failure(&self, kind: Kind, progress: Progress) -> Error {
        let error = Error::from(kind);
        if progress == Progress::Queued || self.access() == Access::Read {
            error
        } else {
            error.maybe_applied()
        }
    }

    /// The submission is over: from here on its carrier is answerable for it, who may have dropped it already.
    fn leave_to_promise(&self) {
        if !self.is_completed() && self.custody.replace(Custody::Promise) == Custody::Nobody {
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
        self.terms.request.tag
    }

    pub(super) fn queue(&self) -> &Weak<CompletionQueue> {
        &self.queue
    }

    pub(super) fn put_off(&self, deadline: Instant) {
        let by = deadline.saturating_duration_since(self.terms.request.deadline).as_nanos();
        self.put_off.store(u64::try_from(by).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn place(&self) -> u32 {
        self.terms.place
    }

    /// Marks it as completed, under the queue's lock; how far it had come.
    pub(super) fn settle(&self) -> Progress {
        let progress = self.progress.replace(Progress::Completed);
        self.inflight.release();
        progress
    }
}

impl Promise {
    /// Completes the call, if nobody has. `false`: it was completed already, and the answer is dropped.
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
        if !self.is_completed() && self.custody.replace(Custody::Nobody) == Custody::Promise {
            self.orphan();
        }
    }
}
