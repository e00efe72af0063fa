//! One hard deadline over a whole call, whichever phase it is in. Only that a call ends is tested, not how fast, and
//! nothing but a server that hangs has to meet a short deadline. Each call has to find out by itself that it does
//! (`fail_fast=false`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::calls::*;
use super::support::capi::*;
use super::support::full_port::FullPort;
use super::support::must_end;
use super::support::scripted::{Scripted, array, bulk, name};
use super::support::server::Setup;
use super::support::socket::Address;

const SHORT: &str = "socket_timeout=0.3&fail_fast=false";
/// A deadline that is far away, and so is not what ends a call.
const FAR: &str = "socket_timeout=600";
const PAUSE: Duration = Duration::from_millis(20);

fn open(server: &Scripted, options: &str, face: Face) -> Cache {
    Cache::must_open(&server.url(options)).with(face)
}

#[test]
fn a_host_that_ignores_us_holds_up_no_call_beyond_its_deadline() {
    let port = FullPort::new();
    for_each_face(|face| {
        let cache = Cache::must_open(&port.url(SHORT)).with(face);
        for (what, operation) in READS.iter().chain(&WRITES) {
            println!("{what}");
            times_out(RETRYABLE, || operation(&cache));
        }
    });
}

#[test]
fn connecting_may_have_a_shorter_deadline_than_the_call() {
    let port = FullPort::new();
    for_each_face(|face| {
        let url = port.url(&format!("socket_connect_timeout=0.3&fail_fast=false&{FAR}"));
        let cache = Cache::must_open(&url).with(face);
        for (what, operation) in READS.iter().chain(&WRITES) {
            println!("{what}");
            failed(must_end(|| operation(&cache)), CACHETORY_ERR_CONNECT, RETRYABLE);
        }
    });
}

#[test]
fn many_callers_of_a_host_that_ignores_them_end_at_their_deadlines() {
    let port = FullPort::new();
    for_each_face(|face| {
        let url = port.url(&format!("{SHORT}&max_connections=2"));
        let cache = Cache::must_open(&url).with(face);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| times_out(RETRYABLE, || cache.get("k")));
            }
        });
    });
}

#[test]
fn a_tls_handshake_that_hangs_ends_at_the_calls_deadline() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| peer.swallow());
        let url = server.url(SHORT).replace("redis://", "rediss://");
        let cache = Cache::must_open(&url).with(face);
        times_out(RETRYABLE, || cache.get("k"));
        times_out(RETRYABLE, || cache.set("k", "v"));
    });
}

#[test]
fn a_tls_handshake_that_trickles_ends_at_the_calls_deadline() {
    for_each_face(|face| {
        // A record that says it is long, so that the other side waits for all of it.
        let server = Scripted::tcp(|peer| {
            let record = [&[22, 3, 3, 16, 0][..], &[0; 4096]].concat();
            peer.drip(record, PAUSE);
        });
        let url = server.url(SHORT).replace("redis://", "rediss://");
        times_out(RETRYABLE, || Cache::must_open(&url).with(face).set("k", "v"));
    });
}

#[test]
fn a_login_that_hangs_ends_at_the_calls_deadline() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| peer.swallow());
        let Address::Tcp(port) = server.address() else { unreachable!() };
        for url in [
            format!("redis://:secret@127.0.0.1:{port}/?{SHORT}"),
            format!("redis://127.0.0.1:{port}/3?{SHORT}"),
            format!("redis://127.0.0.1:{port}/?{SHORT}&protocol=3"),
            format!("redis://127.0.0.1:{port}/?{SHORT}&client_name=c"),
        ] {
            let cache = Cache::must_open(&url).with(face);
            let message = times_out(RETRYABLE, || cache.get("k"));
            assert!(!message.contains("secret"), "{message}");
            times_out(RETRYABLE, || cache.set("k", "v"));
        }
    });
}

#[test]
fn a_login_that_trickles_ends_at_the_calls_deadline() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| {
            peer.command();
            peer.drip(format!("+{}", "O".repeat(4000)), PAUSE);
        });
        let Address::Tcp(port) = server.address() else { unreachable!() };
        let url = format!("redis://:secret@127.0.0.1:{port}/?{SHORT}");
        times_out(RETRYABLE, || Cache::must_open(&url).with(face).set("k", "v"));
    });
}

/// The request fills the socket's buffers, and the rest of it is never sent.
#[test]
fn a_large_request_to_a_peer_that_does_not_read_ends_at_its_deadline() {
    let large = vec![b'x'; 50 << 20];
    // Nothing ever arrives.
    let none = || 0;
    for_each_face(|face| {
        for server in [Scripted::tcp(|peer| peer.hang()), Scripted::unix(|peer| peer.hang())] {
            let cache = open(&server, "socket_timeout=0.5&fail_fast=false", face);
            times_out_once_sent(none, || cache.set("k", &large));
            times_out_once_sent(none, || cache.set_with("k", &large, 60_000, 0));
            times_out_once_sent(none, || cache.mset(&[("k", &large)], NO_EXPIRY));
            times_out_once_sent(none, || cache.mset(&[("k", &large)], 60_000));
            times_out(RETRYABLE, || cache.get(&large));
        }
    });
}

#[test]
fn a_call_that_is_not_answered_ends_at_its_deadline() {
    for_each_face(|face| {
        let servers: [fn() -> Scripted; 2] = [
            || Scripted::tcp(|peer| while peer.request().is_some() {}),
            || Scripted::unix(|peer| while peer.request().is_some() {}),
        ];
        for start in servers {
            for (what, operation) in READS {
                println!("{what}");
                let server = start();
                times_out(RETRYABLE, || operation(&open(&server, SHORT, face)));
                // On a busy machine the deadline may pass before it is sent the first time.
                assert!(server.requests().len() <= 1, "there is no time to send it again in");
            }
            for (what, operation) in WRITES {
                println!("{what}");
                let server = start();
                let cache = open(&server, SHORT, face);
                times_out_once_sent(|| server.requests().len(), || operation(&cache));
            }
        }
    });
}

#[test]
fn a_reply_that_trickles_ends_at_the_calls_deadline() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| {
            while let Some(command) = peer.request() {
                let long = vec![b'O'; 2000];
                let is_get = command[0] == b"GET";
                peer.drip(if is_get { bulk(long) } else { [b"+", &long[..]].concat() }, PAUSE);
            }
        });
        let cache = open(&server, SHORT, face);
        times_out(RETRYABLE, || cache.get("k"));
        times_out_once_sent(|| server.count("SET"), || cache.set("k", "v"));
    });
}

#[test]
fn a_reply_that_stops_halfway_ends_at_the_calls_deadline() {
    for reply in [
        "$100\r\nhalf".to_owned(),
        "$".to_owned(),
        "$10".to_owned(),
        "$4\r\nfour".to_owned(),
        "$4\r\nfour\r".to_owned(),
        format!("${}\r\n{}", 100 << 20, "x".repeat(8 << 20)),
        "|1\r\n+ttl\r\n".to_owned(),
        "+".to_owned(),
        "-ERR no end".to_owned(),
    ] {
        let start = reply.get(..20).unwrap_or(&reply).to_owned();
        println!("{start:?}");
        let server = Scripted::tcp(move |peer| {
            while peer.request().is_some() {
                peer.send(&reply);
            }
        });
        for_each_face(|face| {
            let cache = open(&server, SHORT, face);
            times_out(RETRYABLE, || cache.get("k"));
        });
    }
}

#[test]
fn a_reply_to_mget_that_stops_halfway_ends_at_the_calls_deadline() {
    for reply in ["*", "*2", "*2\r\n", "*2\r\n$1\r\na\r\n", "*2\r\n$1\r\na\r\n$2\r\nb"] {
        println!("{reply:?}");
        let server = Scripted::tcp(move |peer| {
            while peer.request().is_some() {
                peer.send(reply);
            }
        });
        for_each_face(|face| {
            let cache = open(&server, SHORT, face);
            times_out(RETRYABLE, || cache.mget(&["k", "l"]));
        });
    }
}

#[test]
fn many_callers_of_a_server_that_hangs_end_at_their_deadlines() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| while peer.request().is_some() {});
        let cache = open(&server, &format!("{SHORT}&max_connections=1"), face);
        thread::scope(|scope| {
            for number in 0..16 {
                let cache = &cache;
                scope.spawn(move || times_out(RETRYABLE, || cache.get(format!("k{number}"))));
            }
        });
    });
}

#[test]
fn connections_that_are_closed_at_once_are_not_replaced_for_ever() {
    for_each_face(|face| {
        let server = Scripted::tcp(|_| {});
        let cache = open(&server, FAR, face);
        for _ in 0..20 {
            let statuses = [CACHETORY_ERR_IO, CACHETORY_ERR_CONNECT];
            for (what, operation) in READS {
                println!("{what}");
                failed_either(must_end(|| operation(&cache)), &statuses, RETRYABLE);
            }
            for (what, operation) in WRITES {
                let failure = must_end(|| operation(&cache)).unwrap_err();
                let is_expected = statuses.contains(&failure.status) && failure.is_retryable();
                assert!(is_expected, "{what}: {failure:?}");
            }
        }
    });
}

/// Each page comes in a fraction of the deadline, and all of them take longer than that.
#[test]
fn a_clear_within_a_prefix_has_a_deadline_for_each_round_trip() {
    const PAGES: usize = 30;
    for_each_face(|face| {
        let pages = AtomicUsize::new(0);
        let server = Scripted::tcp(move |peer| {
            while peer.request().is_some() {
                let is_last = pages.fetch_add(1, Ordering::SeqCst) + 1 == PAGES;
                let cursor = if is_last { "0" } else { "1" };
                // 15 bytes.
                peer.drip(format!("*2\r\n$1\r\n{cursor}\r\n*0\r\n"), PAUSE);
            }
        });
        let cache = open(&server, "socket_timeout=8&prefix=p:", face);
        assert_eq!(cache.clear(), Ok(CACHETORY_OK));
        assert_eq!(server.count("SCAN"), PAGES);
    });
}

#[test]
fn a_clear_that_hangs_says_whether_it_had_begun_to_delete() {
    for_each_face(|face| {
        for stage in ["SCAN", "UNLINK"] {
            let server = Scripted::tcp(move |peer| {
                while let Some(command) = peer.request() {
                    if name(&command) == stage {
                        return peer.swallow();
                    }
                    peer.send(array(&[bulk("0"), array(&[bulk("p:1")])]));
                }
            });
            let cache = open(&server, &format!("prefix=p:&{SHORT}"), face);
            match stage {
                "SCAN" => drop(times_out(RETRYABLE, || cache.clear())),
                _ => times_out_once_sent(|| server.count("UNLINK"), || cache.clear()),
            }
        }
    });
}

#[test]
fn a_server_that_is_stopped_holds_up_no_call_beyond_its_deadline() {
    for_each_face(|face| {
        let server = Setup::redis().start();
        for url in [server.tcp_url(), server.unix_url()] {
            let cache = Cache::must_open(&format!("{url}?{SHORT}")).with(face);
            in_time(|| cache.set("k", "before"));
            server.pause();
            times_out(RETRYABLE, || cache.get("k"));
            times_out_once_sent(|| 0, || cache.set("other", "v"));
            server.resume();
            // The write that was sent may still come; a read must see its own answer, also while late ones arrive.
            for _ in 0..20 {
                assert_eq!(in_time(|| cache.get("k")).as_deref(), Some(&b"before"[..]));
            }
        }
    });
}

#[test]
fn a_host_name_that_nobody_knows_is_named_in_the_error() {
    for_each_face(|face| {
        let cache = Cache::must_open("redis://nonexistent.invalid/").with(face);
        for (_, operation) in READS.iter().chain(&WRITES) {
            let message = failed(operation(&cache), CACHETORY_ERR_CONNECT, RETRYABLE);
            assert!(message.contains("nonexistent.invalid"), "{message}");
        }
        let url = "redis://nonexistent.invalid/?socket_timeout=0.3";
        let cache = Cache::must_open(url).with(face);
        let statuses = [CACHETORY_ERR_CONNECT, CACHETORY_ERR_TIMEOUT];
        failed_either(must_end(|| cache.set("k", "v")), &statuses, RETRYABLE);
    });
}
