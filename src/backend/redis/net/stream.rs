//! A connected socket, plain or under TLS, whose every wait ends at a deadline.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::pulse::Pulse;
use super::socket::{Broken, Socket, Stopped};
use super::tls::TlsSession;
use crate::deadline::Deadline;
use crate::spin::Spinner;
use crate::sys::SocketFd;

pub struct Stream {
    socket: Socket,
    tls: Option<Box<TlsSession>>,
    spinner: Spinner,
    pulse: Arc<Pulse>,
    /// Whether a read may be one system call, which waits for as long as the socket's receive timeout.
    reads_at_once: bool,
}

/// Marked as what is seldom: where the compiler takes it for as likely as data, it no longer inlines recv(2).
#[cold]
fn closed() -> Broken {
    Broken::Closed
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
    pub fn new(
        socket: Socket,
        tls: Option<Box<TlsSession>>,
        spin: Duration,
        pulse: Arc<Pulse>,
    ) -> Self {
        let spinner = Spinner::new(spin);
        let reads_at_once = tls.is_none() && spinner.is_short();
        Self { socket, tls, spinner, pulse, reads_at_once }
    }

    /// That of the server.
    #[inline(always)]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Sends what goes without waiting of `bytes`, from `sent` on, which is counted up; whether all of it went. Under
    /// TLS what was taken in counts as sent.
    #[inline(always)]
    pub fn write(&mut self, bytes: &[u8], sent: &mut usize) -> Result<bool, Broken> {
        if self.tls.is_none() && *sent < bytes.len() {
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
        self.write_on(bytes, sent)
    }

    #[cold]
    fn write_on(&mut self, bytes: &[u8], sent: &mut usize) -> Result<bool, Broken> {
        while *sent < bytes.len() {
            match self.write_once(&[IoSlice::new(&bytes[*sent..])])? {
                Some(count) => *sent += count,
                None => return Ok(false),
            }
        }
        self.flush()
    }

    /// The same of a request that does not lie in one piece: `total` bytes long, and in the slices that `rest` tells,
    /// from that byte on.
    pub fn write_slices<'a>(
        &mut self,
        total: usize,
        rest: impl Fn(usize) -> Vec<IoSlice<'a>>,
        sent: &mut usize,
    ) -> Result<bool, Broken> {
        while *sent < total {
            match self.write_once(&rest(*sent))? {
                Some(count) => *sent += count,
                None => return Ok(false),
            }
        }
        self.flush()
    }

    /// How much went; `None`: nothing goes now.
    fn write_once(&mut self, slices: &[IoSlice<'_>]) -> Result<Option<usize>, Broken> {
        let written = match &mut self.tls {
            None => self.socket.send_slices(slices),
            Some(session) => {
                if !session.flush(&self.socket)? {
                    return Ok(None);
                }
                session.write(slices.first().map_or(&[], |slice| &**slice))
            }
        };
        match written {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what TLS has taken in; whether all of it went.
    fn flush(&mut self) -> Result<bool, Broken> {
        match &mut self.tls {
            None => Ok(true),
            Some(session) => session.flush(&self.socket),
        }
    }

    /// Whether TLS has taken in something that is still to be sent.
    pub fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.has_unsent())
    }

    /// Whether what arrives is handed on as it is.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    pub fn descriptor(&self) -> &Arc<SocketFd> {
        self.socket.descriptor()
    }

    /// The same, which stays open as long as somebody has it.
    pub fn shared_descriptor(&self) -> Arc<SocketFd> {
        self.socket.shared_descriptor()
    }

    /// Ends it under those who wait for something.
    pub fn shut_down(&self) {
        self.socket.cut_off().cut();
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
        let Self { socket, tls, spinner, pulse, .. } = self;
        let look = || match receive(socket, tls.as_deref_mut(), buffer) {
            Ok(None) if !is_over() => None,
            received => Some(received.map(|_| true)),
        };
        let received = spinner.spin_now(until, look).unwrap_or(Ok(false))?;
        if received {
            pulse.beat();
        }
        Ok(received)
    }

    /// Appends what is there, without waiting; `None`: nothing yet.
    pub fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<usize>, Broken> {
        let received = receive(&self.socket, self.tls.as_deref_mut(), buffer)?;
        if received.is_some() {
            self.pulse.beat();
        }
        Ok(received)
    }

    /// The same, and no more than `most` at once.
    pub fn receive_some(
        &mut self,
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> Result<Option<usize>, Broken> {
        if !self.is_plain() || buffer.capacity() - buffer.len() <= most {
            return self.receive(buffer);
        }
        let start = buffer.len();
        buffer.resize(start + most, 0);
        let received = self.socket.receive_slice(&mut buffer[start..]);
        buffer.truncate(start + received.unwrap_or(0));
        match received {
            Ok(0) => Err(closed()),
            Ok(count) => {
                self.pulse.beat();
                Ok(Some(count))
            }
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends at least one byte. The deadline was set just now, so that the socket's receive timeout ends before it,
    /// and one system call will mostly do where spinning does not.
    #[inline(always)]
    pub fn read_first(&mut self, buffer: &mut Vec<u8>, deadline: &Deadline) -> Result<(), Stopped> {
        let Self { socket, tls, spinner, .. } = self;
        if spinner.is_due()
            && let Some(received) = spinner.spin_now(deadline.instant(), || {
                receive(socket, tls.as_deref_mut(), buffer).transpose()
            })
        {
            return received.map(drop).map_err(Stopped::Broken);
        }
        if self.reads_at_once {
            match self.socket.receive_blocking(buffer) {
                Ok(0) => return Err(closed().into()),
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(Broken::from(error).into()),
            }
        }
        self.read(buffer, *deadline)
    }

    /// Appends at least one byte, with a look first and a poll(2) for each wait. For what arrives piece by piece: to
    /// spin for the rest would be to take it in smaller pieces.
    #[cold]
    #[inline(never)]
    pub fn read(&mut self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<(), Stopped> {
        while self.receive(buffer)?.is_none() {
            let unsent = if self.flush()? { PollFlags::empty() } else { PollFlags::OUT };
            self.socket.wait(PollFlags::IN | unsent, &deadline)?;
        }
        Ok(())
    }

    /// Waits until more can be sent, or, with `IN` among the events, until something has arrived.
    pub fn wait(&mut self, events: PollFlags, deadline: &Deadline) -> Result<(), Stopped> {
        self.socket.wait(events, deadline).map(drop)
    }

    /// Whether an idle stream is as it was left, if that can be seen at once: under TLS there may be more to it.
    #[inline(always)]
    pub fn is_quiet(&self) -> bool {
        self.tls.is_none() && self.socket.is_quiet()
    }

    /// Whether an idle stream is still there, as far as this machine knows, and nothing has arrived.
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
