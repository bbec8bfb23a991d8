//! A backup's snapshot files into the fresh stores of a new cluster's node.
//!
//! Owns: what of a backup is kept (rows, positions, sessions) and what is new (cluster, nodes, epochs). Must never: write to
//! stores that hold anything, or let a group begin in an epoch that any replica of the old cluster can have been in.

use super::{SnapshotError, SnapshotFile};
use crate::StoreError;
use crate::codec::bounds::{BoundsRow, Phase};
use crate::codec::keys;
use crate::codec::record;
use crate::genesis::Genesis;
use crate::logstore::{GroupWrite, LogBatch, LogStore, NodeIdentity};
use crate::state::BulkLoad;
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_cluster::buf::{DecodeError, Put, Writer};
use synod_cluster::ids::{
    ClientId, ClusterVersion, HardState, NodeId, NodeWriteSeq, SYSTEM_SHARD, ShardId, Space, TableId,
};
use synod_cluster::jobs::split::Bounds;
use synod_cluster::system::{Descriptor, MetadataError, SystemState, row_kinds};
use synod_paxos::types::Slot;
use xxhash_rust::xxh3::Xxh3;

/// Gathered before rows are handed to the store, bytes.
const LOAD_BYTES: usize = 16 << 20;
/// The area of a space's records, after the space.
const RECORDS: u8 = 0x10;

/// Why a backup was not restored. The stores are to be thrown away then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file is no good.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files do not make a whole backup.
    #[error("{0}")]
    Unfit(String),
}

/// The files of a backup, by shard.
pub type Files = BTreeMap<ShardId, SnapshotFile>;

/// The metadata that a snapshot of the system shard holds.
///
/// # Errors
/// The file is damaged, or none of the system shard.
pub fn metadata(file: &SnapshotFile) -> Result<SystemState, RestoreError> {
    let unfit = |e: MetadataError| RestoreError::Unfit(format!("{}: its metadata: {e}", file.path().display()));
    let mut rows = Vec::new();
    for chunk in 0..file.chunks().len() {
        for (key, value) in file.rows_of(chunk)? {
            let row = in_space(Space(0), &key);
            if is_metadata(&row) {
                let (_, kind, id) = keys::parse_system(&row).map_err(|e| unfit(e.into()))?;
                let bad_id = DecodeError { what: "a row's id", at: 0 };
                let id = <[u8; 8]>::try_from(&id[..]).map_err(|_| unfit(bad_id.into()))?;
                rows.push((kind, u64::from_be_bytes(id), value));
            }
        }
    }
    SystemState::from_rows(rows).map_err(unfit)
}

/// Names a shard's records: XXH3-128 of every record row without the space that it is in.
///
/// # Errors
/// The file is damaged.
pub fn content(file: &SnapshotFile) -> Result<u128, SnapshotError> {
    let mut digest = Xxh3::new();
    let mut length = Writer::new();
    for chunk in 0..file.chunks().len() {
        for (key, value) in file.rows_of(chunk)?.iter().filter(|(key, _)| key.first() == Some(&RECORDS)) {
            length.0.clear();
            length.var(key.len() as u64);
            length.var(value.len() as u64);
            digest.update(&length.0);
            digest.update(key);
            digest.update(value);
        }
    }
    Ok(digest.digest128())
}

/// The positions that a shard's file is of, and their version: those of its row of bounds, else those that its group was created
/// with.
///
/// # Errors
/// What its group was created with cannot be read.
pub fn bounds(file: &SnapshotFile) -> Result<Bounds, RestoreError> {
    let header = file.header();
    if let Some(row) = &header.bounds {
        if row.phase != Phase::Alone {
            // Whether it goes into the other is said in the other's log, which the files do not have.
            let (shard, path) = (header.shard, file.path().display());
            let why = format!("{path}: shard {shard} was in the middle of a merge: take another backup");
            return Err(RestoreError::Unfit(why));
        }
        return Ok(Bounds { from: row.from.clone(), to: row.to.clone(), version: row.version });
    }
    let unfit = |why: String| RestoreError::Unfit(format!("{}: its beginning: {why}", file.path().display()));
    let genesis = Genesis::decode(header.genesis.clone(), header.shard).map_err(|e| unfit(e.to_string()))?;
    let descriptor = genesis.descriptor().cloned().ok_or_else(|| unfit("it names no bounds".into()))?;
    let Descriptor { from, to, version, .. } = descriptor;
    Ok(Bounds { from, to, version })
}

/// Takes tables and their shards out of the metadata.
pub fn leave_out(metadata: &mut SystemState, tables: &[TableId]) {
    metadata.tables.retain(|table, _| !tables.contains(table));
    metadata.shards.retain(|shard, descriptor| *shard == SYSTEM_SHARD || !tables.contains(&descriptor.table));
}

/// Whether files of these bounds are all of the metadata's tables: each shard has a file, of the very bounds that the metadata says,
/// and those of a table lie side by side from its first position to its last.
///
/// # Errors
/// They are not; the error names a shard or a table of which something is missing or there twice.
pub fn check_whole(metadata: &SystemState, files: &BTreeMap<ShardId, Bounds>) -> Result<(), RestoreError> {
    let mut tables: BTreeMap<TableId, Vec<(&Bytes, &Bytes)>> = BTreeMap::new();
    tables.extend(metadata.tables.keys().map(|table| (*table, Vec::new())));
    for (shard, known) in metadata.shards.iter().filter(|(shard, _)| **shard != SYSTEM_SHARD) {
        let Some(found) = files.get(shard) else {
            return Err(RestoreError::Unfit(format!("the backup has no file of shard {shard}")));
        };
        if (found.version, &found.from, &found.to) != (known.version, &known.from, &known.to) {
            return Err(RestoreError::Unfit(format!(
                "the file of shard {shard} has its bounds of version {}, the metadata those of version {}: the shard was split \
                 between the two",
                found.version, known.version
            )));
        }
        tables.entry(known.table).or_default().push((&found.from, &found.to));
    }
    for (table, mut shards) in tables {
        shards.sort_unstable();
        // Where the next shard has to begin; `None` once one has no upper bound.
        let mut open = Some(Bytes::new());
        for (from, to) in shards {
            if open.as_ref() != Some(from) {
                let why =
                    format!("the shards of table {table} do not lie side by side: one is missing, or there twice");
                return Err(RestoreError::Unfit(why));
            }
            open = (!to.is_empty()).then(|| to.clone());
        }
        if open.is_some() {
            return Err(RestoreError::Unfit(format!("the last shard of table {table} is missing")));
        }
    }
    Ok(())
}

/// The cluster version that a node must speak to read a shard's file; at least `known`, behind which nothing is looked for.
///
/// # Errors
/// The file is damaged.
pub fn needs(file: &SnapshotFile, known: ClusterVersion) -> Result<ClusterVersion, SnapshotError> {
    // A row of bounds is among its rows.
    let of_bounds = file.header().bounds.as_ref().map_or(known, BoundsRow::needs);
    let mut needed = known.max(of_bounds);
    for chunk in 0..file.chunks().len() {
        // No record that this binary knows needs more.
        if needed >= record::NEEDS_MOST {
            break;
        }
        let rows = file.rows_of(chunk)?;
        let records = rows.iter().filter(|(key, _)| key.first() == Some(&RECORDS));
        needed = records.map(|(_, row)| record::needs(row)).fold(needed, ClusterVersion::max);
    }
    Ok(needed)
}

/// The name of a new cluster: another for other files or other founders.
#[must_use]
pub fn name_of<'a>(parts: impl Iterator<Item = &'a str>) -> u128 {
    let mut digest = Xxh3::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update(b"\n");
    }
    digest.digest128()
}

/// The metadata of the new cluster: the tables and shards of the backup but for those of `dropped` tables, the founders as its
/// nodes. Its version is the highest that any file needs: the system shard may have been read before the version was raised and
/// others after.
///
/// # Errors
/// A shard has no file, the files do not cover each table, or a file is damaged.
pub fn plan(
    files: &Files,
    dropped: &[TableId],
    cluster: u128,
    founders: &[String],
) -> Result<SystemState, RestoreError> {
    let system = files.get(&SYSTEM_SHARD);
    let system = system.ok_or_else(|| RestoreError::Unfit("the backup has no file of the system shard".into()))?;
    let mut old = metadata(system)?;
    leave_out(&mut old, dropped);
    let of_tables = files.iter().filter(|(shard, _)| **shard != SYSTEM_SHARD);
    let found = of_tables.map(|(shard, file)| Ok((*shard, bounds(file)?)));
    let found: BTreeMap<ShardId, Bounds> = found.collect::<Result<_, RestoreError>>()?;
    check_whole(&old, &found)?;
    for file in files.values() {
        old.version = needs(file, old.version)?;
    }
    let epochs = files.iter().map(|(shard, file)| (*shard, file.header().basis.membership.epoch.next()));
    Ok(old.refounded(cluster, founders, &epochs.collect()))
}

/// Fills the empty stores of one node of the new cluster; returns the shards it holds.
///
/// # Errors
/// The stores hold something, a store failed, or a file is damaged.
pub fn restore(
    me: NodeId,
    files: &Files,
    plan: &SystemState,
    log: &dyn LogStore,
    state: &dyn BulkLoad,
) -> Result<Vec<ShardId>, RestoreError> {
    let found = log.recover_node()?;
    if found.identity.is_some() || !found.groups.is_empty() || !found.removed.is_empty() {
        return Err(RestoreError::Unfit("the data directory is not empty".into()));
    }
    let mine = plan.shards.values().filter(|shard| shard.membership.role_of(me).is_some());
    let mut groups = Vec::new();
    for descriptor in mine {
        let shard = descriptor.shard;
        let own = u32::try_from(shard.0).map(Space);
        let own = own.map_err(|_| RestoreError::Unfit(format!("shard {shard} has too great a number")))?;
        let file = files.get(&shard).ok_or_else(|| RestoreError::Unfit(format!("no file of shard {shard}")))?;
        load(file, own, plan, state)?;
        let genesis = match shard {
            SYSTEM_SHARD => Genesis::System(Box::new(plan.clone())),
            _ => Genesis::Shard(descriptor.clone()),
        };
        let position = file.header().basis.id;
        let hard = HardState {
            // As if the entry at the position were the stop-sign of the last epoch of the old cluster.
            epoch_start: position.slot,
            commit_hint: position.slot,
            ..HardState::initial(descriptor.membership.clone())
        };
        let trim = (position.slot > Slot(0)).then_some(position);
        let genesis = Some(genesis.encode());
        groups.push(GroupWrite { shard, genesis, hard: Some(hard), trim, ..GroupWrite::default() });
    }
    log.seal(plan.version)?;
    // The rows are durable; what makes groups of them comes last, in one write after the identity.
    log.set_identity(&NodeIdentity { cluster: ClientId(plan.cluster), node: me })?;
    let shards = groups.iter().map(|group| group.shard).collect();
    log.write(&LogBatch { groups, seq: NodeWriteSeq(1), seen: Vec::new() })?;
    Ok(shards)
}

fn load(file: &SnapshotFile, space: Space, plan: &SystemState, state: &dyn BulkLoad) -> Result<(), RestoreError> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for chunk in 0..file.chunks().len() {
        for (key, value) in file.rows_of(chunk)? {
            let row = in_space(space, &key);
            if !is_metadata(&row) {
                bytes += row.len() + value.len();
                rows.push((row, value));
            }
        }
        if bytes >= LOAD_BYTES {
            state.load(&rows)?;
            rows.clear();
            bytes = 0;
        }
    }
    if file.header().shard == SYSTEM_SHARD {
        let new = plan.rows().into_iter();
        rows.extend(new.filter_map(|(kind, id, row)| Some((keys::system(space, kind, &id.to_be_bytes()), row?))));
        rows.sort_unstable();
    }
    if !rows.is_empty() {
        state.load(&rows)?;
    }
    Ok(())
}

fn in_space(space: Space, key: &Bytes) -> Vec<u8> {
    [&space.0.to_be_bytes()[..], key].concat()
}

fn is_metadata(row: &[u8]) -> bool {
    let space = row.first_chunk::<4>().map_or(Space(0), |space| Space(u32::from_be_bytes(*space)));
    row_kinds().any(|kind| row.starts_with(&keys::system_bounds(space, kind).0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::system::{Child, Partitioning, Retention, ShardNews, SystemCommand, SystemOutcome};

    fn key(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// A range table whose shards are 2, `[, m)`, and 3, `[m, )`.
    fn metadata() -> SystemState {
        let mut state = SystemState::found(7, &["a:1".into()]);
        state.execute(&SystemCommand::Upgrade { to: ClusterVersion::FOURTH, spoken_by: vec![NodeId(1)] });
        let create = SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Range,
            retention: Retention::All,
            shards: 0,
            splits: vec![key("m")],
            replicas: 1,
        };
        assert_eq!(state.execute(&create).0, SystemOutcome::Table(TableId(1)));
        state
    }

    /// Shard 2 gives `[f, m)` to shard 4.
    fn split(state: &mut SystemState) {
        let reserve = SystemCommand::ReserveChild { parent: ShardId(2), version: 1 };
        assert_eq!(state.execute(&reserve).0, SystemOutcome::Shard(ShardId(4)));
        let membership = state.shards[&ShardId(2)].membership.clone();
        let child = Child { shard: ShardId(4), from: key("f"), to: key("m"), version: 2, membership };
        let news = ShardNews {
            shard: ShardId(2),
            from: key(""),
            to: key("f"),
            version: 2,
            children: vec![child],
            absorbed: vec![],
        };
        assert_eq!(state.execute(&SystemCommand::ShardNews(news)).0, SystemOutcome::Done);
    }

    /// Files with these bounds: shard, from, to, version.
    fn files(of: &[(u64, &str, &str, u64)]) -> BTreeMap<ShardId, Bounds> {
        let bounds = |&(shard, from, to, version): &(u64, &str, &str, u64)| {
            (ShardId(shard), Bounds { from: key(from), to: key(to), version })
        };
        of.iter().map(bounds).collect()
    }

    fn refused(state: &SystemState, of: &[(u64, &str, &str, u64)]) -> String {
        check_whole(state, &files(of)).expect_err("something is missing").to_string()
    }

    #[test]
    fn files_of_before_and_of_after_a_split_are_no_whole_backup() {
        let (before, mut after) = (metadata(), metadata());
        split(&mut after);
        let (all, halves) = ([(2, "", "m", 1), (3, "m", "", 1)], [(2, "", "f", 2), (4, "f", "m", 2), (3, "m", "", 1)]);
        check_whole(&before, &files(&all)).unwrap();
        check_whole(&after, &files(&halves)).unwrap();
        // The metadata is from before the split, a file from after it, and the other way round.
        for (state, of) in [(&before, &halves[..]), (&after, &[all[0], halves[1], all[1]][..])] {
            let why = refused(state, of);
            assert!(why.contains("shard 2") && why.contains("version 1") && why.contains("version 2"), "{why}");
        }
        let why = refused(&after, &[halves[0], halves[2]]);
        assert!(why.contains("no file of shard 4"), "{why}");
    }

    #[test]
    fn a_table_is_covered_once() {
        let (mut state, mut of) = (metadata(), [(2, "", "m", 1), (3, "m", "", 1)]);
        let mut with = |shard: u64, from: &'static str, to: &'static str| {
            state.shards.change(&ShardId(shard), |place| (place.from, place.to) = (key(from), key(to))).unwrap();
            of[usize::try_from(shard).unwrap() - 2] = (shard, from, to, 1);
            check_whole(&state, &files(&of)).err().map(|why| why.to_string())
        };
        assert!(with(3, "n", "").unwrap().contains("side by side"));
        assert!(with(3, "l", "").unwrap().contains("side by side"));
        assert!(with(3, "m", "z").unwrap().contains("the last shard of table 1 is missing"));
        assert!(with(2, "", "").unwrap().contains("side by side"));
        assert!(with(3, "m", "").unwrap().contains("side by side"));
        assert!(with(2, "a", "m").unwrap().contains("side by side"));
        assert_eq!(with(2, "", "m"), None);
        state.shards.retain(|shard, _| *shard == SYSTEM_SHARD);
        assert!(check_whole(&state, &BTreeMap::new()).is_err(), "a table without a shard");
        leave_out(&mut state, &[TableId(1)]);
        check_whole(&state, &BTreeMap::new()).unwrap();
    }
}
