//! Closing a handle under its callers: each call finishes or says CLOSED; nobody hangs, and nothing crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::capi::*;
use super::support::certs::certs;
use super::support::poll;
use super::support::scripted::Scripted;
use super::support::server::{Server, Setup};
use super::{READS, WRITES, failed, within};

fn server() -> Server {
    Setup::redis().tls(&certs().server, None).start()
}

fn urls(server: &Server) -> [String; 5] {
    let ca = certs().ca.cert.display();
    [
        server.tcp_url(),
        server.unix_url(),
        format!("{}?ssl_ca_certs={ca}", server.tls_url()),
        format!("{}?max_connections=1", server.tcp_url()),
        "memory://".to_owned(),
    ]
}

#[test]
fn in_the_middle_of_many_calls() {
    let server = server();
    for url in urls(&server) {
        for _ in 0..10 {
            let cache = Cache::must_open(&url);
            let calls = AtomicUsize::new(0);
            thread::scope(|scope| {
                for thread in 0..8 {
                    let (cache, calls) = (&cache, &calls);
                    scope.spawn(move || use_until_closed(cache, thread, calls));
                }
                poll("calls are under way", || (calls.load(Ordering::SeqCst) > 100).then_some(()));
                assert_eq!(cache.close(), CACHETORY_OK);
                assert_eq!(cache.close(), CACHETORY_ERR_CLOSED);
            });
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}");
                failed(operation(&cache), CACHETORY_ERR_CLOSED, 0);
            }
        }
    }
    poll("all connections are gone", || {
        let list: String = server.query(&["CLIENT", "LIST"]);
        (list.lines().count() == 1).then_some(())
    });
}

fn use_until_closed(cache: &Cache, thread: usize, calls: &AtomicUsize) {
    let large = vec![b'v'; 200_000];
    for round in 0.. {
        let key = format!("{thread}:{}", round % 10);
        let (outcome, is_write) = match round % 4 {
            0 => (cache.set(&key, &large), true),
            1 => (cache.get(&key).map(|_| CACHETORY_OK), false),
            2 => (cache.mset(&[(&key, "v"), (&format!("{key}'"), "w")], 60_000), true),
            _ => (cache.mget(&[&key, "l"]).map(|_| CACHETORY_OK), false),
        };
        calls.fetch_add(1, Ordering::SeqCst);
        if let Err(failure) = outcome {
            assert_eq!(failure.status, CACHETORY_ERR_CLOSED, "{failure:?}");
            assert!(!failure.is_retryable(), "{failure:?}");
            assert!(is_write || !failure.is_maybe_applied(), "{failure:?}");
            return;
        }
    }
}

#[test]
fn by_many_threads_at_once() {
    let server = server();
    for url in urls(&server) {
        for _ in 0..50 {
            let cache = Cache::must_open(&url);
            cache.ping().unwrap();
            let closed = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| match cache.close() {
                        CACHETORY_OK => drop(closed.fetch_add(1, Ordering::SeqCst)),
                        status => assert_eq!(status, CACHETORY_ERR_CLOSED),
                    });
                }
            });
            assert_eq!(closed.into_inner(), 1, "one of them closed it");
        }
    }
}

const LONG: &str = "socket_timeout=30&socket_connect_timeout=30";
const SOON: Duration = Duration::from_secs(10);

/// Makes a call that hangs, closes the handle once `under_way`, and expects the call to end long before its deadline.
fn close_under(
    server: &Scripted,
    url: &str,
    flags: u32,
    call: impl Fn(&Cache) -> Outcome + Sync,
    under_way: impl Fn(&Scripted) -> bool,
) {
    let cache = Cache::must_open(url);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| within(SOON, || call(&cache)));
        poll("the call is under way", || under_way(server).then_some(()));
        assert_eq!(cache.close(), CACHETORY_OK);
        failed(waiting.join().unwrap(), CACHETORY_ERR_CLOSED, flags);
    });
}

#[test]
fn while_a_reply_is_awaited() {
    for (operations, flags) in [(&READS[..], 0), (&WRITES[..], MAYBE_APPLIED)] {
        for (what, operation) in operations {
            println!("{what}");
            let server = Scripted::tcp(|peer| while peer.request().is_some() {});
            let asked = |server: &Scripted| !server.requests().is_empty();
            close_under(&server, &server.url(LONG), flags, operation, asked);
        }
    }
}

#[test]
fn while_a_handshake_is_awaited() {
    let server = Scripted::tcp(|peer| peer.swallow());
    let connected = |server: &Scripted| server.connections() > 0;
    let login = server.url(&format!("{LONG}&password=secret"));
    close_under(&server, &login, 0, |cache| cache.set("k", "v"), connected);
    let server = Scripted::tcp(|peer| peer.swallow());
    let tls = server.url(LONG).replace("redis://", "rediss://");
    close_under(&server, &tls, 0, |cache| cache.set("k", "v"), connected);
}

#[test]
fn while_a_large_value_is_written() {
    // Before the first byte has arrived it may be that none was sent, and then nothing can have been applied.
    let begun = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&begun);
    let server = Scripted::tcp(move |peer| {
        peer.take(1);
        seen.store(true, Ordering::SeqCst);
        peer.hang();
    });
    let large = vec![b'v'; 50 << 20];
    let url = server.url(LONG);
    let set = |cache: &Cache| cache.set("k", &large);
    close_under(&server, &url, MAYBE_APPLIED, set, |_| begun.load(Ordering::SeqCst));
}

#[test]
fn while_others_wait_for_the_one_link() {
    let server = Scripted::tcp(|peer| while peer.request().is_some() {});
    let cache = Cache::must_open(&server.url(&format!("{LONG}&max_connections=1")));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|number| {
                let cache = &cache;
                scope.spawn(move || within(SOON, || cache.get(format!("k{number}"))))
            })
            .collect();
        server.wait_for("GET", 1);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(cache.close(), CACHETORY_OK);
        for call in waiting {
            failed(call.join().unwrap(), CACHETORY_ERR_CLOSED, 0);
        }
    });
}

#[test]
fn handles_that_come_and_go() {
    let server = server();
    let url = server.unix_url();
    thread::scope(|scope| {
        for thread in 0..4 {
            let url = &url;
            scope.spawn(move || {
                let mut stale = Vec::new();
                for round in 0..50 {
                    let cache = Cache::must_open(url);
                    let key = format!("{thread}:{round}");
                    assert_eq!(cache.set(&key, &key), Ok(CACHETORY_OK));
                    assert_eq!(cache.get(&key), Ok(Some(key.into_bytes())));
                    assert_eq!(cache.close(), CACHETORY_OK);
                    stale.push(cache);
                    for cache in &stale {
                        failed(cache.get("k"), CACHETORY_ERR_CLOSED, 0);
                    }
                }
            });
        }
    });
}
