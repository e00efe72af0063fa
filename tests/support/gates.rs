//! A server that holds answers back until a test opens a gate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::scripted::{Command, Peer, Request, Scripted, echo};

/// Gates in a server: what is asked about the key `held:N` is not answered before N gates are open.
#[derive(Clone, Default)]
pub struct Gates(Arc<AtomicUsize>);

impl Gates {
    pub fn open(&self, count: usize) {
        self.0.store(count, Ordering::SeqCst);
    }

    pub fn are_open(&self, count: usize) -> bool {
        count <= self.0.load(Ordering::SeqCst)
    }

    pub fn is_open_for(&self, command: &Command) -> bool {
        let key = command.get(1).map(|key| String::from_utf8_lossy(key));
        let number = key.and_then(|key| key.strip_prefix("held:")?.parse::<usize>().ok());
        number.is_none_or(|number| self.are_open(number))
    }

    /// For a script: neither reads nor writes until so many are open, or until the test is over.
    pub fn hold(&self, peer: &Peer, count: usize) {
        peer.hang_until(|| self.are_open(count));
    }

    /// A server with these gates.
    pub fn server(&self) -> Scripted {
        let gates = self.clone();
        Scripted::tcp(move |peer| {
            while let Some(command) = peer.request() {
                peer.hang_until(|| gates.is_open_for(&command));
                if !peer.send(echo(&command)) {
                    return;
                }
            }
        })
    }
}

/// Waits until a request about this key was read.
#[track_caller]
pub fn wait_for_key(server: &Scripted, key: &str) {
    let has_key =
        |request: &Request| request.command.get(1).is_some_and(|found| found == key.as_bytes());
    super::poll(key, || server.requests().iter().any(has_key).then_some(()));
}
