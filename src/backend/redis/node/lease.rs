//! A link in the hands of a call, and to whom it goes afterwards.

use std::mem::ManuallyDrop;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use crate::backend::redis::link::connection::{Exchanged, Link};
use crate::backend::redis::link::drive::Driven;
use crate::backend::redis::link::waiter::Waiter;
use crate::backend::redis::node::links::Links;
use crate::backend::redis::node::pool::{MOST_TIMED, Pool, TIMED};
use crate::error::{Error, Kind, Result};

/// A link in the hands of a call. Unless it is given back it is closed.
pub struct Lease<'a> {
    links: &'a Links,
    pub link: Option<Box<Link>>,
    pub round: u64,
    /// Nothing has been waited for to get it.
    pub at_once: bool,
}

/// The round of a link that counts in none.
pub const ASIDE: u64 = u64::MAX;

impl<'a> Lease<'a> {
    /// An idle link, or the right to dial one.
    pub fn new(links: &'a Links, link: Option<Box<Link>>, round: u64) -> Self {
        Lease { links, at_once: link.is_some(), link, round }
    }

    /// A link that was handed over.
    pub fn of(links: &'a Links, link: Box<Link>) -> Self {
        Lease { links, round: link.turn.round, link: Some(link), at_once: false }
    }

    pub fn link(&mut self) -> Result<&mut Link> {
        self.link
            .as_deref_mut()
            .ok_or_else(|| Kind::Internal("a lease without a link".into()).into())
    }

    /// Takes the link out, which is as well counted as before.
    pub fn into_link(mut self) -> Option<Box<Link>> {
        let link = self.link.take();
        std::mem::forget(self);
        link
    }

    /// Gives the link back, unless the call was its last.
    #[inline]
    pub fn end<T>(self, exchanged: Exchanged<T>) -> Exchanged<T> {
        if let Exchanged::Answered { link_is_sound: true, .. } = exchanged {
            self.give_back();
        }
        exchanged
    }

    /// The call is done, and the link may serve the next: the first in the queue, with all that is queued, or whoever comes.
    #[inline(always)]
    pub fn give_back(self) {
        // From here on it is counted there.
        let mut lease = ManuallyDrop::new(self);
        match lease.link.take() {
            Some(link) => lease.links.take_back(link, lease.round),
            None => drop(ManuallyDrop::into_inner(lease)),
        }
    }

    /// Has the next in the batch go on with it; where no thread waits in it, the I/O thread, or, `or_io` being false, nobody,
    /// which is the end of the link. `but`: a thread that cannot.
    pub fn hand_over(mut self, but: Option<&Arc<Waiter>>, or_io: bool) {
        let Some(mut link) = self.link.take() else { return };
        let links = self.links;
        while let Some((next, bell)) = link.batch.next_to_lead(but) {
            match next.lead(link) {
                None => {
                    match bell {
                        true => next.bell.ring(),
                        false => links.bells.ring(u8::MAX),
                    }
                    std::mem::forget(self);
                    return;
                }
                Some(back) => link = back,
            }
        }
        if or_io && link.batch.has_calls() {
            // What cannot be handed over comes back as a lease that ends.
            std::mem::forget(self);
            return links.to_io(link);
        }
        link.fail_all(false, || Kind::Timeout("waiting for the reply").into());
        drop(link);
        drop(self);
    }

    /// Deals with what has come of a batch. `but`: the thread that drove it.
    pub fn after(mut self, driven: Driven, but: Option<&Arc<Waiter>>) {
        let links = self.links;
        let Some(link) = self.link.as_deref_mut() else { return };
        let bells = link.batch.bells;
        link.batch.uncompleted.delivery.deliver();
        let again = std::mem::take(&mut link.batch.uncompleted.again);
        let refused = link.turn.refused.as_ref().map(Error::again);
        match driven {
            Driven::Sound => self.give_back(),
            Driven::Broken => drop(self),
            Driven::Unfinished | Driven::More => self.hand_over(but, true),
        }
        links.bells.ring(bells);
        match refused {
            _ if again.is_empty() => {}
            Some(error) if !links.has_some() => {
                again.entries.into_iter().for_each(|entry| entry.refuse(error.again()));
            }
            _ => links.queue_again(again),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Counted out at the end, for the socket is closed before another may be dialled in its place, and also after a panic.
        let _count = Count { links: self.links, round: self.round };
        if let Some(mut link) = self.link.take() {
            let bells = link.batch.bells;
            if link.turn.refused.is_some() {
                self.links.pool().turned_away();
            }
            // Nothing is left in it, unless there was a panic in the middle.
            link.fail_all(false, || {
                Kind::Internal("the call of another thread failed".into()).into()
            });
            drop(link);
            self.links.bells.ring(bells);
        }
    }
}

/// A link's place among those of its cache. Dropped, it is another's.
struct Count<'a> {
    links: &'a Links,
    round: u64,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        let mut pool = self.links.pool();
        pool.back_from(self.round);
        pool.count -= 1;
        if pool.waiting > 0 {
            self.links.freed.notify_one();
        }
        if !pool.closed && (pool.queue.has_calls() || !pool.large.is_empty()) {
            self.links.recruit(pool);
        }
    }
}

impl Links {
    /// Takes a link back that was taken in that round.
    #[inline(never)]
    fn take_back(&self, mut link: Box<Link>, round: u64) {
        link.turn.calls = link.turn.calls.wrapping_add(1);
        if link.turn.calls.is_multiple_of(TIMED) {
            self.time(&link, round);
        }
        let mut pool = self.pool();
        pool.spins = link.spins();
        pool.back_from(round);
        if pool.is_awaited() || pool.closed {
            return self.pass_on(pool, link);
        }
        pool.turn = false;
        pool.idle.push(link);
    }

    /// Has the pool know how long the link's last call took, unless that says nothing. By itself, for it is seldom.
    #[cold]
    #[inline(never)]
    fn time(&self, link: &Link, round: u64) {
        if round != ASIDE && link.batch.calls <= MOST_TIMED {
            let took = link.idle_at(Instant::now());
            self.pool().time(took);
        }
    }

    /// Gives a free link to whoever is next: who waits for a link of its own, or the queue, in turn.
    pub fn pass_on(&self, mut pool: MutexGuard<'_, Pool>, mut link: Box<Link>) {
        if pool.closed {
            pool.count -= 1;
            drop(pool);
            return;
        }
        let thread_waits = pool.waiting > pool.idle.len();
        let is_for_one = thread_waits || !pool.large.is_empty();
        if is_for_one && (pool.queue.is_empty() || pool.turn) {
            pool.turn = false;
            pool.turn_of_large = !pool.turn_of_large;
            if (!thread_waits || pool.turn_of_large) && pool.load_large(&mut link) {
                link.turn.round = ASIDE;
                drop(pool);
                return self.to_io(link);
            }
        } else if !pool.queue.is_empty() && pool.in_use < pool.lanes_for_batches() {
            pool.turn = true;
            pool.load_queued(&mut link);
            if !link.batch.entries.is_empty() {
                pool.in_use += 1;
                link.turn.round = pool.round;
                drop(pool);
                return Lease::of(self, link).hand_over(None, true);
            }
        }
        let anybody = pool.waiting > 0;
        pool.idle.push(link);
        drop(pool);
        if anybody {
            self.freed.notify_one();
        }
    }
}
