//! What an operator decides about the planner.
//!
//! Owns: the settings, their defaults, and what a rate costs. Must never: be read anywhere but in a [`super::Picture`].

use std::time::Duration;

/// Most operations that may be under way at a time, whatever is asked for.
pub const AT_ONCE_MAX: u32 = 64;

/// Operations and bytes, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Operations a second.
    pub ops: u64,
    /// Bytes written and read a second.
    pub bytes: u64,
}

impl Rate {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { ops: self.ops.saturating_add(other.ops), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// Who changes the placement of a cluster in which nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The planner: all rules apply.
    Auto,
    /// The operator: the planner only repairs and drains.
    Manual,
}

/// How much each quantity counts where nodes are compared. Only the proportions of the first four matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Of stored bytes.
    pub bytes: u32,
    /// Of the number of replicas.
    pub replicas: u32,
    /// Of the number of shards that a node leads.
    pub leaders: u32,
    /// Of load.
    pub load: u32,
    /// Load units of one operation.
    pub operation: u32,
    /// Load units of 1,024 bytes that are written or read.
    pub kibibyte: u32,
    /// What a follower does of the work of its leader, percent, at most 100.
    pub follower_percent: u32,
}

impl Weights {
    /// The load units of a rate, a second.
    #[must_use]
    pub fn cost(&self, rate: Rate) -> u64 {
        let operations = rate.ops.saturating_mul(self.operation.into());
        operations.saturating_add((rate.bytes / 1024).saturating_mul(self.kibibyte.into()))
    }

    /// What a replica does for a shard of this cost.
    #[must_use]
    pub(super) fn share(&self, cost: u64, leads: bool) -> u64 {
        if leads { cost } else { cost / 100 * u64::from(self.follower_percent.min(100)) }
    }
}

/// The settings of the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who balances.
    pub balance: Balance,
    /// What counts how much.
    pub weights: Weights,
    /// A node within this distance of the mean is balanced, percent.
    pub hysteresis_percent: u32,
    /// A node that is dead for at least this long is replaced.
    pub dead_grace: Duration,
    /// A shard with more bytes is split.
    pub size_mark: u64,
    /// A shard with more load units a second is split.
    pub load_mark: u64,
    /// What stays free of each disk, percent.
    pub room_percent: u32,
    /// Operations that are carried out at a time.
    pub max_concurrent: usize,
    /// Most operations of one plan, and most refusals.
    pub operations_max: usize,
    /// For how long a shard is neither split by load nor merged after its bounds have changed.
    pub cooldown: Duration,
    /// The same after an operator has split it or created its table.
    pub operator_cooldown: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            balance: Balance::Auto,
            weights: Weights {
                bytes: 100,
                replicas: 50,
                leaders: 50,
                load: 100,
                operation: 1,
                kibibyte: 1,
                follower_percent: 25,
            },
            hysteresis_percent: 10,
            dead_grace: Duration::from_secs(600),
            size_mark: 512 << 20,
            load_mark: 20_000,
            room_percent: 10,
            max_concurrent: 4,
            operations_max: 256,
            cooldown: Duration::from_secs(600),
            operator_cooldown: Duration::from_secs(3600),
        }
    }
}
