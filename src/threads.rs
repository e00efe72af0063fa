//! Threads of the library's own: named, and with all signals blocked, which are the host's business. And a number for
//! every thread that calls.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use once_cell::race::OnceBox;

use crate::fork::PerProcess;
use crate::reserve;
use crate::sys::{self, ThreadBody};

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
    static IS_OWN: Cell<bool> = const { Cell::new(false) };
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
pub fn spawn(name: &'static CStr, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let body = move || {
        IS_OWN.set(true);
        body();
    };
    // A thread inherits the mask of the one that starts it.
    sys::with_signals_blocked(|| sys::start_thread(name, Box::new(body)))
}

/// Whether this is a thread of the library's own.
pub fn is_own() -> bool {
    IS_OWN.get()
}

/// A few threads for what blocks, which start when there is something to do and end when there is not. For a `static`:
/// each process has its own.
pub struct Workers {
    name: &'static CStr,
    most: usize,
    /// Starts a thread: [`spawn`], but in tests.
    start: Start,
    work: OnceBox<PerProcess<Mutex<Work>>>,
}

#[derive(Default)]
struct Work {
    tasks: VecDeque<Task>,
    threads: usize,
}

type Task = ThreadBody;
type Start = fn(&'static CStr, Task) -> io::Result<()>;

impl Workers {
    /// No more than `most` threads; what comes beyond that waits.
    pub const fn new(name: &'static CStr, most: usize) -> Self {
        Self::started_by(name, most, spawn)
    }

    const fn started_by(name: &'static CStr, most: usize, start: Start) -> Self {
        Self { name, most, start, work: OnceBox::new() }
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
        if reserve::try_reserve(&mut work.tasks, 1, "memory for a task").is_err() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        work.tasks.push_back(Box::new(task));
        if work.threads == self.most {
            return Ok(());
        }
        work.threads += 1;
        drop(work);
        let body = Box::new(|| self.work_off());
        let Err(error) = (self.start)(self.name, body) else { return Ok(()) };
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

/// From so many bytes on it takes the system milliseconds to take memory back.
const LARGE: usize = 16 << 20;

/// Where large memory is let go of.
static RELEASERS: Workers = Workers::new(c"cachetory-free", 1);

/// Drops something that holds so many bytes: where that is many, on a thread that nobody waits for.
#[inline]
pub fn release<T: Send + 'static>(held: T, bytes: usize) {
    if bytes >= LARGE {
        release_elsewhere(held);
    }
}

#[cold]
#[inline(never)]
fn release_elsewhere<T: Send + 'static>(held: T) {
    // Where no thread can be had it is dropped here.
    let _ = RELEASERS.run(move || drop(held));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn what_holds_much_memory_is_dropped_on_another_thread() {
        struct Tells(mpsc::Sender<thread::ThreadId>);
        impl Drop for Tells {
            fn drop(&mut self) {
                self.0.send(thread::current().id()).unwrap();
            }
        }
        let (told, dropped) = mpsc::channel();
        release(Tells(told.clone()), LARGE - 1);
        assert_eq!(dropped.recv(), Ok(thread::current().id()));
        release(Tells(told), LARGE);
        assert_ne!(dropped.recv().unwrap(), thread::current().id());
    }

    #[test]
    fn a_task_is_dropped_where_no_thread_can_be_had_for_it() {
        fn none(_: &'static CStr, _: Task) -> io::Result<()> {
            Err(io::ErrorKind::OutOfMemory.into())
        }
        static WORKERS: Workers = Workers::started_by(c"cachetory-test", 2, none);
        let (held, dropped) = mpsc::channel::<()>();
        let refused = WORKERS.run(move || held.send(()).unwrap());
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected));
        let work = WORKERS.work();
        assert_eq!((work.threads, work.tasks.len()), (0, 0));
    }

    #[test]
    fn a_task_waits_for_the_thread_that_there_is_where_no_other_can_be_had() {
        fn one(name: &'static CStr, body: Task) -> io::Result<()> {
            static STARTED: AtomicUsize = AtomicUsize::new(0);
            match STARTED.fetch_add(1, Ordering::Relaxed) {
                0 => spawn(name, body),
                _ => Err(io::ErrorKind::OutOfMemory.into()),
            }
        }
        static WORKERS: Workers = Workers::started_by(c"cachetory-test", 2, one);
        let (go_on, goes_on) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        WORKERS.run(move || goes_on.recv().unwrap()).unwrap();
        WORKERS.run(move || done.send(()).unwrap()).unwrap();
        assert_eq!(WORKERS.work().threads, 1);
        assert_eq!(is_done.try_recv(), Err(mpsc::TryRecvError::Empty));
        go_on.send(()).unwrap();
        is_done.recv().unwrap();
    }

    #[test]
    fn a_panic_ends_neither_the_thread_nor_what_waits_for_it() {
        static WORKERS: Workers = Workers::new(c"cachetory-test", 1);
        let (go_on, goes_on) = mpsc::channel::<()>();
        let (done, is_done) = mpsc::channel();
        let also_done = done.clone();
        WORKERS
            .run(move || {
                also_done.send(thread::current().id()).unwrap();
                goes_on.recv().unwrap();
                panic!("a task that panics");
            })
            .unwrap();
        WORKERS.run(move || done.send(thread::current().id()).unwrap()).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(is_done.recv().unwrap(), is_done.recv().unwrap(), "the thread goes on");
    }

    #[test]
    fn every_task_is_done_also_beside_one_that_panics() {
        static WORKERS: Workers = Workers::new(c"cachetory-test", 2);
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
