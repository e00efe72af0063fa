//! What differs between systems, as safe functions: descriptors, wakeups through memory, how a socket is sent on,
//! threads and their signals, a clock, and what a thread asks the kernel of itself.

mod descriptors;

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::net::SendFlags;
use rustix::thread::futex;

pub use self::descriptors::{
    Event, Poller, SocketFd, always_readable, leave_descriptor_table, renumbered,
};

/// A send on a socket neither waits nor raises SIGPIPE, which would end the host.
pub const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

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
