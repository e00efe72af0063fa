//! A network that breaks when it is told to: it stands between the cache and a server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::pause;
use super::socket::{Address, Listener, Socket};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A goodbye (FIN) to both sides.
    Close,
    /// A reset (RST) to both sides.
    Reset,
}

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, Default)]
struct Rule {
    /// Bytes wait, and when the buffers are full so does whoever writes.
    paused: bool,
    /// Bytes are read and thrown away.
    dropped: bool,
    delay: Duration,
    /// How many more bytes pass, of all connections taken together, before the one that carried the last is ended.
    cut: Option<(usize, End)>,
}

#[derive(Default)]
struct State {
    to_server: Rule,
    to_client: Rule,
    /// New connections are accepted and ended at once.
    refusing: bool,
    stopped: bool,
    links: Vec<(Weak<Socket>, Weak<Socket>)>,
}

impl State {
    fn rule(&mut self, way: Way) -> &mut Rule {
        match way {
            Way::ToServer => &mut self.to_server,
            Way::ToClient => &mut self.to_client,
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    connections: AtomicUsize,
    to_server: AtomicUsize,
    to_client: AtomicUsize,
}

pub struct Proxy {
    listener: Arc<Listener>,
    shared: Arc<Shared>,
}

impl Proxy {
    /// On TCP.
    pub fn to(server: Address) -> Self {
        Self::start(Listener::tcp(), server)
    }

    /// On a Unix socket.
    pub fn unix_to(server: Address) -> Self {
        Self::start(Listener::unix(), server)
    }

    fn start(listener: Listener, server: Address) -> Self {
        let proxy = Self { listener: Arc::new(listener), shared: Arc::default() };
        let (listener, shared) = (Arc::clone(&proxy.listener), Arc::clone(&proxy.shared));
        thread::spawn(move || {
            while let Some(client) = listener.accept() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                if !shared.lock().refusing
                    && let Ok(server) = server.connect()
                {
                    carry(&shared, Arc::new(client), Arc::new(server));
                }
            }
        });
        proxy
    }

    pub fn address(&self) -> &Address {
        &self.listener.address
    }

    pub fn port(&self) -> u16 {
        match self.address() {
            Address::Tcp(port) => *port,
            Address::Unix(_) => panic!("a Unix socket has no port"),
        }
    }

    /// How many connections were accepted, those refused included.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes have passed that way.
    pub fn passed(&self, way: Way) -> usize {
        self.shared.passed(way).load(Ordering::SeqCst)
    }

    pub fn pause(&self, way: Way) {
        self.change(|state| state.rule(way).paused = true);
    }

    /// What was paused goes on its way.
    pub fn resume(&self, way: Way) {
        self.change(|state| state.rule(way).paused = false);
    }

    /// Holds up what goes that way for so long.
    pub fn stall(&self, way: Way, span: Duration) {
        self.pause(way);
        pause::provoke_for(span);
        self.resume(way);
    }

    /// The same, for longer than a short deadline, and then lets all pass for a while.
    pub fn stall_now_and_then(&self, way: Way) {
        self.stall(way, Duration::from_millis(250));
        pause::provoke_for(Duration::from_millis(60));
    }

    /// Throws bytes away from now on, or no longer.
    pub fn drop_bytes(&self, way: Way, on: bool) {
        self.change(|state| state.rule(way).dropped = on);
    }

    pub fn delay(&self, way: Way, delay: Duration) {
        self.change(|state| state.rule(way).delay = delay);
    }

    /// Lets `bytes` more pass that way and then ends the connection that carried the last one, once.
    pub fn cut_after(&self, way: Way, bytes: usize, end: End) {
        self.change(|state| state.rule(way).cut = Some((bytes, end)));
    }

    /// Whether a [`Proxy::cut_after`] still waits for its byte.
    pub fn cut_pending(&self, way: Way) -> bool {
        self.shared.lock().rule(way).cut.is_some()
    }

    /// Ends new connections as soon as they are accepted, or no longer.
    pub fn refuse(&self, on: bool) {
        self.change(|state| state.refusing = on);
    }

    /// Ends every connection.
    pub fn end_all(&self, end: End) {
        self.change(|state| {
            for (client, server) in state.links.drain(..) {
                for socket in [client, server].iter().filter_map(Weak::upgrade) {
                    finish(&socket, end);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|state| state.stopped = true);
        self.listener.stop();
        self.end_all(End::Close);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passed(&self, way: Way) -> &AtomicUsize {
        match way {
            Way::ToServer => &self.to_server,
            Way::ToClient => &self.to_client,
        }
    }
}

fn finish(socket: &Socket, end: End) {
    match end {
        End::Close => socket.shut_down(),
        End::Reset => socket.reset(),
    }
}

/// Carries bytes both ways, each on a thread of its own.
fn carry(shared: &Arc<Shared>, client: Arc<Socket>, server: Arc<Socket>) {
    let mut state = shared.lock();
    state.links.retain(|(client, _)| client.strong_count() > 0);
    state.links.push((Arc::downgrade(&client), Arc::downgrade(&server)));
    drop(state);
    for (from, to, way) in [(&client, &server, Way::ToServer), (&server, &client, Way::ToClient)] {
        let (from, to, shared) = (Arc::clone(from), Arc::clone(to), Arc::clone(shared));
        thread::spawn(move || {
            let end = pump(&shared, &from, &to, way);
            finish(&from, end);
            finish(&to, end);
        });
    }
}

/// Carries bytes one way until either side ends, or the proxy does.
fn pump(shared: &Shared, from: &Socket, to: &Socket, way: Way) -> End {
    let mut chunk = [0; 16384];
    loop {
        let count = from.read(&mut chunk);
        if count == 0 {
            return End::Close;
        }
        let mut state = shared.lock();
        while state.rule(way).paused && !state.stopped {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return End::Close;
        }
        let rule = state.rule(way);
        let (dropped, delay) = (rule.dropped, rule.delay);
        let (bytes, end) = match rule.cut {
            Some((left, end)) if left <= count => {
                rule.cut = None;
                (left, Some(end))
            }
            Some((left, end)) => {
                rule.cut = Some((left - count, end));
                (count, None)
            }
            None => (count, None),
        };
        drop(state);
        pause::provoke_for(delay);
        if !dropped {
            if !to.write(&chunk[..bytes]) {
                return End::Close;
            }
            shared.passed(way).fetch_add(bytes, Ordering::SeqCst);
        }
        if let Some(end) = end {
            return end;
        }
    }
}
