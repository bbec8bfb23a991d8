//! Row keys of the log DB and of the state store.
//!
//! Owns: how keys are laid out, so that their bytes order as their parts do. Must never: change the order of an existing
//! key kind.
//!
//! Log DB, integers big-endian: `01 | kind u8 | …` for the node's own rows (kind 00 format, 01 identity, 02 incarnation,
//! 03 write sequence, 04 `| node u64` seen from a peer) and `02 | group u64 | kind u8 | …` for a group's (kind 00 hard
//! state, 01 `| slot u64` entry, 02 trim mark, 03 what it was created with, 04 removed, 05 its space in the
//! state store).
//!
//! State store: `space u32 | area u8 | …`. Area 00 `| kind u8` is the shard's own rows (kind 00 applied position, 01
//! bounds), 01 `| client u128` sessions, 02 `| kind u8` what only this node knows (kind 00 pieces): all three are in the
//! shard's own space, and no other shard has such rows there. Area 10 `| table u32 | [hash u64] | escaped key | kind u8 | [offset u64]` is records
//! (kind 00 head, 01 history; the hash for hash tables only). Area 20 `| kind u8 | id bytes` is the system shard's rows.
//! A key is escaped as 00 → 00 FF and ends in 00 01, so that no key's rows lie between another's.

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader};
use synod_cluster::ids::{ClientId, NodeId, Offset, ShardId, Slot, Space, TableId};

/// A half-open range of row keys, `[from, to)`.
pub type Bounds = (Vec<u8>, Vec<u8>);

const NODE: u8 = 0x01;
const GROUP: u8 = 0x02;

/// Length of the space that all keys of the state store begin with, bytes.
pub const SPACE_BYTES: usize = 4;

/// Length of the part that all rows of one kind of one group share, bytes.
pub const GROUP_PREFIX_BYTES: usize = 10;

/// The log DB's format row.
pub const LOG_FORMAT: [u8; 2] = [NODE, 0x00];
/// The node's identity row.
pub const NODE_IDENTITY: [u8; 2] = [NODE, 0x01];
/// The row of the newest incarnation.
pub const NODE_INCARNATION: [u8; 2] = [NODE, 0x02];
/// The row of the last durable write.
pub const NODE_WRITE_SEQ: [u8; 2] = [NODE, 0x03];

/// What a group's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupRow {
    Hard = 0x00,
    Entry = 0x01,
    Trim = 0x02,
    Genesis = 0x03,
    Removed = 0x04,
    Space = 0x05,
}

fn group_row(shard: ShardId, row: GroupRow) -> [u8; GROUP_PREFIX_BYTES] {
    let mut key = [0; GROUP_PREFIX_BYTES];
    key[0] = GROUP;
    key[1..9].copy_from_slice(&shard.0.to_be_bytes());
    key[9] = row as u8;
    key
}

/// The row of what was seen from `node`.
#[must_use]
pub fn node_seen(node: NodeId) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&[NODE, 0x04]);
    key[2..].copy_from_slice(&node.0.to_be_bytes());
    key
}

/// All rows of what was seen from peers.
#[must_use]
pub fn node_seen_bounds() -> Bounds {
    (vec![NODE, 0x04], vec![NODE, 0x05])
}

/// The peer that a row of [`node_seen_bounds`] speaks of.
pub fn parse_node_seen(row: &[u8]) -> Result<NodeId, DecodeError> {
    match row.strip_prefix(&[NODE, 0x04]).map(<[u8; 8]>::try_from) {
        Some(Ok(node)) => Ok(NodeId(u64::from_be_bytes(node))),
        _ => Err(DecodeError { what: "not the key of a peer's row", at: 0 }),
    }
}

/// A group's hard state.
#[must_use]
pub fn group_hard(shard: ShardId) -> [u8; GROUP_PREFIX_BYTES] {
    group_row(shard, GroupRow::Hard)
}

/// A group's entry.
#[must_use]
pub fn group_entry(shard: ShardId, slot: Slot) -> [u8; GROUP_PREFIX_BYTES + 8] {
    let mut key = [0; GROUP_PREFIX_BYTES + 8];
    key[..GROUP_PREFIX_BYTES].copy_from_slice(&group_row(shard, GroupRow::Entry));
    key[GROUP_PREFIX_BYTES..].copy_from_slice(&slot.0.to_be_bytes());
    key
}

/// The end of a group's entries: the first key after every slot.
#[must_use]
pub fn group_entries_end(shard: ShardId) -> [u8; GROUP_PREFIX_BYTES] {
    group_row(shard, GroupRow::Trim)
}

/// The slot of a row of `shard`'s entries.
pub fn parse_group_entry(shard: ShardId, row: &[u8]) -> Result<Slot, DecodeError> {
    match row.strip_prefix(&group_row(shard, GroupRow::Entry)).map(<[u8; 8]>::try_from) {
        Some(Ok(slot)) => Ok(Slot(u64::from_be_bytes(slot))),
        _ => Err(DecodeError { what: "not the key of an entry of this group", at: 0 }),
    }
}

/// A group's trim mark.
#[must_use]
pub fn group_trim(shard: ShardId) -> [u8; GROUP_PREFIX_BYTES] {
    group_row(shard, GroupRow::Trim)
}

/// What a group was created with.
#[must_use]
pub fn group_genesis(shard: ShardId) -> [u8; GROUP_PREFIX_BYTES] {
    group_row(shard, GroupRow::Genesis)
}

/// The tombstone of a removed group.
#[must_use]
pub fn group_removed(shard: ShardId) -> [u8; GROUP_PREFIX_BYTES] {
    group_row(shard, GroupRow::Removed)
}

/// Where a group's rows are in the state store.
#[must_use]
pub fn group_space(shard: ShardId) -> [u8; GROUP_PREFIX_BYTES] {
    group_row(shard, GroupRow::Space)
}

/// The rows of all groups from `shard` on, in group order.
#[must_use]
pub fn groups_from(shard: ShardId) -> Bounds {
    (group_hard(shard).to_vec(), vec![GROUP + 1])
}

/// The group that a row of [`groups_from`] belongs to.
pub fn parse_group(row: &[u8]) -> Result<ShardId, DecodeError> {
    match row.strip_prefix(&[GROUP]).and_then(<[u8]>::first_chunk::<8>) {
        Some(shard) if row.len() >= GROUP_PREFIX_BYTES => Ok(ShardId(u64::from_be_bytes(*shard))),
        _ => Err(DecodeError { what: "not the key of a group's row", at: 0 }),
    }
}

const AREA_META: u8 = 0x00;
const AREA_SESSIONS: u8 = 0x01;
const AREA_LOCAL: u8 = 0x02;
const AREA_RECORDS: u8 = 0x10;
const AREA_SYSTEM: u8 = 0x20;

const KIND_HEAD: u8 = 0x00;
pub(crate) const KIND_HISTORY: u8 = 0x01;

fn area(space: Space, area: u8, room: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + room);
    key.u32_be(space.0);
    key.u8(area);
    key
}

/// The first key after every key that starts with `prefix`. Empty (no such key) only where `prefix` is all 0xFF.
#[must_use]
pub fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < 0xff {
            prefix.push(last + 1);
            break;
        }
    }
    prefix
}

fn all_of(prefix: Vec<u8>) -> Bounds {
    let end = after_prefix(prefix.clone());
    (prefix, end)
}

/// The space that a shard begins in: that of its own number. `None` for a number that no shard comes to.
#[must_use]
pub fn first_space(shard: ShardId) -> Option<Space> {
    u32::try_from(shard.0).ok().filter(|space| *space < 1 << 31).map(Space)
}

/// Every row of a space. The greatest space, `u32::MAX`, is never handed out: it would have no end.
#[must_use]
pub fn space_bounds(space: Space) -> Bounds {
    all_of(space.0.to_be_bytes().to_vec())
}

/// The applied position of the shard whose own space this is.
#[must_use]
pub fn applied(space: Space) -> Vec<u8> {
    let mut key = area(space, AREA_META, 1);
    key.u8(0x00);
    key
}

/// The bounds of the shard whose own space this is, where they have changed since it was created.
#[must_use]
pub fn bounds_row(space: Space) -> Vec<u8> {
    let mut key = area(space, AREA_META, 1);
    key.u8(0x01);
    key
}

/// Where the records are of the shard whose own space this is, where they are not all in it.
#[must_use]
pub fn pieces_row(space: Space) -> Vec<u8> {
    let mut key = area(space, AREA_LOCAL, 1);
    key.u8(0x00);
    key
}

/// Says that the shard whose own space this was went into another shard here, and that its log is to go.
#[must_use]
pub fn absorbed_row(space: Space) -> Vec<u8> {
    let mut key = area(space, AREA_LOCAL, 1);
    key.u8(0x01);
    key
}

/// The rows of an own space, records aside, that all replicas of its shard have alike.
#[must_use]
pub fn replicated_bounds(space: Space) -> Bounds {
    (area(space, AREA_META, 0), area(space, AREA_LOCAL, 0))
}

/// The rows of an own space, records aside: those of [`replicated_bounds`], and what only this node knows.
#[must_use]
pub fn own_bounds(space: Space) -> Bounds {
    (area(space, AREA_META, 0), area(space, AREA_LOCAL + 1, 0))
}

/// The space that a row of the state store is in; `None` for what is too short to be one.
#[must_use]
pub fn space_of(row: &[u8]) -> Option<Space> {
    row.first_chunk::<SPACE_BYTES>().map(|space| Space(u32::from_be_bytes(*space)))
}

/// A client's session.
#[must_use]
pub fn session(space: Space, client: ClientId) -> Vec<u8> {
    let mut key = area(space, AREA_SESSIONS, 16);
    key.u128_be(client.0);
    key
}

/// All sessions of a space.
#[must_use]
pub fn session_bounds(space: Space) -> Bounds {
    all_of(area(space, AREA_SESSIONS, 0))
}

/// The client of a session row.
pub fn parse_session(row: &[u8]) -> Result<(Space, ClientId), DecodeError> {
    let (space, mut input) = open_area(row, AREA_SESSIONS)?;
    let client = ClientId(input.u128_be()?);
    input.finish()?;
    Ok((space, client))
}

/// A row of the system shard.
#[must_use]
pub fn system(space: Space, kind: u8, id: &[u8]) -> Vec<u8> {
    let mut key = area(space, AREA_SYSTEM, 1 + id.len());
    key.u8(kind);
    key.raw(id);
    key
}

/// All rows of one kind of the system shard.
#[must_use]
pub fn system_bounds(space: Space, kind: u8) -> Bounds {
    all_of(system(space, kind, &[]))
}

/// Kind and id of a row of the system shard.
pub fn parse_system(row: &[u8]) -> Result<(Space, u8, Bytes), DecodeError> {
    let (space, mut input) = open_area(row, AREA_SYSTEM)?;
    Ok((space, input.u8()?, input.rest()))
}

fn open_area(row: &[u8], area: u8) -> Result<(Space, Reader), DecodeError> {
    let mut input = Reader::new(Bytes::copy_from_slice(row));
    let space = Space(input.u32_be()?);
    let other = input.error("a row of another area");
    if input.u8()? == area { Ok((space, input)) } else { Err(other) }
}

fn table_prefix(space: Space, table: TableId, room: usize) -> Vec<u8> {
    let mut key = area(space, AREA_RECORDS, 4 + room);
    key.u32_be(table.0);
    key
}

fn escape(out: &mut Vec<u8>, key: &[u8]) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

/// What all rows of one key start with. `hash` is [`key_hash`](synod_cluster::position::key_hash) for a hash table, else `None`.
#[must_use]
pub fn record_prefix(space: Space, table: TableId, hash: Option<u64>, key: &[u8]) -> Vec<u8> {
    let zeros = key.iter().filter(|&&b| b == 0).count();
    // Room for the longest row of the key, so that no later push moves it: 8 hash, 2 end, 1 kind, 8 offset.
    let mut row = table_prefix(space, table, key.len() + zeros + 19);
    if let Some(hash) = hash {
        row.u64_be(hash);
    }
    escape(&mut row, key);
    row.raw(&[0x00, 0x01]);
    row
}

/// A key's head.
#[must_use]
pub fn record_head(space: Space, table: TableId, hash: Option<u64>, key: &[u8]) -> Vec<u8> {
    let mut row = record_prefix(space, table, hash, key);
    row.push(KIND_HEAD);
    row
}

/// A key's history record at an offset.
#[must_use]
pub fn record_history(space: Space, table: TableId, hash: Option<u64>, key: &[u8], offset: Offset) -> Vec<u8> {
    let mut row = record_prefix(space, table, hash, key);
    row.push(KIND_HISTORY);
    row.u64_be(offset.0);
    row
}

/// A key's history from an offset on; `Offset(0)` for all of it.
#[must_use]
pub fn history_bounds(space: Space, table: TableId, hash: Option<u64>, key: &[u8], from: Offset) -> Bounds {
    let mut end = record_prefix(space, table, hash, key);
    end.push(KIND_HISTORY + 1);
    (record_history(space, table, hash, key, from), end)
}

/// Every row of one key: its head and its history. The end is also where a scan continues after the key.
#[must_use]
pub fn record_bounds(space: Space, table: TableId, hash: Option<u64>, key: &[u8]) -> Bounds {
    all_of(record_prefix(space, table, hash, key))
}

/// Every record of a table in a space.
#[must_use]
pub fn table_bounds(space: Space, table: TableId) -> Bounds {
    all_of(table_prefix(space, table, 0))
}

/// The rows of the user keys `[from, to)` of a table that is not hashed; `None` is open.
#[must_use]
pub fn range_bounds(space: Space, table: TableId, from: Option<&[u8]>, to: Option<&[u8]>) -> Bounds {
    let (start, end) = table_bounds(space, table);
    (
        from.map_or(start, |key| record_prefix(space, table, None, key)),
        to.map_or(end, |key| record_prefix(space, table, None, key)),
    )
}

/// The rows of the user keys that start with `prefix`, of a table that is not hashed.
#[must_use]
pub fn prefix_bounds(space: Space, table: TableId, prefix: &[u8]) -> Bounds {
    let mut row = table_prefix(space, table, 2 * prefix.len());
    escape(&mut row, prefix);
    all_of(row)
}

/// The rows of the hashes `[from, to)` of a hash table; `None` is the end of the ring.
#[must_use]
pub fn hash_bounds(space: Space, table: TableId, from: u64, to: Option<u64>) -> Bounds {
    let at = |hash: u64| {
        let mut row = table_prefix(space, table, 8);
        row.u64_be(hash);
        row
    };
    (at(from), to.map_or_else(|| table_bounds(space, table).1, at))
}

/// What a record row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordRow {
    /// The key's head.
    Head,
    /// The history record at an offset.
    History(Offset),
}

/// The parts of a record row's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKey {
    /// The space that it is in.
    pub space: Space,
    /// Its table.
    pub table: TableId,
    /// The key's hash, for hash tables.
    pub hash: Option<u64>,
    /// The user's key.
    pub key: Bytes,
    /// Head or history.
    pub row: RecordRow,
}

/// Takes a record row's key apart; `hashed` says whether the table is a hash table.
pub fn parse_record(row: &[u8], hashed: bool) -> Result<RecordKey, DecodeError> {
    let (space, mut input) = open_area(row, AREA_RECORDS)?;
    let table = TableId(input.u32_be()?);
    let hash = if hashed { Some(input.u64_be()?) } else { None };
    let mut key = Vec::with_capacity(input.remaining());
    loop {
        match input.u8()? {
            0 => match input.u8()? {
                0xff => key.push(0),
                0x01 => break,
                _ => return Err(input.error("a zero byte that is neither escaped nor the end of the key")),
            },
            byte => key.push(byte),
        }
    }
    let unknown = input.error("unknown kind of record row");
    let row = match input.u8()? {
        KIND_HEAD => RecordRow::Head,
        KIND_HISTORY => RecordRow::History(Offset(input.u64_be()?)),
        _ => return Err(unknown),
    };
    input.finish()?;
    Ok(RecordKey { space, table, hash, key: key.into(), row })
}
