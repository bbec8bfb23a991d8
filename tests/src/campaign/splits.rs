//! Splits of the load's shards, beside a fault or by themselves.
//!
//! Owns: which shard is split and where, and what has to come of it. Must never: take a split for done that the map does not show.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::load::{TABLE, keys};
use crate::cluster::{Cluster, PATIENCE};
use crate::run::until;

/// So many turns of a campaign split a shard, from the first on: a load that is hurt for hours is to run on few shards too.
const MOST: usize = 24;

/// A split under way.
pub(super) struct Split {
    job: u64,
    /// The second shard's first key.
    at: String,
}

/// The shard that has a key: its number, and its first key.
fn home(cluster: &Cluster, key: &str) -> Option<(u64, Option<String>)> {
    let ran = cluster.cli(&["-o", "json", "explain", TABLE, key]);
    let explained: Value = serde_json::from_str(&ran.stdout).ok().filter(|_| ran.code == 0)?;
    let shard = &explained["shard"];
    Some((shard["id"].as_u64()?, shard["from"].as_str().map(str::to_owned)))
}

/// Begins a split at a key of the load that the turn chooses; none after the first [`MOST`] turns, or where a shard begins there.
pub(super) fn begin(cluster: &Cluster, number: usize) -> Result<Option<Split>, String> {
    if number >= MOST {
        return Ok(None);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    let keys: Vec<String> = keys().collect();
    let at = keys[rng.random_range(0..keys.len())].clone();
    begin_at(cluster, at)
}

/// Begins a split at a key, unless a shard begins there.
fn begin_at(cluster: &Cluster, at: String) -> Result<Option<Split>, String> {
    let mut last = String::new();
    // A node may be yet to hear of the split before, or of the cluster's version.
    let begun = until(PATIENCE, "a split begins", || {
        let (shard, from) = home(cluster, &at)?;
        if from.as_ref() == Some(&at) {
            return Some(None);
        }
        let ran = cluster.cli(&["-o", "json", "shard", "split", &shard.to_string(), "--at", &at, "--detach"]);
        if ran.code != 0 {
            last = ran.stderr;
            return None;
        }
        Some(ran.json()["job"].as_u64())
    });
    let job = begun.map_err(|why| format!("{why}: {last}"))?;
    Ok(job.map(|job| Split { job, at }))
}

impl Split {
    /// Waits until it is done and every reader can see so; says what was split.
    pub(super) fn finish(self, cluster: &Cluster) -> Result<String, String> {
        let Split { job, at } = self;
        let ended = cluster.cli(&["--timeout", "60s", "job", "watch", &job.to_string()]);
        if ended.code != 0 {
            return Err(format!("the split at {at} did not end as done: {}", ended.stderr));
        }
        let shard = until(PATIENCE, "a shard begins at the key", || {
            home(cluster, &at).filter(|(_, from)| from.as_ref() == Some(&at)).map(|(shard, _)| shard)
        })?;
        Ok(format!("shard {shard} begins at {at}"))
    }
}

/// Splits a shard at a key in which nobody has split it, and waits until that is done; what was split.
pub(super) fn split_at(cluster: &Cluster, at: &str) -> Result<String, String> {
    let split = begin_at(cluster, at.to_owned())?;
    split.ok_or_else(|| format!("a shard begins at {at} already"))?.finish(cluster)
}

/// Makes sure that a cluster of an older version refuses splits by name.
pub(super) fn refused(cluster: &Cluster, at: &str) -> Result<(), String> {
    let (shard, _) = until(PATIENCE, "a key's shard is known", || home(cluster, at))?;
    let ran = cluster.cli(&["shard", "split", &shard.to_string(), "--at", at]);
    if ran.code != 1 || !ran.stderr.contains("splits need 4") {
        return Err(format!("a split was to be refused for the cluster's version: {} {}", ran.code, ran.stderr));
    }
    Ok(())
}
