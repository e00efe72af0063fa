//! Runs the body of an exported function, turns a panic or an error into a status, and fills the caller's error. To the
//! host's thread nothing has happened: it cannot be cancelled meanwhile, and its `errno` is what it was.
//!
//! Exported functions are "C-unwind": a thread whose cancellation is asynchronous may be unwound as it leaves one.

use std::any::Any;
use std::cell::Cell;
use std::ffi::c_char;
use std::fmt::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};

use super::status;
use super::types::{cachetory_error_t, cachetory_status_t};
use super::undisturbed::{Undisturbed, look_at_threads};
use crate::error::{Error, Kind, Result};
use crate::threads;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A panic inside the library is reported as a status, so it must not be printed as well. Panics elsewhere (this may
/// be linked into a Rust program) go to the hook that was there.
pub fn silence_panics() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::Relaxed) {
        look_at_threads();
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !INSIDE.get() && !threads::is_own() {
                previous(info);
            }
        }));
    }
}

/// Runs `body` and fills `error`, which may be NULL.
///
/// # Safety
/// Unless NULL, `error` points to memory of the caller's that may be written.
#[inline]
pub unsafe fn guard(
    error: *mut cachetory_error_t,
    body: impl FnOnce() -> Result<cachetory_status_t>,
) -> cachetory_status_t {
    let undisturbed = Undisturbed::begin();
    // SAFETY: by the caller's promise.
    let status = unsafe { caught(error, body) };
    undisturbed.end();
    status
}

/// # Safety
/// As [`guard`].
#[inline(always)]
unsafe fn caught(
    error: *mut cachetory_error_t,
    body: impl FnOnce() -> Result<cachetory_status_t>,
) -> cachetory_status_t {
    let filling = || match body() {
        Ok(status) => {
            if !error.is_null() {
                // SAFETY: not NULL, and the caller's to write. It may be uninitialised, so no reference is made to it
                // as a whole.
                unsafe {
                    (&raw mut (*error).status).write(status);
                    (&raw mut (*error).flags).write(0);
                    (&raw mut (*error).message).cast::<c_char>().write(0);
                }
            }
            status
        }
        // SAFETY: by the caller's promise.
        Err(failure) => unsafe { fail(error, &failure) },
    };
    let outcome = INSIDE.with(|inside| {
        inside.set(true);
        let outcome = panic::catch_unwind(AssertUnwindSafe(filling));
        inside.set(false);
        outcome
    });
    match outcome {
        Ok(status) => status,
        // SAFETY: by the caller's promise.
        Err(payload) => unsafe { fail(error, &panicked(&*payload)) },
    }
}

/// Runs a body that only releases memory, and has neither a status nor a reason to panic: there is no mark that it is
/// inside the library, so that a panic, though stopped here, would be printed. free(3) is no cancellation point, and
/// leaves `errno` alone.
#[inline]
pub fn release(body: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(body));
}

/// # Safety
/// As [`guard`].
#[cold]
unsafe fn fail(error: *mut cachetory_error_t, failure: &Error) -> cachetory_status_t {
    if !error.is_null() {
        // SAFETY: not NULL, and the caller's to write.
        unsafe { error.write(report(failure)) };
    }
    status::of(failure)
}

#[cold]
fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => payload.downcast_ref::<String>().cloned().unwrap_or_default(),
    };
    Kind::Internal(text.into()).into()
}

/// An error as the caller sees it.
pub fn report(failure: &Error) -> cachetory_error_t {
    let mut message = Message { bytes: [0; 504], len: 0 };
    // An error means that the text did not fit; what fitted is kept.
    let _ = write!(message, "{failure}");
    let (status, flags) = (status::of(failure), status::flags(failure));
    cachetory_error_t { status, flags, message: message.bytes }
}

/// A NUL-terminated text that takes what fits, in whole characters.
struct Message {
    bytes: [c_char; 504],
    len: usize,
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let mut fits = room.min(text.len());
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        for character in text[..fits].chars() {
            // A NUL would end the message early, and other control characters (a server's error text may have any) do
            // harm in a terminal or a log.
            let shown = if character.is_control() { '?' } else { character };
            for byte in shown.encode_utf8(&mut [0; 4]).bytes() {
                self.bytes[self.len] = byte as c_char;
                self.len += 1;
            }
        }
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::super::types::{CACHETORY_ERROR_MAYBE_APPLIED, CACHETORY_ERROR_RETRYABLE};
    use super::*;

    fn text(error: &cachetory_error_t) -> String {
        // SAFETY: `guard` terminated it.
        unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_str().unwrap().to_owned()
    }

    fn run(body: impl FnOnce() -> Result<i32>) -> cachetory_error_t {
        let mut error = cachetory_error_t { status: 99, flags: 99, message: [1; 504] };
        // SAFETY: the error is ours.
        let status = unsafe { guard(&mut error, body) };
        assert_eq!(status, error.status);
        error
    }

    #[test]
    fn a_panic_becomes_a_status() {
        silence_panics();
        let error = run(|| panic!("boom {}", 1));
        assert_eq!(error.status, status::CACHETORY_ERR_INTERNAL);
        assert_eq!(error.flags, 0);
        assert_eq!(text(&error), "internal error: boom 1");
    }

    #[test]
    fn success_empties_the_message() {
        let error = run(|| Ok(1));
        assert_eq!((error.status, error.flags, error.message[0]), (1, 0, 0));
        assert_eq!(error.message[1], 1, "the rest is not cleared");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let error = run(|| Err(Error::invalid_argument("ä".repeat(400))));
        assert_eq!(text(&error), "ä".repeat(251));
        let error = run(|| Err(Error::invalid_argument("a\0b\x1b[c\n")));
        assert_eq!(text(&error), "a?b?[c?");
    }

    #[test]
    fn flags_are_reported() {
        let busy = run(|| Err(Error::from(Kind::Busy).maybe_applied()));
        assert_eq!(busy.flags, CACHETORY_ERROR_RETRYABLE | CACHETORY_ERROR_MAYBE_APPLIED);
    }
}
