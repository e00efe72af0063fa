//! Descriptors: sockets, wakeups, and descriptors that stand for many.
//!
//! The descriptor table is the host's. Whatever is opened here has a number of 3 or above, for 0, 1 and 2 are written
//! to by whoever believes them to be what they usually are, and is closed only while it is known to be what was opened.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use once_cell::race::OnceBox;
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use rustix::fs::fstat;
use rustix::io::{close, fcntl_dupfd_cloexec, ioctl_fionbio, read, retry_on_intr, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::timespec;
use crate::fork::{self, PerProcess};

/// Standard input, output and error end here.
const FIRST_OWN: RawFd = 3;

/// The same descriptor under a number of this library's, where it is one of the first three.
pub fn renumbered(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    if fd.as_raw_fd() >= FIRST_OWN { Ok(fd) } else { fcntl_dupfd_cloexec(fd, FIRST_OWN) }
}

/// The descriptor of a socket, which is closed on exec. In a child process, and where the host has closed it or put
/// something else in its place, the number may be another's by now: it is closed only while it is the same socket.
#[derive(Debug)]
pub struct SocketFd {
    fd: ManuallyDrop<OwnedFd>,
    identity: (u64, u64),
}

impl SocketFd {
    /// A socket that does not block.
    pub fn open(family: AddressFamily) -> rustix::io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Self::of(socket_with(family, SocketType::STREAM, flags, None)?)
    }

    pub fn of(fd: OwnedFd) -> rustix::io::Result<Self> {
        let fd = renumbered(fd)?;
        let identity = identity(fd.as_fd())?;
        Ok(Self { fd: ManuallyDrop::new(fd), identity })
    }

    /// Whether its number still stands for it.
    pub fn is_there(&self) -> bool {
        identity(self.fd.as_fd()).is_ok_and(|identity| identity == self.identity)
    }

    /// In a child process: closes its copy of a socket that a thread of the parent's was using. That thread does not
    /// exist here, so nobody uses it again. Whoever owns it should be forgotten.
    pub fn close_inherited(&self) {
        if self.is_there() {
            // SAFETY: it is this socket, and by the caller's word its owner does not use it again. If the owner is
            // dropped all the same, it finds that the socket is not there.
            unsafe { close(self.fd.as_raw_fd()) };
        }
    }
}

/// Device and inode, which tell a socket from whatever else may have its number.
fn identity(fd: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    let stat = fstat(fd)?;
    #[allow(clippy::unnecessary_cast, reason = "their types differ between systems")]
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

impl AsFd for SocketFd {
    #[inline(always)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SocketFd {
    fn drop(&mut self) {
        if self.is_there() {
            // SAFETY: it is this socket, which is not used afterwards.
            unsafe { close(self.fd.as_raw_fd()) };
        }
    }
}

/// The descriptor of an object that parent and child share after a fork, and that looks like any other of its kind. In
/// a child an inherited one is neither used nor closed: it acts on the parent's object, and its number may be another's
/// by now.
#[derive(Debug)]
struct Private {
    fd: ManuallyDrop<OwnedFd>,
    generation: u64,
}

impl Private {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let fd = ManuallyDrop::new(renumbered(fd)?);
        Ok(Self { fd, generation: fork::generation() })
    }

    fn is_own(&self) -> bool {
        self.generation == fork::generation()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if self.is_own() {
            // SAFETY: it is closed here alone, and not used afterwards.
            unsafe { close(self.fd.as_raw_fd()) };
        }
    }
}

/// A descriptor that one thread makes readable for another: eventfd(2), closed on exec, whose every call returns at
/// once. In a child process an inherited one does nothing.
#[derive(Debug)]
pub struct Event(Private);

impl Event {
    /// One that is not readable yet. An error: there is no descriptor to be had.
    pub fn new() -> io::Result<Self> {
        Self::counting(0)
    }

    fn counting(count: u32) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Private::new(eventfd(count, flags)?)?))
    }

    /// Makes it readable, until it is drained. More than once is as good as once, but that each wakes who polls it
    /// edge-triggered.
    pub fn signal(&self) {
        if self.0.is_own() {
            // It fails only where the counter is full, and then the descriptor is readable.
            let _ = retry_on_intr(|| write(&*self.0.fd, &1u64.to_ne_bytes()));
        }
    }

    /// Makes it unreadable, until it is signalled again.
    pub fn drain(&self) {
        if self.0.is_own() {
            // It fails only where it was not readable.
            let _ = retry_on_intr(|| read(&*self.0.fd, &mut [0; 8]));
        }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// A descriptor that is always readable. There is one in a process.
pub fn always_readable() -> io::Result<&'static Event> {
    static ALWAYS: OnceBox<PerProcess<OnceBox<Event>>> = OnceBox::new();
    let own = ALWAYS
        .get_or_init(|| Box::new(PerProcess::new(OnceBox::new())))
        .get_or_make(|_| OnceBox::new());
    own.get_or_try_init(|| Event::counting(1).map(Box::new))
}

/// A descriptor that is readable while one of those in it is ready: epoll(7), level-triggered, closed on exec, and
/// non-blocking, which some event loops ask for before they take one. What is in it must be taken out before it is
/// closed, for a child process may have a copy, which would keep it in there. In a child an inherited one does nothing.
#[derive(Debug)]
pub struct Poller(Private);

impl Poller {
    /// An error: there is no descriptor to be had.
    pub fn new() -> io::Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        ioctl_fionbio(&fd, true)?;
        Ok(Self(Private::new(fd)?))
    }

    /// Whether it is this process's.
    pub fn is_own(&self) -> bool {
        self.0.is_own()
    }

    /// Has it look at `fd` for these events. With none it tells only that a peer has gone. What is ready already wakes
    /// who polls edge-triggered.
    pub fn add(&self, fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
        if self.0.is_own() {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&*self.0.fd, fd, data, epoll_events(events))?;
        }
        Ok(())
    }

    /// Has it look for other events of one that is in it. Where one of them is there already, who polls edge-triggered
    /// is woken only if it was not ready when it was looked at last: to be sure of that it is taken out and added anew.
    pub fn change(&self, fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
        if self.0.is_own() {
            let data = epoll::EventData::new_u64(0);
            epoll::modify(&*self.0.fd, fd, data, epoll_events(events))?;
        }
        Ok(())
    }

    /// Whether something in it is ready.
    pub fn is_ready(&self) -> bool {
        let now = timespec(Duration::ZERO);
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        self.0.is_own() && poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Takes one out.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        if self.0.is_own() {
            // It fails only where it is not in there.
            let _ = epoll::delete(&*self.0.fd, fd);
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// epoll(7) has the bits of poll(2).
fn epoll_events(events: PollFlags) -> epoll::EventFlags {
    epoll::EventFlags::from_bits_retain(events.bits().into())
}

/// Gives this thread a descriptor table of its own, with nothing of the host's in it beside the first three, which are
/// taken where they were free. What it opens from here on has no number that anybody else could use. For a thread of
/// the library's that reads files and ends.
pub fn leave_descriptor_table() {
    let (from, to) = (FIRST_OWN as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: by the caller's word nothing runs on this thread that has a descriptor open.
    let has_left = unsafe {
        libc::syscall(libc::SYS_close_range, from, to, libc::CLOSE_RANGE_UNSHARE) == 0
            // An older kernel; the table is then a copy.
            || libc::unshare(libc::CLONE_FILES) == 0
    };
    while has_left && let Ok(taken) = eventfd(0, EventfdFlags::CLOEXEC) {
        if taken.as_raw_fd() >= FIRST_OWN {
            break;
        }
        // It is closed with the table, as the thread ends.
        std::mem::forget(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_readable(fd: &impl AsFd) -> bool {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        poll(&mut fds, Some(&timespec(Duration::ZERO))).unwrap() == 1
    }

    #[test]
    fn a_poller_is_readable_while_something_in_it_is() {
        let (poller, event) = (Poller::new().unwrap(), Event::new().unwrap());
        let always = always_readable().unwrap();
        assert!(is_readable(always));
        poller.add(always.as_fd(), PollFlags::empty()).unwrap();
        poller.add(event.as_fd(), PollFlags::IN).unwrap();
        assert!(!is_readable(&poller));
        event.signal();
        assert!(is_readable(&poller));
        poller.change(event.as_fd(), PollFlags::empty()).unwrap();
        assert!(!is_readable(&poller));
        poller.change(event.as_fd(), PollFlags::IN).unwrap();
        assert!(is_readable(&poller));
        poller.remove(event.as_fd());
        assert!(!is_readable(&poller));
        poller.change(always.as_fd(), PollFlags::IN).unwrap();
        assert!(is_readable(&poller));
    }

    #[test]
    fn who_polls_edge_triggered_is_woken_by_what_is_there_when_it_is_looked_for_again() {
        let (poller, event) = (Poller::new().unwrap(), Event::new().unwrap());
        poller.add(event.as_fd(), PollFlags::IN).unwrap();
        let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&outer, &poller, epoll::EventData::new_u64(0), edge).unwrap();
        let is_woken = || {
            let mut events = [epoll::Event { flags: edge, data: epoll::EventData::new_u64(0) }];
            epoll::wait(&outer, &mut events, Some(&timespec(Duration::ZERO))).unwrap() == 1
        };
        event.signal();
        assert!(is_woken());
        // Somebody else has it, and leaves it as it was.
        poller.remove(event.as_fd());
        assert!(!is_woken());
        poller.add(event.as_fd(), PollFlags::IN).unwrap();
        assert!(is_woken(), "there is something to do");
    }

    #[test]
    fn an_event_is_readable_from_its_signal_until_it_is_drained() {
        let event = Event::new().unwrap();
        assert!(!is_readable(&event));
        event.drain();
        event.signal();
        event.signal();
        assert!(is_readable(&event));
        event.drain();
        assert!(!is_readable(&event));
    }
}
