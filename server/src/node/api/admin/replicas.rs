//! What a node's status says of its replicas.
//!
//! Owns: the wire form of their reports, and how many bytes the shards led here were found to have. Must never: look at files on a thread
//! of the network, or for longer than a status may take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use synod_cluster::ids::ShardId;
use synod_engine::host::{LoadReport, ReplicaReport, Size};
use synod_engine::worker::AHEAD_US;
use synod_proto::v1;
use tokio::task::spawn_blocking;

/// A size that is older is looked at again.
const STALE: Duration = Duration::from_secs(10);
/// Shards whose size is looked at for one status, at most.
const LOOKS_MAX: usize = 256;
/// After so long no further one is looked at: the next status goes on.
const LOOKS_TAKE: Duration = Duration::from_millis(50);

/// The bytes of the shards led here, as they were looked at last.
#[derive(Debug, Default)]
pub struct Sizes(Mutex<BTreeMap<ShardId, (Instant, u64)>>);

impl Sizes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, (Instant, u64)>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// What is to be looked at again: what never was first, then the oldest.
    fn due(&self, replicas: &[ReplicaReport], now: Instant) -> Vec<(ShardId, Size)> {
        let known = self.lock();
        let led = replicas.iter().filter_map(|replica| Some((replica.shard, replica.size.clone()?)));
        let age = |shard: &ShardId| known.get(shard).map(|(at, _)| *at);
        let stale = |at: Instant| now.saturating_duration_since(at) >= STALE;
        let mut due: Vec<(ShardId, Size)> = led.filter(|(shard, _)| age(shard).is_none_or(stale)).collect();
        due.sort_by_key(|(shard, _)| age(shard));
        due.truncate(LOOKS_MAX);
        due
    }

    fn note(&self, found: Vec<(ShardId, u64)>, replicas: &[ReplicaReport], now: Instant) {
        let mut known = self.lock();
        known.extend(found.into_iter().map(|(shard, bytes)| (shard, (now, bytes))));
        // What is not led here any longer is looked at anew should it come back.
        let led: BTreeSet<ShardId> = replicas.iter().filter(|r| r.size.is_some()).map(|r| r.shard).collect();
        known.retain(|shard, _| led.contains(shard));
    }

    /// Of a replica, where it leads and was looked at.
    fn of(&self, replica: &ReplicaReport) -> Option<u64> {
        replica.size.as_ref()?;
        self.lock().get(&replica.shard).map(|(_, bytes)| *bytes)
    }
}

/// What is said of a shard led here whose time is far ahead of the clocks.
pub(super) fn ahead(replica: &ReplicaReport) -> Option<String> {
    let ahead = Duration::from_secs(replica.ahead_us / 1_000_000);
    (replica.ahead_us > AHEAD_US).then(|| {
        let (shard, ahead) = (replica.shard, humantime::format_duration(ahead));
        format!("the time of shard {shard} is {ahead} ahead of what most nodes' clocks show: its timestamps go on from there")
    })
}

/// The reports of a node's replicas, with the sizes of those that lead.
pub(super) async fn to_wire(sizes: &Sizes, replicas: Vec<ReplicaReport>) -> Vec<v1::ReplicaStatus> {
    let began = Instant::now();
    let due = sizes.due(&replicas, began);
    if !due.is_empty() {
        let look = move || {
            let mut found = Vec::with_capacity(due.len());
            for (shard, size) in due {
                if began.elapsed() > LOOKS_TAKE {
                    break;
                }
                found.push((shard, size.bytes()));
            }
            found
        };
        // Where it panicked, the status goes without: what panics ends the process in any case.
        let found = spawn_blocking(look).await.unwrap_or_default();
        sizes.note(found, &replicas, began);
    }
    let of = |replica: ReplicaReport| {
        let bytes = sizes.of(&replica);
        replica_to_wire(replica, bytes)
    };
    replicas.into_iter().map(of).collect()
}

/// The load of a replica.
pub(super) fn load_to_wire(load: LoadReport) -> v1::ShardLoad {
    let LoadReport { rate, peak, samples, sampled } = load;
    let sampled = sampled.into_iter().map(|sampled| v1::SampledPosition {
        position: sampled.at,
        count: sampled.count,
        ops: sampled.ops,
        bytes: sampled.bytes,
    });
    v1::ShardLoad {
        reads: rate.reads,
        read_bytes: rate.read_bytes,
        writes: rate.writes,
        write_bytes: rate.write_bytes,
        reads_max: peak.reads,
        read_bytes_max: peak.read_bytes,
        writes_max: peak.writes,
        write_bytes_max: peak.write_bytes,
        samples,
        sampled: sampled.collect(),
    }
}

fn replica_to_wire(r: ReplicaReport, bytes: Option<u64>) -> v1::ReplicaStatus {
    let merge = r.merge;
    v1::ReplicaStatus {
        shard: r.shard.0,
        table_id: r.table.0,
        role: r.role.into(),
        leader: r.leader.map_or(0, |n| n.0),
        ballot: format!("{:?}", r.ballot),
        epoch: r.ballot.epoch.0,
        commit: r.commit.0,
        applied: r.applied.0,
        last: r.last.0,
        trimmed: r.trimmed.0,
        lag: r.lag.into_iter().map(|(node, slots)| v1::ReplicaLag { node: node.0, slots }).collect(),
        scrub: r.scrub.map(|scrub| v1::ScrubStatus {
            slot: scrub.slot.0,
            compared: scrub.compared.iter().map(|node| node.0).collect(),
            equal: scrub.equal,
            diverged: scrub.diverged.iter().map(|node| node.0).collect(),
        }),
        version: r.version,
        from: r.from,
        to: r.to,
        unborn: r.unborn,
        members_epoch: r.epoch.0,
        hindrance: r.hindrance.unwrap_or_default(),
        merge_phase: merge.map(|merge| merge.phase).unwrap_or_default().into(),
        merge_with: merge.map_or(0, |merge| merge.with.0),
        merge_ms: merge.map_or(0, |merge| merge.since_us / 1_000),
        load: Some(load_to_wire(r.load)),
        bytes,
    }
}
