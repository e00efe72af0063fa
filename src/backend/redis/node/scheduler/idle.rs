//! Links that nobody uses, to be looked at: the server may have closed them.

use super::{Actions, Carrier, Scheduler, Usage};

impl<L: Carrier> Scheduler<L> {
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
        if self.is_awaited() || self.closed {
            return self.assign(link);
        }
        self.idle.insert(0, link);
        Actions::default()
    }
}
