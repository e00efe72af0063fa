//! Which call goes over which link of a node, and who drives it.
//!
//! A scheduler is a value: it does no I/O, takes no lock and knows no thread and no clock. Its node tells it what has
//! happened, under a lock, and does what it answers when it has let go of that: see [`Actions`]. There are six kinds
//! of methods:
//!
//! - a call comes: `take_at_hand`, `admit`, `enqueue`, `check_out_exclusive`, `submit`, `submit_exclusive`
//!   (`calls.rs`);
//! - a call or its driver has waited: `queueing_bound_over`, `withdraw`, `look_after` (`calls.rs`, `deferral.rs`);
//! - who drives asks for more, or sleeps: `load`, `top_up`, `refill`, `keep_busy`, `take_link_to_drive`, `park`,
//!   `dock`, `undock`, `end_visit` (`calls.rs`, `deferral.rs`, `dock.rs`);
//! - an event loop's turn: `submit_for_loop`, `take_for_loop`, `park_for_loop`, `look_at_loops` (`loops/`);
//! - a link comes or goes: `give_back`, `lost`, `dialled`, `dial_failed`, `own_dial_over`, `close` (here),
//!   `take_unused` (`idle.rs`);
//! - the server is silent, or speaks of itself: `note_silence`, `probed`, `retire` (`health.rs`).
//!
//! A call takes an idle link and is driven by its own thread: one write, one read. While as many links are in use as
//! serve contending callers best, a small call joins the queue instead: its request is appended to the queue's, and
//! whoever gives a link back hands it, with all that is queued, to the first in the queue, who drives that batch while
//! the next one gathers. Nobody drives more than one batch at a time.
//!
//! That gathering pays where the server is near. Where it is far away a call would wait a round trip for those before
//! it. So while callers contend there, links are docked: a driver leaves its link in the dock while it sleeps, and a
//! call that comes visits it: it adds its request to the batch, sends it, and docks the link again. What is queued
//! while the driver or a visitor has the link goes with it before it is docked. Each thread is woken by itself when its
//! reply is there. A link that has been silent for several round trips takes no visitors.
//!
//! A small asynchronous call joins the queue; it is driven by the thread that waits for its completion, or by the
//! reactor, or by a driver of a docked link. Where the descriptor of its completion queue is polled it goes over the
//! link that follows that event loop (`loops/`). Large calls, and those that leave a link in doubt, have a link to
//! themselves.
//!
//! Requests are bound to a link only when it is free to send them, or when replies have come over it of late, so a slow
//! answer holds up nobody who comes later: who has waited for [`QUEUEING_BOUND`], or longer where batches are large,
//! begins a new epoch, in which the links in use count no more, and takes another one, or has one dialled, for all that
//! is queued. Links that are far away may just be held up: there it waits for several round trips before it looks, and
//! for longer before it begins an epoch. In that they count again as soon as they answer.
//!
//! # Invariants
//!
//! - A link is idle, or parked, or docked, or out: in the hands of a call, of a waiter, of a visitor, or of the
//!   reactor. `count` is how many there are, with those that are being dialled, by threads for themselves
//!   (`own_dials`) or out of band (`dials`). It never exceeds `most`.
//! - A link that is out, parked or docked has a [`Seat`]: exclusive, or shared since an epoch. `in_use` is the number
//!   of those, and of reservations, that are shared since the current epoch, and `slow` of those since an earlier one.
//! - An idle link has no batch; a parked one has, and its batch waits for one completion queue only. One that is
//!   parked for its event loop may have none, and never counts in `in_use`. In the batch of a docked one is the call of
//!   its driver, who comes for it; whoever has it meanwhile only sends.
//! - A call is in one place: in the queue, among the exclusive ones, gathered for a loop, or in the batch of a link.
//!   Nothing is queued on a closed scheduler.
//! - No link is idle but those of the present [`Vintage`], and none while the server is suspected or down.
//! - While something is queued, somebody will come for it: a link is out or docked, one is being dialled, a thread
//!   waits with a bound on its time in the queue, the queue is being watched (`watching`), or the server is asked
//!   whether it is up.

mod actions;
mod calls;
mod deferral;
mod dock;
mod ending;
mod growth;
mod health;
mod idle;
mod loops;
mod measures;
mod queue;
mod recruit;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::actions::{Actions, Remains};
pub use self::calls::{Admission, Checkout, Queued, Submitted, Ticket, WhatNext};
use self::deferral::Deferral;
pub use self::deferral::{Look, WatchId};
use self::dock::Dock;
pub use self::dock::{Visit, Visited};
use self::growth::Growth;
use self::health::Health;
pub use self::health::{Noted, Probed, Retired, Verdict};
use self::loops::Loops;
pub use self::loops::{ForLoop, ForStep, LOOK, Left, Lookout, Parked, Suspect};
pub use self::measures::Distance;
use self::measures::{Contention, Mixture, Respite};
use self::queue::SubmissionQueue;
use crate::backend::redis::link::batch::Batch;
use crate::backend::redis::link::connection::Seat;
use crate::backend::redis::link::outcome::Vintage;
use crate::backend::redis::link::requests::Requests;
use crate::completion::Membership;

/// How long a queued call waits for a link in use before it takes another: several round trips to a server that is
/// near.
pub const QUEUEING_BOUND: Duration = Duration::from_micros(250);
/// The longest it waits between two looks at whether there is another.
pub const LONGEST_QUEUEING_BOUND: Duration = Duration::from_millis(8);
/// Links in use beyond which callers queue. Where they contend, one sends for all, and those who sleep are woken
/// together. Two that spin for the reply do not wait for each other; of those that sleep a few do better with a link
/// each.
const IN_USE_CONTENDED: usize = 1;
const IN_USE: usize = 2;
const IN_USE_ASLEEP: usize = 8;
/// The same to a server that is far away, where links are docked: the more calls share one, the less each costs.
const IN_USE_FAR_CONTENDED: usize = 2;
const IN_USE_FAR: usize = 8;
/// The most that are dialled out of band at once; threads that dial for themselves are bounded by the links that there
/// may be. A node that has no link yet dials one, so that servers that are not there do not take all the threads.
const MOST_DIALS: usize = 4;

/// What a scheduler needs of a link.
pub trait Carrier: Sized {
    fn batch(&self) -> &Batch<Self>;
    fn batch_mut(&mut self) -> &mut Batch<Self>;
    fn seat_mut(&mut self) -> &mut Seat;
    /// When it was used last, or something came over it.
    fn last_used(&self) -> Instant;
    /// Its place in the descriptor of a queue that is polled.
    fn membership(&self) -> Option<&Arc<Membership>>;
    fn vintage(&self) -> Vintage;
}

/// What a link is taken for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// Small calls, which may follow one another on it.
    Shared,
    /// One call.
    Exclusive,
}

pub struct Scheduler<L> {
    most: usize,
    /// Callers spin for the reply, and it pays.
    spins: bool,
    /// The one used last at the end: the others may then be left to the server's idle timeout.
    idle: Vec<Box<L>>,
    count: usize,
    in_use: usize,
    /// Links in use, shared since an earlier epoch.
    slow: usize,
    growth: Growth,
    /// Goes up when the links in use are found to be slow.
    epoch: NonZeroU64,
    epoch_begun: Option<Instant>,
    dials: usize,
    own_dials: usize,
    queue: SubmissionQueue<L>,
    /// Large asynchronous calls, each of which waits for a link of its own.
    exclusive: VecDeque<Requests<L>>,
    /// At so many of these it is time to look for those that nobody wants any more.
    sweep_exclusive_at: usize,
    /// Threads that wait for a link of their own.
    waiting: usize,
    /// Whether those who wait for a link of their own are next, and among them the asynchronous calls.
    next_is_exclusive: bool,
    next_exclusive_is_call: bool,
    /// How many batches, and large calls, have been given to links.
    loads: usize,
    deferral: Deferral<L>,
    dock: Dock<L>,
    loops: Loops<L>,
    contention: Contention,
    mixture: Mixture,
    distance: Distance,
    respite: Respite,
    health: Health,
    /// The vintage of links that may be given back and taken as usual; `NONE`, where nothing is.
    current: Vintage,
    closed: bool,
}

/// The right to dial a link, which counts as one that is out. To be told what came of it with
/// [`Scheduler::own_dial_over`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    seat: Seat,
}

/// What came of a dial.
pub enum Dialled<'a, L> {
    Link(&'a mut L),
    Nothing,
}

impl<L: Carrier> Scheduler<L> {
    /// `most`: links there may be. `spins`: callers spin for the reply.
    pub fn new(most: usize, spins: bool) -> Self {
        Self {
            most,
            spins,
            idle: Vec::new(),
            count: 0,
            in_use: 0,
            slow: 0,
            growth: Growth::default(),
            epoch: NonZeroU64::MIN,
            epoch_begun: None,
            dials: 0,
            own_dials: 0,
            queue: SubmissionQueue::default(),
            exclusive: VecDeque::new(),
            sweep_exclusive_at: 0,
            waiting: 0,
            next_is_exclusive: false,
            next_exclusive_is_call: false,
            loads: 0,
            deferral: Deferral::default(),
            dock: Dock::default(),
            loops: Loops::default(),
            contention: Contention::default(),
            mixture: Mixture::default(),
            distance: Distance::default(),
            respite: Respite::default(),
            health: Health::default(),
            current: Vintage::FIRST,
            closed: false,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    #[cfg(test)]
    pub fn is_far(&self) -> bool {
        self.distance.is_far()
    }

    /// Links that are there.
    pub fn links(&self) -> usize {
        self.count.saturating_sub(self.dials + self.own_dials)
    }

    /// Takes the link that there is for a small call in the usual case.
    #[inline(always)]
    pub fn take_at_hand(&mut self) -> Option<Box<L>> {
        // On a closed scheduler none is idle.
        let is_at_hand = !self.combines() && self.is_free() && self.has_idle();
        if is_at_hand { self.check_out(Usage::Shared) } else { None }
    }

    /// Takes the idle link that was used last.
    #[inline(always)]
    fn check_out(&mut self, usage: Usage) -> Option<Box<L>> {
        let mut link = self.idle.pop()?;
        *link.seat_mut() = self.seat(usage);
        Some(link)
    }

    /// A seat for a link that is about to be out.
    #[inline(always)]
    fn seat(&mut self, usage: Usage) -> Seat {
        match usage {
            Usage::Exclusive => Seat::Exclusive,
            Usage::Shared => {
                self.in_use += 1;
                Seat::Shared { epoch: self.epoch }
            }
        }
    }

    fn vacate(&mut self, seat: Seat) {
        if seat == (Seat::Shared { epoch: self.epoch }) {
            self.in_use -= 1;
        } else {
            self.vacate_earlier(seat);
        }
    }

    /// The only way in which a dial is counted.
    fn reserve(&mut self, now: impl Fn() -> Instant) -> bool {
        let has_room = self.has_room(now);
        self.count += usize::from(has_room);
        has_room
    }

    /// The right to dial for oneself, where there may be another link.
    fn reserve_own(&mut self, usage: Usage, now: impl Fn() -> Instant) -> Option<Reservation> {
        if !self.reserve(now) {
            return None;
        }
        self.own_dials += 1;
        Some(Reservation { seat: self.seat(usage) })
    }

    /// Counts a dial out of band, where there may be another link.
    fn reserve_out_of_band(&mut self, now: impl Fn() -> Instant) -> bool {
        let is_reserved = self.reserve(now);
        self.dials += usize::from(is_reserved);
        is_reserved
    }

    /// Takes a link back that a call is done with; it is idle from then on. `spins`: whether it pays to spin for its
    /// replies. It comes back, to be assigned, where somebody waits for a link.
    #[inline(always)]
    pub fn give_back(&mut self, mut link: Box<L>, spins: bool) -> Result<(), Box<L>> {
        self.spins = spins;
        let seat = *link.seat_mut();
        if seat != (Seat::Shared { epoch: self.epoch }) {
            return self.give_back_other(link, seat);
        }
        self.in_use -= 1;
        self.leave_idle(link)
    }

    /// The same, where its seat is not the usual one.
    #[cold]
    #[inline(never)]
    fn give_back_other(&mut self, link: Box<L>, seat: Seat) -> Result<(), Box<L>> {
        self.vacate(seat);
        self.leave_idle(link)
    }

    #[inline(always)]
    fn leave_idle(&mut self, mut link: Box<L>) -> Result<(), Box<L>> {
        if self.is_awaited() || link.vintage() != self.current {
            *link.seat_mut() = Seat::Exclusive;
            return Err(link);
        }
        self.next_is_exclusive = false;
        self.idle.push(link);
        Ok(())
    }

    /// A link that was dialled out of band is there.
    pub fn dialled(&mut self, link: Box<L>, now: impl Fn() -> Instant) -> Actions<L> {
        self.dials -= 1;
        self.health.has_link(link.vintage());
        if self.closed {
            return self.assign(link);
        }
        if link.vintage() != self.current {
            // A connection alone says nothing of a server that is suspected.
            self.count -= 1;
            let (close, wake_one) = (vec![link], self.waiting > 0);
            return self.go_on(now).and(Actions { close, wake_one, ..Actions::default() });
        }
        let actions = self.assign_to_loop(link).unwrap_or_else(|link| self.assign(link));
        if self.loops.awaiting() > 0 { actions.and(self.recruit(now)) } else { actions }
    }

    /// One that was to be dialled out of band is not. `Remains`: whoever waits where there is no link now fails with
    /// it.
    pub fn dial_failed(&mut self, now: impl Fn() -> Instant) -> Result<Actions<L>, Remains<L>> {
        self.dials -= 1;
        self.count -= 1;
        if self.links() > 0 {
            let has_more = self.give_up_loops();
            let actions = if has_more { self.recruit(&now) } else { Actions::default() };
            let hand_over = self.claim_for_queue();
            return Ok(actions.and(Actions { hand_over, ..Actions::default() }));
        }
        let (parked, mut requests) = self.loops.take_all();
        requests.extend(self.queue.take_all());
        requests.extend(mem::take(&mut self.exclusive));
        Err(Remains { links: Vec::new(), parked, requests })
    }

    /// What came of a dial for oneself.
    pub fn own_dial_over(
        &mut self,
        reservation: Reservation,
        dialled: Dialled<'_, L>,
        now: impl Fn() -> Instant,
    ) -> Actions<L> {
        self.own_dials -= 1;
        match dialled {
            Dialled::Link(link) => {
                self.health.has_link(link.vintage());
                *link.seat_mut() = reservation.seat;
                Actions::default()
            }
            Dialled::Nothing => self.lost(reservation.seat, now),
        }
    }

    /// A link that was out is closed. Its socket must be closed already, before another is dialled in its place.
    pub fn lost(&mut self, seat: Seat, now: impl Fn() -> Instant) -> Actions<L> {
        self.vacate(seat);
        self.count -= 1;
        let is_awaited = self.has_calls_left() || self.loops.awaiting() > 0;
        let must_recruit = !self.closed && is_awaited;
        let actions = if must_recruit { self.recruit(now) } else { Actions::default() };
        Actions { wake_one: self.waiting > 0, ..actions }
    }

    /// The server had no room for another link: those that are there must do.
    pub fn turned_away(&mut self, now: Instant) {
        self.respite.begin(now);
    }

    /// A call over a link that was shared took so long, from its beginning to its end.
    pub fn measure(&mut self, took: Duration) {
        self.distance.measure(took);
    }

    /// Gives a free link to whoever is next: who waits for a link of its own, or the queue, in turn.
    pub fn assign(&mut self, mut link: Box<L>) -> Actions<L> {
        if self.closed {
            self.count -= 1;
            return Actions { close: vec![link], ..Actions::default() };
        }
        let thread_waits = self.waiting > self.idle.len();
        let is_for_one = thread_waits || !self.exclusive.is_empty();
        if is_for_one && (self.queue.is_empty() || self.next_is_exclusive) {
            self.next_is_exclusive = false;
            self.next_exclusive_is_call = !self.next_exclusive_is_call;
            let is_for_call = !thread_waits || self.next_exclusive_is_call;
            if is_for_call && self.load_exclusive(&mut link) {
                *link.seat_mut() = Seat::Exclusive;
                return Actions { drive: vec![link], ..Actions::default() };
            }
        } else if !self.queue.is_empty() && self.in_use < self.most_in_use() {
            self.next_is_exclusive = true;
            self.load(&mut link);
            if !link.batch().is_complete() {
                *link.seat_mut() = self.seat(Usage::Shared);
                return Actions { hand_over: Some(link), ..Actions::default() };
            }
        }
        let link = match self.assign_to_loop(link) {
            Ok(actions) => return actions,
            Err(link) => link,
        };
        self.idle.push(link);
        Actions { wake_one: self.waiting > 0, ..Actions::default() }
    }

    /// How many links may be in use before callers queue.
    #[inline]
    fn most_in_use(&self) -> usize {
        match (self.distance.is_far(), self.spins) {
            (true, _) => IN_USE_FAR,
            (false, _) if self.contention.is_there() => IN_USE_CONTENDED,
            (false, true) => IN_USE,
            (false, false) => IN_USE_ASLEEP,
        }
    }

    /// The same for asynchronous calls.
    fn most_for_calls(&self) -> usize {
        self.most_in_use().min(IN_USE_FAR)
    }

    /// Whether it is worth while to let others join before a batch is sent: they have just been answered, and are about
    /// to call again.
    #[inline(always)]
    fn combines(&self) -> bool {
        self.contention.is_there()
    }

    /// Whether a small call need not queue.
    #[inline(always)]
    fn is_free(&self) -> bool {
        // One link at least may be in use, and mostly none is.
        (self.in_use == 0 || self.in_use < self.most_in_use()) && self.queue.is_empty()
    }

    /// Whether there may be another link.
    fn has_room(&self, now: impl Fn() -> Instant) -> bool {
        let has_links = self.links() > 0;
        let is_dialling = self.dials + self.own_dials > 0;
        self.count < self.most
            && !(has_links && self.respite.lasts(&now))
            && self.health.may_dial(is_dialling, has_links, now)
    }

    /// Whether there is an idle link that nobody has been promised.
    #[inline]
    fn has_idle(&self) -> bool {
        self.idle.len() > self.waiting
    }

    /// Whether anybody waits for a link of its own.
    fn is_claimed(&self) -> bool {
        self.waiting > 0 || !self.exclusive.is_empty()
    }

    /// Whether anybody waits for a link.
    #[inline]
    fn is_awaited(&self) -> bool {
        self.waiting > 0
            || !self.queue.is_empty()
            || !self.exclusive.is_empty()
            || self.loops.are_waiting()
    }
}
