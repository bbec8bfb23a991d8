//! Rows of the log store and of the state store, and their keys.
//!
//! Owns: one target for each family of rows. Must never: leave a row format of `engine/src/codec` out.

use crate::checks::{canonical, flipped, sealed};
use bytes::Bytes;
use synod_cluster::buf::Reader;
use synod_cluster::ids::{Entry, Offset, ShardId, Space, TableId};
use synod_engine::codec::absorbed::AbsorbedRow;
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::bounds::BoundsRow;
use synod_engine::codec::keys::{self, RecordRow};
use synod_engine::codec::record::{Head, Newest, Record};
use synod_engine::codec::session::SessionRow;
use synod_engine::codec::{entry as codec, hard, node, pieces};
use synod_paxos::types::{Epoch, Payload};

/// A log entry: as it stands, and with the checksum that its fields have.
pub fn entry(data: &[u8]) -> bool {
    let repaired = with_checksum(data);
    let mut decoded = false;
    for input in [Some(data), repaired.as_deref()].into_iter().flatten() {
        if let Some(found) = canonical(input, codec::decode, codec::to_bytes) {
            decoded = true;
            assert_eq!(found.checksum(), found.crc);
            assert_eq!(Entry::new(found.id, found.ts, found.closed, found.payload.clone()), found);
            flipped(input, |damaged| codec::decode(damaged).ok());
        }
    }
    decoded
}

/// The entry that begins here, as the fields say it, and with its checksum; what follows the fields is left out.
pub fn with_checksum(data: &[u8]) -> Option<Vec<u8>> {
    let mut input = Reader::new(Bytes::copy_from_slice(data));
    input.u8().ok()?;
    let id = codec::get_entry_id(&mut input).ok()?;
    let (ts, closed) = (input.var().ok()?, input.var().ok()?);
    let payload = match input.u8().ok()? {
        0 => Payload::Noop,
        1 => Payload::Command(input.bytes().ok()?),
        2 => Payload::Config(codec::get_membership(&mut input).ok()?),
        _ => return None,
    };
    let fields = &data[..input.position()];
    let crc = Entry::new(id, ts, closed, payload).crc;
    Some([fields, &crc.to_le_bytes()].concat())
}

/// A group's hard state.
pub fn hard_state(data: &[u8]) -> bool {
    sealed(data, hard::decode, hard::encode)
}

/// The other rows of the log store.
pub fn node_rows(data: &[u8]) -> bool {
    let decoded = [
        sealed(data, node::decode_format, |v| node::encode_format(*v)),
        sealed(data, node::decode_identity, node::encode_identity),
        sealed(data, node::decode_incarnation, |v| node::encode_incarnation(*v)),
        sealed(data, node::decode_seq, |v| node::encode_seq(*v)),
        sealed(data, node::decode_seen, |v| node::encode_seen(v.0, v.1)),
        sealed(data, node::decode_trim, |v| node::encode_trim(*v)),
        sealed(data, node::decode_genesis, |v| node::encode_genesis(v)),
        sealed(data, removed, |v| node::encode_removed(*v)),
        sealed(data, node::decode_space, |v| node::encode_space(*v)),
    ];
    // The version alone is a row of the first kind: that is no depth.
    decoded[1..].contains(&true)
}

/// A tombstone; one of the first version is read, and written as the second.
fn removed(row: Bytes) -> Result<Epoch, ()> {
    let first = row.first() == Some(&1);
    let upto = node::decode_removed(row).map_err(drop)?;
    assert!(!first || upto == node::GONE);
    if first { Err(()) } else { Ok(upto) }
}

/// The rows of the state store.
pub fn state_rows(data: &[u8]) -> bool {
    let decode_head = |row| {
        let head = Head::decode(row)?;
        let newest = match &head.newest {
            Newest::None => None,
            Newest::Inline(record) => Some((record.ts_us, record.tombstone)),
            Newest::InHistory { ts_us, tombstone } => Some((*ts_us, *tombstone)),
        };
        assert_eq!((head.newest_ts_us(), head.tombstone()), (newest.map(|n| n.0), newest.is_some_and(|n| n.1)));
        Ok::<_, synod_cluster::buf::DecodeError>(head)
    };
    let decoded = [
        sealed(data, decode_head, Head::encode),
        sealed(data, Record::decode_at, |(record, before)| record.encode_at(*before)),
        sealed(data, SessionRow::decode, SessionRow::encode),
        sealed(data, AppliedRow::decode, AppliedRow::encode),
        sealed(data, BoundsRow::decode, BoundsRow::encode),
        sealed(data, AbsorbedRow::decode, AbsorbedRow::encode),
        sealed(data, pieces::decode, |v| pieces::encode(v)),
    ];
    decoded.contains(&true)
}

/// Keys of rows: taken apart and put together, and in the order of their parts.
pub fn keys(data: &[u8]) -> bool {
    let mut decoded = false;
    for hashed in [false, true] {
        if let Ok(key) = keys::parse_record(data, hashed) {
            let row = match key.row {
                RecordRow::Head => keys::record_head(key.space, key.table, key.hash, &key.key),
                RecordRow::History(offset) => keys::record_history(key.space, key.table, key.hash, &key.key, offset),
            };
            assert_eq!(row, data, "hashed: {hashed}");
            let (from, to) = keys::record_bounds(key.space, key.table, key.hash, &key.key);
            assert!(from[..] <= *data && *data < to[..], "outside of its own key's rows");
            decoded = true;
        }
    }
    if let Ok((space, client)) = keys::parse_session(data) {
        assert_eq!(keys::session(space, client), data);
        decoded = true;
    }
    if let Ok((space, kind, id)) = keys::parse_system(data) {
        assert_eq!(keys::system(space, kind, &id), data);
        decoded = true;
    }
    if let Ok(node) = keys::parse_node_seen(data) {
        assert_eq!(keys::node_seen(node)[..], *data);
        decoded = true;
    }
    if let Ok(group) = keys::parse_group(data) {
        if let Ok(slot) = keys::parse_group_entry(group, data) {
            assert_eq!(keys::group_entry(group, slot)[..], *data);
        }
        assert!(keys::parse_group_entry(ShardId(group.0 ^ 1), data).is_err());
        decoded = true;
    }
    order(data);
    decoded
}

/// Two keys out of one input: their rows stand in the order of the keys, and never one within the other's.
fn order(data: &[u8]) {
    const SPACE: Space = Space(9);
    const TABLE: TableId = TableId(4);
    let Some((cut, rest)) = data.split_first() else { return };
    let (a, b) = rest.split_at(usize::from(*cut).min(rest.len()));
    let (head_a, head_b) = (keys::record_head(SPACE, TABLE, None, a), keys::record_head(SPACE, TABLE, None, b));
    assert_eq!(a.cmp(b), head_a.cmp(&head_b), "{a:02x?} {b:02x?}");
    let within = |(from, to): &keys::Bounds, row: &[u8]| from[..] <= *row && *row < to[..];
    let last = keys::record_history(SPACE, TABLE, None, b, Offset(u64::MAX));
    for row in [&head_b, &last] {
        assert_eq!(within(&keys::record_bounds(SPACE, TABLE, None, a), row), a == b, "{a:02x?} {b:02x?}");
        assert_eq!(within(&keys::prefix_bounds(SPACE, TABLE, a), row), b.starts_with(a), "{a:02x?} {b:02x?}");
        assert_eq!(within(&keys::range_bounds(SPACE, TABLE, Some(a), None), row), b >= a, "{a:02x?} {b:02x?}");
    }
}
