//! Random events without a thread, a socket or a clock; after each, all that the scheduler's header promises is
//! checked.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::super::*;
use super::outside::{Idle, Random, promise, refuse, wait_often};
use super::{Probe, encode};
use crate::backend::redis::link::outcome::Exchanged;
use crate::backend::redis::link::requests::{Entry, Owner};
use crate::backend::redis::link::waiter::{Waiter, Woken};
use crate::backend::redis::wire::replies::{Expect, Reuse};
use crate::completion::{CompletionQueue, Engine, Inflight, Promise};
use crate::op::Answer;

/// All that is outside of the scheduler.
pub struct World {
    pub scheduler: Scheduler<Probe>,
    pub random: Random,
    begun: Instant,
    pub now: Instant,
    /// Links that are out.
    #[expect(clippy::vec_box, reason = "as the scheduler gives them")]
    pub out: Vec<Box<Probe>>,
    /// Docked links in the hands of visitors, and the drivers of all that are docked.
    pub visits: Vec<Visit<Probe>>,
    pub drivers: Vec<Arc<Waiter<Probe>>>,
    reservations: Vec<Reservation>,
    dials: usize,
    /// Threads that wait for a link of their own, and how many of them were woken since they looked last.
    pub waiting: usize,
    pub woken: usize,
    pub watch: Option<(WatchId, Option<usize>, Duration)>,
    /// The server is being asked afresh.
    pub is_probed: bool,
    threads: Vec<Arc<Waiter<Probe>>>,
    queue: Arc<CompletionQueue>,
    inflight: Arc<Inflight>,
    _engine: Arc<Idle>,
    /// Keeps the prediction in force.
    pub unanswered: Promise,
    tag: u64,
    seen: HashMap<&'static str, usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed * 2 + 1);
        let (queue, inflight) =
            (Arc::new(CompletionQueue::open().unwrap()), Arc::new(Inflight::new(usize::MAX)));
        let engine = Arc::new(Idle);
        let weak: Weak<dyn Engine> = Arc::downgrade(&(engine.clone() as Arc<dyn Engine>));
        inflight.add_engine(weak);
        let unanswered = promise(&queue, &inflight, 0);
        if random.one_in(2) {
            wait_often(&queue);
        }
        let most = 1 + random.below(6);
        Self {
            scheduler: Scheduler::new(most, random.one_in(2)),
            random,
            begun: Instant::now(),
            now: Instant::now(),
            out: Vec::new(),
            visits: Vec::new(),
            drivers: Vec::new(),
            reservations: Vec::new(),
            dials: 0,
            waiting: 0,
            woken: 0,
            watch: None,
            is_probed: false,
            threads: Vec::new(),
            queue,
            inflight,
            _engine: engine,
            unanswered,
            tag: 0,
            seen: HashMap::new(),
        }
    }

    pub fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn clock(&self) -> impl Fn() -> Instant + use<> {
        let now = self.now;
        move || now
    }

    pub fn perform(&mut self, actions: Actions<Probe>) {
        let Actions { hand_over, drive, attach, visit, dial, wake_one, watch, close } = actions;
        assert!(attach.is_none(), "there are no loops");
        self.begin_visit(visit);
        self.dials += dial;
        self.woken += usize::from(wake_one);
        if let Some(id) = watch {
            self.see("a watch");
            self.watch = Some((id, None, Duration::ZERO));
        }
        for link in hand_over.into_iter().chain(drive) {
            assert!(!link.batch.is_complete(), "nobody is given an empty batch");
            self.out.push(link);
        }
        drop(close);
    }

    fn promise(&mut self) -> Promise {
        self.tag += 1;
        promise(&self.queue, &self.inflight, self.tag)
    }

    pub fn take_out(&mut self) -> Option<Box<Probe>> {
        let count = self.out.len();
        (count > 0).then(|| self.out.swap_remove(self.random.below(count)))
    }

    fn small_call(&mut self) {
        if let Some(link) = self.scheduler.take_at_hand() {
            assert!(link.batch.is_complete());
            self.see("a link at hand");
            return self.out.push(link);
        }
        match self.scheduler.admit(self.clock()) {
            Admission::Refused => assert!(self.scheduler.refuses()),
            Admission::Dial(reservation) => self.reservations.push(reservation),
            Admission::Queue => {
                let waiter = Arc::new(Waiter::default());
                let (expect, clock) = (Expect::Ping, self.clock());
                let queued = self.scheduler.enqueue(waiter, encode, expect, clock).unwrap();
                self.begin_visit(queued.visit);
                self.threads.push(queued.ticket.waiter);
                queued.lead.into_iter().for_each(|link| self.lead(link));
            }
        }
    }

    /// A link that was idle may be gone; else what is queued is driven over it.
    fn lead(&mut self, mut link: Box<Probe>) {
        self.see("a lead");
        if self.random.one_in(4) {
            return self.lose(link);
        }
        self.scheduler.load(&mut link);
        self.out.push(link);
    }

    pub fn lose(&mut self, mut link: Box<Probe>) {
        self.see("a link lost");
        link.batch.fail_lost(|| crate::error::Kind::Closed.into());
        let retries = mem::take(&mut link.batch.retries);
        let actions = self.scheduler.lost(link.seat, self.clock());
        self.perform(actions);
        if !retries.is_empty()
            && let Ok(actions) = self.scheduler.retry(retries, self.clock())
        {
            self.see("a retry");
            self.perform(actions);
        }
    }

    fn exclusive_call(&mut self) {
        let waits = self.waiting > 0 && self.random.one_in(2);
        self.woken = self.woken.saturating_sub(usize::from(waits));
        let checkout = self.scheduler.check_out_exclusive(self.clock());
        let gives_up = matches!(checkout, Checkout::Wait) && self.random.one_in(2);
        if waits && (!matches!(checkout, Checkout::Wait) || gives_up) {
            self.scheduler.end_to_wait();
            self.waiting -= 1;
        }
        match checkout {
            Checkout::Refused => assert!(self.scheduler.refuses()),
            Checkout::Link(link) => self.out.push(link),
            Checkout::Dial(reservation) => self.reservations.push(reservation),
            Checkout::Wait if waits || gives_up => {}
            Checkout::Wait => {
                self.see("a wait");
                self.scheduler.begin_to_wait();
                self.waiting += 1;
                let parked = self.scheduler.unpark();
                self.out.extend(parked);
            }
        }
    }

    fn complete(link: &mut Probe, count: usize) {
        link.batch.sent = link.batch.outbox.len();
        for _ in 0..count {
            let answer = Exchanged::Answered { result: Ok(Answer::Done), reuse: Reuse::Keep };
            link.batch.complete(answer);
        }
        link.batch.completed.deliver();
    }

    fn link_done(&mut self) {
        let Some(mut link) = self.take_out() else { return };
        if self.random.one_in(20) {
            return self.lose(link);
        }
        let left = link.batch.left();
        Self::complete(&mut link, left);
        if self.random.one_in(3) && self.scheduler.refill(&mut link) {
            self.see("a refill");
            return self.out.push(link);
        }
        let spins = self.random.below(8) != 0;
        link.last_used = self.now;
        if let Err(link) = self.scheduler.give_back(link, spins) {
            self.assign(link);
        }
    }

    fn some_replies(&mut self) {
        let Some(mut link) = self.take_out() else { return };
        let count = link.batch.left() / 2;
        Self::complete(&mut link, count);
        if matches!(link.seat, Seat::Shared { .. }) && !link.batch.is_complete() {
            let has_grown = self.scheduler.keep_busy(&mut link);
            self.seen.entry("a top-up").and_modify(|n| *n += usize::from(has_grown)).or_default();
        }
        self.out.push(link);
    }

    fn dial_over(&mut self) {
        let comes_to_something = !self.random.one_in(8);
        if self.random.one_in(2)
            && let Some(reservation) = self.reservations.pop()
        {
            let mut link = self.new_link();
            let dialled = match comes_to_something {
                true => Dialled::Link(&mut *link),
                false => Dialled::Nothing,
            };
            let actions = self.scheduler.own_dial_over(reservation, dialled, self.clock());
            self.perform(actions);
            if comes_to_something {
                self.out.push(link);
            }
        } else if self.dials > 0 {
            self.dials -= 1;
            if comes_to_something {
                let link = self.new_link();
                let actions = self.scheduler.dialled(link, self.clock());
                return self.perform(actions);
            }
            if self.random.one_in(2) {
                self.scheduler.turned_away(self.now);
            }
            let failed = self.scheduler.dial_failed(self.clock());
            // The node wakes one that waits, in any case.
            self.woken += 1;
            match failed {
                Ok(actions) => self.perform(actions),
                Err(remains) => {
                    self.see("a failed dial");
                    let entries = remains.requests.into_iter().flat_map(Requests::into_entries);
                    entries.for_each(refuse);
                }
            }
        }
    }

    fn thread_waited(&mut self) {
        let Some(index) = self.threads.len().checked_sub(1) else { return };
        let waiter = Arc::clone(&self.threads[self.random.below(index + 1)]);
        if self.random.one_in(3) {
            if self.scheduler.withdraw(&waiter) {
                self.see("a withdrawal");
                self.threads.retain(|other| !Arc::ptr_eq(other, &waiter));
            }
            return;
        }
        let since = self.begun;
        match self.scheduler.queueing_bound_over(&waiter, since, self.clock()) {
            WhatNext::Wait => {}
            WhatNext::Visit(visit) => self.begin_visit(Some(visit)),
            WhatNext::Lead(link) => self.lead(link),
            WhatNext::Dial => self.dials += 1,
            WhatNext::Entrust(_) => unreachable!("there are no loops"),
        }
    }

    fn submit(&mut self) {
        let (call, clock) = (self.promise(), self.clock());
        if self.random.one_in(5) {
            let mut requests = Requests::default();
            requests.add(Owner::Call(call), encode, Expect::Ping).unwrap();
            if let Ok(actions) = self.scheduler.submit_exclusive(requests, clock) {
                self.perform(actions);
            }
            return;
        }
        let is_enough = self.random.one_in(2);
        let expect = Expect::Ping;
        let submitted = self.scheduler.submit(call, encode, expect, |_| is_enough, clock);
        match submitted {
            Err(_) => assert!(self.scheduler.refuses()),
            Ok(Submitted::Deferred(watch)) => {
                self.perform(Actions { watch, ..Actions::default() });
            }
            Ok(Submitted::Entrusted(actions)) => self.perform(actions),
            Ok(Submitted::SendOff(link)) => {
                self.see("a send-off");
                self.out.push(link);
            }
        }
    }

    fn unbegun_link_is_gone(&mut self) {
        let Some(mut link) = self.take_out() else { return };
        if link.batch.is_complete() {
            return self.out.push(link);
        }
        let (seat, wakeups, batch) = (link.seat, link.batch.wakeups, link.batch.unload());
        batch.mark_unsent();
        drop(link);
        let actions = self.scheduler.lost(seat, self.clock());
        self.perform(actions);
        match self.scheduler.put_back(batch, wakeups, seat, self.clock()) {
            Ok(actions) => self.perform(actions),
            Err(batch) => {
                assert!(self.scheduler.refuses());
                batch.into_entries().into_iter().for_each(refuse);
            }
        }
    }

    fn close(&mut self) {
        self.see("the end");
        let Remains { links, parked, requests } = self.scheduler.close();
        drop(links);
        let entries = requests.into_iter().flat_map(Requests::into_entries);
        entries.for_each(refuse);
        // Whoever waits is told.
        self.woken += self.waiting;
        parked.into_iter().for_each(|link| self.lose(link));
    }

    fn event(&mut self) {
        self.now += Duration::from_micros(self.random.below(100_000) as u64);
        match self.random.below(63) {
            0..8 => self.small_call(),
            8..10 => self.exclusive_call(),
            10..26 => self.link_done(),
            26..29 => self.some_replies(),
            29..37 => self.dial_over(),
            37..39 => self.thread_waited(),
            39..45 => {
                let burst = if self.random.one_in(8) { 20 } else { 1 };
                (0..burst).for_each(|_| self.submit());
            }
            45..48 => self.queue_waits(),
            48..51 => self.leave_link(),
            51 => self.unbegun_link_is_gone(),
            52 => self.reactor_looks(),
            56..62 => self.dock_event(),
            62 => self.health_event(),
            53 => {
                let tag = 1 + self.random.below(self.tag as usize + 1) as u64;
                let _ = self.queue.cancel(tag);
                wait_often(&self.queue);
            }
            54 => {
                let actions = self.scheduler.entrust(self.clock());
                self.perform(actions);
            }
            _ => {
                self.scheduler.forget_unwanted();
                self.scheduler.forget_completed();
            }
        }
    }

    fn check(&mut self) {
        if self.waiting == 0 {
            self.woken = 0;
        }
        // Who has an answer has gone.
        self.threads.retain(|waiter| match waiter.take() {
            Some(Woken::Link(_)) => unreachable!("nobody hands a link to a waiter here"),
            answered => answered.is_none(),
        });
        let scheduler = &self.scheduler;
        let parked = scheduler.parked();
        let is_parked = usize::from(parked.is_some());
        let in_hands = self.out.len() + is_parked + self.drivers.len();
        let reserved = self.reservations.len() + self.dials;
        assert_eq!(scheduler.count, scheduler.idle.len() + in_hands + reserved);
        assert!(scheduler.count <= scheduler.most);
        let current = Seat::Shared { epoch: scheduler.epoch };
        let seats = self.out.iter().map(|link| link.seat).chain(parked.map(|link| link.seat));
        let seats = seats.chain(self.docked().map(|link| link.seat));
        let seats = seats.chain(self.reservations.iter().map(|reservation| reservation.seat));
        let is_shared = |seat: &Seat| matches!(seat, Seat::Shared { .. });
        let (now, before): (Vec<Seat>, Vec<Seat>) =
            seats.filter(is_shared).partition(|seat| *seat == current);
        assert_eq!((scheduler.in_use, scheduler.slow), (now.len(), before.len()));
        assert!(scheduler.idle.iter().all(|link| link.batch.is_complete()));
        assert!(parked.is_none_or(|link| !link.batch.is_complete()));
        assert_eq!(scheduler.waiting, self.waiting);
        if scheduler.closed {
            assert!(scheduler.queue.is_empty() && scheduler.exclusive.is_empty());
            assert!(scheduler.idle.is_empty() && parked.is_none());
        }
        self.check_dock();
        self.check_health();
        self.check_calls();
        let has_calls = scheduler.queue.has_calls() || !scheduler.exclusive.is_empty();
        if has_calls || parked.is_some() {
            assert!(self.watch.is_some(), "somebody looks after what is left");
        }
        if scheduler.waiting > 0 && !scheduler.idle.is_empty() {
            assert!(self.woken > 0, "a link is idle beside a thread that waits for one");
        }
        let has_been_full = scheduler.respite.lasts(|| self.begun) || scheduler.is_held();
        if scheduler.waiting > 0 && scheduler.count < scheduler.most && !has_been_full {
            assert!(self.woken > 0, "there is room beside a thread that waits for a link");
        }
    }

    /// Every call that is not complete is in one place.
    fn check_calls(&self) {
        let scheduler = &self.scheduler;
        let batches = self.out.iter().map(|link| &**link).chain(self.docked());
        let batches = batches.map(|link| &link.batch);
        let batches = batches.chain(scheduler.parked().map(|link| &link.batch));
        let entries = batches.flat_map(Batch::entries);
        let exclusive = scheduler.exclusive.iter().flat_map(Requests::iter);
        let entries: Vec<&Entry<Probe>> =
            entries.chain(scheduler.queue.iter()).chain(exclusive).collect();
        for waiter in &self.threads {
            let is_its = |entry: &&&Entry<Probe>| {
                entry.thread().is_some_and(|waiting| Arc::ptr_eq(&waiting.waiter, waiter))
            };
            assert_eq!(entries.iter().filter(is_its).count(), 1);
        }
        let wanted = entries.iter().filter_map(|entry| entry.call());
        let wanted = wanted.filter(|call| !call.is_completed()).count();
        assert_eq!(wanted + 1, self.inflight.count(), "all but the one that is kept unanswered");
    }
}

#[test]
fn random_events_keep_every_invariant() {
    let mut seen: HashMap<&'static str, usize> = HashMap::new();
    for seed in 0..300 {
        let mut world = World::new(seed);
        for step in 0..400 {
            world.event();
            if step == 370 {
                world.close();
            }
            world.check();
        }
        world.seen.iter().for_each(|(what, count)| *seen.entry(what).or_default() += count);
    }
    for what in [
        "a link at hand",
        "a lead",
        "a link lost",
        "a retry",
        "a wait",
        "a refill",
        "a top-up",
        "a failed dial",
        "a withdrawal",
        "a send-off",
        "a park",
        "a miss",
        "a watch",
        "the end of a watch",
        "a docked link",
        "a visit",
        "a link called for",
        "a link of the past",
        "a suspicion",
        "a server that is down",
        "a server that is up again",
        "a link that calms",
        "links retired",
        "the end",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count >= 3), "{what}: {seen:?}");
    }
}
