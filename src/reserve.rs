//! Keeps the process alive where memory runs out. What is sized by the caller or by a server is asked for in a way that
//! may fail; but a language's runtime also needs small pieces here and there, and without one it aborts. So a reserve
//! is set aside: small pieces that cannot be had otherwise come from there, and as long as one is in use, calls fail
//! with "no memory" before they begin, unless the system has memory again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Many times what the calls under way need in small pieces.
const SIZE: usize = 1 << 20;
/// Larger pieces are asked for by code that can do without.
const SMALL: usize = 64 << 10;

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

static RESERVE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// How much of the reserve is taken, and in the upper half in how many pieces. It starts anew when the last is given
/// back.
static TAKEN: AtomicU64 = AtomicU64::new(0);
const PIECE: u64 = 1 << 32;

/// Sees to it that there is a reserve, before the first call. Pages that are never touched cost nothing.
pub fn set_aside() -> Result<()> {
    if RESERVE.load(Ordering::Acquire).is_null() {
        let mapped = map().ok_or_else(|| Error::no_memory("memory"))?;
        let exchange = (Ordering::AcqRel, Ordering::Relaxed);
        if RESERVE.compare_exchange(ptr::null_mut(), mapped, exchange.0, exchange.1).is_err() {
            unmap(mapped);
        }
    }
    check()
}

/// Whether a call may begin, or a large one go on.
#[inline]
pub fn check() -> Result<()> {
    if TAKEN.load(Ordering::Relaxed) == 0 { Ok(()) } else { is_there_memory() }
}

#[cold]
fn is_there_memory() -> Result<()> {
    match map() {
        Some(mapped) => {
            unmap(mapped);
            Ok(())
        }
        None => Err(Error::no_memory("memory")),
    }
}

fn map() -> Option<*mut u8> {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the system's choice.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, kind, -1, 0) };
    (mapped != libc::MAP_FAILED).then_some(mapped.cast())
}

fn unmap(mapped: *mut u8) {
    // SAFETY: `map` made it with this size, and nothing has been taken from it.
    unsafe { libc::munmap(mapped.cast(), SIZE) };
}

/// A piece of the reserve; NULL where there is none.
fn take(layout: Layout) -> *mut u8 {
    let reserve = RESERVE.load(Ordering::Acquire);
    if reserve.is_null() || layout.size() > SMALL {
        return ptr::null_mut();
    }
    let mut at = 0;
    let taken = TAKEN.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
        at = ((taken % PIECE) as usize).next_multiple_of(layout.align());
        let end = at + layout.size();
        (end <= SIZE).then(|| taken - taken % PIECE + PIECE + end as u64)
    });
    // The start is that of a page, so that an aligned offset is an aligned address.
    if taken.is_ok() { reserve.wrapping_add(at) } else { ptr::null_mut() }
}

fn is_from_reserve(piece: *mut u8) -> bool {
    let reserve = RESERVE.load(Ordering::Relaxed);
    piece.addr().wrapping_sub(reserve.addr()) < SIZE && is_set_aside(reserve)
}

/// Asked last, for a piece of the system's never is so near to NULL.
#[cold]
#[inline(never)]
fn is_set_aside(reserve: *mut u8) -> bool {
    !reserve.is_null()
}

fn give_back() {
    let _ = TAKEN.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
        let left = taken - PIECE;
        Some(if left < PIECE { 0 } else { left })
    });
}

// SAFETY: what the system's allocator has is its own; a piece of the reserve is handed to one owner at a time, for the
// reserve is taken in ascending order and starts anew only when nothing of it is in use.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        let got = unsafe { System.alloc(layout) };
        if got.is_null() { take(layout) } else { got }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        let got = unsafe { System.alloc_zeroed(layout) };
        if !got.is_null() {
            return got;
        }
        let piece = take(layout);
        if !piece.is_null() {
            // SAFETY: the piece has that size. It may have been used before.
            unsafe { piece.write_bytes(0, layout.size()) };
        }
        piece
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_from_reserve(old) {
            // SAFETY: by the caller's promise.
            let got = unsafe { System.realloc(old, layout, size) };
            if !got.is_null() {
                return got;
            }
        }
        // SAFETY: the size is not above isize::MAX, by the caller's promise, nor the alignment changed; the old piece
        // is as it was, and copied no further than both reach before it is given back.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(old, layout.size().min(size));
                self.dealloc(old, layout);
            }
            new
        }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        if is_from_reserve(old) {
            return give_back();
        }
        // SAFETY: by the caller's promise, and it is not a piece of the reserve.
        unsafe { System.dealloc(old, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reserve is the process's, so one test does it all.
    #[test]
    fn pieces_are_taken_in_order_and_start_anew() {
        set_aside().unwrap();
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        assert!(take(layout(SMALL + 1, 1)).is_null());
        let first = take(layout(3, 1));
        let second = take(layout(16, 16));
        assert!(is_from_reserve(first) && is_from_reserve(second));
        assert_eq!(second.addr() - first.addr(), 16);
        assert!(check().is_ok(), "the system has memory");
        give_back();
        give_back();
        let mut pieces = 0;
        while !take(layout(SMALL, 8)).is_null() {
            pieces += 1;
        }
        assert_eq!(pieces, SIZE / SMALL);
        (0..pieces).for_each(|_| give_back());
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
    }
}
