//! Who disturbs the calls: breaks the server and the network, cancels, and closes caches and queues.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::pause::provoke_for;
use crate::support::proxy::{End, Way};
use crate::support::random::Random;
use crate::{QUEUES, World};

/// Longer than any deadline.
const LONG: Duration = Duration::from_millis(900);

fn pause(random: &mut Random, most_ms: usize) {
    provoke_for(Duration::from_micros(random.below(most_ms * 1000) as u64));
}

impl World {
    /// The server and the network. All is well when it returns.
    pub fn break_things(&self, _: u64) {
        let mut random = Random(self.seed ^ 200);
        while !self.is_calm() {
            pause(&mut random, 40);
            self.break_something(&mut random);
        }
    }

    fn break_something(&self, random: &mut Random) {
        let Self { server, proxy, .. } = self;
        let end = [End::Close, End::Reset][random.below(2)];
        let way = [Way::ToServer, Way::ToClient][random.below(2)];
        match random.below(100) {
            0..25 => proxy.end_all(end),
            25..55 => proxy.cut_after(way, random.below(30_000), end),
            55..70 => {
                proxy.pause(way);
                pause(random, 30);
                proxy.resume(way);
            }
            70..75 => {
                proxy.delay(way, Duration::from_millis(1));
                pause(random, 30);
                proxy.delay(way, Duration::ZERO);
            }
            75..80 => {
                proxy.refuse(true);
                proxy.end_all(end);
                pause(random, 20);
                proxy.refuse(false);
            }
            80..87 => {
                server.pause();
                pause(random, 30);
                server.resume();
            }
            87..93 => {
                server.query::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            }
            93..94 => {
                server.pause();
                provoke_for(LONG);
                server.resume();
            }
            94..96 => proxy.stall(way, LONG),
            _ => {
                server.kill();
                pause(random, 50);
                server.restart();
            }
        }
    }

    /// Calls that were submitted lately.
    pub fn cancel_things(&self, _: u64) {
        let mut random = Random(self.seed ^ 300);
        while !self.is_calm() {
            let next = self.next_tag.load(Ordering::Relaxed);
            for _ in 0..10 {
                let tag = next.saturating_sub(random.below(5000) as u64);
                (0..QUEUES).for_each(|number| self.ledger(number).cancel(tag));
            }
            pause(&mut random, 1);
        }
    }

    /// Queues, and the caches that reopen.
    pub fn close_things(&self, _: u64) {
        let mut random = Random(self.seed ^ 400);
        while !self.is_calm() {
            pause(&mut random, 60);
            match random.below(6) {
                0 => self.replace(random.below(QUEUES)),
                _ => {
                    let slot = &self.slots[random.below(self.slots.len())];
                    if slot.reopens {
                        slot.reopen();
                    }
                }
            }
        }
    }
}
