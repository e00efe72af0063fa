//! What a call must leave as it found it in the host's thread: `errno`, and whether the thread may be cancelled. Under
//! functions of this library it may not be: pthread_cancel(3) would unwind it out of the middle of what cannot be
//! unwound so.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// The C library's word for it that this process has one thread, which nobody can cancel; 0 where it says nothing.
static IS_SINGLE_THREADED: AtomicPtr<AtomicU8> = AtomicPtr::new((&raw const UNKNOWN).cast_mut());
static UNKNOWN: AtomicU8 = AtomicU8::new(0);

/// Looks for a quick way to see whether there are other threads. Until then there may be.
pub fn look_at_threads() {
    // SAFETY: the name is NUL-terminated.
    let word = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
    if !word.is_null() {
        IS_SINGLE_THREADED.store(word.cast(), Ordering::Relaxed);
    }
}

const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;

unsafe extern "C-unwind" {
    fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
}

/// A stretch in which this thread cannot be cancelled, after which its `errno` is what it was before.
#[must_use]
pub struct Undisturbed {
    errno: *mut libc::c_int,
    errno_before: libc::c_int,
    /// `None`: there is no other thread, so nobody to cancel it.
    cancel_state: Option<libc::c_int>,
}

impl Undisturbed {
    #[inline(always)]
    pub fn begin() -> Self {
        // SAFETY: it is this thread's own, and stays where it is.
        let (errno, errno_before) = unsafe {
            let errno = libc::__errno_location();
            (errno, *errno)
        };
        // SAFETY: one of two bytes that live as long as the process.
        let is_alone = unsafe { &*IS_SINGLE_THREADED.load(Ordering::Relaxed) };
        let is_alone = is_alone.load(Ordering::Relaxed) != 0;
        let cancel_state = if is_alone { None } else { Some(forbid_cancelling()) };
        Self { errno, errno_before, cancel_state }
    }

    /// Where it was asked for meanwhile, and may come at any time, the thread is cancelled here. So nothing may be left
    /// to be dropped.
    #[inline(always)]
    pub fn end(self) {
        // SAFETY: it is this thread's own.
        unsafe { *self.errno = self.errno_before };
        if let Some(state) = self.cancel_state {
            // SAFETY: a state that it had before. What it returned is not asked for.
            unsafe { pthread_setcancelstate(state, ptr::null_mut()) };
        }
    }
}

#[inline(never)]
fn forbid_cancelling() -> libc::c_int {
    let mut before = PTHREAD_CANCEL_DISABLE;
    // SAFETY: it writes to an integer of ours.
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut before) };
    before
}
