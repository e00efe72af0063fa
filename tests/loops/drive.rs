//! A loop that has many calls in flight, and holds each completion against its call.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use super::OK;
use super::support::capi::*;
use super::support::pause::provoke_for;
use super::support::poller::*;
use super::support::queue::*;
use super::support::random::Random;

/// Above what shares a link with other calls, and what a loop's step reads at once.
const LARGE: usize = 300_000;
const LARGEST: usize = 3 << 20;
const KEYS: usize = 100;

fn value(number: usize) -> &'static [u8] {
    static VALUES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let value = |number| {
        let length = match number {
            0 => LARGEST,
            1..4 => LARGE + number,
            _ => number * 7 % 300,
        };
        let mut value = format!("{number};").repeat(1 + length / 2).into_bytes();
        value.truncate(length);
        value
    };
    &VALUES.get_or_init(|| (0..KEYS).map(value).collect())[number]
}

/// Stores what [`run`] asks for.
#[track_caller]
pub fn prepare(cache: &Cache) {
    for number in 0..KEYS {
        assert_eq!(cache.set(format!("{number}"), value(number)), OK);
    }
}

/// What a loop does.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub calls: u64,
    /// How many are in flight is drawn anew each time, up to this.
    pub most_in_flight: usize,
    /// Of one `queue_wait`.
    pub capacity: usize,
    /// One call in so many is about a large value; none, if 0.
    pub large_one_in: usize,
    /// Whether it calls until there is nothing, or once each time that the descriptor is readable.
    pub drains: bool,
    /// It is late one time in so many, so that somebody else sees to its calls; never, if 0.
    pub late_one_in: usize,
    pub seed: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            calls: 2000,
            most_in_flight: 100,
            capacity: 64,
            large_one_in: 0,
            drains: true,
            late_one_in: 0,
            seed: 1,
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Counts {
    /// How often the descriptor was readable.
    pub wakes: usize,
    /// How often there was no completion then.
    pub in_vain: usize,
}

enum Asked {
    Get(usize),
    Miss,
    Many(Vec<usize>),
    Set,
}

/// Makes so many calls, takes the completion of each, and no other.
#[track_caller]
pub fn run(cache: &Cache, queue: &Queue, poller: &mut Poller, load: Load) -> Counts {
    let mut random = Random(load.seed);
    let mut outstanding = HashMap::new();
    let mut next = 0;
    let mut counts = Counts::default();
    while next < load.calls || !outstanding.is_empty() {
        let wanted = 1 + random.below(load.most_in_flight);
        while next < load.calls && outstanding.len() < wanted {
            outstanding.insert(next, submit(cache.to(queue), next, &mut random, load));
            next += 1;
        }
        be_late(&mut random, load);
        poller.must_wake();
        be_late(&mut random, load);
        let some = match load.drains {
            true => drain(queue, load.capacity),
            false => queue.wait(load.capacity, 0).unwrap(),
        };
        counts.wakes += 1;
        counts.in_vain += usize::from(some.is_empty());
        for completion in some {
            let asked = outstanding.remove(&completion.tag());
            check(asked.expect("a call that is outstanding"), completion);
        }
    }
    queue.assert_empty();
    counts
}

fn be_late(random: &mut Random, load: Load) {
    if load.late_one_in > 0 && random.below(load.late_one_in) == 0 {
        provoke_for(Duration::from_micros(random.below(40_000) as u64));
    }
}

fn submit(to: Submit, tag: u64, random: &mut Random, load: Load) -> Asked {
    let is_large = load.large_one_in > 0 && random.below(load.large_one_in) == 0;
    let number = if is_large { random.below(4) } else { 4 + random.below(KEYS - 4) };
    let key = format!("{number}");
    let (outcome, asked) = match random.below(20) {
        0 => (to.get(tag, "there is none"), Asked::Miss),
        1..4 => (to.set(tag, key, value(number), NO_EXPIRY, 0), Asked::Set),
        4 => {
            let numbers: Vec<_> = (0..30).map(|_| 4 + random.below(KEYS - 4)).collect();
            let keys: Vec<_> = numbers.iter().map(usize::to_string).collect();
            (to.mget(tag, &keys), Asked::Many(numbers))
        }
        _ => (to.get(tag, key), Asked::Get(number)),
    };
    assert_eq!(outcome, OK);
    asked
}

#[track_caller]
fn check(asked: Asked, mut completion: Completion) {
    match asked {
        Asked::Miss => assert_eq!(completion.outcome(), Ok(CACHETORY_NOT_FOUND)),
        Asked::Set => assert_eq!(completion.outcome(), OK),
        Asked::Get(number) => super::is_value(completion, value(number)),
        Asked::Many(numbers) => {
            assert_eq!(completion.outcome(), OK);
            let values = completion.take_values();
            assert_eq!(values.len(), numbers.len());
            for (index, number) in numbers.into_iter().enumerate() {
                assert!(values.get(index) == Some(value(number)));
            }
        }
    }
}
