//! Random events of threads that wait for completions, come back to what was left to them, or do not.

use std::time::Duration;

use super::random::World;
use crate::completion::QueueId;

impl World {
    pub fn queue_waits(&mut self) {
        let queue = self.unanswered.reports_to();
        match self.scheduler.take_link_to_drive(queue, self.clock()) {
            Ok(link) => self.out.push(link),
            Err(actions) => self.perform(actions),
        }
    }

    pub fn leave_link(&mut self) {
        let Some(link) = self.take_out() else { return };
        if link.batch.is_complete() {
            return self.out.push(link);
        }
        let queue: QueueId = self.unanswered.reports_to();
        match self.scheduler.park(link, queue) {
            Ok(actions) => {
                self.see("a park");
                self.perform(actions);
            }
            Err(link) => self.out.push(link),
        }
    }

    pub fn reactor_looks(&mut self) {
        let Some((id, seen, bound)) = self.watch else { return };
        match self.scheduler.look_after(id, seen, bound, self.clock()) {
            None => {
                self.see("the end of a watch");
                self.watch = None;
            }
            Some(look) => {
                assert!(look.again_in > Duration::ZERO);
                self.watch = Some((id, Some(look.loads), look.again_in));
                if let Some(missed) = look.missed {
                    self.see("a miss");
                    missed.report();
                }
                self.perform(look.actions);
            }
        }
    }
}
