//! A server that does what a test tells it to: each connection runs the test's script, on a thread of its own, which
//! reads commands and answers as it likes: well, late, byte by byte, in part, wrongly or not at all.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::pause;
use super::socket::{Address, Listener, Socket};

/// A command as its arguments.
pub type Command = Vec<Vec<u8>>;

/// A command that a connection's script read, handshake aside.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the connection, in the order of their arrival.
    pub connection: usize,
    pub command: Command,
}

impl Request {
    /// The command's name in capitals.
    pub fn name(&self) -> String {
        name(&self.command)
    }
}

pub fn name(command: &Command) -> String {
    String::from_utf8_lossy(&command[0]).to_ascii_uppercase()
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    handshakes: Mutex<Vec<Request>>,
    sockets: Mutex<Vec<Weak<Socket>>>,
}

pub struct Scripted {
    listener: Arc<Listener>,
    shared: Arc<Shared>,
}

type Script = dyn Fn(&mut Peer) + Send + Sync;

impl Scripted {
    pub fn tcp(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::start(Listener::tcp(), Arc::new(script))
    }

    pub fn unix(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::start(Listener::unix(), Arc::new(script))
    }

    fn start(listener: Listener, script: Arc<Script>) -> Self {
        let server = Self { listener: Arc::new(listener), shared: Arc::default() };
        let (listener, shared) = (Arc::clone(&server.listener), Arc::clone(&server.shared));
        thread::spawn(move || {
            while let Some(socket) = listener.accept() {
                let socket = Arc::new(socket);
                lock(&shared.sockets).push(Arc::downgrade(&socket));
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                let script = Arc::clone(&script);
                let mut peer = Peer { number, socket, buffer: Vec::new(), shared };
                thread::spawn(move || script(&mut peer));
            }
        });
        server
    }

    pub fn address(&self) -> &Address {
        &self.listener.address
    }

    pub fn url(&self, options: &str) -> String {
        self.address().url(options)
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// What was asked, handshakes aside.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// HELLO, AUTH, SELECT and CLIENT, as far as scripts left them to [`Peer::request`].
    pub fn handshakes(&self) -> Vec<Request> {
        lock(&self.shared.handshakes).clone()
    }

    /// How many requests had this name.
    pub fn count(&self, name: &str) -> usize {
        self.requests().iter().filter(|request| request.name() == name).count()
    }

    /// Waits until so many requests of this name were read.
    #[track_caller]
    pub fn wait_for(&self, name: &str, count: usize) {
        super::poll(name, || (self.count(name) >= count).then_some(()));
    }

    /// Ends every connection with a goodbye.
    pub fn hang_up(&self) {
        self.hang_up_but(usize::MAX);
    }

    /// The same, but one.
    pub fn hang_up_but(&self, connection: usize) {
        for (number, socket) in lock(&self.shared.sockets).iter().enumerate() {
            if let Some(socket) = socket.upgrade().filter(|_| number != connection) {
                socket.shut_down();
            }
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.listener.stop();
        self.hang_up();
    }
}

/// A failed assertion on another thread must not hide what it said.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server's end of a connection, in the hands of its script. The connection ends with the script.
pub struct Peer {
    /// 0 for the first connection.
    pub number: usize,
    socket: Arc<Socket>,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

impl Peer {
    /// The next command, whatever it is; `None` at the end of the stream.
    pub fn command(&mut self) -> Option<Command> {
        loop {
            if let Some((command, used)) = parse(&self.buffer) {
                self.buffer.drain(..used);
                return Some(command);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next command that belongs to no handshake; those are said yes to. It is recorded.
    pub fn request(&mut self) -> Option<Command> {
        loop {
            let command = self.command()?;
            let request = Request { connection: self.number, command };
            let yes: &[u8] = match request.name().as_str() {
                "HELLO" => b"%2\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n",
                "AUTH" | "SELECT" | "CLIENT" => b"+OK\r\n",
                _ => {
                    lock(&self.shared.requests).push(request.clone());
                    return Some(request.command);
                }
            };
            lock(&self.shared.handshakes).push(request);
            self.send(yes);
        }
    }

    /// Whether another command has come together with the last one.
    pub fn has_more(&self) -> bool {
        parse(&self.buffer).is_some()
    }

    /// Reads that many bytes and nothing more, whatever they say.
    pub fn take(&mut self, count: usize) {
        let mut byte = [0];
        for _ in 0..count {
            if self.socket.read(&mut byte) == 0 {
                return;
            }
        }
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65536];
        let count = self.socket.read(&mut chunk);
        self.buffer.extend_from_slice(&chunk[..count]);
        count > 0
    }

    /// Whether the other side's kernel took it all.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write(bytes.as_ref())
    }

    /// Sends byte by byte, until the other side has enough of it.
    pub fn drip(&self, bytes: impl AsRef<[u8]>, pause: Duration) {
        for byte in bytes.as_ref() {
            if self.stopped() || !self.send([*byte]) {
                return;
            }
            pause::provoke_for(pause);
        }
    }

    /// Sends it that much later.
    pub fn send_after(&self, delay: Duration, bytes: impl AsRef<[u8]>) -> bool {
        pause::provoke_for(delay);
        self.send(bytes)
    }

    /// Answers every request by `reply` until the other side goes.
    pub fn serve(&mut self, mut reply: impl FnMut(&Command) -> Vec<u8>) {
        while let Some(command) = self.request() {
            if !self.send(reply(&command)) {
                return;
            }
        }
    }

    /// Neither reads nor writes until the test is over.
    pub fn hang(&self) {
        self.hang_until(|| false);
    }

    /// Neither reads nor writes until then, or until the test is over.
    pub fn hang_until(&self, done: impl Fn() -> bool) {
        while !done() && !self.stopped() {
            pause::before_the_next_look();
        }
    }

    /// Reads, and says nothing, until the other side goes.
    pub fn swallow(&mut self) {
        while self.fill() {
            self.buffer.clear();
        }
    }

    /// Ends the connection with a goodbye (FIN).
    pub fn close(&self) {
        self.socket.shut_down();
    }

    /// Ends the connection by a reset (RST).
    pub fn reset(&self) {
        self.socket.reset();
    }

    fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::SeqCst)
    }
}

/// The first command in `bytes`, and its length there; `None` when it is not whole yet.
fn parse(bytes: &[u8]) -> Option<(Command, usize)> {
    let (count, mut at) = header(bytes, 0, b'*')?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, start) = header(bytes, at, b'$')?;
        at = start + length + 2;
        spans.push(start..start + length);
    }
    if at > bytes.len() {
        return None;
    }
    Some((spans.into_iter().map(|span| bytes[span].to_vec()).collect(), at))
}

/// The number behind `sign` at `at`, and where its line ends.
fn header(bytes: &[u8], at: usize, sign: u8) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?;
    let end = line.windows(2).take(24).position(|pair| pair == b"\r\n")?;
    assert_eq!(line[0], sign, "not a command: {:?}", String::from_utf8_lossy(&line[..end]));
    let number = std::str::from_utf8(&line[1..end]).unwrap().parse().unwrap();
    Some((number, at + end + 2))
}

/// `$n\r\n…\r\n`
pub fn bulk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut reply = format!("${}\r\n", bytes.len()).into_bytes();
    reply.extend_from_slice(bytes);
    reply.extend_from_slice(b"\r\n");
    reply
}

/// What a server answers whose every key's value is its name.
pub fn echo(command: &Command) -> Vec<u8> {
    match name(command).as_str() {
        "PING" => b"+PONG\r\n".to_vec(),
        "GET" => bulk(&command[1]),
        "MGET" => array(&command[1..].iter().map(bulk).collect::<Vec<_>>()),
        "SET" | "MSET" | "MULTI" | "DISCARD" | "FLUSHDB" => b"+OK\r\n".to_vec(),
        // All transactions here are of two.
        "EXEC" => b"*2\r\n+OK\r\n+OK\r\n".to_vec(),
        _ => b":1\r\n".to_vec(),
    }
}

/// `*n\r\n` and the elements, which are replies themselves.
pub fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut reply = format!("*{}\r\n", elements.len()).into_bytes();
    reply.extend(elements.iter().flatten());
    reply
}
