//! The systems that are measured, behind one face.
//!
//! Owns: how each is started, what it says of itself and how it is driven. Must never: give one of them a setting that
//! makes it weaker than it is by default; what differs from the default, and what is not synced, is said.

mod etcd;
mod nats;
mod redis;
mod synod;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use synod_client::Client;

use crate::process::{self, Process, on_path};
use crate::{PeersError, Result};
use synod_bench::{Table, Target};

/// How long a system may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A system that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Three nodes of Synod.
    Synod,
    /// Three nodes of etcd.
    Etcd,
    /// Three nodes of NATS JetStream, not synced.
    Nats,
    /// One node of Redis.
    Redis,
}

impl System {
    /// All, in the order in which they take turns.
    pub const ALL: [System; 4] = [System::Synod, System::Etcd, System::Nats, System::Redis];

    /// A system by its name.
    ///
    /// # Errors
    /// There is none of that name; those there are are named.
    pub fn parse(name: &str) -> Result<System> {
        System::ALL.into_iter().find(|system| system.name() == name).ok_or_else(|| PeersError::Unknown {
            what: "system",
            name: name.into(),
            known: System::ALL.map(System::name).join(", "),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            System::Synod => "synod",
            System::Etcd => "etcd",
            System::Nats => "nats",
            System::Redis => "redis",
        }
    }

    /// What stands above its column.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            System::Synod => "Synod",
            System::Etcd => "etcd",
            System::Nats => "NATS JetStream, not synced",
            System::Redis => "Redis, one node",
        }
    }

    /// How it is run: nodes, what is synced, what differs from its defaults.
    #[must_use]
    pub fn settings(self) -> &'static str {
        match self {
            System::Synod => synod::SETTINGS,
            System::Etcd => etcd::SETTINGS,
            System::Nats => nats::SETTINGS,
            System::Redis => redis::SETTINGS,
        }
    }

    /// What one operation of each workload is.
    #[must_use]
    pub fn operations(self) -> &'static str {
        match self {
            System::Synod => synod::OPERATIONS,
            System::Etcd => etcd::OPERATIONS,
            System::Nats => nats::OPERATIONS,
            System::Redis => redis::OPERATIONS,
        }
    }

    /// The counters that are read from its servers.
    #[must_use]
    pub fn counters(self) -> &'static [&'static str] {
        match self {
            System::Synod => synod::COUNTERS,
            System::Etcd => etcd::COUNTERS,
            System::Nats | System::Redis => &[],
        }
    }

    /// The counter of synced writes among them.
    #[must_use]
    pub fn fsyncs(self) -> Option<&'static str> {
        match self {
            System::Synod => Some("synod_engine_log_fsyncs_total"),
            System::Etcd => Some("etcd_disk_wal_fsync_duration_seconds_count"),
            System::Nats | System::Redis => None,
        }
    }

    /// Its server program; `synod` is where Synod's is.
    ///
    /// # Errors
    /// It is not installed; how to install it is said.
    pub fn program(self, synod: Option<&PathBuf>) -> std::result::Result<PathBuf, String> {
        let (name, install) = match self {
            System::Synod => {
                let path = synod.filter(|path| path.is_file()).cloned();
                return path.ok_or_else(|| "no synod binary there: make build, and --synod PATH".into());
            }
            System::Etcd => ("etcd", "apt-get install etcd-server"),
            System::Nats => ("nats-server", "apt-get install nats-server"),
            System::Redis => ("redis-server", "apt-get install redis-server"),
        };
        on_path(name).ok_or_else(|| format!("{name} is not installed: {install}"))
    }

    /// The version its program prints.
    #[must_use]
    pub fn version(self, program: &std::path::Path) -> String {
        process::version(program, "--version")
    }
}

/// Where a system is started.
#[derive(Clone, Debug)]
pub struct Place {
    /// The server program.
    pub program: PathBuf,
    /// An empty directory for data and logs.
    pub dir: PathBuf,
    /// The first of a hundred ports that are its own.
    pub port: u16,
    /// Shards of Synod's tables.
    pub shards: u32,
    /// Connections of the driver; unset is what suits the system.
    pub connections: Option<usize>,
}

impl Place {
    /// A node's directory, made anew.
    fn node_dir(&self, node: u16) -> Result<PathBuf> {
        let dir = self.dir.join(format!("node-{node}"));
        std::fs::create_dir_all(&dir).map_err(|error| PeersError::io(dir.display(), &error))?;
        Ok(dir)
    }

    fn spawn(&self, name: &str, node: u16, args: &[String]) -> Result<Process> {
        let log = self.dir.join(format!("node-{node}.log"));
        let program = &self.program;
        Process::start(name, program, args, &log).map_err(|error| PeersError::io(program.display(), &error))
    }
}

/// A system under way. Its servers end when it is dropped.
#[derive(Debug)]
pub struct Running {
    /// Which.
    pub system: System,
    /// Its servers, in the order of their nodes.
    pub nodes: Vec<Process>,
    /// Where its clients connect, a node each.
    pub clients: Vec<String>,
    /// Where counters are served, a node each.
    pub metrics: Vec<SocketAddr>,
    place: Place,
}

impl Running {
    /// Starts a system and waits until it takes writes.
    ///
    /// # Errors
    /// It does not start, with the last lines of its log.
    pub async fn start(system: System, place: Place) -> Result<Running> {
        let mut running = match system {
            System::Synod => synod::start(place)?,
            System::Etcd => etcd::start(place)?,
            System::Nats => nats::start(place)?,
            System::Redis => redis::start(place)?,
        };
        let started = Instant::now();
        loop {
            if let Some((name, how, log)) = running.dead() {
                return Err(PeersError::NotStarted { system, why: format!("{name} ended ({how})"), log });
            }
            let Err(why) = running.ready().await else { return Ok(running) };
            if started.elapsed() > READY_WITHIN {
                let log = running.nodes.iter().map(|n| n.last_lines(8)).collect::<Vec<_>>().join("\n");
                let why = format!("not ready after {} s: {why}", READY_WITHIN.as_secs());
                return Err(PeersError::NotStarted { system, why, log });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn ready(&self) -> std::result::Result<(), Failure> {
        match self.system {
            System::Synod => synod::ready(self).await,
            System::Etcd => etcd::ready(self).await,
            System::Nats => nats::ready(self).await,
            System::Redis => redis::ready(self).await,
        }
    }

    /// The first server that has ended by itself: its name, how, and the last lines of its log.
    pub fn dead(&mut self) -> Option<(String, String, String)> {
        self.nodes.iter_mut().find_map(|p| p.ended().map(|how| (p.name().to_owned(), how, p.last_lines(12))))
    }

    /// The numbers of its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Process::pid).collect()
    }

    /// Connections for a run: to the table of puts, or that of appends.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(&self, appends: bool) -> std::result::Result<Vec<Store>, Failure> {
        match self.system {
            System::Synod => synod::connect(self, appends).await,
            System::Etcd => etcd::connect(self).await,
            System::Nats => nats::connect(self).await,
            System::Redis => redis::connect(self).await,
        }
    }

    /// A client of Synod's own, where this is Synod.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn synod(&self) -> synod_client::Result<Client> {
        synod::client(self).await
    }

    /// The node to be killed to take leadership away, as an index of `nodes`.
    pub async fn leader(&self) -> Option<usize> {
        match self.system {
            System::Synod => synod::leader(self).await,
            System::Etcd => etcd::leader(self).await,
            System::Nats | System::Redis => None,
        }
    }

    /// Who leads each shard of Synod's table of puts, shard by node, as the leaders themselves say.
    pub async fn leaders(&self, client: &Client) -> BTreeMap<u64, u64> {
        synod::leaders(client).await
    }

    /// Starts one more node of Synod's, which joins the cluster.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn join(&mut self) -> Result<()> {
        synod::join(self)
    }

    /// Starts a server of Synod's again that has ended.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        synod::restart(self, node)
    }

    /// A directory for what a run makes beside its servers' data; it goes with them.
    #[must_use]
    pub fn room(&self) -> PathBuf {
        self.place.dir.clone()
    }

    /// Ends the servers in order and removes what they kept.
    pub fn stop(mut self) {
        process::stop(&mut self.nodes);
        // What cannot be removed stays where the user was told it would be.
        let _ = std::fs::remove_dir_all(&self.place.dir);
    }
}

/// A connection to any of the systems.
#[derive(Clone)]
pub enum Store {
    /// Synod's.
    Synod(Table),
    /// etcd's.
    Etcd(Box<etcd::Etcd>),
    /// NATS's.
    Nats(Box<nats::Nats>),
    /// Redis's.
    Redis(redis::Redis),
}

/// Why an operation on some system failed.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {why}")]
pub struct Failure {
    code: &'static str,
    why: String,
}

impl Failure {
    fn new(code: &'static str, why: impl ToString) -> Failure {
        Failure { code, why: why.to_string() }
    }
}

impl From<synod_client::Error> for Failure {
    fn from(error: synod_client::Error) -> Failure {
        Failure::new(error.code(), error)
    }
}

impl Target for Store {
    type Error = Failure;

    async fn put(&self, key: String, value: Bytes) -> std::result::Result<(), Failure> {
        match self {
            Store::Synod(table) => Ok(table.put(key, value).await?),
            Store::Etcd(etcd) => etcd.put(key, value).await,
            Store::Nats(nats) => nats.put(key, value).await,
            Store::Redis(redis) => redis.put(key, value).await,
        }
    }

    async fn get(&self, key: String) -> std::result::Result<Option<u64>, Failure> {
        match self {
            Store::Synod(table) => Ok(table.get(key).await?),
            Store::Etcd(etcd) => etcd.get(key).await,
            Store::Nats(nats) => nats.get(key).await,
            Store::Redis(redis) => redis.get(key).await,
        }
    }

    async fn append(&self, key: String, values: Vec<Bytes>) -> std::result::Result<(), Failure> {
        match self {
            Store::Synod(table) => Ok(table.append(key, values).await?),
            Store::Etcd(etcd) => etcd.append(key, values).await,
            Store::Nats(nats) => nats.append(key, values).await,
            Store::Redis(redis) => redis.append(key, values).await,
        }
    }

    fn code(error: &Failure) -> &'static str {
        error.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_system_is_refused_with_those_there_are() {
        assert_eq!(System::parse("etcd").unwrap(), System::Etcd);
        let error = System::parse("zookeeper").unwrap_err().to_string();
        assert_eq!(error, "unknown system \"zookeeper\": known are synod, etcd, nats, redis");
    }

    #[tokio::test]
    async fn a_system_that_does_not_start_shows_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("redis-server");
        std::fs::write(&program, "#!/bin/sh\necho 'bind: address in use'; exit 1\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place { program, dir: dir.path().into(), port: 1, shards: 1, connections: None };
        let error = Running::start(System::Redis, place).await.unwrap_err().to_string();
        assert!(error.contains("redis did not start") && error.contains("bind: address in use"), "{error}");
    }

    #[test]
    fn one_that_is_not_installed_says_how_to_install_it() {
        let why = System::Synod.program(Some(&"/no/such/synod".into())).unwrap_err();
        assert!(why.contains("make build"), "{why}");
    }
}
