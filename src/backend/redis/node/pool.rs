//! What the links of a cache have in common: which are there, which are in use, and the calls that wait for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::redis::link::batch::{Bells, Entry, Owner, Requests};
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::waiter::Waiter;
use crate::backend::redis::net::stream::CutOff;
use crate::backend::redis::node::links::PATIENCE;
use crate::completion::QueueId;

/// Round trips that never take less are to a server that is far away: there a link for each caller is best.
const FAR: Duration = Duration::from_micros(200);
/// Links in use beyond which callers queue. Callers that spin for the reply: of a crowd one sends for all, and two do not
/// wait for each other. Callers that sleep: the more calls share a link, the more threads must be woken one by one.
const LANES_IN_A_CROWD: usize = 1;
const LANES: usize = 2;
const LANES_ASLEEP: usize = 8;
/// Where callers sleep and more of them queue than there are lanes, fewer links carry larger batches.
const LANES_FOR_SLEEPERS: usize = 2;
/// There is a crowd until so many batches in a row were of one call.
const CROWD: u32 = 16;
/// The most links that asynchronous calls take to a server that is far away: they lose less by waiting for each other.
const LANES_FAR: usize = 8;
/// A batch takes so many calls, and so many bytes, before the rest is left to the next.
const MOST_CALLS: usize = 1024;
const MOST_BYTES: usize = 64 << 10;
/// How long a server that had no room for another link is left alone, as long as there is one.
const RESPITE: Duration = Duration::from_secs(1);
/// One in so many calls over a link is timed, and the shortest of so many times tells how far the server is.
pub const TIMED: u32 = 16;
const TIMES: u32 = 32;
/// A batch of more calls is not timed: what it takes is no round trip.
pub const MOST_TIMED: usize = 8;

#[derive(Default)]
pub struct Pool {
    most: usize,
    /// Callers spin for the reply, and it pays.
    pub spins: bool,
    /// How many more batches of one call there must be before there is no crowd any more.
    crowd: u32,
    /// The one used last at the end: the others may then be left to the server's idle timeout.
    #[expect(
        clippy::vec_box,
        reason = "a link changes hands twice a call: a pointer is moved, not the link"
    )]
    pub idle: Vec<Box<Link>>,
    /// Links that are there, idle, in use or being dialled.
    pub count: usize,
    /// Those in use that were taken in this round; the others are slow, or serve one large call.
    pub in_use: usize,
    /// Goes up when the links in use are found to be slow.
    pub round: u64,
    /// Links that are being dialled for whoever waits.
    pub dialling: usize,
    /// Those that threads dial for themselves.
    pub own_dials: usize,
    /// How many batches, and large calls, have been given to links.
    pub loads: usize,
    pub queue: Queue,
    /// A link in the middle of a batch of asynchronous calls, left by a thread that is likely to come back to it. It counts as in
    /// use.
    pub parked: Option<Box<Link>>,
    /// Since the I/O thread looked last, something was left to a thread that is likely to come.
    pub deferred: bool,
    /// It was left alone once more when the I/O thread looked, though nothing had moved.
    pub spared: bool,
    /// When the I/O thread looks next may be too late for what is left now.
    pub looks_late: bool,
    /// Large asynchronous calls, each of which waits for a link of its own.
    pub large: VecDeque<Requests>,
    /// Threads that wait for a link of their own.
    pub waiting: usize,
    /// Whether it is the turn of those who wait for a link of their own, and among them of the large asynchronous calls.
    pub turn: bool,
    pub turn_of_large: bool,
    /// At so many large calls it is time to look for those that nobody wants any more.
    crowded: usize,
    pub closed: bool,
    /// The server had no room for another link, and is not asked again before.
    full_until: Option<Instant>,
    /// To end the calls that wait on a link when the cache is closed.
    pub cut_offs: Vec<CutOff>,
    /// The shortest round trip of late, and how many were timed.
    shortest: Duration,
    timed: u32,
    is_far: bool,
}

/// Calls whose requests are written one behind the other, to be sent over the next link that is free.
#[derive(Default)]
pub struct Queue {
    pub requests: Requests,
    /// The number of the batch that is being gathered.
    pub batch: usize,
    /// The bells of callers that were put back.
    bells: u8,
    /// At so many calls it is time to look for those that nobody wants any more.
    crowded: usize,
}

impl Pool {
    /// `most`: links there may be. `spins`: callers spin for the reply.
    pub fn new(most: usize, spins: bool) -> Self {
        Self { most, spins, ..Self::default() }
    }

    /// How many links may be in use before callers queue.
    #[inline]
    fn lanes(&self) -> usize {
        match (self.is_far, self.spins) {
            (true, _) => usize::MAX,
            (false, true) if self.crowd > 0 => LANES_IN_A_CROWD,
            (false, true) => LANES,
            (false, false) => LANES_ASLEEP,
        }
    }

    /// How many links may be in use before a batch waits for one to come back.
    pub fn lanes_for_batches(&self) -> usize {
        match self.spins || self.is_far {
            true => self.lanes(),
            false => LANES_FOR_SLEEPERS,
        }
    }

    /// The same for asynchronous calls.
    pub fn lanes_for_calls(&self) -> usize {
        self.lanes().min(LANES_FAR)
    }

    /// Takes the link that there is for a small call in the usual case.
    #[inline(always)]
    pub fn take_at_hand(&mut self) -> Option<Box<Link>> {
        let is_at_hand = !self.gathers() && self.is_free() && self.has_idle() && !self.closed;
        if is_at_hand { self.take_idle() } else { None }
    }

    /// Whether it is worth while to let others join before a batch is sent: they have just been answered, and are about to
    /// call again.
    #[inline]
    pub fn gathers(&self) -> bool {
        self.crowd > 0 && self.spins && !self.is_far
    }

    /// Has the link carry out what is queued, as far as one batch goes. That may be nothing.
    pub fn load_queued(&mut self, link: &mut Link) {
        self.queue.load(link);
        self.loads = self.loads.wrapping_add(1);
        self.crowd = if link.batch.calls > 1 { CROWD } else { self.crowd.saturating_sub(1) };
    }

    /// Whether a small call need not queue.
    #[inline(always)]
    pub fn is_free(&self) -> bool {
        // There is at least one lane, and mostly none is in use.
        (self.in_use == 0 || self.in_use < self.lanes()) && self.queue.is_empty()
    }

    /// Whether there may be another link.
    pub fn has_room(&self) -> bool {
        let is_full =
            || self.live() > 0 && self.full_until.is_some_and(|until| Instant::now() < until);
        self.count < self.most && !is_full()
    }

    /// The server had no room for another link: those that are there must do.
    pub fn turned_away(&mut self) {
        self.full_until = Some(Instant::now() + RESPITE);
    }

    /// Links that are there.
    pub fn live(&self) -> usize {
        self.count.saturating_sub(self.dialling + self.own_dials)
    }

    /// Whether there is an idle link that nobody has been promised.
    #[inline]
    pub fn has_idle(&self) -> bool {
        self.idle.len() > self.waiting
    }

    /// Nobody has come for what was left to a thread.
    pub fn mispredicted(&self) {
        let parked = self.parked.iter().flat_map(|link| &link.batch.entries);
        for entry in parked.chain(&self.queue.requests.entries) {
            if let Owner::Call(call) = &entry.owner
                && call.wait_is_predicted()
                && !call.is_completed()
            {
                return call.mispredicted();
            }
        }
    }

    /// Whether anybody waits for a link of its own.
    pub fn is_claimed(&self) -> bool {
        self.waiting > 0 || !self.large.is_empty()
    }

    /// Adds what is queued to the batch of a link in use, as far as it goes; whether that was anything.
    pub fn top_up(&mut self, link: &mut Link) -> bool {
        let before = link.batch.entries.len();
        self.queue.add_to(link);
        let has_grown = link.batch.entries.len() > before;
        self.loads = self.loads.wrapping_add(usize::from(has_grown));
        has_grown
    }

    /// Whether anybody waits for a link.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.waiting > 0 || !self.queue.is_empty() || !self.large.is_empty()
    }

    /// Takes the idle link that was used last, to be in use in this round.
    #[inline(always)]
    pub fn take_idle(&mut self) -> Option<Box<Link>> {
        let link = self.idle.pop()?;
        self.in_use += 1;
        Some(link)
    }

    /// Counts a link out that was taken in that round.
    pub fn back_from(&mut self, round: u64) {
        if round == self.round {
            self.in_use -= 1;
        }
    }

    /// Where a thread's call is in the queue.
    pub fn find(&self, owner: &Arc<Waiter>) -> Option<usize> {
        self.queue.requests.entries.iter().position(|entry| match &entry.owner {
            Owner::Thread { waiter, .. } => Arc::ptr_eq(waiter, owner),
            Owner::Call(_) => false,
        })
    }

    /// Has the link carry out the first of the large calls; false if there is none.
    pub fn load_large(&mut self, link: &mut Link) -> bool {
        while let Some(mut call) = self.large.pop_front() {
            call.begin_send();
            if !call.is_empty() {
                link.load(&mut call, 0);
                self.loads = self.loads.wrapping_add(1);
                return true;
            }
        }
        false
    }

    /// Lets go of large calls that nobody wants any more, now and then.
    pub fn drop_completed_large(&mut self) {
        const FEW: usize = 16;
        if self.large.len() >= self.crowded.max(FEW) {
            self.large.retain(Requests::is_wanted);
            self.crowded = 2 * self.large.len();
        }
    }

    /// How long asynchronous calls that are queued wait for a link in use before they take another.
    pub fn patience(&self) -> Duration {
        PATIENCE.max(if self.is_far { 4 * self.shortest } else { Duration::ZERO })
    }

    pub fn time(&mut self, took: Duration) {
        self.shortest = if self.timed == 0 { took } else { self.shortest.min(took) };
        self.timed += 1;
        if self.timed == TIMES {
            self.timed = 0;
            self.is_far = self.shortest > FAR;
        }
    }
}

impl Queue {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether nobody waits for an answer but this queue.
    pub fn is_only(&self, queue: QueueId) -> bool {
        self.is_empty() || self.requests.audience.is_only(queue)
    }

    pub fn len(&self) -> usize {
        self.requests.entries.len()
    }

    /// Moves what is queued to the link, as far as one batch goes. That may be nothing.
    fn load(&mut self, link: &mut Link) {
        if let Some(mut first) = self.part(MOST_CALLS, MOST_BYTES) {
            first.begin_send();
            let bells = self.bells();
            // The rest may sleep on the same.
            self.bells = bells;
            return link.load(&mut first, bells);
        }
        let bells = self.bells();
        let requests = &mut self.requests;
        requests.forget_the_taken();
        requests.begin_send();
        link.load(requests, bells);
        // What came back is an empty buffer of the last batch's.
        requests.bytes.clear();
        self.batch = self.batch.wrapping_add(1);
    }

    /// Adds what is queued to the link's batch, as far as that goes.
    fn add_to(&mut self, link: &mut Link) {
        let calls = MOST_CALLS.saturating_sub(link.batch.entries.len());
        let bytes = MOST_BYTES.saturating_sub(link.uncompleted_bytes());
        if self.requests.is_empty() || calls == 0 || bytes == 0 {
            return;
        }
        if let Some(mut first) = self.part(calls, bytes) {
            first.begin_send();
            self.bells = self.bells();
            return link.add(&mut first, self.bells);
        }
        let bells = self.bells();
        self.requests.forget_the_taken();
        self.requests.begin_send();
        link.add(&mut self.requests, bells);
        self.batch = self.batch.wrapping_add(1);
    }

    /// Takes out the first of what is queued, where that is more than so many calls and bytes.
    fn part(&mut self, calls: usize, bytes: usize) -> Option<Requests> {
        let requests = &mut self.requests;
        if requests.entries.len() <= calls && requests.bytes_len() <= bytes {
            return None;
        }
        let mut length = 0;
        let fits = |entry: &&Entry| {
            length += entry.len;
            length <= bytes
        };
        let count = requests.entries.iter().take(calls).take_while(fits).count().max(1);
        Some(requests.take(count))
    }

    fn bells(&mut self) -> u8 {
        std::mem::take(&mut self.bells) | 1 << (self.batch % Bells::COUNT)
    }

    /// Puts a batch that was not begun before what is queued.
    pub fn put_back(&mut self, mut batch: Requests, bells: u8) {
        self.bells |= bells;
        batch.append(&mut self.requests);
        self.requests = batch;
    }

    /// Lets go of asynchronous calls that nobody wants any more. Does nothing most of the time, so that it costs each call
    /// next to nothing.
    pub fn drop_completed_now_and_then(&mut self) {
        const FEW: usize = 1024;
        if self.requests.entries.len() >= self.crowded.max(FEW) {
            self.forget_completed();
            self.crowded = 2 * self.requests.entries.len();
        }
    }

    pub fn forget_completed(&mut self) {
        self.requests.retain(|entry| match &entry.owner {
            Owner::Thread { .. } => true,
            Owner::Call(call) => !call.is_completed(),
        });
    }

    pub fn take_all(&mut self) -> Requests {
        std::mem::take(&mut self.requests)
    }

    /// Takes a call back that was not sent.
    pub fn remove(&mut self, index: usize) {
        self.requests.remove(index);
    }

    /// Whether there are asynchronous calls in it.
    pub fn has_calls(&self) -> bool {
        self.requests.entries.iter().any(|entry| matches!(entry.owner, Owner::Call(_)))
    }
}
