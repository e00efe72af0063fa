//! The asynchronous calls in trouble, through the C symbols: against a scripted server, a breaking network, and real servers.

#[path = "../support/mod.rs"]
mod support;

mod beside_synchronous_calls;
mod broken_batches;
mod caller_driven;
mod cancel;
mod closing;
mod dead;
mod deadlines;
mod idle;
mod large_values;
mod prefix_clears;
mod processes;
mod tens_of_thousands;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::capi::*;
use support::queue::*;
use support::scripted::{Command, Scripted, array, bulk, name};

const OK: Outcome = Ok(CACHETORY_OK);

/// A connection counts as idle, and is looked at before a write goes out on it, when it was not used for a while.
const A_WHILE: Duration = Duration::from_millis(20);

/// Asserts that a call failed in exactly this way; the answer is its message.
#[track_caller]
fn failed(completion: &Completion, status: i32, flags: u32) -> String {
    let Failure { status: found, flags: found_flags, message } = completion.failure();
    let tag = completion.tag();
    assert_eq!((found, found_flags), (status, flags), "call {tag}: {message}");
    message
}

#[track_caller]
fn is_value(mut completion: Completion, value: impl AsRef<[u8]>) {
    assert_eq!(completion.outcome(), OK, "call {}", completion.tag());
    assert_eq!(completion.take_value().unwrap().bytes(), value.as_ref());
}

/// What a server answers whose every key's value is its name.
fn echo(command: &Command) -> Vec<u8> {
    match name(command).as_str() {
        "PING" => b"+PONG\r\n".to_vec(),
        "GET" => bulk(&command[1]),
        "MGET" => array(&command[1..].iter().map(bulk).collect::<Vec<_>>()),
        "SET" | "MSET" | "MULTI" | "DISCARD" | "FLUSHDB" => b"+OK\r\n".to_vec(),
        // All transactions here are of two.
        "EXEC" => b"*2\r\n+OK\r\n+OK\r\n".to_vec(),
        _ => b":1\r\n".to_vec(),
    }
}

/// A gate in a server: what is asked about the key `held:N` is not answered before N gates are open.
#[derive(Clone, Default)]
struct Gates(Arc<AtomicUsize>);

impl Gates {
    fn open(&self, count: usize) {
        self.0.store(count, Ordering::SeqCst);
    }

    fn is_open_for(&self, command: &Command) -> bool {
        let key = command.get(1).map(|key| String::from_utf8_lossy(key));
        let number = key.and_then(|key| key.strip_prefix("held:")?.parse::<usize>().ok());
        number.is_none_or(|number| number <= self.0.load(Ordering::SeqCst))
    }

    /// A server with these gates.
    fn server(&self) -> Scripted {
        let gates = self.clone();
        Scripted::tcp(move |peer| {
            while let Some(command) = peer.request() {
                peer.hang_until(|| gates.is_open_for(&command));
                if !peer.send(echo(&command)) {
                    return;
                }
            }
        })
    }
}

/// Waits until a request about this key was read.
#[track_caller]
fn wait_for_key(server: &Scripted, key: &str) {
    let has_key = |request: &support::scripted::Request| {
        request.command.get(1).is_some_and(|found| found == key.as_bytes())
    };
    support::poll(key, || server.requests().iter().any(has_key).then_some(()));
}

/// The submission of an operation with arguments that any server can answer.
type Submission = (&'static str, fn(Submit, u64) -> Outcome);

/// Above what is carried out together with others' calls.
const LARGE: usize = 100_000;

fn large() -> Vec<u8> {
    vec![b'x'; LARGE]
}

const READS: [Submission; 4] = [
    ("ping", |to, tag| to.ping(tag)),
    ("get", |to, tag| to.get(tag, "k")),
    ("mget", |to, tag| to.mget(tag, &["k", "l"])),
    ("large get", |to, tag| to.get(tag, large())),
];

const WRITES: [Submission; 13] = [
    ("set", |to, tag| to.set(tag, "k", "v", NO_EXPIRY, 0)),
    ("set with a ttl", |to, tag| to.set(tag, "k", "v", 60_000, 0)),
    ("set if not exists", |to, tag| to.set(tag, "k", "v", NO_EXPIRY, IF_NOT_EXISTS)),
    ("mset", |to, tag| to.mset(tag, &[("k", "v"), ("l", "w")], NO_EXPIRY)),
    ("mset with a ttl", |to, tag| to.mset(tag, &[("k", "v"), ("l", "w")], 60_000)),
    ("expire_in", |to, tag| to.expire_in(tag, "k", 60_000)),
    ("expire_in, never", |to, tag| to.expire_in(tag, "k", NO_EXPIRY)),
    ("expire_at", |to, tag| to.expire_at(tag, "k", 4_000_000_000_000)),
    ("delete", |to, tag| to.delete(tag, "k")),
    ("mdelete", |to, tag| to.mdelete(tag, &["k", "l"])),
    ("clear", |to, tag| to.clear(tag)),
    ("large set", |to, tag| to.set(tag, "k", large(), NO_EXPIRY, 0)),
    ("large mset", |to, tag| to.mset(tag, &[("k", large()), ("l", large())], NO_EXPIRY)),
];

/// Submits all of them, with their numbers as tags, and takes their completions.
#[track_caller]
fn submit_all(cache: &Cache, queue: &Queue, submissions: &[Submission]) -> Vec<Completion> {
    for (tag, (what, submit)) in submissions.iter().enumerate() {
        assert_eq!(submit(cache.to(queue), tag as u64), OK, "{what}");
    }
    let mut taken = queue.take(submissions.len());
    let completions = (0..submissions.len() as u64).map(|tag| taken.remove(&tag).unwrap());
    completions.collect()
}

/// That each of them, submitted together, fails in this way.
#[track_caller]
fn all_fail(cache: &Cache, submissions: &[Submission], status: i32, flags: u32) -> Vec<String> {
    let queue = Queue::open();
    let completions = submit_all(cache, &queue, submissions);
    let pairs = submissions.iter().zip(completions);
    pairs
        .map(|((what, _), completion)| {
            println!("{what}");
            failed(&completion, status, flags)
        })
        .collect()
}

/// That each of them, submitted together, is answered.
#[track_caller]
fn all_succeed(cache: &Cache) {
    let queue = Queue::open();
    for submissions in [&READS[..], &WRITES[..]] {
        for ((what, _), completion) in
            submissions.iter().zip(submit_all(cache, &queue, submissions))
        {
            assert!(completion.outcome().is_ok(), "{what}: {:?}", completion.outcome());
        }
    }
}
