//! A peer that does not speak RESP, or speaks it to do harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::calls::*;
use super::support::capi::*;
use super::support::scripted::{Scripted, bulk, echo, name};

const OPTIONS: &str = "max_connections=1";

/// Answers the first request on the first connection by `reply` and everything else as it should be.
fn once(reply: impl Into<Vec<u8>>) -> Scripted {
    let reply = reply.into();
    Scripted::tcp(move |peer| {
        if peer.number == 0 && peer.request().is_some() {
            peer.send(&reply);
        }
        peer.serve(echo);
    })
}

/// Not RESP at all, or no RESP that anybody could mean.
const GARBAGE: [&[u8]; 18] = [
    b"garbage\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\r\n",
    b"\0\0\0\0\0\0\0\0\r\n",
    b"\xff\xfe\xfd\r\n",
    b"\x15\x03\x01\x00\x02\x02\x16\r\n",
    b"$999999999999\r\n",
    b"$99999999999999999999999999\r\n",
    b"$9223372036854775807\r\n",
    b"$-2\r\n",
    b"$-9223372036854775808\r\n",
    b"$abc\r\n",
    b"$\r\n",
    b"$ 1\r\na\r\n",
    b"$1a\r\na\r\n",
    b"$3\r\nabcXY\r\n",
    b"*abc\r\n",
];

/// Aggregates that no answer here can be.
const AGGREGATES: [&[u8]; 5] = [
    b"*2147483647\r\n",
    b"*9223372036854775807\r\n",
    b"*-2\r\n",
    b"%2147483647\r\n",
    b"~2147483647\r\n",
];

/// What precedes an answer, and so long that none will ever come.
const PREFACES: [&[u8]; 2] = [b"|9223372036854775807\r\n", b">2147483647\r\n"];

#[test]
fn a_reply_that_is_no_answer_to_the_command_fails_the_call_and_ends_the_link() {
    for reply in GARBAGE.iter().chain(&AGGREGATES) {
        for (operations, flags) in [(&READS[..], 0), (&WRITES[..], MAYBE_APPLIED)] {
            for (what, operation) in operations {
                // Nothing but an error is no for an answer to PING.
                if *what == "ping" && AGGREGATES.contains(reply) {
                    continue;
                }
                println!("{what}: {:?}", String::from_utf8_lossy(reply));
                let server = once(*reply);
                let cache = Cache::must_open(&server.url(OPTIONS));
                failed(operation(&cache), CACHETORY_ERR_PROTOCOL, flags);
                assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
                assert_eq!(server.connections(), 2, "the link must not be used again");
            }
        }
    }
}

#[test]
fn a_preface_without_end_ends_at_the_calls_deadline() {
    for reply in PREFACES {
        for (what, operation) in READS {
            println!("{what}: {:?}", String::from_utf8_lossy(reply));
            let server = once(reply);
            let cache = Cache::must_open(&server.url("socket_timeout=0.3"));
            let failure = operation(&cache).unwrap_err();
            let statuses = [CACHETORY_ERR_PROTOCOL, CACHETORY_ERR_TIMEOUT];
            assert!(statuses.contains(&failure.status), "{failure:?}");
            assert_eq!(in_time(|| cache.get("k")), Some(b"k".to_vec()));
        }
    }
}

#[test]
fn a_reply_nested_a_million_deep_is_refused() {
    for start in ["*1\r\n", "*2\r\n", "%1\r\n", "~1\r\n", "|1\r\n", ">1\r\n"] {
        for query in ["", "&protocol=3"] {
            println!("{start:?} {query}");
            let server = once(start.repeat(1 << 20));
            let cache = Cache::must_open(&server.url(&format!("{OPTIONS}{query}")));
            failed(cache.mget(&["k"]), CACHETORY_ERR_PROTOCOL, 0);
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
        }
    }
}

#[test]
fn an_answer_of_the_wrong_type_is_a_protocol_error() {
    let get: [&[u8]; 6] =
        [b":5\r\n", b"*0\r\n", b"*1\r\n$1\r\na\r\n", b"%1\r\n+a\r\n+b\r\n", b"#t\r\n", b",1.5\r\n"];
    for reply in get {
        println!("GET {:?}", String::from_utf8_lossy(reply));
        let server = once(reply);
        let cache = Cache::must_open(&server.url(OPTIONS));
        failed(cache.get("k"), CACHETORY_ERR_PROTOCOL, 0);
        assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
        assert_eq!(server.connections(), 2, "the link must not be used again");
    }
    let mget: [&[u8]; 11] = [
        b"*0\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
        b"_\r\n",
        b"*1\r\n$1\r\na\r\n",
        b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
        b"*2\r\n:1\r\n$1\r\na\r\n",
        b"*2\r\n*1\r\n$1\r\na\r\n$1\r\na\r\n",
        b"*2\r\n$1\r\na\r\n$-2\r\n",
        b"*2\r\n$1\r\na\r\ngarbage\r\n",
        b"$1\r\na\r\n",
    ];
    for reply in mget {
        println!("MGET {:?}", String::from_utf8_lossy(reply));
        let server = once(reply);
        let cache = Cache::must_open(&server.url(OPTIONS));
        failed(cache.mget(&["k", "l"]), CACHETORY_ERR_PROTOCOL, 0);
        assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
    }
    for reply in [&b":5\r\n"[..], b"*0\r\n", b"*1\r\n+OK\r\n", b"%0\r\n"] {
        println!("SET {:?}", String::from_utf8_lossy(reply));
        let server = once(reply);
        let cache = Cache::must_open(&server.url(OPTIONS));
        failed(cache.set("k", "v"), CACHETORY_ERR_PROTOCOL, MAYBE_APPLIED);
    }
    for reply in [&b"+OK\r\n"[..], b"*0\r\n", b"$1\r\n1\r\n", b"$-1\r\n", b":-1\r\n", b":1x\r\n"] {
        println!("DEL {:?}", String::from_utf8_lossy(reply));
        let server = once(reply);
        let cache = Cache::must_open(&server.url(OPTIONS));
        failed(cache.mdelete(&["k", "l"]), CACHETORY_ERR_PROTOCOL, MAYBE_APPLIED);
    }
}

#[test]
fn a_map_is_no_answer_to_mget() {
    let server = once("%1\r\n$1\r\na\r\n$1\r\nb\r\n");
    let cache = Cache::must_open(&server.url(OPTIONS));
    failed(cache.mget(&["k", "l"]), CACHETORY_ERR_PROTOCOL, 0);
}

#[test]
fn a_null_is_no_answer_to_a_set_without_a_condition() {
    let server = once("$-1\r\n");
    let cache = Cache::must_open(&server.url(OPTIONS));
    failed(cache.set("k", "v"), CACHETORY_ERR_PROTOCOL, MAYBE_APPLIED);
}

#[test]
fn a_page_of_scan_that_is_none_is_a_protocol_error() {
    for reply in [
        &b"*1\r\n$1\r\n0\r\n"[..],
        b"*3\r\n$1\r\n0\r\n*0\r\n*0\r\n",
        b"*2\r\n$1\r\n0\r\n$1\r\na\r\n",
        b"*2\r\n*0\r\n*0\r\n",
        b"*2\r\n$1\r\n0\r\n*1\r\n*0\r\n",
        b"*2\r\n$1\r\n0\r\n*1\r\n$-1\r\n",
        b"*0\r\n",
        b"$-1\r\n",
        b":0\r\n",
    ] {
        println!("{:?}", String::from_utf8_lossy(reply));
        let server = once(reply);
        let cache = Cache::must_open(&server.url(&format!("{OPTIONS}&prefix=p:")));
        failed(cache.clear(), CACHETORY_ERR_PROTOCOL, 0);
    }
}

#[test]
fn a_line_without_end_is_given_up_after_a_bounded_number_of_bytes() {
    const LIMIT: usize = 32 << 20;
    for (start, filler) in
        [("+", b'x'), ("-", b'x'), ("$", b'0'), ("*", b'1'), (":", b'1'), ("(", b'1')]
    {
        println!("{start}");
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let server = Scripted::tcp(move |peer| {
            if peer.request().is_none() || peer.number > 0 {
                return;
            }
            peer.send(start);
            while counted.load(Ordering::SeqCst) < 4 * LIMIT && peer.send([filler; 65536]) {
                counted.fetch_add(65536, Ordering::SeqCst);
            }
        });
        let cache = Cache::must_open(&server.url(OPTIONS));
        failed(cache.get("k"), CACHETORY_ERR_PROTOCOL, 0);
        assert!(
            sent.load(Ordering::SeqCst) < LIMIT,
            "{} bytes were taken",
            sent.load(Ordering::SeqCst)
        );
    }
}

#[test]
fn huge_lengths_take_no_memory_before_the_bytes_are_there() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.request() {
            let length = 500 << 20;
            peer.send(match name(&command).as_str() {
                "GET" => format!("${length}\r\n"),
                _ => format!("*8\r\n${length}\r\n"),
            });
        }
    });
    let keys: Vec<_> = (0..8).map(|number| format!("k{number}")).collect();
    for _ in 0..4 {
        let cache = Cache::must_open(&server.url("socket_timeout=0.2"));
        failed(cache.get("k"), CACHETORY_ERR_TIMEOUT, RETRYABLE);
        failed(cache.mget(&keys), CACHETORY_ERR_TIMEOUT, RETRYABLE);
    }
    assert!(peak_memory() < 2 << 30, "{} bytes", peak_memory());
}

/// The most this process has held at a time.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn the_nulls_of_both_protocols_are_misses() {
    for (query, null) in [("", "$-1\r\n"), ("&protocol=3", "_\r\n"), ("&protocol=3", "$-1\r\n")] {
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| match name(command).as_str() {
                "MGET" => format!("*3\r\n{null}$0\r\n\r\n{null}").into_bytes(),
                _ => null.into(),
            });
        });
        let cache = Cache::must_open(&server.url(&format!("{OPTIONS}{query}")));
        assert_eq!(cache.get("k"), Ok(None));
        assert_eq!(cache.mget(&["a", "b", "c"]), Ok(vec![None, Some(vec![]), None]));
        let outcome = cache.set_with("k", "v", NO_EXPIRY, IF_NOT_EXISTS);
        assert_eq!(outcome, Ok(CACHETORY_NOT_STORED));
        assert_eq!(server.connections(), 1);
    }
}

#[test]
fn pushes_and_attributes_between_answers_are_passed_over() {
    let pushes: [&str; 4] = [
        ">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
        "|1\r\n+ttl\r\n:3600\r\n",
        ">3\r\n+message\r\n$1\r\nc\r\n$4\r\n$1\r\n\r\n",
        ">1\r\n+a\r\n|2\r\n+b\r\n%1\r\n+c\r\n,1.5\r\n+d\r\n#t\r\n>0\r\n",
    ];
    for push in pushes {
        println!("{push:?}");
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| [push.into(), echo(command), push_only(push)].concat());
        });
        let cache = Cache::must_open(&server.url(&format!("{OPTIONS}&protocol=3")));
        for _ in 0..3 {
            for (what, operation) in READS {
                assert_eq!(operation(&cache), Ok(CACHETORY_OK), "{what}");
            }
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
            assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
        }
    }
}

/// A push may also follow an answer; an attribute belongs to the one after it, which there is not.
fn push_only(push: &str) -> Vec<u8> {
    if push.contains('|') { Vec::new() } else { push.into() }
}

#[test]
fn an_attribute_inside_the_answer_to_mget_is_passed_over() {
    let server = Scripted::tcp(|peer| {
        peer.serve(|_| b"*2\r\n|1\r\n+ttl\r\n:1\r\n$1\r\na\r\n$1\r\nb\r\n".to_vec());
    });
    let cache = Cache::must_open(&server.url(&format!("{OPTIONS}&protocol=3")));
    let expected = vec![Some(b"a".to_vec()), Some(b"b".to_vec())];
    assert_eq!(cache.mget(&["k", "l"]), Ok(expected));
}

#[test]
fn an_answer_too_many_is_never_taken_for_the_next_one() {
    // What nobody asked for must never be taken for the answer to a later question.
    for early in [true, false] {
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| {
                let (right, stray) = (bulk(&command[1]), bulk("stray"));
                if early { [right, stray].concat() } else { [right, b"$5\r\nst".to_vec()].concat() }
            });
        });
        let cache = Cache::must_open(&server.url(OPTIONS));
        for number in 0..20 {
            let key = format!("k{number}");
            match cache.get(&key) {
                Ok(value) => assert_eq!(value, Some(key.into_bytes())),
                Err(failure) => assert_eq!(failure.status, CACHETORY_ERR_PROTOCOL, "{failure:?}"),
            }
        }
    }
}

#[test]
fn what_a_server_says_unasked_is_never_taken_for_an_answer() {
    for greeting in ["+hello\r\n", "220 mail.example ESMTP\r\n"] {
        let server = Scripted::tcp(move |peer| {
            peer.send(greeting);
            peer.serve(|command| bulk(&command[1]));
        });
        let cache = Cache::must_open(&server.url(OPTIONS));
        for _ in 0..5 {
            if let Ok(value) = cache.get("k") {
                assert_eq!(value, Some(b"k".to_vec()), "{greeting:?}");
            }
        }
    }
}

#[test]
fn garbage_in_the_handshake_is_a_protocol_error_and_no_write_is_sent() {
    for reply in GARBAGE {
        println!("{:?}", String::from_utf8_lossy(reply));
        let server = Scripted::tcp(move |peer| {
            peer.command();
            peer.send(reply);
            peer.swallow();
        });
        for url in [
            server.url(&format!("{OPTIONS}&password=secret")),
            server.url(&format!("{OPTIONS}&db=3")),
            server.url(&format!("{OPTIONS}&protocol=3")),
        ] {
            let cache = Cache::must_open(&url);
            failed(cache.set("k", "v"), CACHETORY_ERR_PROTOCOL, 0);
        }
    }
}

#[test]
fn a_plain_server_behind_a_tls_url_is_a_tls_error() {
    let server = Scripted::tcp(|peer| {
        peer.take(20);
        peer.send("-ERR Protocol error\r\n");
        peer.swallow();
    });
    let cache = Cache::must_open(&server.url(OPTIONS).replace("redis://", "rediss://"));
    failed_either(cache.set("k", "v"), &[CACHETORY_ERR_TLS], 0);
}
