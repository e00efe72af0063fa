//! What is known of the server: whether it answers, and which links may be trusted.
//!
//! It is `Up` until a call or a dial was answered nothing. Then it is `Suspected`, and asked afresh, by nobody's call
//! (`node/probe.rs`): no link is dialled meanwhile, and what comes is queued. Any byte says that it is up; where the
//! question is not answered either it is `Down`: what waits is let go, what comes is refused, and it is asked again.
//!
//! Links are retired together where the server has answered with its own state, for its name may lead to another one by
//! now: those of an earlier [`Vintage`] carry no further call. That is once a second at most, and in that second no
//! more than one link is dialled, which all share.

use std::time::{Duration, Instant};

use super::loops::Dissolved;
use super::{Actions, Carrier, Remains, Scheduler};
use crate::backend::redis::link::connection::Seat;
use crate::backend::redis::link::outcome::Vintage;
use crate::error::Kind;

/// Links are retired no more often than this.
const BETWEEN_RETIREMENTS: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Suspected,
    Down,
}

pub struct Health {
    state: State,
    /// Links that are dialled from now on are of this one.
    vintage: Vintage,
    /// When links were retired last, and whether another has come since.
    retired: Option<Instant>,
    has_new: bool,
    /// At this time, or later, something has come from the server.
    heard: Option<Instant>,
    is_probed: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: State::Up,
            vintage: Vintage::FIRST,
            retired: None,
            has_new: false,
            heard: None,
            is_probed: false,
        }
    }
}

impl Health {
    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    /// That of a link whose dial begins now.
    pub fn vintage(&self) -> Vintage {
        self.vintage
    }

    /// Whether links may be dialled for calls. `is_dialling`: one is being dialled. `has_links`: there are any.
    pub fn may_dial(&self, is_dialling: bool, has_links: bool, now: impl Fn() -> Instant) -> bool {
        let is_held = (self.has_new && has_links) || is_dialling;
        self.state == State::Up && !(is_held && self.has_retired_lately(now))
    }

    #[cfg(test)]
    pub fn has_retired(&self) -> bool {
        self.retired.is_some()
    }

    fn has_retired_lately(&self, now: impl Fn() -> Instant) -> bool {
        self.retired.is_some_and(|at| now().saturating_duration_since(at) < BETWEEN_RETIREMENTS)
    }

    /// A link has come.
    pub fn has_link(&mut self, vintage: Vintage) {
        self.has_new |= vintage == self.vintage;
    }
}

/// What a call came to that a server answered which should not be asked again over links of that age.
pub struct Retired<L> {
    /// Whether the call may go over another link.
    pub may_resend: bool,
    pub actions: Actions<L>,
}

/// What there is to do when a call or a dial was answered nothing.
pub struct Noted<L> {
    /// The server is to be asked afresh.
    pub must_probe: bool,
    pub actions: Actions<L>,
}

/// What came of asking a server afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With whatever, or something has come over another link.
    Answers,
    Silent,
    /// This machine could not ask.
    Unknown,
}

/// What a verdict comes to.
pub enum Probed<L> {
    /// It is up, as far as is known: those that wait go on.
    Up(Actions<L>),
    /// It is down, and is to be asked again. `Some`: it is from now on, and this is to be let go.
    Down(Option<(Remains<L>, Actions<L>)>),
    Closed,
}

impl<L: Carrier> Scheduler<L> {
    /// Whether calls are refused.
    pub fn refuses(&self) -> bool {
        self.closed || self.health.is_down()
    }

    /// Why they are.
    pub fn refusal(&self) -> Kind {
        if self.closed || !self.health.is_down() { Kind::Closed } else { Kind::Down }
    }

    /// That of a link whose dial begins now.
    pub fn vintage(&self) -> Vintage {
        self.health.vintage
    }

    /// Whether a link carries no further call.
    pub fn is_retired(&self, link: &L) -> bool {
        link.vintage() != self.health.vintage
    }

    /// Links that may be given back and taken at once: those of this vintage.
    fn set_current(&mut self) {
        let is_usual = self.health.state == State::Up && !self.closed;
        self.current = if is_usual { self.health.vintage } else { Vintage::NONE };
    }

    /// The server has answered with its own state over a link of this vintage.
    pub fn retire(&mut self, vintage: Vintage, now: Instant) -> Retired<L> {
        let mut retired = Retired { may_resend: true, actions: Actions::default() };
        if vintage < self.health.vintage || self.closed {
            return retired;
        }
        if self.health.has_retired_lately(|| now) {
            retired.may_resend = false;
            return retired;
        }
        self.health.vintage = self.health.vintage.next();
        self.health.retired = Some(now);
        self.health.has_new = false;
        self.set_current();
        retired.actions.close = std::mem::take(&mut self.idle);
        self.count -= retired.actions.close.len();
        self.dissolve_loops(&mut retired.actions);
        retired
    }

    /// Nothing came from the server since `began`, for a call or a dial that had waited for long enough. Links that
    /// have not been heard from since carry no further call, and where that is all of them the server is suspected, if
    /// it `may_be`.
    pub fn note_silence(&mut self, began: Instant, may_be: bool) -> Noted<L> {
        let mut noted = Noted { must_probe: false, actions: Actions::default() };
        if self.closed {
            return noted;
        }
        let is_unheard = |link: &mut Box<L>| link.last_used() < began;
        noted.actions.close = self.idle.extract_if(.., is_unheard).collect();
        noted.actions.close.extend(self.loops.take_unheard(began, &mut self.queue));
        self.count -= noted.actions.close.len();
        self.watch_queue(&mut noted.actions);
        let was_heard = !self.idle.is_empty() || self.loops.idle_links() > 0;
        if was_heard {
            self.health.heard = self.health.heard.max(Some(began));
        }
        let was_heard = self.health.heard.is_some_and(|heard| heard >= began);
        if was_heard || !may_be || self.health.state != State::Up {
            return noted;
        }
        self.health.state = State::Suspected;
        self.set_current();
        self.dissolve_loops(&mut noted.actions);
        noted.must_probe = !std::mem::replace(&mut self.health.is_probed, true);
        noted
    }

    /// Whether a link is in use, so that something may have been sent.
    pub fn has_links_out(&self) -> bool {
        self.links() > self.idle.len() + self.loops.idle_links()
    }

    /// A link has come back with an answer. Whether it was not known that the server answers.
    pub fn calm(&mut self, link: &L, now: Instant) -> bool {
        let is_news = self.health.state != State::Up && !self.is_retired(link);
        if is_news {
            self.set_up(now);
        }
        is_news
    }

    fn set_up(&mut self, now: Instant) {
        self.health.state = State::Up;
        self.health.heard = Some(now);
        self.set_current();
    }

    /// What came of asking the server afresh. The link that has answered is for all, if there may be another.
    pub fn probed(&mut self, verdict: Verdict, link: Option<Box<L>>, now: Instant) -> Probed<L> {
        if self.closed {
            return Probed::Closed;
        }
        match (self.health.state, verdict) {
            (State::Up, _) | (_, Verdict::Answers) | (State::Suspected, Verdict::Unknown) => {
                self.health.is_probed = false;
                if self.health.state != State::Up {
                    self.set_up(now);
                }
                let adopted = link.map(|link| self.adopt(link, now)).unwrap_or_default();
                Probed::Up(adopted.and(self.go_on(|| now)))
            }
            (State::Down, _) => Probed::Down(None),
            (State::Suspected, Verdict::Silent) => Probed::Down(Some(self.let_go())),
        }
    }

    /// Nobody asks any more.
    pub fn end_probe(&mut self, now: Instant) -> Actions<L> {
        self.health.is_probed = false;
        if self.health.state == State::Up || self.closed {
            return Actions::default();
        }
        self.set_up(now);
        self.go_on(|| now)
    }

    /// What was queued meanwhile goes on.
    pub fn go_on(&mut self, now: impl Fn() -> Instant) -> Actions<L> {
        let mut actions = match self.has_calls_left() {
            true => self.recruit(&now),
            false => Actions::default(),
        };
        let nobody_comes = self.count == 0 && actions.dial == 0;
        if nobody_comes && !self.queue.is_empty() && self.reserve_out_of_band(now) {
            actions.dial += 1;
        }
        actions
    }

    /// The server is down: nothing of what waits will be answered. The links that are out are to be cut off.
    fn let_go(&mut self) -> (Remains<L>, Actions<L>) {
        self.health.state = State::Down;
        // What comes back from now on was on its way before.
        self.health.vintage = self.health.vintage.next();
        self.set_current();
        let mut actions = Actions::default();
        self.dissolve_loops(&mut actions);
        actions.drive.extend(self.unpark());
        let links = std::mem::take(&mut self.idle);
        self.count -= links.len();
        let mut requests: Vec<_> = self.queue.take_all().collect();
        requests.extend(std::mem::take(&mut self.exclusive));
        (Remains { links, parked: Vec::new(), requests }, actions)
    }

    fn adopt(&mut self, link: Box<L>, now: Instant) -> Actions<L> {
        if self.count >= self.most {
            return Actions { close: vec![link], ..Actions::default() };
        }
        self.count += 1;
        self.dials += 1;
        self.dialled(link, || now)
    }

    /// Event loops have no links of their own any more. What is under way over these is the reactor's, and what is
    /// gathered is queued.
    fn dissolve_loops(&mut self, actions: &mut Actions<L>) {
        let Dissolved { idle, mut busy, gathered } = self.loops.dissolve();
        self.count -= idle.len();
        actions.close.extend(idle);
        for link in &mut busy {
            *link.seat_mut() = Seat::Exclusive;
        }
        actions.drive.extend(busy);
        gathered.into_iter().for_each(|calls| self.queue.append(calls));
        self.watch_queue(actions);
    }

    /// Calls may have come into the queue.
    fn watch_queue(&mut self, actions: &mut Actions<L>) {
        if actions.watch.is_none() && self.has_calls_left() {
            actions.watch = self.deferral.watch();
        }
    }
}
