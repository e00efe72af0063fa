//! Keeps the process alive where memory runs out. What is sized by the caller or by a server is asked for in a way that may
//! fail; but a language's runtime also needs small pieces here and there, and without one it aborts. So a reserve is set
//! aside: when a small piece cannot be had, the reserve is given back and the piece taken from there, and from then on
//! calls fail with "no memory" before they begin, until the reserve can be set aside again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::error::{Error, Result};

/// Many times what one call needs in small pieces.
const RESERVE: Layout = match Layout::from_size_align(512 << 10, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a size and an alignment that go together"),
};
/// Larger pieces are asked for by code that can do without.
const SMALL: usize = 64 << 10;

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

static SET_ASIDE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// The reserve was needed, and is not there again.
static SPENT: AtomicBool = AtomicBool::new(false);

/// Sees to it that there is a reserve, before the first call.
pub fn set_aside() -> Result<()> {
    if !SET_ASIDE.load(Ordering::Relaxed).is_null() {
        return Ok(());
    }
    // SAFETY: the layout has a size.
    let reserve = unsafe { System.alloc(RESERVE) };
    if reserve.is_null() {
        return Err(Error::no_memory("memory"));
    }
    let exchange = (Ordering::AcqRel, Ordering::Relaxed);
    if SET_ASIDE.compare_exchange(ptr::null_mut(), reserve, exchange.0, exchange.1).is_err() {
        // SAFETY: it was allocated above with this layout, and nobody else has seen it.
        unsafe { System.dealloc(reserve, RESERVE) };
    }
    SPENT.store(false, Ordering::Relaxed);
    Ok(())
}

/// Whether a call may begin, or a large one go on.
pub fn check() -> Result<()> {
    if SPENT.load(Ordering::Relaxed) { set_aside() } else { Ok(()) }
}

/// Gives the reserve back to the system's allocator; whether there was one.
fn spend(size: usize) -> bool {
    if size > SMALL {
        return false;
    }
    SPENT.store(true, Ordering::Relaxed);
    let reserve = SET_ASIDE.swap(ptr::null_mut(), Ordering::AcqRel);
    if !reserve.is_null() {
        // SAFETY: it was allocated with this layout, and the swap gave it to this thread alone.
        unsafe { System.dealloc(reserve, RESERVE) };
    }
    // Another thread may have given it back a moment ago.
    true
}

// SAFETY: every call is passed on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        let got = unsafe { System.alloc(layout) };
        if got.is_null() && spend(layout.size()) {
            // SAFETY: by the caller's promise.
            return unsafe { System.alloc(layout) };
        }
        got
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        let got = unsafe { System.alloc_zeroed(layout) };
        if got.is_null() && spend(layout.size()) {
            // SAFETY: by the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        got
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the caller's promise; where the first attempt fails, the old piece is as it was.
        let got = unsafe { System.realloc(old, layout, size) };
        if got.is_null() && spend(size) {
            // SAFETY: as above.
            return unsafe { System.realloc(old, layout, size) };
        }
        got
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: by the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}
