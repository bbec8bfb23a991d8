//! Tests of the planner.
//!
//! Owns: the clusters that they begin with. Must never: ask the planner whether it is right.

mod random;
mod rules;

use super::operation::{Operation, Plan, Rule};
use super::picture::{Mark, NodeView, Picture, Sample, ShardView, TableView};
use super::settings::{Rate, Settings};
use crate::ids::{Epoch, NodeId, ShardId, TableId};
use crate::jobs::split::middle_of_ring;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use synod_paxos::types::{Member, MemberRole, Membership};

const MIB: u64 = 1 << 20;
const TABLE: TableId = TableId(1);

/// A position on the ring; 0 is its end where an upper bound is meant, and its beginning where a lower one is.
fn position(at: u64) -> Bytes {
    if at == 0 { Bytes::new() } else { Bytes::copy_from_slice(&at.to_be_bytes()) }
}

fn node() -> NodeView {
    NodeView {
        zone: String::new(),
        rack: String::new(),
        alive: true,
        since: Duration::ZERO,
        disk_bytes: 1 << 40,
        free_bytes: 1 << 39,
        mark: Mark::Stays,
    }
}

fn membership(voters: &[u64]) -> Membership {
    let mut members: Vec<Member> =
        voters.iter().map(|node| Member { node: NodeId(*node), role: MemberRole::Voter }).collect();
    members.sort_unstable_by_key(|member| member.node);
    Membership { epoch: Epoch(1), members, first_leader: NodeId(voters[0]) }
}

/// Part `at` of `of` of a table's ring. The first voter leads it.
fn shard(table: TableId, (at, of): (u64, u64), voters: &[u64]) -> ShardView {
    let bound = |at: u64| position((u64::MAX / of).saturating_mul(at));
    let (from, to) = (bound(at), if at + 1 == of { Bytes::new() } else { bound(at + 1) });
    let rate = Rate { ops: 100, bytes: 0 };
    ShardView {
        table,
        middle: middle_of_ring(&from, &to),
        from,
        to,
        version: 1,
        membership: membership(voters),
        leader: Some(NodeId(voters[0])),
        bytes: 200 * MIB,
        rate,
        rate_max: rate,
        samples: Vec::new(),
        resized: None,
    }
}

/// A cluster of one table: shard 2 and those that follow have these voters, the first of which leads.
fn cluster(nodes: u64, shards: &[&[u64]]) -> Picture {
    let of = shards.len() as u64;
    let views = (0..of).zip(shards).map(|(at, voters)| (ShardId(at + 2), shard(TABLE, (at, of), voters)));
    Picture {
        now: Duration::from_secs(36_000),
        nodes: (1..=nodes).map(|id| (NodeId(id), node())).collect(),
        tables: BTreeMap::from([(TABLE, TableView { replicas: 3, shards_min: 1 })]),
        shards: views.collect(),
        running: Vec::new(),
        settings: Settings::default(),
    }
}

fn sample(at: u64, ops: u64) -> Sample {
    Sample { at: position(at), rate: Rate { ops, bytes: 0 } }
}

fn of_rule(plan: &Plan, rule: Rule) -> Vec<&Operation> {
    plan.operations.iter().filter(|operation| operation.rule == rule).collect()
}
