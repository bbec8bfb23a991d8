//! `synod backup` and `synod restore`: a cluster's state as snapshot files, and a new cluster from them.
//!
//! Owns the folder of a backup: `manifest.json`, and `shard-N.snap` for each shard, the system shard among them. Must never
//! call a backup done before every file of it was verified, or restore into a directory that holds anything.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use synod_engine::ids::{ClientId, NodeId, SYSTEM_SHARD, ShardId};
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::snapshot::format::{BLOCK_EXTRA_BYTES, BODY_BYTES_MAX};
use synod_engine::snapshot::partial::Partial;
use synod_engine::snapshot::restore::{Files, content, metadata, name_of, plan, restore as fill};
use synod_engine::snapshot::{SnapshotFile, Throttle, file_name};
use synod_engine::state::rocks::{RocksShared, StateOptions};
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;

use super::context::Context;
use super::error::{CliError, Result};
use super::status;
use crate::node::data_dir::DataDir;

const MANIFEST: &str = "manifest.json";
const VERSION: u32 = 1;

/// `backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Where the backup goes: a folder that is empty or not there
    dir: PathBuf,
}

/// `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup
    dir: PathBuf,
    /// The new node's data directory: empty or not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The new cluster's nodes, the same list for each: HOST:PORT in the order of their numbers
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    founders: Vec<String>,
    /// Which of them this directory is for: 1 is the first
    #[arg(long, value_name = "N")]
    node: u64,
}

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    cluster: String,
    shards: Vec<Entry>,
}

/// One shard of it.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    shard: u64,
    /// The last slot in it.
    slot: u64,
    /// That entry's timestamp.
    ts_us: u64,
    rows: u64,
    bytes: u64,
    /// Of the file.
    digest: String,
    /// Of the records alone: equal in every copy of them.
    content: String,
}

fn failed(why: impl std::fmt::Display) -> CliError {
    CliError::failed("backup", why.to_string())
}

/// Runs `backup`.
pub async fn backup(context: &mut Context, args: BackupArgs) -> Result<()> {
    let dir = args.dir.as_path();
    make_empty(dir)?;
    let mut entries = Vec::new();
    let system = fetch(context, dir, SYSTEM_SHARD, None).await?;
    let cluster = system.header().cluster;
    let shards: Vec<ShardId> = metadata(&system).map_err(failed)?.shards.into_keys().collect();
    entries.push(entry(&system)?);
    for shard in shards.into_iter().filter(|shard| *shard != SYSTEM_SHARD) {
        let file = fetch(context, dir, shard, Some(cluster)).await?;
        entries.push(entry(&file)?);
    }
    let manifest = Manifest { version: VERSION, cluster: format!("{:032x}", cluster.0), shards: entries };
    write_manifest(dir, &manifest)?;
    context.out.value(&manifest, |manifest| manifest_lines(dir, manifest))
}

/// Fetches one shard's snapshot from its leader, and verifies it.
async fn fetch(context: &Context, dir: &Path, shard: ShardId, cluster: Option<ClientId>) -> Result<SnapshotFile> {
    let found = status::fetch(context).await?;
    let leader = found.shards.iter().find(|s| s.id == shard.0).and_then(|s| s.leader);
    let node = found.nodes.iter().find(|node| Some(node.id) == leader);
    let node = node.ok_or_else(|| failed(format!("shard {shard} is not there, or has no leader")).retryable())?;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", node.addr)).map_err(failed)?;
    let channel = endpoint.connect().await.map_err(|e| failed(format!("{}: {e}", node.addr)).retryable())?;
    let most = BODY_BYTES_MAX + BLOCK_EXTRA_BYTES + (1 << 20);
    let mut client = AdminClient::new(channel).max_decoding_message_size(most);
    let request = v1::SnapshotRequest { shard: shard.0 };
    let answer = client.snapshot(request).await.map_err(|s| failed(s.message()).retryable())?;
    let mut parts = answer.into_inner();
    let (mut partial, mut digest) = (None, 0);
    while let Some(part) = parts.message().await.map_err(|s| failed(s.message()).retryable())? {
        if partial.is_none() {
            let name: Option<[u8; 16]> = part.digest.as_ref().try_into().ok();
            digest = u128::from_be_bytes(name.ok_or_else(|| failed("the node did not name its snapshot"))?);
            partial = Some(Partial::open(&dir.join(file_name(shard)), digest).map_err(failed)?);
        }
        let Some(partial) = &mut partial else { continue };
        partial.take(&part.data).map_err(failed)?;
    }
    let partial = partial.ok_or_else(|| failed(format!("nothing came of shard {shard}")).retryable())?;
    let of = cluster.unwrap_or_else(|| ClientId(u128::from_str_radix(&found.cluster, 16).unwrap_or_default()));
    partial.finish(of, digest, &mut Throttle::new(0)).map_err(failed)
}

fn entry(file: &SnapshotFile) -> Result<Entry> {
    let header = file.header();
    Ok(Entry {
        shard: header.shard.0,
        slot: header.basis.id.slot.0,
        ts_us: header.ts,
        rows: file.rows(),
        bytes: file.bytes(),
        digest: format!("{:032x}", file.digest()),
        content: format!("{:032x}", content(file).map_err(failed)?),
    })
}

fn make_empty(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| CliError::io(dir.display(), &e))?;
    let mut entries = fs::read_dir(dir).map_err(|e| CliError::io(dir.display(), &e))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(CliError::usage("DIR", format!("{} is not empty", dir.display()))),
    }
}

/// Last, synced: a folder without it is no backup.
fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).map_err(failed)?;
    let path = dir.join(MANIFEST);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    });
    written.map_err(|e| CliError::io(path.display(), &e))
}

fn manifest_lines(dir: &Path, manifest: &Manifest) -> Vec<String> {
    let line = |e: &Entry| format!("shard {}: slot {}, {} rows, {} bytes", e.shard, e.slot, e.rows, e.bytes);
    let mut lines: Vec<String> = manifest.shards.iter().map(line).collect();
    lines.push(format!("{}: {} shards of cluster {}", dir.display(), manifest.shards.len(), manifest.cluster));
    lines
}

/// Reads a backup and verifies every byte of it.
fn open(dir: &Path) -> Result<(Manifest, Files)> {
    let path = dir.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(|e| CliError::io(path.display(), &e))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|e| failed(format!("{}: {e}, at byte 0", path.display())))?;
    if manifest.version > VERSION {
        return Err(failed(format!("{}: written by a newer version (format {})", path.display(), manifest.version)));
    }
    let cluster = u128::from_str_radix(&manifest.cluster, 16).map_err(failed)?;
    let mut files = BTreeMap::new();
    for entry in &manifest.shards {
        let shard = ShardId(entry.shard);
        let file = SnapshotFile::open(&dir.join(file_name(shard)), Some(ClientId(cluster))).map_err(failed)?;
        file.verify(&mut Throttle::new(0)).map_err(failed)?;
        if format!("{:032x}", file.digest()) != entry.digest || file.header().shard != shard {
            return Err(failed(format!("{}: not the file that the manifest names", file.path().display())));
        }
        files.insert(shard, file);
    }
    Ok((manifest, files))
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
    let RestoreArgs { dir, data_dir, founders, node } = args;
    if *node == 0 || *node > founders.len() as u64 {
        return Err(CliError::usage("--node", format!("{node} is none of the {} founders", founders.len())));
    }
    let (manifest, files) = open(dir)?;
    // A name of its own, the same for each of its nodes: the old cluster's replicas are strangers to it.
    let named = manifest.shards.iter().map(|entry| entry.digest.as_str()).chain(founders.iter().map(String::as_str));
    let cluster = name_of(named);
    let plan = plan(&files, cluster, founders).map_err(failed)?;
    make_empty(data_dir)?;
    let data = DataDir::open(data_dir).map_err(|e| failed(format!("{e:#}")))?;
    let log = RocksLog::open(&data.log(), &LogOptions::default()).map_err(failed)?;
    let state = RocksShared::open(&data.state(), StateOptions::default()).map_err(failed)?;
    let shards = fill(NodeId(*node), &files, &plan, &log, &*state).map_err(failed)?;
    let restored = Restored {
        cluster: format!("{cluster:032x}"),
        node: *node,
        data_dir: data_dir.display().to_string(),
        shards: shards.iter().map(|shard| shard.0).collect(),
    };
    context.out.value(&restored, |r| {
        let addr = &founders[usize::try_from(*node - 1).unwrap_or(0)];
        vec![
            format!("{}: node {} of the new cluster {}, {} shards", r.data_dir, r.node, r.cluster, r.shards.len()),
            format!("start it with: synod server --data-dir {} --listen {addr}", r.data_dir),
        ]
    })
}
