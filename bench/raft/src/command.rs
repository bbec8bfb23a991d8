//! Commands: of one length, told apart by a head of 16 bytes, and batched one after another into one entry.
//!
//! Owns: their layout, and the digest of their order. Must never: lose the order in the digest.

use bytes::Bytes;
use synod_paxos::types::NodeId;

/// Shortest command, bytes: its head.
pub const BYTES_MIN: usize = 16;

/// What tells a command from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The node whose proposer made it.
    pub node: NodeId,
    /// The proposer.
    pub proposer: u32,
    /// Greater with each command of the node.
    pub seq: u64,
}

impl Head {
    /// Appends the command of this head, `bytes` long.
    pub fn put(&self, bytes: usize, out: &mut Vec<u8>) {
        let end = out.len() + bytes;
        let node = u32::try_from(self.node.0).expect("there are three nodes");
        out.extend_from_slice(&node.to_le_bytes());
        out.extend_from_slice(&self.proposer.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.resize(end, 7);
    }

    fn read(command: &[u8]) -> Option<Head> {
        let (node, rest) = command.split_first_chunk::<4>()?;
        let (proposer, rest) = rest.split_first_chunk::<4>()?;
        let seq = rest.first_chunk::<8>()?;
        Some(Head {
            node: NodeId(u64::from(u32::from_le_bytes(*node))),
            proposer: u32::from_le_bytes(*proposer),
            seq: u64::from_le_bytes(*seq),
        })
    }
}

/// The commands of an entry; `None` where its length is no multiple of theirs.
#[must_use]
pub fn heads(payload: &Bytes, bytes: usize) -> Option<Vec<Head>> {
    let commands = payload.chunks_exact(bytes);
    if !commands.remainder().is_empty() {
        return None;
    }
    commands.map(Head::read).collect()
}

/// The state machine: how many commands were applied, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// How many.
    pub count: u64,
    /// Differs, but for chance, where any command or the order differs.
    pub digest: u64,
}

impl Order {
    /// The next command.
    pub fn apply(&mut self, head: &Head) {
        self.count += 1;
        for word in [(head.node.0 << 32) | u64::from(head.proposer), head.seq] {
            self.digest = (self.digest.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(proposer: u32, seq: u64) -> Head {
        Head { node: NodeId(2), proposer, seq }
    }

    #[test]
    fn a_batch_comes_back_command_by_command() {
        let sent = [head(0, 1), head(255, 2), head(7, u64::MAX)];
        for bytes in [BYTES_MIN, 17, 256] {
            let mut batch = Vec::new();
            sent.iter().for_each(|head| head.put(bytes, &mut batch));
            let mut batch = Bytes::from(batch);
            assert_eq!(batch.len(), 3 * bytes);
            assert_eq!(heads(&batch, bytes).as_deref(), Some(&sent[..]));
            batch.truncate(3 * bytes - 1);
            assert_eq!(heads(&batch, bytes), None, "a cut batch is no batch");
        }
    }

    #[test]
    fn the_digest_tells_orders_and_commands_apart() {
        let of = |heads: &[Head]| {
            let mut order = Order::default();
            heads.iter().for_each(|head| order.apply(head));
            order.digest
        };
        let all = [head(1, 1), head(2, 2), head(3, 3)];
        assert_ne!(of(&all), of(&[all[0], all[2], all[1]]), "two swapped");
        assert_ne!(of(&all), of(&[all[0], all[1], head(4, 3)]), "another proposer");
        assert_ne!(of(&all[..2]), of(&all), "one less");
    }
}
