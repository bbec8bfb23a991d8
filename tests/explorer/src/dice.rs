//! The schedule's only source of chance.
//!
//! Owns: the ChaCha8 stream of one seed. Must never: be consulted a number of times that depends on anything but the
//! schedule itself, or the same seed would not give the same trace.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A stream of choices.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Sixty-four random bits.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; `n` is at least 1. The bias of the remainder is of no account here.
    pub fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `items`, or `None` where there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            return None;
        }
        let index = self.below(items.len() as u64) as usize;
        items.get(index)
    }
}
