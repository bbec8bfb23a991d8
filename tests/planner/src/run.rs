//! One run: a cluster under a load, round after round.
//!
//! Owns: the pictures, and what is counted. Must never: change a picture but by its load and by planned operations.

use crate::load::{RING, Workload};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::planner::picture::{Mark, NodeView, Resized, Sample, ShardView, TableView};
use synod_cluster::planner::settings::Rate;
use synod_cluster::planner::{Change, Measure, Picture, Refusal, Settings, apply, plan};
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

/// The table of a run.
const TABLE: TableId = TableId(1);
/// Bytes of a shard at first.
const SHARD_BYTES: u64 = 200 << 20;
/// Operations a second of a shard in the mean, at first.
const SHARD_OPERATIONS: u64 = 2_000;
/// Minutes between two rounds once the load stays: more than a shard rests.
const STILL: u64 = 11;
/// Rounds after which a run that is not settled ends.
const ROUNDS_MAX: u32 = 300;
/// Samples of a busy shard.
const SAMPLES: u128 = 64;

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Nodes, at least three.
    pub nodes: u64,
    /// Shards at first.
    pub shards: u64,
    /// Minutes in which the load changes, a round each.
    pub minutes: u64,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Replicas that moved.
    pub moves: u64,
    /// Leaderships that moved.
    pub leads: u64,
    /// Shards that were split.
    pub splits: u64,
    /// Shards that went into others.
    pub merges: u64,
    /// Rounds in which a hot key was told.
    pub hot: u64,
    /// Rounds until the first empty plan after the load had ceased to change; `None` where there was none.
    pub settled: Option<u32>,
    /// The greatest load of a node after a plan, percent of the mean.
    pub worst: u64,
    /// How things are in the end.
    pub end: Measure,
}

impl Report {
    /// The names of the columns.
    #[must_use]
    pub fn head() -> String {
        format!(
            "{:>7} {:>7} {:>7} {:>7} {:>5} {:>8} {:>7} {:>6} {:>6} {:>8}",
            "moves", "leads", "splits", "merges", "hot", "settled", "worst", "bytes", "load", "shards"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settled = self.settled.map_or_else(|| "never".to_owned(), |rounds| rounds.to_string());
        write!(
            f,
            "{:>7} {:>7} {:>7} {:>7} {:>5} {settled:>8} {:>6}% {:>5}% {:>5}% {:>8}",
            self.moves,
            self.leads,
            self.splits,
            self.merges,
            self.hot,
            self.worst,
            self.end.bytes_percent,
            self.end.load_percent,
            self.end.shards
        )
    }
}

/// Runs a load on a cluster.
#[must_use]
pub fn run(scale: Scale, workload: Workload) -> Report {
    let mut picture = found(scale);
    let mut report = Report::default();
    for minute in 0..scale.minutes {
        picture.now += Duration::from_secs(60);
        refresh(&mut picture, scale, workload, minute, 5);
        round(&mut picture, &mut report);
    }
    for rounds in 1..=ROUNDS_MAX {
        picture.now += Duration::from_secs(60 * STILL);
        refresh(&mut picture, scale, workload, scale.minutes, 1);
        if round(&mut picture, &mut report) == 0 {
            report.settled = Some(rounds);
            break;
        }
    }
    report.end = Measure::of(&picture);
    report
}

/// Plans and carries out; how many operations the plan had.
fn round(picture: &mut Picture, report: &mut Report) -> usize {
    let plan = plan(picture);
    report.hot += u64::from(plan.refusals.iter().any(|refusal| matches!(refusal, Refusal::HotKey { .. })));
    for operation in &plan.operations {
        assert!(apply(picture, operation), "{operation:?} may not be done after those before it");
        *match operation.change {
            Change::Lead { .. } => &mut report.leads,
            Change::Split { .. } => &mut report.splits,
            Change::Merge { .. } => &mut report.merges,
            Change::Add { .. } | Change::Move { .. } | Change::Forget { .. } => &mut report.moves,
        } += 1;
    }
    report.worst = report.worst.max(Measure::of(picture).load_percent);
    plan.operations.len()
}

fn bounds(view: &ShardView) -> (u128, u128) {
    let number =
        |bytes: &Bytes| <[u8; 8]>::try_from(&bytes[..]).map_or(0, |bytes| u128::from(u64::from_be_bytes(bytes)));
    (number(&view.from), if view.to.is_empty() { RING } else { number(&view.to) })
}

fn position(at: u128) -> Bytes {
    // The end of the ring is no bound.
    u64::try_from(at).ok().filter(|at| *at > 0).map_or_else(Bytes::new, |at| Bytes::copy_from_slice(&at.to_be_bytes()))
}

/// The cluster of a run: three zones, one table, replicas one beside another.
fn found(scale: Scale) -> Picture {
    let disk = (scale.shards * 3 / scale.nodes + 1) * SHARD_BYTES * 4;
    let node = |id: u64| NodeView {
        zone: format!("zone {}", id % 3),
        rack: String::new(),
        alive: true,
        since: Duration::ZERO,
        disk_bytes: disk,
        free_bytes: disk,
        mark: Mark::Stays,
    };
    let settings = Settings {
        operations_max: usize::try_from(scale.shards / 20).unwrap_or(usize::MAX).max(64),
        ..Settings::default()
    };
    Picture {
        now: Duration::from_secs(36_000),
        nodes: (1..=scale.nodes).map(|id| (NodeId(id), node(id))).collect(),
        tables: BTreeMap::from([(TABLE, TableView { replicas: 3, shards_min: 1 })]),
        shards: (0..scale.shards).map(|at| (ShardId(at + 2), shard(scale, at))).collect(),
        running: Vec::new(),
        settings,
    }
}

fn shard(scale: Scale, at: u64) -> ShardView {
    let width = RING / u128::from(scale.shards);
    let bound = |at: u64| if at == scale.shards { Bytes::new() } else { position(u128::from(at) * width) };
    let mut voters = [at, at + 1, at + 2].map(|node| NodeId(node % scale.nodes + 1));
    let first_leader = voters[0];
    voters.sort_unstable();
    let members = voters.map(|node| Member { node, role: MemberRole::Voter }).to_vec();
    ShardView {
        table: TABLE,
        from: bound(at),
        to: bound(at + 1),
        version: 1,
        membership: Membership { epoch: Epoch(1), members, first_leader },
        leader: Some(first_leader),
        bytes: SHARD_BYTES,
        rate: Rate::default(),
        rate_max: Rate::default(),
        samples: Vec::new(),
        middle: None,
        resized: Some(Resized { at: Duration::ZERO, by_operator: true }),
    }
}

/// Gives each shard the load and the bytes of a minute, and each node the room that follows.
fn refresh(picture: &mut Picture, scale: Scale, workload: Workload, minute: u64, window: u64) {
    let (operations, bytes) = (scale.shards * SHARD_OPERATIONS, scale.shards * SHARD_BYTES);
    let mark = picture.settings.load_mark;
    let mut used: BTreeMap<NodeId, u64> = BTreeMap::new();
    for view in picture.shards.values_mut() {
        let (from, to) = bounds(view);
        let rate = |from, to, minute| Rate { ops: workload.operations(operations, from, to, minute), bytes: 0 };
        view.bytes = workload.bytes(bytes, from, to, minute);
        view.rate = rate(from, to, minute);
        let recent = minute.saturating_sub(window - 1)..=minute;
        view.rate_max = recent.map(|minute| rate(from, to, minute)).max_by_key(|rate| rate.ops).unwrap_or_default();
        view.middle = (to - from > 1).then(|| position(from + (to - from) / 2));
        view.samples.clear();
        if view.rate.ops > mark {
            let mut cuts: Vec<u128> = (0..SAMPLES).map(|at| from + (to - from) * at / SAMPLES).collect();
            cuts.extend(workload.notable(from, to).into_iter().flat_map(|key| [key, key + 1]).filter(|at| *at < to));
            cuts.sort_unstable();
            cuts.dedup();
            let ends = cuts.iter().copied().skip(1).chain([to]);
            let samples = cuts.iter().copied().zip(ends);
            view.samples.extend(samples.map(|(at, end)| Sample { at: position(at), rate: rate(at, end, minute) }));
        }
        for node in view.membership.voters() {
            *used.entry(node).or_default() += view.bytes;
        }
    }
    for (id, node) in &mut picture.nodes {
        node.free_bytes = node.disk_bytes.saturating_sub(used.get(id).copied().unwrap_or_default());
    }
}
