//! The loop that carries requests out and replies in, whoever drives it: a calling thread, a thread in a queue's wait,
//! or the library's own thread. They differ only in how they wait, which is a [`Driver`]'s business.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::waiter::Waiter;
use crate::backend::redis::net::socket::{Broken, Stopped};
use crate::backend::redis::net::stream::Stream;
use crate::backend::redis::wire::decode::Inbox;
use crate::deadline::Deadline;
use crate::error::{Error, Result};

/// What may arrive while a request is still being sent. More than the replies to the largest sensible transaction.
pub const MOST_UNREAD: usize = 16 << 20;
/// What is read of one link before others have their turn, and in one read: what has been read is decoded in one go.
const MOST_AT_ONCE: usize = 1 << 20;
const MOST_IN_A_READ: usize = 128 << 10;

/// How long it takes at most, by a look at the clock every so many reads, and after each that was a large one.
const LONGEST_AT_ONCE: Duration = Duration::from_millis(1);
const READS_BY_THE_CLOCK: u32 = 4;
const LARGE_READ: usize = 32 << 10;

/// Requests on their way out, and the replies to them.
pub trait Exchange {
    type Done;

    /// Sends what goes without waiting.
    fn send(&mut self, stream: &mut Stream) -> Result<Sending, Broken>;

    /// Takes the replies that have arrived; what it all came to, once nothing more is to come.
    fn take(&mut self, inbox: &mut Inbox) -> Option<Self::Done>;

    /// Where to put what arrives next.
    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>>;

    /// Hands out what is complete; whether that was anything.
    fn deliver(&mut self) -> bool {
        false
    }

    /// Whether there are calls behind a first one that could go another way.
    fn waits_behind(&self) -> bool {
        false
    }

    /// After this nobody waits for it but threads.
    fn last_deadline(&self) -> Option<Instant> {
        None
    }
}

/// How far sending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// There was nothing left to send.
    Idle,
    /// All has gone just now, and nothing that was sent before is unanswered: the reply cannot be there yet.
    JustSent,
    /// Some is left, for which there is no room now.
    Blocked,
}

/// Why the loop was left before the exchange was over.
#[derive(Debug)]
pub enum Stop {
    Paused(Pause),
    Broken(Broken),
    /// There is no memory for what arrives.
    NoRoom(Error),
}

/// Why a driver leaves an exchange that may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// There is something to wait for, and the driver does not wait.
    WouldBlock,
    /// There is more to do at once, when others have had their turn.
    Yield,
    /// The driver's own deadline has passed.
    TimedOut,
    /// The driver has what it waited for.
    Satisfied,
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Stop::Broken(broken)
    }
}

impl From<Stopped> for Stop {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::TimedOut => Stop::Paused(Pause::TimedOut),
            Stopped::Broken(broken) => Stop::Broken(broken),
        }
    }
}

/// How whoever drives an exchange waits.
pub trait Driver {
    /// Returns once something more has arrived, or more may be sent.
    fn advance<E: Exchange>(
        &mut self,
        stream: &mut Stream,
        inbox: &mut Inbox,
        exchange: &mut E,
        sending: Sending,
    ) -> Result<(), Stop>;
}

/// Drives an exchange to its end, or as far as the driver goes.
pub fn drive<E: Exchange>(
    stream: &mut Stream,
    inbox: &mut Inbox,
    exchange: &mut E,
    driver: &mut impl Driver,
) -> Result<E::Done, Stop> {
    loop {
        let sending = exchange.send(stream)?;
        if let Some(done) = exchange.take(inbox) {
            return Ok(done);
        }
        driver.advance(stream, inbox, exchange, sending)?;
    }
}

/// Receives what is there; how much, or `None` for nothing yet.
fn receive<E: Exchange>(
    stream: &mut Stream,
    inbox: &mut Inbox,
    exchange: &mut E,
) -> Result<Option<usize>, Stop> {
    let room = exchange.room(inbox).map_err(Stop::NoRoom)?;
    Ok(stream.receive(room)?)
}

/// What to wait for.
pub fn interest(sending: Sending, inbox: &Inbox) -> PollFlags {
    match sending {
        Sending::Blocked if inbox.len() >= MOST_UNREAD => PollFlags::OUT,
        Sending::Blocked => PollFlags::OUT | PollFlags::IN,
        Sending::Idle | Sending::JustSent => PollFlags::IN,
    }
}

/// A thread that waits until its deadline.
pub struct Blocking<'a> {
    deadline: &'a Deadline,
    /// Whether it spins for what arrives next.
    spins: bool,
    shared: Option<Shared<'a>>,
}

/// What a thread that drives for others as well waits for itself.
struct Shared<'a> {
    waiter: &'a dyn HasAnswer,
    /// How long it stays when it has its own answer.
    stays: Duration,
}

trait HasAnswer {
    fn has_answer(&self) -> bool;
}

impl<L> HasAnswer for Waiter<L> {
    fn has_answer(&self) -> bool {
        self.is_completed()
    }
}

impl<'a> Blocking<'a> {
    /// For a call that has the link to itself. Once some of its reply is there, the rest is slept for: to spin for that
    /// would be to take it piece by piece.
    pub fn alone(deadline: &'a Deadline, inbox: &Inbox) -> Self {
        Self { deadline, spins: inbox.is_empty(), shared: None }
    }

    /// For a batch with the call of `waiter` in it, which stays no longer than that when it has its own answer.
    pub fn for_all<L>(deadline: &'a Deadline, waiter: &'a Waiter<L>, stays: Duration) -> Self {
        Self { deadline, spins: true, shared: Some(Shared { waiter, stays }) }
    }

    /// Until when it waits for others' replies.
    fn until(&self) -> Deadline {
        match &self.shared {
            Some(shared) if shared.waiter.has_answer() => self.deadline.at_most(shared.stays),
            _ => *self.deadline,
        }
    }
}

impl Driver for Blocking<'_> {
    fn advance<E: Exchange>(
        &mut self,
        stream: &mut Stream,
        inbox: &mut Inbox,
        exchange: &mut E,
        sending: Sending,
    ) -> Result<(), Stop> {
        if self.deadline.has_passed() {
            return Err(Stop::Paused(Pause::TimedOut));
        }
        if sending == Sending::Blocked {
            exchange.deliver();
            // What arrives meanwhile is taken in, so that a server that answers before it has read everything is not
            // kept waiting in turn.
            let events = interest(sending, inbox);
            stream.wait(events, self.deadline)?;
            if events.contains(PollFlags::IN) {
                match receive(stream, inbox, exchange) {
                    // Where there is no memory for replies now there may be when all is sent.
                    Ok(_) | Err(Stop::NoRoom(_)) => {}
                    Err(stop) => return Err(stop),
                }
            }
            return Ok(());
        }
        let spins = self.spins && stream.is_spin_due();
        self.spins = self.shared.is_some();
        if spins {
            let room = exchange.room(inbox).map_err(Stop::NoRoom)?;
            if stream.spin(self.until().instant(), room, || false)? {
                return Ok(());
            }
        }
        exchange.deliver();
        let until = self.until();
        let room = exchange.room(inbox).map_err(Stop::NoRoom)?;
        Ok(stream.read(room, until)?)
    }
}

/// Somebody who never waits.
pub struct NonBlocking {
    /// How much it reads.
    most: usize,
    /// How much more it reads before others have their turn.
    left: usize,
    /// How often it has read, and until when it may.
    reads: u32,
    until: Option<Instant>,
    /// The socket had less than there was room for: there is no more.
    is_drained: bool,
    /// The last read was.
    was_large: bool,
}

impl Default for NonBlocking {
    fn default() -> Self {
        Self::reading(MOST_AT_ONCE)
    }
}

impl NonBlocking {
    /// Somebody who reads no more than about so much.
    pub fn reading(most: usize) -> Self {
        Self { most, left: most, reads: 0, until: None, is_drained: false, was_large: false }
    }

    /// Whether anything has arrived.
    pub fn has_received(&self) -> bool {
        self.left < self.most
    }

    /// How much more it may read.
    pub fn left(&self) -> usize {
        self.left
    }
}

impl Driver for NonBlocking {
    fn advance<E: Exchange>(
        &mut self,
        stream: &mut Stream,
        inbox: &mut Inbox,
        exchange: &mut E,
        sending: Sending,
    ) -> Result<(), Stop> {
        let cannot_be_there = sending == Sending::JustSent && inbox.is_empty();
        // Where half a reply is there the end of the stream may be as well, of which nobody would tell any more.
        let is_empty = self.is_drained && inbox.is_empty();
        if cannot_be_there || is_empty || !interest(sending, inbox).contains(PollFlags::IN) {
            return Err(Stop::Paused(Pause::WouldBlock));
        }
        if self.has_read_enough() {
            return Err(Stop::Paused(Pause::Yield));
        }
        let room = exchange.room(inbox).map_err(Stop::NoRoom)?;
        let space = (room.capacity() - room.len()).min(MOST_IN_A_READ);
        match stream.receive_some(room, MOST_IN_A_READ)? {
            Some(count) => {
                self.left = self.left.saturating_sub(count);
                self.is_drained = count < space && stream.is_plain();
                self.was_large = count >= LARGE_READ;
            }
            None => return Err(Stop::Paused(Pause::WouldBlock)),
        }
        Ok(())
    }
}

impl NonBlocking {
    /// Now and then it looks at the clock.
    fn has_read_enough(&mut self) -> bool {
        self.reads += 1;
        if self.left == 0 {
            return true;
        }
        if self.was_large || self.reads.is_multiple_of(READS_BY_THE_CLOCK) {
            let now = Instant::now();
            return now >= *self.until.get_or_insert(now + LONGEST_AT_ONCE);
        }
        false
    }
}
