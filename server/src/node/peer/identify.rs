//! Answers "who are you, and whom do you take me for?" before and after this node belongs to a cluster.
//!
//! Owns: what this node says of itself to a fresh node. Must never: claim a cluster before its identity is durable.

use super::addresses::Addresses;
use super::lock;
use super::seen::SeenTable;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::NodeId;
use synod_cluster::system::SystemState;
use synod_engine::logstore::NodeIdentity;
use synod_proto::peer::{IdentifyReply, IdentifyRequest, NodeAddress};
use tonic::Status;

/// Answers `Identify`.
#[derive(Debug)]
pub struct IdentifyService {
    seen: Arc<SeenTable>,
    addresses: Arc<Addresses>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The data directory is not read yet.
    Starting,
    /// Belongs to no cluster.
    Fresh { bootstrap: Vec<String>, nonce: u64 },
    /// Belongs to one.
    Member { identity: NodeIdentity, founders: Vec<String> },
}

impl IdentifyService {
    /// A service that knows nothing yet but what was seen of others.
    #[must_use]
    pub fn new(seen: Arc<SeenTable>) -> Arc<Self> {
        Arc::new(Self { seen, addresses: Arc::default(), state: Mutex::new(State::Starting) })
    }

    /// This node belongs to no cluster and was given this list; `nonce` names this process.
    pub(super) fn fresh(&self, bootstrap: &[String], nonce: u64) {
        *lock(&self.state) = State::Fresh { bootstrap: bootstrap.to_vec(), nonce };
    }

    /// This node belongs to a cluster, durably. `founders` is empty where it did not found it.
    pub(super) fn member(&self, identity: &NodeIdentity, founders: &[String]) {
        *lock(&self.state) = State::Member { identity: identity.clone(), founders: founders.to_vec() };
    }

    /// Learns where nodes are.
    pub(super) fn learn(&self, map: &SystemState) {
        self.addresses.learn(map);
    }

    /// Where nodes are.
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// The answer to `request`. `node` is whom this node takes the asker for (0: nobody), `ready` whether that node was
    /// ever alive in this cluster.
    pub(super) fn answer(&self, request: &IdentifyRequest) -> Result<IdentifyReply, Status> {
        match &*lock(&self.state) {
            State::Starting => Err(Status::unavailable("the node is starting")),
            State::Fresh { nonce, .. } if request.nonce != 0 && request.nonce == *nonce => {
                Err(Status::already_exists("this is the very process that asks"))
            }
            State::Fresh { bootstrap, .. } => {
                Ok(IdentifyReply { bootstrap: bootstrap.clone(), ..IdentifyReply::default() })
            }
            State::Member { identity, founders } => {
                let founder = (1..).zip(founders).find(|(_, addr)| **addr == request.addr).map(|(id, _)| NodeId(id));
                let node = self.addresses.mapped_at(&request.addr).or(founder);
                // Also under the address it had as a founder: its votes are no less given.
                let met = |node: Option<NodeId>| node.is_some_and(|n| n == identity.node || self.seen.has_met(n));
                Ok(IdentifyReply {
                    cluster: identity.cluster.0.to_be_bytes().to_vec().into(),
                    node: node.map_or(0, |n| n.0),
                    bootstrap: Vec::new(),
                    founders: founders.clone(),
                    ready: met(node) || met(founder),
                    me: identity.node.0,
                    known: self
                        .addresses
                        .all()
                        .into_iter()
                        .map(|(node, addr)| NodeAddress { node: node.0, addr })
                        .collect(),
                })
            }
        }
    }
}
