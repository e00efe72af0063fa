//! Waiting threads that drive engines, which are the test's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

/// Carries out what was left to it at once, a call a drive.
#[derive(Default)]
struct Script {
    left: Mutex<Vec<Promise>>,
    asked: AtomicUsize,
    driven: AtomicUsize,
    entrusted: AtomicUsize,
}

impl Script {
    fn of(bench: &Bench) -> Arc<Self> {
        let script = Arc::new(Self::default());
        let engine: Arc<dyn Engine> = Arc::clone(&script) as Arc<dyn Engine>;
        bench.inflight.add_engine(Arc::downgrade(&engine));
        script
    }

    fn leave(&self, call: Promise) {
        self.left.lock().unwrap().push(call);
    }

    fn counts(&self) -> (usize, usize, usize) {
        let of = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (of(&self.asked), of(&self.driven), of(&self.entrusted))
    }
}

impl Engine for Script {
    fn drive(&self, wait: &dyn Wait) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let Some(call) = self.left.lock().unwrap().pop() else { return false };
        self.driven.fetch_add(1, Ordering::SeqCst);
        assert!(wait.queue() == call.reports_to());
        call.complete(done());
        assert!(wait.is_over());
        true
    }

    fn entrust(&self) {
        let left = std::mem::take(&mut *self.left.lock().unwrap());
        for call in left {
            self.entrusted.fetch_add(1, Ordering::SeqCst);
            call.complete(done());
        }
    }

    fn forget_completed(&self) {
        self.left.lock().unwrap().retain(|call| !call.is_completed());
    }
}

/// Waits for as many completions as there are calls; how many came.
fn wait_for(bench: &Bench, calls: usize) -> usize {
    let mut came = 0;
    while came < calls {
        came += bench.queue.wait(calls, Some(LONG), |_, _| {}).unwrap();
    }
    came
}

#[test]
fn the_only_engine_is_driven() {
    let bench = Bench::new();
    let script = Script::of(&bench);
    script.leave(bench.read(1));
    assert_eq!(wait_for(&bench, 1), 1);
    assert_eq!(script.counts(), (1, 1, 0));
}

#[test]
fn one_engine_is_driven_and_what_the_other_has_is_entrusted() {
    let bench = Bench::new();
    let scripts = [Script::of(&bench), Script::of(&bench)];
    for (script, tag) in scripts.iter().zip(1..) {
        script.leave(bench.read(tag));
    }
    assert_eq!(wait_for(&bench, 2), 2);
    assert_eq!(scripts[0].counts(), (1, 1, 0));
    assert_eq!(scripts[1].counts(), (0, 0, 1));
}

#[test]
fn the_engine_with_something_to_do_is_found_and_asked_first_the_next_time() {
    let bench = Bench::new();
    let scripts = [Script::of(&bench), Script::of(&bench), Script::of(&bench)];
    for _ in 0..2 {
        scripts[1].leave(bench.read(1));
        assert_eq!(wait_for(&bench, 1), 1);
    }
    let counts = scripts.each_ref().map(|script| script.counts());
    assert_eq!(counts, [(1, 0, 0), (2, 2, 0), (0, 0, 0)]);
}

#[test]
fn no_engine_starves() {
    let bench = Bench::new();
    let scripts = [Script::of(&bench), Script::of(&bench)];
    for tag in 0..1000 {
        for (script, left) in scripts.iter().zip([tag % 3, tag % 2]) {
            (0..left).for_each(|_| script.leave(bench.read(tag)));
        }
        let calls = bench.inflight.count();
        assert_eq!(wait_for(&bench, calls), calls);
        assert!(scripts.iter().all(|script| script.left.lock().unwrap().is_empty()));
    }
    let [first, second] = scripts.each_ref().map(|script| script.counts());
    assert!(first.1 > 0 && second.1 > 0 && second.2 > 0, "{first:?} {second:?}");
}

#[test]
fn a_thread_that_no_engine_has_anything_for_sleeps() {
    for engines in 0..3 {
        let bench = Bench::new();
        let scripts: Vec<_> = (0..engines).map(|_| Script::of(&bench)).collect();
        let call = bench.read(1);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| wait_for(&bench, 1));
            while bench.queue.sleeping() == 0 {
                thread::yield_now();
            }
            call.complete(done());
            assert_eq!(waiter.join().unwrap(), 1);
        });
        assert!(scripts.iter().all(|script| script.counts() == (1, 0, 0)));
    }
}

#[test]
fn engines_that_are_gone_are_forgotten() {
    let bench = Bench::new();
    drop(Script::of(&bench));
    assert_eq!(bench.inflight.engines().count(), 0);
    let (first, second, third) = (Script::of(&bench), Script::of(&bench), Script::of(&bench));
    drop((first, third));
    second.leave(bench.read(1));
    assert_eq!(wait_for(&bench, 1), 1);
    assert_eq!((second.counts(), bench.inflight.engines().count()), ((1, 1, 0), 1));
    drop(second);
    assert_eq!(bench.queue.wait(1, Some(Duration::ZERO), |_, _| {}).unwrap(), 0);
}

#[test]
fn each_engine_can_be_told_to_forget_what_is_completed() {
    let bench = Bench::new();
    let scripts = [Script::of(&bench), Script::of(&bench)];
    scripts.iter().for_each(|script| script.leave(bench.read(1)));
    bench.queue.cancel(1).unwrap();
    bench.inflight.engines().for_each(|engine| engine.forget_completed());
    assert!(scripts.iter().all(|script| script.left.lock().unwrap().is_empty()));
}

/// Another is added, and others wait, while it drives.
struct Adding<'a> {
    bench: &'a Bench,
    added: Mutex<Option<Arc<Script>>>,
}

impl Engine for Adding<'_> {
    fn drive(&self, wait: &dyn Wait) -> bool {
        let script = Script::of(self.bench);
        script.leave(self.bench.read(2));
        *self.added.lock().unwrap() = Some(script);
        assert!(!wait.is_over() && !wait.is_late() && wait.until().is_some());
        false
    }

    fn entrust(&self) {}

    fn forget_completed(&self) {}
}

#[test]
fn an_engine_that_is_added_meanwhile_is_for_the_next_wait() {
    let bench: &'static Bench = Box::leak(Box::new(Bench::new()));
    let adding: Arc<dyn Engine> = Arc::new(Adding { bench, added: Mutex::default() });
    bench.inflight.add_engine(Arc::downgrade(&adding));
    let _call = bench.read(1);
    assert_eq!(bench.queue.wait(1, Some(Duration::from_millis(1)), |_, _| {}).unwrap(), 0);
    assert_eq!(bench.inflight.engines().count(), 2);
}

/// Sleeps until it is woken, or its time is up.
#[derive(Default)]
struct Sleeper(AtomicUsize);

impl Engine for Sleeper {
    fn drive(&self, wait: &dyn Wait) -> bool {
        while !wait.is_over() && !wait.is_late() {
            wait.sleep(&mut |wakeup| {
                self.0.fetch_add(1, Ordering::SeqCst);
                let left =
                    wait.until().map(|until| until.saturating_duration_since(Instant::now()));
                let left = left.map(crate::sys::timespec);
                poll(&mut [PollFd::new(&wakeup, PollFlags::IN)], left.as_ref()).unwrap();
            });
        }
        true
    }

    fn entrust(&self) {}

    fn forget_completed(&self) {}
}

#[test]
fn a_thread_that_sleeps_in_an_engine_is_woken_by_a_completion_and_by_the_time() {
    let bench = Bench::new();
    let sleeper = Arc::new(Sleeper::default());
    let engine: Arc<dyn Engine> = Arc::clone(&sleeper) as Arc<dyn Engine>;
    bench.inflight.add_engine(Arc::downgrade(&engine));
    let call = bench.read(1);
    let brief = Duration::from_millis(5);
    assert_eq!(bench.queue.wait(1, Some(brief), |_, _| {}).unwrap(), 0);
    let before = sleeper.0.load(Ordering::SeqCst);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| wait_for(&bench, 1));
        while sleeper.0.load(Ordering::SeqCst) == before {
            thread::yield_now();
        }
        call.complete(done());
        assert_eq!(waiter.join().unwrap(), 1);
    });
}

/// What is left to it completes when it is entrusted, or else never.
#[test]
fn what_other_engines_have_is_entrusted_before_the_driven_one_sleeps() {
    let bench = Bench::new();
    let sleeper: Arc<dyn Engine> = Arc::new(Sleeper::default());
    bench.inflight.add_engine(Arc::downgrade(&sleeper));
    let script = Script::of(&bench);
    script.leave(bench.read(1));
    assert_eq!(wait_for(&bench, 1), 1);
    assert_eq!(script.counts(), (0, 0, 1));
}

/// Panics the first time that it is driven.
struct Panicking(AtomicUsize);

impl Engine for Panicking {
    fn drive(&self, _wait: &dyn Wait) -> bool {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
        false
    }

    fn entrust(&self) {}

    fn forget_completed(&self) {}
}

#[test]
fn a_thread_that_a_panic_of_an_engine_took_away_waits_no_more() {
    let bench = Bench::new();
    let engine: Arc<dyn Engine> = Arc::new(Panicking(AtomicUsize::new(0)));
    bench.inflight.add_engine(Arc::downgrade(&engine));
    let call = bench.read(1);
    let wait = || bench.queue.wait(1, Some(Duration::from_millis(1)), |_, _| {});
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(wait));
    assert!(caught.is_err());
    // Nobody drives while two wait, so this tells whether the first is still counted.
    let script = Script::of(&bench);
    script.leave(call);
    assert_eq!(wait_for(&bench, 1), 1);
    assert_eq!(script.counts(), (1, 1, 0));
}
