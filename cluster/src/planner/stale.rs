//! Which operations of a plan no longer apply.
//!
//! Owns: the answer, in words. Must never: let an operation pass that the newer picture would not allow.

use super::ground::Ground;
use super::operation::{Change, Operation, Plan, Rule};
use super::picture::{Mark, Picture};
use super::settings::Balance;
use crate::ids::ShardId;

/// An operation that no longer applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Its place in the plan, from 0.
    pub index: usize,
    /// Its shard.
    pub shard: ShardId,
    /// Why.
    pub why: String,
}

/// The operations of a plan that no longer apply to a picture, in the order of the plan.
#[must_use]
pub fn stale(plan: &Plan, picture: &Picture) -> Vec<Stale> {
    let ground = Ground::of(picture);
    let mut found = Vec::new();
    for (index, operation) in plan.operations.iter().enumerate() {
        if let Some(why) = ground.hindrance(operation).or_else(|| needless(operation, picture)) {
            found.push(Stale { index, shard: operation.shard, why });
        }
    }
    found
}

/// Why nothing asks for an operation by now, if so.
fn needless(operation: &Operation, picture: &Picture) -> Option<String> {
    let always = matches!(operation.rule, Rule::Repair | Rule::Drain);
    if !always && picture.settings.balance == Balance::Manual {
        return Some("balancing was left to the operator".into());
    }
    match (operation.rule, &operation.change) {
        (Rule::Repair, Change::Move { from, .. }) if !picture.lost(*from) => Some(format!("node {from} is back")),
        (Rule::Drain, Change::Move { from, .. }) => {
            let stays = picture.nodes.get(from).is_some_and(|node| node.mark == Mark::Stays);
            stays.then(|| format!("node {from} is no longer being emptied"))
        }
        _ => None,
    }
}
