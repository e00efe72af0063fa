//! What races for a call.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::sync::Mutex;
use loom::thread;

use super::explore;
use crate::completion::{
    Completion, CompletionQueue, Delivery, Engine, Inflight, Promise, Wait, accept,
};
use crate::completion_outcome::Outcome;
use crate::error::{Kind, Result};
use crate::op::{Access, Answer};

const LONG: Duration = Duration::from_secs(3600);

/// A queue, and a cache's in-flight calls.
#[derive(Clone)]
struct Bench {
    queue: Arc<CompletionQueue>,
    inflight: Arc<Inflight>,
}

impl Bench {
    fn new() -> Self {
        let queue = Arc::new(CompletionQueue::open().unwrap());
        Self { queue, inflight: Arc::new(Inflight::new(9)) }
    }

    fn submit(&self, tag: u64, backend: impl FnOnce(Promise) -> Result<()>) -> Result<()> {
        accept(&self.queue, &self.inflight, tag, Access::Write, LONG, backend)
    }

    /// Submits a write and keeps its promise.
    fn write(&self, tag: u64) -> Promise {
        let kept = RefCell::new(None);
        let keep = |call| {
            *kept.borrow_mut() = Some(call);
            Ok(())
        };
        self.submit(tag, keep).unwrap();
        kept.into_inner().unwrap()
    }

    /// All that is complete: outcomes, and whether the write may have been applied.
    fn taken(&self) -> Vec<(Outcome, bool)> {
        let mut taken = Vec::new();
        let put = |_, completion: Completion| {
            let maybe_applied = completion.result.as_ref().is_err_and(|error| error.maybe_applied);
            taken.push((Outcome::of(&completion.result), maybe_applied));
        };
        self.queue.wait(usize::MAX, Some(Duration::ZERO), put).unwrap();
        taken
    }

    /// That there is one completion, and that it agrees with what the carrier did.
    fn assert_one(&self, sent: bool, answered: bool) {
        assert_eq!(self.inflight.count(), 0);
        let taken = self.taken();
        let [(outcome, maybe_applied)] = taken[..] else { panic!("{} completions", taken.len()) };
        assert_eq!(outcome == Outcome::Done, answered, "{outcome:?}");
        if !answered {
            assert!(!sent || maybe_applied, "it was sent, and is said not to be");
        }
    }
}

fn done() -> Result<Answer> {
    Ok(Answer::Done)
}

/// As a backend does it. Whether it was sent, and whether the answer counted.
fn carry(call: Promise) -> (bool, bool) {
    let sent = call.begin_send();
    (sent, sent && call.complete(done()))
}

#[test]
fn an_answer_and_a_cancel() {
    explore(|| {
        let bench = Bench::new();
        let call = bench.write(1);
        let carrier = thread::spawn(move || carry(call));
        let cancelled = bench.queue.cancel(1).unwrap();
        let (sent, answered) = carrier.join().unwrap();
        assert_ne!(cancelled, answered);
        bench.assert_one(sent, answered);
    });
}

#[test]
fn an_answer_a_cancel_and_a_deadline() {
    explore(|| {
        let bench = Bench::new();
        let call = bench.write(1);
        let carrier = thread::spawn(move || carry(call));
        let late = bench.clone();
        let clock = thread::spawn(move || late.inflight.expire(Instant::now() + 2 * LONG));
        let cancelled = bench.queue.cancel(1).unwrap();
        let (sent, answered) = carrier.join().unwrap();
        assert_eq!(clock.join().unwrap(), None);
        assert!(!(cancelled && answered));
        bench.assert_one(sent, answered);
    });
}

#[test]
fn an_answer_and_the_end_of_the_cache() {
    explore(|| {
        let bench = Bench::new();
        let call = bench.write(1);
        let carrier = thread::spawn(move || carry(call));
        bench.inflight.close();
        let (sent, answered) = carrier.join().unwrap();
        bench.assert_one(sent, answered);
    });
}

#[test]
fn a_write_that_is_not_sent_after_all() {
    explore(|| {
        let bench = Bench::new();
        let call = bench.write(1);
        let carrier = thread::spawn(move || {
            call.begin_send();
            call.mark_unsent();
            carry(call)
        });
        bench.queue.cancel(1).unwrap();
        let (sent, answered) = carrier.join().unwrap();
        bench.assert_one(sent, answered);
    });
}

#[test]
fn an_answer_a_cancel_and_the_end_of_the_queue() {
    explore(|| {
        let bench = Bench::new();
        let call = bench.write(1);
        let carrier = thread::spawn(move || carry(call));
        let other = bench.clone();
        let canceller = thread::spawn(move || other.queue.cancel(1));
        bench.queue.close().unwrap();
        let before = |result: Result<usize>| Outcome::of_error(&result.unwrap_err());
        assert_eq!(before(bench.queue.wait(1, None, |_, _| {})), Outcome::Closed);
        carrier.join().unwrap();
        let _ = canceller.join().unwrap();
        assert_eq!(bench.inflight.count(), 0);
    });
}

#[test]
fn a_submission_and_the_end_of_the_cache() {
    explore(|| {
        let bench = Bench::new();
        let other = bench.clone();
        let submitter = thread::spawn(move || {
            other.submit(1, |call| {
                call.complete(done());
                Ok(())
            })
        });
        bench.inflight.close();
        let accepted = submitter.join().unwrap().is_ok();
        assert_eq!(bench.taken().len(), usize::from(accepted));
        assert_eq!(bench.inflight.count(), 0);
    });
}

/// A call that nobody carries out is found by the end of the cache, or it is refused.
#[test]
fn a_second_submission_and_the_end_of_the_cache() {
    explore(|| {
        let bench = Bench::new();
        let first = bench.write(1);
        let other = bench.clone();
        let submitter = thread::spawn(move || {
            let kept = RefCell::new(None);
            let accepted = other.submit(2, |call| {
                *kept.borrow_mut() = Some(call);
                Ok(())
            });
            (accepted.is_ok(), kept.into_inner())
        });
        bench.inflight.close();
        let (accepted, second) = submitter.join().unwrap();
        assert_eq!(bench.taken().len(), 1 + usize::from(accepted));
        drop((first, second));
        assert_eq!((bench.inflight.count(), bench.taken().len()), (0, 0));
    });
}

#[test]
fn a_refusal_and_a_cancel() {
    explore(|| {
        let bench = Bench::new();
        let other = bench.clone();
        let submitter = thread::spawn(move || other.submit(1, |_call| Err(Kind::Closed.into())));
        let cancelled = bench.queue.cancel(1).unwrap();
        let accepted = submitter.join().unwrap().is_ok();
        assert_eq!(accepted, cancelled);
        let wanted: &[_] = if accepted { &[(Outcome::Cancelled, false)] } else { &[] };
        assert_eq!(bench.taken(), wanted);
        assert_eq!(bench.inflight.count(), 0);
    });
}

/// Another thread drops the call while its submission is not over yet.
#[test]
fn a_carrier_that_vanishes() {
    explore(|| {
        let bench = Bench::new();
        let handed = Arc::new(Mutex::new(None));
        let other = Arc::clone(&handed);
        let carrier = thread::spawn(move || drop(other.lock().unwrap().take()));
        bench
            .submit(1, |call| {
                *handed.lock().unwrap() = Some(call);
                Ok(())
            })
            .unwrap();
        carrier.join().unwrap();
        drop(handed);
        assert_eq!(bench.taken(), [(Outcome::Internal, false)]);
    });
}

#[test]
fn a_deadline_that_is_put_off() {
    explore(|| {
        let bench = Bench::new();
        let (first, second) = (bench.write(1), bench.write(2));
        let late = bench.clone();
        let clock = thread::spawn(move || late.inflight.expire(Instant::now() + 2 * LONG));
        first.renew_deadline(4 * LONG);
        clock.join().unwrap();
        let taken = bench.taken();
        assert!(taken.contains(&(Outcome::TimedOut, false)));
        assert_eq!(taken.len() + bench.inflight.count(), 2);
        drop((first, second));
        assert_eq!((bench.taken().len(), bench.inflight.count()), (2 - taken.len(), 0));
    });
}

#[test]
fn nobody_sleeps_beside_a_completion() {
    explore(|| {
        let bench = Bench::new();
        let calls = [bench.write(1), bench.write(2)];
        let waiters = [bench.clone(), bench.clone()].map(|bench| {
            thread::spawn(move || assert_eq!(bench.queue.wait(1, None, |_, _| {}).unwrap(), 1))
        });
        let mut delivery = Delivery::default();
        for call in calls {
            delivery.push(call, done());
        }
        delivery.deliver();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(bench.taken(), []);
    });
}

#[test]
fn two_completions_each_find_one_who_waits() {
    explore(|| {
        let bench = Bench::new();
        let calls = [bench.write(1), bench.write(2)];
        let waiter = bench.clone();
        let waiter = thread::spawn(move || {
            assert_eq!(waiter.queue.wait(1, None, |_, _| {}).unwrap(), 1);
        });
        let [first, second] = calls;
        let carrier = thread::spawn(move || first.complete(done()));
        second.complete(done());
        assert_eq!(bench.queue.wait(1, None, |_, _| {}).unwrap(), 1);
        waiter.join().unwrap();
        carrier.join().unwrap();
        assert_eq!(bench.taken(), []);
    });
}

#[test]
fn the_end_wakes_who_waits() {
    explore(|| {
        let bench = Bench::new();
        let waiters = [bench.clone(), bench.clone()].map(|bench| {
            thread::spawn(move || assert!(bench.queue.wait(1, None, |_, _| {}).is_err()))
        });
        bench.queue.close().unwrap();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

/// Who submits a call has somebody watch its deadline, while the watch ends for want of calls.
#[test]
fn a_submission_and_the_end_of_the_watch() {
    explore(|| {
        let bench = Bench::new();
        assert!(bench.inflight.begin_watching_deadlines());
        let other = bench.clone();
        let submitter = thread::spawn(move || {
            let call = other.write(1);
            let begins = !other.inflight.is_watching_deadlines()
                && other.inflight.begin_watching_deadlines();
            (call, begins)
        });
        let goes_on = bench.inflight.end_watching_deadlines().is_some();
        let (_call, begins) = submitter.join().unwrap();
        assert!(goes_on != begins, "{goes_on} {begins}");
        assert!(bench.inflight.is_watching_deadlines());
    });
}

/// Has a call to carry out, for whoever comes first.
struct Script(Mutex<Option<Promise>>);

impl Engine for Script {
    fn drive(&self, wait: &dyn Wait) -> bool {
        let call = self.0.lock().unwrap().take();
        let has_driven = call.is_some_and(|call| call.complete(done()));
        has_driven && wait.is_over()
    }

    fn entrust(&self) {
        let call = self.0.lock().unwrap().take();
        call.map(|call| call.complete(done()));
    }

    fn forget_completed(&self) {}
}

/// The second engine is added while a thread waits; the call that is left to it comes from elsewhere then.
#[test]
fn an_engine_that_is_added_beside_a_wait() {
    explore(|| {
        let bench = Bench::new();
        let calls = [bench.write(1), bench.write(2)];
        let scripts = calls.map(|call| Arc::new(Script(Mutex::new(Some(call)))) as Arc<dyn Engine>);
        bench.inflight.add_engine(Arc::downgrade(&scripts[0]));
        let waiter = bench.clone();
        let waiter = thread::spawn(move || waiter.queue.wait(1, None, |_, _| {}).unwrap());
        bench.inflight.add_engine(Arc::downgrade(&scripts[1]));
        assert_eq!(waiter.join().unwrap(), 1);
        assert!(bench.inflight.engines().count() == 2);
        drop(scripts);
        assert_eq!(bench.inflight.count(), 0);
    });
}
