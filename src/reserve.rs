//! Keeps the process alive where memory runs out. What is sized by the caller or by a server is asked for in a way that
//! may fail; but a language's runtime also needs small pieces here and there, and without one it aborts. So there is a
//! reserve, a part of the library's own data: pieces that cannot be had otherwise come from there, and go back one by
//! one. As long as much of it is in use, calls fail with "no memory" before they begin, unless the system has memory
//! again.
//!
//! The reserve is for what ends soon. What may stay for long does without: growth that may fail is asked for with
//! [`try_reserve`] or [`without`], and what is made in one piece that cannot fail is looked at afterwards, with
//! [`holds`]. So nothing that outlives an emergency keeps the reserve from the next one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Each word of a pool has a bit for each of so many units. A piece lies within what one word stands for.
const UNITS: usize = u64::BITS as usize;
/// For pieces of up to 4 KiB.
const SMALL: usize = 64;
const SMALL_WORDS: usize = 256;
/// For pieces of up to 256 KiB. Larger ones are asked for by code that can do without.
const LARGE: usize = 4 << 10;
const LARGE_WORDS: usize = 8;

const SMALL_SIZE: usize = SMALL * UNITS * SMALL_WORDS;
const SIZE: usize = SMALL_SIZE + LARGE * UNITS * LARGE_WORDS;

/// Pages of it that are never touched cost nothing.
#[repr(align(4096))]
struct Memory(UnsafeCell<[MaybeUninit<u8>; SIZE]>);

// SAFETY: a piece of it is handed to one owner at a time, and nothing else is done with it.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([MaybeUninit::uninit(); SIZE]));
static SMALL_POOL: Pool<SMALL, SMALL_WORDS> = Pool::new();
static LARGE_POOL: Pool<LARGE, LARGE_WORDS> = Pool::new();

/// How much is in use, in parts of which either pool has [`PARTS`].
static TAKEN: AtomicUsize = AtomicUsize::new(0);
const PARTS: usize = UNITS * SMALL_WORDS;
const LARGE_PARTS: usize = SMALL_WORDS / LARGE_WORDS;
/// Past this calls do not begin: the rest is for those that are under way.
const MOST_TAKEN: usize = PARTS / 2;
/// Where the system has so much, it has memory again.
const ENOUGH: usize = 32 << 10;

thread_local! {
    /// This thread asks for something that it can do without.
    static DOES_WITHOUT: Cell<bool> = const { Cell::new(false) };
}

/// glibc allocates the thread-locals of a library that was loaded with dlopen(3) when a thread first touches one, and
/// ends the process where it cannot. Where a library asks for but one of them by descriptor, and there is room, all
/// have their place in every thread from the start. Other machines' compilers ask so anyway.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
mod thread_locals {
    std::arch::global_asm!(
        ".pushsection .tbss.one_thread_local, \"awT\", @nobits",
        ".globl one_thread_local",
        ".hidden one_thread_local",
        ".type one_thread_local, @object",
        ".size one_thread_local, 1",
        "one_thread_local:",
        ".zero 1",
        ".popsection",
        options(att_syntax)
    );

    /// Where one of them is, which is all that the loader must see.
    pub fn ask_by_descriptor() {
        // SAFETY: this is the sequence that linkers know; by its convention no other register is changed.
        unsafe {
            std::arch::asm!(
                "leaq one_thread_local@tlsdesc(%rip), %rax",
                "call *one_thread_local@tlscall(%rax)",
                out("rax") _,
                options(att_syntax)
            );
        }
    }
}

/// Whether a call may begin, or a large one go on.
#[inline]
pub fn check() -> Result<()> {
    if TAKEN.load(Ordering::Relaxed) <= MOST_TAKEN { Ok(()) } else { expect(ENOUGH) }
}

/// Whether the system has so much memory at this moment. Asked before what would else take as much from the reserve.
#[cold]
pub fn expect(bytes: usize) -> Result<()> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
    thread_locals::ask_by_descriptor();
    let no_memory = || Error::no_memory("memory");
    let layout = Layout::from_size_align(bytes.max(1), 1).map_err(|_| no_memory())?;
    // SAFETY: the layout is not empty; the piece goes back as it came.
    unsafe {
        let piece = System.alloc(layout);
        if piece.is_null() {
            return Err(no_memory());
        }
        // Or the compiler takes the question for idle.
        System.dealloc(std::hint::black_box(piece), layout);
    }
    Ok(())
}

/// Runs `body`, whose allocations may fail: the reserve is not for them.
pub fn without<T>(body: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            DOES_WITHOUT.set(self.0);
        }
    }
    let _before = Before(DOES_WITHOUT.replace(true));
    body()
}

/// What can make room for more of what it has.
pub trait Growing {
    fn has_room(&self, additional: usize) -> bool;
    fn grow(&mut self, additional: usize) -> bool;
}

impl<T> Growing for Vec<T> {
    #[inline]
    fn has_room(&self, additional: usize) -> bool {
        self.capacity() - self.len() >= additional
    }

    fn grow(&mut self, additional: usize) -> bool {
        self.try_reserve(additional).is_ok()
    }
}

impl<T> Growing for std::collections::VecDeque<T> {
    #[inline]
    fn has_room(&self, additional: usize) -> bool {
        self.capacity() - self.len() >= additional
    }

    fn grow(&mut self, additional: usize) -> bool {
        self.try_reserve(additional).is_ok()
    }
}

/// Makes room in what may stay for long; `what` is what there is no memory for.
#[inline]
pub fn try_reserve(into: &mut impl Growing, additional: usize, what: &'static str) -> Result<()> {
    if into.has_room(additional) || (!is_nothing_left() && without(|| into.grow(additional))) {
        return Ok(());
    }
    Err(no_memory(what))
}

/// Room for so many in one piece, which may stay for long.
#[inline]
pub fn exactly<T>(count: usize, what: &'static str) -> Result<Vec<T>> {
    let mut room = Vec::new();
    match room.try_reserve_exact(count) {
        Ok(()) if !holds(room.as_ptr()) => Ok(room),
        _ => Err(no_memory(what)),
    }
}

/// A copy in one piece, which may stay for long; `None`: the system has no memory for it. For where each instruction
/// counts: what a vector does of its own cannot be inlined.
#[inline(always)]
pub fn copied(bytes: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::for_value(bytes);
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the size is not 0. What the system's allocator gives is this allocator's as well, which gives it back to
    // the system; it has room for as many bytes, which are all written.
    unsafe {
        let copy = System.alloc(layout);
        if copy.is_null() {
            return None;
        }
        copy.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        Some(Vec::from_raw_parts(copy, bytes.len(), bytes.len()))
    }
}

#[cfg(not(test))]
const fn is_nothing_left() -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static IS_NOTHING_LEFT: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
fn is_nothing_left() -> bool {
    IS_NOTHING_LEFT.get()
}

/// Runs `body` as if [`try_reserve`] could make no room.
#[cfg(test)]
pub fn with_nothing_left<T>(body: impl FnOnce() -> T) -> T {
    IS_NOTHING_LEFT.set(true);
    let result = body();
    IS_NOTHING_LEFT.set(false);
    result
}

#[cold]
fn no_memory(what: &'static str) -> Error {
    Error::no_memory(what)
}

/// Whether a piece is one of the reserve. What may stay for long is then given back, and the call fails.
#[inline(always)]
pub fn holds<T>(piece: *const T) -> bool {
    piece.addr().wrapping_sub(MEMORY.0.get().addr()) < SIZE
}

/// So much memory: a word has a bit for each of its units. Nothing is waited for, so that a child process may use it
/// whatever the parent's other threads were doing.
struct Pool<const UNIT: usize, const WORDS: usize>([AtomicU64; WORDS]);

impl<const UNIT: usize, const WORDS: usize> Pool<UNIT, WORDS> {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    fn units(size: usize) -> usize {
        size.div_ceil(UNIT).max(1)
    }

    /// Where a piece begins, and how many units it has.
    fn take(&self, layout: Layout) -> Option<(usize, usize)> {
        let units = Self::units(layout.size());
        let step = layout.align().div_ceil(UNIT);
        if units > UNITS || step > UNITS {
            return None;
        }
        for (number, word) in self.0.iter().enumerate() {
            let mut taken = word.load(Ordering::Relaxed);
            while let Some(first) = room(taken, units, step) {
                let with = taken | ones(units) << first;
                match word.compare_exchange(taken, with, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Some(((number * UNITS + first) * UNIT, units)),
                    Err(now) => taken = now,
                }
            }
        }
        None
    }

    /// Gives back all but the first `kept` bytes of a piece, or all of it where that is 0; how many units.
    fn give_back(&self, at: usize, size: usize, kept: usize) -> usize {
        let kept = kept.div_ceil(UNIT);
        let units = Self::units(size) - kept;
        let first = at / UNIT + kept;
        if units > 0
            && let Some(word) = self.0.get(first / UNITS)
        {
            word.fetch_and(!(ones(units) << (first % UNITS)), Ordering::Release);
        }
        units
    }
}

fn ones(count: usize) -> u64 {
    u64::MAX >> (UNITS - count)
}

/// The first of so many free bits in a row, at a multiple of `step`, which is a power of two.
fn room(taken: u64, count: usize, step: usize) -> Option<usize> {
    let (mut free, mut found) = (!taken, 1);
    while found < count {
        let more = found.min(count - found);
        free &= free >> more;
        found += more;
    }
    free &= u64::MAX / ones(step);
    (free != 0).then(|| free.trailing_zeros() as usize)
}

/// A piece of the reserve; NULL where there is none, or the thread does without.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    if DOES_WITHOUT.get() {
        return ptr::null_mut();
    }
    let large = || {
        let (at, units) = LARGE_POOL.take(layout)?;
        Some((SMALL_SIZE + at, units * LARGE_PARTS))
    };
    let Some((at, parts)) = SMALL_POOL.take(layout).or_else(large) else {
        return ptr::null_mut();
    };
    TAKEN.fetch_add(parts, Ordering::Relaxed);
    MEMORY.0.get().cast::<u8>().wrapping_add(at)
}

/// Gives back all but the first `kept` bytes of a piece of the reserve, or all of it where that is 0.
#[cold]
fn give_back(piece: *mut u8, size: usize, kept: usize) {
    let at = piece.addr() - MEMORY.0.get().addr();
    let parts = match at.checked_sub(SMALL_SIZE) {
        None => SMALL_POOL.give_back(at, size, kept),
        Some(at) => LARGE_POOL.give_back(at, size, kept) * LARGE_PARTS,
    };
    TAKEN.fetch_sub(parts, Ordering::Relaxed);
}

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: what the system's allocator has is its own; a piece of the reserve is handed to one owner at a time, for its
// bits are set by one thread only, and cleared when the owner gives it back.
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
        if !holds(old) {
            // SAFETY: by the caller's promise.
            let got = unsafe { System.realloc(old, layout, size) };
            if !got.is_null() {
                return got;
            }
        }
        // SAFETY: by the caller's promise.
        unsafe { self.move_or_keep(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        if holds(old) {
            return give_back(old, layout.size(), 0);
        }
        // SAFETY: by the caller's promise, and it is not a piece of the reserve.
        unsafe { System.dealloc(old, layout) }
    }
}

impl Allocator {
    /// What is to shrink stays where it is: that must not fail. What is to grow moves.
    ///
    /// # Safety
    /// As [`GlobalAlloc::realloc`].
    #[cold]
    unsafe fn move_or_keep(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size <= layout.size() {
            if holds(old) {
                give_back(old, layout.size(), size);
            }
            return old;
        }
        // SAFETY: the size is not above isize::MAX, by the caller's promise, nor the alignment changed; the old piece
        // is as it was, and copied before it is given back.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(old, layout.size());
                self.dealloc(old, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn pieces_lie_apart_and_come_back_one_by_one() {
        let pool = Pool::<64, 4>::new();
        let sizes = [1, 64, 65, 4096, 500, 2000, 640];
        let pieces = sizes.map(|size| (pool.take(layout(size, 8)).unwrap().0, size));
        for (number, &(at, size)) in pieces.iter().enumerate() {
            assert!(at / 4096 == (at + size - 1) / 4096);
            for &(other, other_size) in &pieces[..number] {
                assert!(at + size <= other || other + other_size <= at);
            }
        }
        assert!(pool.take(layout(4097, 1)).is_none());
        for (at, size) in pieces {
            assert_eq!(pool.give_back(at, size, 0), size.div_ceil(64));
        }
        assert!(pool.0.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_pool_is_used_up_to_the_last_unit_and_aligned_as_asked() {
        let pool = Pool::<64, 2>::new();
        assert_eq!(pool.take(layout(1, 1)), Some((0, 1)));
        for number in 1..8 {
            assert_eq!(pool.take(layout(1, 1024)), Some((1024 * number, 1)));
        }
        assert!(pool.take(layout(1, 1024)).is_none());
        assert!(pool.take(layout(1, 8192)).is_none());
        let mut left = 0;
        while pool.take(layout(64, 16)).is_some() {
            left += 1;
        }
        assert_eq!(left, 2 * 64 - 8);
    }

    #[test]
    fn a_piece_that_shrinks_gives_back_its_end() {
        let pool = Pool::<64, 1>::new();
        let (at, _) = pool.take(layout(4096, 1)).unwrap();
        assert_eq!(pool.give_back(at, 4096, 4090), 0);
        assert_eq!(pool.give_back(at, 4090, 65), 62);
        assert_eq!(pool.take(layout(62 * 64, 1)), Some((128, 62)));
        assert_eq!(pool.give_back(at, 65, 0), 2);
    }

    /// The reserve is the process's, so one test does it all.
    #[test]
    fn the_reserve_serves_what_cannot_do_without() {
        let piece = take(layout(100, 16));
        assert!(holds(piece) && piece.addr().is_multiple_of(16));
        assert!(without(|| take(layout(100, 16))).is_null());
        assert!(!holds(ptr::null::<u8>()) && !holds(Box::into_raw(Box::new(1))));
        // SAFETY: the pieces are ours, and have the sizes that are told.
        unsafe {
            piece.write_bytes(7, 100);
            let grown = ALLOCATOR.realloc(piece, layout(100, 16), 5000);
            assert!(!holds(grown) && *grown == 7 && *grown.add(99) == 7);
            ALLOCATOR.dealloc(grown, layout(5000, 16));
            let large = take(layout(256 << 10, 1));
            assert!(holds(large) && take(layout((256 << 10) + 1, 1)).is_null());
            assert_eq!(ALLOCATOR.realloc(large, layout(256 << 10, 1), 5000), large);
            ALLOCATOR.dealloc(large, layout(5000, 1));
        }
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
        let all: Vec<_> = (0..MOST_TAKEN / UNITS + 1).map(|_| take(layout(4096, 1))).collect();
        assert!(TAKEN.load(Ordering::Relaxed) > MOST_TAKEN);
        assert!(check().is_ok() && expect(1 << 50).is_err(), "the system has memory");
        all.into_iter().for_each(|piece| give_back(piece, 4096, 0));
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
    }
}
