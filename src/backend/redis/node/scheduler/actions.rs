//! What a scheduler answers.

use super::deferral::WatchId;
use super::dock::Visit;
use crate::backend::redis::link::requests::Requests;
use crate::completion::QueueHold;

/// What a node does once it has let go of its scheduler.
#[must_use]
pub struct Actions<L> {
    /// To be handed to the first thread that waits in its batch, or else to the reactor.
    pub hand_over: Option<Box<L>>,
    /// For the reactor to drive.
    pub drive: Vec<Box<L>>,
    /// For the descriptor of this queue, whose calls are loaded already.
    pub attach: Option<(Box<L>, QueueHold)>,
    /// A docked link with more to send.
    pub visit: Option<Visit<L>>,
    /// So many links are to be dialled out of band; they are counted already.
    pub dial: usize,
    /// One thread that waits for a link of its own is to be woken.
    pub wake_one: bool,
    /// The reactor is to look after what is queued.
    pub watch: Option<WatchId>,
    /// They are not counted any more.
    pub close: Vec<Box<L>>,
}

impl<L> Default for Actions<L> {
    fn default() -> Self {
        let (hand_over, drive, attach, visit, close) = (None, Vec::new(), None, None, Vec::new());
        Self { hand_over, drive, attach, visit, dial: 0, wake_one: false, watch: None, close }
    }
}

impl<L> Actions<L> {
    /// All of both, where no more than one of them attaches, hands over or visits a link.
    pub fn and(mut self, more: Self) -> Self {
        self.drive.extend(more.drive);
        self.close.extend(more.close);
        Self {
            hand_over: self.hand_over.or(more.hand_over),
            drive: self.drive,
            attach: self.attach.or(more.attach),
            visit: self.visit.or(more.visit),
            dial: self.dial + more.dial,
            wake_one: self.wake_one || more.wake_one,
            watch: self.watch.or(more.watch),
            close: self.close,
        }
    }
}

/// What is left when a scheduler is closed, or has no link and can have none.
pub struct Remains<L> {
    pub links: Vec<Box<L>>,
    /// Counted until they are reported lost.
    pub parked: Vec<Box<L>>,
    /// Calls to be failed.
    pub requests: Vec<Requests<L>>,
}
