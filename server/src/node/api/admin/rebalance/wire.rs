//! Planned operations, as clients get them and give them back.
//!
//! Owns: their form on the wire, and the words for rules and quantities in it. Must never: change what an operation means.

use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::planner::operation::{Predicted, Quantity};
use synod_cluster::planner::{Change, Measure, Operation, Rule};
use synod_paxos::types::Epoch;
use synod_proto::v1;
use v1::planned_operation::Change as Wire;

const RULES: [Rule; 8] =
    [Rule::Repair, Rule::Zone, Rule::Drain, Rule::SplitSize, Rule::SplitLoad, Rule::Size, Rule::Load, Rule::Merge];

/// An operation as clients get it; `None` for a merge, which nothing carries out yet.
pub(super) fn planned(operation: &Operation) -> Option<v1::PlannedOperation> {
    let Operation { shard, rule, change, version, epoch, why, predicted } = operation;
    let change = match change {
        Change::Add { to } => Wire::Add(to.0),
        Change::Move { from, to } => Wire::Move(v1::VoterMove { from: from.0, to: to.0 }),
        Change::Forget { node } => Wire::Forget(node.0),
        Change::Lead { to } => Wire::Lead(to.0),
        Change::Split { at } => Wire::Split(at.clone()),
        Change::Merge { .. } => return None,
    };
    Some(v1::PlannedOperation {
        shard: shard.0,
        version: *version,
        epoch: epoch.0,
        rule: rule.to_string(),
        why: why.clone(),
        change: Some(change),
        what: what(predicted.what).into(),
        before: predicted.before,
        after: predicted.after,
    })
}

/// An operation as a client gives it back. What it was predicted to change is not looked at again.
pub(super) fn operation(wire: &v1::PlannedOperation) -> Result<Operation, String> {
    let v1::PlannedOperation { shard, version, epoch, rule, why, change, .. } = wire;
    let named = |field: &str| format!("one of shard {shard} lacks its {field}");
    if *version == 0 || *epoch == 0 {
        return Err(named("version or its epoch"));
    }
    let known = RULES.into_iter().find(|known| known.to_string() == *rule);
    let change = match change.as_ref().ok_or_else(|| named("change"))? {
        Wire::Add(to) => Change::Add { to: NodeId(*to) },
        Wire::Move(v1::VoterMove { from, to }) => Change::Move { from: NodeId(*from), to: NodeId(*to) },
        Wire::Forget(node) => Change::Forget { node: NodeId(*node) },
        Wire::Lead(to) => Change::Lead { to: NodeId(*to) },
        Wire::Split(at) => Change::Split { at: at.clone() },
    };
    Ok(Operation {
        shard: ShardId(*shard),
        rule: known.ok_or_else(|| format!("one of shard {shard} names a rule that is not known: {rule:?}"))?,
        change,
        version: *version,
        epoch: Epoch(*epoch),
        why: why.clone(),
        predicted: Predicted { what: Quantity::Shards, before: 0, after: 0 },
    })
}

/// What a prediction counts, in words.
fn what(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::LiveVoters => "live voters",
        Quantity::Learners => "learners",
        Quantity::ZonePairs => "pairs of voters in one zone",
        Quantity::Replicas => "replicas on the node",
        Quantity::Bytes => "bytes of the larger shard",
        Quantity::Load => "load of the busier shard",
        Quantity::PercentOfMean => "percent of the mean",
        Quantity::Shards => "shards of the range",
    }
}

/// The figures of a cluster.
pub(super) fn measure(measure: &Measure) -> v1::PlacementMeasure {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    v1::PlacementMeasure {
        shards: count(measure.shards),
        lost: count(measure.lost),
        zone_pairs: measure.zone_pairs,
        marked: count(measure.marked),
        bytes_percent: measure.bytes_percent,
        replicas_percent: measure.replicas_percent,
        leaders_percent: measure.leaders_percent,
        load_percent: measure.load_percent,
    }
}
