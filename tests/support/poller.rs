//! Event loops in small: the ways to wait until the descriptor of a queue is readable.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::PATIENCE;
use super::queue::{Completion, Queue};

/// How a loop waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// poll(2)
    Poll,
    /// So many epoll instances, one in the other, all level-triggered; the innermost watches the descriptor.
    Level(usize),
    /// The same, all edge-triggered.
    Edge(usize),
}

/// The kernel allows five epoll instances in one another, and a queue's descriptor may be one.
pub const WAYS: [Way; 7] = [
    Way::Poll,
    Way::Level(1),
    Way::Edge(1),
    Way::Level(3),
    Way::Edge(3),
    Way::Level(4),
    Way::Edge(4),
];

/// Those that a test of something else goes through.
pub const PLAIN_WAYS: [Way; 3] = [Way::Poll, Way::Level(1), Way::Edge(1)];

/// What a loop watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The descriptor, which ends with its queue.
    Itself,
    /// A duplicate, which is the loop's own.
    Duplicate,
}

/// A loop that watches one queue.
pub struct Poller {
    way: Way,
    fd: BorrowedFd<'static>,
    _duplicate: Option<OwnedFd>,
    /// From the outermost to the innermost.
    epolls: Vec<OwnedFd>,
    /// How often it found the descriptor readable.
    pub wakes: usize,
}

/// The descriptor, which is asked for by this.
#[track_caller]
pub fn descriptor(queue: &Queue) -> BorrowedFd<'static> {
    let fd = queue.fd();
    assert!(fd >= 0, "a descriptor");
    // SAFETY: open as long as the queue is, which who calls this sees to.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

pub fn duplicate(queue: &Queue) -> OwnedFd {
    fcntl_dupfd_cloexec(descriptor(queue), 3).unwrap()
}

fn in_ms(ms: u64) -> Timespec {
    Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000 * 1_000_000) as i64 }
}

/// Whether it becomes readable in so many milliseconds, for poll(2).
pub fn is_readable(fd: impl AsFd, ms: u64) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&in_ms(ms)))).unwrap() == 1
}

fn has_event(epoll: &OwnedFd, ms: u64) -> bool {
    let mut events = Vec::with_capacity(4);
    loop {
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(epoll, spare, Some(&in_ms(ms))) {
            Err(Errno::INTR) => {}
            count => return count.unwrap() > 0,
        }
    }
}

impl Poller {
    #[track_caller]
    pub fn new(queue: &Queue, way: Way, watched: Watched) -> Self {
        match watched {
            Watched::Itself => Self::watch(way, descriptor(queue), None),
            Watched::Duplicate => Self::of(queue, way).expect("a descriptor"),
        }
    }

    /// Of a duplicate; none where the queue is closed.
    pub fn of(queue: &Queue, way: Way) -> Option<Self> {
        let fd = queue.fd();
        if fd < 0 {
            return None;
        }
        // SAFETY: it is only duplicated, and that is given up if it was closed meanwhile.
        let own = fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(fd) }, 3).ok()?;
        if queue.fd() != fd {
            return None;
        }
        // SAFETY: closed with the poller.
        let fd = unsafe { BorrowedFd::borrow_raw(own.as_raw_fd()) };
        Some(Self::watch(way, fd, Some(own)))
    }

    fn watch(way: Way, fd: BorrowedFd<'static>, own: Option<OwnedFd>) -> Self {
        let mut poller = Self { way, fd, _duplicate: own, epolls: Vec::new(), wakes: 0 };
        let (depth, mut flags) = match way {
            Way::Poll => (0, epoll::EventFlags::IN),
            Way::Level(depth) => (depth, epoll::EventFlags::IN),
            Way::Edge(depth) => (depth, epoll::EventFlags::IN | epoll::EventFlags::ET),
        };
        flags |= epoll::EventFlags::RDHUP;
        for _ in 0..depth {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let inner = poller.epolls.first().map_or(fd, AsFd::as_fd);
            epoll::add(&epoll, inner, epoll::EventData::new_u64(1), flags).unwrap();
            poller.epolls.insert(0, epoll);
        }
        poller
    }

    /// Whether the descriptor became readable in so many milliseconds, as this way of waiting sees it.
    pub fn wait(&mut self, ms: u64) -> bool {
        let is_readable = match self.epolls.split_first() {
            None => is_readable(self.fd, ms),
            // As loops in loops do: each is asked once the one around it has said that it has something.
            Some((outermost, inner)) => {
                has_event(outermost, ms) && inner.iter().all(|epoll| has_event(epoll, 0))
            }
        };
        self.wakes += usize::from(is_readable);
        is_readable
    }

    /// Until it is readable, which must come.
    #[track_caller]
    pub fn must_wake(&mut self) {
        let Self { way, .. } = *self;
        super::poll(&format!("{way:?}: the descriptor is readable"), || {
            self.wait(PATIENCE.as_millis() as u64).then_some(())
        });
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

/// All that is to be had without waiting: until there is nothing, as one does whose poller is edge-triggered.
#[track_caller]
pub fn drain(queue: &Queue, capacity: usize) -> Vec<Completion> {
    let mut all = Vec::new();
    loop {
        let some = queue.wait(capacity, 0).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// So many completions, of tags that differ, as a loop takes them.
#[track_caller]
pub fn take(queue: &Queue, poller: &mut Poller, count: usize) -> Vec<Completion> {
    let mut all = Vec::new();
    let mut tags = std::collections::HashSet::new();
    while all.len() < count {
        poller.must_wake();
        for completion in drain(queue, 64) {
            assert!(tags.insert(completion.tag()), "{} is reported once", completion.tag());
            all.push(completion);
        }
    }
    assert_eq!(all.len(), count);
    all
}
