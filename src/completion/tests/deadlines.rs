//! Deadlines, and what the account remembers for them.

use std::collections::VecDeque;
use std::time::Instant;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn they_pass_in_order() {
    let bench = Bench::new();
    let start = Instant::now();
    let calls: Vec<Carried> =
        (1..=5).map(|tag| bench.carried(tag, true, tag as u32 * SECOND)).collect();
    assert!(calls.windows(2).all(|pair| pair[0].deadline() < pair[1].deadline()));
    assert!(calls[0].deadline() >= start + SECOND);
    assert_eq!(bench.account.next_deadline(), Some(calls[0].deadline()));
    assert_eq!(bench.account.expire(start), Some(calls[0].deadline()));
    assert_eq!(bench.taken(), []);
    // Those that are decided do not count.
    bench.queue.cancel(1).unwrap();
    bench.queue.cancel(3).unwrap();
    assert_eq!(bench.account.next_deadline(), Some(calls[1].deadline()));
    assert_eq!(bench.taken().len(), 2);
    let left = bench.account.expire(calls[3].deadline());
    assert_eq!(left, Some(calls[4].deadline()));
    let late = [(2, CACHETORY_ERR_TIMEOUT, false), (4, CACHETORY_ERR_TIMEOUT, false)];
    assert_eq!(bench.taken(), late);
    assert_eq!(bench.account.outstanding(), 1);
    drop(calls);
    assert_eq!(bench.account.next_deadline(), None);
}

#[test]
fn one_that_is_renewed() {
    let bench = Bench::new();
    let first = bench.carried(1, false, SECOND);
    let second = bench.carried(2, true, 2 * SECOND);
    let old = first.deadline();
    first.renew_deadline(3 * SECOND);
    assert!(first.deadline() > old + SECOND);
    assert_eq!(bench.account.next_deadline(), Some(second.deadline()));
    assert_eq!(bench.account.expire(second.deadline()), Some(first.deadline()));
    assert_eq!(bench.account.expire(first.deadline()), None);
    assert_eq!(
        bench.taken(),
        [(2, CACHETORY_ERR_TIMEOUT, false), (1, CACHETORY_ERR_TIMEOUT, false)]
    );
    first.renew_deadline(SECOND);
    assert_eq!(bench.account.next_deadline(), None);
}

#[test]
fn the_longest() {
    let bench = Bench::new();
    let call = bench.carried(1, true, Duration::MAX);
    assert!(call.deadline() > Instant::now() + LONG);
    assert_eq!(bench.account.next_deadline(), Some(call.deadline()));
}

/// However many have come and gone, an account remembers no more than a few times what is outstanding.
#[test]
fn what_is_decided_is_forgotten() {
    let bench = Bench::new();
    let oldest = bench.read(0);
    for tag in 1..20_000 {
        assert!(bench.read(tag).decide(done()));
        assert!(bench.account.listed() <= 2 * bench.account.outstanding() + 65);
    }
    let mut some = VecDeque::new();
    for tag in 1..20_000 {
        some.push_back(bench.read(tag));
        if some.len() > 100 {
            drop(some.pop_front());
        }
        assert!(bench.account.listed() <= 2 * bench.account.outstanding() + 65);
    }
    assert_eq!(bench.account.next_deadline(), Some(oldest.deadline()));
    drop(some);
    assert!(bench.account.listed() <= 67);
    drop(oldest);
    // Also after many were outstanding at the same time, and cancelled at once.
    let many: Vec<Carried> = (0..20_000).map(|_| bench.read(1)).collect();
    bench.queue.cancel(1).unwrap();
    drop(many);
    assert!(bench.account.listed() <= 65);
    assert!(bench.account.room() <= 1024);
}

#[test]
fn nobody_keeps_anybody_alive() {
    let bench = Bench::new();
    let (queue, account) = (Arc::downgrade(&bench.queue), Arc::downgrade(&bench.account));
    let call = bench.read(1);
    drop(bench);
    assert!(queue.upgrade().is_some() && account.upgrade().is_some());
    call.decide(done());
    assert!(queue.upgrade().is_none() && account.upgrade().is_none());
}
