//! A scheduler that is closed, or that a child process has inherited.

use std::mem;

use super::{Carrier, Remains, Scheduler};
use crate::backend::redis::link::outcome::Vintage;

impl<L: Carrier> Scheduler<L> {
    /// Links are dropped, those that are out under their calls. Nothing is taken in any more.
    pub fn close(&mut self) -> Remains<L> {
        self.closed = true;
        self.current = Vintage::NONE;
        let links = mem::take(&mut self.idle);
        self.count -= links.len();
        let (mut parked, mut requests) = self.loops.take_all();
        parked.extend(self.unpark());
        requests.extend(self.queue.take_all());
        requests.extend(mem::take(&mut self.exclusive));
        Remains { links, parked, requests }
    }

    /// In a child process: lets go of the parent's links.
    pub fn abandon(&mut self) -> Remains<L> {
        let (mut parked, requests) = self.loops.take_all();
        parked.extend(self.unpark());
        let mut links = mem::take(&mut self.idle);
        links.extend(self.dock.take_all());
        Remains { links, parked, requests }
    }
}
