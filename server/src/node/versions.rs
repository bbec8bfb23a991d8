//! The cluster's version: what is known of each node, and the way to raise it.
//!
//! Owns: who is asked before the version is raised. Must never: raise it while a node of the cluster is not known to speak the
//! new one, or without being told to, save that of a cluster which was founded just now.

use super::map::MapBook;
use super::peer::{self, Local, Peers, Said, SystemGate};
use super::system::SystemDesk;
use std::sync::Arc;
use std::time::Duration;
use synod_engine::ids::{ClusterVersion, NodeId, SYSTEM_SHARD};
use synod_engine::system::{SystemCommand, SystemOutcome, SystemState, TooNew};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

/// A node's word counts for this long: pulses say it anew all the time.
const RECENT: Duration = Duration::from_secs(3);
/// How long a node may take to make its data directory ready.
const SEAL: Duration = Duration::from_secs(2);
/// How long the founders of a new cluster may take to say what they speak.
const FOUNDING: Duration = Duration::from_secs(60);
/// Pause between two looks at a new cluster.
const PACE: Duration = Duration::from_millis(20);

/// One node, and what it says.
#[derive(Clone, Debug)]
pub struct NodeVersion {
    /// The node.
    pub node: NodeId,
    /// Where it is.
    pub addr: String,
    /// What it said last, and how long ago; `None` where it was never heard.
    pub said: Option<(ClusterVersion, Duration)>,
}

impl NodeVersion {
    /// Why the node is not known to speak `to`.
    fn lacks(&self, to: ClusterVersion) -> Option<String> {
        let Self { node, addr, .. } = self;
        match self.said {
            None => Some(format!("node {node} at {addr} was never heard")),
            Some((speaks, _)) if speaks < to => {
                Some(format!("node {node} at {addr} speaks versions up to {speaks}: run a newer binary on it"))
            }
            Some((_, ago)) if ago > RECENT => {
                let heard = ago.as_secs();
                Some(format!("node {node} at {addr} was last heard {heard} s ago: start it, or `synod node remove` it"))
            }
            Some(_) => None,
        }
    }
}

/// What became of a wish to raise the version.
#[derive(Clone, Debug)]
pub struct Raised {
    /// The cluster's version before.
    pub from: ClusterVersion,
    /// The version wanted.
    pub to: ClusterVersion,
    /// Every node of the cluster.
    pub nodes: Vec<NodeVersion>,
    /// Why nothing was changed, where it was not.
    pub refused: Option<String>,
}

/// Knows what the nodes speak, and raises the cluster's version.
pub struct VersionDesk {
    local: Local,
    book: Arc<MapBook>,
    peers: Arc<Peers>,
    system: Arc<SystemDesk>,
}

impl VersionDesk {
    /// A desk of this node.
    #[must_use]
    pub fn new(local: Local, book: Arc<MapBook>, peers: Arc<Peers>, system: Arc<SystemDesk>) -> Self {
        Self { local, book, peers, system }
    }

    /// Every node of the map, and what it says.
    fn nodes(&self, map: &SystemState) -> Vec<NodeVersion> {
        let said = |node: NodeId| {
            if node == self.local.node {
                return Some((self.local.speaks, Duration::ZERO));
            }
            self.peers.spoken(node).map(|said: Said| (said.speaks, said.ago()))
        };
        let nodes = map.nodes.iter();
        nodes.map(|(node, info)| NodeVersion { node: *node, addr: info.addr.clone(), said: said(*node) }).collect()
    }

    /// Raises the cluster to `to`, or to the greatest version that every node says it speaks. With `dry_run` only says what
    /// would become of it.
    ///
    /// # Errors
    /// The node has no map, or it is not known what became of the command.
    pub async fn raise(&self, to: Option<ClusterVersion>, dry_run: bool) -> Result<Raised, Status> {
        let map = self.book.get().ok_or_else(|| Status::unavailable("the node has no shard map yet"))?;
        let (from, nodes) = (map.version, self.nodes(&map));
        let spoken_by_all = nodes.iter().map(|n| n.said.map_or(ClusterVersion::FIRST, |(speaks, _)| speaks)).min();
        let to = to.unwrap_or_else(|| spoken_by_all.unwrap_or_default().max(from));
        let mut raised = Raised { from, to, nodes, refused: None };
        raised.refused = raised.why_not();
        if raised.refused.is_some() || dry_run || to == from {
            return Ok(raised);
        }
        raised.refused = self.seal(&raised).await;
        if raised.refused.is_some() {
            return Ok(raised);
        }
        let spoken_by = raised.nodes.iter().map(|n| n.node).collect();
        match self.system.execute(&SystemCommand::Upgrade { to, spoken_by }).await? {
            SystemOutcome::Done => tracing::info!(%from, %to, "the cluster's version is raised"),
            // A node joined meanwhile, or the version was raised further.
            SystemOutcome::Invalid { why, .. } => raised.refused = Some(why),
            other => return Err(Status::internal(format!("the outcome of an upgrade was {other:?}"))),
        }
        Ok(raised)
    }

    /// Has every node keep older binaries out of its data directory. This comes first, because older binaries do not even know
    /// the upgrade command. Returns why not, where a node does not confirm.
    async fn seal(&self, raised: &Raised) -> Option<String> {
        let others = raised.nodes.iter().filter(|node| node.node != self.local.node);
        let asked = others.map(|other| async move {
            let sealed = timeout(SEAL, peer::ask_seal(&self.local, other.node, &other.addr, raised.to)).await;
            let sealed = sealed.unwrap_or_else(|_| Err(format!("no answer within {} s", SEAL.as_secs())));
            sealed.err().map(|why| format!("node {} at {}: {why}", other.node, other.addr))
        });
        let mut failed: Vec<String> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        if let Err(status) = self.system.seal(raised.to).await {
            failed.push(format!("node {}: {}", self.local.node, status.message()));
        }
        let failed = (!failed.is_empty()).then(|| failed.join("; "))?;
        Some(format!("not every data directory is made ready for version {}: {failed}", raised.to))
    }

    /// A new cluster begins at the greatest version that all its founders speak: nothing in it is older, and there is nothing to
    /// go back to. The founder that leads the system shard raises the version through the log. If not all founders are heard in
    /// time, the version stays as it is.
    pub async fn raise_new_cluster(self: Arc<Self>) {
        let until = Instant::now() + FOUNDING;
        while Instant::now() < until {
            sleep(PACE).await;
            let Some(map) = self.book.get() else { continue };
            let nodes = self.nodes(&map);
            let Some(speaks) = nodes.iter().map(|n| n.said.map(|(speaks, _)| speaks)).min().flatten() else { continue };
            if speaks <= map.version {
                return;
            }
            if self.book.leader(SYSTEM_SHARD) != Some(self.local.node) {
                continue;
            }
            match self.raise(Some(speaks), false).await {
                Ok(Raised { refused: None, .. }) => return,
                Ok(Raised { refused: Some(why), .. }) => {
                    tracing::debug!(why, "the new cluster's version is not raised yet")
                }
                Err(status) => tracing::debug!(%status, "the new cluster's version is not known to be raised yet"),
            }
        }
    }
}

impl Raised {
    /// Why the version must not be raised.
    fn why_not(&self) -> Option<String> {
        let Self { from, to, nodes, .. } = self;
        if let Err(too_new) = TooNew::check(*to) {
            let spoken = too_new.spoken;
            return Some(format!(
                "no node can be known to speak version {to}: the binary that was asked speaks 1 to {spoken}"
            ));
        }
        if to < from {
            return Some(format!("the cluster is at version {from}, and a version is never lowered to {to}"));
        }
        let lacking: Vec<String> = nodes.iter().filter_map(|node| node.lacks(*to)).collect();
        if to == from || lacking.is_empty() {
            return None;
        }
        Some(format!("not every node is known to speak version {to}: {}", lacking.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, said: Option<(u32, u64)>) -> NodeVersion {
        let said = said.map(|(speaks, seconds)| (ClusterVersion(speaks), Duration::from_secs(seconds)));
        NodeVersion { node: NodeId(node), addr: format!("h{node}:1"), said }
    }

    fn why_not(from: u32, to: u32, nodes: Vec<NodeVersion>) -> Option<String> {
        Raised { from: ClusterVersion(from), to: ClusterVersion(to), nodes, refused: None }.why_not()
    }

    #[test]
    fn each_node_that_is_not_known_to_speak_it_is_named() {
        let nodes = || vec![node(1, Some((2, 0))), node(2, Some((1, 0))), node(3, Some((2, 9))), node(4, None)];
        let why = why_not(1, 2, nodes()).unwrap();
        assert!(!why.contains("node 1 "), "{why}");
        for words in [
            "node 2 at h2:1 speaks versions up to 1",
            "node 3 at h3:1 was last heard 9 s ago",
            "node 4 at h4:1 was never",
        ] {
            assert!(why.contains(words), "{why}");
        }
        assert_eq!(why_not(1, 2, vec![node(1, Some((2, 0))), node(2, Some((2, 1)))]), None);
        assert_eq!(why_not(2, 2, nodes()), None, "it is there already");
        assert!(why_not(2, 1, nodes()).unwrap().contains("never lowered"));
        assert!(why_not(1, 9, vec![node(1, Some((9, 0)))]).unwrap().contains("speaks 1 to 2"));
    }
}
