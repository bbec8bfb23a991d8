//! Shards that are split: what tests ask of a cluster before and after.
//!
//! Owns: where a cluster's version and a table's shards are read. Must never: take the word of one node for that of all; a node may be
//! yet to hear of a split.

use serde_json::Value;

use crate::cluster::{Cluster, PATIENCE};
use crate::run::{Ran, until};

/// The cluster version that knows splits.
pub const VERSION: u64 = 4;

/// Runs a command that asks this node only, with `-o json`.
fn ask(cluster: &Cluster, number: u16, args: &[&str]) -> Option<Ran> {
    let mut command = cluster.command(&[&["-o", "json"], args].concat());
    let ran: Ran = command.env("SYNOD_ENDPOINTS", cluster.addr(number)).output().ok()?.into();
    (ran.code == 0).then_some(ran)
}

/// Waits until each of the first nodes, so many, knows that the cluster's shards can be split.
#[track_caller]
pub fn wait_splits(cluster: &Cluster, nodes: u16) {
    for number in 1..=nodes {
        let knows = || {
            let version = ask(cluster, number, &["status"])?.json()["version"].as_u64()?;
            (version >= VERSION).then_some(())
        };
        let known = until(PATIENCE, &format!("node {number} knows that shards can be split"), knows);
        known.unwrap_or_else(|why| panic!("{why}"));
    }
}

/// A table's shards as numbers, and their lower bounds, in order of position.
#[track_caller]
pub fn shards(cluster: &Cluster, table: &str) -> Vec<(u64, String)> {
    let listed = cluster.cli(&["-o", "json", "shard", "list", table]).ok().json_lines();
    let of = |shard: &Value| {
        let id = shard["id"].as_u64().expect("shards have numbers");
        (id, shard["from"].as_str().unwrap_or("").to_owned())
    };
    let mut shards: Vec<(u64, String)> = listed.iter().map(of).collect();
    shards.sort_by_key(|(_, from)| from.clone());
    shards
}

/// Waits until each of the first nodes, so many, knows so many shards of a table; gives them as [`shards`] does.
#[track_caller]
pub fn wait_shards(cluster: &Cluster, nodes: u16, table: &str, count: usize) -> Vec<(u64, String)> {
    for number in 1..=nodes {
        let knows = || {
            let listed = ask(cluster, number, &["shard", "list", table])?;
            (listed.json_lines().len() == count).then_some(())
        };
        let known = until(PATIENCE, &format!("node {number} knows {count} shards of {table}"), knows);
        known.unwrap_or_else(|why| panic!("{why}"));
    }
    shards(cluster, table)
}
