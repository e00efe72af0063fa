//! A queue's descriptor, and the links in it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::engine::QueueId;
use crate::error::{Error, Result};
use crate::sys::{self, Event, Poller, SocketFd};

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
            let _ = poll(&mut fds, left.map(sys::poll_timeout).as_ref());
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
    socket: Weak<SocketFd>,
    state: Mutex<State>,
}

/// Whoever changes it changes it in the descriptor, under its lock. Muting is counted by who has the link given out:
/// the calls may come here in another order.
struct State {
    events: PollFlags,
    is_in: bool,
    /// Somebody else is told as well.
    other: Option<Arc<Poller>>,
    /// The last time that it was muted, and unmuted.
    muted: u64,
    unmuted: u64,
    has_left: bool,
}

impl Default for State {
    fn default() -> Self {
        let events = PollFlags::empty();
        Self { events, is_in: false, other: None, muted: 0, unmuted: 0, has_left: false }
    }
}

impl Membership {
    /// Has the descriptor of this queue look at a link's socket as well. `None`: it cannot.
    pub(super) fn new(
        descriptor: Arc<Descriptor>,
        queue: QueueId,
        socket: &Arc<SocketFd>,
    ) -> Option<Self> {
        descriptor.poller.get()?.add(socket.as_fd(), PollFlags::IN).ok()?;
        let state = Mutex::new(State { events: PollFlags::IN, is_in: true, ..State::default() });
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

    /// Takes the link's socket out of the descriptor for a while. To look for no events would not do: that a peer has
    /// gone is told all the same, and what becomes ready meanwhile makes no edge when it is looked for again.
    fn look_away(&self, state: &mut State) {
        if let (Some(poller), Some(socket)) = (self.descriptor.poller.get(), self.socket.upgrade())
            && state.is_in
        {
            poller.remove(socket.as_fd());
            state.is_in = false;
        }
    }

    /// Puts it in, unless the link has left.
    fn look(&self, state: &mut State) {
        if let (Some(poller), Some(socket)) = (self.descriptor.poller.get(), self.socket.upgrade())
            && !state.is_in
            && !state.has_left
        {
            state.is_in = poller.add(socket.as_fd(), state.events).is_ok();
            if !state.is_in {
                // Somebody is to come once. After that the link is left lying.
                self.descriptor.has_output();
            }
        }
    }

    /// The link makes the descriptor readable no more, until it is unmuted. `turn`: the number of this time.
    pub fn mute(&self, turn: u64) {
        let mut state = self.state();
        state.muted = state.muted.max(turn);
        if state.unmuted < turn {
            self.look_away(&mut state);
        }
    }

    /// Ends what was begun with this number. If there is input already, who polls edge-triggered is woken.
    pub fn unmute(&self, turn: u64) {
        let mut state = self.state();
        state.unmuted = state.unmuted.max(turn);
        if state.muted <= turn {
            self.look(&mut state);
        }
    }

    /// What to wait for from now on. For who has the link.
    pub fn wait_for(&self, events: PollFlags) {
        let mut state = self.state();
        if state.events != events {
            state.events = events;
            if state.muted <= state.unmuted {
                self.look_away(&mut state);
                self.look(&mut state);
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
                (state.is_in, state.has_left) = (false, true);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::event::epoll;

    use super::*;

    struct Joined {
        descriptor: Arc<Descriptor>,
        membership: Membership,
        socket: Arc<SocketFd>,
        peer: UnixStream,
    }

    impl Joined {
        fn new() -> Self {
            let descriptor = Arc::new(Descriptor::new().unwrap());
            descriptor.number().unwrap();
            let (own, peer) = UnixStream::pair().unwrap();
            let socket = Arc::new(SocketFd::of(own.into()).unwrap());
            let queue = QueueId::of(&raw const descriptor);
            let membership = Membership::new(Arc::clone(&descriptor), queue, &socket).unwrap();
            Self { descriptor, membership, socket, peer }
        }

        fn poller(&self) -> &Poller {
            self.descriptor.poller.get().unwrap()
        }

        /// Who polls it edge-triggered: whether there has been another edge.
        fn edges(&self) -> impl Fn() -> bool + use<> {
            let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(0);
            epoll::add(&outer, self.poller(), data, edge).unwrap();
            move || {
                let mut events = [epoll::Event { flags: edge, data }];
                let now = Some(&sys::timespec(Duration::ZERO));
                epoll::wait(&outer, &mut events, now).unwrap() == 1
            }
        }
    }

    #[test]
    fn input_that_is_left_unread_makes_an_edge_when_its_link_is_unmuted() {
        let joined = Joined::new();
        let is_woken = joined.edges();
        for turn in 1..4 {
            rustix::io::write(&joined.peer, b"more").unwrap();
            assert!(is_woken());
            joined.membership.mute(turn);
            assert!(!is_woken());
            joined.membership.unmute(turn);
            assert!(is_woken(), "there is input");
            assert!(!is_woken());
        }
        joined.membership.wait_for(PollFlags::IN | PollFlags::OUT);
        assert!(is_woken(), "there is room");
        joined.membership.leave(joined.socket.as_fd());
        assert!(!joined.poller().is_ready());
    }

    #[test]
    fn what_comes_during_a_step_makes_an_edge_though_an_earlier_signal_is_there_still() {
        let joined = Joined::new();
        let descriptor = &joined.descriptor;
        let is_woken = joined.edges();
        descriptor.has_completions();
        assert!(is_woken());
        for _ in 0..3 {
            descriptor.begin_step();
            descriptor.has_output();
            assert!(is_woken(), "it is not what the poller was told of before");
            descriptor.settle(true);
            assert!(is_woken(), "input or output is left");
        }
        descriptor.begin_step();
        descriptor.settle(false);
        assert!(!is_woken() && !joined.poller().is_ready());
        descriptor.has_completions();
        assert!(is_woken());
    }

    #[test]
    fn a_link_that_is_muted_says_nothing_though_its_peer_goes() {
        let Joined { descriptor, membership, socket, peer } = Joined::new();
        let poller = descriptor.poller.get().unwrap();
        membership.mute(1);
        membership.wait_for(PollFlags::IN | PollFlags::OUT);
        drop(peer);
        assert!(!poller.is_ready());
        membership.unmute(1);
        assert!(poller.is_ready());
        membership.leave(socket.as_fd());
        membership.unmute(2);
        assert!(!poller.is_ready());
    }

    #[test]
    fn an_unmute_that_overtakes_its_mute_leaves_the_link_in() {
        let joined = Joined::new();
        joined.membership.unmute(1);
        joined.membership.mute(1);
        assert!(!joined.poller().is_ready());
        rustix::io::write(&joined.peer, b"more").unwrap();
        assert!(joined.poller().is_ready());
    }
}
