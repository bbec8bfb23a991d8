//! Shards that are split, in half of the runs.
//!
//! Owns: which runs split, and what is known of splits under way. Must never: decide whether a split counts, or take part in one.

use crate::dice::Dice;

/// A run's choices about splits are drawn apart from all others: the runs that split nothing are what they were.
const SALT: u64 = 0x7370_6c69_7473_2121;

/// The splits of one run.
pub(crate) struct Splits {
    /// Whether there are any. Such a cluster is founded at the version that knows them, and every process speaks it.
    pub(crate) on: bool,
    pub(crate) dice: Dice,
}

impl Splits {
    /// Chosen by the seed.
    pub(crate) fn choose(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ SALT);
        Self { on: dice.chance(500), dice }
    }
}
