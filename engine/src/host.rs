//! The border of the engine: what a worker is told, and what it asks of its surroundings.
//!
//! Owns: the [`Host`] trait; inputs by subject, requests, answers and reports are modules of their own. Must never: block, or
//! know what a socket is.

mod admin;
mod answers;
mod inputs;
mod node;
mod peers;
mod reads;
mod reports;
mod requests;
mod scrubs;
mod snapshots;

pub use admin::AdminInput;
pub use answers::{Answer, KeyedRecord, Reply, ReplySink};
pub use inputs::Input;
pub use node::NodeInput;
pub use peers::PeerInput;
pub use reads::{FetchRequest, RowsFetched};
pub use reports::{NodeReport, ReplicaReport, ScrubReport};
pub use requests::{At, Body, Freshness, Read, Request, Scan, TailPoll};
pub use scrubs::ScrubInput;
pub use snapshots::{SnapshotInput, SnapshotKind};

use crate::scrub::ScrubRequest;
pub use crate::snapshot::SnapshotRequest;
use crate::state::{BulkLoad, ViewJob};
use std::sync::Arc;
use synod_cluster::ids::{NodeId, NodeWriteSeq, ShardId, Slot, Space};
use synod_cluster::system::SystemState;
use synod_paxos::message::Message;
use synod_paxos::types::Membership;

/// What a worker asks of its surroundings. Calls must not block.
pub trait Host: Send {
    /// Queues a message; it leaves with the next `flush`. A full queue drops it: the protocol sends again.
    fn send(&mut self, to: NodeId, shard: ShardId, message: Message);
    /// The peers and shards whose messages found no room in `send` or `flush` since this was last asked; each pair once. Messages
    /// that found no open link are not among them: when a link opens, that is told as liveness.
    fn dropped(&mut self) -> Vec<(NodeId, ShardId)> {
        Vec::new()
    }
    /// Sends what is queued, stamped with the node's last durable write.
    fn flush(&mut self, durable: NodeWriteSeq);
    /// The system shard here applied a change.
    fn map_changed(&mut self, map: Arc<SystemState>);
    /// Roles changed: this node now leads so many shards. For metrics and hints.
    fn role_changed(&mut self, shard: ShardId, leader: Option<NodeId>, here: bool);
    /// A group led here has entered an epoch of which an entry is chosen, and the map does not know it yet: the system
    /// shard is to be told. Said again until the map knows.
    fn members_changed(&mut self, shard: ShardId, membership: Membership) {
        let _ = (shard, membership);
    }
    /// Every leadership was handed over, or could not be.
    fn drained(&mut self);
    /// An invariant of a shard or a store was violated, or a store failed; the host ends the process with this line.
    fn fatal(&mut self, why: String) -> !;
    /// This node must no longer vote; it stays up to say why.
    fn quarantined(&mut self, why: &str);
    /// A random word.
    fn random(&mut self) -> u64;

    /// What writes a snapshot into a file once it is handed the rows, and then tells [`SnapshotInput::Built`]. `None` where
    /// this host makes none: members that are behind the log then stay there.
    fn build_snapshot(&mut self, request: SnapshotRequest) -> Option<ViewJob> {
        let _ = request;
        None
    }

    /// Tells a member that the snapshot made of this shard is there for it.
    fn offer_snapshot(&mut self, to: NodeId, shard: ShardId) {
        let _ = (to, shard);
    }

    /// Asks a member for a snapshot at or above `least`: the state here is gone. It comes as an offer, or not at all.
    fn ask_snapshot(&mut self, to: NodeId, shard: ShardId, least: Slot) {
        let _ = (to, shard, least);
    }

    /// Loads the snapshot received of this shard into a space, on another thread; then tells [`SnapshotInput::Loaded`].
    fn load_snapshot(&mut self, shard: ShardId, space: Space, loader: Arc<dyn BulkLoad>) {
        let _ = (shard, space, loader);
    }

    /// Has rows brought into memory on another thread, which then tells [`RowsFetched`], whatever came of it. `false` where it
    /// does not: the worker reads them itself.
    fn fetch_rows(&mut self, request: FetchRequest) -> bool {
        drop(request);
        false
    }

    /// What reads a replica once it is handed the rows, and then tells [`ScrubInput::Scrubbed`]. `None` where this host does not.
    fn build_scrub(&mut self, request: ScrubRequest) -> Option<ViewJob> {
        let _ = request;
        None
    }

    /// Tells a member what this replica holds at a slot; where that is lost, that member compares without it.
    fn tell_scrub(&mut self, to: NodeId, shard: ShardId, slot: Slot, hash: u128) {
        let _ = (to, shard, slot, hash);
    }

    /// A snapshot's file is no longer needed.
    fn forget_snapshot(&mut self, shard: ShardId, kind: SnapshotKind) {
        let _ = (shard, kind);
    }
}
