//! What a group was created with, stored beside its first hard state.
//!
//! Owns: the form of that row's content: `kind u8 | …`, kind 0 an ordinary shard's descriptor, kind 1 the system shard's
//! first metadata. Must never: change once a group exists; what came later is in the group's log.

use bytes::{BufMut, Bytes, BytesMut};
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::{SYSTEM_SHARD, ShardId};
use synod_cluster::system::{Descriptor, MetadataError, SystemState, decode_descriptor, encode_descriptor};

const KIND_SHARD: u8 = 0;
const KIND_SYSTEM: u8 = 1;

/// The beginning of a group: the same at each of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Genesis {
    /// A shard of a table.
    Shard(Descriptor),
    /// The system shard, with the metadata of a new cluster.
    System(Box<SystemState>),
}

impl Genesis {
    /// The descriptor of the shard; `None` for a system state that does not describe the system shard.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match self {
            Self::Shard(descriptor) => Some(descriptor),
            Self::System(state) => state.shards.get(&SYSTEM_SHARD),
        }
    }

    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, body) = match self {
            Self::Shard(descriptor) => (KIND_SHARD, encode_descriptor(descriptor)),
            Self::System(state) => (KIND_SYSTEM, state.encode()),
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
            KIND_SYSTEM => Self::System(Box::new(SystemState::decode(body)?)),
            _ => return Err(DecodeError { what: "unknown kind of group", at: 0 }.into()),
        };
        match genesis.descriptor() {
            Some(descriptor) if descriptor.shard == shard => Ok(genesis),
            _ => Err(DecodeError { what: "the beginning of another group", at: 1 }.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
