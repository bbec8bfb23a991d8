//! The shapes of `-o json`.
//!
//! Owns the documented, stable output: field names, units in names, and how bytes that are not UTF-8 are written
//! (`…_base64` instead of the plain field). Fields may be added; none may ever change its meaning or go away. Must
//! never talk to a cluster or print.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

pub use super::record::{Bytes, Record};

/// What `put` and `append` print (and `delete`: the offset is the tombstone's).
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// Offset of the first record written.
    pub offset: u64,
    /// The write's time in microseconds.
    pub ts_us: u64,
}

/// What `trim` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Trimmed {
    /// The first offset kept.
    pub first_offset: u64,
    /// The trim's time in microseconds.
    pub ts_us: u64,
}

/// What `batch` prints: one result an operation, in the file's order.
#[derive(Clone, Debug, Serialize)]
pub struct Batch {
    /// Per operation: the offset of what it wrote; for a trim the first offset kept.
    pub results: Vec<Written>,
}

/// What `load` prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Load {
    /// Records acknowledged.
    pub records: u64,
    /// Bytes of the acknowledged keys and values.
    pub bytes: u64,
    /// Lines or records passed over because of `--on-error skip`.
    pub skipped: u64,
    /// Wall time.
    pub seconds: f64,
    /// `records / seconds`.
    pub records_per_s: f64,
    /// Latency of one append as the loader saw it.
    pub latency_p50_us: u64,
    /// As above.
    pub latency_p99_us: u64,
    /// As above.
    pub latency_max_us: u64,
}

/// Where a tail ended, on standard error.
#[derive(Clone, Debug, Serialize)]
pub struct Token {
    /// Give it to `tail --from` to go on after the last record printed.
    pub token: String,
}

/// A table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `range` or `hash`.
    pub partition: &'static str,
    /// `latest` or `all`.
    pub retain: &'static str,
    /// Replicas of each shard.
    pub replicas: u32,
    /// Shards in order of their bounds.
    pub shards: Vec<TableShard>,
}

/// A shard of a table as the map has it.
#[derive(Clone, Debug)]
pub struct TableShard {
    /// Its number.
    pub id: u64,
    /// Its bounds.
    pub bounds: Bounds,
    /// Changes of members and of bounds so far.
    pub changes: Changes,
    /// The node that leads it, where known.
    pub leader: Option<u64>,
    /// The nodes that hold it.
    pub voters: Vec<u64>,
}

impl Serialize for TableShard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        self.bounds.entries(&mut map)?;
        // The earlier names, kept beside the new ones for one more version.
        map.serialize_entry("epoch", &self.changes)?;
        map.serialize_entry("membership_epoch", &self.changes.epoch)?;
        map.serialize_entry("bounds_version", &self.changes.version)?;
        map.serialize_entry("leader", &self.leader)?;
        map.serialize_entry("voters", &self.voters)?;
        map.end()
    }
}

/// How often a shard's members and bounds have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Changes of members: the epoch.
    #[serde(rename = "config")]
    pub epoch: u64,
    /// Changes of bounds: the version.
    pub version: u64,
}

/// The half-open interval of a shard: `"from"` and `"to"`, `null` where it has no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Keys.
    Keys {
        /// First key of the shard.
        from: Vec<u8>,
        /// First key after it; empty for no bound.
        to: Vec<u8>,
    },
    /// Positions on the hash ring, printed as 16 hexadecimal digits.
    Ring {
        /// First position of the shard.
        from: Vec<u8>,
        /// First position after it; empty for no bound.
        to: Vec<u8>,
    },
}

impl Bounds {
    fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        match self {
            Self::Keys { from, to } => {
                Self::key_entry(map, from, "from", "from_base64")?;
                Self::key_entry(map, to, "to", "to_base64")
            }
            Self::Ring { from, to } => {
                map.serialize_entry("from", &ring(from))?;
                map.serialize_entry("to", &ring(to))
            }
        }
    }

    fn key_entry<M: SerializeMap>(
        map: &mut M,
        bound: &[u8],
        plain: &'static str,
        base64: &'static str,
    ) -> Result<(), M::Error> {
        if bound.is_empty() {
            return map.serialize_entry(plain, &None::<&str>);
        }
        Bytes(bound.to_vec()).entry(map, plain, base64)
    }
}

/// A bound on the ring as hexadecimal digits; none where there is no bound.
pub fn ring(bound: &[u8]) -> Option<String> {
    (!bound.is_empty()).then(|| bound.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What `status` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The cluster's id, 32 hexadecimal digits.
    pub cluster: String,
    /// The version that the cluster is at.
    pub version: u32,
    /// Every node of the cluster.
    pub nodes: Vec<Node>,
    /// Every shard, the cluster's own first.
    pub shards: Vec<Shard>,
    /// The jobs that run; none where no node that leads the system shard answers.
    pub jobs: Vec<Job>,
}

/// A job.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// Its number, never given twice.
    pub id: u64,
    /// `move_replica`, `split_shard`, `empty_node` or `resize_shard`; `unknown` where a newer binary began it.
    pub kind: &'static str,
    /// The shard whose replica moves, that is split, or whose replicas change in number.
    pub shard: Option<u64>,
    /// The node whose replica goes.
    pub from: Option<u64>,
    /// The node that gets it; none where a learner goes that was left behind.
    pub to: Option<u64>,
    /// The node that is emptied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// Whether that is taken out of the cluster then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<bool>,
    /// `running`, `paused`, `cancelling`, `done`, `cancelled`, `overtaken` or `failed`.
    pub state: String,
    /// Why it was overtaken or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How far it is; none where the leader of the system shard has not looked at it.
    pub progress: Option<JobProgress>,
}

/// How far a job is.
#[derive(Clone, Debug, Serialize)]
pub struct JobProgress {
    /// The step decided last: of a move `learn`, `catch_up`, `promote` or `remove`, of a split `reserve`, `split` or `wait`, of a node that
    /// is emptied `begin` or `wait`, `end` of all; none while it waits for its turn.
    pub step: Option<String>,
    /// Slots of the log that the learner lacks, while that is known.
    pub lag_slots: Option<u64>,
    /// Why the last change that was asked for was not made yet, or for what the job waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Since something was last seen to change.
    pub idle_ms: u64,
    /// Of a node that is emptied: the replicas that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_left: Option<u64>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its number, never used again for another.
    pub id: u64,
    /// Where it listens.
    pub addr: String,
    /// `up`, `down`, `quarantined`, or `disk_low` where it refuses writes that need room.
    pub state: &'static str,
    /// Why it takes no part, refuses writes or does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The greatest cluster version that it speaks; none where it does not answer.
    pub speaks: Option<u32>,
    /// Where it runs; none where it was not told, or does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The rack within the zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// What is wrong with its peers' clocks beside its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clock_alarms: Vec<String>,
    /// Shards it leads.
    pub leaders: u64,
    /// Replicas it holds.
    pub replicas: u64,
    /// Since when it runs; none where it does not answer.
    pub uptime_ms: Option<u64>,
    /// What it had to do with snapshots in that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<NodeSnapshots>,
}

/// A node's snapshots since it runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NodeSnapshots {
    /// Made for members that were behind the log.
    pub made: u64,
    /// Taken in the place of a replica that was.
    pub installed: u64,
}

/// A shard and its replicas.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its number.
    pub id: u64,
    /// Its table's name; none for the cluster's own shard.
    pub table: Option<String>,
    /// Its bounds.
    pub bounds: Bounds,
    /// Changes of members and of bounds so far.
    pub changes: Changes,
    /// The node that leads it; none while there is no leader.
    pub leader: Option<u64>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// The last comparison of its replicas, where there was one.
    pub scrub: Option<Scrub>,
    /// The merge that it takes part in, where it does.
    pub merge: Option<Merge>,
    /// Bytes that its leader has flushed, about; none where no leader says so.
    pub bytes: Option<u64>,
    /// What its leader has to do; none where no leader says so.
    pub load: Option<ShardLoad>,
}

/// What a shard's leader has to do: averages with a half-life of ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardLoad {
    /// Reads and writes a second.
    pub ops_per_s: u64,
    /// Bytes read and written a second.
    pub bytes_per_s: u64,
    /// Reads a second.
    pub reads_per_s: u64,
    /// Writes a second; each operation of a batch is one.
    pub writes_per_s: u64,
    /// Bytes read a second.
    pub read_bytes_per_s: u64,
    /// Bytes written a second.
    pub write_bytes_per_s: u64,
    /// The greatest averages of reads and of writes in the last five minutes, together.
    pub ops_per_s_max: u64,
    /// The same of bytes.
    pub bytes_per_s_max: u64,
    /// Operations that were sampled.
    #[serde(skip)]
    pub samples: u32,
    /// The positions that were sampled most.
    #[serde(skip)]
    pub sampled: Vec<Sampled>,
}

/// A position that was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// The key, after its hash on a hash table.
    pub position: Vec<u8>,
    /// How many of the samples are of it.
    pub count: u32,
    /// Its operations a second, about.
    pub ops: u64,
    /// Its bytes a second, about.
    pub bytes: u64,
}

/// What `hot shards` prints of a shard.
#[derive(Clone, Debug, Serialize)]
pub struct HotShard {
    /// Its number.
    pub shard: u64,
    /// Its table's name; none for the cluster's own shard.
    pub table: Option<String>,
    /// The node that leads it.
    pub leader: Option<u64>,
    /// Bytes that its leader has flushed, about.
    pub bytes: Option<u64>,
    /// What its leader has to do.
    #[serde(flatten)]
    pub load: ShardLoad,
}

/// What `hot keys` prints of a key.
#[derive(Clone, Debug)]
pub struct HotKey {
    /// The key; of a long one the beginning.
    pub key: Bytes,
    /// Its shard.
    pub shard: u64,
    /// Its table's name.
    pub table: Option<String>,
    /// The node that leads the shard.
    pub leader: Option<u64>,
    /// Its part of the shard's operations, percent, as far as the samples say.
    pub share_percent: u64,
    /// Its operations a second, about.
    pub ops_per_s: u64,
    /// Its bytes a second, about.
    pub bytes_per_s: u64,
}

impl Serialize for HotKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.key.entry(&mut map, "key", "key_base64")?;
        map.serialize_entry("shard", &self.shard)?;
        map.serialize_entry("table", &self.table)?;
        map.serialize_entry("leader", &self.leader)?;
        map.serialize_entry("share_percent", &self.share_percent)?;
        map.serialize_entry("ops_per_s", &self.ops_per_s)?;
        map.serialize_entry("bytes_per_s", &self.bytes_per_s)?;
        map.end()
    }
}

/// A merge that a shard takes part in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Merge {
    /// `merging`: the other shard is to go into this one; `frozen`: this one is to go into the other and answers nobody; `cancelled`: it was
    /// taken back, and the other is yet to go on.
    pub phase: String,
    /// The other shard.
    pub with: u64,
    /// For how long, milliseconds.
    pub since_ms: u64,
}

impl Merge {
    /// The same for people.
    pub fn in_words(&self) -> String {
        let Self { phase, with, since_ms } = self;
        match phase.as_str() {
            "frozen" => format!("frozen for shard {with} since {since_ms} ms"),
            "merging" => format!("takes shard {with} in since {since_ms} ms"),
            _ => format!("has let go of shard {with} since {since_ms} ms, which is yet to go on"),
        }
    }
}

/// A comparison of a shard's replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scrub {
    /// The slot at which.
    pub slot: u64,
    /// The nodes compared.
    pub compared: Vec<u64>,
    /// Whether all of them hold the same.
    pub equal: bool,
    /// Nodes that do not hold what a majority does.
    pub diverged: Vec<u64>,
}

impl Serialize for Shard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("table", &self.table)?;
        self.bounds.entries(&mut map)?;
        // The earlier names, kept beside the new ones for one more version.
        map.serialize_entry("epoch", &self.changes)?;
        map.serialize_entry("membership_epoch", &self.changes.epoch)?;
        map.serialize_entry("bounds_version", &self.changes.version)?;
        map.serialize_entry("leader", &self.leader)?;
        map.serialize_entry("replicas", &self.replicas)?;
        if let Some(scrub) = &self.scrub {
            map.serialize_entry("scrub", scrub)?;
        }
        if let Some(merge) = &self.merge {
            map.serialize_entry("merge", merge)?;
        }
        if let Some(bytes) = &self.bytes {
            map.serialize_entry("bytes", bytes)?;
        }
        if let Some(load) = &self.load {
            map.serialize_entry("load", load)?;
        }
        map.end()
    }
}

/// A replica of a shard.
#[derive(Clone, Debug, Serialize)]
pub struct Replica {
    /// The node that holds it.
    pub node: u64,
    /// `leader`, `follower`, `candidate`, `learner`, `removed`, or `unknown` where the node does not answer.
    pub role: String,
    /// Slots of the log it has not acknowledged, as its leader sees it; none where no leader answers.
    pub lag_slots: Option<u64>,
    /// Last slot known to be chosen.
    pub commit: Option<u64>,
    /// Last slot applied.
    pub applied: Option<u64>,
    /// A split made the shard, and the replica does not have yet what it begins with; only then is it shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unborn: bool,
}

/// What `explain` prints: where a key lives, and why.
#[derive(Clone, Debug)]
pub struct Explain {
    /// The key asked for.
    pub key: Bytes,
    /// Its table.
    pub table: String,
    /// `range` or `hash`.
    pub partition: &'static str,
    /// The key's place on the ring, for hash tables.
    pub hash: Option<String>,
    /// The shard whose bounds hold it.
    pub shard: TableShard,
    /// Address of the leader, where known.
    pub leader_addr: Option<String>,
    /// The reasoning as sentences.
    pub why: Vec<String>,
}

impl Serialize for Explain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("table", &self.table)?;
        self.key.entry(&mut map, "key", "key_base64")?;
        map.serialize_entry("partition", self.partition)?;
        map.serialize_entry("hash", &self.hash)?;
        map.serialize_entry("shard", &self.shard)?;
        map.serialize_entry("leader_addr", &self.leader_addr)?;
        map.serialize_entry("why", &self.why)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, to_string, to_value};

    #[test]
    fn status_is_as_documented() {
        let shard = Shard {
            id: 2,
            table: Some("t".to_owned()),
            bounds: Bounds::Ring { from: vec![], to: vec![0x80, 0, 0, 0, 0, 0, 0, 0] },
            changes: Changes { epoch: 1, version: 2 },
            leader: Some(1),
            replicas: vec![Replica {
                node: 1,
                role: "leader".to_owned(),
                lag_slots: Some(0),
                commit: Some(9),
                applied: Some(9),
                unborn: false,
            }],
            scrub: None,
            merge: None,
            bytes: None,
            load: None,
        };
        let node = Node {
            id: 1,
            addr: "h:1".to_owned(),
            state: "up",
            reason: None,
            speaks: Some(2),
            zone: None,
            rack: None,
            clock_alarms: vec![],
            leaders: 1,
            replicas: 1,
            uptime_ms: Some(5),
            snapshots: Some(NodeSnapshots { made: 2, installed: 1 }),
        };
        let status =
            Status { cluster: "00".to_owned(), version: 1, nodes: vec![node], shards: vec![shard], jobs: vec![] };
        assert_eq!(
            to_value(status).unwrap(),
            json!({"cluster": "00", "version": 1, "jobs": [],
                "nodes": [{"id": 1, "addr": "h:1", "state": "up", "speaks": 2, "leaders": 1, "replicas": 1, "uptime_ms": 5,
                    "snapshots": {"made": 2, "installed": 1}}],
                "shards": [{"id": 2, "table": "t", "from": null, "to": "8000000000000000",
                    "epoch": {"config": 1, "version": 2},
                    "membership_epoch": 1, "bounds_version": 2, "leader": 1,
                    "replicas": [{"node": 1, "role": "leader", "lag_slots": 0, "commit": 9, "applied": 9}]}]})
        );
    }

    #[test]
    fn loads_are_as_documented() {
        let load = ShardLoad { ops_per_s: 3, reads_per_s: 1, writes_per_s: 2, samples: 9, ..ShardLoad::default() };
        let shard = HotShard { shard: 2, table: Some("t".to_owned()), leader: Some(1), bytes: None, load };
        assert_eq!(
            to_value(shard).unwrap(),
            json!({"shard": 2, "table": "t", "leader": 1, "bytes": null, "ops_per_s": 3, "bytes_per_s": 0, "reads_per_s": 1,
                "writes_per_s": 2, "read_bytes_per_s": 0, "write_bytes_per_s": 0, "ops_per_s_max": 0, "bytes_per_s_max": 0})
        );
        let key = HotKey {
            key: Bytes(b"\xff".to_vec()),
            shard: 2,
            table: None,
            leader: None,
            share_percent: 50,
            ops_per_s: 7,
            bytes_per_s: 8,
        };
        assert_eq!(
            to_value(key).unwrap(),
            json!({"key_base64": "/w==", "shard": 2, "table": null, "leader": null, "share_percent": 50, "ops_per_s": 7,
                "bytes_per_s": 8})
        );
    }

    #[test]
    fn a_job_is_as_documented() {
        let step = Some("catch_up".to_owned());
        let progress = JobProgress { step, lag_slots: Some(12), trouble: None, idle_ms: 5, replicas_left: None };
        let (shard, from, to) = (Some(5), Some(3), Some(4));
        let (node, remove, state, why) = (None, None, "running".to_owned(), None);
        let progress = Some(progress);
        let job = Job { id: 7, kind: "move_replica", shard, from, to, node, remove, state, why, progress };
        assert_eq!(
            to_value(&job).unwrap(),
            json!({"id": 7, "kind": "move_replica", "shard": 5, "from": 3, "to": 4, "state": "running",
                "progress": {"step": "catch_up", "lag_slots": 12, "idle_ms": 5}})
        );
        let (shard, from, to, progress) = (None, None, None, None);
        let emptied = Job { kind: "empty_node", shard, from, to, node: Some(3), remove: Some(true), progress, ..job };
        assert_eq!(
            to_value(emptied).unwrap(),
            json!({"id": 7, "kind": "empty_node", "shard": null, "from": null, "to": null, "node": 3, "remove": true,
                "state": "running", "progress": null})
        );
    }

    #[test]
    fn writes_are_as_documented() {
        assert_eq!(to_string(&Written { offset: 1, ts_us: 2 }).unwrap(), r#"{"offset":1,"ts_us":2}"#);
        assert_eq!(to_string(&Trimmed { first_offset: 1, ts_us: 2 }).unwrap(), r#"{"first_offset":1,"ts_us":2}"#);
    }
}
