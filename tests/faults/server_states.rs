//! Answers that speak of the server, and not of the call: it takes no writes, loads its data, has forgotten a login.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::support::calls::*;
use super::support::capi::*;
use super::support::poll;
use super::support::queue::Queue;
use super::support::scripted::{Command, Scripted, echo, name};

/// A busy machine would make another connection to a server that seems slow.
const OPTIONS: &str = "socket_timeout=60&max_connections=1";

fn is_write(command: &Command) -> bool {
    !["PING", "GET", "MGET", "MULTI", "EXEC"].contains(&name(command).as_str())
}

/// Says this to writes over its first connections, once it is told to, and is as it should be over later ones.
struct Turning {
    server: Scripted,
    has_turned: Arc<AtomicBool>,
    /// The first connection that leads elsewhere.
    turn: Arc<AtomicUsize>,
}

impl Turning {
    fn new(says: &'static str) -> Self {
        let has_turned = Arc::new(AtomicBool::new(false));
        let turn = Arc::new(AtomicUsize::new(usize::MAX));
        let (turned, first_good) = (Arc::clone(&has_turned), Arc::clone(&turn));
        let server = Scripted::tcp(move |peer| {
            let number = peer.number;
            let mut was_refused = false;
            peer.serve(|command| {
                let is_old = number < first_good.load(Ordering::SeqCst);
                if !(is_old && turned.load(Ordering::SeqCst)) {
                    return echo(command);
                }
                match name(command).as_str() {
                    "EXEC" if was_refused => b"-EXECABORT no\r\n".to_vec(),
                    _ if is_write(command) => {
                        was_refused = true;
                        format!("-{says}\r\n").into_bytes()
                    }
                    _ => echo(command),
                }
            });
        });
        Self { server, has_turned, turn }
    }

    /// From here on what is connected now is what the name led to before.
    fn turn(&self) {
        self.turn.store(self.server.connections(), Ordering::SeqCst);
        self.has_turned.store(true, Ordering::SeqCst);
    }
}

const READONLY: &str = "READONLY You can't write against a read only replica.";

#[test]
fn a_write_that_a_replica_refuses_goes_once_more_over_a_new_connection() {
    for_each_face(|face| {
        for (what, operation) in WRITES {
            println!("{what}");
            let turning = Turning::new(READONLY);
            let cache = Cache::must_open(&turning.server.url(OPTIONS)).with(face);
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
            turning.turn();
            let before = turning.server.connections();
            operation(&cache).unwrap();
            assert_eq!(turning.server.connections(), before + 1);
        }
    });
}

#[test]
fn many_writes_that_are_refused_together_share_a_new_connection() {
    const CALLERS: usize = 16;
    for_each_face(|face| {
        let turning = Turning::new(READONLY);
        let url = turning.server.url("socket_timeout=60&max_connections=4");
        let cache = Cache::must_open(&url).with(face);
        let write = |key: usize| cache.set(format!("{key}"), large());
        poll("as many connections as may be", || {
            thread::scope(|scope| {
                (0..CALLERS).for_each(|key| _ = scope.spawn(move || write(key).unwrap()));
            });
            (turning.server.connections() == 4).then_some(())
        });
        let before = turning.server.connections();
        turning.turn();
        let start = Instant::now();
        thread::scope(|scope| {
            (0..CALLERS).for_each(|key| _ = scope.spawn(move || write(key).unwrap()));
        });
        let dialled = turning.server.connections() - before;
        if start.elapsed().as_secs() == 0 {
            assert_eq!(dialled, 1, "one a second is dialled");
        }
    });
}

#[test]
fn a_server_that_takes_no_writes_at_all_is_dialled_anew_once_a_second() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| {
            peer.serve(|command| match is_write(command) {
                true => format!("-{READONLY}\r\n").into_bytes(),
                false => echo(command),
            });
        });
        let cache = Cache::must_open(&server.url(OPTIONS)).with(face);
        let start = Instant::now();
        for _ in 0..30 {
            assert_eq!(failed(cache.set("k", "v"), CACHETORY_ERR_SERVER, RETRYABLE), READONLY);
        }
        let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
        assert!(server.connections() <= 2 + seconds, "{} in {seconds} s", server.connections());
    });
}

#[test]
fn a_submitted_write_that_is_refused_twice_is_answered_once() {
    let server = Scripted::tcp(|peer| {
        peer.serve(|command| match is_write(command) {
            true => format!("-{READONLY}\r\n").into_bytes(),
            false => echo(command),
        });
    });
    let (cache, queue) = (Cache::must_open(&server.url(OPTIONS)), Queue::open());
    for tag in 0..100 {
        match tag % 2 {
            0 => cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0),
            _ => cache.to(&queue).get(tag, "k"),
        }
        .unwrap();
    }
    for (tag, completion) in queue.take(100) {
        match tag % 2 {
            0 => _ = failed(completion.outcome(), CACHETORY_ERR_SERVER, RETRYABLE),
            _ => assert_eq!(completion.outcome(), Ok(CACHETORY_OK)),
        }
    }
    assert!(server.count("SET") <= 100, "each goes twice at most");
    queue.assert_empty();
}

#[test]
fn a_submitted_transaction_that_is_refused_twice_takes_no_other_along() {
    const TOGETHER: usize = 4;
    let refused = AtomicUsize::new(0);
    let server = Scripted::tcp(move |peer| {
        peer.serve(|command| match name(command).as_str() {
            "EXEC" => {
                refused.fetch_add(1, Ordering::SeqCst);
                poll("all are under way", || {
                    (refused.load(Ordering::SeqCst) >= TOGETHER).then_some(())
                });
                b"-EXECABORT no\r\n".to_vec()
            }
            _ if is_write(command) => format!("-{READONLY}\r\n").into_bytes(),
            _ => echo(command),
        });
    });
    let url = server.url(&format!("socket_timeout=60&max_connections={TOGETHER}"));
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    for tag in 0..TOGETHER as u64 {
        cache.to(&queue).mset(tag, &[("k", "v")], 60_000).unwrap();
    }
    for (_, completion) in queue.take(TOGETHER) {
        assert_eq!(failed(completion.outcome(), CACHETORY_ERR_SERVER, RETRYABLE), READONLY);
    }
    queue.assert_empty();
}

#[test]
fn what_a_server_says_of_itself_has_the_next_call_dial_anew() {
    for (says, status, flags) in [
        ("LOADING Redis is loading the dataset in memory", CACHETORY_ERR_SERVER, RETRYABLE),
        ("MASTERDOWN Link with MASTER is down", CACHETORY_ERR_SERVER, RETRYABLE),
        ("NOAUTH Authentication required.", CACHETORY_ERR_AUTH, 0),
    ] {
        for_each_face(|face| {
            let turning = Turning::new(says);
            let url = turning.server.url(OPTIONS).replace("redis://", "redis://:secret@");
            let cache = Cache::must_open(&url).with(face);
            assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
            turning.turn();
            let before = turning.server.connections();
            failed(cache.set("k", "v"), status, flags);
            assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
            assert_eq!(turning.server.connections(), before + 1);
        });
    }
}

#[test]
fn to_who_has_not_logged_in_noauth_says_nothing_new() {
    let server = Scripted::tcp(|peer| peer.serve(|_| b"-NOAUTH no\r\n".to_vec()));
    let cache = Cache::must_open(&server.url(OPTIONS));
    for _ in 0..5 {
        failed(cache.set("k", "v"), CACHETORY_ERR_AUTH, 0);
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_refusal_of_the_connection_is_the_first_thing_that_is_said_on_it() {
    // A proxy may say so of one command, and carry out those behind it.
    let server = Scripted::tcp(|peer| {
        peer.serve(|command| match command.get(1).is_some_and(|key| key == b"unlucky") {
            true => b"-ERR max number of clients reached\r\n".to_vec(),
            false => echo(command),
        });
    });
    for_each_face(|face| {
        let cache = Cache::must_open(&server.url(OPTIONS)).with(face);
        assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
        failed(cache.set("unlucky", "v"), CACHETORY_ERR_SERVER, 0);
        failed(cache.set("unlucky", large()), CACHETORY_ERR_SERVER, 0);
        assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
    });
    let connections = server.connections();
    let (cache, queue) = (Cache::must_open(&server.url(OPTIONS)), Queue::open());
    cache.ping().unwrap();
    for tag in 0..100 {
        let key = if tag == 10 { "unlucky" } else { "k" };
        cache.to(&queue).set(tag, key, "v", NO_EXPIRY, 0).unwrap();
    }
    for (tag, completion) in queue.take(100) {
        match tag {
            10 => _ = failed(completion.outcome(), CACHETORY_ERR_SERVER, 0),
            _ => assert_eq!(completion.outcome(), Ok(CACHETORY_OK)),
        }
    }
    assert_eq!(server.connections(), connections + 1);
}

#[test]
fn who_may_not_connect_is_told_so_for_each_call_and_nothing_was_applied() {
    const SAYS: &str = "DENIED Redis is running in protected mode";
    let server = Scripted::tcp(|peer| {
        peer.take(1);
        peer.send(format!("-{SAYS}\r\n"));
    });
    let (cache, queue) = (Cache::must_open(&server.url(OPTIONS)), Queue::open());
    for tag in 0..20 {
        cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0).unwrap();
    }
    for (_, completion) in queue.take(20) {
        assert_eq!(failed(completion.outcome(), CACHETORY_ERR_SERVER, 0), SAYS);
    }
}

#[test]
fn a_first_answer_that_is_one_of_many_turns_nobody_away() {
    for says in ["ERR max number of clients reached", "DENIED by the proxy"] {
        let server = Scripted::tcp(move |peer| {
            let mut is_first = true;
            peer.serve(|command| match std::mem::take(&mut is_first) {
                true => format!("-{says}\r\n").into_bytes(),
                false => echo(command),
            });
        });
        let (cache, queue) = (Cache::must_open(&server.url(OPTIONS)), Queue::open());
        for tag in 0..20 {
            cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0).unwrap();
        }
        let completions = queue.take(20);
        let applied = completions.iter().filter(|(_, it)| it.outcome().is_ok()).count();
        assert_eq!(applied, server.count("SET") - server.connections());
        // MULTI is refused, and what follows it is not.
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| match name(command).as_str() {
                "MULTI" => format!("-{says}\r\n").into_bytes(),
                "EXEC" => b"-ERR EXEC without MULTI\r\n".to_vec(),
                _ => echo(command),
            });
        });
        for_each_face(|face| {
            let cache = Cache::must_open(&server.url(OPTIONS)).with(face);
            let failure = cache.mset(&[("a", "b"), ("c", "d")], 60_000).unwrap_err();
            assert!(failure.is_maybe_applied(), "{failure:?}");
        });
    }
}

#[test]
fn who_is_sent_elsewhere_by_a_cluster_is_told_of_its_url() {
    for says in ["MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381"] {
        let server = Scripted::tcp(move |peer| peer.serve(|_| format!("-{says}\r\n").into()));
        for_each_face(|face| {
            let cache = Cache::must_open(&server.url(OPTIONS)).with(face);
            for failed_as in [cache.get("k").map(drop), cache.set("k", "v").map(drop)] {
                let text = failed(failed_as, CACHETORY_ERR_SERVER, 0);
                assert!(text.starts_with(says) && text.contains("redis+cluster://"), "{text}");
            }
        });
    }
}
