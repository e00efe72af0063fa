//! The `cachetory_queue_*` calls. Their comments become those of the header.

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use super::arg;
use super::completion::{cachetory_completion_t, give_completion, is_brief, release_completion};
use super::guard::{guard, release, silence_panics};
use super::handle::Table;
use super::status::{CACHETORY_NOT_FOUND, CACHETORY_OK};
use super::types::*;
use crate::completion::{Completion, CompletionQueue};
use crate::error::Error;
use crate::{fork, reserve};

/// More than a queue takes that is opened.
const OPENING: usize = 16 << 10;

pub(super) static QUEUES: Table<Arc<CompletionQueue>> = Table::new(1);

/// Opens a queue that asynchronous calls report to. It takes one descriptor.
///
/// `out` receives a handle for any number of threads and caches; end it with cachetory_queue_close. Never blocks. Any
/// thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT (`out` is NULL), CACHETORY_ERR_NO_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_queue_open(
    out: *mut cachetory_queue_t,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            silence_panics();
            let out = arg::output(out, cachetory_queue_t::default())?;
            reserve::expect(OPENING)?;
            fork::watch()?;
            out.id = QUEUES.open(Arc::new(CompletionQueue::open()?))?;
            Ok(CACHETORY_OK)
        })
    }
}

/// Ends a queue: cancels its outstanding calls and releases the completions that nobody has taken. None of its tags is
/// reported any more. A write that was sent before may still be applied.
///
/// Threads in cachetory_queue_wait return CACHETORY_ERR_CLOSED. The descriptor is closed: take it out of a poll set
/// before. Its duplicates become readable and stay so. Completions that were taken stay the caller's. Closing {0} does
/// nothing. Never blocks. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED (closed already, never opened, or inherited from the parent process).
#[unsafe(no_mangle)]
pub extern "C-unwind" fn cachetory_queue_close(queue: cachetory_queue_t) -> cachetory_status_t {
    if queue.id == 0 {
        return CACHETORY_OK;
    }
    let body = || {
        QUEUES.close(queue.id)?.close()?;
        Ok(CACHETORY_OK)
    };
    // SAFETY: there is no error to fill.
    unsafe { guard(ptr::null_mut(), body) }
}

/// The descriptor that tells when there is something to do for a queue: for poll(2), epoll(7) and event loops.
///
/// It is readable while cachetory_queue_wait has something to do: completions to hand out, or input, output or a
/// deadline to see to. So the loop's own thread drives its calls. It waits on the descriptor with its others, and when
/// that is readable it calls cachetory_queue_wait with a `timeout_ms` of 0, which may well hand out nothing (a `*count`
/// of 0). A loop that is busy, or does not come, delays its calls by some 20 ms; then the library's I/O thread sees to
/// them.
///
/// An edge-triggered poller that calls cachetory_queue_wait until `*count` is 0 misses nothing. Several threads may
/// poll it. It is an epoll instance that holds no other, non-blocking and closed on exec. It is the queue's: poll it,
/// or a duplicate (F_DUPFD_CLOEXEC), without EPOLLEXCLUSIVE, and never read, write or close it. Every call gives the
/// same descriptor. Never blocks. Any thread.
///
/// Returns the descriptor; -1 where there is no such queue, none is to be had, or the queue is the parent process's.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn cachetory_queue_fd(queue: cachetory_queue_t) -> c_int {
    let mut fd = -1;
    let body = || {
        fd = QUEUES.get(queue.id)?.fd()?;
        Ok(CACHETORY_OK)
    };
    // SAFETY: there is no error to fill.
    unsafe { guard(ptr::null_mut(), body) };
    fd
}

/// Takes completions out of a queue, up to `capacity` of those that are there, and waits up to `timeout_ms` while there
/// are none: 0 does not wait, CACHETORY_NO_EXPIRY waits for ever.
///
/// A thread that waits alone drives the I/O of its calls itself meanwhile. With a timeout of 0, on a queue whose
/// descriptor somebody has asked for, it does what I/O there is to do, a mebibyte or a millisecond of it at most; if
/// anything is left, the descriptor is readable anew.
///
/// `*count` receives how many were written to `out`, whose further elements stay as they were; each of them belongs to
/// the caller: release it with cachetory_completion_free. Nothing in time is CACHETORY_OK and a `*count` of 0. On a
/// failure no completion is taken. Several threads may wait on one queue: each completion goes to one of them.
///
/// Blocks up to `timeout_ms`. Any thread.
///
/// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT (`out` or `count` is NULL, `capacity` is 0, `timeout_ms` is
/// negative), CACHETORY_ERR_CLOSED (also while it waits), _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_queue_wait(
    queue: cachetory_queue_t,
    out: *mut cachetory_completion_t,
    capacity: usize,
    timeout_ms: i64,
    count: *mut usize,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointers are the caller's, as the header describes them.
    unsafe {
        guard(error, || {
            let count = arg::output(count, 0)?;
            if out.is_null() {
                return Err(Error::invalid_argument("the output is NULL"));
            }
            if capacity == 0 {
                return Err(Error::invalid_argument("capacity must be at least 1"));
            }
            if timeout_ms < 0 {
                return Err(Error::invalid_argument("timeout_ms must not be negative"));
            }
            let timeout = (timeout_ms != CACHETORY_NO_EXPIRY)
                .then(|| Duration::from_millis(timeout_ms.unsigned_abs()));
            let mut lengthy = Lengthy::default();
            let put = |index, completion| match is_brief(&completion) || !lengthy.note(index) {
                true => give_completion(out.add(index), completion),
                false => out.add(index).cast::<Completion>().write(completion),
            };
            let taken = QUEUES.get(queue.id)?.wait(capacity, timeout, put)?;
            lengthy.for_each(|index| {
                let completion = out.add(index).cast::<Completion>().read();
                give_completion(out.add(index), completion);
            });
            *count = taken;
            Ok(CACHETORY_OK)
        })
    }
}

/// The completions that take more than a few steps to be turned into what the caller sees. They wait for it, where they
/// will lie, until the queue is no longer locked.
#[derive(Default)]
struct Lengthy([u64; Self::WORDS]);

impl Lengthy {
    const WORDS: usize = 8;
    const WIDTH: usize = u64::BITS as usize;

    /// Takes note of one; `false`: there are too many.
    fn note(&mut self, index: usize) -> bool {
        const { assert!(size_of::<Completion>() <= size_of::<cachetory_completion_t>()) };
        const { assert!(align_of::<Completion>() <= align_of::<cachetory_completion_t>()) };
        let word = self.0.get_mut(index / Self::WIDTH);
        word.map(|word| *word |= 1 << (index % Self::WIDTH)).is_some()
    }

    fn for_each(&self, mut visit: impl FnMut(usize)) {
        for (number, &word) in self.0.iter().enumerate() {
            let mut left = word;
            while left != 0 {
                visit(number * Self::WIDTH + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}

/// Cancels every outstanding call with that tag: each completes at once, with CACHETORY_ERR_CANCELLED. Calls that have
/// completed stay as they are, taken or not.
///
/// A write that had been sent completes with CACHETORY_ERROR_MAYBE_APPLIED; one without that flag is never sent. Never
/// blocks. Any thread.
///
/// Returns CACHETORY_OK, CACHETORY_NOT_FOUND (no outstanding call has that tag); CACHETORY_ERR_CLOSED, _NO_MEMORY,
/// _INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_queue_cancel(
    queue: cachetory_queue_t,
    tag: u64,
    error: *mut cachetory_error_t,
) -> cachetory_status_t {
    // SAFETY: the pointer is the caller's, as the header describes it.
    unsafe {
        guard(error, || {
            let any = QUEUES.get(queue.id)?.cancel(tag)?;
            Ok(if any { CACHETORY_OK } else { CACHETORY_NOT_FOUND })
        })
    }
}

/// Releases a completion, with the value or batch that is still in it, and empties the struct, so that a second call
/// does nothing; NULL does nothing. Any thread, also after the queue or the cache was closed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cachetory_completion_free(completion: *mut cachetory_completion_t) {
    // SAFETY: NULL, or a struct that the library filled or the caller zeroed, as the header says.
    release(|| unsafe {
        if let Some(completion) = completion.as_mut() {
            release_completion(completion);
        }
    });
}
