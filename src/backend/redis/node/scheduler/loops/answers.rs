//! What is to be done about a loop's call, and about its link.

use std::sync::Arc;

use super::Suspect;
use crate::backend::redis::node::scheduler::Actions;
use crate::completion::{Membership, QueueHold};

/// What is to be done about a call that is polled for.
pub enum ForLoop<L> {
    /// Send it over the loop's link, and park that.
    Send(Box<L>),
    /// The same, over a link that is new to the loop.
    Attach(Box<L>, QueueHold),
    /// It goes with the loop's link the next time; whoever polls is to be told here, if nobody has.
    Gathered(Option<Arc<Membership>>),
    /// It is held behind a link over which nothing has come for long: unless something has meanwhile, the loop is to
    /// get another.
    Silent(Suspect),
    /// It waits for a link that is to be dialled, or is the reactor's.
    Entrusted(Actions<L>),
}

/// What a thread finds that steps for a queue.
pub enum ForStep<L> {
    Nothing,
    /// The loop's link, with a batch or without.
    Link(Box<L>),
    /// Another thread has the link, which is to be muted meanwhile.
    Mute(Arc<Membership>, u64),
}

/// How a loop's link is left.
#[derive(Clone, Copy, Default)]
pub struct Left {
    /// Some have come over it.
    pub has_replies: bool,
    /// There may be more input, of which its socket does not tell.
    pub has_more: bool,
}

/// What came of parking a link.
pub enum Parked<L> {
    Parked {
        /// Calls were gathered meanwhile, or there is more to be read: whoever polls is to be told.
        has_output: Option<Arc<Membership>>,
        /// It was muted meanwhile, and is to be unmuted.
        unmute: Option<(Arc<Membership>, u64)>,
    },
    /// What was held goes over it now.
    More(Box<L>),
    /// It is the loop's no more.
    Refused(Box<L>),
}
