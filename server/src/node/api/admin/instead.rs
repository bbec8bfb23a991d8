//! Calls that a shard's leader answers, whichever node is asked.
//!
//! Owns: what is said where the leader's binary does not know the call. Must never: let that pass for the answer of the node that was asked.

use super::Running;
use crate::node::api::convert;
use crate::node::status::status;
use synod_cluster::ids::NodeId;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::CLUSTER_VERSION;
use synod_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// The leader, asked in the place of the node that a call came to.
pub(super) struct Instead {
    node: NodeId,
    addr: String,
    shard: u64,
    /// Its service.
    pub(super) admin: AdminClient<Channel>,
}

impl Running {
    /// The node where a call goes that this node's worker refused.
    ///
    /// # Errors
    /// As [`Running::leader_instead`].
    pub(super) async fn instead(&self, refusal: &Refusal, shard: u64, forwarded: bool) -> Result<Instead, Status> {
        let node = self.elsewhere(refusal, shard, forwarded)?;
        let admin = self.admin_of(node).await?;
        let addr = self.peers.address(node).unwrap_or_else(|| "an unknown address".to_owned());
        Ok(Instead { node, addr, shard, admin })
    }
}

impl Instead {
    /// What the leader answered. Where its binary does not know the call, who that is: this node's binary does.
    pub(super) fn answered<T>(&self, answer: Result<Response<T>, Status>) -> Result<Response<T>, Status> {
        answer.map_err(|failed| match failed.code() {
            Code::Unimplemented => not_known(self.node, &self.addr, self.shard),
            _ => failed,
        })
    }
}

fn not_known(node: NodeId, addr: &str, shard: u64) -> Status {
    let why = format!(
        "node {node} at {addr}, which leads shard {shard}, runs an older binary that does not know this call: replace its binary"
    );
    status(&convert::invalid(CLUSTER_VERSION, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::typed;
    use synod_proto::v1::error::Kind;

    #[test]
    fn an_older_leader_is_named_and_the_call_is_not_to_be_repeated() {
        let refused = not_known(NodeId(2), "h2:1", 1);
        let error = typed(&refused).expect("it is typed");
        assert!(!error.retryable && error.message.contains("node 2 at h2:1, which leads shard 1"), "{error:?}");
        assert!(matches!(error.kind, Some(Kind::InvalidArgument(why)) if why.field == CLUSTER_VERSION));
        // A client would take the bare code for a word about the node that it asked.
        assert_ne!(refused.code(), Code::Unimplemented);
    }
}
