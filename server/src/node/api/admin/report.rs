//! What a node says of its replicas.
//!
//! Owns: a replica as clients see it. Must never: know more than the worker's report.

use std::time::Duration;
use synod_engine::host::ReplicaReport;
use synod_engine::worker::AHEAD_US;
use synod_proto::v1;

/// What is said of a shard led here whose time is far ahead of the clocks.
pub(super) fn ahead(replica: &ReplicaReport) -> Option<String> {
    let ahead = Duration::from_secs(replica.ahead_us / 1_000_000);
    (replica.ahead_us > AHEAD_US).then(|| {
        let (shard, ahead) = (replica.shard, humantime::format_duration(ahead));
        format!("the time of shard {shard} is {ahead} ahead of what most nodes' clocks show: its timestamps go on from there")
    })
}

pub(super) fn replica_to_wire(r: ReplicaReport) -> v1::ReplicaStatus {
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
    }
}
