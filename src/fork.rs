//! Noticing that this is a child process. After `fork()` only the calling thread lives on: locks may be held by threads
//! that are gone and sockets are shared with the parent, so the child uses nothing it inherited and starts afresh.
//!
//! A word says which process this is ([`generation`]). It lies in a page that the kernel empties for each child
//! (madvise(2), MADV_WIPEONFORK), however that was made: a zero says that this is a new one, and whoever reads it first
//! gives it a number. Where the kernel cannot do that, pthread_atfork(3) empties the word, and children that are made
//! past it, by `_Fork` or a bare clone(2), go unnoticed. A child of vfork(2) shares its parent's memory, and is it.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use once_cell::race::OnceBox;

use crate::error::{Error, Result};

/// The number of the first process.
const FIRST: u64 = 1;

/// The last number that was given out, in this process or an ancestor. It is inherited.
static LAST: AtomicU64 = AtomicU64::new(FIRST);
/// The word until there is a page, or where there cannot be one.
static WITHOUT_PAGE: AtomicU64 = AtomicU64::new(FIRST);
static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new((&raw const WITHOUT_PAGE).cast_mut());
static WATCHES: AtomicBool = AtomicBool::new(false);

fn word() -> &'static AtomicU64 {
    // SAFETY: it is one of two: a static, or the beginning of a page that is never unmapped.
    unsafe { &*WORD.load(Ordering::Relaxed) }
}

extern "C" fn forget_number() {
    word().store(0, Ordering::Relaxed);
}

/// Has forks noticed from now on. To be called before the first [`PerProcess`] is made.
pub fn watch() -> Result<()> {
    if WATCHES.load(Ordering::Acquire) {
        return Ok(());
    }
    let refused = || Error::no_memory("memory to watch for forks");
    move_to_page().map_err(|NoMemory| refused())?;
    // Two threads that come here at once both register it, which does no harm.
    // SAFETY: the handler is a plain function that lives as long as the library, which is never unloaded; it only
    // writes to an atomic, which is allowed between fork and exec.
    if unsafe { libc::pthread_atfork(None, None, Some(forget_number)) } != 0 {
        return Err(refused());
    }
    WATCHES.store(true, Ordering::Release);
    Ok(())
}

struct NoMemory;

/// Has the word lie in a page that is empty in every child, if there can be one.
fn move_to_page() -> Result<(), NoMemory> {
    let without_page = (&raw const WITHOUT_PAGE).cast_mut();
    if WORD.load(Ordering::Relaxed) != without_page {
        return Ok(());
    }
    // What is mapped and advised is whole pages.
    const SIZE: usize = size_of::<AtomicU64>();
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping of its own, at an address that the kernel chooses.
    let page = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(NoMemory);
    }
    // SAFETY: the page is this function's, and nobody else knows of it yet.
    let is_wiped = unsafe { libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) } == 0;
    let word = page.cast::<AtomicU64>();
    // SAFETY: a page is aligned for anything, and this one is zero, which is a value of it.
    unsafe { &*word }.store(FIRST, Ordering::Relaxed);
    let (set, unset) = (Ordering::Release, Ordering::Relaxed);
    if !is_wiped || WORD.compare_exchange(without_page, word, set, unset).is_err() {
        // SAFETY: nobody got to know of it.
        unsafe { libc::munmap(page, SIZE) };
    }
    Ok(())
}

/// Which process this is. A child has a number that none of its ancestors has.
#[inline(always)]
pub fn generation() -> u64 {
    match word().load(Ordering::Relaxed) {
        0 => new_generation(),
        generation => generation,
    }
}

/// Gives this process its number. Of several threads one does it.
#[cold]
fn new_generation() -> u64 {
    // First the last number and then this process's own, so that a child that is made in between gives out another.
    let next = LAST.fetch_add(1, Ordering::SeqCst) + 1;
    match word().compare_exchange(0, next, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => next,
        Err(own) => own,
    }
}

/// One `T` for each process: the one made by this process, and a fresh one in every child that asks. What a parent
/// made stays untouched in the child, and is dropped with the cell.
pub struct PerProcess<T> {
    first: Node<T>,
}

/// A list that grows by one for each generation that asked. `OnceBox` never blocks, so a fork in the middle of an
/// append cannot leave the child waiting for a thread that it does not have.
struct Node<T> {
    generation: u64,
    value: T,
    next: OnceBox<Node<T>>,
}

impl<T> PerProcess<T> {
    pub fn new(value: T) -> Self {
        Self { first: Node { generation: generation(), value, next: OnceBox::new() } }
    }

    /// This process's own `T`, made by `make` when it is the first to ask; it is given what was inherited last.
    #[inline]
    pub fn get_or_make(&self, make: impl Fn(&T) -> T) -> &T {
        let wanted = generation();
        let mut node = &self.first;
        while node.generation != wanted {
            let inherited = &node.value;
            node = node.next.get_or_init(|| {
                Box::new(Node { generation: wanted, value: make(inherited), next: OnceBox::new() })
            });
        }
        &node.value
    }

    /// Each `T` that there is, and whether it is this process's own.
    pub fn for_each(&self, mut visit: impl FnMut(&T, bool)) {
        let own = generation();
        let mut next = Some(&self.first);
        while let Some(node) = next {
            visit(&node.value, node.generation == own);
            next = node.next.get();
        }
    }
}
