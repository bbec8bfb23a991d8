//! What a node is told when it starts: flags, and the settings file.
//!
//! Owns: the knobs, their defaults and their bounds. Must never: read a clock, open a socket or touch a data directory.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use synod_cluster::ids::ClusterVersion;
use synod_engine::node::WORKERS_MAX;
use synod_engine::times::Times;

/// Longest name of a zone or a rack, bytes.
pub const PLACE_BYTES_MAX: usize = 64;

/// Flags and settings of one node process.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where the node keeps everything.
    pub data_dir: PathBuf,
    /// Where it listens for gRPC, HOST:PORT.
    pub listen: String,
    /// The address others reach it by; `listen` where unset.
    pub advertise: Option<String>,
    /// Where it serves `/livez`, `/readyz` and `/metrics`, HOST:PORT.
    pub http: Option<String>,
    /// The founders' addresses, the same list on every founder.
    pub bootstrap: Vec<String>,
    /// Members of a cluster to join; for a node that belongs to one, addresses where some of its nodes may be.
    pub join: Vec<String>,
    /// The node whose place a joiner takes, which is lost; for a node that belongs to a cluster already it changes nothing.
    pub replace: Option<u64>,
    /// Allows a non-loopback address without TLS.
    pub insecure: bool,
    /// End in order when standard input closes.
    pub die_with_stdin: bool,
    /// The settings file.
    pub settings: Settings,
}

impl ServerConfig {
    /// The address other nodes and clients use.
    #[must_use]
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.clone())
    }
}

/// The settings file, `synod.toml`; every field has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Threads that shards are spread over; each has its shards' consensus, state and reads. It may change from start to start.
    pub workers: u32,
    /// Where the node runs.
    pub node: Node,
    /// Sizes above which a request is refused.
    pub limits: Limits,
    /// Memory and disk.
    pub storage: Storage,
    /// Failure detection and elections.
    pub timing: Timing,
    /// Linearizable reads.
    pub reads: Reads,
    /// Connections.
    pub network: Network,
    /// The cluster's version.
    pub cluster: Cluster,
    /// Snapshots for members that are behind the log.
    pub snapshot: Snapshot,
    /// Comparing the replicas of each shard.
    pub scrub: Scrub,
    /// Where replicas are.
    pub balance: Balance,
}

impl Default for Settings {
    /// One worker up to two cores, then one for every two: network threads, the log writer and flushes need the others.
    fn default() -> Self {
        let workers = u32::try_from(cores() / 2).unwrap_or(u32::MAX).clamp(1, WORKERS_MAX.into());
        Self {
            workers,
            node: Node::default(),
            limits: Limits::default(),
            storage: Storage::default(),
            timing: Timing::default(),
            reads: Reads::default(),
            network: Network::default(),
            cluster: Cluster::default(),
            snapshot: Snapshot::default(),
            scrub: Scrub::default(),
            balance: Balance::default(),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where the node runs: replicas of a shard are spread over what does not fail together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Its zone, up to 64 bytes; empty: it shares none with another node.
    pub zone: String,
    /// Its rack within the zone, likewise.
    pub rack: String,
}

impl Node {
    /// Checks a name of a zone or a rack.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_name(name: &str) -> Result<(), String> {
        if name.len() > PLACE_BYTES_MAX {
            return Err(format!("is {} bytes long, at most {PLACE_BYTES_MAX} are allowed", name.len()));
        }
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte));
        if plain { Ok(()) } else { Err("may have letters, digits and - _ . : / only".into()) }
    }
}

/// Sizes above which a request is refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest value; at most 16 MiB.
    pub value_bytes_max: ByteSize,
    /// Most records in one append or batch.
    pub batch_records_max: u32,
    /// Most bytes in one append or batch.
    pub batch_bytes_max: ByteSize,
    /// Requests of one session stream under way at once.
    pub session_requests_max: u32,
    /// Requests under way on the whole node; above it the answer is `Overloaded`. Tails that wait for news are not among them.
    pub node_requests_max: u32,
    /// Tails that wait for news on the whole node; above it more are refused by name.
    pub node_tails_max: u32,
    /// Memory for what waits between clients, peers and the shard worker, and for what is kept in memory of logs, records and
    /// outcomes; state_memory and block_cache come beside.
    pub memory_max: ByteSize,
    /// Requests that the shard worker has at a time; others wait in their stream's line, and lines take turns.
    pub worker_requests_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes_max: ByteSize::mib(1),
            batch_records_max: 10_000,
            batch_bytes_max: ByteSize::mib(4),
            session_requests_max: 16_384,
            node_requests_max: 65_536,
            node_tails_max: 65_536,
            memory_max: ByteSize::mib(512),
            worker_requests_max: 1024,
        }
    }
}

/// Memory and disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Applied rows held in memory before they are flushed as a sorted file.
    pub state_memory: ByteSize,
    /// RocksDB's block cache.
    pub block_cache: ByteSize,
    /// The logs of all shards together keep about so much for members that are behind, shared by need; one that is further
    /// behind gets a snapshot. While the disk is low it is a sixteenth. (It was counted for each shard at first.)
    pub log_keep: ByteSize,
    /// Below so much room on the disk a node hands its leaderships over and takes deletions and trims only. Unset: 1 GiB, at
    /// most a tenth of the file system.
    pub disk_low: Option<ByteSize>,
    /// Below so much room it gives its reserve back and goes down. Unset: 256 MiB, at most a fortieth.
    pub disk_hard: Option<ByteSize>,
    /// Room kept in a file for the last flush. Unset: 128 MiB, at most a fiftieth.
    pub disk_reserve: Option<ByteSize>,
    /// Log writes on the worker's own thread (`inline`) or on a thread of their own (`thread`). With several workers it is a thread
    /// of their own in any case.
    pub log_write: LogWrite,
    /// Threads that read rows from the disk for reads which find them not in memory, so that no worker waits for the disk then; 0: the
    /// workers do.
    pub read_threads: u32,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            state_memory: ByteSize::mib(64),
            block_cache: ByteSize::mib(128),
            log_keep: ByteSize::gib(4),
            disk_low: None,
            disk_hard: None,
            disk_reserve: None,
            log_write: LogWrite::Inline,
            read_threads: 4,
        }
    }
}

/// Which thread syncs the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogWrite {
    /// The shard worker.
    Inline,
    /// A log-writer thread.
    Thread,
}

/// Snapshots for members that are behind the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshot {
    /// Bytes a second that making, sending and installing one may take, each; 0 is no bound.
    pub max_rate: ByteSize,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { max_rate: ByteSize::mib(64) }
    }
}

/// Comparing the replicas of each shard, and reading all they have stored on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scrub {
    /// Interval between comparisons of each shard, seconds; 0 is never.
    pub interval_s: u64,
    /// Bytes a second that reading one replica may take; 0 is no bound.
    pub max_rate: ByteSize,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { interval_s: 86_400, max_rate: ByteSize::mib(16) }
    }
}

/// The word for a time that never comes.
const OFF: &str = "off";

/// Where replicas are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// A node that is dead for this long loses its replicas to others. Counted where the system shard is led.
    pub dead_grace: DeadGrace,
}

/// A time such as `10m`, or `off`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeadGrace(pub Option<Duration>);

impl DeadGrace {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(30 * 86_400);
}

impl Default for DeadGrace {
    fn default() -> Self {
        Self(Some(Duration::from_secs(600)))
    }
}

impl TryFrom<String> for DeadGrace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == OFF {
            return Ok(Self(None));
        }
        let time = humantime::parse_duration(&text).ok().filter(|time| (Self::LEAST..=Self::MOST).contains(time));
        let refused =
            || format!("balance.dead_grace = {text:?} is out of bounds: it must be from 1s to 30days, or \"off\"");
        time.map(|time| Self(Some(time))).ok_or_else(refused)
    }
}

impl From<DeadGrace> for String {
    fn from(DeadGrace(time): DeadGrace) -> Self {
        time.map_or_else(|| OFF.to_owned(), |time| humantime::format_duration(time).to_string())
    }
}

/// Failure detection and elections, milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// Pace of the pulses between nodes.
    pub pulse_ms: u64,
    /// A peer not heard for this long is taken for dead.
    pub dead_after_ms: u64,
    /// Random share of this is waited before an election.
    pub election_jitter_ms: u64,
    /// The round trip between the nodes that are furthest apart; 0 where all are in one place. Everything that waits for other
    /// nodes waits longer by a number of these, the two above among it. The same on every node; a node with another value is
    /// safe, but takes part badly.
    pub round_trip_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { pulse_ms: 100, dead_after_ms: 600, election_jitter_ms: 300, round_trip_ms: 0 }
    }
}

impl Timing {
    /// How long the node waits for others.
    #[must_use]
    pub fn times(&self) -> Times {
        let near =
            Times { dead_after: self.dead_after_ms * 1000, jitter: self.election_jitter_ms * 1000, ..Times::NEAR };
        near.far(self.round_trip_ms * 1000)
    }
}

/// Linearizable reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reads {
    /// A leader that a majority supports answers by itself (`on`), or asks a majority for all that wait (`off`). On: clocks
    /// may gain or lose 10 % at most, and after a leader's death an election waits for 0.3 s at most. Off where virtual
    /// machines are stopped and go on, or are moved, without their clock being told; and while a node of a version without
    /// leases is in the cluster.
    pub lease: Lease,
}

impl Default for Reads {
    /// On where the clock is known to run on while the machine sleeps.
    fn default() -> Self {
        let lease = if cfg!(any(target_os = "linux", target_os = "android")) { Lease::On } else { Lease::Off };
        Self { lease }
    }
}

/// Whether leaders hold leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lease {
    /// They do.
    On,
    /// They ask for each batch of reads.
    Off,
}

/// The cluster's version.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// The greatest cluster version that this node says it speaks. Below what its binary speaks, the cluster cannot be raised
    /// above it, so that a node can be run by an older binary again; where the cluster is above it, the node does not start.
    pub version_max: u32,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { version_max: ClusterVersion::SPOKEN.0 }
    }
}

impl Cluster {
    /// The greatest cluster version that the node speaks.
    #[must_use]
    pub fn speaks(&self) -> ClusterVersion {
        ClusterVersion(self.version_max)
    }
}

/// Connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Threads that serve connections.
    pub threads: u32,
    /// Connections of clients held at a time; one more is told so and closed. Peers do not count. Each takes a file
    /// descriptor.
    pub connections_max: u32,
}

impl Default for Network {
    /// A quarter of the cores: the worker is the bottleneck, and each further thread costs wake-ups.
    fn default() -> Self {
        Self { threads: u32::try_from(cores() / 4).unwrap_or(u32::MAX).clamp(1, 8), connections_max: 1024 }
    }
}

impl Settings {
    /// Checks bounds that the types do not. The message names the knob, its value and its bounds.
    ///
    /// # Errors
    /// The first knob out of bounds.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [
            ("workers", self.workers.into(), 1, WORKERS_MAX.into()),
            ("limits.value_bytes_max", self.limits.value_bytes_max.as_u64(), 1, 16 << 20),
            ("limits.batch_records_max", self.limits.batch_records_max.into(), 1, 1_000_000),
            ("limits.batch_bytes_max", self.limits.batch_bytes_max.as_u64(), 1, 32 << 20),
            ("limits.session_requests_max", self.limits.session_requests_max.into(), 1, 1 << 20),
            ("limits.node_requests_max", self.limits.node_requests_max.into(), 1, 1 << 20),
            ("limits.node_tails_max", self.limits.node_tails_max.into(), 1, 1 << 20),
            ("limits.memory_max", self.limits.memory_max.as_u64(), 64 << 20, 1 << 40),
            ("limits.worker_requests_max", self.limits.worker_requests_max.into(), 1, 1 << 20),
            ("storage.state_memory", self.storage.state_memory.as_u64(), 1 << 20, 64 << 30),
            ("storage.block_cache", self.storage.block_cache.as_u64(), 1 << 20, 1 << 40),
            ("storage.log_keep", self.storage.log_keep.as_u64(), 64 << 10, 1 << 40),
            ("storage.read_threads", self.storage.read_threads.into(), 0, 64),
            ("snapshot.max_rate", self.snapshot.max_rate.as_u64(), 0, 1 << 40),
            ("scrub.interval_s", self.scrub.interval_s, 0, 366 * 86_400),
            ("scrub.max_rate", self.scrub.max_rate.as_u64(), 0, 1 << 40),
            ("timing.pulse_ms", self.timing.pulse_ms, 10, 10_000),
            ("timing.dead_after_ms", self.timing.dead_after_ms, 50, 60_000),
            ("timing.election_jitter_ms", self.timing.election_jitter_ms, 1, 60_000),
            ("timing.round_trip_ms", self.timing.round_trip_ms, 0, Times::ROUND_TRIP_MAX / 1000),
            ("cluster.version_max", self.cluster.version_max.into(), 1, ClusterVersion::SPOKEN.0.into()),
            ("network.threads", self.network.threads.into(), 1, 256),
            ("network.connections_max", self.network.connections_max.into(), 16, 1 << 20),
        ];
        for (knob, name) in [("node.zone", &self.node.zone), ("node.rack", &self.node.rack)] {
            Node::check_name(name).map_err(|why| format!("{knob} {why}"))?;
        }
        for (knob, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(format!("{knob} = {value} is out of bounds: it must be from {least} to {most}"));
            }
        }
        if let (Some(low), Some(hard)) = (self.storage.disk_low, self.storage.disk_hard)
            && low < hard
        {
            return Err(format!("storage.disk_low = {low} must be at least storage.disk_hard = {hard}"));
        }
        if self.timing.dead_after_ms < 3 * self.timing.pulse_ms {
            return Err(format!(
                "timing.dead_after_ms = {} must be at least three times timing.pulse_ms = {}",
                self.timing.dead_after_ms, self.timing.pulse_ms
            ));
        }
        if self.limits.batch_bytes_max < self.limits.value_bytes_max {
            return Err("limits.batch_bytes_max must be at least limits.value_bytes_max".into());
        }
        Ok(())
    }
}
