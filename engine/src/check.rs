//! Everything a node has stored, verified offline.
//!
//! Owns: the list of what is wrong, and where. Must never: change a byte, or stop at the first damage where more can be
//! looked at.

use crate::StoreError;
use crate::codec::applied::AppliedRow;
use crate::codec::keys::{self, Bounds, RecordRow};
use crate::codec::record::{Head, Record};
use crate::codec::session::SessionRow;
use crate::genesis::Genesis;
use crate::logstore::LogStore;
use crate::logstore::rocks::RocksLog;
use crate::machine::extent::{Extent, owned_by_each};
use crate::snapshot::{SnapshotFile, Throttle};
use crate::state::rocks::RocksShared;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::{ClientId, ShardId, Slot, Space};
use synod_cluster::system::{Descriptor, Partitioning, SystemState, row_kinds};

/// No more damages than this are listed of each store; the rest are counted.
const LISTED_MAX: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which store, row or file.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Groups in the log.
    pub groups: u64,
    /// Entries whose checksum was verified.
    pub entries: u64,
    /// Rows of the state that were verified.
    pub rows: u64,
    /// Snapshot files that were verified.
    pub snapshots: u64,
    /// The time of each shard: the greatest timestamp in its log or state, µs since 1970.
    pub times: BTreeMap<ShardId, u64>,
    /// What is wrong.
    pub damages: Vec<Damage>,
    /// What may be wrong, or may be what a crash leaves behind.
    pub notes: Vec<Damage>,
    /// Damages beyond those listed.
    pub unlisted: u64,
}

impl Report {
    fn add(&mut self, what: impl Into<String>, why: impl Into<String>) {
        if self.damages.len() < LISTED_MAX {
            self.damages.push(Damage { what: what.into(), why: why.into() });
        } else {
            self.unlisted += 1;
        }
    }

    fn error(&mut self, error: StoreError) {
        match error {
            StoreError::Corrupt { what, why } | StoreError::Io { what, why } => self.add(what, why),
            other => self.add("the data directory", other.to_string()),
        }
    }

    /// What `result` holds, its error noted.
    fn note<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        result.map_err(|error| self.error(error)).ok()
    }
}

/// What rows belong to.
pub(crate) struct Owner {
    pub(crate) descriptor: Descriptor,
    /// Its own space.
    pub(crate) space: Space,
    /// Where its log begins and ends.
    log: (Slot, Slot),
    applied: bool,
    /// The greatest timestamp applied, µs.
    last_ts: u64,
}

impl Owner {
    /// A group whose log is what is left behind the first slot, up to the second.
    pub(crate) fn new(descriptor: Descriptor, space: Space, log: (Slot, Slot)) -> Self {
        Self { descriptor, space, log, applied: false, last_ts: 0 }
    }
}

/// Rows of metadata, by the space that they are in.
pub(crate) type SystemRows = BTreeMap<Space, Vec<(u8, u64, Bytes)>>;

/// Verifies the log at `log`, the state at `state` and the snapshot files in `snapshots`.
#[must_use]
pub fn check(log: &Path, state: &Path, snapshots: &[PathBuf]) -> Report {
    let mut report = Report::default();
    for folder in [log, &state.join("db")] {
        note_torn(folder, &mut report);
    }
    let (owners, cluster) = check_log(log, &mut report);
    match (cluster, state.exists()) {
        // A node that has not yet found where it belongs has no state.
        (None, false) if owners.is_empty() => {}
        (None, true) if report.damages.is_empty() => {
            let why = "there is a state, but the log belongs to no cluster: the log of the node that wrote the state is lost or elsewhere";
            report.add(state.display().to_string(), why);
        }
        _ => check_state(state, owners, &mut report),
    }
    for path in snapshots {
        report.snapshots += 1;
        let whole = SnapshotFile::open(path, cluster).and_then(|file| file.verify(&mut Throttle::new(0)));
        if let Err(error) = whole {
            report.add(format!("snapshot {}", error.path), format!("{}, at byte {}", error.why, error.at));
        }
    }
    report
}

/// Notes the files of a database that do not end with a whole record: a start takes that for a write that a crash
/// interrupted, and a damaged length looks the same.
fn note_torn(folder: &Path, report: &mut Report) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_records = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("MANIFEST-") || name.ends_with(".log")
    };
    for path in files.filter(of_records) {
        if let Some(at) = std::fs::read(&path).ok().and_then(|file| torn_at(&file)) {
            let why = format!(
                "the record at byte {at} is not whole, and nothing is read from there on: either a crash interrupted a write, \
                 or damage destroyed records, which the node's peers notice when it starts"
            );
            report.notes.push(Damage { what: path.display().to_string(), why });
        }
    }
}

/// Where a file of RocksDB's log records stops being whole: records (a header of checksum, length and type, then so many
/// bytes) fill blocks, and none crosses the end of one.
fn torn_at(file: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32 << 10;
    const HEADER: usize = 7;
    for (number, block) in file.chunks(BLOCK).enumerate() {
        let mut at = 0;
        // What is left of a block below a header is filled up.
        while at < block.len() && BLOCK - at >= HEADER {
            let length = block.get(at + 4..at + 6).map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
            match length {
                Some(length) if at + HEADER + length <= block.len() => at += HEADER + length,
                _ => return Some(number * BLOCK + at),
            }
        }
    }
    None
}

fn check_log(path: &Path, report: &mut Report) -> (Vec<Owner>, Option<ClientId>) {
    let mut owners = Vec::new();
    let Some(log) = report.note(RocksLog::open_to_read(path)) else { return (owners, None) };
    let Some(node) = report.note(log.recover_node()) else { return (owners, None) };
    for id in node.groups {
        report.groups += 1;
        let Some(Some(found)) = report.note(log.recover_group(id)) else { continue };
        report.entries += found.last.slot.0 - found.trimmed.slot.0;
        match Genesis::decode(found.genesis, id) {
            Ok(genesis) => {
                let own = u32::try_from(id.0).map(Space).unwrap_or_default();
                if let Some(descriptor) = genesis.descriptor().cloned() {
                    let log = (found.trimmed.slot, found.last.slot);
                    report.times.insert(id, found.last_ts);
                    owners.push(Owner::new(descriptor, found.space.unwrap_or(own), log));
                }
            }
            Err(error) => report.add(format!("creation of shard {id}"), error.to_string()),
        }
    }
    (owners, node.identity.map(|identity| identity.cluster))
}

/// What each owner owns, with its number, in the order of the rows. Rows of two owners are told.
fn ranges(owners: &[Owner], extents: &[Extent], report: &mut Report) -> Vec<(Bounds, usize)> {
    let each = owned_by_each(extents).into_iter().enumerate();
    let mut ranges: Vec<(Bounds, usize)> =
        each.flat_map(|(owner, ranges)| ranges.into_iter().map(move |range| (range, owner))).collect();
    ranges.sort_unstable();
    for two in ranges.windows(2) {
        let [((_, end), one), ((from, _), other)] = two else { continue };
        if from < end {
            let of = |owner: usize| owners[owner].descriptor.shard;
            let why = format!("shard {} owns some of the same rows", of(*other));
            report.add(format!("state of shard {}", of(*one)), why);
        }
    }
    ranges
}

fn check_state(path: &Path, mut owners: Vec<Owner>, report: &mut Report) {
    let Some(state) = report.note(RocksShared::open_to_read(path)) else { return };
    // What went into another shard owns nothing: the next start removes its log.
    owners.retain(|owner| !matches!(state.get(&keys::absorbed_row(owner.space)), Ok(Some(_))));
    let mut extents = Vec::with_capacity(owners.len());
    for Owner { descriptor, space, .. } in &owners {
        let read = report.note(Extent::read(|row| state.get(row), *space, descriptor.clone()));
        extents.push(read.unwrap_or_else(|| Extent::beginning(*space, descriptor.clone())));
    }
    let ranges = ranges(&owners, &extents, report);
    let mut system = SystemRows::new();
    let scanned = state.each(&mut |key, value| {
        report.rows += 1;
        let value = Bytes::copy_from_slice(value);
        let before = ranges.partition_point(|((from, _), _)| from[..] <= *key);
        let range = before.checked_sub(1).map(|at| &ranges[at]).filter(|((_, to), _)| *key < to[..]);
        // Rows that nobody owns are left over from a crash: the next start removes them.
        let Some((_, owner)) = range else { return ControlFlow::Continue(()) };
        let owner = &mut owners[*owner];
        if let Err((what, error)) = check_row(owner, key, value, &mut system) {
            report.add(format!("state of shard {}, {what}", owner.descriptor.shard), error);
        }
        ControlFlow::Continue(())
    });
    report.note(scanned);
    for owner in &owners {
        let time = report.times.entry(owner.descriptor.shard).or_default();
        *time = owner.last_ts.max(*time);
    }
    for rows in system.into_values() {
        if let Err(error) = SystemState::from_rows(rows) {
            report.add("metadata rows of the system shard", error.to_string());
        }
    }
    for owner in owners.iter().filter(|owner| !owner.applied && owner.log.0 > Slot(0)) {
        let why = format!("it has no applied position, but its log begins after slot {}", owner.log.0);
        report.add(format!("state of shard {}", owner.descriptor.shard), why);
    }
}

/// Verifies one row of its owner; metadata rows are gathered.
pub(crate) fn check_row(
    owner: &mut Owner,
    key: &[u8],
    value: Bytes,
    system: &mut SystemRows,
) -> Result<(), (String, String)> {
    let space = owner.space;
    let name = |what: &'static str| move |error: DecodeError| (what.to_owned(), error.to_string());
    if key == keys::applied(space) {
        owner.applied = true;
        let AppliedRow { slot, last_ts } = AppliedRow::decode(value).map_err(name("applied position"))?;
        owner.last_ts = last_ts;
        let (from, to) = owner.log;
        if slot < from || slot > to {
            return Err(("applied position".into(), format!("slot {slot}, but its log is ({from}, {to}]")));
        }
    } else if key == keys::bounds_row(space) || key == keys::pieces_row(space) {
        // What they say was read before: it tells who the owner is.
    } else if keys::session_bounds(space).0.as_slice() <= key && key < keys::session_bounds(space).1.as_slice() {
        let (_, client) = keys::parse_session(key).map_err(name("session"))?;
        SessionRow::decode(value).map_err(|e| (format!("session of client {:032x}", client.0), e.to_string()))?;
    } else if row_kinds().any(|kind| key.starts_with(&keys::system_bounds(space, kind).0)) {
        let (_, kind, id) = keys::parse_system(key).map_err(name("metadata"))?;
        let id =
            <[u8; 8]>::try_from(&id[..]).map_err(|_| ("metadata".to_owned(), "no number in its key".to_owned()))?;
        system.entry(space).or_default().push((kind, u64::from_be_bytes(id), value));
    } else {
        let hashed = owner.descriptor.partitioning == Partitioning::Hash;
        let found = keys::parse_record(key, hashed).map_err(name("a row of no known kind"))?;
        let shown = String::from_utf8_lossy(&found.key).into_owned();
        let decoded = match found.row {
            RecordRow::Head => Head::decode(value).map(drop).map_err(|e| (format!("head of key {shown:?}"), e)),
            RecordRow::History(offset) => {
                Record::decode(value).map(drop).map_err(|e| (format!("key {shown:?}, offset {offset}"), e))
            }
        };
        decoded.map_err(|(what, e)| (what, e.to_string()))?;
    }
    Ok(())
}

/// Whether a file is called as a whole snapshot is.
#[must_use]
pub fn is_snapshot(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "snap")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::bounds::{BoundsRow, Phase};
    use crate::machine::tests::shared::{Rows, Two, all_rows};
    use crate::state::BulkLoad as _;
    use crate::state::rocks::StateOptions;
    use synod_cluster::system::Retention;

    fn record(length: u16) -> Vec<u8> {
        [&[1, 2, 3, 4][..], &length.to_le_bytes(), &[1], &vec![7; usize::from(length)][..]].concat()
    }

    #[test]
    fn a_file_that_does_not_end_with_a_whole_record_is_noted() {
        // Fills the first block but for 3 bytes.
        let filled = [record(32_758), vec![0; 3]].concat();
        let mut file = [filled, record(100), record(0), record(9)].concat();
        assert_eq!((torn_at(&file), torn_at(&[])), (None, None));
        let begins = file.len() - 16;
        for cut in 1..16 {
            assert_eq!(torn_at(&file[..file.len() - cut]), Some(begins), "{cut} bytes cut off");
        }
        assert_eq!(torn_at(&file[..begins]), None, "between two records nobody can tell");
        file[(32 << 10) + 5] ^= 0x80;
        assert_eq!(torn_at(&file), Some(32 << 10));
    }

    /// What is found wrong with these rows of two shards that share a space.
    fn checked(two: &Two, rows: &Rows) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        RocksShared::open(&path, StateOptions::default()).unwrap().load(rows).unwrap();
        let owner = |descriptor: &Descriptor, space, slot| Owner::new(descriptor.clone(), Space(space), (slot, slot));
        let owners = vec![owner(&two.created, 2, two.parent.applied()), owner(&two.born, 9, Slot(0))];
        let mut report = Report::default();
        check_state(&path, owners, &mut report);
        report
    }

    #[test]
    fn rows_are_checked_as_those_of_the_shard_that_owns_them() {
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let mut two = Two::new(partitioning, Retention::All);
            let all = all_rows(&mut two.store);
            let sound = checked(&two, &all);
            assert_eq!((sound.damages, sound.rows), (vec![], all.len() as u64));
            assert_eq!(sound.times[&ShardId(9)], two.child.last_ts());

            for (shard, (from, to)) in [(2, &two.parent.owned()[1]), (9, &two.child.owned()[1])] {
                let mut rows = all.clone();
                let at = rows.iter().position(|(key, _)| from <= key && key < to).unwrap();
                rows[at].1 = Bytes::from_static(b"no head");
                let report = checked(&two, &rows);
                let [damage] = &report.damages[..] else { panic!("{report:?}") };
                assert!(damage.what.starts_with(&format!("state of shard {shard}, head of key")), "{damage:?}");
            }
        }
    }

    #[test]
    fn rows_that_two_shards_own_are_told() {
        let mut two = Two::new(Partitioning::Range, Retention::All);
        // The parent's bounds are what they were before the split.
        let (created, key) = (two.created.clone(), keys::bounds_row(Space(2)));
        let row = BoundsRow {
            version: created.version,
            from: created.from,
            to: created.to,
            retention: created.retention,
            children: vec![],
            phase: Phase::Alone,
            merges: 0,
            absorbed: vec![],
        };
        let mut rows = all_rows(&mut two.store);
        let at = rows.iter().position(|(found, _)| *found == key).unwrap();
        rows[at].1 = row.encode();
        let report = checked(&two, &rows);
        let [damage] = &report.damages[..] else { panic!("{report:?}") };
        assert_eq!((&damage.what[..], &damage.why[..]), ("state of shard 2", "shard 9 owns some of the same rows"));
    }
}
