//! Calls to a server that is far away, where requests do not wait for the replies to others: a link is docked while its
//! driver sleeps, and whoever comes adds its request to the batch, sends it, and waits to be answered.

use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFd;

use super::Node;
use super::lease::Lease;
use super::scheduler::{Distance, Ticket, Visit, Visited};
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::drive::{NonBlocking, Pause};
use crate::backend::redis::link::pipeline::Driven;
use crate::backend::redis::link::waiter::Waiter;
use crate::backend::redis::net::socket;
use crate::backend::redis::wire::replies::Reuse;
use crate::deadline::Deadline;

/// A thread that visits. After a panic the link is closed, and there is nothing to come back to.
struct Visitor<'a> {
    node: &'a Node,
    driver: &'a Arc<Waiter<Link>>,
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.node.scheduler().forget_docked(self.driver);
        }
    }
}

impl Node {
    /// Sends what was added to the batch of a docked link, and docks it again.
    pub fn visit(&self, visit: Visit<Link>) {
        let Visit { link, driver } = visit;
        // Dropped after the lease.
        let _visitor = Visitor { node: self, driver: &driver };
        let mut lease = Lease::of(self, link);
        loop {
            if let Ok(link) = lease.link() {
                link.send_batch();
            }
            let Some(link) = lease.into_link() else { return };
            let visited = self.scheduler().end_visit(link, &driver);
            match visited {
                Visited::Docked => return,
                Visited::More(link) => lease = Lease::of(self, link),
                Visited::HandOver(link) => return Lease::of(self, link).hand_over_to(&driver),
            }
        }
    }

    /// Drives the batch of a link that is docked whenever the driver, whose own call is part of it, sleeps. Returns
    /// when that call has come to something, or somebody else has the link.
    pub fn drive_docked(&self, lease: Lease<'_>, ticket: &Ticket<Link>, deadline: &Deadline) {
        let mut lease = Some(lease);
        while let Some(leased) = lease.take() {
            lease = self.drive_on(leased, ticket, deadline);
        }
    }

    /// Does what can be done with the link now, and sleeps until there is more. `None`: there is nothing more for this
    /// driver.
    fn drive_on<'a>(
        &'a self,
        mut lease: Lease<'a>,
        ticket: &Ticket<Link>,
        deadline: &Deadline,
    ) -> Option<Lease<'a>> {
        let waiter = &ticket.waiter;
        let link = lease.link().ok()?;
        let left = link.batch.left();
        let mut io = NonBlocking::default();
        let mut driven = link.drive_batch(self, &mut io);
        let has_moved = link.batch.left() < left;
        if io.has_received() {
            link.heard(Instant::now());
        }
        let is_mid_reply = io.has_received() && (!has_moved || link.has_input());
        if has_moved {
            lease.deliver();
        }
        if driven == Driven::Complete(Reuse::Keep) && self.goes_on(&mut lease) {
            driven = Driven::Paused(Pause::Satisfied);
        }
        match driven {
            Driven::Complete(_) => {}
            Driven::Paused(_) if waiter.is_completed() || deadline.has_passed() => {}
            Driven::Paused(Pause::Yield) => return Some(lease),
            Driven::Paused(_) => return self.sleep_docked(lease, ticket, is_mid_reply, deadline),
        }
        lease.after(driven, Some(waiter));
        None
    }

    /// Whether the next batch goes over a link that has completed one. It is sent at once, for whoever drives it has
    /// still to wake.
    fn goes_on(&self, lease: &mut Lease<'_>) -> bool {
        let Ok(link) = lease.link() else { return false };
        let goes_on = link.batch.retries.is_empty() && self.scheduler().refill(link);
        if goes_on {
            link.touch(Instant::now());
            link.send_batch();
        }
        goes_on
    }

    /// Of calls that others drive one in so many is measured, and each that took less than any to a server that is far
    /// away: that it is far away may be a mistake.
    pub fn measure_waited(&self, ticket: &Ticket<Link>, deadline: &Deadline) {
        let took = deadline.started().elapsed();
        if ticket.is_measured || Distance::is_short(took) {
            self.scheduler().measure(took);
        }
    }

    /// Docks a link and sleeps until more can be done with it, or the deadline. `None`: a visitor has it, and hands it
    /// over.
    fn sleep_docked<'a>(
        &'a self,
        mut lease: Lease<'a>,
        ticket: &Ticket<Link>,
        is_mid_reply: bool,
        deadline: &Deadline,
    ) -> Option<Lease<'a>> {
        let (socket, events) = loop {
            let link = lease.link().ok()?;
            let watched = link.watched();
            let heard = (!is_mid_reply).then(|| link.last_used());
            let docked = self.scheduler().dock(lease.into_link()?, &ticket.waiter, heard);
            let Err(link) = docked else { break watched };
            lease = Lease::of(self, link);
            lease.link().ok()?.send_batch();
        };
        // Whatever it returns, there is a look at the link.
        let _ = socket::wait(&mut [PollFd::new(&*socket, events)], deadline.instant());
        let link = self.scheduler().undock(&ticket.waiter)?;
        Some(Lease::of(self, link))
    }
}
