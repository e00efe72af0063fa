//! Calls of several threads that go over one link together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::support::caller::Caller;
use super::support::calls::failed;
use super::support::capi::*;
use super::support::scripted::{Peer, Scripted, echo};
use super::support::server::Setup;
use super::support::{must_end, pause, poll};

/// A deadline that is far away, and so is not what ends a call.
const FAR: &str = "socket_timeout=600";

fn flag() -> (Arc<AtomicBool>, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    (Arc::clone(&flag), flag)
}

#[test]
fn threads_that_share_a_link_get_each_its_own_answer() {
    let server = Setup::redis().start();
    for options in ["max_connections=1", "max_connections=1&spin_us=0", "max_connections=2"] {
        let cache = Cache::must_open(&format!("{}?{options}", server.unix_url()));
        thread::scope(|scope| {
            for thread in 0..16 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..200 {
                        let key = format!("{thread}:{}", round % 7);
                        let value = format!("{key}={round}");
                        cache.set(&key, &value).unwrap();
                        let found = cache.get(&key).unwrap().unwrap();
                        assert_eq!(found, value.as_bytes());
                        let batch = cache.mget(&["nothing", &key]).unwrap();
                        assert_eq!(batch[0], None);
                        assert_eq!(batch[1].as_deref(), Some(value.as_bytes()));
                        assert!(cache.delete(&key).is_ok());
                    }
                });
            }
        });
    }
}

#[test]
fn a_slow_answer_holds_up_no_later_call() {
    let (release, released) = flag();
    let server = Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            if command[1] == b"slow" {
                peer.hang_until(|| released.load(Ordering::SeqCst));
            }
            if !peer.send(echo(&command)) {
                return;
            }
        }
    });
    let cache = Cache::must_open(&server.url(FAR));
    thread::scope(|scope| {
        let slow = scope.spawn(|| cache.get("slow"));
        server.wait_for("GET", 1);
        let quick: Vec<_> = (0..8)
            .map(|thread| {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..50 {
                        let key = format!("{thread}:{round}");
                        assert_eq!(cache.get(&key).unwrap().unwrap(), key.as_bytes());
                    }
                })
            })
            .collect();
        must_end(|| quick.into_iter().for_each(|thread| thread.join().unwrap()));
        assert!(!slow.is_finished());
        release.store(true, Ordering::SeqCst);
        assert_eq!(slow.join().unwrap().unwrap().unwrap(), b"slow");
    });
}

/// A server that keeps the first request waiting until `released`, so that the others are sent together.
fn gathering(
    released: Arc<AtomicBool>,
    then: impl Fn(&mut Peer) + Send + Sync + 'static,
) -> Scripted {
    Scripted::tcp(move |peer| {
        if peer.number > 0 {
            return peer.serve(echo);
        }
        let Some(first) = peer.request() else { return };
        peer.hang_until(|| released.load(Ordering::SeqCst));
        peer.send(echo(&first));
        then(peer);
    })
}

#[test]
fn a_link_that_breaks_under_a_batch_loses_no_read_and_sends_no_write_twice() {
    let (release, released) = flag();
    let server = gathering(released, |peer| {
        for _ in 0..2 {
            let Some(command) = peer.request() else { return };
            peer.send(echo(&command));
        }
        peer.reset();
    });
    let cache = Cache::must_open(&server.url(&format!("{FAR}&max_connections=1")));
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (cache, begun) = (&cache, &begun);
        let first = scope.spawn(move || cache.get("first"));
        server.wait_for("GET", 1);
        let reads: Vec<_> = (0..6)
            .map(|number| {
                scope.spawn(move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    cache.get(format!("r{number}"))
                })
            })
            .collect();
        let writes: Vec<_> = (0..6)
            .map(|number| {
                scope.spawn(move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    cache.set(format!("w{number}"), "v")
                })
            })
            .collect();
        poll("all have begun", || (begun.load(Ordering::SeqCst) == 12).then_some(()));
        release.store(true, Ordering::SeqCst);
        assert_eq!(first.join().unwrap().unwrap().unwrap(), b"first");
        for (number, read) in reads.into_iter().enumerate() {
            let value = read.join().unwrap().unwrap().unwrap();
            assert_eq!(value, format!("r{number}").as_bytes());
        }
        for write in writes {
            if let Err(failure) = write.join().unwrap() {
                assert_eq!(failure.status, CACHETORY_ERR_IO, "{failure:?}");
                assert!(failure.is_maybe_applied(), "{failure:?}");
            }
        }
    });
    for number in 0..6 {
        let key = format!("w{number}").into_bytes();
        let sent = server.requests().iter().filter(|request| request.command[1] == key).count();
        assert!(sent <= 1, "{sent} writes of w{number}");
    }
}

#[test]
fn a_driver_whose_deadline_passes_hands_the_batch_on() {
    let (release, released) = flag();
    let (answer, answered) = flag();
    let server = gathering(released, move |peer| {
        let mut replies = Vec::new();
        for _ in 0..2 {
            let Some(command) = peer.request() else { return };
            replies.extend(echo(&command));
        }
        peer.hang_until(|| answered.load(Ordering::SeqCst));
        peer.send(replies);
        peer.serve(echo);
    });
    let url = server.url("socket_timeout=10&max_connections=1&spin_us=0");
    let cache = Cache::must_open(&url);
    let late_caller = Caller::default();
    thread::scope(|scope| {
        let (cache, late_caller) = (&cache, &late_caller);
        let first = scope.spawn(move || cache.get("first"));
        server.wait_for("GET", 1);
        let early = scope.spawn(move || cache.get("early"));
        // So that there is time for the one after the other has run into its deadline.
        pause::let_deadlines_part(Duration::from_secs(5));
        let late = scope.spawn(move || {
            late_caller.is_about_to_call();
            cache.get("late")
        });
        late_caller.wait_until_queued();
        release.store(true, Ordering::SeqCst);
        assert_eq!(first.join().unwrap().unwrap().unwrap(), b"first");
        failed(early.join().unwrap(), CACHETORY_ERR_TIMEOUT, RETRYABLE);
        answer.store(true, Ordering::SeqCst);
        assert_eq!(late.join().unwrap().unwrap().unwrap(), b"late");
        // The link has survived, and is in step.
        assert_eq!(cache.get("next").unwrap().unwrap(), b"next");
    });
    assert_eq!(server.connections(), 1);
}

/// The answer to the first of a batch comes, and those to the others are withheld until it is known what became of it.
/// Whether there was a batch of several, which depends on who comes when.
fn answer_the_first_of_a_batch(options: &str) -> bool {
    const OTHERS: usize = 6;
    let (release, released) = flag();
    let (go_on, gone_on) = flag();
    let (tell, told) = flag();
    let server = gathering(released, move |peer| {
        let Some(command) = peer.request() else { return };
        tell.store(peer.has_more(), Ordering::SeqCst);
        peer.send(echo(&command));
        if peer.has_more() {
            peer.hang_until(|| gone_on.load(Ordering::SeqCst));
        }
        peer.serve(echo);
    });
    let cache = Cache::must_open(&server.url(options));
    let begun = AtomicUsize::new(0);
    let (done, all_done) = mpsc::channel();
    thread::scope(|scope| {
        let (cache, begun) = (&cache, &begun);
        let first = scope.spawn(move || cache.get("first"));
        server.wait_for("GET", 1);
        for number in 0..OTHERS {
            let done = done.clone();
            scope.spawn(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let key = format!("{number}");
                let answer = cache.get(&key);
                done.send((key, answer)).unwrap();
            });
        }
        poll("all have begun", || (begun.load(Ordering::SeqCst) == OTHERS).then_some(()));
        release.store(true, Ordering::SeqCst);
        assert_eq!(first.join().unwrap().unwrap().unwrap(), b"first");
        let is_right = |(key, answer): (String, Result<Option<Vec<u8>>, Failure>)| {
            assert_eq!(answer, Ok(Some(key.into_bytes())));
        };
        is_right(all_done.recv().unwrap());
        let was_batch = told.load(Ordering::SeqCst);
        assert!(!was_batch || all_done.try_recv().is_err(), "the others are not answered yet");
        go_on.store(true, Ordering::SeqCst);
        (1..OTHERS).for_each(|_| is_right(all_done.recv().unwrap()));
        assert_eq!(server.connections(), 1);
        was_batch
    })
}

/// If it did not, the others would be late as well, for they were all called at the same time.
#[test]
fn a_driver_that_has_its_answer_does_not_wait_for_the_rest_of_the_batch() {
    for options in ["", "&spin_us=0", "&spin_us=1000000"] {
        let options = format!("{FAR}&max_connections=1{options}");
        poll("a batch of several", || answer_the_first_of_a_batch(&options).then_some(()));
    }
}

#[test]
fn closing_ends_the_calls_that_are_queued_for_a_link() {
    let (release, released) = flag();
    let server = gathering(released, |peer| peer.swallow());
    let cache = Cache::must_open(&server.url(&format!("{FAR}&max_connections=1")));
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (cache, begun) = (&cache, &begun);
        let calls: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn(move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    cache.get(format!("{number}"))
                })
            })
            .collect();
        poll("all have begun", || (begun.load(Ordering::SeqCst) == 8).then_some(()));
        server.wait_for("GET", 1);
        assert_eq!(cache.close(), CACHETORY_OK);
        must_end(|| {
            for call in calls {
                failed(call.join().unwrap(), CACHETORY_ERR_CLOSED, 0);
            }
        });
    });
    release.store(true, Ordering::SeqCst);
}
