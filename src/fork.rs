//! Noticing that this is a child process. After `fork()` only the calling thread lives on: locks may be held by threads
//! that are gone and sockets are shared with the parent, so the child uses nothing it inherited and starts afresh.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use once_cell::race::OnceBox;

static GENERATION: AtomicU64 = AtomicU64::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);

extern "C" fn count_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Has forks counted from now on. To be called before the first [`PerProcess`] is made.
pub fn watch() {
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler is a plain function that lives as long as the library, which is never unloaded; it
        // only increments an atomic, which is allowed between fork and exec.
        unsafe { libc::pthread_atfork(None, None, Some(count_child)) };
    }
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

    /// This process's own `T`, made by `make` when it is the first to ask.
    pub fn get_or_make(&self, make: impl Fn() -> T) -> &T {
        let wanted = generation();
        let mut node = &self.first;
        while node.generation != wanted {
            node = node.next.get_or_init(|| {
                Box::new(Node { generation: wanted, value: make(), next: OnceBox::new() })
            });
        }
        &node.value
    }

    /// This process's own `T`, if it has been made.
    pub fn get(&self) -> Option<&T> {
        let wanted = generation();
        let mut node = &self.first;
        while node.generation != wanted {
            node = node.next.get()?;
        }
        Some(&node.value)
    }
}
