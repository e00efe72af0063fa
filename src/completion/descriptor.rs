//! A queue's descriptor, and the links in it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::engine::QueueId;
use crate::error::{Error, Result};
use crate::sys::{self, Event, Poller};

/// What wakes who sleeps on a queue: an event, and, once somebody has asked for it, a descriptor that is readable while
/// there is something to do for the queue. That holds the event, and the sockets of the links that carry its calls: so
/// it is the kernel that says that there is input.
///
/// The event is readable, lazily, for the two reasons that no socket tells: completions to hand out, and output to
/// send.
pub struct Descriptor {
    event: Event,
    poller: OnceLock<Poller>,
    reasons: Mutex<Reasons>,
}

#[derive(Default)]
struct Reasons {
    completions: bool,
    /// Requests, or more input than is taken in at once.
    io: bool,
    /// The event has been signalled since it was drained last.
    is_signalled: bool,
    /// It has been since a thread began to see to what there is to do: that one, or the next, sees to the rest.
    is_told: bool,
}

impl Descriptor {
    pub(super) fn new() -> Result<Self> {
        let event = Event::new().map_err(|_| Error::no_memory("a descriptor"))?;
        Ok(Self { event, poller: OnceLock::new(), reasons: Mutex::default() })
    }

    fn reasons(&self) -> MutexGuard<'_, Reasons> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number to be polled.
    pub(super) fn number(&self) -> Result<RawFd> {
        if let Some(poller) = self.poller.get() {
            return Ok(poller.as_fd().as_raw_fd());
        }
        let poller = self.make().map_err(|_| Error::no_memory("a descriptor"))?;
        Ok(self.poller.get_or_init(|| poller).as_fd().as_raw_fd())
    }

    fn make(&self) -> std::io::Result<Poller> {
        let poller = Poller::new()?;
        poller.add(self.event.as_fd(), PollFlags::IN)?;
        // In it from the start, so that nothing can fail at the end.
        poller.add(sys::always_readable()?.as_fd(), PollFlags::empty())?;
        Ok(poller)
    }

    /// Makes it readable for good, on its duplicates too, which outlive it.
    pub(super) fn end(&self) {
        self.event.signal();
        if let (Some(poller), Ok(always)) = (self.poller.get(), sys::always_readable()) {
            let _ = poller.change(always.as_fd(), PollFlags::IN);
        }
    }

    /// Waits until it is readable, or until `until`, or for no reason.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(poller) = self.poller.get() {
            let mut fds = [PollFd::new(poller, PollFlags::IN)];
            let _ = poll(&mut fds, left.map(sys::timespec).as_ref());
        }
    }

    /// There are completions to hand out.
    pub(super) fn has_completions(&self) {
        let mut reasons = self.reasons();
        reasons.completions = true;
        self.signal_once(&mut reasons);
    }

    /// There is something to be sent.
    pub fn has_output(&self) {
        let mut reasons = self.reasons();
        reasons.io = true;
        self.signal_once(&mut reasons);
    }

    fn signal_once(&self, reasons: &mut Reasons) {
        if !reasons.is_told {
            self.signal(reasons);
        }
    }

    fn signal(&self, reasons: &mut Reasons) {
        (reasons.is_signalled, reasons.is_told) = (true, true);
        self.event.signal();
    }

    /// A thread sees to all that there is to do. What comes from now on is told anew.
    pub(super) fn begin_step(&self) {
        let mut reasons = self.reasons();
        // Who polls edge-triggered has had the edge of an earlier signal, and gets none for one that is left as it is.
        (reasons.io, reasons.is_told) = (false, false);
    }

    /// It left something for the next, who is told as the thread goes.
    pub(super) fn has_more(&self) {
        self.reasons().io = true;
    }

    /// A thread has taken completions; whether some are left. Where I/O is left, who polls edge-triggered is woken too:
    /// it may have been told of that before it came.
    pub(super) fn settle(&self, has_completions: bool) {
        let mut reasons = self.reasons();
        reasons.completions = has_completions;
        match reasons.completions {
            _ if reasons.io => self.signal(&mut reasons),
            true => self.signal_once(&mut reasons),
            false if reasons.is_signalled => {
                (reasons.is_signalled, reasons.is_told) = (false, false);
                self.event.drain();
            }
            false => {}
        }
    }
}

impl AsFd for Descriptor {
    /// That of the event, for threads that sleep on a link and on this.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A link's place in the descriptor of a queue. It says when there is input for the link, unless somebody has muted it
/// because another thread has the link at that moment.
pub struct Membership {
    descriptor: Arc<Descriptor>,
    queue: QueueId,
    socket: Weak<OwnedFd>,
    state: Mutex<State>,
}

/// Whoever changes it changes it in the descriptor, under its lock. Muting is counted by who has the link given out:
/// the calls may come here in another order.
struct State {
    events: PollFlags,
    /// Somebody else is told as well.
    other: Option<Arc<Poller>>,
    /// The last time that it was muted, and unmuted.
    muted: u64,
    unmuted: u64,
    has_left: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { events: PollFlags::empty(), other: None, muted: 0, unmuted: 0, has_left: false }
    }
}

impl Membership {
    /// Has the descriptor of this queue look at a link's socket as well. `None`: it cannot.
    pub(super) fn new(
        descriptor: Arc<Descriptor>,
        queue: QueueId,
        socket: &Arc<OwnedFd>,
    ) -> Option<Self> {
        descriptor.poller.get()?.add(socket.as_fd(), PollFlags::IN).ok()?;
        let state = Mutex::new(State { events: PollFlags::IN, ..State::default() });
        Some(Self { descriptor, queue, socket: Arc::downgrade(socket), state })
    }

    pub fn queue(&self) -> QueueId {
        self.queue
    }

    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the descriptor looks for, or ends it, unless the link has left. Taken out and put in again: that
    /// wakes who polls edge-triggered where something is there already, and an end of the connection is seen whatever
    /// the events are. Where it cannot be put in again, what comes over the link is left lying, and found there.
    fn look_for(&self, state: &State, events: Option<PollFlags>) {
        if state.has_left {
            return;
        }
        if let (Some(poller), Some(socket)) = (self.descriptor.poller.get(), self.socket.upgrade())
        {
            poller.remove(socket.as_fd());
            if let Some(events) = events {
                let _ = poller.add(socket.as_fd(), events);
            }
        }
    }

    /// The link makes the descriptor readable no more, until it is unmuted. `turn`: the number of this time.
    pub fn mute(&self, turn: u64) {
        let mut state = self.state();
        state.muted = state.muted.max(turn);
        if state.unmuted < turn {
            self.look_for(&state, None);
        }
    }

    /// Ends what was begun with this number. If there is input already, who polls edge-triggered is woken.
    pub fn unmute(&self, turn: u64) {
        let mut state = self.state();
        state.unmuted = state.unmuted.max(turn);
        if state.muted <= turn {
            self.look_for(&state, Some(state.events));
        }
    }

    /// What to wait for from now on. For who has the link.
    pub fn wait_for(&self, events: PollFlags) {
        let mut state = self.state();
        if state.events != events {
            state.events = events;
            if state.muted <= state.unmuted {
                self.look_for(&state, Some(events));
            }
        }
    }

    /// Whether the link has input, or room for output that it waits for.
    pub fn is_ready(&self) -> bool {
        let events = self.state().events;
        let Some(socket) = self.socket.upgrade() else { return false };
        let mut fds = [PollFd::new(&*socket, events)];
        poll(&mut fds, Some(&sys::timespec(Duration::ZERO))).is_ok_and(|ready| ready > 0)
    }

    /// Has another poller look at the link's socket as well; false, where it cannot.
    pub fn tell(&self, other: &Arc<Poller>) -> bool {
        let mut state = self.state();
        let Some(socket) = self.socket.upgrade().filter(|_| !state.has_left) else { return false };
        let can = other.add(socket.as_fd(), state.events).is_ok();
        state.other = can.then(|| Arc::clone(other));
        can
    }

    pub fn stop_telling(&self) {
        let other = self.state().other.take();
        if let (Some(other), Some(socket)) = (other, self.socket.upgrade()) {
            other.remove(socket.as_fd());
        }
    }

    /// Takes the link out of the descriptor. To be called before its socket is closed.
    pub fn leave(&self, socket: BorrowedFd<'_>) {
        // In a child process a thread that is not there might hold the lock.
        if let Some(poller) = self.descriptor.poller.get().filter(|poller| poller.is_own()) {
            let mut state = self.state();
            if !state.has_left {
                poller.remove(socket);
                state.other.take().into_iter().for_each(|other| other.remove(socket));
                state.has_left = true;
            }
        }
    }
}
