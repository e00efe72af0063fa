//! From an address to a connected stream: resolve, connect, TLS, each within the deadline.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::ConnectionAddr;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};

use super::pulse::Pulse;
use super::resolve::resolve;
use super::socket::{Broken, Socket, Stopped, wait};
use super::stream::Stream;
use super::tls::TlsSession;
use super::trust::{Trust, Unusable};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, is_scarcity};
use crate::reserve;

/// How long one address is given before the next is tried beside it (RFC 8305, section 8).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// How long to wait when a Unix socket's backlog is full, for which there is nothing to poll.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// What a call was doing whose deadline passed before the server itself was asked anything.
pub const RESOLVING: &str = "resolving the server's name";
/// How a connect fails to which nothing was answered.
const UNANSWERED: [i32; 4] =
    [libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EHOSTDOWN];

/// More than a TLS session takes.
const SESSION: usize = 192 << 10;

/// How connections are made, whatever the address.
pub struct Dialer {
    keepalive: bool,
    receive_timeout: Duration,
    spin: Duration,
    trust: Trust,
    pulse: Arc<Pulse>,
}

impl Dialer {
    pub fn new(config: &Config) -> Self {
        Self {
            keepalive: config.keepalive,
            receive_timeout: config.timeout.min(Deadline::LONGEST),
            spin: config.spin,
            trust: Trust::new(&config.tls),
            pulse: Arc::default(),
        }
    }

    /// What all connections that it makes know together of the server.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Connects to an address. `connected` is shown the socket as soon as there is one, and may refuse to go on.
    pub fn dial(
        &self,
        address: &ConnectionAddr,
        deadline: &Deadline,
        connected: impl FnOnce(&Socket) -> Result<(), Error>,
    ) -> Result<Stream, Error> {
        Dial { dialer: self, address }.run(deadline, connected)
    }
}

/// A server's address, for messages.
pub fn peer(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            with_port(host, *port)
        }
        ConnectionAddr::Unix(path) => path.display().to_string(),
        _ => "the server".to_owned(),
    }
}

/// Put together by hand: each dial needs it, and few another formatted text.
fn with_port(host: &str, port: u16) -> String {
    let is_ipv6 = host.contains(':');
    let mut text = String::with_capacity(host.len() + "[]:65535".len());
    if is_ipv6 {
        text.push('[');
    }
    text.push_str(host);
    if is_ipv6 {
        text.push(']');
    }
    text.push(':');
    let mut rest = u32::from(port);
    let mut scale = 10_000;
    while scale > 1 && scale > rest {
        scale /= 10;
    }
    while scale > 0 {
        text.push(char::from(b'0' + (rest / scale) as u8));
        rest %= scale;
        scale /= 10;
    }
    text
}

/// One attempt.
struct Dial<'a> {
    dialer: &'a Dialer,
    address: &'a ConnectionAddr,
}

impl Dial<'_> {
    fn run(
        &self,
        deadline: &Deadline,
        connected: impl FnOnce(&Socket) -> Result<(), Error>,
    ) -> Result<Stream, Error> {
        match self.address {
            ConnectionAddr::Tcp(host, port) => {
                let socket = self.connect_host(host, *port, deadline)?;
                connected(&socket)?;
                Ok(self.stream(socket, None))
            }
            ConnectionAddr::TcpTls { host, port, .. } => {
                let session = self.tls_session(host, deadline)?;
                let socket = self.connect_host(host, *port, deadline)?;
                connected(&socket)?;
                self.secure(socket, session, deadline)
            }
            ConnectionAddr::Unix(path) => {
                let socket = self.connect_path(path, deadline)?;
                connected(&socket)?;
                Ok(self.stream(socket, None))
            }
            _ => Err(Kind::Unsupported("an address of an unknown kind".into()).into()),
        }
    }

    fn stream(&self, socket: Socket, tls: Option<Box<TlsSession>>) -> Stream {
        Stream::new(socket, tls, self.dialer.spin, Arc::clone(&self.dialer.pulse))
    }

    /// Apart, as is the handshake: a plain connection needs not a page of it.
    #[inline(never)]
    fn tls_session(&self, host: &str, deadline: &Deadline) -> Result<Box<TlsSession>, Error> {
        // A session is full of small pieces that cannot fail.
        reserve::expect(SESSION)?;
        // A bad file is reported even while the server is down.
        let config = self.dialer.trust.config(deadline).map_err(|unusable| match unusable {
            Unusable::Bad(reason) => self.tls_error(reason),
            Unusable::Scarce(what) => Error::no_memory(what),
            Unusable::Timeout => Kind::Timeout("reading the TLS certificates").into(),
        })?;
        let session = TlsSession::new(config, host).map_err(|reason| self.tls_error(reason))?;
        Ok(Box::new(session))
    }

    fn tls_error(&self, reason: String) -> Error {
        Kind::Tls { peer: peer(self.address).into(), reason: reason.into() }.into()
    }

    fn failed(&self, error: &io::Error) -> Error {
        if is_scarcity(error) {
            return Error::no_memory(format!("what a connection needs: {error}"));
        }
        let silence = error.raw_os_error().is_some_and(|errno| UNANSWERED.contains(&errno));
        self.undone(error.to_string(), silence)
    }

    fn refused(&self, reason: String) -> Error {
        self.undone(reason, false)
    }

    fn undone(&self, reason: String, silence: bool) -> Error {
        Kind::Connect { peer: peer(self.address).into(), reason: reason.into(), silence }.into()
    }

    fn connect_host(&self, host: &str, port: u16, deadline: &Deadline) -> Result<Socket, Error> {
        let addresses = resolve(host, port, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Kind::Timeout(RESOLVING).into(),
            // A resolver that cannot open its files or a socket says that it does not know the name.
            _ => match new_socket(AddressFamily::INET) {
                Err(errno) if is_scarcity(&errno.into()) => self.failed(&errno.into()),
                _ if is_scarcity(&error) => self.failed(&error),
                // Nobody asked the server anything.
                _ => self.refused(error.to_string()),
            },
        })?;
        let fd = race(&addresses, deadline).map_err(|stopped| match stopped {
            Stopped::Broken(Broken::Io(error)) => self.failed(&error),
            _ => Kind::Timeout("connecting to the server").into(),
        })?;
        let set_up = || {
            sockopt::set_tcp_nodelay(&fd, true)?;
            sockopt::set_socket_keepalive(&fd, self.dialer.keepalive)
        };
        set_up().map_err(|errno| self.failed(&errno.into()))?;
        self.socket(fd)
    }

    fn connect_path(&self, path: &Path, deadline: &Deadline) -> Result<Socket, Error> {
        let failed = |errno: Errno| self.failed(&errno.into());
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        loop {
            let fd = new_socket(AddressFamily::UNIX).map_err(failed)?;
            match connect(&fd, &address) {
                Ok(()) => return self.socket(fd),
                Err(Errno::AGAIN | Errno::INTR) if deadline.has_passed() => {
                    return Err(Kind::Timeout("connecting to the server").into());
                }
                Err(Errno::AGAIN) => {
                    std::thread::sleep(BACKLOG_PAUSE.min(deadline.remaining()));
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    fn socket(&self, fd: OwnedFd) -> Result<Socket, Error> {
        let blocking = rustix::io::ioctl_fionbio(&fd, false).map_err(io::Error::from);
        blocking
            .and_then(|()| Socket::new(fd, self.dialer.receive_timeout))
            .map_err(|error| self.failed(&error))
    }

    #[inline(never)]
    fn secure(
        &self,
        socket: Socket,
        mut session: Box<TlsSession>,
        deadline: &Deadline,
    ) -> Result<Stream, Error> {
        shake_hands(&socket, &mut session, deadline).map_err(|stopped| match stopped {
            Stopped::Broken(Broken::Io(error)) if is_scarcity(&error) => self.failed(&error),
            Stopped::TimedOut => Kind::Timeout("waiting for the TLS handshake").into(),
            Stopped::Broken(Broken::Closed) => {
                self.refused("the server closed the connection in the TLS handshake".into())
            }
            Stopped::Broken(Broken::Io(error)) => {
                self.refused(format!("the TLS handshake broke off: {error}"))
            }
            Stopped::Broken(Broken::Tls { reason, .. }) => self.tls_error(reason),
        })?;
        Ok(self.stream(socket, Some(session)))
    }
}

fn shake_hands(
    socket: &Socket,
    session: &mut TlsSession,
    deadline: &Deadline,
) -> Result<(), Stopped> {
    loop {
        let sent = match session.flush(socket) {
            Ok(sent) => sent,
            // The peer may have said why before it hung up.
            Err(broken) => match session.advance(socket) {
                Err(why @ Broken::Tls { .. }) => return Err(why.into()),
                _ => return Err(broken.into()),
            },
        };
        if deadline.has_passed() {
            return Err(Stopped::TimedOut);
        }
        if sent && !session.is_handshaking() {
            return Ok(());
        }
        if !session.advance(socket)? {
            let more = if sent { PollFlags::empty() } else { PollFlags::OUT };
            socket.wait(PollFlags::IN | more, deadline)?;
        }
    }
}

fn new_socket(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Connects to whichever address answers first, each given a head start over the next (RFC 8305).
fn race(addresses: &[SocketAddr], deadline: &Deadline) -> Result<OwnedFd, Stopped> {
    let mut waiting: Vec<OwnedFd> = Vec::new();
    let mut untried = addresses.iter();
    let mut last_error = None;
    loop {
        let next = untried.next();
        if let Some(address) = next {
            match begin(address) {
                Ok((fd, true)) => return Ok(fd),
                Ok((fd, false)) => waiting.push(fd),
                Err(errno) => {
                    last_error = Some(errno);
                    continue;
                }
            }
        } else if waiting.is_empty() {
            let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(Broken::Io(last_error.map_or_else(no_address, io::Error::from)).into());
        }
        let head_start = Instant::now() + NEXT_ADDRESS;
        let until = match untried.len() {
            0 => deadline.instant(),
            _ => deadline.instant().min(head_start),
        };
        let before = waiting.len();
        while waiting.len() == before && !waiting.is_empty() {
            let mut fds: Vec<_> =
                waiting.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)).collect();
            match wait(&mut fds, until) {
                Ok(_) => {}
                Err(Stopped::TimedOut) if until < deadline.instant() => break,
                Err(stopped) => return Err(stopped),
            }
            let ready = fds.iter().position(|fd| !fd.revents().is_empty());
            let fd = waiting.swap_remove(ready.unwrap_or_default());
            match sockopt::socket_error(&fd) {
                Ok(Ok(())) => return Ok(fd),
                Ok(Err(errno)) | Err(errno) => last_error = Some(errno),
            }
        }
    }
}

/// Starts to connect; whether it was done at once.
fn begin(address: &SocketAddr) -> rustix::io::Result<(OwnedFd, bool)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = new_socket(family)?;
    match connect(&fd, address) {
        Ok(()) => Ok((fd, true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((fd, false)),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_its_port_are_written_as_in_a_url() {
        for port in 0..=u16::MAX {
            assert_eq!(with_port("a.b", port), format!("a.b:{port}"));
        }
        assert_eq!(with_port("::1", 6379), "[::1]:6379");
    }
}
