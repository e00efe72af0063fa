//! From an address to a connected stream: resolve, connect, TLS, each within the deadline.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::ConnectionAddr;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use rustls::ClientConfig;

use super::resolve::resolve;
use super::stream::{Broken, Socket, Stream, wait};
use super::tls::{self, TlsSession};
use crate::config::{Config, TlsOptions};
use crate::deadline::Deadline;
use crate::error::{Error, Kind};

/// How long one address is given before the next is tried beside it (RFC 8305, section 8).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// How long to wait when a Unix socket's backlog is full, for which there is nothing to poll.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// Dials one server.
pub struct Dialer {
    addr: ConnectionAddr,
    keepalive: bool,
    patience: Duration,
    spin: Duration,
    tls: TlsOptions,
    /// Made with the first connection: reading the trusted certificates takes milliseconds.
    tls_config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Dialer {
    pub fn new(config: &Config, addr: &ConnectionAddr) -> Self {
        Self {
            addr: addr.clone(),
            keepalive: config.keepalive,
            patience: config.timeout.min(Deadline::LONGEST),
            spin: config.spin,
            tls: config.tls.clone(),
            tls_config: Mutex::new(None),
        }
    }

    /// The server's address, for messages.
    pub fn peer(&self) -> String {
        match &self.addr {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                }
            }
            ConnectionAddr::Unix(path) => path.display().to_string(),
            _ => "the server".to_owned(),
        }
    }

    pub fn dial(&self, deadline: &Deadline) -> Result<Stream, Error> {
        match &self.addr {
            ConnectionAddr::Tcp(host, port) => {
                Ok(self.plain(self.connect_host(host, *port, deadline)?))
            }
            ConnectionAddr::TcpTls { host, port, .. } => {
                // A bad file is reported even while the server is down.
                let config = self.tls_config()?;
                let socket = self.connect_host(host, *port, deadline)?;
                self.secure(socket, config, host, deadline)
            }
            ConnectionAddr::Unix(path) => Ok(self.plain(self.connect_path(path, deadline)?)),
            _ => Err(Kind::Unsupported("an address of an unknown kind".into()).into()),
        }
    }

    fn plain(&self, socket: Socket) -> Stream {
        Stream::new(socket, None, self.spin)
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>, Error> {
        let mut made = self.tls_config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*made {
            return Ok(Arc::clone(config));
        }
        let config = tls::client_config(&self.tls).map_err(|reason| self.tls_error(reason))?;
        Ok(Arc::clone(made.insert(Arc::new(config))))
    }

    fn tls_error(&self, reason: String) -> Error {
        Kind::Tls { peer: self.peer(), reason: reason.into() }.into()
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Error {
        let scarce = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
        let errno = error.raw_os_error();
        if scarce.iter().any(|scarce| errno == Some(scarce.raw_os_error())) {
            return Error::no_memory(format!("a socket: {error}"));
        }
        if error.kind() == io::ErrorKind::OutOfMemory {
            return Error::no_memory(error.to_string());
        }
        self.refused(format!("{doing}{error}"))
    }

    fn refused(&self, reason: String) -> Error {
        Kind::Connect { peer: self.peer(), reason: reason.into() }.into()
    }

    fn connect_host(&self, host: &str, port: u16, deadline: &Deadline) -> Result<Socket, Error> {
        let addresses = resolve(host, port, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Kind::Timeout("resolving the server's name").into(),
            _ => self.failed("", &error),
        })?;
        let fd = race(&addresses, deadline).map_err(|broken| match broken {
            Broken::Io(error) => self.failed("", &error),
            _ => Kind::Timeout("connecting to the server").into(),
        })?;
        let set_up = || {
            sockopt::set_tcp_nodelay(&fd, true)?;
            sockopt::set_socket_keepalive(&fd, self.keepalive)
        };
        set_up().map_err(|errno| self.failed("", &errno.into()))?;
        self.socket(fd)
    }

    fn connect_path(&self, path: &Path, deadline: &Deadline) -> Result<Socket, Error> {
        let failed = |errno: Errno| self.failed("", &errno.into());
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
            .and_then(|()| Socket::new(fd, self.patience))
            .map_err(|error| self.failed("", &error))
    }

    fn secure(
        &self,
        socket: Socket,
        config: Arc<ClientConfig>,
        host: &str,
        deadline: &Deadline,
    ) -> Result<Stream, Error> {
        let session = TlsSession::new(config, host).map_err(|reason| self.tls_error(reason))?;
        let mut session = Box::new(session);
        shake_hands(&socket, &mut session, deadline).map_err(|broken| match broken {
            Broken::Timeout => Kind::Timeout("waiting for the TLS handshake").into(),
            Broken::Closed => {
                self.tls_error("the server closed the connection in the handshake".into())
            }
            Broken::Io(error) => self.tls_error(format!("the handshake failed: {error}")),
            Broken::Tls { reason, .. } => self.tls_error(reason),
        })?;
        Ok(Stream::new(socket, Some(session), self.spin))
    }
}

fn shake_hands(
    socket: &Socket,
    session: &mut TlsSession,
    deadline: &Deadline,
) -> Result<(), Broken> {
    loop {
        let sent = session.flush(socket)?;
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
fn race(addresses: &[SocketAddr], deadline: &Deadline) -> Result<OwnedFd, Broken> {
    let mut waiting: Vec<OwnedFd> = Vec::new();
    let mut untried = addresses.iter();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let next = untried.next();
        if let Some(address) = next {
            match begin(address) {
                Ok((fd, true)) => return Ok(fd),
                Ok((fd, false)) => waiting.push(fd),
                Err(errno) => {
                    last_error = errno.into();
                    continue;
                }
            }
        } else if waiting.is_empty() {
            return Err(Broken::Io(last_error));
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
                Err(Broken::Timeout) if until < deadline.instant() => break,
                Err(broken) => return Err(broken),
            }
            let ready = fds.iter().position(|fd| !fd.revents().is_empty());
            let fd = waiting.swap_remove(ready.unwrap_or_default());
            match sockopt::socket_error(&fd) {
                Ok(Ok(())) => return Ok(fd),
                Ok(Err(errno)) | Err(errno) => last_error = errno.into(),
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
