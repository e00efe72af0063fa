//! Links that nobody uses: those that are given back, and those to be looked at, for the server may have closed them.

use super::{Actions, Carrier, Scheduler, Usage};
use crate::backend::redis::link::connection::Seat;

impl<L: Carrier> Scheduler<L> {
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

    /// The links that nobody uses: those that are idle, and those of event loops with nothing under way.
    pub fn unused(&self) -> impl Iterator<Item = &L> {
        self.idle.iter().map(|link| &**link).chain(self.loops.unused())
    }

    /// Takes one of them out that may be dead, if it is still unused.
    pub fn take_unused(&mut self, is_it: impl Fn(&L) -> bool) -> Option<Box<L>> {
        match self.idle.iter().position(|link| is_it(link)) {
            Some(index) => {
                let mut link = self.idle.remove(index);
                *link.seat_mut() = self.seat(Usage::Exclusive);
                Some(link)
            }
            None => self.loops.take_unused(is_it),
        }
    }

    /// An idle link that was taken out is not dead. It is the first that is left to the server's idle timeout.
    pub fn put_back_unused(&mut self, link: Box<L>) -> Actions<L> {
        if self.is_awaited() || link.vintage() != self.current {
            return self.assign(link);
        }
        self.idle.insert(0, link);
        Actions::default()
    }
}
