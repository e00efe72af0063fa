//! A connected socket. Nothing is sent that could raise SIGPIPE. It is a blocking one with a receive timeout, so that
//! waiting for a reply takes one system call; everything else is asked for without waiting and waited for with poll(2).

use std::io::{self, IoSlice};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, Shutdown, recv, send, sendmsg, shutdown};

use crate::deadline::Deadline;
use crate::error::{Error, Kind, again, is_scarcity};
use crate::sys::{self, SocketFd};

pub struct Socket {
    /// Shared with whoever may have to cut it off, or sleeps until something arrives.
    fd: Arc<SocketFd>,
}

/// Why nothing more goes through a connection.
#[derive(Debug)]
pub enum Broken {
    /// The peer closed it.
    Closed,
    Io(io::Error),
    Tls(Tls),
}

/// How a TLS session ended.
#[derive(Clone, Debug)]
pub struct Tls {
    pub reason: String,
    /// The peer ended the handshake, so it has not looked at anything that was sent.
    pub refused: bool,
    /// The handshake failed for what one side shows, or the other trusts.
    pub concerns_certificates: bool,
}

/// Why a wait ended without what it was for.
#[derive(Debug)]
pub enum Stopped {
    /// The deadline passed. The connection itself may be sound, but what was sent on it is not answered.
    TimedOut,
    Broken(Broken),
}

impl Broken {
    pub fn into_error(self, doing: &'static str, peer: &str) -> Error {
        match self {
            Broken::Closed => {
                let source = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                );
                Kind::Io { doing, source: Arc::new(source) }
            }
            Broken::Io(error) if is_scarcity(&error) => {
                return Error::no_memory("what the connection needs of the system");
            }
            Broken::Io(error) => Kind::Io { doing, source: Arc::new(error) },
            Broken::Tls(Tls { reason, .. }) => {
                Kind::Tls { peer: peer.to_owned().into(), reason: reason.into() }
            }
        }
        .into()
    }

    /// The same once more, for another call that it concerns.
    pub fn again(&self) -> Self {
        match self {
            Broken::Closed => Broken::Closed,
            Broken::Io(error) => Broken::Io(again(error)),
            Broken::Tls(why) => Broken::Tls(why.clone()),
        }
    }

    /// Whether another connection may do better.
    pub fn is_lost(&self) -> bool {
        match self {
            Broken::Closed => true,
            Broken::Io(error) => !is_scarcity(error),
            Broken::Tls(_) => false,
        }
    }

    /// Whether the peer has looked at nothing that was sent.
    pub fn is_unread(&self) -> bool {
        matches!(self, Broken::Tls(Tls { refused: true, .. }))
    }
}

impl From<Errno> for Broken {
    #[cold]
    fn from(errno: Errno) -> Self {
        Broken::Io(errno.into())
    }
}

impl From<Broken> for Stopped {
    fn from(broken: Broken) -> Self {
        Stopped::Broken(broken)
    }
}

impl Socket {
    /// Takes a connected, blocking socket. A blocking receive waits for `receive_timeout` before it gives up.
    pub fn new(fd: SocketFd, receive_timeout: Duration) -> io::Result<Self> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(&fd, Timeout::Recv, Some(receive_timeout))?;
        Ok(Self { fd: Arc::new(fd) })
    }

    pub fn descriptor(&self) -> &Arc<SocketFd> {
        &self.fd
    }

    pub fn shared_descriptor(&self) -> Arc<SocketFd> {
        Arc::clone(&self.fd)
    }

    pub fn cut_off(&self) -> CutOff {
        CutOff(Arc::downgrade(&self.fd))
    }

    /// Sends what goes without waiting; `AGAIN` when that is nothing.
    pub fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        retry(|| send(&*self.fd, bytes, sys::SEND_FLAGS))
    }

    /// Sends what goes without waiting, from wherever it lies.
    pub fn send_slices(&self, slices: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
        let ancillary = &mut SendAncillaryBuffer::default();
        retry(|| sendmsg(&*self.fd, slices, ancillary, sys::SEND_FLAGS))
    }

    /// Appends what is there, up to the buffer's capacity; 0 is the end of the stream.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> rustix::io::Result<usize> {
        retry(|| {
            recv(&*self.fd, spare_capacity(buffer), RecvFlags::DONTWAIT).map(|(count, _)| count)
        })
    }

    pub fn receive_slice(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        retry(|| recv(&*self.fd, &mut *buffer, RecvFlags::DONTWAIT).map(|(count, _)| count))
    }

    /// Appends at least one byte. Waits in the call itself, for the receive timeout; after that: `AGAIN`.
    #[inline(always)]
    pub fn receive_blocking(&self, buffer: &mut Vec<u8>) -> rustix::io::Result<usize> {
        recv(&*self.fd, spare_capacity(buffer), RecvFlags::empty()).map(|(count, _)| count)
    }

    /// Waits for one of `events`, until the deadline.
    pub fn wait(&self, events: PollFlags, deadline: &Deadline) -> Result<PollFlags, Stopped> {
        wait(&mut [PollFd::new(&*self.fd, events)], deadline.instant())
    }

    /// Whether an idle stream is as it was left: open, and nothing has arrived that nobody asked for.
    #[inline(always)]
    pub fn is_quiet(&self) -> bool {
        let flags = RecvFlags::DONTWAIT.union(RecvFlags::PEEK);
        matches!(recv(&*self.fd, &mut [0; 1], flags), Err(Errno::AGAIN))
    }
}

/// Ends a connection that somebody else is waiting on, who finds it closed. It keeps nothing open.
pub struct CutOff(Weak<SocketFd>);

impl CutOff {
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// In a child process: closes what the parent's other threads were using, if it is there still, and nothing else is
    /// done to it.
    pub fn close_inherited(&self) {
        if let Some(fd) = self.0.upgrade() {
            // Whoever owns it is a thread of the parent's that this process does not have, so nobody will use it or
            // close it again.
            fd.close_inherited();
            // The owner's count is never given back either.
            std::mem::forget(fd);
        }
    }

    pub fn cut(&self) {
        if let Some(fd) = self.0.upgrade()
            && fd.is_there()
        {
            // It may be closed already, which is as good.
            let _ = shutdown(&*fd, Shutdown::Both);
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Waits until one of `fds` is ready; the events of the first that is.
pub fn wait(fds: &mut [PollFd<'_>], until: Instant) -> Result<PollFlags, Stopped> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(fds, Some(&sys::poll_timeout(left))) {
            Ok(0) if left.is_zero() => return Err(Stopped::TimedOut),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => {
                let ready = fds.iter().map(PollFd::revents).find(|events| !events.is_empty());
                return Ok(ready.unwrap_or(PollFlags::empty()));
            }
            Err(error) => return Err(Broken::from(error).into()),
        }
    }
}
