//! What differs between systems, as safe functions: wakeups through a descriptor and through memory, descriptors that
//! stand for many, how a socket is sent on and closed, and what a thread asks the kernel of itself.
//!
//! The descriptor table is the host's. Whatever is opened here has a number of 3 or above, for 0, 1 and 2 are written
//! to by whoever believes them to be what they usually are, and is closed only while it is known to be what was opened.

use std::ffi::CStr;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use once_cell::race::OnceBox;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::fstat;
use rustix::io::{close, fcntl_dupfd_cloexec, ioctl_fionbio, read, retry_on_intr, write};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socket_with};
use rustix::thread::futex;

use crate::fork::{self, PerProcess};

/// A send on a socket neither waits nor raises SIGPIPE, which would end the host.
pub const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

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

/// Sleeps while `word` is `expected`, until [`futex_wake_all`], for `timeout`, or for no reason: the caller looks
/// again. `None`: without an end of its own. The word is this process's alone.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(timespec);
    let _ = futex::wait(word, futex::Flags::PRIVATE, expected, timeout.as_ref());
}

/// Wakes every thread that sleeps on `word`. It is a system call also where there is none.
pub fn futex_wake_all(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
}

/// A longer wait with poll(2) is cut in parts.
const LONG: Duration = Duration::from_secs(4);

/// How long poll(2) may be told to wait of what is `left`. The kernel lets it be late by up to a 200th of that, which
/// matters where it is long: then it is told less, and whoever waits looks again.
pub fn poll_timeout(left: Duration) -> Timespec {
    timespec(if left > LONG { left - left / 16 } else { left })
}

/// A duration as poll(2) and futex(2) take it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
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

/// Milliseconds by a clock that nobody sets, and that goes on while the machine is suspended, where there is one.
pub fn steady_ms() -> i64 {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: it writes to `now`, of which all zero is a value as well. CLOCK_MONOTONIC is everywhere.
    let now = unsafe {
        if libc::clock_gettime(libc::CLOCK_BOOTTIME, now.as_mut_ptr()) != 0 {
            libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr());
        }
        now.assume_init()
    };
    #[allow(clippy::unnecessary_cast, reason = "their types differ between systems")]
    let (seconds, nanoseconds) = (now.tv_sec as i64, now.tv_nsec as i64);
    seconds * 1000 + nanoseconds / 1_000_000
}

/// How often this thread had to leave its processor to others though it could have gone on, or offered it and somebody
/// took it. It starts anywhere and wraps: only differences matter.
pub fn involuntary_switches() -> u32 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: it writes to `usage`, which is as long as it expects. All zero is a value of it as well.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nivcsw as u32
}

/// What a thread of the library's own runs.
pub type ThreadBody = Box<dyn FnOnce() + Send>;

/// The stack of such a thread: what the standard library gives one.
const STACK: usize = 2 << 20;

/// Starts a thread that nobody joins. Not by the standard library, which ends the process where there is no memory for
/// what it keeps of a thread.
pub fn start_thread(name: &'static CStr, body: ThreadBody) -> io::Result<()> {
    struct Start(&'static CStr, ThreadBody);
    extern "C" fn run(start: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: it is what `start_thread` made a pointer of, for this thread alone.
        let start = unsafe { Box::from_raw(start.cast::<Start>()) };
        let Start(name, body) = *start;
        let _ = rustix::thread::set_name(name);
        // A panic is the end of it.
        let _ = panic::catch_unwind(AssertUnwindSafe(body));
        ptr::null_mut()
    }
    let checked = |result| match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    };
    let start = Box::into_raw(Box::new(Start(name, body)));
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: the attributes are ours, and used only once they were made; `run` is given what it expects.
    let started = unsafe {
        let attributes = attributes.as_mut_ptr();
        checked(libc::pthread_attr_init(attributes)).and_then(|()| {
            let set_up = checked(libc::pthread_attr_setstacksize(attributes, STACK));
            let detached = libc::PTHREAD_CREATE_DETACHED;
            let set_up = set_up
                .and_then(|()| checked(libc::pthread_attr_setdetachstate(attributes, detached)));
            let started = set_up.and_then(|()| {
                let thread = thread.as_mut_ptr();
                checked(libc::pthread_create(thread, attributes, run, start.cast()))
            });
            libc::pthread_attr_destroy(attributes);
            started
        })
    };
    if started.is_err() {
        // SAFETY: there is no thread that has it.
        drop(unsafe { Box::from_raw(start) });
    }
    started
}

/// Calls `body`; also whether something in it was short of memory, though it may have said something else. For a thread
/// of the library's own, whose `errno` is nobody's.
pub fn was_short_of_memory<T>(body: impl FnOnce() -> T) -> (T, bool) {
    // SAFETY: it is this thread's own, and always there.
    let errno = unsafe {
        let errno = libc::__errno_location();
        errno.write(0);
        errno
    };
    let result = body();
    // SAFETY: the same.
    (result, unsafe { errno.read() } == libc::ENOMEM)
}

/// Calls `body` with all signals blocked in this thread. A thread that it starts inherits that.
pub fn with_signals_blocked<T>(body: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are ours; `all` is filled before it is read, and where the call succeeds, it has filled
    // `before`.
    let mask = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        let is_set =
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0;
        is_set.then(|| SignalMask(before.assume_init()))
    };
    let result = body();
    drop(mask);
    result
}

/// The signals that were blocked before. Dropped, it puts them back.
struct SignalMask(libc::sigset_t);

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the system, and what is set now is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::thread;
    use std::time::Instant;

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

    #[test]
    fn a_futex_wait_ends_by_its_timeout_by_another_value_and_by_a_wake() {
        let word = AtomicU32::new(1);
        let start = Instant::now();
        futex_wait(&word, 1, Some(Duration::from_millis(1)));
        futex_wait(&word, 2, None);
        assert!(start.elapsed() >= Duration::from_millis(1));
        thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::Acquire) == 1 {
                    futex_wait(&word, 1, None);
                }
            });
            word.store(2, Ordering::Release);
            futex_wake_all(&word);
        });
    }

    #[test]
    fn a_duration_of_any_length_has_a_timespec() {
        let time = timespec(Duration::new(3, 500));
        assert_eq!((time.tv_sec, time.tv_nsec), (3, 500));
        assert_eq!(timespec(Duration::MAX).tv_sec, i64::MAX);
    }

    /// In the worst case the kernel adds a 200th, and no more than 100 ms.
    #[test]
    fn a_long_wait_with_poll_ends_in_time_all_the_same() {
        for seconds in [1, 4, 5, 30, 3600, 1 << 40] {
            let (whole, mut passed) = (Duration::from_secs(seconds), Duration::ZERO);
            let mut parts = 0;
            while let Some(left) = whole.checked_sub(passed).filter(|left| !left.is_zero()) {
                let told = poll_timeout(left);
                let told = Duration::new(told.tv_sec as u64, told.tv_nsec as u32);
                passed += told + (told / 200).min(Duration::from_millis(100));
                parts += 1;
            }
            assert!(passed - whole <= Duration::from_millis(20), "{whole:?}: {:?}", passed - whole);
            assert!(parts <= 16, "{whole:?} in {parts} parts");
        }
    }

    /// The signals that are blocked in this thread, one a bit.
    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn signals_are_blocked_in_the_body_and_as_before_afterwards() {
        let before = blocked();
        let during = with_signals_blocked(|| {
            assert_eq!(thread::spawn(blocked).join().unwrap(), blocked(), "a thread inherits them");
            blocked()
        });
        // SIGINT and SIGTERM among them; the C library keeps a few for itself.
        let asked = 1 << (libc::SIGINT - 1) | 1 << (libc::SIGTERM - 1);
        assert_eq!(during & asked, asked);
        assert_eq!(blocked(), before);
    }
}
