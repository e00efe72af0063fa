//! Threads of the library's own: named, and with all signals blocked, which are the host's business. And a number for
//! every thread that calls.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use once_cell::race::OnceBox;

use crate::fork::PerProcess;
use crate::sys;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// This thread's number. They are given out in turn, so that threads that are at work together have different
/// remainders.
pub fn number() -> usize {
    let number = NUMBER.get();
    if number == 0 { new_number() } else { number }
}

#[cold]
fn new_number() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    NUMBER.set(number);
    number
}

/// Starts a thread that all signals are blocked in.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // A thread inherits the mask of the one that starts it.
    let start = || std::thread::Builder::new().name(name.to_owned()).spawn(body);
    sys::with_signals_blocked(start).map(drop)
}

/// A few threads for what blocks, which start when there is something to do and end when there is not. For a `static`:
/// each process has its own.
pub struct Workers {
    name: &'static str,
    most: usize,
    work: OnceBox<PerProcess<Mutex<Work>>>,
}

#[derive(Default)]
struct Work {
    tasks: VecDeque<Task>,
    threads: usize,
}

type Task = Box<dyn FnOnce() + Send>;

impl Workers {
    /// No more than `most` threads; what comes beyond that waits.
    pub const fn new(name: &'static str, most: usize) -> Self {
        Self { name, most, work: OnceBox::new() }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work
            .get_or_init(|| Box::new(PerProcess::new(Mutex::default())))
            .get_or_make(|_| Mutex::default())
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one of the threads do it. An error: there is none, and none can be had, and the task is dropped.
    pub fn run(&'static self, task: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut work = self.work();
        work.tasks.push_back(Box::new(task));
        if work.threads == self.most {
            return Ok(());
        }
        work.threads += 1;
        drop(work);
        let Err(error) = spawn(self.name, || self.work_off()) else { return Ok(()) };
        let mut work = self.work();
        work.threads -= 1;
        let dropped =
            if work.threads == 0 { std::mem::take(&mut work.tasks) } else { return Ok(()) };
        drop(work);
        drop(dropped);
        Err(error)
    }

    fn work_off(&self) {
        loop {
            let mut work = self.work();
            let Some(task) = work.tasks.pop_front() else {
                work.threads -= 1;
                return;
            };
            drop(work);
            // A task that panics has dropped what it held, which is then dealt with as any other failure.
            let _ = panic::catch_unwind(AssertUnwindSafe(task));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_waits_is_done_in_the_end() {
        static WORKERS: Workers = Workers::new("cachetory-test", 2);
        let (done, all) = mpsc::channel();
        for number in 0..50 {
            let done = done.clone();
            WORKERS
                .run(move || {
                    assert!(number % 10 != 3, "one that panics takes nobody along");
                    done.send(number).unwrap();
                })
                .unwrap();
        }
        drop(done);
        let mut numbers: Vec<_> = all.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..50).filter(|number| number % 10 != 3).collect::<Vec<_>>());
        assert!(WORKERS.work().threads <= 2);
    }
}
