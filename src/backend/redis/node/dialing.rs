//! How a node comes to links: a thread dials for itself, or one of the library's for whoever waits.

use std::sync::Arc;
use std::time::Instant;

use super::Node;
use super::lease::Lease;
use super::scheduler::{Dialled, Reservation};
use crate::backend::redis::link::call::Start;
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::outcome::Failure;
use crate::backend::redis::net;
use crate::backend::redis::net::socket::Socket;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::reserve;
use crate::threads::Workers;

/// Where what blocks is done for asynchronous calls.
pub static DIALLERS: Workers = Workers::new(c"cachetory-dial", 64);

/// More than a link takes at first.
const LINK: usize = 32 << 10;

impl Node {
    /// Dials a link for the calling thread.
    pub fn dial_reserved(
        &self,
        reservation: Reservation,
        deadline: &Deadline,
    ) -> Result<Lease<'_>> {
        let mut own = OwnDial { node: self, reservation: Some(reservation) };
        let mut link = Box::new(self.dial(deadline)?);
        own.over(Dialled::Link(&mut link));
        let mut lease = Lease::new(self, link);
        // The socket's receive timeout is as long as a whole call.
        lease.start = Start::AfterWait;
        Ok(lease)
    }

    /// Has a link dialled, which is counted already, for whoever is next when it is there.
    pub fn dial_out_of_band(&self) {
        let Some(node) = self.me.upgrade() else { return };
        let error = Error::no_memory("a thread to connect on");
        let mut dial = OutOfBand { node, error: Some(error) };
        // Where no thread can be had, the task is dropped, and fails.
        let _ = DIALLERS.run(move || dial.run());
    }

    pub fn dial(&self, deadline: &Deadline) -> Result<Link> {
        reserve::expect(LINK)?;
        let dialling = deadline.at_most(self.connect_timeout);
        let vintage = self.scheduler().vintage();
        let mut peer = String::new();
        let mut dial = || {
            let address = self.endpoint.address(&dialling).map_err(Failure::unsent)?;
            peer = net::dial::peer(&address);
            let stream = self.dialer.dial(&address, &dialling, |socket| self.connected(socket));
            let stream = stream.map_err(Failure::unsent)?;
            let mut link = Link::new(stream, peer.clone(), &self.handshake, &dialling)?;
            link.vintage = vintage;
            Ok(link)
        };
        let mut dialled = dial();
        if let Err(Failure { lost: true, .. }) = dialled
            && self.refusal().is_none()
        {
            // A server that stops takes connections that it never answers, and the next one may be its successor's.
            dialled = dial();
        }
        dialled.map_err(|Failure { error, .. }| self.not_dialled(error, peer, &dialling, deadline))
    }

    /// What is said of a dial that came to nothing.
    fn not_dialled(
        &self,
        error: Error,
        peer: String,
        dialling: &Deadline,
        deadline: &Deadline,
    ) -> Error {
        if error.is_no_room() {
            self.scheduler().turned_away(Instant::now());
        }
        if is_silence(&error) {
            self.note_silence(dialling.started());
        }
        match error.kind {
            _ if self.is_closed() => Kind::Closed.into(),
            // It was the time to connect that passed, and not the call's.
            Kind::Timeout(doing) if dialling.instant() < deadline.instant() => {
                let reason = format!("timed out after {:?} {doing}", self.connect_timeout);
                let silence = net::dial::has_asked(doing);
                Kind::Connect { peer: peer.into(), reason: reason.into(), silence }.into()
            }
            Kind::Connect { reason, silence, .. } => {
                Kind::Connect { peer: peer.into(), reason, silence }.into()
            }
            Kind::Full { reason, .. } => Kind::Full { peer: peer.into(), reason }.into(),
            kind => Error { kind, ..error },
        }
    }

    /// From here on a socket is cut off when the node is closed.
    fn connected(&self, socket: &Socket) -> Result<()> {
        let mut cut_offs = self.cut_offs();
        cut_offs.retain(|cut_off| !cut_off.is_gone());
        cut_offs.push(socket.cut_off());
        let are_several = cut_offs.len() > 1;
        drop(cut_offs);
        if are_several {
            self.watch_several();
        }
        // Whoever closes the node marks it before it cuts off what is there.
        if self.is_closed() { Err(Kind::Closed.into()) } else { Ok(()) }
    }
}

/// Whether nothing came back to a dial at all.
pub fn is_silence(error: &Error) -> bool {
    match error.kind {
        Kind::Connect { silence, .. } => silence,
        Kind::Timeout(doing) => net::dial::has_asked(doing),
        _ => false,
    }
}

/// A thread that dials for itself. Dropped before it has, there is room for another.
struct OwnDial<'a> {
    node: &'a Node,
    reservation: Option<Reservation>,
}

impl OwnDial<'_> {
    fn over(&mut self, dialled: Dialled<'_, Link>) {
        if let Some(reservation) = self.reservation.take() {
            let actions = self.node.scheduler().own_dial_over(reservation, dialled, Instant::now);
            self.node.perform(actions);
        }
    }
}

impl Drop for OwnDial<'_> {
    fn drop(&mut self) {
        self.over(Dialled::Nothing);
    }
}

/// The dialling of a link out of band. Unless it comes to something, it fails whoever waits for it as it is dropped.
struct OutOfBand {
    node: Arc<Node>,
    /// Taken when it comes to something.
    error: Option<Error>,
}

impl OutOfBand {
    fn run(&mut self) {
        let deadline = Deadline::after(self.node.timeout);
        let mut dialled = self.node.dial(&deadline);
        if dialled.as_ref().is_err_and(|error| matches!(error.kind, Kind::NoMemory(_))) {
            // Somebody may wait for it by now who came when there was memory again.
            dialled = self.node.dial(&deadline);
        }
        match dialled {
            Ok(link) => {
                self.error = None;
                let actions = self.node.scheduler().dialled(Box::new(link), Instant::now);
                self.node.perform(actions);
            }
            Err(error) => self.error = Some(error),
        }
    }
}

impl Drop for OutOfBand {
    fn drop(&mut self) {
        if let Some(error) = self.error.take() {
            // Under one lock, or another link is dialled for those that are about to fail.
            let mut scheduler = self.node.scheduler();
            if error.is_no_room() {
                // It may be a thread that could not be had. The links that are there serve.
                scheduler.turned_away(Instant::now());
            }
            let failed = scheduler.dial_failed(Instant::now);
            drop(scheduler);
            match failed {
                Ok(actions) => self.node.perform(actions),
                Err(remains) => {
                    // Nothing is parked where there is no link.
                    self.node.fail_unsent(remains.requests, &error);
                }
            }
            self.node.freed.notify_one();
        }
    }
}
