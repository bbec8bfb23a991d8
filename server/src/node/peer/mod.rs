//! What nodes say to each other: consensus links, pulses, identities, founding and joining.
//!
//! Owns: the connections between nodes, the failure detector, the first minutes of a data directory. Must never: look into
//! a consensus message beyond decoding it, decide who may vote (the worker does), block the worker, or queue without a
//! bound.
//!
//! | file | what |
//! | --- | --- |
//! | `outbox` | the worker's end: messages into frames, frames to each peer's socket |
//! | `pipe` | that socket, and what it did not take at once |
//! | `link` | one task a peer that keeps a link open and carries what waits |
//! | `wire` | the bytes of a link |
//! | `intake` | incoming links: frames to the worker |
//! | `fences` | fences off all but the newest incoming link of each peer |
//! | `pulse` | liveness: pulses both ways; `synod_cluster::detector` says what they mean |
//! | `hello` | who may talk to whom |
//! | `twins` | which process of each node is believed |
//! | `spoken` | which cluster version each node speaks, and where it runs |
//! | `addresses`, `seek` | where peers are: what the map says, what they say themselves, and asking where nobody is heard |
//! | `seen`, `progress` | what pulses report: the identity mechanism's table, the log writer's progress |
//! | `service` | the gRPC service |
//! | `bulk` | snapshots: offered, and fetched over a connection of their own |
//! | `identify` | what this node is, for those who ask |
//! | `bootstrap`, `founding`, `files` | how a fresh data directory gets to belong to a cluster |
//! | `bootstrap_error` | why it does not |
//! | `shared` | what the tasks towards all peers share, and the failure detector |
//! | `peers` | starts and stops all of it as the map changes |

pub mod addresses;
pub mod bootstrap;
pub mod bulk;
pub mod counters;
pub mod identify;
pub mod outbox;
pub mod peers;
pub mod progress;
pub mod seen;
pub mod service;
pub mod spoken;
mod walls;
pub mod wire;

mod bootstrap_error;
mod dial;
mod drift;
mod fences;
mod files;
mod founding;
mod hello;
mod intake;
mod link;
mod pipe;
mod pulse;
mod seek;
mod shared;
mod twins;

#[cfg(test)]
mod tests;

pub use addresses::{Addresses, is_address};
pub use bootstrap::{Belonging, How, address_change, settle};
pub use bootstrap_error::BootstrapError;
pub use counters::PeerCounters;
pub use dial::{frame_bytes_max, tune_server};
pub use identify::IdentifyService;
pub use outbox::Outbox;
pub use peers::Peers;
pub use progress::{Progress, Work};
pub use seen::SeenTable;
pub use service::{HELLO_METADATA, PeerService};
pub use shared::PeersSetup;
pub use spoken::{Place, Said, Spoken, ask_ready, ask_seal};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId, Nonce};
use synod_engine::host::Input;
use synod_proto::peer::{
    JoinReply, JoinRequest, MergeFrozen, ScrubHash, SnapshotAsk, SnapshotFetch, SnapshotOffer, SnapshotPart,
    SystemProposal, SystemReply,
};
use tokio::sync::mpsc;
use tonic::Status;

/// The worker's queue.
pub trait WorkerInbox: Send + Sync {
    /// Hands over one input without blocking; `false` where the queue is full, and the input is gone. Consensus messages
    /// are then lost (the protocol sends again); liveness and identity answers are pushed again by this module.
    fn push(&self, input: Input) -> bool;
}

/// The way to the system shard.
#[tonic::async_trait]
pub trait SystemHandler: Send + Sync {
    /// Gives a joining node its id, here or at the system shard's leader.
    ///
    /// # Errors
    /// `InvalidArgument` or `AlreadyExists`: the joiner gives up and says why. Any other (a member that is quarantined, or
    /// cannot reach the system shard): it asks again, here and elsewhere.
    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Status>;

    /// Keeps binaries that do not speak `version` from this node's data directory.
    ///
    /// # Errors
    /// This node does not speak it, or its disk failed.
    async fn seal(&self, version: ClusterVersion) -> Result<(), Status>;

    /// Proposes a metadata command, here or at the system shard's leader.
    ///
    /// # Errors
    /// As for any call; nothing is said of whether the command was carried out.
    async fn propose(&self, proposal: SystemProposal) -> Result<SystemReply, Status>;
}

/// What becomes of snapshots between nodes.
pub trait SnapshotHandler: Send + Sync {
    /// A peer has a snapshot for this node.
    fn offered(self: Arc<Self>, from: NodeId, offer: &SnapshotOffer);

    /// A peer whose state is gone asks for one.
    fn asked(&self, by: NodeId, ask: &SnapshotAsk);

    /// A peer tells what its replica of a shard holds at a slot.
    fn scrub_hash(&self, from: NodeId, told: &ScrubHash);

    /// A peer gives its word about a merge.
    fn merge_word(&self, from: NodeId, told: &MergeFrozen);

    /// A peer fetches one.
    ///
    /// # Errors
    /// It is not here, or no longer.
    fn parts(&self, to: NodeId, fetch: &SnapshotFetch) -> Result<mpsc::Receiver<Result<SnapshotPart, Status>>, Status>;
}

/// Who this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The cluster's random name.
    pub cluster: u128,
    /// This node.
    pub node: NodeId,
    /// This process.
    pub incarnation: Incarnation,
    /// What it drew when it started; 0 says nothing.
    pub nonce: Nonce,
    /// The greatest cluster version that it speaks.
    pub speaks: ClusterVersion,
}

/// Locks what no panic can leave half-changed: every critical section here is a few assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
