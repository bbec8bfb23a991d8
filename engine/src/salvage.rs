//! A damaged state directory at the start of a node: what is sound of it is kept, the rest is left to snapshots.
//!
//! Owns: the passage from a damaged directory to one without damage. Must never: lose a byte of the damaged one (it is moved
//! aside), take a row over that was not verified, or take a damaged log for a damaged state.
//!
//! A damaged block is read by one shard's rows, but fails the compactions of the whole database: so each shard's rows are
//! read whole, verified, and copied into a new database beside the old one. A shard with damage gets nothing: where its log
//! begins at slot 1 it is replayed, else the worker finds it without a state and asks for a snapshot.

use crate::StoreError;
use crate::check::{self, Owner, SystemRows};
use crate::codec::Damage as _;
use crate::codec::applied::AppliedRow;
use crate::codec::bounds::BoundsRow;
use crate::codec::keys::{self, Bounds};
use crate::codec::pieces;
use crate::genesis::Genesis;
use crate::logstore::LogStore;
use crate::machine::extent::{Extent, joined, owned_by_each};
use crate::state::BulkLoad;
use crate::state::rocks::{RocksShared, StateOptions};
use bytes::Bytes;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_cluster::ids::{SYSTEM_SHARD, ShardId, Slot, Space};
use synod_cluster::system::{MetadataError, SystemState, row_kinds};

/// Copied at a time, bytes.
const COPY_BYTES: usize = 8 << 20;

/// What became of a damaged state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// What was wrong.
    pub why: String,
    /// Where the damaged directory is now; it can be deleted once its shards are reinstalled.
    pub to: PathBuf,
    /// Shards whose rows were sound and are kept.
    pub kept: Vec<ShardId>,
    /// Shards without a state now, and what was wrong with it.
    pub lost: Vec<(ShardId, String)>,
}

/// One group, as its log names it.
struct Group {
    id: ShardId,
    owner: Owner,
    log: (Slot, Slot),
}

/// Opens the state directory at `path`; where it is damaged, what is sound of it.
///
/// # Errors
/// It cannot be read or written for another reason than damage, or the log is damaged.
pub fn open(
    path: &Path,
    sizes: StateOptions,
    log: &dyn LogStore,
) -> Result<(Arc<RocksShared>, Option<SetAside>), StoreError> {
    finish_renames(path)?;
    let why = match look(path, sizes) {
        Ok(shared) => return Ok((shared, None)),
        Err(error @ StoreError::Corrupt { .. }) => error.to_string(),
        Err(error) if file_is_missing(path, &error) => error.to_string(),
        Err(error) => return Err(error),
    };
    let (kept, lost) = copy_sound(path, sizes, log)?;
    let to = free_name(path);
    rename(path, &to)?;
    rename(&beside(path, "salvaged"), path)?;
    Ok((RocksShared::open(path, sizes)?, Some(SetAside { why, to, kept, lost })))
}

/// A file that the database names is not there.
fn file_is_missing(path: &Path, error: &StoreError) -> bool {
    matches!(error, StoreError::Io { why, .. } if why.contains("No such file")) && path.join("db/CURRENT").exists()
}

/// Opens the directory where no damage is known and none is met with in what a start reads.
fn look(path: &Path, sizes: StateOptions) -> Result<Arc<RocksShared>, StoreError> {
    if let Some(why) = RocksShared::known_damage(path) {
        return Err(StoreError::Corrupt { what: path.display().to_string(), why });
    }
    let shared = RocksShared::open(path, sizes)?;
    let mut from = Some(Space(0));
    while let Some(space) = from.map_or(Ok(None), |from| first_space(&shared, from))? {
        let row = shared.get(&keys::applied(space))?.map(AppliedRow::decode).transpose();
        row.map_err(|e| e.corrupt(format!("applied position in space {}", space.0)))?;
        let row = shared.get(&keys::bounds_row(space))?.map(BoundsRow::decode).transpose();
        row.map_err(|e| e.corrupt(format!("bounds in space {}", space.0)))?;
        let row = shared.get(&keys::pieces_row(space))?.map(pieces::decode).transpose();
        row.map_err(|e| e.corrupt(format!("pieces in space {}", space.0)))?;
        let metadata = row_kinds().map(|kind| keys::system_bounds(space, kind));
        for (from, to) in metadata.chain([keys::session_bounds(space)]) {
            each(&shared, &from, &to, |_, _| Ok(()))??;
        }
        from = space.0.checked_add(1).map(Space);
    }
    Ok(shared)
}

fn first_space(shared: &RocksShared, from: Space) -> Result<Option<Space>, StoreError> {
    let mut rows = shared.iterate(&from.0.to_be_bytes(), &keys::space_bounds(Space(u32::MAX - 1)).1);
    rows.seek_to_first();
    let found = rows.key().and_then(<[u8]>::first_chunk::<4>).map(|space| Space(u32::from_be_bytes(*space)));
    rows.status().map_err(|e| shared.error("read", &e))?;
    Ok(found)
}

/// Visits rows until one is refused; `Ok(Err)` is what was refused.
fn each<E>(
    shared: &RocksShared,
    from: &[u8],
    to: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<Result<(), E>, StoreError> {
    let mut rows = shared.iterate(from, to);
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        if let Err(refused) = visit(key, value) {
            return Ok(Err(refused));
        }
        rows.next();
    }
    rows.status().map_err(|e| shared.error("read", &e))?;
    Ok(Ok(()))
}

type Split = (Vec<ShardId>, Vec<(ShardId, String)>);

/// Copies every sound shard's rows into a new directory beside the old one.
fn copy_sound(path: &Path, sizes: StateOptions, log: &dyn LogStore) -> Result<Split, StoreError> {
    let groups = groups(log)?;
    let salvaged = beside(path, "salvaged");
    let new = RocksShared::open(&salvaged, sizes)?;
    let old = match RocksShared::open_to_read(path) {
        Ok(old) => Ok(old),
        Err(StoreError::Corrupt { what, why } | StoreError::Io { what, why }) => Err(format!("{what}: {why}")),
        Err(other) => return Err(other),
    };
    let (mut kept, mut lost) = (Vec::new(), Vec::new());
    let old = match old {
        Ok(old) => old,
        Err(why) => return Ok((kept, groups.into_iter().map(|group| (group.id, why.clone())).collect())),
    };
    let (mut sound, mut extents) = (Vec::new(), Vec::new());
    for group in groups {
        // What went into another shard owns nothing. The mark that says so stays until the next start has removed its log.
        let mark = keys::absorbed_row(group.owner.space);
        if let Ok(Some(row)) = old.get(&mark) {
            new.load(&[(mark, row)])?;
            kept.push(group.id);
            continue;
        }
        match extent(&old, &group.owner)? {
            Ok(extent) => {
                sound.push(group);
                extents.push(extent);
            }
            Err(why) => lost.push((group.id, why)),
        }
    }
    for (group, rows) in sound.into_iter().zip(owned_by_each(&extents)) {
        let id = group.id;
        match copy(&old, &new, group, &rows)? {
            Ok(()) => kept.push(id),
            Err(why) => lost.push((id, why)),
        }
    }
    Ok((kept, lost))
}

/// Where a shard's rows are. `Ok(Err)`: its bounds row or its pieces row is damaged, and how.
fn extent(old: &RocksShared, owner: &Owner) -> Result<Result<Extent, String>, StoreError> {
    match Extent::read(|row| old.get(row), owner.space, owner.descriptor.clone()) {
        Err(StoreError::Corrupt { what, why }) => Ok(Err(format!("{what}: {why}"))),
        read => read.map(Ok),
    }
}

/// Every group whose log is here. Damage of the log is no business of this module.
fn groups(log: &dyn LogStore) -> Result<Vec<Group>, StoreError> {
    let mut groups = Vec::new();
    for id in log.recover_node()?.groups {
        let Some(found) = log.recover_group(id)? else { continue };
        let genesis = Genesis::decode(found.genesis, id).map_err(|e| e.corrupt(format!("genesis of shard {id}")))?;
        let Some(descriptor) = genesis.descriptor().cloned() else { continue };
        let space = found.space.unwrap_or_else(|| crate::worker::own_space(id));
        let log = (found.trimmed.slot, found.last.slot);
        groups.push(Group { id, owner: Owner::new(descriptor, space, log), log });
    }
    Ok(groups)
}

/// Copies the rows that a shard owns; `Ok(Err)` says what is damaged of them, and nothing of them is in `new` then.
fn copy(
    old: &RocksShared,
    new: &RocksShared,
    mut group: Group,
    owned: &[Bounds],
) -> Result<Result<(), String>, StoreError> {
    let position = match old.get(&keys::applied(group.owner.space)) {
        Ok(row) => row.map(AppliedRow::decode).transpose().map_err(|e| format!("applied position: {e}")),
        Err(StoreError::Corrupt { what, why }) => Err(format!("{what}: {why}")),
        Err(error) => return Err(error),
    };
    let row = match position {
        Ok(row) => row,
        Err(why) => return Ok(Err(why)),
    };
    let position = row.unwrap_or_default().slot;
    if position > group.log.1 {
        let (what, last) = (format!("log of shard {}", group.id), group.log.1);
        return Err(StoreError::Corrupt {
            what,
            why: format!("it ends at slot {last}, but slot {position} was applied"),
        });
    }
    if position < group.log.0 {
        return Ok(Err(format!("it ends at slot {position}, its log begins after slot {}", group.log.0)));
    }
    if row.is_none() && group.id != SYSTEM_SHARD {
        // Without a position there are no records of it. What is in its space is another's.
        return Ok(Ok(()));
    }
    let mut system = SystemRows::new();
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let mut take = |key: &[u8], value: &[u8]| -> Result<(), Result<String, StoreError>> {
        let value = Bytes::copy_from_slice(value);
        check::check_row(&mut group.owner, key, value.clone(), &mut system)
            .map_err(|(what, why)| -> Result<String, StoreError> { Ok(format!("{what}: {why}")) })?;
        bytes += key.len() + value.len();
        rows.push((key.to_vec(), value));
        if bytes >= COPY_BYTES {
            new.load(&rows).map_err(Err::<String, StoreError>)?;
            rows.clear();
            bytes = 0;
        }
        Ok(())
    };
    let mut copied = Ok(Ok(()));
    // In order of the rows, as a file wants them: records may be in a lower space than the shard's own rows.
    for (from, to) in &joined(owned.to_vec()) {
        copied = each(old, from, to, &mut take);
        if !matches!(copied, Ok(Ok(()))) {
            break;
        }
    }
    let whole = match copied {
        Ok(Ok(())) => match system.into_values().try_for_each(|rows| SystemState::from_rows(rows).map(drop)) {
            Err(error @ MetadataError::TooNew(_)) => return Err(error.corrupt("metadata rows of the system shard")),
            read => read.map_err(|e| e.to_string()),
        },
        Ok(Err(Ok(why))) => Err(why),
        Ok(Err(Err(error))) => return Err(error),
        Err(StoreError::Corrupt { what, why }) => Err(format!("{what}: {why}")),
        Err(error) => return Err(error),
    };
    match whole {
        Ok(()) if rows.is_empty() => Ok(Ok(())),
        Ok(()) => new.load(&rows).map(Ok),
        Err(why) => {
            for (from, to) in owned {
                new.remove(from, to)?;
            }
            Ok(Err(why))
        }
    }
}

/// `state` and `x` to `state.x`.
fn beside(path: &Path, name: &str) -> PathBuf {
    let mut whole = path.as_os_str().to_owned();
    whole.push(format!(".{name}"));
    whole.into()
}

/// A name for the damaged directory that nothing has yet.
fn free_name(path: &Path) -> PathBuf {
    let mut names = (1..).map(|n: u32| beside(path, &format!("damaged-{n}")));
    names.find(|name| !name.exists()).expect("the numbers do not end")
}

/// Goes on where a crash ended [`open`]: between its two renames the new directory takes its place, before them it goes.
fn finish_renames(path: &Path) -> Result<(), StoreError> {
    let salvaged = beside(path, "salvaged");
    if salvaged.exists() && !path.exists() {
        return rename(&salvaged, path);
    }
    match fs::remove_dir_all(&salvaged) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(StoreError::Io { what: format!("remove {}", salvaged.display()), why: e.to_string() })
        }
        _ => Ok(()),
    }
}

/// Renames, durably.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    let parent = from.parent().unwrap_or(Path::new("."));
    let renamed = fs::rename(from, to).and_then(|()| File::open(parent)?.sync_all());
    renamed.map_err(|e| StoreError::Io { what: format!("rename {}", from.display()), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::shared::{Rows, Two, all_rows, rows_of};
    use synod_cluster::system::{Partitioning, Retention};

    const P: ShardId = ShardId(2);
    const C: ShardId = ShardId(9);

    /// A directory with these rows, as if damage had been met with.
    fn directory(path: &Path, rows: &Rows) {
        let shared = RocksShared::open(path, StateOptions::default()).unwrap();
        shared.load(rows).unwrap();
        drop(shared);
        fs::write(path.join("DAMAGED"), "as a read said").unwrap();
    }

    fn rows_in(shared: &RocksShared) -> Rows {
        let mut rows = vec![];
        let mut visit = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
            std::ops::ControlFlow::Continue(())
        };
        shared.each(&mut visit).unwrap();
        rows
    }

    /// The last byte of a row flipped: its checksum.
    fn damaged(mut rows: Rows, which: impl Fn(&[u8]) -> bool) -> Rows {
        let (_, value) = rows.iter_mut().find(|(key, _)| which(key)).unwrap();
        let mut bytes = value.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        *value = bytes.into();
        rows
    }

    /// What is kept of these rows.
    fn salvaged(two: &Two, rows: &Rows) -> (Rows, SetAside) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        directory(&path, rows);
        let (shared, aside) = open(&path, StateOptions::default(), &two.log()).unwrap();
        (rows_in(&shared), aside.unwrap())
    }

    #[test]
    fn a_shard_is_kept_or_lost_alone_whoever_shares_its_space() {
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let mut two = Two::new(partitioning, Retention::All);
            let all = all_rows(&mut two.store);
            let (found, aside) = salvaged(&two, &all);
            assert_eq!((aside.kept, aside.lost), (vec![P, C], vec![]));
            assert_eq!(found, all);

            let (parent, child) = (two.parent.owned(), two.child.owned());
            for (lost, kept, of_lost, of_kept) in [(C, P, &child, &parent), (P, C, &parent, &child)] {
                // A record in the space of the parent, the last of those that are looked at.
                let (from, to) = of_lost[1].clone();
                let rows = damaged(all.clone(), |key| from[..] <= *key && *key < to[..]);
                let (found, aside) = salvaged(&two, &rows);
                assert_eq!(aside.kept, [kept]);
                assert_eq!(aside.lost.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [lost]);
                assert_eq!(found, rows_of(&mut two.store, of_kept), "shard {lost} was damaged");
            }
            // Of the child nobody knows then where its records are.
            let rows = damaged(all.clone(), |key| *key == keys::pieces_row(Space(9))[..]);
            let (found, aside) = salvaged(&two, &rows);
            assert_eq!(aside.kept, [P]);
            assert!(aside.lost[0].1.starts_with("pieces of shard 9: checksum mismatch"), "{:?}", aside.lost);
            assert_eq!(found, rows_of(&mut two.store, &parent));
        }
    }
}
