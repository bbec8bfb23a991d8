//! Clusters for the tests of this folder.

use crate::cli::output::json;

/// Three nodes and this many shards, each on all of them; shard `s` is led by node `s % 3 + 1`, and the first is the cluster's own.
pub fn status(shards: u64) -> json::Status {
    json::Status {
        cluster: "ab".repeat(16),
        version: 3,
        nodes: (1..=3).map(|id| node(id, shards)).collect(),
        shards: (1..=shards).map(shard).collect(),
        jobs: vec![],
    }
}

/// A job that moves the replica of shard 2 from node 3 to node 4.
pub fn job(id: u64, state: &str, step: &str, lag_slots: Option<u64>) -> json::Job {
    let progress =
        json::JobProgress { step: Some(step.to_owned()), lag_slots, replicas_left: None, trouble: None, idle_ms: 0 };
    let (shard, from, to) = (Some(2), Some(3), Some(4));
    let (kind, state) = ("move_replica", state.to_owned());
    json::Job { id, kind, shard, from, to, node: None, remove: None, state, why: None, progress: Some(progress) }
}

fn leader_of(shard: u64) -> u64 {
    shard % 3 + 1
}

fn node(id: u64, shards: u64) -> json::Node {
    json::Node {
        id,
        addr: format!("127.0.0.1:740{id}"),
        state: "up",
        reason: None,
        speaks: Some(3),
        zone: None,
        rack: None,
        clock_alarms: vec![],
        leaders: (1..=shards).filter(|shard| leader_of(*shard) == id).count() as u64,
        replicas: shards,
        uptime_ms: Some(id * 60_000),
        snapshots: None,
    }
}

fn shard(id: u64) -> json::Shard {
    let key = |number: u64| if number <= 2 { Vec::new() } else { format!("k{number:04}").into_bytes() };
    let replica = |node: u64| json::Replica {
        node,
        role: if node == leader_of(id) { "leader" } else { "follower" }.to_owned(),
        lag_slots: Some(0),
        commit: Some(id * 100),
        applied: Some(id * 100),
        unborn: false,
    };
    json::Shard {
        id,
        table: (id > 1).then(|| "orders".to_owned()),
        bounds: json::Bounds::Keys { from: key(id), to: if id == 1 { Vec::new() } else { key(id + 1) } },
        changes: json::Changes { epoch: 1, version: 2 },
        leader: Some(leader_of(id)),
        replicas: (1..=3).map(replica).collect(),
        scrub: None,
        merge: None,
        bytes: None,
        load: None,
    }
}
