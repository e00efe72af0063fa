//! Whatever happens to a call, it is completed once.

use std::panic::{self, AssertUnwindSafe};

use super::*;

#[test]
fn an_answer_completes_the_call() {
    let bench = Bench::new();
    let call = bench.read(7);
    assert_eq!((bench.inflight.count(), bench.taken()), (1, vec![]));
    assert!(call.begin_send() && !call.is_completed());
    assert!(call.complete(done()));
    assert_eq!(bench.inflight.count(), 0);
    assert_eq!(bench.taken(), [(7, Outcome::Done, false)]);
    assert_eq!(bench.taken(), []);
}

#[test]
fn a_failure_is_reported_as_it_is() {
    let bench = Bench::new();
    let call = bench.write(7);
    assert!(call.begin_send());
    assert!(call.complete(Err(Error::no_memory("anything"))));
    assert_eq!(bench.taken(), [(7, Outcome::NoMemory, false)]);
}

#[test]
fn an_answer_after_a_cancel_is_dropped() {
    let bench = Bench::new();
    let call = bench.read(7);
    assert!(bench.queue.cancel(7).unwrap());
    assert!(!bench.queue.cancel(7).unwrap());
    assert!(call.is_completed() && !call.begin_send());
    assert_eq!(bench.inflight.count(), 0);
    assert!(!call.complete(done()));
    assert_eq!(bench.taken(), [(7, Outcome::Cancelled, false)]);
}

/// What a cancel, a deadline and the end of the cache say of a call that was sent, or was not.
#[test]
fn only_a_write_that_was_sent_may_have_been_applied() {
    type End = fn(&Bench);
    let ends: [(Outcome, End); 3] = [
        (Outcome::Cancelled, |bench| assert!(bench.queue.cancel(1).unwrap())),
        (Outcome::Cancelled, |bench| bench.inflight.close()),
        (Outcome::TimedOut, |bench| {
            assert_eq!(bench.inflight.expire(std::time::Instant::now() + 2 * LONG), None);
        }),
    ];
    for (outcome, end) in ends {
        for access in [Access::Read, Access::Write] {
            for sent in [true, false] {
                let bench = Bench::new();
                let call = bench.promise(1, access, LONG);
                assert!(!sent || call.begin_send());
                end(&bench);
                assert_eq!(bench.taken(), [(1, outcome, sent && access == Access::Write)]);
                assert!(!call.begin_send(), "it must not be sent any more");
            }
        }
    }
}

#[test]
fn a_write_that_was_not_sent_after_all_was_not_applied() {
    let bench = Bench::new();
    let call = bench.write(1);
    assert!(call.begin_send() && call.begin_send());
    call.mark_unsent();
    call.mark_unsent();
    bench.queue.cancel(1).unwrap();
    call.mark_unsent();
    assert!(call.is_completed());
    assert_eq!(bench.taken(), [(1, Outcome::Cancelled, false)]);
}

#[test]
fn a_call_fails_when_its_promise_is_dropped() {
    let bench = Bench::new();
    drop(bench.read(1));
    let call = bench.write(2);
    call.begin_send();
    drop(call);
    assert_eq!(bench.taken(), [(1, Outcome::Internal, false), (2, Outcome::Internal, true)]);
    // In the middle of the submission.
    bench
        .submit(3, Access::Read, |call| {
            drop(call);
            Ok(())
        })
        .unwrap();
    assert_eq!(bench.taken(), [(3, Outcome::Internal, false)]);
    assert_eq!(bench.inflight.count(), 0);
}

#[test]
fn a_refused_call_never_completes() {
    let bench = Bench::new();
    let refused = bench.submit(1, Access::Read, |_call| Err(Kind::Closed.into()));
    assert_eq!(Outcome::of_error(&refused.unwrap_err()), Outcome::Closed);
    // Even where somebody has it still.
    let kept = RefCell::new(None);
    let refused = bench.submit(2, Access::Read, |call| {
        *kept.borrow_mut() = Some(call);
        Err(Kind::Closed.into())
    });
    assert_eq!(Outcome::of_error(&refused.unwrap_err()), Outcome::Closed);
    let call = kept.take().unwrap();
    assert!(!call.begin_send() && !call.complete(done()));
    assert_eq!((bench.inflight.count(), bench.taken()), (0, vec![]));
    assert!(!bench.queue.cancel(2).unwrap());
}

/// Its completion is there, so the submission must not say that it never will be.
#[test]
fn a_refusal_after_the_completion_is_none() {
    let bench = Bench::new();
    bench
        .submit(1, Access::Read, |_call| {
            assert!(bench.queue.cancel(1).unwrap());
            Err(Kind::Closed.into())
        })
        .unwrap();
    assert_eq!(bench.taken(), [(1, Outcome::Cancelled, false)]);
    bench
        .submit(2, Access::Read, |call| {
            call.complete(done());
            panic!("after the answer");
        })
        .unwrap();
    assert_eq!(bench.taken(), [(2, Outcome::Done, false)]);
}

#[test]
fn a_panic_of_the_backend_withdraws_the_call() {
    let bench = Bench::new();
    let kept = RefCell::new(None);
    for keep in [true, false] {
        let submit = || {
            bench.submit(1, Access::Read, |call| {
                if keep {
                    *kept.borrow_mut() = Some(call);
                }
                panic!("boom")
            })
        };
        assert!(panic::catch_unwind(AssertUnwindSafe(submit)).is_err());
        assert_eq!((bench.inflight.count(), bench.taken()), (0, vec![]));
    }
    assert!(!kept.take().unwrap().complete(done()));
    assert_eq!(bench.taken(), []);
}

#[test]
fn a_closed_queue_reports_nothing() {
    let bench = Bench::new();
    let (first, second, third) = (bench.read(1), bench.write(2), bench.read(3));
    assert!(first.complete(done()));
    bench.queue.close().unwrap();
    assert_eq!(bench.inflight.count(), 0);
    assert!(second.is_completed() && !second.begin_send() && !second.complete(done()));
    drop(third);
    let refused = bench.submit(4, Access::Read, |_| panic!("a backend never sees it"));
    assert_eq!(Outcome::of_error(&refused.unwrap_err()), Outcome::Closed);
    assert_eq!(bench.inflight.count(), 0);
    assert!(bench.queue.cancel(1).is_err() && bench.queue.fd().is_err());
}

#[test]
fn a_closed_cache_takes_no_more_calls() {
    let bench = Bench::new();
    let call = bench.read(1);
    bench.inflight.close();
    let refused = bench.submit(2, Access::Read, |_| panic!("a backend never sees it"));
    assert_eq!(Outcome::of_error(&refused.unwrap_err()), Outcome::Closed);
    assert!(!call.complete(done()));
    assert_eq!(bench.taken(), [(1, Outcome::Cancelled, false)]);
    bench.inflight.close();
    assert_eq!((bench.inflight.count(), bench.inflight.next_deadline()), (0, None));
}

#[test]
fn calls_beyond_the_bound_are_refused_until_others_complete() {
    let bench = Bench::with_room_for(2);
    let (first, second) = (bench.read(1), bench.read(2));
    let busy = || bench.submit(3, Access::Read, |_| panic!("a backend never sees it")).unwrap_err();
    assert_eq!(Outcome::of_error(&busy()), Outcome::Busy);
    assert!(busy().is_retryable());
    // Completed is enough: it need not have been taken.
    first.complete(done());
    let third = bench.read(3);
    assert_eq!(Outcome::of_error(&busy()), Outcome::Busy);
    bench.queue.cancel(2).unwrap();
    let fourth = bench.read(4);
    assert_eq!(Outcome::of_error(&busy()), Outcome::Busy);
    drop((second, third, fourth));
    assert_eq!((bench.inflight.count(), bench.taken().len()), (0, 4));
    let none = Bench::with_room_for(0);
    let refused = none.submit(1, Access::Read, |_| done().map(drop));
    assert_eq!(Outcome::of_error(&refused.unwrap_err()), Outcome::Busy);
}

#[test]
fn a_delivery_reaches_each_of_several_queues() {
    let bench = Bench::new();
    let other = Bench {
        queue: Arc::new(CompletionQueue::open().unwrap()),
        inflight: Arc::clone(&bench.inflight),
    };
    let mut delivery = Delivery::default();
    for tag in 0..100 {
        let to = if tag % 3 == 0 { &other } else { &bench };
        delivery.push(to.read(tag), done());
    }
    bench.queue.cancel(1).unwrap();
    assert_eq!((bench.taken().len(), other.taken().len()), (1, 0));
    delivery.deliver();
    assert!(delivery.is_empty());
    let tags = |bench: &Bench| {
        let mut tags: Vec<u64> = bench.taken().iter().map(|each| each.0).collect();
        tags.sort_unstable();
        tags
    };
    assert_eq!(tags(&bench), (2..100).filter(|tag| tag % 3 != 0).collect::<Vec<_>>());
    assert_eq!(tags(&other), (0..100).step_by(3).collect::<Vec<_>>());
    delivery.push(bench.read(1), done());
    drop(delivery);
    assert_eq!(bench.taken(), [(1, Outcome::Done, false)]);
    assert_eq!(bench.inflight.count(), 0);
}

#[test]
fn a_delivery_drops_what_is_for_a_queue_that_is_closed_or_gone() {
    let bench = Bench::new();
    let other = || Bench {
        queue: Arc::new(CompletionQueue::open().unwrap()),
        inflight: Arc::clone(&bench.inflight),
    };
    let (closed, gone) = (other(), other());
    let mut delivery = Delivery::default();
    for tag in 0..9 {
        let to = [&bench, &closed, &gone][tag as usize % 3];
        delivery.push(to.read(tag), done());
    }
    closed.queue.close().unwrap();
    drop(gone);
    delivery.deliver();
    let mut tags: Vec<u64> = bench.taken().iter().map(|each| each.0).collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 3, 6]);
    assert_eq!(bench.inflight.count(), 0);
    assert!(closed.queue.wait(1, Some(Duration::ZERO), |_, _| {}).is_err());
}

#[test]
fn a_delivery_of_nothing_wakes_nobody() {
    let bench = Bench::new();
    bench.queue.fd().unwrap();
    let mut delivery = Delivery::default();
    assert!(delivery.is_empty());
    delivery.deliver();
    let call = bench.read(1);
    bench.queue.cancel(1).unwrap();
    assert_eq!(bench.taken().len(), 1);
    delivery.push(call, done());
    assert!(!delivery.is_empty());
    delivery.deliver();
    assert!(delivery.is_empty() && !bench.queue.is_readable());
}
