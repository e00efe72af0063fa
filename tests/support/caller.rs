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

    /// Until its call is queued for a link that others use: then it sleeps, and looks again and again whether there is
    /// another link. Before that it may sleep for a lock, but not so often.
    #[track_caller]
    pub fn wait_until_queued(&self) {
        const OFTEN: u64 = 5;
        poll("the call is queued", || {
            let id = self.id.load(Ordering::SeqCst);
            let slept = || times_asleep(id).saturating_sub(self.slept.load(Ordering::SeqCst));
            (id != 0 && slept() >= OFTEN).then_some(())
        });
    }
}

fn times_asleep(thread: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
