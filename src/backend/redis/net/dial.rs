//! From an address to a connected stream: resolve, connect, TLS, each within the deadline.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::ConnectionAddr;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, connect, getpeername, getsockname, sockopt};

use super::pulse::Pulse;
use super::resolve::resolve;
use super::socket::{Broken, Socket, Stopped, Tls, wait};
use super::stream::Stream;
use super::tls::TlsSession;
use super::trust::{Trust, Unusable};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, is_scarcity};
use crate::reserve;
use crate::sys::SocketFd;

/// How long one address is given before the next is tried beside it (RFC 8305, section 8).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// TCP keep-alive: after so long without a word, then so often and so many times.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMES: u32 = 3;
/// How long to wait when a Unix socket's backlog is full, for which there is nothing to poll.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

const RESOLVING: &str = "resolving the server's name";
const READING_FILES: &str = "reading the TLS certificates";
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
    trust: Arc<Trust>,
    pulse: Arc<Pulse>,
}

impl Dialer {
    pub fn new(config: &Config, trust: &Arc<Trust>) -> Self {
        Self {
            keepalive: config.keepalive,
            receive_timeout: receive_timeout(config.timeout),
            spin: config.spin,
            trust: Arc::clone(trust),
            pulse: Arc::default(),
        }
    }

    /// What all connections that it makes know together of the server.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Connects to an address. `connected` is shown each socket as soon as there is one, and may refuse to go on.
    pub fn dial(
        &self,
        address: &ConnectionAddr,
        deadline: &Deadline,
        connected: impl Fn(&Socket) -> Result<(), Error>,
    ) -> Result<Stream, Error> {
        Dial { dialer: self, address }.run(deadline, connected)
    }
}

/// Whether the server itself was asked something in what a dial was doing when its deadline passed.
pub fn has_asked(doing: &str) -> bool {
    doing != RESOLVING && doing != READING_FILES
}

/// How long a read waits in the system call itself, of a call that may take `timeout`. The kernel keeps a socket's
/// timeouts on coarse wheels: they may be late by an eighth and a few milliseconds. The rest of the time is waited for
/// with poll(2), which is not.
fn receive_timeout(timeout: Duration) -> Duration {
    (timeout.min(Deadline::LONGEST) / 2).max(Duration::from_micros(1))
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
        connected: impl Fn(&Socket) -> Result<(), Error>,
    ) -> Result<Stream, Error> {
        match self.address {
            ConnectionAddr::Tcp(host, port) => {
                let socket = self.connect_host(host, *port, deadline)?;
                connected(&socket)?;
                Ok(self.stream(socket, None))
            }
            ConnectionAddr::TcpTls { host, port, .. } => {
                self.run_tls(host, *port, deadline, &connected)
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
    fn run_tls(
        &self,
        host: &str,
        port: u16,
        deadline: &Deadline,
        connected: &dyn Fn(&Socket) -> Result<(), Error>,
    ) -> Result<Stream, Error> {
        // A session is full of small pieces that cannot fail.
        reserve::expect(SESSION)?;
        let trust = &self.dialer.trust;
        // A bad file is reported even while the server is down.
        let mut config = trust.config(deadline).map_err(|unusable| match unusable {
            Unusable::Bad(reason) => self.tls_error(reason),
            Unusable::Scarce(what) => Error::no_memory(what),
            Unusable::Timeout => Kind::Timeout(READING_FILES).into(),
        })?;
        let mut is_first = true;
        loop {
            let session = TlsSession::new(Arc::clone(&config), host, trust.doubt());
            let mut session = Box::new(session.map_err(|reason| self.tls_error(reason))?);
            let socket = self.connect_host(host, port, deadline)?;
            connected(&socket)?;
            let stopped = match shake_hands(&socket, &mut session, deadline) {
                Ok(()) => return Ok(self.stream(socket, Some(session))),
                Err(stopped) => stopped,
            };
            let concerns_certificates = matches!(
                &stopped,
                Stopped::Broken(Broken::Tls(Tls { concerns_certificates: true, .. }))
            );
            let other = match concerns_certificates && is_first {
                true => trust.other(&config, deadline),
                false => None,
            };
            match other {
                Some(other) => config = other,
                None => return Err(self.unsecured(stopped)),
            }
            is_first = false;
        }
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
            match self.dialer.keepalive {
                true => keep_alive(&fd),
                false => Ok(()),
            }
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

    fn socket(&self, fd: SocketFd) -> Result<Socket, Error> {
        let blocking = rustix::io::ioctl_fionbio(&fd, false).map_err(io::Error::from);
        blocking
            .and_then(|()| Socket::new(fd, self.dialer.receive_timeout))
            .map_err(|error| self.failed(&error))
    }

    #[cold]
    fn unsecured(&self, stopped: Stopped) -> Error {
        match stopped {
            Stopped::Broken(Broken::Io(error)) if is_scarcity(&error) => self.failed(&error),
            Stopped::TimedOut => Kind::Timeout("waiting for the TLS handshake").into(),
            Stopped::Broken(Broken::Closed) => {
                self.refused("the server closed the connection in the TLS handshake".into())
            }
            Stopped::Broken(Broken::Io(error)) => {
                self.refused(format!("the TLS handshake broke off: {error}"))
            }
            Stopped::Broken(Broken::Tls(Tls { reason, .. })) => self.tls_error(reason),
        }
    }
}

fn shake_hands(
    socket: &Socket,
    session: &mut TlsSession,
    deadline: &Deadline,
) -> Result<(), Stopped> {
    loop {
        let sent = session.flush(socket)?;
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

/// Whoever stands between forgets a connection that was silent for a few minutes; the kernel's own times are hours.
fn keep_alive(fd: &SocketFd) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(fd, KEEPALIVE_TIMES)
}

/// Where nobody listens on a port that clients get as well, a socket may have been given that port, and has connected
/// to itself.
fn is_to_itself(fd: &SocketFd, port: u16) -> bool {
    let Ok(own) = getsockname(fd) else { return false };
    let has_the_port = SocketAddr::try_from(own.clone()).is_ok_and(|own| own.port() == port);
    has_the_port && getpeername(fd) == Ok(Some(own))
}

/// As if nobody had answered, which is so. The port is free again at once.
fn refuse_itself(fd: SocketFd) -> Errno {
    let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
    drop(fd);
    Errno::CONNREFUSED
}

fn new_socket(family: AddressFamily) -> rustix::io::Result<SocketFd> {
    SocketFd::open(family)
}

/// Connects to whichever address answers first, each given a head start over the next (RFC 8305).
fn race(addresses: &[SocketAddr], deadline: &Deadline) -> Result<SocketFd, Stopped> {
    let port = addresses.first().map_or(0, SocketAddr::port);
    let mut waiting: Vec<SocketFd> = Vec::new();
    let mut untried = addresses.iter();
    let mut last_error = None;
    loop {
        let next = untried.next();
        if let Some(address) = next {
            match begin(address) {
                Ok((fd, true)) if is_to_itself(&fd, port) => {
                    last_error = Some(refuse_itself(fd));
                    continue;
                }
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
                Ok(Ok(())) if is_to_itself(&fd, port) => last_error = Some(refuse_itself(fd)),
                Ok(Ok(())) => return Ok(fd),
                Ok(Err(errno)) | Err(errno) => last_error = Some(errno),
            }
        }
    }
}

/// Starts to connect; whether it was done at once.
fn begin(address: &SocketAddr) -> rustix::io::Result<(SocketFd, bool)> {
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

    /// The kernel's wheels are late by an eighth, and by two ticks of up to 10 ms each.
    #[test]
    fn a_read_in_one_call_ends_before_the_deadline() {
        let millis = [1, 10, 50, 100, 1_000, 5_000, 30_000, 3_600_000];
        for timeout in millis.map(Duration::from_millis).into_iter().chain([Duration::MAX]) {
            let told = receive_timeout(timeout);
            assert!(!told.is_zero() && told <= Deadline::LONGEST);
            let at_the_latest = told + told / 8 + Duration::from_millis(20);
            assert!(at_the_latest <= timeout.saturating_add(Duration::from_millis(20)), "{told:?}");
        }
    }

    #[test]
    fn a_connection_is_asked_for_a_sign_of_life_before_others_forget_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fd = race(&[address], &Deadline::after(Duration::from_secs(60))).unwrap();
        keep_alive(&fd).unwrap();
        assert!(sockopt::socket_keepalive(&fd).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&fd), Ok(Duration::from_secs(60)));
        assert_eq!(sockopt::tcp_keepintvl(&fd), Ok(Duration::from_secs(15)));
        assert_eq!(sockopt::tcp_keepcnt(&fd), Ok(3));
    }

    /// Of a socket that was given the port that it connects to, as one may be by chance.
    #[test]
    fn a_socket_that_has_connected_to_itself_is_refused_and_its_port_is_free_again() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let any: SocketAddr = any.parse().unwrap();
            let family = if any.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let bound = || {
                let fd = new_socket(family)?;
                rustix::io::ioctl_fionbio(&fd, false)?;
                rustix::net::bind(&fd, &any).map(|()| fd)
            };
            // Not everywhere is there IPv6.
            let Ok(fd) = bound() else { continue };
            let own = SocketAddr::try_from(getsockname(&fd).unwrap()).unwrap();
            assert!(!is_to_itself(&fd, own.port()), "it is not connected");
            connect(&fd, &own).unwrap();
            assert!(is_to_itself(&fd, own.port()));
            assert!(!is_to_itself(&fd, own.port() ^ 1));
            assert_eq!(refuse_itself(fd), Errno::CONNREFUSED);
            let listener = std::net::TcpListener::bind(own).unwrap();
            let deadline = Deadline::after(Duration::from_secs(60));
            assert!(!is_to_itself(&race(&[own], &deadline).unwrap(), own.port()));
            drop(listener);
        }
    }

    #[test]
    fn a_host_and_its_port_are_written_as_in_a_url() {
        for port in 0..=u16::MAX {
            assert_eq!(with_port("a.b", port), format!("a.b:{port}"));
        }
        assert_eq!(with_port("::1", 6379), "[::1]:6379");
    }
}
