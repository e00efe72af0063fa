//! What differs between systems, as safe functions: wakeups through a descriptor and through memory, how a socket is
//! sent on and closed, and what a thread asks the kernel of itself.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::{read, retry_on_intr, write};
use rustix::net::SendFlags;
use rustix::thread::futex;

/// A send on a socket neither waits nor raises SIGPIPE, which would end the host.
pub const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// A descriptor that one thread makes readable for another: eventfd(2), closed on exec, whose every call returns at
/// once.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// One that is not readable yet. An error: there is no descriptor to be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable, until it is drained. More than once is as good as once.
    pub fn signal(&self) {
        // It fails only where the counter is full, and then the descriptor is readable.
        let _ = retry_on_intr(|| write(&self.0, &1u64.to_ne_bytes()));
    }

    /// Makes it unreadable, until it is signalled again.
    pub fn drain(&self) {
        // It fails only where it was not readable.
        let _ = retry_on_intr(|| read(&self.0, &mut [0; 8]));
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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

/// A duration as poll(2) and futex(2) take it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// In a child process: closes its copy of a descriptor that a thread of the parent's was using. That thread does not
/// exist here, so nobody uses the number again. Whoever owns the descriptor must be forgotten, not dropped.
pub fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: the descriptor is open, and by the caller's word its owner neither uses nor closes it again.
    unsafe { libc::close(fd.as_raw_fd()) };
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

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn is_readable(event: &Event) -> bool {
        let mut fds = [PollFd::new(event, PollFlags::IN)];
        poll(&mut fds, Some(&timespec(Duration::ZERO))).unwrap() == 1
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
