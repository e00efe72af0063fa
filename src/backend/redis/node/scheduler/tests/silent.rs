//! Loops over whose links nothing comes.

use super::loops::{ANSWERED, Polled, attach, busy_loop, inflight, park, submit, submit_at};
use super::*;
use crate::backend::redis::link::outcome::Exchanged;
use crate::backend::redis::wire::replies::Reuse;
use crate::op::Answer;

/// A loop whose link is parked, with a call under way over it since then.
fn silent_since(scheduler: &mut Scheduler<Probe>, polled: &Polled, since: Instant) {
    let ForStep::Link(mut link) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
    link.last_used = since;
    link.batch.sent = link.batch.outbox.len();
    let parked = scheduler.park_for_loop(link, Left::default(), || since);
    assert!(matches!(parked, Parked::Parked { .. }));
}

fn known(scheduler: &mut Scheduler<Probe>) {
    scheduler.measure(Duration::from_micros(50));
}

#[test]
fn what_comes_behind_a_silent_link_is_held_until_a_reply_has_come() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    known(&mut scheduler);
    let _socket = busy_loop(&mut scheduler, &mut polled);
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(Some(_))));
    let begun = Instant::now();
    silent_since(&mut scheduler, &polled, begun);
    let now = begun + 2 * QUEUEING_BOUND;
    for _ in 0..3 {
        assert!(matches!(submit_at(&mut scheduler, &mut polled, now), ForLoop::Gathered(None)));
    }
    let ForStep::Link(mut link) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
    assert_eq!(link.batch.left(), 2);
    let has_output = match scheduler.park_for_loop(link, Left::default(), Instant::now) {
        Parked::Parked { has_output, .. } => has_output,
        _ => panic!(),
    };
    assert!(has_output.is_none(), "who polls would turn for nothing");
    let ForStep::Link(back) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
    link = back;
    link.batch.complete(Exchanged::Answered { result: Ok(Answer::NotFound), reuse: Reuse::Keep });
    let Parked::More(link) = scheduler.park_for_loop(link, ANSWERED, Instant::now) else {
        panic!("what was held goes now")
    };
    assert_eq!(link.batch.left(), 4);
    assert!(park(&mut scheduler, link));
    silent_since(&mut scheduler, &polled, now);
    assert!(matches!(submit_at(&mut scheduler, &mut polled, now), ForLoop::Gathered(Some(_))));
}

#[test]
fn nothing_is_held_where_there_is_no_other_link() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    known(&mut scheduler);
    scheduler.most = 1;
    let _socket = busy_loop(&mut scheduler, &mut polled);
    let now = Instant::now();
    silent_since(&mut scheduler, &polled, now);
    let later = now + Duration::from_secs(1);
    assert!(matches!(submit_at(&mut scheduler, &mut polled, later), ForLoop::Gathered(Some(_))));
}

#[test]
fn a_link_that_is_silent_for_too_long_is_replaced_and_the_next_has_twice_as_long() {
    let (mut scheduler, mut polled) = (with_idle(3), Polled::new(&inflight()));
    known(&mut scheduler);
    let mut sockets = vec![busy_loop(&mut scheduler, &mut polled)];
    let mut begun = Instant::now();
    for bound in [10, 20, 40].map(Duration::from_millis) {
        silent_since(&mut scheduler, &polled, begun);
        let held = submit_at(&mut scheduler, &mut polled, begun + bound);
        assert!(matches!(held, ForLoop::Gathered(None)));
        let now = begun + bound + Duration::from_millis(1);
        let silent = submit_at(&mut scheduler, &mut polled, now);
        let ForLoop::Silent(suspect) = silent else { panic!() };
        assert!(!suspect.is_ready());
        let actions = scheduler.replace_silent(&suspect, || now);
        begun = now;
        assert_eq!(actions.drive.len(), 1, "the reactor goes on with the silent one");
        let (mut link, queue) = match actions.attach {
            Some(idle) => idle,
            None => scheduler.dialled(Box::default(), Instant::now).attach.unwrap(),
        };
        assert_eq!(link.batch.left(), 2);
        let nothing = scheduler.replace_silent(&suspect, || now);
        assert!(nothing.drive.is_empty(), "it has been replaced");
        sockets.push(attach(&mut scheduler, &mut link, &queue));
        assert!(park(&mut scheduler, link));
    }
}

/// The loop submits no more, and the watch finds it.
#[test]
fn what_is_held_for_too_long_is_found_by_a_look() {
    let (mut scheduler, mut polled) = (with_idle(2), Polled::new(&inflight()));
    known(&mut scheduler);
    let _socket = busy_loop(&mut scheduler, &mut polled);
    let now = Instant::now();
    silent_since(&mut scheduler, &polled, now);
    let soon = now + Duration::from_millis(1);
    assert!(matches!(submit_at(&mut scheduler, &mut polled, soon), ForLoop::Gathered(None)));
    let suspects = scheduler.look_at_loops(soon).unwrap();
    assert!(suspects.iter().all(|suspect| !suspect.is_silent && !suspect.is_ready()));
    let later = now + Duration::from_millis(11);
    let suspects = scheduler.look_at_loops(later).unwrap();
    let [suspect] = &suspects[..] else { panic!() };
    assert!(suspect.is_silent && !suspect.is_ready(), "it is not lying");
    assert!(scheduler.replace_silent(suspect, || later).attach.is_some());
}

/// Beside many loops whose links are all silent there are not as many more.
#[test]
fn one_more_link_is_dialled_at_a_time_for_loops_whose_links_are_silent() {
    let inflight = inflight();
    let mut scheduler = with_idle(3);
    known(&mut scheduler);
    let mut polled: Vec<Polled> = (0..3).map(|_| Polled::new(&inflight)).collect();
    let mut sockets = Vec::new();
    let mut dials = 0;
    for polled in &mut polled {
        sockets.push(busy_loop(&mut scheduler, polled));
    }
    let begun = Instant::now();
    let now = begun + Duration::from_secs(1);
    for polled in &mut polled {
        silent_since(&mut scheduler, polled, begun);
        let silent = submit_at(&mut scheduler, polled, now);
        let ForLoop::Silent(suspect) = silent else { panic!() };
        let actions = scheduler.replace_silent(&suspect, || now);
        assert_eq!(actions.dial, actions.drive.len());
        dials += actions.dial;
    }
    assert_eq!(dials, 1);
}
