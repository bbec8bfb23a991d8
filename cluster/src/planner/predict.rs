//! What an operation makes of a picture.
//!
//! Owns: the prediction. Must never: be taken for what happened: loads of a split are those of the samples, its bytes are halves.

use super::ground::Ground;
use super::operation::{Change, Operation};
use super::picture::{Picture, Resized, Sample, ShardView};
use super::settings::{Rate, Weights};
use crate::ids::{NodeId, ShardId};
use crate::jobs::split::middle_of_ring;
use bytes::Bytes;
use std::time::Duration;
use synod_paxos::types::{Member, MemberRole};

/// Carries an operation out in a picture, as far as that can be predicted. `false`: it may not be done there, and nothing has changed.
///
/// The child of a split gets the next id.
pub fn apply(picture: &mut Picture, operation: &Operation) -> bool {
    if Ground::of(picture).hindrance(operation).is_some() {
        return false;
    }
    let (now, weights) = (picture.now, picture.settings.weights);
    let child = ShardId(picture.shards.keys().next_back().map_or(1, |last| last.0 + 1));
    let Some(mut view) = picture.shards.remove(&operation.shard) else { return false };
    match &operation.change {
        Change::Add { to } => {
            change_members(&mut view, None, Some(*to));
            fill(picture, *to, view.bytes);
        }
        Change::Move { from, to } => {
            change_members(&mut view, Some(*from), Some(*to));
            free(picture, *from, view.bytes);
            fill(picture, *to, view.bytes);
        }
        Change::Forget { node } => {
            change_members(&mut view, Some(*node), None);
            free(picture, *node, view.bytes);
        }
        Change::Lead { to } => view.leader = Some(*to),
        Change::Split { at } => {
            let born = divide(&mut view, at, now, &weights);
            picture.shards.insert(child, born);
        }
        Change::Merge { with } => {
            if let Some(right) = picture.shards.remove(&with.shard) {
                right.membership.voters().for_each(|node| free(picture, node, right.bytes));
                view.membership.voters().for_each(|node| fill(picture, node, right.bytes));
                absorb(&mut view, right, now);
            }
        }
    }
    picture.shards.insert(operation.shard, view);
    true
}

fn fill(picture: &mut Picture, node: NodeId, bytes: u64) {
    if let Some(node) = picture.nodes.get_mut(&node) {
        node.free_bytes = node.free_bytes.saturating_sub(bytes);
    }
}

fn free(picture: &mut Picture, node: NodeId, bytes: u64) {
    if let Some(node) = picture.nodes.get_mut(&node) {
        node.free_bytes = node.free_bytes.saturating_add(bytes).min(node.disk_bytes);
    }
}

/// A member goes, a voter comes.
fn change_members(view: &mut ShardView, goes: Option<NodeId>, comes: Option<NodeId>) {
    let membership = &mut view.membership;
    membership.members.retain(|member| Some(member.node) != goes);
    membership.members.extend(comes.map(|node| Member { node, role: MemberRole::Voter }));
    membership.members.sort_unstable_by_key(|member| member.node);
    membership.epoch = membership.epoch.next();
    if let Some(to) = comes.filter(|_| Some(membership.first_leader) == goes) {
        membership.first_leader = to;
    }
    if goes.is_some() && view.leader == goes {
        view.leader = comes;
    }
}

/// Divides a shard; returns the child.
fn divide(view: &mut ShardView, at: &Bytes, now: Duration, weights: &Weights) -> ShardView {
    let (below, above): (Vec<Sample>, Vec<Sample>) = view.samples.drain(..).partition(|sample| sample.at < *at);
    let sum = |samples: &[Sample]| samples.iter().map(|s| u128::from(weights.cost(s.rate))).sum::<u128>();
    let (low, high) = (sum(&below), sum(&above));
    let permille = (high * 1000).checked_div(low + high).unwrap_or(500);
    let part = |of: u64| u64::try_from(u128::from(of) * permille / 1000).unwrap_or(of);
    let upper = |rate: Rate| Rate { ops: part(rate.ops), bytes: part(rate.bytes) };
    let lower = |rate: Rate| Rate { ops: rate.ops - part(rate.ops), bytes: rate.bytes - part(rate.bytes) };
    let resized = Some(Resized { at: now, by_operator: false });
    let child = ShardView {
        from: at.clone(),
        version: view.version + 1,
        bytes: view.bytes / 2,
        rate: upper(view.rate),
        rate_max: upper(view.rate_max),
        samples: above,
        middle: middle_of_ring(at, &view.to),
        resized,
        ..view.clone()
    };
    (view.rate, view.rate_max) = (lower(view.rate), lower(view.rate_max));
    view.bytes -= child.bytes;
    view.middle = middle_of_ring(&view.from, at);
    view.to = at.clone();
    (view.version, view.samples, view.resized) = (view.version + 1, below, resized);
    child
}

/// The upper neighbour goes into a shard.
fn absorb(view: &mut ShardView, right: ShardView, now: Duration) {
    view.version = view.version.max(right.version) + 1;
    view.bytes = view.bytes.saturating_add(right.bytes);
    view.rate = view.rate.plus(right.rate);
    view.rate_max = view.rate_max.plus(right.rate_max);
    view.samples.extend(right.samples);
    view.middle = middle_of_ring(&view.from, &right.to);
    view.to = right.to;
    view.resized = Some(Resized { at: now, by_operator: false });
}
