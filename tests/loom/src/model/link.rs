//! What races for a thread that waits for a link: a wakeup, an answer, the link, and its deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::explore;
use crate::error::Kind;
use crate::op::Answer;
use crate::outcome::{Exchanged, Failure};
use crate::waiter::{SleepsOn, Waiter, Waiting, Woken};
use crate::wakeup::Wakeup;

const LINK: u32 = 7;

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn answer() -> Exchanged<Answer> {
    Exchanged::Failed(Failure::unsent(Kind::Closed.into()))
}

/// What somebody sleeps for, and on.
#[derive(Default)]
struct Event {
    is_there: AtomicBool,
    wakeup: Wakeup,
}

impl Event {
    fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }

    fn sleep(&self) {
        while !self.is_there() {
            self.wakeup.sleep(far(), || self.is_there());
        }
    }

    fn happen(&self) {
        self.is_there.store(true, Ordering::Relaxed);
        self.wakeup.wake();
    }
}

#[test]
fn nobody_sleeps_beside_what_is_there() {
    explore(|| {
        let event = Arc::new(Event::default());
        let other = Arc::clone(&event);
        let sleeper = thread::spawn(move || other.sleep());
        event.happen();
        sleeper.join().unwrap();
    });
}

#[test]
fn one_who_wakes_wakes_two_who_sleep() {
    explore(|| {
        let event = Arc::new(Event::default());
        let sleepers = [(); 2].map(|()| {
            let event = Arc::clone(&event);
            thread::spawn(move || event.sleep())
        });
        event.happen();
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    });
}

/// They sleep on one word for things of their own.
#[test]
fn two_who_wake_each_wake_their_own() {
    explore(|| {
        let wakeup = Arc::new(Wakeup::default());
        let sleepers = [(); 2].map(|()| {
            let (wakeup, is_there) = (Arc::clone(&wakeup), Arc::new(AtomicBool::new(false)));
            let ready = Arc::clone(&is_there);
            let sleeper = thread::spawn(move || {
                while !ready.load(Ordering::Relaxed) {
                    wakeup.sleep(far(), || ready.load(Ordering::Relaxed));
                }
            });
            (is_there, sleeper)
        });
        for (is_there, _) in &sleepers {
            is_there.store(true, Ordering::Relaxed);
            wakeup.wake();
        }
        sleepers.into_iter().for_each(|(_, sleeper)| sleeper.join().unwrap());
    });
}

/// What a waiter was given.
#[derive(Debug, Default, PartialEq, Eq)]
struct Given {
    links: usize,
    answers: usize,
}

impl Given {
    fn add(&mut self, woken: Option<Woken<u32>>) {
        match woken {
            Some(Woken::Link(link)) => {
                assert_eq!(*link, LINK);
                self.links += 1;
            }
            Some(Woken::Answer(_)) => self.answers += 1,
            None => {}
        }
    }
}

/// The link and an answer come at the same time as the waiter takes what there is, `end`s, and looks once more.
fn race(end: fn(&Waiter<u32>) -> Option<Woken<u32>>) -> (Given, usize) {
    let waiter = Arc::new(Waiter::default());
    let (link_for, answer_for) = (Arc::clone(&waiter), Arc::clone(&waiter));
    let handing = thread::spawn(move || link_for.hand_over(Box::new(LINK)).is_err());
    let answering = thread::spawn(move || answer_for.answer(answer()));
    let mut given = Given::default();
    given.add(end(&waiter));
    let came_back = usize::from(handing.join().unwrap());
    answering.join().unwrap();
    let (is_completed, left) = (waiter.is_completed(), waiter.take());
    assert_eq!(is_completed, left.is_some(), "whoever only looks sees what there is");
    given.add(left);
    assert!(waiter.take().is_none() && !waiter.is_completed());
    (given, came_back)
}

#[test]
fn a_link_that_is_handed_to_who_takes_what_there_is_has_one_owner() {
    explore(|| {
        let (given, came_back) = race(Waiter::take);
        assert_eq!(given.links + came_back, 1, "{given:?}");
        assert!(given.answers <= 1 && given.links + given.answers >= 1, "{given:?}");
    });
}

#[test]
fn a_link_that_is_handed_to_who_leaves_has_one_owner() {
    explore(|| {
        let (given, came_back) = race(Waiter::leave);
        assert_eq!(given.links + came_back, 1, "{given:?}");
        assert!(given.answers <= 1, "{given:?}");
    });
}

#[test]
fn of_two_answers_one_is_delivered() {
    explore(|| {
        let waiter = Arc::new(Waiter::<u32>::default());
        let waiting = Waiting { waiter: Arc::clone(&waiter), sleeps_on: SleepsOn::Own };
        let answering = [waiting.clone(), waiting]
            .map(|waiting| thread::spawn(move || waiting.answer(answer())));
        waiter.wakeup.sleep(far(), || waiter.is_completed());
        let mut given = Given::default();
        // Gone if there is nothing, so that what comes later is dropped.
        let woken = waiter.take();
        let is_woken = woken.is_some();
        given.add(woken);
        given.add(waiter.leave());
        answering.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(is_woken && (1..=2).contains(&given.answers), "{given:?}");
    });
}

/// The first of two followers may have left when it is handed the link; then the second gets it. If it has not, it has
/// the link, although its deadline has passed, and hands it on.
#[test]
fn a_link_passes_a_follower_whose_deadline_passes() {
    explore(|| {
        let first = Arc::new(Waiter::default());
        let second = Arc::new(Waiter::default());
        let hand_to_second = |waiter: &Waiter<u32>, link| {
            assert_eq!(waiter.hand_over(link), Ok(()), "it waits");
            waiter.wakeup.wake();
        };
        let (late, next) = (Arc::clone(&first), Arc::clone(&second));
        let follower = thread::spawn(move || match late.leave() {
            Some(Woken::Link(link)) => hand_to_second(&next, link),
            Some(Woken::Answer(_)) => panic!("nobody has answered"),
            None => assert!(late.is_gone()),
        });
        let waits = Arc::clone(&second);
        let owner = thread::spawn(move || {
            while !waits.is_completed() {
                waits.wakeup.sleep(far(), || waits.is_completed());
            }
            matches!(waits.take(), Some(Woken::Link(link)) if *link == LINK)
        });
        match first.hand_over(Box::new(LINK)) {
            Ok(()) => first.wakeup.wake(),
            Err(link) => hand_to_second(&second, link),
        }
        follower.join().unwrap();
        assert!(owner.join().unwrap());
    });
}
