//! The planner: what should be done to a cluster, as a function of a picture of it.
//!
//! Owns: the rules, their order, and the proof that they end. Must never: do IO, read a clock, draw a random number, or plan what makes a
//! shard less available. `synod rebalance` carries out what [`plan`] gives. Parts of it serve alone: the repair, for nodes that stay
//! dead; the drain, for the replicas of a node that is emptied ([`drains`]); [`comes`] and [`goes`], for tables whose replicas change in
//! number; and [`halve`], for `synod shard split --by load`.
//!
//! | order | rule | in |
//! | --- | --- | --- |
//! | 1 | repair | `repair` |
//! | 2 | zones | `zones` |
//! | 3 | drain | `drain` |
//! | 4 | split by size, split by load | `divide` |
//! | 5 | balance of bytes and replicas | `balance` |
//! | 6 | balance of leaderships and load | `balance` |
//! | 7 | merge | `merge` |
//!
//! Each rule lowers something that no later one raises: the voters that are lost, the pairs that share a zone, the replicas on nodes that
//! are being emptied, and the sum of squares in `weigh`. Splits and merges have marks that are far apart. So a cluster whose load is
//! steady comes to rest.

mod balance;
mod divide;
mod draft;
mod drain;
mod ground;
mod measure;
mod merge;
pub mod operation;
pub mod picture;
mod predict;
mod repair;
mod resize;
pub mod settings;
mod stale;
mod weigh;
mod zones;

pub use divide::{Point, halve};
pub use measure::Measure;
pub use operation::{Change, Lacks, Operation, Plan, Refusal, Rule};
pub use picture::Picture;
pub use predict::apply;
pub use resize::{comes, goes};
pub use settings::{Balance, Settings};
pub use stale::{Stale, stale};

use draft::Draft;

/// What should be done. The same picture gives the same plan.
#[must_use]
pub fn plan(picture: &Picture) -> Plan {
    let mut draft = Draft::of(picture);
    let auto = picture.settings.balance == Balance::Auto;
    repair::run(&mut draft);
    if auto {
        zones::run(&mut draft);
    }
    drain::run(&mut draft);
    if auto {
        divide::run(&mut draft);
        balance::size(&mut draft);
        balance::load(&mut draft);
        merge::run(&mut draft);
    }
    draft.plan
}

/// What the drain rule alone asks for. No other operation is planned before it, so that a node can be emptied in a cluster that the other
/// rules would change too.
#[must_use]
pub fn drains(picture: &Picture) -> Plan {
    let mut draft = Draft::of(picture);
    drain::run(&mut draft);
    draft.plan
}

/// What the repair rule alone asks for, as [`drains`] does for the drain rule.
#[must_use]
pub fn repairs(picture: &Picture) -> Plan {
    let mut draft = Draft::of(picture);
    repair::run(&mut draft);
    draft.plan
}

#[cfg(test)]
mod tests;
