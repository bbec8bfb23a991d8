//! What a group was created with, stored beside its first hard state.
//!
//! Owns: the form of that row's content: `kind u8 | …`. Kind 0 is an ordinary shard's descriptor, and kind 1 the system shard's
//! first metadata. Kind 2 is the child of a split: `parent u64 | slot u64 | descriptor`, integers little-endian. It is written only in a
//! cluster that knows splits. Must never: change once a group exists; what came later is in the group's log.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::{ClusterVersion, SYSTEM_SHARD, ShardId, Slot};
use synod_cluster::system::{Birth, Descriptor, MetadataError, SystemState, decode_descriptor, encode_descriptor};

const KIND_SHARD: u8 = 0;
const KIND_SYSTEM: u8 = 1;
const KIND_CHILD: u8 = 2;

/// The greatest cluster version whose metadata this binary can read. Whether a node takes part at a version is another matter: that
/// goes by what its process is set to speak.
pub const READABLE: ClusterVersion = ClusterVersion::FIFTH;
const _: () = assert!(ClusterVersion::SPOKEN.0 <= READABLE.0);

/// The beginning of a group: the same at each of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Genesis {
    /// A shard of a table.
    Shard(Descriptor),
    /// The system shard, with the metadata of a new cluster.
    System(Box<SystemState>),
    /// A shard that a split made. It begins with records and sessions.
    Child {
        /// The shard that was split.
        parent: ShardId,
        /// Where in that shard's log the split is.
        slot: Slot,
        /// The child, as the split made it.
        descriptor: Descriptor,
    },
}

impl Genesis {
    /// The descriptor of the shard; `None` for a system state that does not describe the system shard.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match self {
            Self::Shard(descriptor) | Self::Child { descriptor, .. } => Some(descriptor),
            Self::System(state) => state.shards.get(&SYSTEM_SHARD),
        }
    }

    /// Whether it is the child of a split. Such a group does not begin with nothing.
    #[must_use]
    pub fn is_child(&self) -> bool {
        matches!(self, Self::Child { .. })
    }

    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, body) = match self {
            Self::Shard(descriptor) => (KIND_SHARD, encode_descriptor(descriptor)),
            Self::System(state) => (KIND_SYSTEM, state.encode()),
            Self::Child { parent, slot, descriptor } => {
                let mut body = BytesMut::new();
                body.put_u64_le(parent.0);
                body.put_u64_le(slot.0);
                body.extend_from_slice(&encode_descriptor(descriptor));
                (KIND_CHILD, body.freeze())
            }
        };
        let mut out = BytesMut::with_capacity(1 + body.len());
        out.put_u8(kind);
        out.extend_from_slice(&body);
        out.freeze()
    }

    /// Reads back what [`Genesis::encode`] wrote for the group `shard`.
    ///
    /// # Errors
    /// The bytes are damaged, of an unknown kind, or those of another group; or the cluster began at a version that this
    /// binary does not speak.
    pub fn decode(mut data: Bytes, shard: ShardId) -> Result<Self, MetadataError> {
        if data.is_empty() {
            return Err(DecodeError { what: "end of bytes, a kind of group expected", at: 0 }.into());
        }
        let body = data.split_off(1);
        let genesis = match data[0] {
            KIND_SHARD => Self::Shard(decode_descriptor(body)?),
            KIND_SYSTEM => Self::System(Box::new(SystemState::decode_for(body, READABLE)?)),
            KIND_CHILD => decode_child(body)?,
            _ => return Err(DecodeError { what: "unknown kind of group", at: 0 }.into()),
        };
        match genesis.descriptor() {
            Some(descriptor) if descriptor.shard == shard => Ok(genesis),
            _ => Err(DecodeError { what: "the beginning of another group", at: 1 }.into()),
        }
    }
}

fn decode_child(mut body: Bytes) -> Result<Genesis, DecodeError> {
    if body.len() < 16 {
        return Err(DecodeError { what: "end of bytes, a parent and a slot expected", at: 1 });
    }
    let (parent, slot) = (ShardId(body.get_u64_le()), Slot(body.get_u64_le()));
    let descriptor = decode_descriptor(body)?;
    match descriptor.born {
        Birth::Child { parent: named, .. } if named == parent => Ok(Genesis::Child { parent, slot, descriptor }),
        _ => Err(DecodeError { what: "a child that its descriptor does not name as one", at: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of shard 9, which the entry in slot 300 of shard 2 made.
    fn child() -> Genesis {
        let (parent, slot) = (ShardId(2), Slot(300));
        let born = Birth::Child { parent, version: 4 };
        let founded = SystemState::found(7, &["a:1".into()]).shards[&SYSTEM_SHARD].clone();
        Genesis::Child { parent, slot, descriptor: Descriptor { shard: ShardId(9), version: 4, born, ..founded } }
    }

    #[test]
    fn the_bytes_of_a_child_are_these() {
        let genesis = child();
        let data = genesis.encode();
        let head: [u8; 17] = [2, 2, 0, 0, 0, 0, 0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(data[..17], head);
        assert_eq!(data[17..], encode_descriptor(genesis.descriptor().unwrap())[..]);
        assert_eq!(Genesis::decode(data.clone(), ShardId(9)).unwrap(), genesis);
        assert!(genesis.is_child() && Genesis::decode(data.clone(), ShardId(2)).is_err());
        for len in 0..data.len() {
            assert!(Genesis::decode(data.slice(..len), ShardId(9)).is_err(), "cut to {len} bytes");
        }
        // Another parent than the descriptor says.
        let mut other = data.to_vec();
        other[1] = 3;
        assert!(Genesis::decode(other.into(), ShardId(9)).is_err());
    }

    #[test]
    fn comes_back_for_its_own_group_only() {
        let state = SystemState::found(7, &["a:1".into(), "b:1".into()]);
        let descriptor = state.shards[&SYSTEM_SHARD].clone();
        for genesis in [Genesis::Shard(descriptor), Genesis::System(Box::new(state))] {
            let data = genesis.encode();
            assert_eq!(Genesis::decode(data.clone(), SYSTEM_SHARD).unwrap(), genesis);
            assert!(Genesis::decode(data.clone(), ShardId(2)).is_err());
            assert!(Genesis::decode(data.slice(..data.len() - 1), SYSTEM_SHARD).is_err());
        }
        assert!(Genesis::decode(Bytes::new(), SYSTEM_SHARD).is_err());
        assert!(Genesis::decode(Bytes::from_static(&[9, 9]), SYSTEM_SHARD).is_err());
    }
}
