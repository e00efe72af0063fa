//! Exactly once: several threads submit calls to several caches and queues while others kill the server, break and
//! stall connections, cancel, and close caches and queues, and every tag is accounted for.
//!
//! What is held against each completion: its tag was accepted by this queue and has not been reported before; the queue
//! was not closed when it was reported; its status is one that the call can have, given what was done to it; a value
//! belongs to the key that was asked for, whole; and a write that is said not to have been applied is never seen.
//!
//! CACHETORY_STRESS_CALLS says how many calls there are, and CACHETORY_STRESS_SEED repeats the choices of a run, though
//! not its timing.

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod disturbances;
mod ledger;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use calls::{Applied, Kind};
use ledger::Ledger;
use support::capi::*;
use support::poller::{Poller, Way};
use support::proxy::Proxy;
use support::random::Random;
use support::server::{Server, Setup};
use support::socket::Address;

const CALLS: usize = 1_000_000;
const SUBMITTERS: usize = 4;
const REAPERS: usize = 2;
const QUEUES: usize = 6;
/// Queues that only an event loop takes completions of, and how it waits: what it misses nobody else finds.
const LOOPS: [Way; 2] = [Way::Level(1), Way::Edge(3)];
/// More than this is not outstanding on a queue.
const MOST_OUTSTANDING: usize = 8000;
/// A cache that may be closed under its users and opened again.
struct Slot {
    url: String,
    pub is_memory: bool,
    pub reopens: bool,
    current: RwLock<Arc<Opened>>,
}

struct Opened {
    cache: Cache,
    /// It is about to be closed, or is.
    closing: AtomicBool,
}

impl Opened {
    fn new(url: &str) -> Arc<Self> {
        Arc::new(Self { cache: Cache::must_open(url), closing: AtomicBool::new(false) })
    }
}

impl Slot {
    fn new(url: String, reopens: bool) -> Self {
        let is_memory = url.starts_with("memory:");
        let current = RwLock::new(Opened::new(&url));
        Self { url, is_memory, reopens, current }
    }

    fn current(&self) -> Arc<Opened> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reopen(&self) {
        let new = Opened::new(&self.url);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        old.closing.store(true, Ordering::SeqCst);
        assert_eq!(old.cache.close(), CACHETORY_OK);
    }
}

/// All there is to a run.
struct World {
    server: Server,
    proxy: Proxy,
    slots: Vec<Slot>,
    ledgers: Vec<RwLock<Arc<Ledger>>>,
    /// Of queues that are closed, while somebody may still be at work on them.
    retired: Mutex<Vec<Arc<Ledger>>>,
    closed: AtomicUsize,
    applied: Applied,
    calls: u64,
    next_tag: AtomicU64,
    seed: u64,
    /// Nothing more is submitted, broken or closed.
    calm: AtomicBool,
    /// All is accounted for, or somebody has panicked.
    over: AtomicBool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    failed: AtomicUsize,
    cancelled: AtomicUsize,
    refused: AtomicUsize,
    forgotten: AtomicUsize,
}

impl World {
    fn new(calls: u64, seed: u64) -> Self {
        let server = Setup::redis().start();
        let proxy = Proxy::to(Address::Tcp(server.port()));
        let options = "socket_timeout=0.7&socket_connect_timeout=0.5";
        let unix = server.unix_url();
        let slots = vec![
            Slot::new(proxy.address().url(options), false),
            Slot::new(format!("{unix}?{options}&prefix=p%3A"), false),
            Slot::new("memory://".to_owned(), false),
            Slot::new(format!("{}?{options}&protocol=3", server.tcp_url()), true),
            Slot::new(
                format!("{unix}?{options}&max_connections=1&spin_us=0&max_pending=1000"),
                false,
            ),
            Slot::new("memory://?max_bytes=1m".to_owned(), true),
        ];
        Self {
            server,
            proxy,
            slots,
            ledgers: (0..QUEUES).map(|_| RwLock::new(Arc::default())).collect(),
            retired: Mutex::default(),
            closed: AtomicUsize::new(0),
            applied: Applied::new(calls),
            calls,
            next_tag: AtomicU64::new(0),
            seed,
            calm: AtomicBool::new(false),
            over: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    fn ledger(&self, number: usize) -> Arc<Ledger> {
        Arc::clone(&self.ledgers[number].read().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst) || self.is_over()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn submit_all(&self, thread: u64) {
        let mut random = Random(self.seed ^ (thread + 1));
        while !self.is_over() {
            let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
            if tag >= self.calls {
                return;
            }
            let slot = &self.slots[random.below(self.slots.len())];
            let ledger = self.ledger(random.below(QUEUES));
            support::poll("calls complete", || {
                let has_room = ledger.outstanding() <= MOST_OUTSTANDING;
                (has_room || ledger.is_closing() || self.is_over()).then_some(())
            });
            let opened = slot.current();
            let kind = Kind::random(&mut random);
            ledger.write(tag, kind.clone(), Arc::clone(&opened), slot.is_memory);
            match kind.submit(opened.cache.to(ledger.queue()), tag) {
                Ok(status) => assert_eq!(status, CACHETORY_OK),
                Err(failure) => {
                    ledger.strike_out(tag);
                    if kind.is_write() {
                        self.applied.is_not(tag);
                    }
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    match failure.status {
                        CACHETORY_ERR_BUSY => assert!(failure.is_retryable()),
                        CACHETORY_ERR_DOWN => {
                            assert!(failure.is_retryable() && !slot.is_memory, "{failure:?}");
                            // It is back soon. Nothing would be tried meanwhile.
                            support::pause::before_the_next_look();
                        }
                        CACHETORY_ERR_CLOSED => {
                            let closing = opened.closing.load(Ordering::SeqCst);
                            assert!(closing || ledger.is_closing(), "{failure:?}");
                        }
                        _ => panic!("call {tag}: {failure:?}"),
                    }
                }
            }
        }
    }

    fn reap_all(&self, thread: u64) {
        let mut random = Random(self.seed ^ (100 + thread));
        while !self.is_over() {
            let ledger = self.ledger(random.below(QUEUES - LOOPS.len()));
            self.reap(&ledger, 1 + random.below(100), random.below(4) as i64);
        }
    }

    /// An event loop on one queue after the other, as each is closed under it.
    fn loop_all(&self, number: u64) {
        let mut random = Random(self.seed ^ (500 + number));
        while !self.is_over() {
            let ledger = self.ledger(QUEUES - 1 - number as usize);
            let Some(mut poller) = Poller::of(ledger.queue(), LOOPS[number as usize]) else {
                assert!(ledger.is_closing(), "a descriptor");
                continue;
            };
            while !ledger.is_closing() && !self.is_over() {
                // It comes only when it is told to, and for the end of the run.
                if !poller.wait(50) {
                    continue;
                }
                let room = 1 + random.below(100);
                // As a loop that is level-triggered may, and one that is edge-triggered must.
                let drains = number != 0 || random.below(2) == 0;
                while self.reap(&ledger, room, 0) > 0 && drains {}
            }
        }
    }

    /// Takes some completions; how many.
    fn reap(&self, ledger: &Ledger, room: usize, timeout_ms: i64) -> usize {
        let was_closed = ledger.is_closed();
        let some = match ledger.queue().wait(room, timeout_ms) {
            Ok(some) => some,
            Err(failure) => {
                assert!(failure.status == CACHETORY_ERR_CLOSED && ledger.is_closing());
                return 0;
            }
        };
        assert!(!was_closed, "a closed queue reports nothing");
        let count = some.len();
        for mut completion in some {
            let entry = ledger.read(completion.tag());
            let outcome = calls::check(&entry, &mut completion, &self.applied);
            let count = match outcome {
                Ok(_) => &self.counts.answered,
                Err(CACHETORY_ERR_CANCELLED) => {
                    ledger.was_cancelled(completion.tag());
                    &self.counts.cancelled
                }
                Err(_) => &self.counts.failed,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        count
    }

    /// Closes a queue, and puts another in its place.
    fn replace(&self, number: usize) {
        let new = Arc::default();
        let mut current = self.ledgers[number].write().unwrap_or_else(PoisonError::into_inner);
        let old: Arc<Ledger> = std::mem::replace(&mut *current, new);
        drop(current);
        old.close();
        self.closed.fetch_add(1, Ordering::Relaxed);
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        self.forget();
    }

    /// What is left on closed queues that nobody is at work on any more was forgotten with them.
    fn forget(&self) {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).retain(|ledger| {
            let is_done = Arc::strong_count(ledger) == 1;
            if is_done {
                self.counts.forgotten.fetch_add(ledger.outstanding(), Ordering::Relaxed);
            }
            !is_done
        });
    }

    /// Takes what is left, which must come by itself, and sees that there is no more.
    fn settle(&self) {
        let end = Instant::now() + support::PATIENCE;
        for number in 0..QUEUES {
            let ledger = self.ledger(number);
            while ledger.outstanding() > 0 {
                assert!(!self.is_over(), "another thread has failed");
                if number < QUEUES - LOOPS.len() {
                    self.reap(&ledger, 64, 10);
                } else {
                    support::pause::before_the_next_look();
                }
                let left = ledger.outstanding();
                assert!(Instant::now() < end, "{left} calls never complete: {:?}", ledger.some());
            }
            assert_eq!(ledger.queue().wait(1, 0).unwrap().len(), 0, "nothing is left to report");
            ledger.balance();
        }
        self.applied.balance();
        for slot in &self.slots {
            // All of its calls are over, so there is room for as many as ever, and it is in step.
            let Opened { cache, .. } = &*slot.current();
            support::poll("the server is there", || cache.set("last", "v").ok());
            assert_eq!(cache.get("last"), Ok(Some(b"v".to_vec())));
        }
    }
}

/// Ends the run for the others too when its thread panics.
struct EndsAll<'a>(&'a World);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.over.store(true, Ordering::SeqCst);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn every_call_completes_once_whatever_happens() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("CACHETORY_STRESS_SEED").unwrap_or(now.as_nanos() as u64);
    let calls = number("CACHETORY_STRESS_CALLS").unwrap_or(CALLS as u64);
    println!("CACHETORY_STRESS_SEED={seed}");
    let start = Instant::now();
    let world = World::new(calls, seed);
    thread::scope(|scope| {
        let world = &world;
        let _ends_all = EndsAll(world);
        let spawn = |body: fn(&World, u64), number: u64| {
            scope.spawn(move || {
                let _ends_all = EndsAll(world);
                body(world, number);
            })
        };
        let submitters: Vec<_> =
            (0..SUBMITTERS as u64).map(|number| spawn(World::submit_all, number)).collect();
        let reapers: Vec<_> =
            (0..REAPERS as u64).map(|number| spawn(World::reap_all, number)).collect();
        let loops: Vec<_> =
            (0..LOOPS.len() as u64).map(|number| spawn(World::loop_all, number)).collect();
        let disturbers = [World::break_things, World::cancel_things, World::close_things]
            .map(|body| spawn(body, 0));
        submitters.into_iter().for_each(|thread| thread.join().unwrap());
        world.calm.store(true, Ordering::SeqCst);
        disturbers.into_iter().for_each(|thread| thread.join().unwrap());
        world.settle();
        world.over.store(true, Ordering::SeqCst);
        reapers.into_iter().chain(loops).for_each(|thread| thread.join().unwrap());
    });
    world.forget();
    let Counts { answered, failed, cancelled, refused, forgotten } = &world.counts;
    let counts = [answered, failed, cancelled, refused, forgotten]
        .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{calls} calls: {} answered, {} failed, {} cancelled, {} refused, {} gone with {} closed queues; {:?}",
        counts[0],
        counts[1],
        counts[2],
        counts[3],
        counts[4],
        world.closed.load(Ordering::Relaxed),
        start.elapsed()
    );
    assert_eq!(counts.iter().sum::<usize>() as u64, calls, "every call is accounted for");
    assert!(counts[0] as u64 > calls / 10, "most things work most of the time");
}
