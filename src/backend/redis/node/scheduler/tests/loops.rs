//! Links that follow event loops.

use rustix::event::{EventfdFlags, eventfd};

use super::outside::{Random, promise, refuse};
use super::*;
use crate::backend::redis::link::requests::Entry;
use crate::completion::{CompletionQueue, Inflight, Promise, QueueHold};
use crate::error::Kind;
use crate::sys::SocketFd;

/// A queue whose descriptor is polled.
pub struct Polled {
    pub queue: Arc<CompletionQueue>,
    pub inflight: Arc<Inflight>,
    pub tag: u64,
}

impl Polled {
    pub fn new(inflight: &Arc<Inflight>) -> Self {
        let queue = Arc::new(CompletionQueue::open().unwrap());
        queue.fd().unwrap();
        Self { queue, inflight: Arc::clone(inflight), tag: 0 }
    }

    fn call(&mut self) -> Promise {
        self.tag += 1;
        let call = promise(&self.queue, &self.inflight, self.tag);
        assert!(call.is_polled_for());
        call
    }
}

pub const ANSWERED: Left = Left { has_replies: true, has_more: false };

pub fn inflight() -> Arc<Inflight> {
    Arc::new(Inflight::new(usize::MAX))
}

/// Something with a descriptor, in place of a socket.
fn socket() -> Arc<SocketFd> {
    Arc::new(SocketFd::of(eventfd(0, EventfdFlags::CLOEXEC).unwrap()).unwrap())
}

pub fn submit(scheduler: &mut Scheduler<Probe>, polled: &mut Polled) -> ForLoop<Probe> {
    submit_at(scheduler, polled, Instant::now())
}

pub fn submit_at(
    scheduler: &mut Scheduler<Probe>,
    polled: &mut Polled,
    now: Instant,
) -> ForLoop<Probe> {
    let call = polled.call();
    scheduler.submit_for_loop(call, encode, Expect::Ping, || now).unwrap()
}

/// As a node does: the link is in the queue's descriptor from then on.
pub fn attach(
    scheduler: &mut Scheduler<Probe>,
    link: &mut Probe,
    queue: &QueueHold,
) -> Arc<SocketFd> {
    let socket = socket();
    let membership = queue.join(&socket).unwrap();
    assert!(scheduler.attached(&membership));
    link.membership = Some(membership);
    socket
}

pub fn park(scheduler: &mut Scheduler<Probe>, link: Box<Probe>) -> bool {
    matches!(scheduler.park_for_loop(link, ANSWERED, Instant::now), Parked::Parked { .. })
}

/// A loop with a link that one call is under way over.
pub fn busy_loop(scheduler: &mut Scheduler<Probe>, polled: &mut Polled) -> Arc<SocketFd> {
    let ForLoop::Attach(mut link, queue) = submit(scheduler, polled) else { panic!() };
    assert_eq!(link.batch.left(), 1);
    let socket = attach(scheduler, &mut link, &queue);
    link.batch.sent = link.batch.outbox.len();
    assert!(park(scheduler, link));
    socket
}

fn answer_all(link: &mut Probe) {
    link.batch.sent = link.batch.outbox.len();
    link.batch.fail(|| Kind::Cancelled.into());
    link.batch.completed.deliver();
}

#[test]
fn the_first_call_goes_at_once_and_more_go_together_the_next_time() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(Some(_))));
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(None)), "it was told");
    let ForStep::Link(mut link) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
    assert_eq!(link.batch.left(), 3);
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(None)), "it is out");
    answer_all(&mut link);
    let Parked::Parked { has_output, unmute } =
        scheduler.park_for_loop(link, ANSWERED, Instant::now)
    else {
        panic!()
    };
    assert!(has_output.is_some() && unmute.is_none());
    assert_eq!(scheduler.loops.gathered(), 1);
}

#[test]
fn bursts_go_together_and_single_calls_at_once_again() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    let mut turn = |calls: usize| {
        let ForStep::Link(mut link) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
        answer_all(&mut link);
        assert!(park(&mut scheduler, link));
        let mut sent = 0;
        for _ in 0..calls {
            if let ForLoop::Send(link) = submit(&mut scheduler, &mut polled) {
                sent += 1;
                assert!(park(&mut scheduler, link));
            }
        }
        sent
    };
    let sent: Vec<usize> = (0..6).map(|_| turn(3)).collect();
    assert_eq!(sent, [1, 1, 1, 1, 0, 0]);
    let sent: Vec<usize> = (0..4).map(|_| turn(1)).collect();
    assert_eq!(sent.last(), Some(&1));
}

#[test]
fn a_link_that_is_out_is_muted_once_and_unmuted_when_it_is_parked() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    let queue = polled.queue.id();
    for turn in 1..4 {
        let ForStep::Link(link) = scheduler.take_for_loop(queue) else { panic!() };
        let ForStep::Mute(_, muted) = scheduler.take_for_loop(queue) else { panic!() };
        assert_eq!(muted, turn);
        assert!(matches!(scheduler.take_for_loop(queue), ForStep::Nothing));
        let Parked::Parked { unmute: Some((_, unmuted)), .. } =
            scheduler.park_for_loop(link, ANSWERED, Instant::now)
        else {
            panic!()
        };
        assert_eq!(unmuted, turn);
    }
}

#[test]
fn a_loop_that_has_gone_on_without_a_link_does_not_get_it_back() {
    let (mut scheduler, mut polled) = (with_idle(3), Polled::new(&inflight()));
    let ForLoop::Attach(mut late, queue) = submit(&mut scheduler, &mut polled) else { panic!() };
    // Whoever attaches it is held up, and more calls wait for it at two looks.
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(None)));
    for _ in 0..3 {
        for suspect in scheduler.look_at_loops(Instant::now()).unwrap() {
            let _ = scheduler.take_lying(&suspect, Instant::now);
        }
    }
    let _socket = busy_loop(&mut scheduler, &mut polled);
    let own = socket();
    late.membership = queue.join(&own);
    assert!(!scheduler.attached(late.membership.as_ref().unwrap()));
    assert!(matches!(
        scheduler.park_for_loop(late, Left::default(), Instant::now),
        Parked::Refused(_)
    ));
    assert_eq!(scheduler.loops.links().count(), 1, "the link that it has is still its own");
}

#[test]
fn what_is_ready_and_untouched_at_two_looks_is_the_reactors() {
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let socket = busy_loop(&mut scheduler, &mut polled);
    let look = |scheduler: &mut Scheduler<Probe>| {
        let suspects = scheduler.look_at_loops(Instant::now()).unwrap();
        let mut driven = Vec::new();
        for suspect in suspects.iter().filter(|suspect| suspect.is_ready()) {
            driven.extend(scheduler.take_lying(suspect, Instant::now).drive);
        }
        driven.len()
    };
    (0..3).for_each(|_| assert_eq!(look(&mut scheduler), 0, "nothing has come"));
    rustix::io::write(&*socket, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(look(&mut scheduler), 0);
    let ForStep::Link(link) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
    assert!(park(&mut scheduler, link));
    assert_eq!((look(&mut scheduler), look(&mut scheduler)), (0, 0), "its loop has come");
    assert_eq!(look(&mut scheduler), 1);
    assert_eq!(scheduler.loops.links().count(), 0);
}

#[test]
fn what_does_not_go_into_one_batch_goes_with_the_next_and_none_of_it_is_lost() {
    const CALLS: usize = 2500;
    let (mut scheduler, mut polled) = (with_idle(1), Polled::new(&inflight()));
    let _socket = busy_loop(&mut scheduler, &mut polled);
    for _ in 1..CALLS {
        assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Gathered(_)));
    }
    let ForStep::Link(link) = scheduler.take_for_loop(polled.queue.id()) else { panic!() };
    assert_eq!(link.batch.left(), 1 + queue::MOST_CALLS);
    assert!(park(&mut scheduler, link));
    let link = scheduler.claim_loop_link().unwrap();
    assert_eq!(link.batch.left() + scheduler.queue.len(), CALLS);
    assert_eq!(polled.inflight.count(), CALLS);
}

#[test]
fn a_loop_gives_its_link_up_where_there_may_be_no_other() {
    let inflight = inflight();
    let mut scheduler: Scheduler<Probe> = Scheduler::new(1, true);
    let mut polled = [Polled::new(&inflight), Polled::new(&inflight)];
    let ForLoop::Entrusted(actions) = submit(&mut scheduler, &mut polled[0]) else { panic!() };
    assert_eq!(actions.dial, 1);
    let dialled = scheduler.dialled(Box::default(), Instant::now);
    let (mut link, queue) = dialled.attach.unwrap();
    let _socket = attach(&mut scheduler, &mut link, &queue);
    assert!(park(&mut scheduler, link));
    let ForLoop::Entrusted(actions) = submit(&mut scheduler, &mut polled[1]) else { panic!() };
    let [link] = &actions.drive[..] else { panic!() };
    assert_eq!(link.batch.left(), 2, "one drives the calls of both");
    assert_eq!(scheduler.in_use, 1);
}

#[test]
fn a_dial_that_fails_fails_the_calls_of_loops_where_there_is_no_link() {
    let mut scheduler: Scheduler<Probe> = Scheduler::new(1, true);
    let mut polled = Polled::new(&inflight());
    assert!(matches!(submit(&mut scheduler, &mut polled), ForLoop::Entrusted(_)));
    let Err(remains) = scheduler.dial_failed(Instant::now) else { panic!() };
    let entries: Vec<Entry<Probe>> =
        remains.requests.into_iter().flat_map(Requests::into_entries).collect();
    assert_eq!(entries.len(), 1);
    entries.into_iter().for_each(refuse);
}

/// Three loops over two links, whose queues come and go.
#[test]
fn random_turns_of_loops_keep_every_link_and_every_call() {
    for seed in 1..60 {
        let inflight = inflight();
        let mut scheduler: Scheduler<Probe> = Scheduler::new(2, true);
        let mut random = Random(seed);
        let mut polled: Vec<Polled> = (0..3).map(|_| Polled::new(&inflight)).collect();
        let (mut out, mut sockets, mut dials) = (Vec::new(), Vec::new(), 0);
        for _ in 0..400 {
            let turn = random.below(polled.len());
            let mut todo = Actions::default();
            match random.below(8) {
                0..=2 => match submit(&mut scheduler, &mut polled[turn]) {
                    ForLoop::Send(link) => out.push(link),
                    ForLoop::Attach(link, queue) => todo.attach = Some((link, queue)),
                    ForLoop::Entrusted(actions) => todo = actions,
                    ForLoop::Silent(suspect) => {
                        todo = scheduler.replace_silent(&suspect, Instant::now);
                    }
                    ForLoop::Gathered(_) => {}
                },
                3 => match scheduler.take_for_loop(polled[turn].queue.id()) {
                    ForStep::Link(link) => out.push(link),
                    ForStep::Nothing | ForStep::Mute(..) => {}
                },
                4 if dials > 0 => {
                    dials -= 1;
                    todo = scheduler.dialled(Box::default(), Instant::now);
                }
                5 => {
                    for suspect in scheduler.look_at_loops(Instant::now()).unwrap_or_default() {
                        todo = todo.and(scheduler.take_lying(&suspect, Instant::now));
                    }
                }
                6 if random.one_in(8) => {
                    polled[turn] = {
                        polled[turn].queue.close().unwrap();
                        out.extend(scheduler.release_loop(polled[turn].queue.id()));
                        Polled::new(&inflight)
                    };
                }
                _ if !out.is_empty() => {
                    let mut link = out.swap_remove(random.below(out.len()));
                    if random.one_in(2) {
                        answer_all(&mut link);
                    }
                    let mut link = match scheduler.park_for_loop(link, ANSWERED, Instant::now) {
                        Parked::Parked { .. } => continue,
                        Parked::More(link) => {
                            out.push(link);
                            continue;
                        }
                        Parked::Refused(link) => link,
                    };
                    if let Some(membership) = link.membership.take() {
                        todo = scheduler.left_loop(&membership, Instant::now);
                    }
                    answer_all(&mut link);
                    if let Err(link) = scheduler.give_back(link, true) {
                        todo = todo.and(scheduler.assign(link));
                    }
                }
                _ => {}
            }
            dials += todo.dial;
            out.extend(todo.hand_over.into_iter().chain(todo.drive));
            if let Some((mut link, queue)) = todo.attach {
                match queue.is_gone() {
                    true => {
                        let more = scheduler.not_attached(queue.id(), Instant::now);
                        dials += more.dial;
                        out.extend(more.drive);
                    }
                    false => sockets.push(attach(&mut scheduler, &mut link, &queue)),
                }
                out.push(link);
            }
            let parked = scheduler.loops.links().count();
            assert_eq!(scheduler.count, scheduler.idle.len() + parked + out.len() + dials);
            assert!(scheduler.count <= 2);
            let in_batches = out.iter().map(|link| &**link).chain(scheduler.loops.links());
            let wanted = in_batches.flat_map(|link| link.batch.entries());
            let wanted = wanted.chain(scheduler.queue.iter()).filter_map(|entry| entry.call());
            let wanted = wanted.filter(|call| !call.is_completed()).count();
            assert!(wanted + scheduler.loops.gathered() >= inflight.count(), "no call is lost");
        }
    }
}
