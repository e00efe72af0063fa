//! A connected socket, plain or under TLS, whose every wait ends at a deadline.
//!
//! Nothing is sent that could raise SIGPIPE. The socket is a blocking one with a receive timeout, so that waiting for a
//! reply takes one system call; everything else is asked for without waiting and waited for with poll(2).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};

use crate::backend::redis::net::tls::TlsSession;
use crate::backend::redis::wire::encode::Loose;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, again};
use crate::spin::Spinner;
use crate::sys;

pub struct Stream {
    socket: Socket,
    tls: Option<Box<TlsSession>>,
    spinner: Spinner,
    /// Whether a read may be one system call, which waits for as long as the socket has patience.
    reads_at_once: bool,
}

pub struct Socket {
    /// Shared with whoever may have to cut it off.
    fd: Arc<OwnedFd>,
}

/// Why nothing more goes through a stream.
#[derive(Debug)]
pub enum Broken {
    /// The deadline passed; the stream itself may be sound, but what was sent on it is not answered.
    Timeout,
    /// The peer closed it.
    Closed,
    Io(io::Error),
    /// `refused`: the peer ended the handshake, so it has not looked at anything that was sent.
    Tls {
        reason: String,
        refused: bool,
    },
}

impl Broken {
    pub fn into_error(self, doing: &'static str, peer: &str) -> Error {
        match self {
            Broken::Timeout => Kind::Timeout(doing),
            Broken::Closed => {
                let source = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                );
                Kind::Io { doing, source }
            }
            Broken::Io(source) => Kind::Io { doing, source },
            Broken::Tls { reason, .. } => Kind::Tls { peer: peer.into(), reason: reason.into() },
        }
        .into()
    }
}

impl Broken {
    /// The same once more, for another call that it concerns.
    pub fn again(&self) -> Self {
        match self {
            Broken::Timeout => Broken::Timeout,
            Broken::Closed => Broken::Closed,
            Broken::Io(error) => Broken::Io(again(error)),
            Broken::Tls { reason, refused } => {
                Broken::Tls { reason: reason.clone(), refused: *refused }
            }
        }
    }
}

impl From<Errno> for Broken {
    #[cold]
    fn from(errno: Errno) -> Self {
        Broken::Io(errno.into())
    }
}

impl Socket {
    /// Takes a connected, blocking socket. A blocking receive shall wait for `patience` before it gives up.
    pub fn new(fd: OwnedFd, patience: Duration) -> io::Result<Self> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(&fd, Timeout::Recv, Some(patience))?;
        Ok(Self { fd: Arc::new(fd) })
    }

    pub fn cut_off(&self) -> CutOff {
        CutOff(Arc::downgrade(&self.fd))
    }

    /// Sends what goes without waiting; `WouldBlock` when that is nothing.
    pub fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        retry(|| send(&*self.fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
    }

    /// Sends what goes without waiting, from wherever it lies.
    fn send_parts(&self, parts: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        retry(|| sendmsg(&*self.fd, parts, &mut SendAncillaryBuffer::default(), flags))
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

    /// Waits for one of `events`, until the deadline.
    pub fn wait(&self, events: PollFlags, deadline: &Deadline) -> Result<PollFlags, Broken> {
        wait(&mut [PollFd::new(&*self.fd, events)], deadline.instant())
    }

    /// Whether an idle stream is as it was left: open, and nothing has arrived that nobody asked for.
    fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let peeked = retry(|| recv(&*self.fd, &mut byte, flags).map(|(count, _)| count));
        peeked == Err(Errno::AGAIN)
    }
}

/// Ends a stream that somebody else is waiting on, who finds it closed. It keeps nothing open.
pub struct CutOff(Weak<OwnedFd>);

impl CutOff {
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// In a child process: closes what the parent's other threads were using, and nothing else is done to it.
    pub fn close_inherited(&self) {
        if let Some(fd) = self.0.upgrade() {
            sys::close_inherited(fd.as_fd());
            // The count that `upgrade` raised is never given back, so nobody closes it again.
            std::mem::forget(fd);
        }
    }

    pub fn cut(&self) {
        if let Some(fd) = self.0.upgrade() {
            // It may be closed already, which is as good.
            let _ = shutdown(&*fd, Shutdown::Both);
        }
    }
}

/// Marked as what is seldom: where the compiler takes it for as likely as data, it no longer inlines recv(2).
#[cold]
fn closed() -> Broken {
    Broken::Closed
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
pub fn wait(fds: &mut [PollFd<'_>], until: Instant) -> Result<PollFlags, Broken> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(fds, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Err(Broken::Timeout),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => {
                let ready = fds.iter().map(PollFd::revents).find(|events| !events.is_empty());
                return Ok(ready.unwrap_or(PollFlags::empty()));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The most pieces that are sent at once.
const PIECES: usize = 64;

/// What is next of a request of which `skip` bytes have gone.
fn pieces<'a>(bytes: &'a [u8], loose: &[Loose<'a>], mut skip: usize) -> Vec<IoSlice<'a>> {
    let mut pieces = Vec::with_capacity(PIECES.min(2 * loose.len() + 1));
    let mut at = 0;
    let mut add = |piece: &'a [u8]| {
        let passed = skip.min(piece.len());
        skip -= passed;
        if passed < piece.len() && pieces.len() < PIECES {
            pieces.push(IoSlice::new(&piece[passed..]));
        }
    };
    for part in loose {
        add(&bytes[at..part.at]);
        add(part.bytes);
        at = part.at;
    }
    add(&bytes[at..]);
    pieces
}

fn receive(
    socket: &Socket,
    tls: Option<&mut TlsSession>,
    buffer: &mut Vec<u8>,
) -> Result<Option<usize>, Broken> {
    let received = match tls {
        Some(session) => return session.receive(socket, buffer),
        None => socket.receive(buffer),
    };
    match received {
        Ok(0) => Err(Broken::Closed),
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Stream {
    /// `spin`: how long a read may spin before it sleeps.
    pub fn new(socket: Socket, tls: Option<Box<TlsSession>>, spin: Duration) -> Self {
        let spinner = Spinner::new(spin);
        let reads_at_once = tls.is_none() && spinner.is_short();
        Self { socket, tls, spinner, reads_at_once }
    }

    /// Sends what goes without waiting of a request, from `sent` on, which is counted up; whether all of it went. Under
    /// TLS what was taken in counts as sent.
    #[inline(always)]
    pub fn write(
        &mut self,
        bytes: &[u8],
        loose: &[Loose<'_>],
        sent: &mut usize,
    ) -> Result<bool, Broken> {
        if self.tls.is_none() && loose.is_empty() && *sent < bytes.len() {
            // The usual case.
            match self.socket.send(&bytes[*sent..]) {
                Ok(count) => *sent += count,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if *sent == bytes.len() {
                return Ok(true);
            }
        }
        self.write_rest(bytes, loose, sent)
    }

    #[cold]
    fn write_rest(
        &mut self,
        bytes: &[u8],
        loose: &[Loose<'_>],
        sent: &mut usize,
    ) -> Result<bool, Broken> {
        let total = bytes.len() + loose.iter().map(|part| part.bytes.len()).sum::<usize>();
        while *sent < total {
            let step = match &mut self.tls {
                None if loose.is_empty() => self.socket.send(&bytes[*sent..]),
                None => self.socket.send_parts(&pieces(bytes, loose, *sent)),
                Some(session) => {
                    if !session.flush(&self.socket)? {
                        return Ok(false);
                    }
                    let pieces = pieces(bytes, loose, *sent);
                    session.write(pieces.first().map_or(&[], |piece| &**piece))
                }
            };
            match step {
                Ok(count) => *sent += count,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.flush()
    }

    /// Sends what TLS has taken in; whether all of it went.
    fn flush(&mut self) -> Result<bool, Broken> {
        match &mut self.tls {
            None => Ok(true),
            Some(session) => session.flush(&self.socket),
        }
    }

    /// Whether it pays to spin for what arrives.
    #[inline]
    pub fn spins(&self) -> bool {
        self.spinner.pays()
    }

    /// Whether a wait for what arrives is one to spin for.
    pub fn is_spin_due(&mut self) -> bool {
        self.spinner.is_due()
    }

    /// Spins until something has arrived, which is appended, or `is_over`. `false`: in vain.
    pub fn spin(
        &mut self,
        until: Instant,
        buffer: &mut Vec<u8>,
        is_over: impl Fn() -> bool,
    ) -> Result<bool, Broken> {
        let Self { socket, tls, spinner, .. } = self;
        let look = || match receive(socket, tls.as_deref_mut(), buffer) {
            Ok(None) if !is_over() => None,
            received => Some(received.map(|_| true)),
        };
        spinner.spin_now(until, look).unwrap_or(Ok(false))
    }

    /// Whether TLS has taken in something that is still to be sent.
    pub fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.has_unsent())
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.socket.fd
    }

    /// Appends what is there, without waiting; `None`: nothing yet.
    pub fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<usize>, Broken> {
        receive(&self.socket, self.tls.as_deref_mut(), buffer)
    }

    /// Appends at least one byte, waiting until the deadline. `fresh`: the deadline was set just now, so that the socket's
    /// own patience is as good a bound and one system call will do. `before_sleep` is called when there is nothing to do
    /// but sleep.
    #[inline(always)]
    pub fn read(
        &mut self,
        buffer: &mut Vec<u8>,
        deadline: &Deadline,
        fresh: bool,
        before_sleep: impl FnOnce(),
    ) -> Result<(), Broken> {
        let Self { socket, tls, spinner, .. } = self;
        if spinner.is_due()
            && let Some(received) = spinner.spin_now(deadline.instant(), || {
                receive(socket, tls.as_deref_mut(), buffer).transpose()
            })
        {
            return received.map(drop);
        }
        before_sleep();
        if fresh && self.reads_at_once {
            match recv(&*self.socket.fd, spare_capacity(buffer), RecvFlags::empty()) {
                Ok((0, _)) => return Err(closed()),
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.read_on(buffer, *deadline)
    }

    /// The same, once a reply has begun to arrive: the rest is not far, and to spin for it would be to take it piece by piece.
    /// With a look first and a poll(2) for each wait.
    #[cold]
    #[inline(never)]
    pub fn read_on(&mut self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<(), Broken> {
        loop {
            if self.receive(buffer)?.is_some() {
                return Ok(());
            }
            self.wait_to_read(&deadline)?;
        }
    }

    fn wait_to_read(&mut self, deadline: &Deadline) -> Result<(), Broken> {
        let mut events = PollFlags::IN;
        if !self.flush()? {
            events |= PollFlags::OUT;
        }
        self.socket.wait(events, deadline).map(drop)
    }

    /// Waits until more can be sent, or, if that is wanted, until something has arrived.
    pub fn wait_to_write(&mut self, or_read: bool, deadline: &Deadline) -> Result<(), Broken> {
        let read = if or_read { PollFlags::IN } else { PollFlags::empty() };
        self.socket.wait(PollFlags::OUT | read, deadline).map(drop)
    }

    /// Whether an idle stream is still there, as far as this machine knows.
    pub fn is_sound(&mut self) -> bool {
        match &mut self.tls {
            None => self.socket.is_quiet(),
            // What has arrived may be a session ticket, which is fine; data or an end is not.
            Some(session) => {
                matches!(session.receive(&self.socket, &mut Vec::with_capacity(1)), Ok(None))
            }
        }
    }
}
