//! Noticing that this is a child process. After `fork()` only the calling thread lives on: locks may be held by threads
//! that are gone and sockets are shared with the parent, so the child uses nothing it inherited and starts afresh.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use once_cell::race::OnceBox;

use crate::error::{Error, Result};

static GENERATION: AtomicU64 = AtomicU64::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);

extern "C" fn count_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Has forks counted from now on. To be called before the first [`PerProcess`] is made. Children that are made past
/// pthread_atfork(3), by `_Fork` or a bare clone(2), go unnoticed.
pub fn watch() -> Result<()> {
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler is a plain function that lives as long as the library, which is never unloaded; it
        // only increments an atomic, which is allowed between fork and exec.
        let refused = unsafe { libc::pthread_atfork(None, None, Some(count_child)) } != 0;
        if refused {
            REGISTERED.store(false, Ordering::Relaxed);
            return Err(Error::no_memory("memory to watch for forks"));
        }
    }
    Ok(())
}

/// How many forks lie between the process that loaded the library and this one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
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
