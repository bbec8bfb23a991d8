//! The administrative entries of merges: a shard, the source, goes into its neighbour, the target.
//!
//! Owns: their bytes. Must never: panic on any input, or change the meaning of a kind once released.
//!
//! | kind | | in the log of | then |
//! | --- | --- | --- | --- |
//! | 2 | begin | target | source var, version var, epoch var, source's version var, source's epoch var, from bytes, to bytes, count var, confirmed shard var… |
//! | 3 | freeze | source | target var, number var, version var, epoch var |
//! | 4 | absorb | target | source var, number var, entry id of the freeze |
//! | 5 | cancel | target | number var |
//! | 6 | unfreeze | source | target var, number var, version var |
//! | 7 | end | target | number var |

use super::{get_epoch, get_version};
use crate::codec::entry::{get_entry_id, put_entry_id};
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer, counter};
use synod_cluster::ids::{EntryId, ShardId};
use synod_paxos::types::Epoch;

pub(super) const KIND_BEGIN: u8 = 2;
pub(super) const KIND_FREEZE: u8 = 3;
pub(super) const KIND_ABSORB: u8 = 4;
pub(super) const KIND_CANCEL: u8 = 5;
pub(super) const KIND_UNFREEZE: u8 = 6;
pub(super) const KIND_END: u8 = 7;

/// In the log of the target: the source is to go into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeginMerge {
    /// The neighbour.
    pub source: ShardId,
    /// The version of the target's bounds that the merge was computed from; it counts in no other.
    pub version: u64,
    /// The epoch of the target's members that the merge was computed from; it counts in no other, nor does the absorb.
    pub epoch: Epoch,
    /// The version of the source's bounds.
    pub source_version: u64,
    /// The epoch of the source's members. They are those of the target.
    pub source_epoch: Epoch,
    /// The source's lower bound, inclusive.
    pub from: Bytes,
    /// The source's upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// Children of the target, and shards that went into it, of which the proposer's map knows: their marks are forgotten.
    pub confirmed: Vec<ShardId>,
}

/// In the log of the source: it stands still from this entry on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The shard that it is to go into.
    pub target: ShardId,
    /// The number of the merge among those of the target.
    pub seq: u64,
    /// The version of the source's bounds; it counts in no other.
    pub version: u64,
    /// The epoch of the source's members; it counts in no other.
    pub epoch: Epoch,
}

/// In the log of the target: the source goes into it, as it is at the freeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absorb {
    /// The source.
    pub source: ShardId,
    /// The number of the merge.
    pub seq: u64,
    /// The freeze, in the log of the source.
    pub at: EntryId,
}

/// In the log of the target: the source does not go into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The number of the merge.
    pub seq: u64,
}

/// In the log of the source: it goes on by itself. It fences a freeze that is still on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfreeze {
    /// The shard that it does not go into.
    pub target: ShardId,
    /// The number of the merge.
    pub seq: u64,
    /// The version of the source's bounds before the freeze.
    pub version: u64,
}

/// In the log of the target: a merge that was cancelled is over, since its source goes on or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndMerge {
    /// The number of the merge.
    pub seq: u64,
}

pub(super) fn put_begin(w: &mut Writer, begin: &BeginMerge) {
    w.u8(KIND_BEGIN);
    w.var(begin.source.0);
    w.var(begin.version);
    w.var(begin.epoch.0);
    w.var(begin.source_version);
    w.var(begin.source_epoch.0);
    w.bytes(&begin.from);
    w.bytes(&begin.to);
    w.var(begin.confirmed.len() as u64);
    for shard in &begin.confirmed {
        w.var(shard.0);
    }
}

pub(super) fn get_begin(r: &mut Reader) -> Result<BeginMerge, DecodeError> {
    let source = ShardId(r.var()?);
    let (version, epoch) = (get_version(r)?, get_epoch(r)?);
    let (source_version, source_epoch) = (get_version(r)?, get_epoch(r)?);
    let (from, to) = (r.bytes()?, r.bytes()?);
    let confirmed = (0..r.count(1)?).map(|_| r.var().map(ShardId)).collect::<Result<_, _>>()?;
    Ok(BeginMerge { source, version, epoch, source_version, source_epoch, from, to, confirmed })
}

pub(super) fn put_freeze(w: &mut Writer, freeze: &Freeze) {
    w.u8(KIND_FREEZE);
    w.var(freeze.target.0);
    w.var(freeze.seq);
    w.var(freeze.version);
    w.var(freeze.epoch.0);
}

pub(super) fn get_freeze(r: &mut Reader) -> Result<Freeze, DecodeError> {
    let (target, seq) = (ShardId(r.var()?), get_seq(r)?);
    Ok(Freeze { target, seq, version: get_version(r)?, epoch: get_epoch(r)? })
}

pub(super) fn put_absorb(w: &mut Writer, absorb: &Absorb) {
    w.u8(KIND_ABSORB);
    w.var(absorb.source.0);
    w.var(absorb.seq);
    put_entry_id(w, absorb.at);
}

pub(super) fn get_absorb(r: &mut Reader) -> Result<Absorb, DecodeError> {
    let (source, seq) = (ShardId(r.var()?), get_seq(r)?);
    Ok(Absorb { source, seq, at: get_entry_id(r)? })
}

pub(super) fn put_cancel(w: &mut Writer, cancel: &Cancel) {
    w.u8(KIND_CANCEL);
    w.var(cancel.seq);
}

pub(super) fn get_cancel(r: &mut Reader) -> Result<Cancel, DecodeError> {
    get_seq(r).map(|seq| Cancel { seq })
}

pub(super) fn put_unfreeze(w: &mut Writer, unfreeze: &Unfreeze) {
    w.u8(KIND_UNFREEZE);
    w.var(unfreeze.target.0);
    w.var(unfreeze.seq);
    w.var(unfreeze.version);
}

pub(super) fn get_unfreeze(r: &mut Reader) -> Result<Unfreeze, DecodeError> {
    let (target, seq) = (ShardId(r.var()?), get_seq(r)?);
    Ok(Unfreeze { target, seq, version: get_version(r)? })
}

pub(super) fn put_end(w: &mut Writer, end: &EndMerge) {
    w.u8(KIND_END);
    w.var(end.seq);
}

pub(super) fn get_end(r: &mut Reader) -> Result<EndMerge, DecodeError> {
    get_seq(r).map(|seq| EndMerge { seq })
}

/// The number of a merge.
fn get_seq(r: &mut Reader) -> Result<u64, DecodeError> {
    let beyond = r.error("a number that no merge comes to");
    counter(r.var()?, beyond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Admin, decode_admin, encode_admin, is_admin};
    use synod_cluster::ids::{Ballot, NodeId, Slot};

    fn begin() -> BeginMerge {
        BeginMerge {
            source: ShardId(300),
            version: 4,
            epoch: Epoch(7),
            source_version: 5,
            source_epoch: Epoch(2),
            from: Bytes::from_static(b"m\0"),
            to: Bytes::new(),
            confirmed: vec![ShardId(9)],
        }
    }

    /// Each kind and its bytes.
    fn all() -> Vec<(Admin, Vec<u8>)> {
        let at = EntryId { slot: Slot(77), origin: Ballot { epoch: Epoch(2), round: 3, node: NodeId(1) } };
        let (target, source) = (ShardId(8), ShardId(300));
        vec![
            (Admin::BeginMerge(begin()), vec![3, 2, 0xac, 2, 4, 7, 5, 2, 2, b'm', 0, 0, 1, 9]),
            (Admin::Freeze(Freeze { target, seq: 6, version: 5, epoch: Epoch(2) }), vec![3, 3, 8, 6, 5, 2]),
            (Admin::Absorb(Absorb { source, seq: 6, at }), vec![3, 4, 0xac, 2, 6, 77, 2, 3, 1]),
            (Admin::Cancel(Cancel { seq: 6 }), vec![3, 5, 6]),
            (Admin::Unfreeze(Unfreeze { target, seq: 6, version: 5 }), vec![3, 6, 8, 6, 5]),
            (Admin::EndMerge(EndMerge { seq: 6 }), vec![3, 7, 6]),
        ]
    }

    #[test]
    fn the_bytes_of_each_kind_are_these() {
        for (admin, bytes) in all() {
            let data = encode_admin(&admin);
            assert_eq!(data, bytes[..], "{admin:?}");
            assert!(is_admin(&data));
            assert_eq!(decode_admin(data.clone()), Ok(admin));
            for len in 0..data.len() {
                assert!(decode_admin(data.slice(..len)).is_err(), "cut to {len} bytes");
            }
            let longer = [&data[..], &[0]].concat();
            assert!(decode_admin(longer.into()).is_err());
        }
    }

    #[test]
    fn a_counter_that_could_not_be_counted_on_from_is_refused() {
        let far = [
            BeginMerge { version: u64::MAX, ..begin() },
            BeginMerge { epoch: Epoch(u64::MAX), ..begin() },
            BeginMerge { source_version: u64::MAX, ..begin() },
            BeginMerge { source_epoch: Epoch(u64::MAX), ..begin() },
        ];
        for far in far {
            assert!(decode_admin(encode_admin(&Admin::BeginMerge(far))).is_err());
        }
        assert!(decode_admin(encode_admin(&Admin::Cancel(Cancel { seq: u64::MAX }))).is_err());
    }
}
