//! Calls that are submitted together, of every kind: they share a link and a deadline, and each is answered, or fails,
//! by itself.

use super::support::capi::*;
use super::support::certs::certs;
use super::support::full_port::FullPort;
use super::support::gates::Gates;
use super::support::queue::*;
use super::support::scripted::{Scripted, echo, name};
use super::support::server::{Server, Setup, guarded, with_tls};
use super::support::{calls, pause, poll};
use super::{OK, failed, is_value};

/// The submission of an operation with arguments that any server can answer.
type Submission = (&'static str, fn(Submit, u64) -> Outcome);

const READS: [Submission; 4] = [
    ("ping", |to, tag| to.ping(tag)),
    ("get", |to, tag| to.get(tag, "k")),
    ("mget", |to, tag| to.mget(tag, &["k", "l"])),
    ("large get", |to, tag| to.get(tag, calls::large())),
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
    ("large set", |to, tag| to.set(tag, "k", calls::large(), NO_EXPIRY, 0)),
    ("large mset", |to, tag| {
        to.mset(tag, &[("k", calls::large()), ("l", calls::large())], NO_EXPIRY)
    }),
];

/// Submits all of them, with their numbers as tags, and takes their completions, which come in the same order here.
#[track_caller]
fn submit_all(cache: &Cache, queue: &Queue, submissions: &[Submission]) -> Vec<Completion> {
    for (tag, (what, submit)) in submissions.iter().enumerate() {
        assert_eq!(submit(cache.to(queue), tag as u64), OK, "{what}");
    }
    let mut taken = queue.take(submissions.len());
    let completions = (0..submissions.len() as u64).map(|tag| taken.remove(&tag).unwrap());
    completions.collect()
}

/// That each of them fails in this way.
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

/// That all reads and writes fail in this way.
#[track_caller]
fn everything_fails(cache: &Cache, status: i32, flags: u32) {
    all_fail(cache, &READS, status, flags);
    all_fail(cache, &WRITES, status, flags);
}

/// That each of them is answered.
#[track_caller]
fn everything_succeeds(cache: &Cache) {
    let queue = Queue::open();
    for submissions in [&READS[..], &WRITES[..]] {
        let completions = submit_all(cache, &queue, submissions);
        for ((what, _), completion) in submissions.iter().zip(completions) {
            assert!(completion.outcome().is_ok(), "{what}: {:?}", completion.outcome());
        }
    }
}

fn caches(server: &Server) -> [Cache; 3] {
    let ca = certs().ca.cert.display();
    [server.tcp_url(), server.unix_url(), format!("{}?ssl_ca_certs={ca}", server.tls_url())]
        .map(|url| Cache::must_open(&url))
}

#[test]
fn calls_fail_together_where_nobody_listens_and_succeed_when_somebody_does() {
    let server = Setup::redis().start();
    server.kill();
    for url in [server.tcp_url(), server.unix_url()] {
        let cache = Cache::must_open(&url);
        for _ in 0..3 {
            everything_fails(&cache, CACHETORY_ERR_CONNECT, RETRYABLE);
        }
        server.restart();
        everything_succeeds(&cache);
        server.kill();
    }
}

#[test]
fn thousands_of_calls_fail_together_where_nobody_listens() {
    let server = Setup::redis().start();
    server.kill();
    let (cache, queue) = (Cache::must_open(&server.tcp_url()), Queue::open());
    for tag in 0..5000 {
        assert_eq!(cache.to(&queue).set(tag, "k", "v", NO_EXPIRY, 0), OK);
    }
    for completion in queue.take(5000).values() {
        failed(completion, CACHETORY_ERR_CONNECT, RETRYABLE);
    }
    server.restart();
    assert_eq!(cache.to(&queue).get(1, "k"), OK);
    assert_eq!(queue.next().outcome(), Ok(CACHETORY_NOT_FOUND));
}

#[test]
fn calls_whose_host_ignores_them_meet_their_deadline_together() {
    let port = FullPort::new();
    let cache = Cache::must_open(&port.url("socket_timeout=0.3&fail_fast=false"));
    everything_fails(&cache, CACHETORY_ERR_TIMEOUT, RETRYABLE);
    let cache = Cache::must_open(
        &port.url("socket_connect_timeout=0.3&socket_timeout=600&fail_fast=false"),
    );
    everything_fails(&cache, CACHETORY_ERR_CONNECT, RETRYABLE);
}

#[test]
fn calls_whose_handshake_hangs_meet_their_deadline_together() {
    let server = Scripted::tcp(|peer| peer.hang());
    let cache = Cache::must_open(&server.url("db=1&socket_timeout=0.3&fail_fast=false"));
    everything_fails(&cache, CACHETORY_ERR_TIMEOUT, RETRYABLE);
}

#[test]
fn an_error_answer_to_each_of_many_calls_fails_each() {
    for (text, status, flags) in [
        ("LOADING Redis is loading the dataset in memory", CACHETORY_ERR_SERVER, RETRYABLE),
        ("WRONGTYPE Operation against a key", CACHETORY_ERR_SERVER, 0),
        ("NOPERM no permissions", CACHETORY_ERR_AUTH, 0),
    ] {
        let server = Scripted::tcp(move |peer| {
            peer.serve(|_| format!("-{text}\r\n").into_bytes());
        });
        let cache = Cache::must_open(&server.url("max_connections=1"));
        for message in all_fail(&cache, &READS, status, flags) {
            assert!(message.contains(text), "{message}");
        }
        let queue = Queue::open();
        for ((what, _), completion) in WRITES.iter().zip(submit_all(&cache, &queue, &WRITES)) {
            let mut failure = completion.failure();
            if *what == "mset with a ttl" {
                // MULTI was refused, and so was each SET behind it: whether that is MAYBE_APPLIED is left open.
                failure.flags &= !MAYBE_APPLIED;
            }
            assert_eq!((failure.status, failure.flags), (status, flags), "{what}: {failure:?}");
        }
    }
}

#[test]
fn refused_credentials_fail_all_that_is_queued() {
    let port = guarded().port();
    for query in ["", "protocol=3"] {
        let cache = Cache::must_open(&format!("redis://:wrong@127.0.0.1:{port}/?{query}"));
        everything_fails(&cache, CACHETORY_ERR_AUTH, 0);
    }
}

#[test]
fn a_refused_protocol_fails_all_that_is_queued() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.command() {
            peer.send(match name(&command).as_str() {
                "HELLO" => b"-NOPROTO unsupported protocol version\r\n".to_vec(),
                _ => echo(&command),
            });
        }
    });
    let cache = Cache::must_open(&server.url("protocol=3"));
    everything_fails(&cache, CACHETORY_ERR_UNSUPPORTED, 0);
}

#[test]
fn a_refused_certificate_fails_all_that_is_queued() {
    // Its authority is not one of the system's.
    let cache = Cache::must_open(&with_tls().tls_url());
    everything_fails(&cache, CACHETORY_ERR_TLS, 0);
}

#[test]
fn a_peer_that_speaks_something_else_fails_each_call_as_a_protocol_error() {
    let server = Scripted::tcp(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    for (submissions, flags) in [(&READS[..], 0), (&WRITES[..], MAYBE_APPLIED)] {
        for (what, submit) in submissions {
            assert_eq!(submit(cache.to(&queue), 1), OK, "{what}");
            failed(&queue.next(), CACHETORY_ERR_PROTOCOL, flags);
        }
    }
}

/// One connection is all that the server has room for, and another call holds it for a while.
#[test]
fn a_refused_second_connection_fails_none_of_many_calls() {
    for options in ["", "db=1"] {
        let gates = Gates::default();
        let gate = gates.clone();
        let server = Scripted::tcp(move |peer| {
            if peer.number > 0 {
                peer.send("-ERR max number of clients reached\r\n");
                return;
            }
            while let Some(command) = peer.request() {
                peer.hang_until(|| gate.is_open_for(&command));
                peer.send(echo(&command));
            }
        });
        let (cache, queue) = (Cache::must_open(&server.url(options)), Queue::open());
        assert_eq!(cache.to(&queue).get(1000, "held:1"), OK);
        server.wait_for("GET", 1);
        for (tag, (what, submit)) in READS.iter().chain(&WRITES).enumerate() {
            assert_eq!(submit(cache.to(&queue), tag as u64), OK, "{what}");
        }
        poll("a refusal", || (server.connections() > 1).then_some(()));
        gates.open(1);
        for completion in queue.take(READS.len() + WRITES.len() + 1).values() {
            assert_eq!(completion.outcome(), OK);
        }
    }
}

/// One answer of a batch is an error, and those around it are not.
#[test]
fn an_error_in_the_middle_of_a_batch_is_that_calls_alone() {
    let gates = Gates::default();
    let gate = gates.clone();
    let server = Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            peer.hang_until(|| gate.is_open_for(&command));
            let bad = command.get(1).is_some_and(|key| key.starts_with(b"bad"));
            peer.send(if bad { b"-OOM no\r\n".to_vec() } else { echo(&command) });
        }
    });
    let (cache, queue) = (Cache::must_open(&server.url("max_connections=1")), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.get(1000, "held:1"), OK);
    server.wait_for("GET", 1);
    for tag in 0..50 {
        let key = if tag % 3 == 0 { format!("bad{tag}") } else { format!("{tag}") };
        assert_eq!(to.get(tag, key), OK);
    }
    gates.open(1);
    for (tag, completion) in queue.take(51) {
        match tag {
            1000 => is_value(completion, "held:1"),
            tag if tag % 3 == 0 => drop(failed(&completion, CACHETORY_ERR_SERVER, RETRYABLE)),
            tag => is_value(completion, format!("{tag}")),
        }
    }
    assert_eq!(server.connections(), 1, "an error answer is no reason to hang up");
}

#[test]
fn idle_links_that_were_killed_fail_none_of_many_calls() {
    let server = Setup::redis().tls(&certs().server, None).start();
    for cache in caches(&server) {
        let queue = Queue::open();
        for _ in 0..10 {
            // Several links at once.
            everything_succeeds(&cache);
            let mut client = server.client(0);
            // A connection that nobody waited for may still arrive.
            poll("only one client is left", || {
                redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut client).unwrap();
                let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
                (list.lines().count() == 1).then_some(())
            });
            pause::let_links_go_idle();
            for completion in submit_all(&cache, &queue, &WRITES) {
                assert!(completion.outcome().is_ok(), "{:?}", completion.outcome());
            }
        }
    }
}

#[test]
fn a_server_that_was_restarted_fails_none_of_many_calls() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let caches = caches(&server);
    for _ in 0..2 {
        caches.iter().for_each(everything_succeeds);
        server.restart();
        caches.iter().for_each(everything_succeeds);
    }
}

#[test]
fn calls_that_are_not_answered_meet_their_deadline_together() {
    for server in [
        Scripted::tcp(|peer| while peer.request().is_some() {}),
        Scripted::unix(|peer| while peer.request().is_some() {}),
    ] {
        for options in ["", "&max_connections=64", "&spin_us=0", "&spin_us=1000000"] {
            let url = server.url(&format!("socket_timeout=0.3{options}"));
            let (cache, queue) = (Cache::must_open(&url), Queue::open());
            for (tag, (what, submit)) in READS.iter().chain(&WRITES).enumerate() {
                assert_eq!(submit(cache.to(&queue), tag as u64), OK, "{what}");
            }
            for completion in queue.appear(READS.len() + WRITES.len()) {
                let failure = completion.failure();
                assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
                assert!(failure.is_retryable());
                let may = completion.tag() >= READS.len() as u64;
                assert!(may || !failure.is_maybe_applied(), "{failure:?}");
            }
        }
    }
}
