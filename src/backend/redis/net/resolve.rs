//! Name resolution that a deadline can end. getaddrinfo(3) cannot be interrupted, so it runs on a thread of the
//! library's own, of which there are few; a caller whose deadline passes leaves its question behind.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::panic;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use once_cell::race::OnceBox;

use crate::deadline::Deadline;
use crate::error::{again, is_scarcity};
use crate::fork::PerProcess;
use crate::{reserve, sys, threads};

/// Resolvers that hang (a dead name server) hold up at most so many threads. A name is asked for only once at a time.
const MOST_THREADS: usize = 8;

static RESOLVER: OnceBox<PerProcess<Resolver>> = OnceBox::new();

/// More than it takes to look up a name.
const LOOK_UP: usize = 128 << 10;

/// What came of a question.
type Found = io::Result<Vec<SocketAddr>>;

/// In a child that was made past pthread_atfork(3), the C library's allocator may be held for ever by a thread that is
/// not there. So a thread that resolves neither allocates nor frees while it has `work`, which callers wait for without
/// a deadline.
#[derive(Default)]
struct Resolver {
    work: Mutex<Work>,
    /// A question was answered, or dropped.
    answered: Condvar,
}

#[derive(Default)]
struct Work {
    questions: VecDeque<Question>,
    threads: usize,
}

struct Question {
    name: Arc<(String, u16)>,
    is_asked: bool,
    /// Nobody waits any longer than this.
    until: Instant,
    /// Shared by all who asked the same. Where it is not set and the question is gone, that
    /// was dropped.
    found: Arc<OnceLock<Found>>,
}

/// What a caller waits for.
struct Asked {
    found: Arc<OnceLock<Found>>,
    /// Another had asked already.
    is_anothers: bool,
}

impl Resolver {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the answer will be.
    fn ask(&'static self, host: &str, port: u16, until: Instant) -> io::Result<Asked> {
        let (name, found) = (Arc::new((host.to_owned(), port)), Arc::default());
        let new = Question { name, is_asked: false, until, found: Arc::clone(&found) };
        let mut work = self.work();
        let is_it = |question: &&mut Question| question.name == new.name;
        if let Some(question) = work.questions.iter_mut().find(is_it) {
            question.until = question.until.max(until);
            return Ok(Asked { found: Arc::clone(&question.found), is_anothers: true });
        }
        if reserve::try_reserve(&mut work.questions, 1, "memory to resolve a name").is_err() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        work.questions.push_back(new);
        if work.threads < MOST_THREADS {
            work.threads += 1;
            drop(work);
            if let Err(error) = threads::spawn(c"cachetory-dns", || self.answer_all()) {
                let mut work = self.work();
                work.threads -= 1;
                if work.threads == 0 {
                    work.questions.clear();
                    self.answered.notify_all();
                    let what = format!("a thread to resolve names: {error}");
                    return Err(io::Error::new(io::ErrorKind::OutOfMemory, what));
                }
            }
        }
        Ok(Asked { found, is_anothers: false })
    }

    /// Waits for the answer; `None`: the question was dropped, or the deadline has passed.
    fn wait<'a>(&self, found: &'a Arc<OnceLock<Found>>, deadline: &Deadline) -> Option<&'a Found> {
        let mut work = self.work();
        loop {
            if let Some(found) = found.get() {
                return Some(found);
            }
            let is_asked = |question: &Question| Arc::ptr_eq(&question.found, found);
            let left = deadline.remaining();
            if left.is_zero() || !work.questions.iter().any(is_asked) {
                return None;
            }
            let woken = self.answered.wait_timeout(work, left);
            work = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A resolver thread's life: it ends when there is nothing to ask.
    fn answer_all(&self) {
        while let Some(name) = self.next() {
            let found = panic::catch_unwind(|| look_up(&name));
            let found = found.unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")));
            let mut work = self.work();
            let at = work.questions.iter().position(|question| question.name == name);
            let question = at.and_then(|at| work.questions.remove(at));
            if let Some(question) = &question {
                let _ = question.found.set(found);
            }
            drop(work);
            self.answered.notify_all();
        }
    }

    /// The next question to ask, of those that somebody still waits for.
    fn next(&self) -> Option<Arc<(String, u16)>> {
        let now = Instant::now();
        let mut work = self.work();
        let is_late = |question: &Question| !question.is_asked && question.until <= now;
        while let Some(at) = work.questions.iter().position(is_late) {
            let late = work.questions.remove(at);
            drop(work);
            drop(late);
            work = self.work();
        }
        match work.questions.iter_mut().find(|question| !question.is_asked) {
            Some(question) => {
                question.is_asked = true;
                Some(Arc::clone(&question.name))
            }
            None => {
                work.threads -= 1;
                None
            }
        }
    }
}

/// Without memory the C library may die in the middle of it, or say that it does not know the name.
fn look_up((host, port): &(String, u16)) -> Found {
    let scarce = || io::Error::from(io::ErrorKind::OutOfMemory);
    reserve::expect(LOOK_UP).map_err(|_| scarce())?;
    let (found, is_short) = sys::was_short_of_memory(|| {
        (host.as_str(), *port).to_socket_addrs().map(Iterator::collect)
    });
    found.map_err(|error| if is_short { scarce() } else { error })
}

/// The addresses of a host, in the order to try them. `TimedOut`: the deadline passed.
pub fn resolve(host: &str, port: u16, deadline: &Deadline) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = literal(host, port) {
        return Ok(vec![address]);
    }
    ask(host, port, deadline)
}

/// Apart: an address that is spelt out needs none of it.
#[inline(never)]
fn ask(host: &str, port: u16, deadline: &Deadline) -> io::Result<Vec<SocketAddr>> {
    let resolver = RESOLVER
        .get_or_init(|| Box::new(PerProcess::new(Resolver::default())))
        .get_or_make(|_| Resolver::default());
    loop {
        let Asked { found, is_anothers } = resolver.ask(host, port, deadline.instant())?;
        return match resolver.wait(&found, deadline) {
            Some(Ok(found)) => Ok(found.clone()),
            // It was asked before this call, when there was no memory.
            Some(Err(error)) if is_anothers && is_scarcity(error) => continue,
            Some(Err(error)) => Err(again(error)),
            None if !deadline.has_passed() => {
                Err(io::Error::new(io::ErrorKind::OutOfMemory, "a thread to resolve names"))
            }
            None => Err(io::ErrorKind::TimedOut.into()),
        };
    }
}

/// An address that needs no resolver; of an IPv6 zone only the numeric form.
fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let (ip, zone) = host.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    Some(SocketAddrV6::new(ip, port, 0, zone.parse().ok()?).into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn literals_need_no_resolver() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(literal("127.0.0.1", 1), Some(address("127.0.0.1:1")));
        assert_eq!(literal("::1", 2), Some(address("[::1]:2")));
        let zoned = SocketAddrV6::new("fe80::1".parse().unwrap(), 3, 0, 5);
        assert_eq!(literal("fe80::1%5", 3), Some(zoned.into()));
        assert_eq!(literal("localhost", 4), None);
    }

    #[test]
    fn names_are_resolved_or_refused() {
        let deadline = Deadline::after(Duration::from_secs(30));
        let local = resolve("localhost", 5, &deadline).unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 5));
        assert!(!local.is_empty());
        assert!(resolve("nowhere.invalid", 5, &deadline).is_err());
        let passed = Deadline::after(Duration::ZERO);
        let late = resolve("localhost", 5, &passed).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
