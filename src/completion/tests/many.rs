//! Many calls, many threads, and every tag reported once.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::super::index::Index;
use super::*;

const MANY: u64 = 65_536;

/// Small numbers without an order; another sequence for each seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}

/// A quadratic step would make each of these take minutes.
#[test]
fn as_many_calls_as_may_be_outstanding_take_no_quadratic_step() {
    let tags: [fn(u64) -> u64; 4] = [|_| 7, |n| n, |n| n << 32, |n| n.reverse_bits()];
    for tag in tags {
        let bench = Bench::new();
        let submit = || (0..MANY).map(|n| bench.read(tag(n))).collect::<Vec<_>>();
        submit().into_iter().for_each(|call| assert!(call.complete(done())));
        submit().into_iter().rev().for_each(|call| assert!(call.complete(done())));
        assert_eq!(bench.taken().len() as u64, 2 * MANY);
        let calls = submit();
        for n in 0..MANY {
            bench.queue.cancel(tag(n)).unwrap();
        }
        assert_eq!(bench.taken().len() as u64, MANY);
        let others = submit();
        assert_eq!(bench.inflight.expire(Instant::now() + 2 * LONG), None);
        assert_eq!(bench.taken().len() as u64, MANY);
        drop((calls, others));
        let calls = submit();
        bench.inflight.close();
        assert_eq!(bench.taken().len() as u64, MANY);
        drop(calls);
    }
}

#[test]
fn the_index_agrees_with_a_map() {
    let bench = Bench::new();
    let call = |tag| {
        let call = bench.read(tag);
        call.share()
    };
    let mut dice = Dice(RandomState::new().hash_one(0) | 1);
    for tags in [1, 3, 1000] {
        let mut index = Index::new();
        let caches = [(); 3].map(|()| Arc::new(Inflight::new(1)));
        let groups = caches.each_ref().map(|cache| index.open_group(cache, || Ok(())).unwrap());
        assert_eq!(caches.each_ref().map(|cache| index.group(cache).unwrap()), groups);
        let mut ages: [VecDeque<u32>; 3] = Default::default();
        let mut map: HashMap<u64, Vec<u32>> = HashMap::new();
        let mut len = 0;
        for step in 0..6000 {
            let tag = dice.throw(tags) << 7;
            let places = map.entry(tag).or_default();
            // Grows, and shrinks again.
            if dice.throw(5) < if step < 3000 { 3 } else { 2 } {
                let group = dice.throw(3) as usize;
                let mut place = 0;
                let make = |_, at| {
                    place = at;
                    Some(call(tag))
                };
                index.insert(tag, groups[group], make).unwrap();
                places.push(place);
                ages[group].push_back(place);
                len += 1;
            } else if !places.is_empty() {
                let place = places.swap_remove(dice.throw(places.len() as u64) as usize);
                assert_eq!(index.call(place).unwrap().tag(), tag);
                assert!(index.remove(place) && !index.remove(place));
                ages.iter_mut().for_each(|group| group.retain(|&other| other != place));
                len -= 1;
            } else if let Some(place) = ages[0].pop_front() {
                index.make_newest(place);
                ages[0].push_back(place);
            }
            for (group, ages) in groups.iter().zip(&ages) {
                assert_eq!(index.oldest(*group), ages.front().copied());
            }
            assert_eq!(index.len(), len);
            if step % 16 == 0 {
                let mut found = Vec::new();
                let mut next = index.first(tag).unwrap();
                while let Some(place) = next {
                    found.push(place);
                    next = index.after(place);
                }
                let mut wanted = places.clone();
                found.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(found, wanted);
            }
        }
        assert_eq!(index.calls().count(), len);
    }
}

/// Submitters, carriers, reapers, a canceller and deadlines, all at once. Every accepted call is reported once, and
/// what was refused never.
#[test]
fn every_call_completes_once() {
    const SUBMITTERS: u64 = 3;
    const EACH: u64 = 3000;
    let bench = Bench::with_room_for(200);
    let promises: Mutex<Vec<Promise>> = Mutex::default();
    let accepted: Vec<AtomicBool> =
        (0..SUBMITTERS * EACH).map(|_| AtomicBool::new(false)).collect();
    let reported: Vec<AtomicUsize> = (0..SUBMITTERS * EACH).map(|_| AtomicUsize::new(0)).collect();
    let submitting = AtomicU64::new(SUBMITTERS);
    let seed = RandomState::new();
    let taken = AtomicUsize::new(0);
    let is_over = || {
        submitting.load(Ordering::SeqCst) == 0
            && bench.inflight.count() == 0
            && taken.load(Ordering::SeqCst)
                == accepted.iter().filter(|each| each.load(Ordering::SeqCst)).count()
    };
    thread::scope(|scope| {
        for submitter in 0..SUBMITTERS {
            let mut dice = Dice(seed.hash_one(submitter) | 1);
            let (bench, promises, accepted, submitting) =
                (&bench, &promises, &accepted, &submitting);
            scope.spawn(move || {
                for number in 0..EACH {
                    let tag = submitter * EACH + number;
                    let span = Duration::from_micros(dice.throw(20_000));
                    let way = dice.throw(8);
                    let backend = |call: Promise| match way {
                        0 => Err(Kind::Closed.into()),
                        1 => Ok(()),
                        2 => {
                            call.complete(done());
                            Ok(())
                        }
                        _ => {
                            promises.lock().unwrap().push(call);
                            Ok(())
                        }
                    };
                    loop {
                        let access = if number % 2 == 0 { Access::Read } else { Access::Write };
                        // Before, for the completion may be taken before the submission returns.
                        accepted[tag as usize].store(true, Ordering::SeqCst);
                        match accept(&bench.queue, &bench.inflight, tag, access, span, backend) {
                            Ok(()) => break,
                            Err(error) => {
                                accepted[tag as usize].store(false, Ordering::SeqCst);
                                if Outcome::of_error(&error) != Outcome::Busy {
                                    break;
                                }
                                thread::yield_now();
                            }
                        }
                    }
                }
                submitting.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for carrier in 0..2 {
            let mut dice = Dice(seed.hash_one(100 + carrier) | 1);
            let (promises, is_over) = (&promises, &is_over);
            scope.spawn(move || {
                while !is_over() {
                    let mut delivery = Delivery::default();
                    let calls = std::mem::take(&mut *promises.lock().unwrap());
                    for call in calls {
                        match dice.throw(6) {
                            0 => drop(call),
                            1 => drop(call.complete(done())),
                            2 => {
                                call.begin_send();
                                call.mark_unsent();
                                promises.lock().unwrap().push(call)
                            }
                            3 => {
                                call.renew_deadline(Duration::from_millis(1));
                                promises.lock().unwrap().push(call)
                            }
                            _ => {
                                if call.begin_send() {
                                    delivery.push(call, done())
                                }
                            }
                        }
                    }
                    delivery.deliver();
                    thread::yield_now();
                }
            });
        }
        scope.spawn(|| {
            let mut dice = Dice(seed.hash_one(200) | 1);
            while !is_over() {
                let _ = bench.queue.cancel(dice.throw(SUBMITTERS * EACH)).unwrap();
                bench.inflight.expire(Instant::now());
            }
        });
        for room in [1, 40] {
            let (bench, reported, taken, is_over) = (&bench, &reported, &taken, &is_over);
            scope.spawn(move || {
                while !is_over() {
                    let timeout = Some(Duration::from_millis(1));
                    let put = |_, completion: Completion| {
                        reported[completion.tag as usize].fetch_add(1, Ordering::SeqCst);
                        taken.fetch_add(1, Ordering::SeqCst);
                    };
                    bench.queue.wait(room, timeout, put).unwrap();
                }
            });
        }
    });
    for (tag, (accepted, reported)) in accepted.iter().zip(&reported).enumerate() {
        let wanted = usize::from(accepted.load(Ordering::SeqCst));
        assert_eq!(reported.load(Ordering::SeqCst), wanted, "{tag}");
    }
}

/// Nothing hangs and nothing is lost where queue and cache are closed under everybody's hands.
#[test]
fn closing_in_the_middle_hangs_and_loses_nothing() {
    for round in 0..100 {
        let bench = Bench::new();
        let promises: Mutex<Vec<Promise>> = Mutex::default();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for submitter in 0..2_u64 {
                let (bench, promises) = (&bench, &promises);
                scope.spawn(move || {
                    for tag in 0.. {
                        let keep = |call| {
                            promises.lock().unwrap().push(call);
                            Ok(())
                        };
                        if let Err(error) =
                            bench.submit(submitter * 1_000_000 + tag, Access::Write, keep)
                        {
                            assert_eq!(Outcome::of_error(&error), Outcome::Closed);
                            break;
                        }
                    }
                });
            }
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let calls = std::mem::take(&mut *promises.lock().unwrap());
                    for call in calls {
                        call.begin_send();
                        call.complete(done());
                    }
                }
            });
            scope.spawn(|| {
                while bench.queue.wait(10, Some(Duration::from_millis(1)), |_, _| {}).is_ok() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            (0..round).for_each(|_| thread::yield_now());
            if round % 2 == 0 {
                bench.queue.close().unwrap();
            } else {
                bench.inflight.close();
            }
            over.store(true, Ordering::Relaxed);
        });
        drop(promises);
        assert_eq!(bench.inflight.count(), 0);
    }
}
