//! One type for a TCP and a Unix socket, with the ways to end it that the standard library does not offer.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{SendFlags, Shutdown, SocketAddrUnix, sockopt};

use super::dir::TempDir;

/// Where a server is to be found.
#[derive(Clone, Debug)]
pub enum Address {
    /// A port on 127.0.0.1.
    Tcp(u16),
    Unix(PathBuf),
}

impl Address {
    pub fn connect(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                Socket(stream.into())
            }
            Self::Unix(path) => Socket(UnixStream::connect(path)?.into()),
        })
    }

    /// The URL of a cache there; `options` is its query, without the question mark.
    pub fn url(&self, options: &str) -> String {
        match self {
            Self::Tcp(port) => format!("redis://127.0.0.1:{port}/?{options}"),
            Self::Unix(path) => format!("unix://{}?{options}", path.display()),
        }
    }
}

/// Shows the sockets of this process that are connected to a server; how many there are. On a Unix socket both ends are
/// of the same process here, and only one of them has the server's name for its peer.
pub fn connected_to(server: &Address, mut look: impl FnMut(BorrowedFd<'_>)) -> usize {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: what it names is only asked what it is; one that was closed meanwhile is an error.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(Some(peer)) = rustix::net::getpeername(fd) else { continue };
        let is_its = match server {
            Address::Tcp(port) => SocketAddr::try_from(peer).is_ok_and(|peer| peer.port() == *port),
            Address::Unix(path) => SocketAddrUnix::try_from(peer)
                .is_ok_and(|peer| peer.path_bytes() == Some(path.as_os_str().as_encoded_bytes())),
        };
        if is_its {
            look(fd);
            count += 1;
        }
    }
    count
}

/// A connected socket.
pub struct Socket(pub OwnedFd);

impl Socket {
    /// Zero at the end of the stream, which a reset is too.
    pub fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return 0,
                Ok(count) => return count,
            }
        }
    }

    /// Whether the peer's kernel took it all.
    pub fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
                Ok(count) => bytes = &bytes[count..],
            }
        }
        true
    }

    /// Says goodbye (FIN) and wakes whoever reads or writes here.
    pub fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    /// Ends the connection by a reset (RST) at once. Unix sockets have no such thing and say goodbye.
    pub fn reset(&self) {
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
        if rustix::net::connect_unspec(&self.0).is_err() {
            self.shut_down();
        }
    }
}

/// A listening socket.
pub struct Listener {
    socket: OwnedFd,
    pub address: Address,
    _dir: Option<TempDir>,
}

impl Listener {
    pub fn tcp() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { socket: listener.into(), address: Address::Tcp(port), _dir: None }
    }

    pub fn unix() -> Self {
        let dir = TempDir::new();
        let path = dir.join("sock");
        let socket = UnixListener::bind(&path).unwrap().into();
        Self { socket, address: Address::Unix(path), _dir: Some(dir) }
    }

    /// The next connection; `None` once the listening has stopped.
    pub fn accept(&self) -> Option<Socket> {
        loop {
            match rustix::net::accept(self.socket.as_fd()) {
                Ok(socket) => {
                    let _ = sockopt::set_tcp_nodelay(&socket, true);
                    return Some(Socket(socket));
                }
                Err(error) if retry(error.into()) => {}
                Err(_) => return None,
            }
        }
    }

    /// Wakes a thread inside [`Listener::accept`].
    pub fn stop(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

fn retry(error: io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}
