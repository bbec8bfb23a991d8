//! `synod restore`: a node of a new cluster from a backup.
//!
//! Owns: the order in which a data directory becomes one: marked, filled, unmarked. Must never: touch a directory that holds
//! anything but what a restore left that did not end.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use synod_cluster::ids::{NodeId, TableId};
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::snapshot::restore::{name_of, plan, restore as fill};
use synod_engine::state::rocks::{RocksShared, StateOptions};

use super::backup_dir::{failed, open};
use super::context::Context;
use super::error::{CliError, Result};
use super::server::{addresses, may_be_reached};
use crate::node::data_dir::DataDir;

/// `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup
    dir: PathBuf,
    /// The new node's data directory: empty, not there, or left by a restore that did not end
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The new cluster's nodes, the same list for each: HOST:PORT in the order of their numbers
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    founders: Vec<String>,
    /// A name for this restore, the same for each of its nodes. The same backup, founders and name make the same cluster again:
    /// whoever knew it before takes offsets and tokens of the earlier one for this one's
    #[arg(long, value_name = "TEXT", default_value = "")]
    name: String,
    /// Which of them this directory is for: 1 is the first
    #[arg(long, value_name = "N")]
    node: u64,
}

#[derive(Serialize)]
struct Restored {
    cluster: String,
    node: u64,
    data_dir: String,
    shards: Vec<u64>,
}

/// Runs `restore`.
pub fn restore(context: &mut Context, args: &RestoreArgs) -> Result<()> {
    let RestoreArgs { dir, data_dir, founders, name, node } = args;
    addresses("--founders", founders)?;
    if *node == 0 || *node > founders.len() as u64 {
        return Err(CliError::usage(
            "--node",
            format!("{node} is not the number of one of the {} founders", founders.len()),
        ));
    }
    let (manifest, files) = open(dir)?;
    // An id of its own, the same for each of its nodes: the old cluster's replicas are strangers to it. No address has a space.
    let named = manifest.shards.iter().map(|entry| entry.digest.as_str()).chain(founders.iter().map(String::as_str));
    let name = (!name.is_empty()).then(|| format!("name {name}"));
    let cluster = name_of(named.chain(name.as_deref()));
    let dropped: Vec<TableId> = manifest.dropped.iter().copied().map(TableId).collect();
    let plan = plan(&files, &dropped, cluster, founders).map_err(failed)?;
    let unusable = |error: anyhow::Error| CliError::usage("--data-dir", format!("{error:#}"));
    let data = DataDir::open_to_restore(data_dir).map_err(unusable)?;
    let log = RocksLog::open(&data.log(), &LogOptions::default()).map_err(failed)?;
    let state = RocksShared::open(&data.state(), StateOptions::default()).map_err(failed)?;
    let shards = fill(NodeId(*node), &files, &plan, &log, &*state).map_err(failed)?;
    drop((log, state));
    data.restored().map_err(|error| failed(format!("{error:#}")))?;
    let restored = Restored {
        cluster: format!("{cluster:032x}"),
        node: *node,
        data_dir: data_dir.display().to_string(),
        shards: shards.iter().map(|shard| shard.0).collect(),
    };
    context.out.done(&restored, |r| {
        let addr = &founders[usize::try_from(*node - 1).unwrap_or(0)];
        let insecure = if may_be_reached(addr) { " --insecure" } else { "" };
        vec![
            format!("{}: node {} of the new cluster {}, {} shards", r.data_dir, r.node, r.cluster, r.shards.len()),
            format!("start it with: synod server --data-dir {} --listen {addr}{insecure}", r.data_dir),
        ]
    })
}
