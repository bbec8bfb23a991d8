//! What stands in entries, and the metadata of the system shard.
//!
//! Owns: requests, administrative entries, outcomes, metadata rows, and metadata commands executed one after the other. Must
//! never: check what the state machine does with records; its own tests do.

use crate::checks::{canonical, seal, sealed, sections};
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_cluster::buf::COUNTER_MAX;
use synod_cluster::buf::{Put, Reader, Writer};
use synod_cluster::ids::{SYSTEM_SHARD, ShardId};
use synod_cluster::jobs::job::JobState;
use synod_cluster::system::{SystemCommand, SystemOutcome, SystemState, decode_descriptor, encode_descriptor};
use synod_engine::command::{self, Outcome};
use synod_engine::genesis::Genesis;

/// Tables of more shards are not made.
const SHARDS_MAX: u32 = 64;

/// The data of an entry, of requests or administrative, and the outcome of a write.
pub fn requests(data: &[u8]) -> bool {
    let requests = canonical(data, command::decode_entry, |(format, found)| {
        let size = found.iter().map(command::WriteRequest::size).sum();
        let encoded = command::encode_entry(*format, found.iter(), size);
        assert!(encoded.len() <= size + 16, "{} bytes, {size} estimated", encoded.len());
        encoded
    });
    let admin = canonical(data, command::decode_admin, command::encode_admin);
    assert!(admin.is_none() || (command::is_admin(data) && requests.is_none()), "both a request and none");
    let outcome = canonical(data, Outcome::decode, Outcome::encode);
    requests.is_some() || admin.is_some() || outcome.is_some()
}

/// Rows, commands and outcomes of metadata, and what a group begins with.
pub fn system_codec(data: &[u8]) -> bool {
    let state = with_checksums(data).unwrap_or_else(|| data.to_vec());
    let mut decoded = sealed(&state, SystemState::decode, SystemState::encode);
    decoded |= sealed(data, decode_descriptor, encode_descriptor);
    decoded |= canonical(data, SystemCommand::decode, SystemCommand::encode).is_some();
    decoded |= canonical(data, SystemOutcome::decode, SystemOutcome::encode).is_some();
    // The checksum covers what follows the kind of group; the group is the system shard for both kinds.
    let (kind, body) = data.split_at(data.len().min(1));
    let body = with_checksums(body).unwrap_or_else(|| body.to_vec());
    let repaired = [kind, &seal(&body)].concat();
    for row in [data, &repaired] {
        for shard in [SYSTEM_SHARD, ShardId(2)] {
            let genesis = canonical(row, |row| Genesis::decode(row, shard), Genesis::encode);
            if let Some(genesis) = genesis {
                assert_eq!(genesis.descriptor().map(|d| d.shard), Some(shard));
                decoded = true;
            }
        }
    }
    decoded
}

/// A state (without its own checksum) with the checksum of each of its rows put right.
fn with_checksums(data: &[u8]) -> Option<Vec<u8>> {
    let mut input = Reader::new(Bytes::copy_from_slice(data));
    let mut out = Writer::new();
    let format = input.u8().ok()?;
    out.u8(format);
    if format == 2 {
        // The cluster's version.
        out.u32(input.u32().ok()?);
    }
    let count = input.count(10).ok()?;
    out.var(count as u64);
    for _ in 0..count {
        out.u8(input.u8().ok()?);
        out.u64(input.u64().ok()?);
        out.bytes(&resealed(&input.bytes().ok()?));
    }
    out.raw(&input.rest());
    Some(out.0)
}

/// A row with its last four bytes put right.
pub fn resealed(row: &[u8]) -> Vec<u8> {
    seal(&row[..row.len().saturating_sub(4)])
}

/// Whether the counters of a state can be counted on from: at their very end the next one is refused where it is read.
pub fn has_room(state: &SystemState) -> bool {
    let epochs = state.shards.values().map(|d| d.membership.epoch.0);
    let ended = state.jobs.values().map(|job| if let JobState::Ended { order, .. } = job.state { order } else { 0 });
    let given = [state.revision, state.next_node, state.next_shard, state.last_job.0];
    let counters = given.into_iter().chain(epochs).chain(ended);
    counters.max().is_some_and(|greatest| greatest < COUNTER_MAX - (1 << 32)) && state.next_table < u32::MAX >> 2
}

/// A state and commands: after each, the rows that changed make the new state out of the old one's rows, and the outcome can
/// be stored.
pub fn system_history(data: &[u8]) -> bool {
    let sections = sections(data);
    let Some((first, commands)) = sections.split_first() else { return false };
    let founded = || SystemState::found(7, &["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()]);
    let first = with_checksums(first).unwrap_or_default();
    let mut state = SystemState::decode(seal(&first).into()).unwrap_or_else(|_| founded());
    if state.nodes.is_empty() || !has_room(&state) {
        return false;
    }
    let mut stored: BTreeMap<(u8, u64), Bytes> = BTreeMap::new();
    for (kind, id, row) in state.rows() {
        stored.insert((kind, id), row.expect("a state's own rows are all there"));
    }
    let mut executed = false;
    for section in commands {
        let Ok(command) = SystemCommand::decode(Bytes::copy_from_slice(section)) else { continue };
        // Each shard of a new table is placed by a look at all there are: thousands are slow, and show nothing more.
        if matches!(command, SystemCommand::CreateTable { shards: SHARDS_MAX.., .. }) {
            continue;
        }
        executed = true;
        let (outcome, rows) = state.execute(&command);
        assert_eq!(SystemOutcome::decode(outcome.encode()), Ok(outcome));
        for (kind, id, row) in rows {
            match row {
                Some(row) => drop(stored.insert((kind, id), row)),
                None => drop(stored.remove(&(kind, id))),
            }
        }
        let rows = stored.iter().map(|((kind, id), row)| (*kind, *id, row.clone()));
        assert_eq!(SystemState::from_rows(rows).as_ref(), Ok(&state), "after {command:?}");
        assert_eq!(SystemState::decode(state.encode()).as_ref(), Ok(&state), "after {command:?}");
    }
    executed
}
