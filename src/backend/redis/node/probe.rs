//! Asking a server afresh that has been silent: over a link that is dialled for it, on a thread of the library's own.
//! There is one question at a time for a node. Where nothing comes of it the server is down, and is asked again and
//! again, with pauses in which the reactor keeps the time.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Weak;
use std::time::{Duration, Instant};

use super::Node;
use super::dialing::is_silence;
use super::scheduler::{Noted, Probed, Retired, Verdict};
use crate::backend::redis::link::connection::Link;
use crate::backend::redis::link::outcome::Vintage;
use crate::deadline::Deadline;
use crate::error::{Error, Kind};
use crate::reactor::{Progress, Task};
use crate::threads::Workers;

/// The pause before a server that is down is asked again, which is doubled each time, and is a fifth longer or shorter.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where it is asked: each question may take until a call's deadline.
static PROBERS: Workers = Workers::new(c"cachetory-probe", 16);

impl Node {
    /// A call was sent at `began`, or a dial begun, and nothing has come from the server until its deadline.
    #[cold]
    pub fn note_silence(&self, began: Instant) {
        let Noted { must_probe, actions } = self.scheduler().note_silence(began, self.fail_fast);
        self.perform(actions);
        if must_probe {
            Probe { node: self.me.clone(), pause: FIRST_PAUSE, is_over: false }.begin();
        }
    }

    /// The deadlines of asynchronous calls have passed by now.
    pub fn calls_timed_out(&self, now: Instant) {
        let is_under_way = self.scheduler().has_links_out();
        if let Some(began) = now.checked_sub(self.timeout)
            && is_under_way
        {
            self.note_silence(began);
        }
    }

    /// The server has answered with its own state over a link of this vintage: other links may do better. Whether the
    /// call that it refused may go over one of them.
    #[cold]
    pub fn retire_links(&self, vintage: Vintage) -> bool {
        let Retired { may_resend, actions } = self.scheduler().retire(vintage, Instant::now());
        self.perform(actions);
        may_resend
    }

    /// It was not known that the server answers.
    pub fn calmed(&self) {
        self.dialer.pulse().set_down(false);
        self.freed.notify_all();
    }

    /// Dials afresh, and asks PING. Any answer will do, also one to the handshake.
    fn ask_afresh(&self) -> (Verdict, Option<Box<Link>>) {
        let beats = self.dialer.pulse().beats();
        let deadline = Deadline::after(self.timeout.min(self.connect_timeout));
        let verdict = match self.dial(&deadline) {
            Ok(mut link) => {
                if link.answers(&deadline) {
                    return (Verdict::Answers, Some(Box::new(link)));
                }
                // Where it hung up somebody is there.
                if deadline.has_passed() { Verdict::Silent } else { Verdict::Answers }
            }
            Err(error) => verdict_of(&error),
        };
        let has_heard = self.dialer.pulse().beats() != beats;
        (if has_heard { Verdict::Answers } else { verdict }, None)
    }

    /// What the answer comes to; whether to ask again.
    fn take_verdict(&self, verdict: Verdict, link: Option<Box<Link>>) -> bool {
        let probed = self.scheduler().probed(verdict, link, Instant::now());
        match probed {
            Probed::Closed => false,
            Probed::Up(actions) => {
                self.calmed();
                self.perform(actions);
                false
            }
            Probed::Down(None) => true,
            Probed::Down(Some((remains, actions))) => {
                self.dialer.pulse().set_down(true);
                drop(remains.links);
                self.cut_offs().iter().for_each(|cut_off| cut_off.cut());
                self.fail_unsent(remains.requests, &Kind::Down.into());
                self.perform(actions);
                self.freed.notify_all();
                self.loop_alarm.ring();
                self.reactor.get().into_iter().for_each(|reactor| reactor.rouse());
                true
            }
        }
    }
}

/// What a dial that failed says of the server.
fn verdict_of(error: &Error) -> Verdict {
    match error.kind {
        _ if is_silence(error) => Verdict::Silent,
        Kind::NoMemory(_) | Kind::Closed | Kind::Timeout(_) => Verdict::Unknown,
        _ => Verdict::Answers,
    }
}

/// One question after the other, until the first answer. Dropped, nobody asks any more, and the server is taken for up.
struct Probe {
    node: Weak<Node>,
    pause: Duration,
    is_over: bool,
}

impl Probe {
    fn begin(self) {
        // Where no thread can be had it is dropped.
        let _ = PROBERS.run(move || self.ask());
    }

    fn ask(mut self) {
        let Some(node) = self.node.upgrade() else { return };
        let (verdict, link) = node.ask_afresh();
        self.is_over = !node.take_verdict(verdict, link);
        if self.is_over {
            return;
        }
        let pause = around(self.pause);
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        if let Ok(reactor) = node.reactor() {
            reactor.post(Box::new(Pause { probe: Some(self), due: Instant::now() + pause }));
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if let Some(node) = self.node.upgrade() {
            let actions = node.scheduler().end_probe(Instant::now());
            node.calmed();
            node.perform(actions);
        }
    }
}

/// A fifth longer or shorter, so that those who lost a server together do not come back together.
fn around(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) as u32;
    pause.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

/// The time until the next question.
struct Pause {
    probe: Option<Probe>,
    due: Instant,
}

impl Task for Pause {
    fn step(&mut self, now: Instant) -> Progress {
        if now < self.due {
            return Progress::Waits;
        }
        self.probe.take().into_iter().for_each(Probe::begin);
        Progress::Over
    }

    fn until(&self) -> Option<Instant> {
        Some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_fifth_longer_or_shorter() {
        let pauses: Vec<_> = (0..100).map(|_| around(LONGEST_PAUSE)).collect();
        let (least, most) = (Duration::from_millis(800), Duration::from_millis(1200));
        assert!(pauses.iter().all(|pause| (least..=most).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
