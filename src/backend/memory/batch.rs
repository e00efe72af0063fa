//! Several keys at one moment.

use super::clock::{Clock, Expiry, Now};
use super::gate::Writing;
use super::shard::{Entry, Shard};
use super::{Memory, SHARDS, SMALL, boxed, index, indices, reserved};
use crate::error::Result;
use crate::op::{Answer, Items, Keys, Ttl};
use crate::value::{Span, Value, Values};

/// The keys of a batch with their hashes, and the shards they lie in.
struct Plan<'a> {
    keys: Vec<(u64, &'a [u8])>,
    shards: u64,
}

impl Plan<'_> {
    /// Where a key's shard stands among those that were locked for the batch.
    fn position(&self, hash: u64) -> usize {
        let below = (1u64 << index(hash)) - 1;
        (self.shards & below).count_ones() as usize
    }
}

impl<C: Clock> Memory<C> {
    fn plan<'a>(&self, batch: &'a dyn Keys) -> Result<Plan<'a>> {
        let count = batch.count();
        let mut keys = reserved(count, "memory for the batch")?;
        let mut shards = 0;
        for i in 0..count {
            let key = batch.key(i);
            let hash = self.hash(key);
            shards |= 1 << index(hash);
            keys.push((hash, key));
        }
        Ok(Plan { keys, shards })
    }

    #[inline(never)]
    pub(super) fn mget(&self, keys: &dyn Keys) -> Result<Answer> {
        let now = Now::new(&self.clock);
        let plan = self.plan(keys)?;
        let mut found = reserved(plan.keys.len(), "memory for the batch")?;
        let values = {
            let shards = self.shards.read_all(plan.shards);
            self.check_open()?;
            for &(hash, key) in &plan.keys {
                found.push(self.find(&shards[plan.position(hash)], hash, key, &now));
            }
            answers(&found)?
        };
        if plan.shards != 0 {
            self.after_read(&now);
        }
        Ok(Answer::Values(values))
    }

    #[inline(never)]
    pub(super) fn mset(&self, items: &dyn Items, ttl: Ttl) -> Result<Answer> {
        let now = Now::new(&self.clock);
        let plan = self.plan(items)?;
        let expiry = Expiry::after(ttl, &now);
        let count = plan.keys.len();
        // Whatever may fail comes before the first change.
        let mut new = reserved(count, "memory for the batch")?;
        for (i, &(_, key)) in plan.keys.iter().enumerate() {
            let value = items.value(i);
            new.push(if self.fits(key, value) {
                Some((boxed(key)?, Value::copy_of(value)?))
            } else {
                None
            });
        }
        let mut replaced = reserved(count, "memory for the batch")?;
        let mut fresh =
            reserved(if self.limit.is_some() { count } else { 0 }, "memory for the batch")?;
        self.reserve_recency(fresh.capacity())?;
        {
            let mut locks = self.shards.write_all(plan.shards);
            let mut shards: Vec<&mut Shard> = locks.iter_mut().map(Writing::shard).collect();
            self.check_open()?;
            let mut counts = [0; SHARDS];
            plan.keys.iter().for_each(|&(hash, _)| counts[index(hash)] += 1);
            for (shard, index) in shards.iter_mut().zip(indices(plan.shards)) {
                shard.try_reserve(counts[index])?;
                shard.try_reserve_tickets(counts[index], expiry)?;
            }
            for (&(hash, key), new) in plan.keys.iter().zip(new) {
                let shard = &mut *shards[plan.position(hash)];
                let Some((owned_key, value)) = new else {
                    replaced.extend(self.remove(shard, hash, key).map(|entry| entry.value));
                    continue;
                };
                let (added, tick) = (value.data().len(), self.tick());
                match shard.replace(hash, key, value, expiry, tick, &now) {
                    Ok(old) => {
                        self.count_replaced(&old, added);
                        replaced.push(old);
                    }
                    Err(value) => {
                        self.count_in(key.len(), added);
                        let ticket = shard.insert(hash, owned_key, value, expiry, tick, &now);
                        if self.limit.is_some() {
                            fresh.push(ticket);
                        }
                    }
                }
            }
            for (shard, index) in shards.iter_mut().zip(indices(plan.shards)) {
                self.publish(index, shard);
            }
        }
        self.admit(&now, fresh);
        self.sweep(&now, count);
        Ok(Answer::Done)
    }

    #[inline(never)]
    pub(super) fn mdelete(&self, keys: &dyn Keys) -> Result<Answer> {
        let now = Now::new(&self.clock);
        let plan = self.plan(keys)?;
        let mut removed = reserved(plan.keys.len(), "memory for the batch")?;
        {
            let mut locks = self.shards.write_all(plan.shards);
            let mut shards: Vec<&mut Shard> = locks.iter_mut().map(Writing::shard).collect();
            self.check_open()?;
            for &(hash, key) in &plan.keys {
                removed.extend(self.remove(shards[plan.position(hash)], hash, key));
            }
            for (shard, index) in shards.iter_mut().zip(indices(plan.shards)) {
                self.publish(index, shard);
            }
        }
        if !removed.is_empty() {
            self.after_removal();
        }
        self.sweep(&now, plan.keys.len());
        let live = removed.iter().filter(|entry| entry.is_live(&now)).count();
        Ok(Answer::Deleted(live as u64))
    }
}

/// Small values are copied into one buffer, which costs less than a reference to each; large ones are shared.
fn answers(found: &[Option<&Entry>]) -> Result<Values> {
    let mut total = 0;
    for entry in found.iter().flatten() {
        total = entry.value.data_and_nul().len().saturating_add(total);
    }
    if total > found.len().saturating_mul(SMALL) {
        let mut values = reserved(found.len(), "memory for the answers")?;
        values.extend(found.iter().map(|entry| entry.map(|entry| entry.value.clone())));
        return Ok(Values::Each(values));
    }
    let mut spans = reserved(Values::RESERVED_SPANS + found.len(), "memory for the answers")?;
    let mut arena: Vec<u8> = reserved(total, "memory for the answers")?;
    spans.resize(Values::RESERVED_SPANS, Span::ORIGIN);
    for entry in found {
        spans.push(match entry {
            None => Span::MISS,
            Some(entry) => {
                let (at, data) = (arena.len(), entry.value.data());
                arena.extend_from_slice(entry.value.data_and_nul());
                Span { at, len: data.len() }
            }
        });
    }
    Ok(Values::Arena { spans, arena })
}
