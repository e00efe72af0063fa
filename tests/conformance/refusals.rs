//! What a server refuses, and what is and is not said to it.

use crate::fixture::encode;
use crate::support::capi::*;
use crate::support::server::{self, PASSWORD, Server, Setup};

const OK: Outcome = Ok(CACHETORY_OK);

/// Every call fails alike, says why in the server's words, and gives no password away.
#[track_caller]
fn refused(url: &str, status: i32, words: &str) {
    let cache = Cache::must_open(url);
    let failures = [
        cache.ping().unwrap_err(),
        cache.get("key").unwrap_err(),
        cache.mget(&["a", "b"]).unwrap_err(),
        cache.set("key", "value").unwrap_err(),
        cache.mset(&[("a", "1")], NO_EXPIRY).unwrap_err(),
        cache.mset(&[("a", "1")], 1000).unwrap_err(),
        cache.expire_in("key", 1).unwrap_err(),
        cache.delete("key").unwrap_err(),
        cache.mdelete(&["key"]).unwrap_err(),
        cache.clear().unwrap_err(),
    ];
    for failure in failures {
        assert_eq!((failure.status, failure.flags), (status, 0), "{url}: {failure:?}");
        assert!(failure.message.contains(words), "{url}: {failure:?}");
        for secret in [PASSWORD, "wrong-secret"] {
            assert!(!failure.message.contains(secret), "{failure:?}");
        }
    }
}

fn allow(server: &Server, user: &str, rules: &[&str]) {
    let head = ["ACL", "SETUSER", user, "reset", "on", ">pw", "~*"];
    let words: Vec<&str> = head.iter().chain(rules).copied().collect();
    let () = server.query(&words);
}

fn url_of(server: &Server, user: &str) -> String {
    format!("redis://{user}:pw@127.0.0.1:{}", server.port())
}

#[test]
fn a_wrong_password_fails_every_call_as_refused() {
    let port = server::guarded().port();
    let url = format!("redis://:wrong-secret@127.0.0.1:{port}");
    refused(&url, CACHETORY_ERR_AUTH, "WRONGPASS");
    refused(&format!("{url}?protocol=3"), CACHETORY_ERR_AUTH, "WRONGPASS");
    refused(&format!("{url}/9?prefix=p:"), CACHETORY_ERR_AUTH, "WRONGPASS");
}

#[test]
fn a_missing_password_fails_every_call_as_refused() {
    let url = server::guarded().tcp_url();
    refused(&url, CACHETORY_ERR_AUTH, "NOAUTH");
    refused(&format!("{url}/3?client_name=x"), CACHETORY_ERR_AUTH, "NOAUTH");
    refused(&format!("{url}?protocol=3"), CACHETORY_ERR_AUTH, "NOAUTH");
}

#[test]
fn a_password_where_none_is_wanted_is_refused() {
    let port = server::redis().port();
    refused(&format!("redis://:wrong-secret@127.0.0.1:{port}"), CACHETORY_ERR_AUTH, "AUTH");
}

#[test]
fn an_unknown_user_is_refused() {
    let password = encode(PASSWORD);
    let port = server::guarded().port();
    let url = format!("redis://nobody:{password}@127.0.0.1:{port}");
    refused(&url, CACHETORY_ERR_AUTH, "WRONGPASS");
    refused(&format!("{url}?protocol=3"), CACHETORY_ERR_AUTH, "WRONGPASS");
}

#[test]
fn a_user_without_a_permission_keeps_its_connection() {
    let server = server::guarded();
    allow(server, "reader", &["-@all", "+get", "+ping"]);
    let cache = Cache::must_open(&url_of(server, "reader"));
    assert_eq!(cache.ping(), OK);
    assert_eq!(cache.get("key"), Ok(None));
    let failures = [
        cache.set("key", "value").unwrap_err(),
        cache.mget(&["a"]).unwrap_err(),
        cache.mset(&[("a", "1")], NO_EXPIRY).unwrap_err(),
        cache.expire_in("key", 1000).unwrap_err(),
        cache.expire_in("key", NO_EXPIRY).unwrap_err(),
        cache.expire_at("key", 1000).unwrap_err(),
        cache.delete("key").unwrap_err(),
        cache.mdelete(&["key"]).unwrap_err(),
        cache.clear().unwrap_err(),
    ];
    for failure in failures {
        assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_AUTH, 0), "{failure:?}");
        assert!(failure.message.contains("NOPERM"), "{failure:?}");
    }
    assert_eq!(cache.get("key"), Ok(None), "the connection goes on");
}

#[test]
fn a_batch_with_a_forbidden_key_is_not_applied() {
    let server = server::guarded();
    allow(server, "fenced", &["resetkeys", "~own:*", "+@all"]);
    let cache = Cache::must_open(&url_of(server, "fenced"));
    assert_eq!(cache.set("own:key", "value"), OK);
    let failure = cache.set("others", "value").unwrap_err();
    assert_eq!(failure.status, CACHETORY_ERR_AUTH, "{failure:?}");
    // One refused SET is enough to apply none of the batch, and its refusal is what is reported.
    let batch = [("own:a", "1"), ("others", "2"), ("own:b", "3")];
    for ttl in [NO_EXPIRY, 60_000] {
        let failure = cache.mset(&batch, ttl).unwrap_err();
        assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_AUTH, 0), "{failure:?}");
        assert!(failure.message.contains("NOPERM"), "{failure:?}");
        assert_eq!(cache.mget(&["own:a", "own:b"]), Ok(vec![None, None]));
    }
    assert_eq!(cache.get("own:key"), Ok(Some(b"value".to_vec())));
}

#[test]
fn mset_with_a_ttl_without_transactions_may_have_been_applied() {
    let server = server::guarded();
    allow(server, "plain", &["+@all", "-multi"]);
    let cache = Cache::must_open(&url_of(server, "plain"));
    let failure = cache.mset(&[("plain:a", "1"), ("plain:b", "2")], 60_000).unwrap_err();
    assert_eq!(failure.status, CACHETORY_ERR_AUTH, "{failure:?}");
    assert!(failure.message.contains("NOPERM"), "{failure:?}");
    assert!(failure.is_maybe_applied(), "the server ran each SET by itself: {failure:?}");
    assert_eq!(cache.mset(&[("plain:a", "3")], NO_EXPIRY), OK);
    assert_eq!(cache.get("plain:a"), Ok(Some(b"3".to_vec())), "replies and calls still match");
    assert_eq!(cache.mdelete(&["plain:a", "plain:b"]), Ok(2));
}

#[test]
fn a_database_that_is_not_there_fails_every_call() {
    let url = server::redis().tcp_url();
    refused(&format!("{url}/64"), CACHETORY_ERR_SERVER, "DB index is out of range");
    refused(
        &format!("{url}?db=99999&protocol=3"),
        CACHETORY_ERR_SERVER,
        "DB index is out of range",
    );
}

#[test]
fn no_command_is_sent_that_nobody_asked_for() {
    let server = Setup::redis().start();
    let () = server.query(&["CONFIG", "RESETSTAT"]);
    let cache = Cache::must_open(&server.tcp_url());
    assert_eq!(cache.set("key", "value"), OK);
    assert_eq!(cache.get("key"), Ok(Some(b"value".to_vec())));
    let stats: String = server.query(&["INFO", "commandstats"]);
    for command in ["select", "hello", "auth", "client|setname", "ping"] {
        let field = format!("cmdstat_{command}:");
        assert!(!stats.contains(&field), "{command} was sent:\n{stats}");
    }
}

#[test]
fn every_link_is_in_the_right_database_as_the_right_user() {
    let server = server::guarded();
    allow(server, "tenth", &["+@all"]);
    let url = format!("{}/10?max_connections=4&client_name=tenth", url_of(server, "tenth"));
    let cache = Cache::must_open(&url);
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..50 {
                    assert_eq!(cache.set(format!("{thread}:{round}"), "value"), OK);
                }
            });
        }
    });
    let count: u64 = redis::cmd("DBSIZE").query(&mut server.client(10)).unwrap();
    assert_eq!(count, 600);
    let list: String = server.query(&["CLIENT", "LIST"]);
    let links: Vec<&str> = list.lines().filter(|line| line.contains(" name=tenth ")).collect();
    assert!((1..=4).contains(&links.len()), "{list}");
    assert!(links.iter().all(|line| line.contains(" db=10 ") && line.contains(" user=tenth ")));
}
