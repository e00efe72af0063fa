//! Links of loops that have nothing under way.

use super::{Loop, Loops, Place};
use crate::backend::redis::node::scheduler::Carrier;

impl<L: Carrier> Loop<L> {
    fn unused(&self) -> Option<&L> {
        match &self.link {
            Place::Parked(link) if !self.has_calls() => Some(link),
            _ => None,
        }
    }
}

impl<L: Carrier> Loops<L> {
    pub fn unused(&self) -> impl Iterator<Item = &L> {
        self.all.iter().filter_map(Loop::unused)
    }

    /// Takes one of them out, to be parked again or closed.
    pub fn take_unused(&mut self, is_it: impl Fn(&L) -> bool) -> Option<Box<L>> {
        self.all.iter_mut().find(|each| each.unused().is_some_and(&is_it))?.take()
    }
}
