//! A server that answers, but not as one would like: the status, the flags and its own words.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::support::calls::*;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::gates::Gates;
use super::support::poll;
use super::support::scripted::{Peer, Scripted, echo, name};
use super::support::server::{Setup, guarded, with_tls};
use super::support::socket::Address;

#[test]
fn an_error_answer_fails_the_call_in_the_servers_words() {
    let table = [
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            CACHETORY_ERR_SERVER,
            RETRYABLE,
        ),
        ("CLUSTERDOWN The cluster is down", CACHETORY_ERR_SERVER, RETRYABLE),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            CACHETORY_ERR_SERVER,
            RETRYABLE,
        ),
        ("NOREPLICAS Not enough good replicas to write.", CACHETORY_ERR_SERVER, RETRYABLE),
        ("BUSY Redis is busy running a script.", CACHETORY_ERR_SERVER, RETRYABLE),
        ("WRONGTYPE Operation against a key", CACHETORY_ERR_SERVER, 0),
        ("ERR unknown command", CACHETORY_ERR_SERVER, 0),
        ("READONLYISH is another word", CACHETORY_ERR_SERVER, 0),
        ("MISCONF Redis is configured to save RDB snapshots", CACHETORY_ERR_SERVER, RETRYABLE),
        ("NOAUTH Authentication required.", CACHETORY_ERR_AUTH, 0),
        ("WRONGPASS invalid username-password pair", CACHETORY_ERR_AUTH, 0),
        ("NOPERM this user has no permissions", CACHETORY_ERR_AUTH, 0),
    ];
    for_each_face(|face| {
        for (text, status, flags) in table {
            let server =
                Scripted::tcp(move |peer| peer.serve(|_| format!("-{text}\r\n").into_bytes()));
            let cache = Cache::must_open(&server.url("max_connections=1")).with(face);
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}: {text}");
                let mut outcome = operation(&cache);
                if let (Err(failure), "mset with a ttl") = (&mut outcome, *what) {
                    // MULTI was refused, and so was each SET behind it: whether that is MAYBE_APPLIED is left open.
                    failure.flags &= !MAYBE_APPLIED;
                }
                let message = failed(outcome, status, flags);
                assert!(message.contains(text), "{message}");
            }
            // The one after a transaction that was not carried out may be a new one.
            assert!(server.connections() <= 2, "an error answer is no reason to hang up");
        }
    });
}

#[test]
fn an_error_answer_with_odd_bytes_is_made_text() {
    let server = Scripted::tcp(|peer| {
        peer.serve(|_| [&b"-ERR nul \0 latin \xe9 "[..], &[b'x'; 2000], b"\r\n"].concat());
    });
    let cache = Cache::must_open(&server.url(""));
    let message = failed(cache.get("k"), CACHETORY_ERR_SERVER, 0);
    assert!(message.starts_with("ERR nul ") && message.len() > 400, "{message}");
}

#[test]
fn a_blob_error_of_resp3_is_an_error_answer() {
    let server = Scripted::tcp(|peer| peer.serve(|_| b"!12\r\nOOM no\r\nmore\r\n".to_vec()));
    let cache = Cache::must_open(&server.url("protocol=3"));
    let message = failed(cache.set("k", "v"), CACHETORY_ERR_SERVER, RETRYABLE);
    assert!(message.contains("OOM no"), "{message}");
}

const FULL: &str = "-ERR max number of clients reached\r\n";

#[test]
fn a_server_without_room_for_a_client_is_worth_another_call() {
    let scripts: [fn(&mut Peer); 3] = [
        |peer| {
            peer.send(FULL);
            peer.close();
        },
        // As Redis does it: what the client sends meanwhile is answered by a reset.
        |peer| {
            peer.send(FULL);
        },
        |peer| {
            peer.command();
            peer.send(FULL);
            peer.close();
        },
    ];
    for_each_face(|face| {
        for script in scripts {
            let server = Scripted::tcp(script);
            let Address::Tcp(port) = server.address() else { unreachable!() };
            let urls = [server.url(""), format!("redis://:secret@127.0.0.1:{port}/2?protocol=3")];
            for url in urls {
                let cache = Cache::must_open(&url).with(face);
                for (what, operation) in READS.iter().chain(&WRITES) {
                    println!("{what}, {url}");
                    let message = failed(operation(&cache), CACHETORY_ERR_CONNECT, RETRYABLE);
                    assert!(message.contains("max number of clients"), "{message}");
                }
            }
        }
    });
}

#[test]
fn a_real_server_without_room_for_a_connection_is_worth_another_call() {
    for_each_face(|face| {
        let server = Setup::redis().start();
        let mut client = server.client(0);
        let mut limit = |count: &str| {
            redis::cmd("CONFIG").arg(&["SET", "maxclients", count]).exec(&mut client).unwrap();
        };
        for url in [server.tcp_url(), server.unix_url(), format!("{}/3", server.tcp_url())] {
            limit("1");
            let cache = Cache::must_open(&url).with(face);
            for _ in 0..10 {
                for (what, operation) in READS.iter().chain(&WRITES) {
                    println!("{what}");
                    failed(operation(&cache), CACHETORY_ERR_CONNECT, RETRYABLE);
                }
            }
            limit("100");
            assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
        }
    });
}

/// One connection is all that the server has room for, and another call holds it for a while.
#[test]
fn a_refused_second_connection_fails_no_call_while_there_is_a_first() {
    for_each_face(|face| {
        for options in ["", "db=1"] {
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}, {options}");
                let (gates, refused) = (Gates::default(), Arc::new(AtomicUsize::new(0)));
                let (gate, count) = (gates.clone(), Arc::clone(&refused));
                let server = Scripted::tcp(move |peer| {
                    if peer.number > 0 {
                        peer.send(FULL);
                        peer.close();
                        // Until the client has seen it, and hangs up.
                        peer.swallow();
                        count.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    while let Some(command) = peer.request() {
                        peer.hang_until(|| gate.is_open_for(&command));
                        peer.send(echo(&command));
                    }
                });
                let cache = Cache::must_open(&server.url(options)).with(face);
                thread::scope(|scope| {
                    let holds = scope.spawn(|| cache.get("held:1"));
                    server.wait_for("GET", 1);
                    let other = scope.spawn(|| operation(&cache));
                    poll("a refusal", || (refused.load(Ordering::SeqCst) > 0).then_some(()));
                    gates.open(1);
                    assert_eq!(other.join().unwrap(), Ok(CACHETORY_OK));
                    assert_eq!(holds.join().unwrap(), Ok(Some(b"held:1".to_vec())));
                });
            }
        }
    });
}

#[test]
fn a_real_server_with_room_for_one_connection_serves_all() {
    for_each_face(|face| {
        let server = Setup::redis().start();
        let mut client = server.client(0);
        let cache = Cache::must_open(&server.tcp_url()).with(face);
        assert_eq!(cache.ping(), Ok(CACHETORY_OK));
        redis::cmd("CONFIG").arg(&["SET", "maxclients", "2"]).exec(&mut client).unwrap();
        let large = large();
        thread::scope(|scope| {
            for thread in 0..8 {
                let (cache, large) = (&cache, &large);
                scope.spawn(move || {
                    let key = format!("{thread}");
                    for _ in 0..25 {
                        assert_eq!(cache.set(&key, large), Ok(CACHETORY_OK));
                        assert!(cache.get(&key).unwrap().as_ref() == Some(large));
                        assert_eq!(cache.set(&key, "small"), Ok(CACHETORY_OK));
                        assert_eq!(cache.get(&key), Ok(Some(b"small".to_vec())));
                        assert_eq!(cache.mset(&[(&key, "w")], 60_000), Ok(CACHETORY_OK));
                    }
                });
            }
        });
    });
}

#[test]
fn a_replica_refuses_writes_and_a_lost_master_is_worth_another_call() {
    let master = Setup::redis().start();
    let port = master.port().to_string();
    let replica = Setup::redis()
        .args(["--replicaof", &format!("127.0.0.1 {port}"), "--replica-serve-stale-data", "no"])
        .start();
    let cache = Cache::must_open(&replica.tcp_url());
    poll("the replica has its master", || {
        let info: String = replica.query(&["INFO", "replication"]);
        info.contains("master_link_status:up").then_some(())
    });
    for (what, operation) in READS {
        println!("{what}");
        assert_eq!(operation(&cache), Ok(CACHETORY_OK));
    }
    for (what, operation) in WRITES {
        println!("{what}");
        let message = failed(operation(&cache), CACHETORY_ERR_SERVER, RETRYABLE);
        assert!(message.contains("READONLY"), "{message}");
    }
    master.kill();
    let message = poll("the replica misses its master", || cache.get("k").err());
    let message = failed(Err::<(), _>(message), CACHETORY_ERR_SERVER, RETRYABLE);
    assert!(message.contains("MASTERDOWN"), "{message}");
}

#[test]
fn a_server_out_of_memory_applies_nothing_and_is_worth_another_call() {
    let server =
        Setup::redis().args(["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]).start();
    let cache = Cache::must_open(&server.tcp_url());
    let batch: Vec<_> = (0..100).map(|number| (format!("k{number}"), vec![b'v'; 20_000])).collect();
    // Some may still fit; sooner or later none does.
    let outcome = poll("the server is full", || cache.set("k", vec![b'v'; 1 << 20]).err());
    failed(Err::<(), _>(outcome), CACHETORY_ERR_SERVER, RETRYABLE);
    for ttl in [NO_EXPIRY, 60_000] {
        let message = failed(cache.mset(&batch, ttl), CACHETORY_ERR_SERVER, RETRYABLE);
        assert!(message.contains("OOM"), "{message}");
    }
    assert_eq!(cache.get("k0"), Ok(None));
    server.query::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]);
    assert_eq!(cache.mset(&batch, 60_000), Ok(CACHETORY_OK));
}

#[test]
fn credentials_that_are_refused_are_an_auth_error_that_tells_no_secret() {
    let server = guarded();
    let port = server.port();
    for_each_face(|face| {
        for user in ["", ":wrong@", "default:wrong@", "nobody:nothing@"] {
            for query in ["", "protocol=3"] {
                let url = format!("redis://{user}127.0.0.1:{port}/?{query}");
                let cache = Cache::must_open(&url).with(face);
                for (what, operation) in READS.iter().chain(&WRITES) {
                    println!("{what}, {user}");
                    // Whom Redis does not know it hears out for 16 KB; then it says why, and hangs up, perhaps in the
                    // middle of the rest.
                    if user.is_empty() && what.starts_with("large") && *what != "large get" {
                        continue;
                    }
                    // Without credentials the server is asked, and refuses MULTI as well as the SETs behind it.
                    let message = match operation(&cache) {
                        Err(failure) if user.is_empty() && *what == "mset with a ttl" => {
                            assert_eq!(failure.status, CACHETORY_ERR_AUTH);
                            failure.message
                        }
                        outcome => failed(outcome, CACHETORY_ERR_AUTH, 0),
                    };
                    let tells = message.contains("wrong@") || message.contains("nothing");
                    assert!(!tells, "{message}");
                }
            }
        }
    });
}

#[test]
fn a_command_without_permission_is_an_auth_error() {
    let server = Setup::redis().start();
    server.query::<()>(&["ACL", "SETUSER", "reader", "on", ">pw", "~open:*", "+@read", "+ping"]);
    let cache = Cache::must_open(&format!("redis://reader:pw@127.0.0.1:{}", server.port()));
    for _ in 0..2 {
        assert_eq!(cache.get("open:k"), Ok(None));
        for outcome in [
            cache.get("k").map(|_| 0),
            cache.mget(&["open:k", "k"]).map(|_| 0),
            cache.set("open:k", "v"),
            cache.delete("open:k"),
            cache.clear(),
        ] {
            let message = failed(outcome, CACHETORY_ERR_AUTH, 0);
            assert!(message.contains("NOPERM"), "{message}");
        }
    }
}

#[test]
fn a_server_that_refuses_hello_says_why() {
    for (answer, status) in [
        ("-ERR unknown command `HELLO`, with args beginning with: `3`", CACHETORY_ERR_UNSUPPORTED),
        ("-NOPROTO unsupported protocol version", CACHETORY_ERR_UNSUPPORTED),
        ("-WRONGPASS invalid username-password pair", CACHETORY_ERR_AUTH),
        ("-NOPERM no hello for you", CACHETORY_ERR_AUTH),
    ] {
        let server = Scripted::tcp(move |peer| {
            while let Some(command) = peer.command() {
                let refused = name(&command) == "HELLO";
                peer.send(if refused {
                    format!("{answer}\r\n").into_bytes()
                } else {
                    echo(&command)
                });
            }
        });
        for_each_face(|face| {
            let cache = Cache::must_open(&server.url("protocol=3")).with(face);
            for (_, operation) in READS.iter().chain(&WRITES) {
                failed(operation(&cache), status, 0);
            }
        });
    }
}

#[test]
fn any_refusal_of_auth_is_an_auth_error() {
    for answer in
        ["-ERR invalid password", "-ERR AUTH <password> called without any password configured"]
    {
        let server = Scripted::tcp(move |peer| {
            while let Some(command) = peer.command() {
                let refused = name(&command) == "AUTH";
                peer.send(if refused {
                    format!("{answer}\r\n").into_bytes()
                } else {
                    echo(&command)
                });
            }
        });
        let Address::Tcp(port) = server.address() else { unreachable!() };
        let cache = Cache::must_open(&format!("redis://:secret@127.0.0.1:{port}"));
        let message = failed(cache.set("k", "v"), CACHETORY_ERR_AUTH, 0);
        assert!(message.contains(&answer[1..]) && !message.contains("secret"), "{message}");
    }
}

#[test]
fn a_certificate_that_is_refused_is_a_tls_error_for_every_call() {
    let server = with_tls();
    for_each_face(|face| {
        // Its authority is not one of the system's.
        let cache = Cache::must_open(&server.tls_url()).with(face);
        for (what, operation) in READS.iter().chain(&WRITES) {
            println!("{what}");
            failed(operation(&cache), CACHETORY_ERR_TLS, 0);
        }
        let ca = certs().ca.cert.display();
        let cache = Cache::must_open(&format!("{}?ssl_ca_certs={ca}", server.tls_url())).with(face);
        assert_eq!(cache.ping(), Ok(CACHETORY_OK));
    });
}

#[test]
fn a_server_that_is_loading_is_worth_another_call_and_ready_later() {
    for_each_face(|face| {
        let loaded = Gates::default();
        let gate = loaded.clone();
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| match gate.are_open(1) {
                true => echo(command),
                false => b"-LOADING Redis is loading the dataset in memory\r\n".to_vec(),
            });
        });
        let cache = Cache::must_open(&server.url("")).with(face);
        for (_, operation) in READS {
            failed(operation(&cache), CACHETORY_ERR_SERVER, RETRYABLE);
        }
        loaded.open(1);
        for (_, operation) in READS.iter().chain(&WRITES) {
            assert_eq!(operation(&cache), Ok(CACHETORY_OK));
        }
    });
}
