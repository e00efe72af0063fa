//! A server that is silent, or that speaks of itself.

use super::super::*;
use super::outside::{promise, refuse};
use super::random::World;
use super::{Probe, encode, with_idle};
use crate::backend::redis::wire::replies::Expect;
use crate::completion::{CompletionQueue, Inflight};
use crate::error::Kind;

const SECOND: Duration = Duration::from_secs(1);

fn in_use(scheduler: &mut Scheduler<Probe>) -> Box<Probe> {
    scheduler.take_at_hand().unwrap()
}

#[test]
fn links_that_were_not_heard_from_since_a_call_began_are_closed_after_its_timeout() {
    let mut scheduler = with_idle(3);
    let began = Instant::now();
    let mut heard = in_use(&mut scheduler);
    heard.last_used = began + SECOND;
    assert!(scheduler.give_back(heard, true).is_ok());
    let Noted { must_probe, actions } = scheduler.note_silence(began, true);
    assert_eq!(actions.close.len(), 2);
    assert!(!must_probe, "one has been heard from");
    assert_eq!((scheduler.idle.len(), scheduler.count), (1, 1));
    assert!(!scheduler.note_silence(began, true).must_probe);
}

#[test]
fn a_silent_server_is_asked_once_and_what_comes_meanwhile_waits() {
    let mut scheduler = with_idle(1);
    let link = in_use(&mut scheduler);
    let began = Instant::now();
    assert!(!scheduler.note_silence(began, false).must_probe, "it is not to be suspected");
    assert!(scheduler.note_silence(began, true).must_probe);
    assert!(!scheduler.note_silence(began, true).must_probe, "it is asked already");
    assert_eq!(scheduler.admit(Instant::now), Admission::Queue);
    assert!(matches!(scheduler.check_out_exclusive(Instant::now), Checkout::Wait));
    // An answer to anything says that it is up.
    let link = scheduler.give_back(link, true).err().unwrap();
    assert!(scheduler.calm(&link, Instant::now()));
    let _ = scheduler.assign(link);
    assert!(scheduler.take_at_hand().is_some());
    assert!(!scheduler.note_silence(began, true).must_probe, "it has been heard since");
}

#[test]
fn a_server_that_is_down_takes_no_call_until_it_answers() {
    let mut scheduler = with_idle(1);
    let link = in_use(&mut scheduler);
    let began = Instant::now();
    assert!(scheduler.note_silence(began, true).must_probe);
    let queue = CompletionQueue::open().map(Arc::new).unwrap();
    let inflight = Arc::new(Inflight::new(10));
    let call = promise(&queue, &inflight, 1);
    assert!(scheduler.submit(call, encode, Expect::Ping, |_| false, Instant::now).is_ok());
    let verdict = scheduler.probed(Verdict::Silent, None, Instant::now());
    let Probed::Down(Some((remains, _))) = verdict else { panic!() };
    assert_eq!(remains.requests.iter().map(Requests::len).sum::<usize>(), 1);
    remains.requests.into_iter().flat_map(Requests::into_entries).for_each(refuse);
    assert_eq!(scheduler.admit(Instant::now), Admission::Refused);
    assert!(matches!(scheduler.check_out_exclusive(Instant::now), Checkout::Refused));
    let call = promise(&queue, &inflight, 2);
    let refused = scheduler.submit(call, encode, Expect::Ping, |_| false, Instant::now);
    assert!(matches!(refused.err().unwrap().kind, Kind::Down));
    // What was on its way before says nothing of now.
    let link = scheduler.give_back(link, true).err().unwrap();
    assert!(!scheduler.calm(&link, Instant::now()) && scheduler.is_retired(&link));
    let _ = scheduler.lost(link.seat, Instant::now);
    let verdict = scheduler.probed(Verdict::Unknown, None, Instant::now());
    assert!(matches!(verdict, Probed::Down(None)));
    let link = Box::new(Probe { vintage: scheduler.vintage(), ..Probe::default() });
    let up = scheduler.probed(Verdict::Answers, Some(link), Instant::now());
    assert!(matches!(up, Probed::Up(_)));
    assert!(scheduler.take_at_hand().is_some(), "the link that answered is for all");
}

#[test]
fn links_are_retired_once_a_second_and_one_is_dialled_in_their_place() {
    let mut scheduler = with_idle(3);
    let now = Instant::now();
    let old = in_use(&mut scheduler);
    let retired = scheduler.retire(old.vintage, now);
    assert!(retired.may_resend);
    assert_eq!(retired.actions.close.len(), 2);
    assert!(scheduler.retire(old.vintage, now).may_resend, "it was, for another call");
    assert!(scheduler.is_retired(&old));
    let Checkout::Dial(reservation) = scheduler.check_out_exclusive(|| now) else { panic!() };
    assert!(matches!(scheduler.check_out_exclusive(|| now), Checkout::Wait), "one is enough");
    let mut link = Box::new(Probe { vintage: scheduler.vintage(), ..Probe::default() });
    let _ = scheduler.own_dial_over(reservation, Dialled::Link(&mut *link), || now);
    assert!(matches!(scheduler.check_out_exclusive(|| now), Checkout::Wait), "it is shared");
    assert!(!scheduler.retire(link.vintage, now).may_resend, "a second has not passed");
    assert!(!scheduler.is_retired(&link));
    let later = now + SECOND;
    assert!(matches!(scheduler.check_out_exclusive(|| later), Checkout::Dial(_)));
    assert!(scheduler.retire(link.vintage, later).may_resend);
    assert!(scheduler.is_retired(&link));
}

#[test]
fn who_waits_for_a_link_of_its_own_is_told_when_one_comes_too_late_to_be_used() {
    let mut scheduler: Scheduler<Probe> = Scheduler::new(1, true);
    assert!(scheduler.reserve_out_of_band(Instant::now));
    assert!(matches!(scheduler.check_out_exclusive(Instant::now), Checkout::Wait));
    scheduler.begin_to_wait();
    assert!(scheduler.retire(Vintage::FIRST, Instant::now()).may_resend);
    let actions = scheduler.dialled(Box::default(), Instant::now);
    assert_eq!((actions.close.len(), actions.wake_one), (1, true));
    assert!(matches!(scheduler.check_out_exclusive(Instant::now), Checkout::Dial(_)));
}

impl Scheduler<Probe> {
    /// Whether dials are held back, or were.
    pub fn is_held(&self) -> bool {
        self.health.has_retired() || self.current != self.health.vintage()
    }
}

impl World {
    /// A link whose dial began some time ago, perhaps before the others were retired.
    pub fn new_link(&mut self) -> Box<Probe> {
        let is_old = self.random.one_in(10);
        let vintage = if is_old { Vintage::FIRST } else { self.scheduler.vintage() };
        Box::new(Probe { vintage, last_used: self.now, ..Probe::default() })
    }

    pub fn assign(&mut self, link: Box<Probe>) {
        let was_calmed = self.scheduler.calm(&link, self.now);
        if self.scheduler.is_retired(&link) && !self.scheduler.closed {
            self.see("a link of the past");
            return self.lose(link);
        }
        let mut actions = self.scheduler.assign(link);
        if was_calmed {
            self.see("a link that calms");
            actions = actions.and(self.scheduler.go_on(self.clock()));
            self.woken += self.waiting;
        }
        self.perform(actions);
    }

    pub fn health_event(&mut self) {
        match self.random.below(4) {
            0 => self.silence(),
            1 => {
                let before = self.scheduler.vintage();
                let vintage = self.out.first().map_or(before, |link| link.vintage);
                let retired = self.scheduler.retire(vintage, self.now);
                self.perform(retired.actions);
                if self.scheduler.vintage() != before {
                    self.see("links retired");
                }
            }
            _ => self.probe_over(),
        }
    }

    fn silence(&mut self) {
        let ago = Duration::from_micros(self.random.below(300_000) as u64);
        let began = self.now.checked_sub(ago).unwrap_or(self.now);
        let Noted { must_probe, actions } = self.scheduler.note_silence(began, true);
        self.perform(actions);
        if must_probe {
            assert!(!self.is_probed, "one question at a time");
            self.see("a suspicion");
            self.is_probed = true;
        }
    }

    fn probe_over(&mut self) {
        if !self.is_probed {
            return;
        }
        let verdict = match self.random.below(5) {
            0..3 => Verdict::Silent,
            3 => Verdict::Answers,
            _ => Verdict::Unknown,
        };
        let vintage = self.scheduler.vintage();
        let link = || Box::new(Probe { vintage, last_used: self.now, ..Probe::default() });
        let link = (verdict == Verdict::Answers).then(link);
        match self.scheduler.probed(verdict, link, self.now) {
            Probed::Closed => self.is_probed = false,
            Probed::Up(actions) => {
                self.see("a server that is up again");
                self.is_probed = false;
                self.woken += self.waiting;
                self.perform(actions);
            }
            Probed::Down(None) => {}
            Probed::Down(Some((remains, actions))) => {
                self.see("a server that is down");
                let requests = remains.requests.into_iter();
                requests.flat_map(Requests::into_entries).for_each(refuse);
                self.woken += self.waiting;
                self.perform(actions);
                // All that are out are cut off.
                while let Some(link) = self.out.pop() {
                    self.lose(link);
                }
            }
        }
    }

    pub fn check_health(&self) {
        let scheduler = &self.scheduler;
        let current = scheduler.vintage();
        assert!(scheduler.idle.iter().all(|link| link.vintage == current));
        if scheduler.current != current {
            assert!(scheduler.idle.is_empty(), "nothing is idle while the server is suspected");
            assert!(self.is_probed || scheduler.closed, "somebody asks");
        }
        if scheduler.refuses() {
            assert!(scheduler.queue.is_empty() && scheduler.exclusive.is_empty());
        }
    }
}
