//! Administrative entries: changes of the shard itself, each in an entry of its own.
//!
//! Owns: their bytes. Must never: panic on any input, or change the meaning of a kind once released.
//!
//! The data of such an entry is `3 | kind u8 | …`, so it is no request of a client: those begin with 1 or 2. No entry of a kind is
//! proposed before the cluster is at a version that has it.
//!
//! | kind | | then |
//! | --- | --- | --- |
//! | 1 | split | child var, at bytes, version var, epoch var, count var, voter var…, count var, confirmed child var… |
//! | 2 to 7 | those of merges | see `merge` |

mod merge;

pub use merge::{Absorb, BeginMerge, Cancel, EndMerge, Freeze, Unfreeze};

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer, counter};
use synod_cluster::ids::{ClusterVersion, NodeId, ShardId};
use synod_paxos::types::Epoch;

/// The first byte of an administrative entry's data.
const ADMIN: u8 = 3;
const KIND_SPLIT: u8 = 1;

/// A change of the shard itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// The upper part of the shard becomes a shard of its own.
    Split(Split),
    /// A neighbour is to go into the shard.
    BeginMerge(BeginMerge),
    /// The shard stands still, to go into a neighbour.
    Freeze(Freeze),
    /// The neighbour goes into the shard.
    Absorb(Absorb),
    /// The neighbour does not go into the shard.
    Cancel(Cancel),
    /// The shard goes on by itself.
    Unfreeze(Unfreeze),
    /// A merge that was cancelled is over.
    EndMerge(EndMerge),
}

impl Admin {
    /// The cluster version from which on it may be proposed.
    #[must_use]
    pub fn needs(&self) -> ClusterVersion {
        match self {
            Self::Split(_) => ClusterVersion::FOURTH,
            Self::BeginMerge(_)
            | Self::Freeze(_)
            | Self::Absorb(_)
            | Self::Cancel(_)
            | Self::Unfreeze(_)
            | Self::EndMerge(_) => ClusterVersion::FIFTH,
        }
    }
}

/// A split: the shard keeps the positions below `at`, and the child gets the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The new shard.
    pub child: ShardId,
    /// Its first position.
    pub at: Bytes,
    /// The version of the shard's bounds that the split was computed from; it counts in no other.
    pub version: u64,
    /// The epoch of its members that the split was computed from; it counts in no other.
    pub epoch: Epoch,
    /// The shard's voters in that epoch, in rising order. They are the child's first members.
    pub voters: Vec<NodeId>,
    /// Earlier children that the proposer's map knows: their marks are forgotten.
    pub confirmed: Vec<ShardId>,
}

/// The data of an administrative entry.
#[must_use]
pub fn encode_admin(admin: &Admin) -> Bytes {
    let mut w = Writer::with_capacity(128);
    w.u8(ADMIN);
    match admin {
        Admin::Split(split) => put_split(&mut w, split),
        Admin::BeginMerge(begin) => merge::put_begin(&mut w, begin),
        Admin::Freeze(freeze) => merge::put_freeze(&mut w, freeze),
        Admin::Absorb(absorb) => merge::put_absorb(&mut w, absorb),
        Admin::Cancel(cancel) => merge::put_cancel(&mut w, cancel),
        Admin::Unfreeze(unfreeze) => merge::put_unfreeze(&mut w, unfreeze),
        Admin::EndMerge(end) => merge::put_end(&mut w, end),
    }
    w.into_bytes()
}

fn put_split(w: &mut Writer, split: &Split) {
    w.u8(KIND_SPLIT);
    w.var(split.child.0);
    w.bytes(&split.at);
    w.var(split.version);
    w.var(split.epoch.0);
    w.var(split.voters.len() as u64);
    for voter in &split.voters {
        w.var(voter.0);
    }
    w.var(split.confirmed.len() as u64);
    for child in &split.confirmed {
        w.var(child.0);
    }
}

/// Whether an entry's data is that of an administrative entry, of a known kind or not.
#[must_use]
pub fn is_admin(data: &[u8]) -> bool {
    data.first() == Some(&ADMIN)
}

/// Reads the data of an administrative entry back.
///
/// # Errors
/// The bytes are no administrative entry of a known kind.
pub fn decode_admin(data: Bytes) -> Result<Admin, DecodeError> {
    let mut r = Reader::new(data);
    let other = r.error("not the data of an administrative entry");
    if r.u8()? != ADMIN {
        return Err(other);
    }
    let unknown = r.error("unknown kind of administrative entry");
    let admin = match r.u8()? {
        KIND_SPLIT => Admin::Split(get_split(&mut r)?),
        merge::KIND_BEGIN => Admin::BeginMerge(merge::get_begin(&mut r)?),
        merge::KIND_FREEZE => Admin::Freeze(merge::get_freeze(&mut r)?),
        merge::KIND_ABSORB => Admin::Absorb(merge::get_absorb(&mut r)?),
        merge::KIND_CANCEL => Admin::Cancel(merge::get_cancel(&mut r)?),
        merge::KIND_UNFREEZE => Admin::Unfreeze(merge::get_unfreeze(&mut r)?),
        merge::KIND_END => Admin::EndMerge(merge::get_end(&mut r)?),
        _ => return Err(unknown),
    };
    r.finish()?;
    Ok(admin)
}

fn get_split(r: &mut Reader) -> Result<Split, DecodeError> {
    let child = ShardId(r.var()?);
    let at = r.bytes()?;
    let (version, epoch) = (get_version(r)?, get_epoch(r)?);
    let voters = (0..r.count(1)?).map(|_| r.var().map(NodeId)).collect::<Result<_, _>>()?;
    let confirmed = (0..r.count(1)?).map(|_| r.var().map(ShardId)).collect::<Result<_, _>>()?;
    Ok(Split { child, at, version, epoch, voters, confirmed })
}

fn get_version(r: &mut Reader) -> Result<u64, DecodeError> {
    let beyond = r.error("a version that no shard comes to");
    counter(r.var()?, beyond)
}

fn get_epoch(r: &mut Reader) -> Result<Epoch, DecodeError> {
    let beyond = r.error("an epoch that no group comes to");
    counter(r.var()?, beyond).map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{WriteRequest, decode_entry, encode_requests, is_marker, marker};

    fn split() -> Split {
        Split {
            child: ShardId(300),
            at: Bytes::from_static(b"m\0"),
            version: 4,
            epoch: Epoch(7),
            voters: vec![NodeId(1), NodeId(2), NodeId(200)],
            confirmed: vec![ShardId(9)],
        }
    }

    #[test]
    fn the_bytes_of_a_split_are_these() {
        let data = encode_admin(&Admin::Split(split()));
        assert_eq!(data, [3, 1, 0xac, 2, 2, b'm', 0, 4, 7, 3, 1, 2, 0xc8, 1, 1, 9][..]);
        assert!(is_admin(&data));
        assert_eq!(decode_admin(data), Ok(Admin::Split(split())));
        let bare = Split { voters: vec![], confirmed: vec![], at: Bytes::new(), ..split() };
        let data = encode_admin(&Admin::Split(bare.clone()));
        assert_eq!(data, [3, 1, 0xac, 2, 0, 4, 7, 0, 0][..]);
        assert_eq!(decode_admin(data), Ok(Admin::Split(bare)));
    }

    #[test]
    fn it_is_neither_a_request_nor_a_marker_and_what_is_unknown_is_named() {
        let data = encode_admin(&Admin::Split(split()));
        assert!(!is_marker(&data));
        assert!(decode_entry(data.clone()).is_err());
        let requests = encode_requests(std::iter::empty::<&WriteRequest>(), 0);
        assert!(!is_admin(&requests) && !is_admin(&marker()) && !is_admin(&[]));
        assert_eq!(decode_admin(marker()).unwrap_err().what, "not the data of an administrative entry");
        let unknown = decode_admin(Bytes::from_static(&[3, 9, 1])).unwrap_err();
        assert_eq!((unknown.what, unknown.at), ("unknown kind of administrative entry", 1));
        for len in 0..data.len() {
            assert!(decode_admin(data.slice(..len)).is_err(), "cut to {len} bytes");
        }
        let longer = [&data[..], &[0]].concat();
        assert!(decode_admin(longer.into()).is_err());
    }

    #[test]
    fn a_counter_that_could_not_be_counted_on_from_is_refused() {
        for far in [Split { version: u64::MAX, ..split() }, Split { epoch: Epoch(u64::MAX), ..split() }] {
            assert!(decode_admin(encode_admin(&Admin::Split(far))).is_err());
        }
    }
}
