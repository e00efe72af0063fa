//! Links whose drivers sleep until something arrives. Others may take them meanwhile, to add to their batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Carrier, IN_USE_FAR, IN_USE_FAR_CONTENDED, Scheduler};
use crate::backend::redis::link::connection::Seat;
use crate::backend::redis::link::waiter::Waiter;

/// A link's place while its driver sleeps.
struct Berth<L> {
    /// By whom it is known: nobody drives two.
    driver: Arc<Waiter<L>>,
    /// `None`: a visitor has it.
    link: Option<Box<L>>,
    /// When something came over it last, or its batch was begun. `None`: it is in the middle of a reply, which may be a
    /// long one.
    heard: Option<Instant>,
    /// The driver has come while a visitor had it.
    is_called_for: bool,
}

pub struct Dock<L>(Vec<Berth<L>>);

impl<L> Default for Dock<L> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<L> Dock<L> {
    fn find(&self, driver: &Arc<Waiter<L>>) -> Option<usize> {
        self.0.iter().position(|berth| Arc::ptr_eq(&berth.driver, driver))
    }

    pub fn take_all(&mut self) -> impl Iterator<Item = Box<L>> {
        std::mem::take(&mut self.0).into_iter().filter_map(|berth| berth.link)
    }

    #[cfg(test)]
    pub fn links(&self) -> impl Iterator<Item = &L> {
        self.0.iter().filter_map(|berth| berth.link.as_deref())
    }
}

/// A docked link in the hands of a thread that is not its driver, with something more to send.
#[must_use]
pub struct Visit<L> {
    pub link: Box<L>,
    pub driver: Arc<Waiter<L>>,
}

/// What becomes of a docked link after a visit.
pub enum Visited<L> {
    /// It is docked again.
    Docked,
    /// There is more to send.
    More(Box<L>),
    /// Its driver waits for it.
    HandOver(Box<L>),
}

impl<L: Carrier> Scheduler<L> {
    /// Leaves a link to others until its driver, in whose batch's call it is, comes back. It comes back at once where
    /// there is more to send first. `heard`: when something came over it last; `None`: in the middle of a reply.
    pub fn dock(
        &mut self,
        mut link: Box<L>,
        driver: &Arc<Waiter<L>>,
        heard: Option<Instant>,
    ) -> Result<(), Box<L>> {
        if heard.is_some() && self.keep_busy(&mut link) {
            return Err(link);
        }
        self.count_again(&mut link, heard);
        let (driver, link) = (Arc::clone(driver), Some(link));
        self.dock.0.push(Berth { driver, link, heard, is_called_for: false });
        Ok(())
    }

    /// The driver comes back. `None`: a visitor has the link, and hands it over.
    pub fn undock(&mut self, driver: &Arc<Waiter<L>>) -> Option<Box<L>> {
        let index = self.dock.find(driver)?;
        let berth = self.dock.0.get_mut(index)?;
        match berth.link.take() {
            Some(link) => {
                self.dock.0.swap_remove(index);
                Some(link)
            }
            None => {
                berth.is_called_for = true;
                None
            }
        }
    }

    /// Adds what is queued to the batch of a docked link that answers.
    pub(super) fn visit(&mut self, now: impl Fn() -> Instant) -> Option<Visit<L>> {
        if self.dock.0.is_empty() || self.queue.is_empty() || self.is_claimed() || self.closed {
            return None;
        }
        let (now, silence) = (now(), self.distance.silence());
        let left = |berth: &Berth<L>| Some(berth.link.as_ref()?.batch().left());
        let berths = self.dock.0.iter().enumerate();
        let current = self.health.vintage();
        let is_current = |link: &L| link.vintage() == current;
        let open = berths.filter(|(_, berth)| {
            berth.link.as_deref().is_some_and(is_current) && berth.answers(now, silence)
        });
        let (index, _) = open.min_by_key(|(_, berth)| left(berth))?;
        let berth = self.dock.0.get_mut(index)?;
        let (mut link, driver) = (berth.link.take()?, Arc::clone(&berth.driver));
        if self.top_up(&mut link) {
            return Some(Visit { link, driver });
        }
        if let Some(berth) = self.dock.0.get_mut(index) {
            berth.link = Some(link);
        }
        None
    }

    /// A visitor has sent what it had.
    pub fn end_visit(&mut self, mut link: Box<L>, driver: &Arc<Waiter<L>>) -> Visited<L> {
        let Some(index) = self.dock.find(driver) else { return Visited::HandOver(link) };
        if self.dock.0.get(index).is_some_and(|berth| berth.is_called_for) {
            self.dock.0.swap_remove(index);
            return Visited::HandOver(link);
        }
        if self.keep_busy(&mut link) {
            return Visited::More(link);
        }
        if let Some(berth) = self.dock.0.get_mut(index) {
            berth.link = Some(link);
        }
        Visited::Docked
    }

    /// A docked link has ended in the hands of a visitor.
    pub fn forget_docked(&mut self, driver: &Arc<Waiter<L>>) {
        self.dock.0.retain(|berth| !Arc::ptr_eq(&berth.driver, driver));
    }

    /// Whether a call that has just been queued is one more than there may be links for such calls.
    pub(super) fn are_more_than_links(&self) -> bool {
        let docked = self.dock.0.iter().filter_map(|berth| berth.link.as_ref());
        let under_way: usize = docked.map(|link| link.batch().left()).sum();
        // Of the others nobody knows more than that they carry one.
        let others = self.in_use.saturating_sub(self.dock.0.len());
        under_way + others + self.queue.len() > IN_USE_FAR.min(self.most)
    }

    /// A link that was found to be slow counts again when it has answered since.
    fn count_again(&mut self, link: &mut L, heard: Option<Instant>) {
        let current = Seat::Shared { epoch: self.epoch };
        let seat = link.seat_mut();
        let is_slow = matches!(seat, Seat::Shared { .. }) && *seat != current;
        if is_slow && heard.is_some_and(|heard| self.epoch_begun.is_none_or(|begun| heard > begun))
        {
            *seat = current;
            self.slow -= 1;
            self.in_use += 1;
        }
    }

    /// Whether as many links as serve small calls best are in use and answer, or will be when their drivers sleep.
    pub(super) fn has_enough(&self, now: impl Fn() -> Instant) -> bool {
        // Links that others drive than threads that dock them are not had before the next reply comes.
        let are_shared = self.contention.is_there() && !self.mixture.is_there();
        let most = if are_shared { IN_USE_FAR_CONTENDED } else { IN_USE_FAR };
        let there = self.in_use + self.dials;
        if there < most {
            return false;
        }
        let (now, silence) = (now(), self.distance.silence());
        let is_slow = |berth: &&Berth<L>| !berth.answers(now, silence);
        there >= most + self.dock.0.iter().filter(is_slow).count()
    }
}

impl<L> Berth<L> {
    fn answers(&self, now: Instant, silence: Duration) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= silence)
    }
}
