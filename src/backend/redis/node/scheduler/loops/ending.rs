//! Loops whose links carry no further call.

use std::mem;
use std::time::Instant;

use super::{Loop, Loops, Place};
use crate::backend::redis::link::requests::Requests;
use crate::backend::redis::node::scheduler::Carrier;
use crate::backend::redis::node::scheduler::queue::SubmissionQueue;

/// What is left of loops that are gone.
pub struct Dissolved<L> {
    pub idle: Vec<Box<L>>,
    pub busy: Vec<Box<L>>,
    pub gathered: Vec<Requests<L>>,
}

impl<L: Carrier> Loop<L> {
    fn idle_link(&self) -> Option<&L> {
        match &self.link {
            Place::Parked(link) if link.batch().is_complete() => Some(link),
            _ => None,
        }
    }
}

impl<L: Carrier> Loops<L> {
    /// Takes all loops apart. Whoever has the link of one finds the loop gone.
    pub fn dissolve(&mut self) -> Dissolved<L> {
        let mut all = Dissolved { idle: Vec::new(), busy: Vec::new(), gathered: Vec::new() };
        for each in mem::take(&mut self.all) {
            if let Place::Parked(link) = each.link {
                let side = if link.batch().is_complete() { &mut all.idle } else { &mut all.busy };
                side.push(link);
            }
            all.gathered.push(each.gathered);
        }
        all
    }

    /// Takes the links that have nothing under way, and that have not been heard from since that time. Their loops are
    /// gone, and what these had gathered is queued.
    pub fn take_unheard(&mut self, since: Instant, queue: &mut SubmissionQueue<L>) -> Vec<Box<L>> {
        let is_unheard =
            |each: &mut Loop<L>| each.idle_link().is_some_and(|link| link.last_used() < since);
        let mut links = Vec::new();
        for own in self.all.extract_if(.., is_unheard) {
            if let Place::Parked(link) = own.link {
                links.push(link);
            }
            queue.append(own.gathered);
        }
        links
    }

    /// How many links have nothing under way.
    pub fn idle_links(&self) -> usize {
        self.all.iter().filter(|each| each.idle_link().is_some()).count()
    }
}
