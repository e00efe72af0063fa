//! The hash of a key, under a secret seed, for keys may come from strangers who would have them all meet in one place.

use std::hash::{BuildHasher, RandomState};

pub struct Hasher(ahash::RandomState);

impl Hasher {
    pub fn new() -> Self {
        let secret = RandomState::new();
        let [a, b, c, d] = std::array::from_fn(|number| secret.hash_one(number));
        Self(ahash::RandomState::with_seeds(a, b, c, d))
    }

    #[inline(always)]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        self.0.hash_one(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_spread_and_each_store_has_a_seed_of_its_own() {
        let hasher = Hasher::new();
        let hashes: HashSet<u64> = (0..10_000)
            .map(|number: u32| hasher.hash(format!("key:{number}").as_bytes()))
            .collect();
        assert_eq!(hashes.len(), 10_000);
        // Bits at both ends choose a shard and a place in it.
        for shift in [0, 57] {
            let parts: HashSet<u64> = hashes.iter().map(|hash| hash >> shift & 0x7f).collect();
            assert_eq!(parts.len(), 128);
        }
        assert_eq!(hasher.hash(b"k"), hasher.hash(b"k"));
        assert_ne!(hasher.hash(b"k"), Hasher::new().hash(b"k"));
    }
}
