//! Calls of threads to a server that is far away: a request goes over a link while replies to others are outstanding.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::calls::failed;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::gates::wait_for_key;
use super::support::proxy::{Proxy, Way};
use super::support::queue::Queue;
use super::support::scripted::{Command, Peer, Scripted, echo};
use super::support::server::Setup;
use super::support::socket::Address;
use super::support::{must_end, pause, poll};

/// How much later than from a near server the replies come.
const AWAY: Duration = Duration::from_millis(2);
const FAR: &str = "socket_timeout=600";

fn is_held(command: &Command) -> bool {
    command[1].starts_with(b"held")
}

/// A server that is far away. What is asked about keys that begin with `held` is left to `hold`.
fn far_away(hold: impl Fn(&mut Peer, Command) + Send + Sync + 'static) -> Scripted {
    Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            if is_held(&command) {
                hold(peer, command);
            } else if !peer.send_after(AWAY, echo(&command)) {
                return;
            }
        }
    })
}

/// Calls until it is known that the server is far away, and that callers contend for links to it.
fn crowd(cache: &Cache, threads: usize) {
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for round in 0..8 {
                    let key = format!("{thread}:{round}");
                    assert_eq!(cache.get(&key), Ok(Some(key.into_bytes())));
                }
            });
        }
    });
}

/// A server that answers nothing about a key that is held before it has read two such requests.
fn answering_in_pairs() -> Scripted {
    far_away(|peer, first| {
        let Some(second) = peer.request() else { return };
        peer.send([echo(&first), echo(&second)].concat());
    })
}

#[test]
fn a_call_is_sent_while_the_reply_to_another_is_outstanding_on_the_only_link() {
    let server = answering_in_pairs();
    let cache = Cache::must_open(&server.url("socket_timeout=5&max_connections=1&fail_fast=false"));
    // Whether the callers still contend when the two come is left to chance.
    poll("a pair of calls is answered", || {
        crowd(&cache, 4);
        thread::scope(|scope| {
            let pair = ["held:1", "held:2"].map(|key| {
                let cache = &cache;
                scope.spawn(move || (key, cache.get(key)))
            });
            let answers = pair.map(|call| call.join().unwrap());
            let is_answered = |(key, answer): &(&str, Result<Option<Vec<u8>>, Failure>)| {
                answer.as_ref().is_ok_and(|found| found.as_deref() == Some(key.as_bytes()))
            };
            answers.iter().all(is_answered).then_some(())
        })
    });
}

#[test]
fn a_driver_whose_deadline_passes_leaves_the_link_to_the_others() {
    let open = Arc::new(AtomicUsize::new(0));
    let gate = Arc::clone(&open);
    let server = far_away(move |peer, first| {
        let Some(second) = peer.request() else { return };
        peer.hang_until(|| gate.load(Ordering::SeqCst) > 0);
        peer.send([echo(&first), echo(&second)].concat());
    });
    // So far that a link is not taken to be silent before there are seconds between two deadlines.
    let proxy = Proxy::to(server.address().clone());
    for way in [Way::ToServer, Way::ToClient] {
        proxy.delay(way, Duration::from_millis(200));
    }
    let cache = Cache::must_open(
        &proxy.address().url("socket_timeout=5&max_connections=1&fail_fast=false"),
    );
    poll("a call joins one that is never answered", || {
        open.store(0, Ordering::SeqCst);
        crowd(&cache, 4);
        let before = server.connections();
        let asked = |key: &[u8]| server.requests().iter().filter(|it| it.command[1] == key).count();
        let (early_before, late_before) = (asked(b"held:early"), asked(b"held:late"));
        let (answer, has_joined) = thread::scope(|scope| {
            let early = scope.spawn(|| cache.get("held:early"));
            poll("it is sent", || (asked(b"held:early") > early_before).then_some(()));
            // So that there is time for the one after the other has run into its deadline.
            pause::let_deadlines_part(Duration::from_secs(1));
            let late = scope.spawn(|| cache.get("held:late"));
            poll("it is sent, or the first ends", || {
                (asked(b"held:late") > late_before || early.is_finished()).then_some(())
            });
            let has_joined = !early.is_finished();
            failed(early.join().unwrap(), CACHETORY_ERR_TIMEOUT, RETRYABLE);
            open.store(1, Ordering::SeqCst);
            (late.join().unwrap(), has_joined)
        });
        if !has_joined || answer.is_err() {
            return None;
        }
        assert_eq!(answer, Ok(Some(b"held:late".to_vec())));
        assert_eq!(cache.get("next"), Ok(Some(b"next".to_vec())), "the link is in step");
        assert_eq!(server.connections(), before);
        Some(())
    });
}

#[test]
fn a_silent_link_holds_up_no_caller_that_comes_later() {
    let server = far_away(|peer, _| peer.hang());
    let cache = Cache::must_open(&server.url(FAR));
    crowd(&cache, 24);
    thread::scope(|scope| {
        let silent = scope.spawn(|| cache.get("held"));
        wait_for_key(&server, "held");
        // For longer than several round trips on the busiest machine.
        pause::let_deadlines_part(Duration::from_secs(2));
        must_end(|| crowd(&cache, 24));
        assert!(!silent.is_finished());
        assert_eq!(cache.close(), CACHETORY_OK);
        failed(must_end(|| silent.join().unwrap()), CACHETORY_ERR_CLOSED, 0);
    });
}

#[test]
fn closing_ends_every_call_of_a_docked_link() {
    for options in ["&max_connections=1", ""] {
        let server = far_away(|peer, _| peer.swallow());
        let cache = Cache::must_open(&server.url(&format!("{FAR}{options}")));
        crowd(&cache, 16);
        thread::scope(|scope| {
            let cache = &cache;
            let calls: Vec<_> = (0..16)
                .map(|number| scope.spawn(move || cache.get(format!("held:{number}"))))
                .collect();
            poll("one is sent", || {
                server.requests().iter().any(|it| is_held(&it.command)).then_some(())
            });
            pause::let_calls_gather();
            assert_eq!(cache.close(), CACHETORY_OK);
            must_end(|| {
                for call in calls {
                    failed(call.join().unwrap(), CACHETORY_ERR_CLOSED, 0);
                }
            });
        });
    }
}

#[test]
fn a_docked_link_that_breaks_loses_no_read_and_sends_no_write_twice() {
    const CALLS: usize = 8;
    let server = far_away(|peer, first| {
        if peer.number > 0 {
            peer.send(echo(&first));
            return;
        }
        // The first two are answered, and what else there is has been read for nothing.
        let Some(second) = peer.request() else { return };
        let Some(_) = peer.request() else { return };
        peer.send([echo(&first), echo(&second)].concat());
        peer.reset();
    });
    let cache = Cache::must_open(&server.url("socket_timeout=60&max_connections=1"));
    crowd(&cache, 8);
    thread::scope(|scope| {
        let cache = &cache;
        let calls: Vec<_> = (0..CALLS)
            .map(|number| {
                scope.spawn(move || {
                    let written = cache.set(format!("held:w{number}"), "v");
                    let key = format!("held:r{number}");
                    assert_eq!(cache.get(&key), Ok(Some(key.into_bytes())));
                    written
                })
            })
            .collect();
        for call in calls {
            if let Err(failure) = call.join().unwrap() {
                assert_eq!(failure.status, CACHETORY_ERR_IO, "{failure:?}");
                assert!(failure.is_maybe_applied(), "{failure:?}");
            }
        }
    });
    for number in 0..CALLS {
        let key = format!("held:w{number}").into_bytes();
        let sent = server.requests().iter().filter(|request| request.command[1] == key).count();
        assert!(sent <= 1, "{sent} writes of w{number}");
    }
}

/// Each thread reads back what it has just written, and now and then something large is among it.
fn each_reads_its_own(cache: &Cache, threads: usize) {
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for round in 0..20 {
                    let key = format!("{thread}:{}", round % 3);
                    let value =
                        format!("{key}={round}").repeat(if round == 7 { 20_000 } else { 1 });
                    cache.set(&key, &value).unwrap();
                    assert_eq!(cache.get(&key).unwrap().unwrap(), value.as_bytes());
                    let batch = cache.mget(&["nothing", &key]).unwrap();
                    assert_eq!(batch, [None, Some(value.into_bytes())]);
                }
            });
        }
    });
}

#[test]
fn threads_get_each_its_own_answer_from_far_away() {
    let pair = &certs().server;
    let server = Setup::redis().tls(pair, None).start();
    let tls = format!("&ssl_ca_certs={}", certs().ca.cert.display());
    for (scheme, port, rest) in
        [("redis", server.port(), ""), ("rediss", server.tls_port(), tls.as_str())]
    {
        let proxy = Proxy::to(Address::Tcp(port));
        for way in [Way::ToServer, Way::ToClient] {
            proxy.delay(way, Duration::from_millis(1));
        }
        for options in ["max_connections=1", "max_connections=2&spin_us=0", "max_connections=64"] {
            let port = proxy.port();
            let url = format!("{scheme}://localhost:{port}?{options}&socket_timeout=60{rest}");
            each_reads_its_own(&Cache::must_open(&url), 16);
        }
    }
}

#[test]
fn asynchronous_calls_join_what_threads_have_under_way() {
    let server = far_away(|peer, _| peer.hang());
    let cache = Cache::must_open(&server.url("socket_timeout=60&max_connections=2"));
    thread::scope(|scope| {
        for thread in 0..8 {
            let cache = &cache;
            scope.spawn(move || {
                let queue = Queue::open();
                for round in 0..20u64 {
                    let key = format!("{thread}:{round}");
                    cache.to(&queue).get(round, &key).unwrap();
                    let other = format!("{thread}:{round}:synchronous");
                    assert_eq!(cache.get(&other), Ok(Some(other.into_bytes())));
                    let mut done = queue.next();
                    assert_eq!(done.outcome(), Ok(CACHETORY_OK));
                    assert_eq!(done.take_value().unwrap().bytes(), key.as_bytes());
                }
            });
        }
    });
}
