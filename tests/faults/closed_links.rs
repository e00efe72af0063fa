//! What the server has closed is closed here too, and does not stand half open until it is wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::support::calls::*;
use super::support::capi::*;
use super::support::poll;
use super::support::scripted::{Peer, Scripted, echo, name};
use super::support::socket::connected_to;

const LINKS: usize = 8;

/// A server whose answers to SET are held back until there are many links.
struct Crowded {
    server: Scripted,
    holds: Arc<AtomicBool>,
}

impl Crowded {
    fn new(is_tcp: bool) -> Self {
        let holds = Arc::new(AtomicBool::new(false));
        let held = Arc::clone(&holds);
        let script = move |peer: &mut Peer| {
            while let Some(command) = peer.request() {
                if name(&command) == "SET" {
                    peer.hang_until(|| !held.load(Ordering::SeqCst));
                }
                peer.send(echo(&command));
            }
        };
        let server = if is_tcp { Scripted::tcp(script) } else { Scripted::unix(script) };
        Self { server, holds }
    }

    /// So many large calls at once need as many links.
    fn fill(&self, cache: &Cache) {
        self.holds.store(true, Ordering::SeqCst);
        let before = self.server.count("SET");
        thread::scope(|scope| {
            for _ in 0..LINKS {
                scope.spawn(|| assert_eq!(cache.set("k", "v".repeat(1 << 16)), Ok(CACHETORY_OK)));
            }
            self.server.wait_for("SET", before + LINKS);
            self.holds.store(false, Ordering::SeqCst);
        });
        assert!(self.open() >= LINKS);
    }

    /// How many sockets this process has to it.
    fn open(&self) -> usize {
        connected_to(self.server.address(), |_| {})
    }
}

fn for_each_socket(test: impl Fn(&Crowded)) {
    test(&Crowded::new(true));
    test(&Crowded::new(false));
}

#[test]
fn one_link_that_is_found_dead_is_news_of_the_others() {
    for_each_face(|face| {
        for_each_socket(|crowded| {
            let cache = Cache::must_open(&crowded.server.url("")).with(face);
            crowded.fill(&cache);
            crowded.server.hang_up();
            poll("none is left but the new one", || {
                assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
                (crowded.open() == 1).then_some(())
            });
        });
    });
}

#[test]
fn links_that_the_server_closed_are_closed_while_calls_go_on_over_another() {
    for_each_face(|face| {
        for_each_socket(|crowded| {
            let cache = Cache::must_open(&crowded.server.url("")).with(face);
            crowded.fill(&cache);
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
            let requests = crowded.server.requests();
            let last = requests.last().unwrap().connection;
            crowded.server.hang_up_but(last);
            poll("only the one that lives is left", || {
                assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
                (crowded.open() == 1).then_some(())
            });
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
        });
    });
}

/// The library's I/O thread looks for those who have it run.
#[test]
fn links_that_the_server_closed_are_closed_though_no_call_is_made() {
    for_each_socket(|crowded| {
        let cache = Cache::must_open(&crowded.server.url("")).with(Face::Waited);
        assert_eq!(cache.ping(), Ok(CACHETORY_OK));
        crowded.fill(&cache);
        crowded.server.hang_up();
        poll("none is left", || (crowded.open() == 0).then_some(()));
    });
}
