//! A server that answers nothing: it costs one deadline, and calls fail at once afterwards, until it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::support::calls::*;
use super::support::capi::*;
use super::support::full_port::FullPort;
use super::support::gates::wait_for_key;
use super::support::queue::Queue;
use super::support::scripted::{Peer, Scripted, echo};
use super::support::server::Setup;
use super::support::{must_end, pause, poll};

const SHORT: &str = "socket_timeout=0.4";

fn is_down<T>(result: &Result<T, Failure>) -> bool {
    result.as_ref().is_err_and(|failure| failure.status == CACHETORY_ERR_DOWN)
}

/// Calls until the server is found to be down.
#[track_caller]
fn find_down(cache: &Cache) {
    poll("the server is down", || is_down(&cache.get("k")).then_some(()));
}

/// Answers as long as it may, and nothing after that.
fn serve_while(peer: &mut Peer, may_answer: &AtomicBool) {
    while let Some(command) = peer.request() {
        if !may_answer.load(Ordering::SeqCst) {
            return peer.swallow();
        }
        peer.send(echo(&command));
    }
}

#[test]
fn a_server_that_stops_is_found_down_once_and_up_again() {
    for_each_face(|face| {
        let server = Setup::redis().start();
        for url in [server.tcp_url(), server.unix_url()] {
            let and = if url.contains('?') { '&' } else { '?' };
            let cache = Cache::must_open(&format!("{url}{and}{SHORT}")).with(face);
            poll("a server that starts", || cache.set("k", "v").ok());
            server.pause();
            failed_either(
                must_end(|| cache.get("k")),
                &[CACHETORY_ERR_TIMEOUT, CACHETORY_ERR_DOWN],
                RETRYABLE,
            );
            find_down(&cache);
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}");
                failed(must_end(|| operation(&cache)), CACHETORY_ERR_DOWN, RETRYABLE);
            }
            server.resume();
            poll("the server is up", || cache.get("k").ok());
            assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
        }
    });
}

#[test]
fn a_host_that_ignores_us_is_found_down() {
    let port = FullPort::new();
    for_each_face(|face| {
        let url = port.url("socket_connect_timeout=0.3&socket_timeout=60");
        let cache = Cache::must_open(&url).with(face);
        failed(must_end(|| cache.get("k")), CACHETORY_ERR_CONNECT, RETRYABLE);
        find_down(&cache);
        failed(must_end(|| cache.set("k", "v")), CACHETORY_ERR_DOWN, RETRYABLE);
        let patient = Cache::must_open(&format!("{url}&fail_fast=false")).with(face);
        for _ in 0..3 {
            failed(must_end(|| patient.get("k")), CACHETORY_ERR_CONNECT, RETRYABLE);
        }
    });
}

#[test]
fn who_waits_is_let_go_when_the_server_is_found_down() {
    // The second call has this long beyond the first, in which the server is asked.
    let later = Duration::from_secs(3);
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| while peer.request().is_some() {});
        let url = server.url("socket_timeout=6&socket_connect_timeout=0.2&max_connections=3");
        let cache = Cache::must_open(&url).with(face);
        thread::scope(|scope| {
            let first = scope.spawn(|| cache.get("first"));
            wait_for_key(&server, "first");
            pause::provoke_for(later);
            let second = scope.spawn(|| cache.set("second", "v"));
            failed(first.join().unwrap(), CACHETORY_ERR_TIMEOUT, RETRYABLE);
            let flags = RETRYABLE | MAYBE_APPLIED;
            failed(second.join().unwrap(), CACHETORY_ERR_DOWN, flags);
        });
        failed(cache.set("third", "v"), CACHETORY_ERR_DOWN, RETRYABLE);
        assert!(
            server
                .requests()
                .iter()
                .all(|request| request.command.get(1).is_none_or(|key| key != b"third"))
        );
    });
}

#[test]
fn a_submission_to_a_server_that_is_down_is_refused() {
    let server = Scripted::tcp(|peer| peer.swallow());
    let cache = Cache::must_open(&server.url(SHORT));
    find_down(&cache);
    let queue = Queue::open();
    let refused = cache.to(&queue).get(1, "k");
    failed(refused, CACHETORY_ERR_DOWN, RETRYABLE);
    queue.assert_empty();
}

#[test]
fn a_refused_connection_makes_nobody_down() {
    let address = Scripted::tcp(|_| {}).url(SHORT);
    for_each_face(|face| {
        let cache = Cache::must_open(&address).with(face);
        for _ in 0..20 {
            failed(cache.get("k"), CACHETORY_ERR_CONNECT, RETRYABLE);
        }
    });
}

#[test]
fn a_slow_command_makes_nobody_down() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| {
            while let Some(command) = peer.request() {
                if command.get(1).is_some_and(|key| key == b"slow") {
                    return peer.swallow();
                }
                peer.send(echo(&command));
            }
        });
        let cache = Cache::must_open(&server.url("socket_timeout=3")).with(face);
        for _ in 0..2 {
            failed(must_end(|| cache.get("slow")), CACHETORY_ERR_TIMEOUT, RETRYABLE);
            for _ in 0..20 {
                assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
            }
        }
    });
}

#[test]
fn a_large_value_that_takes_longer_than_the_deadline_makes_nobody_down() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| {
            while let Some(command) = peer.request() {
                match command.get(1).is_some_and(|key| key == b"large") {
                    true => {
                        peer.send(format!("${}\r\n", 64 << 20));
                        peer.drip([b'x'; 1000], Duration::from_millis(10));
                    }
                    false => _ = peer.send(echo(&command)),
                }
            }
        });
        let cache = Cache::must_open(&server.url("socket_timeout=3")).with(face);
        failed(must_end(|| cache.get("large")), CACHETORY_ERR_TIMEOUT, RETRYABLE);
        for _ in 0..20 {
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
        }
    });
}

#[test]
fn an_answer_to_the_login_says_that_the_server_is_up() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| match peer.number {
            0 => serve_while(peer, &AtomicBool::new(false)),
            _ => {
                peer.command();
                peer.send(b"-WRONGPASS no\r\n");
            }
        });
        let url = server.url("socket_timeout=3").replace("redis://", "redis://:secret@");
        let cache = Cache::must_open(&url).with(face);
        failed(must_end(|| cache.get("k")), CACHETORY_ERR_TIMEOUT, RETRYABLE);
        for _ in 0..5 {
            failed(must_end(|| cache.get("k")), CACHETORY_ERR_AUTH, 0);
        }
    });
}

#[test]
fn a_cache_is_closed_while_its_server_is_down() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&may_answer);
    let server = Scripted::tcp(move |peer| serve_while(peer, &answers));
    let url = server.url(SHORT);
    let closed = Cache::must_open(&url);
    find_down(&closed);
    assert_eq!(closed.close(), CACHETORY_OK);
    failed(closed.get("k"), CACHETORY_ERR_CLOSED, 0);
    // Each handle finds out for itself.
    may_answer.store(true, Ordering::SeqCst);
    assert_eq!(Cache::must_open(&url).get("k"), Ok(Some(b"k".to_vec())));
}
