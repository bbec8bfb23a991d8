//! The nodes of a loaded cluster are replaced by another binary, one by one: forward and back while the cluster's version is
//! the older one's, then forward for good, and the version is raised.
//!
//! Owns: which binary runs which node. Must never: go back to the older binary once the version is raised, but to show that it
//! is refused.

use std::path::PathBuf;
use std::time::{Duration, Instant};
use synod_cluster::ids::ClusterVersion;

use super::load::Load;
use super::{Turn, splits};
use crate::cluster::{Cluster, PATIENCE, Status};
use crate::mixed;
use crate::run::{command_of, finish as run, until};

/// Names the earlier binary.
const OLD: &str = "SYNOD_OLD_BIN";
/// The version that the binary under test raises the cluster to.
const TO: u64 = ClusterVersion::SPOKEN.0 as u64;
/// How long a new cluster may take until it is at the version that all founders speak.
const FOUNDING: Duration = Duration::from_secs(10);
/// How long the command line may take to say that a cluster knows no jobs.
const NO_JOBS: Duration = Duration::from_secs(20);
/// Where shards are split: refused before the version is raised, done after it.
const SPLIT_AT: &str = "b08";

/// The earlier binary; the error says that there is none.
pub(super) fn old() -> Result<PathBuf, String> {
    let skipped = |why: &str| format!("skipped: {OLD} {why}; `make old REV=…` builds an earlier binary");
    let path = PathBuf::from(std::env::var_os(OLD).ok_or_else(|| skipped("names none"))?);
    if path.is_file() { Ok(path) } else { Err(skipped(&format!("names {}, which is no file", path.display()))) }
}

fn version(status: &Status) -> u64 {
    status.value["version"].as_u64().unwrap_or(0)
}

/// The version of a new cluster of older binaries.
fn founded(cluster: &Cluster) -> u64 {
    let settled = || cluster.status().filter(|status| speaks_all(status, version(status)));
    // A binary that raises no new cluster leaves it where it was.
    let _ = until(FOUNDING, "the cluster is at its founders' version", settled);
    version(&cluster.wait_up())
}

/// Every node in turn: forward in even turns, back in odd ones; stopped in order in two turns, killed in the next two.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, number: usize) -> Result<Turn, String> {
    let held = if number == 0 { founded(cluster) } else { version(&cluster.wait_up()) };
    let (back, kill) = (number % 2 == 1, number / 2 % 2 == 1);
    let mut pause = Duration::ZERO;
    for node in 1..=3 {
        pause = pause.max(replace(cluster, load, node, back.then(old).transpose()?, kill)?);
        job_commands(cluster, held)?;
    }
    let at = version(&cluster.wait_up());
    if at != held {
        return Err(format!("the cluster is at version {at}, not {held}, though nobody raised it"));
    }
    let way = if back { "back" } else { "forward" };
    let how = if kill { "killed" } else { "stopped" };
    Ok(Turn { pause, during: None, note: format!("three nodes {how} and {way}") })
}

/// Commands of jobs, to each node, while an older binary leads the system shard where there is one: each is refused, and the copies of the
/// system shard stay equal.
fn job_commands(cluster: &Cluster, held: u64) -> Result<(), String> {
    let older = (1..=3).find(|node| cluster.binary_of(*node).is_some());
    if let Some(older) = older {
        mixed::lead(cluster, older)?;
    }
    mixed::refused_everywhere(cluster, &[1, 2, 3])?;
    if let Some(older) = older.filter(|_| held < u64::from(ClusterVersion::THIRD.0)) {
        let began = Instant::now();
        let watched = cluster.cli(&["job", "watch", "1"]);
        let asked = (1..=3).any(|node| cluster.binary_of(node).is_none());
        let named = format!("at {}, which may lead shard 1,", cluster.addr(older));
        if watched.code != 1 || began.elapsed() > NO_JOBS || asked && !watched.stderr.contains(&named) {
            let took = began.elapsed();
            return Err(format!("job watch was to name the older leader at once; after {took:?}: {watched:?}"));
        }
    }
    mixed::equal(cluster)
}

/// Another binary for one node; how long writes were kept from flowing.
fn replace(
    cluster: &mut Cluster,
    load: &Load,
    node: u16,
    binary: Option<PathBuf>,
    kill: bool,
) -> Result<Duration, String> {
    let began = Instant::now();
    if kill {
        cluster.kill(node);
    } else if !cluster.stop(node).success() {
        return Err(format!("node {node} did not end in order"));
    }
    cluster.set_binary(node, binary);
    cluster.restart(node);
    cluster.wait_caught_up(node);
    load.wait_flowing(PATIENCE);
    Ok(load.pause(began))
}

/// Forward for good, and the version is raised under load; what was done.
pub(super) fn finish(cluster: &mut Cluster, load: &Load) -> Result<String, String> {
    let (held, to) = (version(&cluster.wait_up()), TO.to_string());
    if held >= TO {
        return Err(format!("the cluster is at version {held}: the older binary has to speak less than {TO}"));
    }
    for node in [1, 2] {
        if cluster.binary_of(node).is_some() {
            replace(cluster, load, node, None, false)?;
        }
    }
    if cluster.binary_of(3).is_none() {
        replace(cluster, load, 3, Some(old()?), false)?;
    }
    let refused = cluster.cli(&["cluster", "upgrade", "--to", &to]);
    let line = refused.refused(1, &["node 3 at", &format!("versions up to {held}")]);
    splits::refused(cluster, SPLIT_AT)?;
    job_commands(cluster, held)?;
    replace(cluster, load, 3, None, false)?;
    // A status is the older binary's in its eyes too.
    let status = cluster.wait_status("every node speaks it", |status| speaks_all(status, TO));
    if version(&status) != held {
        return Err(format!("a refused upgrade raised the version: {status:?}"));
    }
    splits::refused(cluster, SPLIT_AT)?;
    let began = Instant::now();
    cluster.cli(&["cluster", "upgrade", "--to", &to]).ok();
    cluster.wait_status("the version is raised", |status| version(status) == TO);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    let split = splits::split_at(cluster, SPLIT_AT)?;
    load.wait_flowing(PATIENCE);
    for node in 1..=3 {
        replace(cluster, load, node, None, true)?;
    }
    let why = no_way_back(cluster, load, held)?;
    Ok(format!("{line}; raised, writes paused for {pause:.2?}; {split}; then: {why}"))
}

fn speaks_all(status: &Status, version: u64) -> bool {
    let nodes = status.value["nodes"].as_array();
    nodes.is_some_and(|nodes| nodes.iter().all(|node| node["speaks"].as_u64() == Some(version)))
}

/// The older binary is refused by name, on a directory of the cluster and as a joiner, and does no harm.
fn no_way_back(cluster: &mut Cluster, load: &Load, held: u64) -> Result<String, String> {
    if !cluster.stop(3).success() {
        return Err("node 3 did not end in order".into());
    }
    let before = cluster.log(3).len();
    cluster.set_binary(3, Some(old()?));
    cluster.restart(3);
    let ended = cluster.wait_end(3);
    let said = cluster.log(3).split_off(before);
    let words = format!("has format version {TO}, this version reads up to {held}");
    if ended.code() != Some(1) || !said.contains(&words) {
        return Err(format!(
            "the older binary was to be refused with {words:?}; it ended with {ended} and said: {said}"
        ));
    }
    cluster.set_binary(3, None);
    cluster.restart(3);
    cluster.wait_caught_up(3);
    load.wait_flowing(PATIENCE);
    let fresh = cluster.dir().join("old-joiner").display().to_string();
    let (listen, join) = (cluster.addr(5), cluster.founders());
    let joiner = command_of(&old()?, &[], &["server", "--data-dir", &fresh, "--listen", &listen, "--join", &join]);
    let refused = run(joiner, None);
    let last = refused.stderr.lines().last().unwrap_or_default().to_owned();
    let refusal = [format!("cluster versions up to {held}"), format!("at version {TO}")];
    for words in ["refused the join"].into_iter().chain(refusal.iter().map(String::as_str)) {
        if refused.code != 1 || !last.contains(words) {
            return Err(format!(
                "an older joiner was to be refused with {words:?}: {} {}",
                refused.code, refused.stderr
            ));
        }
    }
    Ok(last)
}
