//! `synod backup`: a cluster's state as snapshot files, one of each shard.
//!
//! Owns: who is asked for which shard, and what becomes of tables that are made and dropped and of shards that are split meanwhile.
//! Must never: call a backup done before every file of it was verified, or leave a shard out whose table is there.
//!
//! The metadata is read first and says which shards there are. A shard that is split after that lacks a part that no file has. So the
//! files' bounds are compared with the metadata in the end. Where they differ, the metadata is read again, and what it says is missing or
//! has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use synod_client::{Client, ClusterMap};
use synod_cluster::ids::{ClientId, ClusterVersion, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::jobs::split::Bounds;
use synod_cluster::system::SystemState;
use synod_engine::snapshot::format::{BLOCK_EXTRA_BYTES, BODY_BYTES_MAX};
use synod_engine::snapshot::partial::Partial;
use synod_engine::snapshot::restore::{bounds, check_whole, content, leave_out, metadata, needs};
use synod_engine::snapshot::{SnapshotFile, Throttle, file_name};
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::backup_dir::{Entry, Folder, Half, Manifest, failed};
use super::context::Context;
use super::error::Result;
use super::output::json;
use super::status;
use crate::node::dial;

/// How long one shard is tried, where `--timeout` does not say.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the metadata is read, at most.
const ROUNDS: u32 = 10;
/// How long newer metadata is waited for where a shard has changed that it has as before.
const NEWS: Duration = Duration::from_secs(5);
/// How long a node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// `backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The folder for the backup; it must be empty or not exist
    dir: PathBuf,
    /// Continue the unfinished backup in the folder: shards that it holds whole are not read again
    #[arg(long, conflicts_with = "replace")]
    resume: bool,
    /// Start over if the folder holds an unfinished backup
    #[arg(long)]
    replace: bool,
}

impl BackupArgs {
    fn half(&self) -> Half {
        match (self.resume, self.replace) {
            (true, _) => Half::Resume,
            (_, true) => Half::Replace,
            _ => Half::Refuse,
        }
    }
}

/// Runs `backup`.
pub async fn backup(context: &mut Context, args: BackupArgs) -> Result<()> {
    let source = Source::connect(context).await?;
    let mut folder = Folder::open(&args.dir, args.half())?;
    folder.begin(source.cluster)?;
    let manifest = match make(source, &folder).await {
        Ok(manifest) => manifest,
        Err(error) => return Err(folder.left_behind(error)),
    };
    folder.finish(&manifest)?;
    context.out.done(&manifest, |manifest| manifest_lines(&args.dir, manifest))
}

/// Every shard of the metadata, as of when it is read. A table that is dropped before the last of its shards was read is left
/// out; one that is made after the metadata was read is not in it.
async fn make(mut source: Source, folder: &Folder) -> Result<Manifest> {
    let mut system = match folder.kept(SYSTEM_SHARD, source.cluster)? {
        Some(file) => file,
        None => source.system(folder).await?,
    };
    let mut files = BTreeMap::new();
    let mut left = ROUNDS;
    loop {
        left -= 1;
        let mut metadata = metadata(&system).map_err(failed)?;
        let dropped = source.shards(folder, &metadata, &mut files).await?;
        leave_out(&mut metadata, &dropped);
        let found: BTreeMap<ShardId, Bounds> =
            files.iter().map(|(shard, taken)| (*shard, taken.bounds.clone())).collect();
        match check_whole(&metadata, &found) {
            Ok(()) => return manifest(source.cluster, &system, metadata.version, files, &dropped),
            Err(why) if left == 0 => {
                let why = format!("shards were split again and again while they were read, {ROUNDS} times: {why}");
                return Err(failed(why).retryable());
            }
            Err(_) => system = source.newer(folder, metadata.revision).await?,
        }
    }
}

/// What is known of a shard's file.
struct Taken {
    entry: Entry,
    /// What a node must speak to read it.
    needs: ClusterVersion,
    bounds: Bounds,
}

impl Taken {
    fn of(file: &SnapshotFile, known: ClusterVersion) -> Result<Taken> {
        let needs = needs(file, known).map_err(failed)?;
        Ok(Taken { entry: entry(file)?, needs, bounds: bounds(file).map_err(failed)? })
    }
}

fn manifest(
    cluster: ClientId,
    system: &SnapshotFile,
    version: ClusterVersion,
    files: BTreeMap<ShardId, Taken>,
    dropped: &[TableId],
) -> Result<Manifest> {
    let later = files.values().map(|taken| taken.needs).max().filter(|needed| *needed > version);
    let mut entries = vec![entry(system)?];
    entries.extend(files.into_values().map(|taken| taken.entry));
    Ok(Manifest::new(cluster, entries, dropped.iter().map(|table| table.0).collect(), later))
}

/// Where shards are read from.
struct Source {
    client: Client,
    cluster: ClientId,
    patience: Duration,
    /// The cluster as it was last looked at.
    seen: json::Status,
    channels: BTreeMap<u64, Channel>,
}

impl Source {
    async fn connect(context: &Context) -> Result<Source> {
        let client = context.connect().await?;
        let map = client.refresh_map().await?;
        let seen = status::combine(&map, &client.status().await);
        let cluster = ClientId(u128::from_str_radix(&seen.cluster, 16).map_err(failed)?);
        let patience = context.options(PATIENCE).call_timeout;
        Ok(Source { client, cluster, patience, seen, channels: BTreeMap::new() })
    }

    /// The metadata.
    async fn system(&mut self, folder: &Folder) -> Result<SnapshotFile> {
        let file = self.shard(folder, SYSTEM_SHARD, None).await?;
        file.ok_or_else(|| failed("the system shard is not there").retryable())
    }

    /// The metadata anew, and of a later revision where there is one within [`NEWS`]: it hears of a split after the shards do.
    async fn newer(&mut self, folder: &Folder, revision: u64) -> Result<SnapshotFile> {
        let started = Instant::now();
        loop {
            sleep(PAUSE).await;
            let file = self.system(folder).await?;
            if metadata(&file).map_err(failed)?.revision > revision || started.elapsed() > NEWS {
                return Ok(file);
            }
        }
    }

    /// Reads each shard of the metadata that is not there yet, or is there as it was before a split that the metadata knows of. Returns
    /// the tables that were dropped before the last of their shards was read; of these no file is left.
    async fn shards(
        &mut self,
        folder: &Folder,
        metadata: &SystemState,
        files: &mut BTreeMap<ShardId, Taken>,
    ) -> Result<Vec<TableId>> {
        let mut dropped = BTreeSet::new();
        for (shard, descriptor) in metadata.shards.iter().filter(|(shard, _)| **shard != SYSTEM_SHARD) {
            let is_new = |taken: &Taken| taken.bounds.version >= descriptor.version;
            let known = files.get(shard);
            if dropped.contains(&descriptor.table) || known.is_some_and(is_new) {
                continue;
            }
            // What an earlier run left.
            let kept = if known.is_none() { folder.kept(*shard, self.cluster)? } else { None };
            let kept = kept.map(|file| Taken::of(&file, metadata.version)).transpose()?.filter(is_new);
            let taken = match kept {
                Some(taken) => Some(taken),
                None => {
                    let table = Some((descriptor.table, metadata.revision));
                    let file = self.shard(folder, *shard, table).await?;
                    file.map(|file| Taken::of(&file, metadata.version)).transpose()?
                }
            };
            match taken {
                Some(taken) => drop(files.insert(*shard, taken)),
                None => drop(dropped.insert(descriptor.table)),
            }
        }
        let read = files.keys().filter(|shard| !metadata.shards.contains_key(shard));
        let left_out = metadata.shards.iter().filter(|(_, descriptor)| dropped.contains(&descriptor.table));
        let gone: Vec<ShardId> = read.chain(left_out.map(|(shard, _)| shard)).copied().collect();
        for shard in gone {
            files.remove(&shard);
            folder.remove(shard)?;
        }
        Ok(dropped.into_iter().collect())
    }

    /// One shard's snapshot from its leader, verified; nothing where its table, which was there at a revision of the map, has
    /// been dropped. What fails is tried again: leaderships move, connections break, a shard just made is not everywhere.
    async fn shard(
        &mut self,
        folder: &Folder,
        shard: ShardId,
        table: Option<(TableId, u64)>,
    ) -> Result<Option<SnapshotFile>> {
        let started = Instant::now();
        loop {
            // What an earlier attempt left: nodes send a file from its beginning.
            folder.remove(shard)?;
            let error = match self.attempt(folder.dir(), shard).await {
                Ok(file) => return Ok(Some(file)),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => error,
            };
            self.channels.clear();
            // Where the cluster cannot be looked at for now nothing is known of the table either.
            if let Ok(map) = self.client.refresh_map().await {
                if table.is_some_and(|(table, revision)| is_dropped(&map, table, revision)) {
                    return Ok(None);
                }
                self.seen = status::combine(&map, &self.client.status().await);
            }
            if started.elapsed() > self.patience {
                let patience = humantime::format_duration(self.patience);
                return Err(error.followed_by(format!("tried for {patience} (--timeout)")));
            }
            sleep(PAUSE).await;
        }
    }

    async fn attempt(&mut self, dir: &Path, shard: ShardId) -> Result<SnapshotFile> {
        let channel = self.channel(shard).await?;
        let most = BODY_BYTES_MAX + BLOCK_EXTRA_BYTES + (1 << 20);
        let mut client = AdminClient::new(channel).max_decoding_message_size(most);
        let mut asked = tonic::Request::new(v1::SnapshotRequest { shard: shard.0 });
        asked.metadata_mut().insert(synod_proto::OPERATOR, MetadataValue::from_static("1"));
        let told = |status: tonic::Status| failed(format!("shard {shard}: {}", status.message())).retryable();
        let mut parts = client.snapshot(asked).await.map_err(told)?.into_inner();
        let (mut partial, mut digest) = (None, 0);
        while let Some(part) = parts.message().await.map_err(told)? {
            if partial.is_none() {
                let name: Option<[u8; 16]> = part.digest.as_ref().try_into().ok();
                digest = u128::from_be_bytes(name.ok_or_else(|| failed("the node did not name its snapshot"))?);
                partial = Some(Partial::open(&dir.join(file_name(shard)), digest).map_err(failed)?);
            }
            let Some(partial) = &mut partial else { continue };
            partial.take(&part.data).map_err(failed)?;
        }
        let partial = partial.ok_or_else(|| failed(format!("the leader of shard {shard} sent nothing")).retryable())?;
        partial.finish(self.cluster, digest, &mut Throttle::new(0)).map_err(failed)
    }

    /// A connection to the shard's leader.
    async fn channel(&mut self, shard: ShardId) -> Result<Channel> {
        let leader = self.seen.shards.iter().find(|s| s.id == shard.0).and_then(|s| s.leader);
        let node = self.seen.nodes.iter().find(|node| Some(node.id) == leader);
        let node = node.ok_or_else(|| failed(format!("shard {shard} is not there, or has no leader")).retryable())?;
        if let Some(channel) = self.channels.get(&node.id) {
            return Ok(channel.clone());
        }
        let endpoint = dial::endpoint(&node.addr).map_err(failed)?.connect_timeout(CONNECT);
        let channel = endpoint.connect().await.map_err(|e| failed(format!("{}: {e}", node.addr)).retryable())?;
        self.channels.insert(node.id, channel.clone());
        Ok(channel)
    }
}

/// Whether a map that is no older than `revision`, where the table was there, is without it: numbers are given once.
fn is_dropped(map: &ClusterMap, table: TableId, revision: u64) -> bool {
    map.revision >= revision && map.tables.iter().all(|info| info.id != table.0)
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

fn manifest_lines(dir: &Path, manifest: &Manifest) -> Vec<String> {
    let line = |e: &Entry| format!("shard {}: slot {}, {} rows, {} bytes", e.shard, e.slot, e.rows, e.bytes);
    let mut lines: Vec<String> = manifest.shards.iter().map(line).collect();
    let gone = |table: &u32| format!("table {table}: dropped during the backup, left out");
    lines.extend(manifest.dropped.iter().map(gone));
    let rose = |version: u32| {
        format!("the cluster version rose to {version} during the backup: a restored cluster starts with it")
    };
    lines.extend(manifest.cluster_version.map(rose));
    lines.push(format!("{}: {} shards of cluster {}", dir.display(), manifest.shards.len(), manifest.cluster));
    lines
}
