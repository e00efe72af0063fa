//! Threads of the library's own: named, and deaf to every signal, which are the host's business. And a number for every
//! thread that calls.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// This thread's number. They are given out in turn, so that threads that are at work together have different remainders.
pub fn number() -> usize {
    let number = NUMBER.get();
    if number == 0 { new_number() } else { number }
}

#[cold]
fn new_number() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    NUMBER.set(number);
    number
}

/// Starts a thread that all signals are blocked in.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are ours; `all` is filled before it is read, and `before` is filled by the call that sets the mask.
    let masked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
    };
    // A thread inherits the mask of the one that starts it.
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    if masked == 0 {
        // SAFETY: `before` was filled above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    started.map(drop)
}
