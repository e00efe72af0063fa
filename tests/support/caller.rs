//! Whether a thread that makes a call waits in it, as the kernel sees it.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use super::poll;

/// A thread that is about to make a call.
#[derive(Default)]
pub struct Caller {
    id: AtomicU64,
    /// How often it had gone to sleep before.
    slept: AtomicU64,
}

impl Caller {
    /// Called by the thread itself.
    pub fn is_about_to_call(&self) {
        let id = rustix::thread::gettid().as_raw_nonzero().get() as u64;
        self.slept.store(times_asleep(id), Ordering::SeqCst);
        self.id.store(id, Ordering::SeqCst);
    }

    /// Until its call is queued for a link that others use: then it sleeps, again and again if it looks whether there
    /// is another link, or on and on. Before that it may sleep for a lock, but neither so often nor for so long.
    #[track_caller]
    pub fn wait_until_queued(&self) {
        const OFTEN: u64 = 5;
        const LONG: usize = 200;
        let (mut last, mut looks) = (0, 0);
        poll("the call is queued", || {
            let id = self.id.load(Ordering::SeqCst);
            let slept = times_asleep(id).saturating_sub(self.slept.load(Ordering::SeqCst));
            looks = if slept == last && is_asleep(id) { looks + 1 } else { 0 };
            last = slept;
            (id != 0 && (slept >= OFTEN || looks >= LONG)).then_some(())
        });
    }
}

fn status(thread: u64, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().to_owned())
}

fn times_asleep(thread: u64) -> u64 {
    let count = status(thread, "voluntary_ctxt_switches:");
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn is_asleep(thread: u64) -> bool {
    status(thread, "State:").is_some_and(|state| state.starts_with('S'))
}
