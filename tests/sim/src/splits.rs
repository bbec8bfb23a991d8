//! Shards that are split, in half of the runs.
//!
//! Owns: which runs split, and what is known of splits under way. Must never: take a step: `splitting` does.

use crate::dice::Dice;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::ShardId;
use synod_cluster::refusal::Refusal;
use synod_engine::host::ReplicaReport;

/// A run's choices about splits are drawn apart from all others: the runs that split nothing are what they were.
const SALT: u64 = 0x7370_6c69_7473_2121;
/// A proposal is on its way for so long, and one in ten for so long, µs.
const PROMPT: (u64, u64) = (0, 40_000);
const LATE: (u64, u64) = (500_000, 5_000_000);

/// The splits of one run.
pub(crate) struct Splits {
    /// Whether there are any. Such a cluster is founded at the version that knows them, and every process speaks it.
    pub(crate) on: bool,
    pub(crate) dice: Dice,
    /// What leaders said to proposals.
    pub(crate) answers: Arc<Mutex<Vec<Result<(), Refusal>>>>,
    /// What the leaders of shards said of them since they were asked last.
    pub(crate) heard: Arc<Mutex<BTreeMap<ShardId, ReplicaReport>>>,
    /// Commands that tell the system shard of bounds.
    pub(crate) telling: BTreeMap<(ShardId, u64), u64>,
    /// Commands that ask it for an id, by parent.
    pub(crate) reserving: BTreeMap<ShardId, u64>,
}

impl Splits {
    /// Chosen by the seed.
    pub(crate) fn choose(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ SALT);
        let on = dice.chance(500);
        let (answers, heard, telling, reserving) = Default::default();
        Self { on, dice, answers, heard, telling, reserving }
    }

    /// A proposal's way, µs, and whether it is late.
    pub(crate) fn way(&mut self) -> (u64, bool) {
        let late = self.dice.chance(100);
        (self.dice.between(if late { LATE } else { PROMPT }), late)
    }
}
