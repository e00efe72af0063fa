//! Servers that are not there, and servers that will not have us.

use super::support::capi::*;
use super::support::certs::certs;
use super::support::poll;
use super::support::queue::*;
use super::support::scripted::{Scripted, name};
use super::support::server::{Setup, guarded, with_tls};
use super::{OK, READS, WRITES, all_fail, all_succeed, echo, failed};

#[test]
fn nobody_listens_and_then_somebody_does() {
    let server = Setup::redis().start();
    server.kill();
    for url in [server.tcp_url(), server.unix_url()] {
        let cache = Cache::must_open(&url);
        for _ in 0..3 {
            all_fail(&cache, &READS, CACHETORY_ERR_CONNECT, RETRYABLE);
            all_fail(&cache, &WRITES, CACHETORY_ERR_CONNECT, RETRYABLE);
        }
        server.restart();
        all_succeed(&cache);
        server.kill();
    }
}

#[test]
fn many_calls_to_a_port_where_nobody_listens() {
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
fn a_name_that_nobody_knows() {
    let url = "redis://nonexistent.invalid/?socket_timeout=60&socket_connect_timeout=60";
    let cache = Cache::must_open(url);
    for submissions in [&READS[..], &WRITES[..]] {
        for message in all_fail(&cache, submissions, CACHETORY_ERR_CONNECT, RETRYABLE) {
            assert!(message.contains("nonexistent.invalid"), "{message}");
        }
    }
}

#[test]
fn no_room_for_another_client() {
    let server = Setup::redis().start();
    let mut client = server.client(0);
    let mut limit = |count: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxclients", count]).exec(&mut client).unwrap();
    };
    for url in [server.tcp_url(), server.unix_url(), format!("{}/3", server.tcp_url())] {
        limit("1");
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        for _ in 0..30 {
            for (_, submit) in READS.iter().chain(&WRITES) {
                assert_eq!(submit(to, 1), OK);
                let completion = queue.next();
                let failure = completion.failure();
                assert_eq!(failure.status, CACHETORY_ERR_CONNECT, "{failure:?}");
                assert_eq!(failure.flags, RETRYABLE, "{failure:?}");
            }
        }
        limit("100");
        all_succeed(&cache);
    }
}

#[test]
fn error_answers() {
    for (text, status, flags) in [
        ("LOADING Redis is loading the dataset in memory", CACHETORY_ERR_SERVER, RETRYABLE),
        ("READONLY You can't write against a read only replica.", CACHETORY_ERR_SERVER, RETRYABLE),
        ("OOM command not allowed", CACHETORY_ERR_SERVER, RETRYABLE),
        ("MASTERDOWN Link with MASTER is down", CACHETORY_ERR_SERVER, RETRYABLE),
        ("WRONGTYPE Operation against a key", CACHETORY_ERR_SERVER, 0),
        ("NOAUTH Authentication required.", CACHETORY_ERR_AUTH, 0),
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
        for ((what, submit), _) in WRITES.iter().zip(0..) {
            assert_eq!(submit(cache.to(&queue), 1), OK, "{what}");
            let completion = queue.next();
            let mut failure = completion.failure();
            if *what == "mset with a ttl" {
                // MULTI was refused, and so was each SET behind it: whether that is MAYBE_APPLIED is left open.
                failure.flags &= !MAYBE_APPLIED;
            }
            assert_eq!((failure.status, failure.flags), (status, flags), "{what}: {failure:?}");
        }
    }
}

/// One connection is all that the server has room for, and another call holds it for a while.
#[test]
fn no_room_for_a_second_connection() {
    for options in ["socket_timeout=60", "socket_timeout=60&db=1"] {
        let gates = super::Gates::default();
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
fn an_error_in_the_middle_of_a_batch() {
    let gates = super::Gates::default();
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
            1000 => super::is_value(completion, "held:1"),
            tag if tag % 3 == 0 => drop(failed(&completion, CACHETORY_ERR_SERVER, RETRYABLE)),
            tag => super::is_value(completion, format!("{tag}")),
        }
    }
    assert_eq!(server.connections(), 1, "an error answer is no reason to hang up");
}

#[test]
fn a_loading_server_that_is_ready_later() {
    let loaded = super::Gates::default();
    let gate = loaded.clone();
    let server = Scripted::tcp(move |peer| {
        let answer = |command: &super::Command| match gate
            .is_open_for(&vec![b"".to_vec(), b"held:1".to_vec()])
        {
            true => echo(command),
            false => b"-LOADING Redis is loading the dataset in memory\r\n".to_vec(),
        };
        peer.serve(answer);
    });
    let cache = Cache::must_open(&server.url(""));
    all_fail(&cache, &READS, CACHETORY_ERR_SERVER, RETRYABLE);
    loaded.open(1);
    all_succeed(&cache);
}

#[test]
fn credentials_that_are_refused() {
    let server = guarded();
    let port = server.port();
    for user in [":wrong@", "nobody:nothing@"] {
        for query in ["", "protocol=3"] {
            let cache = Cache::must_open(&format!("redis://{user}127.0.0.1:{port}/?{query}"));
            for submissions in [&READS[..], &WRITES[..]] {
                for message in all_fail(&cache, submissions, CACHETORY_ERR_AUTH, 0) {
                    assert!(!message.contains("wrong@") && !message.contains("nothing"));
                }
            }
        }
    }
}

#[test]
fn a_server_without_resp3() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.command() {
            peer.send(match name(&command).as_str() {
                "HELLO" => b"-NOPROTO unsupported protocol version\r\n".to_vec(),
                _ => echo(&command),
            });
        }
    });
    let cache = Cache::must_open(&server.url("protocol=3"));
    all_fail(&cache, &READS, CACHETORY_ERR_UNSUPPORTED, 0);
    all_fail(&cache, &WRITES, CACHETORY_ERR_UNSUPPORTED, 0);
}

#[test]
fn a_certificate_that_is_refused() {
    let server = with_tls();
    // Its authority is not one of the system's.
    let cache = Cache::must_open(&server.tls_url());
    all_fail(&cache, &READS, CACHETORY_ERR_TLS, 0);
    all_fail(&cache, &WRITES, CACHETORY_ERR_TLS, 0);
    let ca = certs().ca.cert.display();
    let cache = Cache::must_open(&format!("{}?ssl_ca_certs={ca}", server.tls_url()));
    all_succeed(&cache);
}

#[test]
fn a_peer_that_speaks_something_else() {
    let server = Scripted::tcp(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let cache = Cache::must_open(&server.url(""));
    let queue = Queue::open();
    for (what, submit) in READS {
        assert_eq!(submit(cache.to(&queue), 1), OK, "{what}");
        failed(&queue.next(), CACHETORY_ERR_PROTOCOL, 0);
    }
    for (what, submit) in WRITES {
        assert_eq!(submit(cache.to(&queue), 1), OK, "{what}");
        failed(&queue.next(), CACHETORY_ERR_PROTOCOL, MAYBE_APPLIED);
    }
}

/// Each connection is closed as soon as it is there.
#[test]
fn a_long_line_of_replacements_comes_to_an_end() {
    let server = Scripted::tcp(|_| {});
    let (cache, queue) = (Cache::must_open(&server.url("")), Queue::open());
    for _ in 0..20 {
        for (what, submit) in READS.iter().chain(&WRITES) {
            assert_eq!(submit(cache.to(&queue), 1), OK);
            let failure = queue.next().failure();
            let expected = [CACHETORY_ERR_IO, CACHETORY_ERR_CONNECT, CACHETORY_ERR_TIMEOUT];
            assert!(expected.contains(&failure.status), "{what}: {failure:?}");
            assert!(failure.is_retryable());
        }
    }
    poll("all is quiet", || queue.wait(1, 0).unwrap().is_empty().then_some(()));
}
