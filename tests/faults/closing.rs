//! Closing a handle under its callers: each call finishes, or says that it was closed; nobody hangs, and nothing
//! crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::support::calls::*;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::scripted::Scripted;
use super::support::server::{Server, Setup};
use super::support::{must_end, pause, poll};

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
fn a_cache_closed_under_many_calls_ends_each_of_them() {
    for_each_face(|face| {
        let server = server();
        for url in urls(&server) {
            for _ in 0..10 {
                let cache = Cache::must_open(&url).with(face);
                let calls = AtomicUsize::new(0);
                thread::scope(|scope| {
                    for thread in 0..8 {
                        let (cache, calls) = (&cache, &calls);
                        scope.spawn(move || use_until_closed(cache, thread, calls));
                    }
                    let some = || (calls.load(Ordering::SeqCst) > 100).then_some(());
                    poll("calls are under way", some);
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
            // It was closed before the call, or under it.
            let statuses = [CACHETORY_ERR_CLOSED, cache.face().closed_under_way()];
            assert!(statuses.contains(&failure.status), "{failure:?}");
            assert!(!failure.is_retryable(), "{failure:?}");
            assert!(is_write || !failure.is_maybe_applied(), "{failure:?}");
            return;
        }
    }
}

#[test]
fn of_many_threads_that_close_a_cache_one_does() {
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

/// A deadline that is far away, and so is not what ends a call.
const FAR: &str = "socket_timeout=600&socket_connect_timeout=600";

/// Makes a call that hangs, closes the handle once `under_way`, and expects the call to end long before its deadline.
fn close_under(
    cache: &Cache,
    flags: u32,
    call: impl Fn(&Cache) -> Outcome + Sync,
    under_way: impl Fn() -> bool,
) {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| must_end(|| call(cache)));
        poll("the call is under way", || under_way().then_some(()));
        assert_eq!(cache.close(), CACHETORY_OK);
        failed(waiting.join().unwrap(), cache.face().closed_under_way(), flags);
    });
}

#[test]
fn closing_ends_a_call_whose_reply_is_awaited() {
    for_each_face(|face| {
        for (operations, flags) in [(&READS[..], 0), (&WRITES[..], MAYBE_APPLIED)] {
            for (what, operation) in operations {
                println!("{what}");
                let server = Scripted::tcp(|peer| while peer.request().is_some() {});
                let cache = Cache::must_open(&server.url(FAR)).with(face);
                close_under(&cache, flags, operation, || !server.requests().is_empty());
            }
        }
    });
}

#[test]
fn closing_ends_a_call_whose_connection_is_being_made() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| peer.swallow());
        let login = server.url(&format!("{FAR}&password=secret"));
        let tls = server.url(FAR).replace("redis://", "rediss://");
        for url in [login, tls] {
            let before = server.connections();
            let cache = Cache::must_open(&url).with(face);
            let is_connected = || server.connections() > before;
            close_under(&cache, 0, |cache| cache.set("k", "v"), is_connected);
        }
    });
}

#[test]
fn closing_ends_a_call_whose_large_value_is_being_written() {
    let large = vec![b'v'; 50 << 20];
    for_each_face(|face| {
        // Before the first byte has arrived it may be that none was sent, and then nothing can have been applied.
        let begun = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&begun);
        let server = Scripted::tcp(move |peer| {
            peer.take(1);
            seen.store(true, Ordering::SeqCst);
            peer.hang();
        });
        let cache = Cache::must_open(&server.url(FAR)).with(face);
        let set = |cache: &Cache| cache.set("k", &large);
        close_under(&cache, MAYBE_APPLIED, set, || begun.load(Ordering::SeqCst));
    });
}

#[test]
fn closing_ends_those_who_wait_for_the_only_link() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| while peer.request().is_some() {});
        let url = server.url(&format!("{FAR}&max_connections=1"));
        let cache = Cache::must_open(&url).with(face);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..8)
                .map(|number| {
                    let cache = &cache;
                    scope.spawn(move || must_end(|| cache.get(format!("k{number}"))))
                })
                .collect();
            server.wait_for("GET", 1);
            pause::let_calls_gather();
            assert_eq!(cache.close(), CACHETORY_OK);
            for call in waiting {
                // Who had not come to call yet finds it closed.
                let statuses = [CACHETORY_ERR_CLOSED, face.closed_under_way()];
                failed_either(call.join().unwrap(), &statuses, 0);
            }
        });
    });
}

#[test]
fn handles_that_come_and_go_stay_closed() {
    for_each_face(|face| {
        let server = server();
        let url = server.unix_url();
        thread::scope(|scope| {
            for thread in 0..4 {
                let url = &url;
                scope.spawn(move || {
                    let mut stale = Vec::new();
                    for round in 0..50 {
                        let cache = Cache::must_open(url).with(face);
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
    });
}
