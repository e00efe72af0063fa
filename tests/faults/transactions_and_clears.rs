//! `mset` with a ttl and `clear` with a prefix take several commands, each of which may fail.

use std::collections::BTreeSet;

use super::support::calls::{failed, failed_either};
use super::support::capi::*;
use super::support::scripted::{Scripted, array, bulk, echo, name};
use super::support::server::{Server, Setup};

const PAIR: [(&str, &str); 2] = [("ok:1", "v"), ("no:1", "w")];

/// A cache whose user may do everything but what `rules` say, on a server with that user.
fn limited(server: &Server, rules: &[&str]) -> Cache {
    let mut words = vec!["ACL", "SETUSER", "limited", "reset", "on", ">pw", "~*", "+@all"];
    words.extend(rules);
    server.query::<()>(&words);
    Cache::must_open(&format!("redis://limited:pw@127.0.0.1:{}?max_connections=1", server.port()))
}

/// The link was not left in the middle of a transaction: its answers are those of its questions.
#[track_caller]
fn is_usable(server: &Server, cache: &Cache) {
    server.query::<()>(&["SET", "probe", "p"]);
    for _ in 0..3 {
        assert_eq!(cache.get("probe"), Ok(Some(b"p".to_vec())));
        assert_eq!(cache.ping(), Ok(CACHETORY_OK));
    }
}

#[test]
fn mset_with_a_ttl_says_that_it_may_be_applied_where_multi_is_refused() {
    let server = Setup::redis().start();
    let cache = limited(&server, &["-multi"]);
    let message = failed(cache.mset(&PAIR, 60_000), CACHETORY_ERR_AUTH, MAYBE_APPLIED);
    assert!(message.contains("NOPERM") && message.to_lowercase().contains("multi"), "{message}");
    is_usable(&server, &cache);
}

#[test]
fn mset_with_a_ttl_applies_nothing_where_a_set_is_refused() {
    let server = Setup::redis().start();
    for rules in [&["-set"][..], &["resetkeys", "~ok:*", "~probe"]] {
        let cache = limited(&server, rules);
        let message = failed(cache.mset(&PAIR, 60_000), CACHETORY_ERR_AUTH, 0);
        assert!(message.contains("NOPERM") && !message.contains("EXECABORT"), "{message}");
        is_usable(&server, &cache);
        assert_eq!(cache.get("ok:1"), Ok(None), "nothing was applied");
    }
}

#[test]
fn mset_with_a_ttl_applies_nothing_where_exec_is_refused() {
    let server = Setup::redis().start();
    for rules in [&["-exec"][..], &["-exec", "-discard"]] {
        let cache = limited(&server, rules);
        // Redis gives this refusal the code EXECABORT.
        let statuses = [CACHETORY_ERR_AUTH, CACHETORY_ERR_SERVER];
        let message = failed_either(cache.mset(&PAIR, 60_000), &statuses, 0);
        assert!(message.contains("NOPERM"), "{message}");
        is_usable(&server, &cache);
        assert_eq!(cache.get("ok:1"), Ok(None), "nothing was applied");
    }
}

/// Answers an `mset` of two keys with a ttl by `replies`, as far as they go, and then as told.
fn transaction(replies: &'static [&'static str], then_close: bool) -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number > 0 {
            return peer.serve(echo);
        }
        for reply in replies {
            let Some(_) = peer.request() else { return };
            peer.send(reply);
        }
        if then_close {
            peer.request();
            return peer.close();
        }
        peer.serve(echo);
    })
}

const MULTI: &str = "+OK\r\n";
const QUEUED: &str = "+QUEUED\r\n";
const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors.\r\n";

#[test]
fn an_error_anywhere_in_a_transaction_is_the_calls_error() {
    type Case = (&'static [&'static str], i32, u32, &'static str);
    const OOM: &str = "-OOM command not allowed\r\n";
    let table: [Case; 6] = [
        (&[MULTI, QUEUED, QUEUED, "*2\r\n+OK\r\n+OK\r\n"], CACHETORY_OK, 0, ""),
        (&[MULTI, OOM, QUEUED, ABORTED], CACHETORY_ERR_SERVER, RETRYABLE, "OOM"),
        (&[MULTI, QUEUED, OOM, ABORTED], CACHETORY_ERR_SERVER, RETRYABLE, "OOM"),
        (&[MULTI, QUEUED, QUEUED, ABORTED], CACHETORY_ERR_SERVER, 0, "EXECABORT"),
        (
            &["-LOADING wait\r\n", "+OK\r\n", "+OK\r\n", "-ERR EXEC without MULTI\r\n"],
            CACHETORY_ERR_SERVER,
            RETRYABLE | MAYBE_APPLIED,
            "LOADING",
        ),
        // Carried out in part.
        (
            &[MULTI, QUEUED, QUEUED, "*2\r\n+OK\r\n-OOM no more\r\n"],
            CACHETORY_ERR_SERVER,
            RETRYABLE | MAYBE_APPLIED,
            "OOM",
        ),
    ];
    for (replies, status, flags, text) in table {
        println!("{replies:?}");
        let server = transaction(replies, false);
        let cache = Cache::must_open(&server.url("max_connections=1"));
        let outcome = cache.mset(&PAIR, 60_000);
        if status == CACHETORY_OK {
            assert_eq!(outcome, Ok(CACHETORY_OK));
        } else {
            let message = failed(outcome, status, flags);
            assert!(message.contains(text), "{message}");
        }
        assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
        let names: Vec<_> =
            server.requests().iter().take(4).map(|request| request.name()).collect();
        assert_eq!(names, ["MULTI", "SET", "SET", "EXEC"]);
        assert!(server.requests()[..4].iter().all(|request| request.connection == 0));
    }
}

#[test]
fn a_transaction_with_an_answer_too_few_is_a_protocol_error() {
    let server = transaction(&[MULTI, QUEUED, QUEUED, "*1\r\n+OK\r\n"], false);
    let cache = Cache::must_open(&server.url(""));
    failed(cache.mset(&PAIR, 60_000), CACHETORY_ERR_PROTOCOL, MAYBE_APPLIED);
}

#[test]
fn a_transaction_that_breaks_is_not_sent_again() {
    for replies in
        [&[][..], &[MULTI], &[MULTI, QUEUED], &[MULTI, QUEUED, QUEUED], &["-NOPERM no\r\n"]]
    {
        println!("{replies:?}");
        let server = transaction(replies, true);
        let cache = Cache::must_open(&server.url(""));
        let outcome = cache.mset(&PAIR, 60_000);
        failed(outcome, CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
        assert_eq!(server.connections(), 1, "it must not be tried again");
        assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
    }
}

/// A page of SCAN.
fn page(cursor: u64, keys: &[&str]) -> Vec<u8> {
    let keys: Vec<_> = keys.iter().map(bulk).collect();
    array(&[bulk(cursor.to_string()), array(&keys)])
}

#[test]
fn clear_deletes_nothing_without_its_prefix_whatever_scan_returns() {
    let server = Scripted::tcp(|peer| {
        peer.serve(|command| match (name(command).as_str(), command.get(1).map(Vec::as_slice)) {
            ("SCAN", Some(b"0")) => page(u64::MAX, &[]),
            ("SCAN", Some(b"18446744073709551615")) => {
                page(7, &["p:1", "q:neighbour", "p:1", "P:2", "p", "", "p", ":p:", "xp:1"])
            }
            ("SCAN", Some(b"7")) => page(9, &["q:1", "pp:1"]),
            ("SCAN", Some(b"9")) => page(0, &["p:3", "p:"]),
            ("UNLINK", _) => format!(":{}\r\n", command.len() - 1).into_bytes(),
            _ => panic!("not in this script: {command:?}"),
        });
    });
    for query in ["prefix=p:", "prefix=p:&protocol=3"] {
        let cache = Cache::must_open(&server.url(query));
        assert_eq!(cache.clear(), Ok(CACHETORY_OK));
    }
    let mut unlinked = BTreeSet::new();
    for request in server.requests() {
        if request.name() == "UNLINK" {
            assert!(request.command.len() > 1, "an UNLINK of nothing is an error");
            unlinked.extend(request.command.into_iter().skip(1));
        }
    }
    assert_eq!(unlinked, ["p:", "p:1", "p:3"].map(|key| key.as_bytes().to_vec()).into());
}

#[test]
fn clear_escapes_the_pattern_characters_of_its_prefix() {
    let server = Scripted::tcp(|peer| peer.serve(|_| page(0, &[])));
    let cache = Cache::must_open(&server.url("prefix=a*b?c%5bd%5de%5cf"));
    assert_eq!(cache.clear(), Ok(CACHETORY_OK));
    let scan = &server.requests()[0].command;
    let pattern = scan.iter().position(|word| word.eq_ignore_ascii_case(b"MATCH")).unwrap() + 1;
    let pattern = String::from_utf8_lossy(&scan[pattern]);
    assert_eq!(pattern.replace(r"\]", "]"), r"a\*b\?c\[d]e\\f*");
    assert_eq!(server.count("FLUSHDB"), 0);
}

#[test]
fn a_clear_that_breaks_deletes_no_page_twice() {
    // (closed at the SCAN of this cursor, or at UNLINK; flags)
    for (stop, flags) in [
        ("SCAN 0", RETRYABLE),
        ("UNLINK", RETRYABLE | MAYBE_APPLIED),
        ("SCAN 7", RETRYABLE | MAYBE_APPLIED),
    ] {
        println!("{stop}");
        let server = Scripted::tcp(move |peer| {
            while let Some(command) = peer.request() {
                let cursor = String::from_utf8_lossy(&command[1]).into_owned();
                let what = name(&command);
                if what == stop || format!("{what} {cursor}") == stop {
                    return peer.close();
                }
                peer.send(match what.as_str() {
                    "SCAN" => page(7, &["p:1"]),
                    _ => b":1\r\n".to_vec(),
                });
            }
        });
        let cache = Cache::must_open(&server.url("prefix=p:"));
        failed(cache.clear(), CACHETORY_ERR_IO, flags);
        assert!(server.count("UNLINK") <= 1, "a write is not sent again");
    }
}

#[test]
fn a_clear_whose_command_is_refused_fails_as_refused() {
    for (refused, flags) in [("SCAN", 0), ("UNLINK", 0)] {
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| match name(command) {
                name if name == refused => b"-NOPERM no\r\n".to_vec(),
                _ => page(0, &["p:1"]),
            });
        });
        let cache = Cache::must_open(&server.url("prefix=p:"));
        let message = cache.clear().map_err(|failure| {
            // Whether an UNLINK that was refused counts as sent is left open.
            let flags_given = failure.flags & if refused == "UNLINK" { !MAYBE_APPLIED } else { !0 };
            Failure { flags: flags_given, ..failure }
        });
        let message = failed(message, CACHETORY_ERR_AUTH, flags);
        assert!(message.contains("NOPERM"), "{message}");
    }
}
