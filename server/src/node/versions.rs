//! The cluster's version: what is known of each node, and the way to raise it.
//!
//! Owns: who is asked before the version is raised. Must never: raise it while a node of the cluster is not known to speak the
//! new one, or without being told to, save that of a cluster which was founded just now.

use super::map::MapCache;
use super::peer::{self, Local, Peers, Said, SystemHandler};
use super::system::SystemProposer;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{ClusterVersion, NodeId, SYSTEM_SHARD};
use synod_cluster::system::{SystemCommand, SystemOutcome, SystemState, TooNew};
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
                let mend = "run a newer binary on it, or raise its cluster.version_max";
                Some(format!("node {node} at {addr} speaks versions up to {speaks}: {mend}"))
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

/// What nodes are asked before the version is raised.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// Whether it could keep older binaries from its data directory.
    Ready,
    /// To do so.
    Sealed,
}

/// Knows what the nodes speak, and raises the cluster's version.
pub struct VersionManager {
    local: Local,
    map_cache: Arc<MapCache>,
    peers: Arc<Peers>,
    system: Arc<SystemProposer>,
}

impl VersionManager {
    /// The manager of this node.
    #[must_use]
    pub fn new(local: Local, map_cache: Arc<MapCache>, peers: Arc<Peers>, system: Arc<SystemProposer>) -> Self {
        Self { local, map_cache, peers, system }
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

    /// Raises the cluster to `to`, or to the greatest version that every node says it speaks. Where that is no higher than the
    /// cluster's and some nodes speak a higher one, it is refused, with the names of the others. With `dry_run` only says
    /// what would become of it.
    ///
    /// # Errors
    /// The node has no map, or it is not known what became of the command.
    pub async fn raise(&self, to: Option<ClusterVersion>, dry_run: bool) -> Result<Raised, Status> {
        let map = self.map_cache.get().ok_or_else(|| Status::unavailable("the node has no shard map yet"))?;
        let (from, nodes) = (map.version, self.nodes(&map));
        let to = to.unwrap_or_else(|| target(from, &nodes));
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
            SystemOutcome::Invalid { why, .. } => {
                raised.refused = Some(format!("{why}; {}", raised.kept_out(&raised.all(), false)))
            }
            other => return Err(Status::internal(format!("the outcome of an upgrade was {other:?}"))),
        }
        Ok(raised)
    }

    /// Has every node keep older binaries out of its data directory. This comes first, because older binaries do not even know
    /// the upgrade command. Returns why not, where a node does not confirm. Every node is asked before the first one does so:
    /// one that does not answer takes the way back from nobody.
    async fn seal(&self, raised: &Raised) -> Option<String> {
        let to = raised.to;
        let ready = self.ask_others(raised, Asked::Ready).await;
        let unready: Vec<String> = ready.into_iter().filter_map(|(_, why)| why).collect();
        if !unready.is_empty() {
            let unready = unready.join("; ");
            return Some(format!("not every node is ready for version {to}: {unready}; nothing was changed"));
        }
        let mut sealed = self.ask_others(raised, Asked::Sealed).await;
        let here = self.system.seal(to).await.err();
        let here = here.map(|status| format!("node {}: {}", self.local.node, status.message()));
        sealed.push((self.local.node, here));
        raised.half_sealed(&sealed)
    }

    /// Asks every other node at once; why not, of each that does not agree in time.
    async fn ask_others(&self, raised: &Raised, asked: Asked) -> Vec<(NodeId, Option<String>)> {
        let others = raised.nodes.iter().filter(|node| node.node != self.local.node);
        let answers = others.map(|other| async move {
            let NodeVersion { node, addr, .. } = other;
            let answer = async {
                match asked {
                    Asked::Ready => peer::ask_ready(&self.local, *node, addr, raised.to).await,
                    Asked::Sealed => peer::ask_seal(&self.local, *node, addr, raised.to).await,
                }
            };
            let answer = timeout(SEAL, answer).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", SEAL.as_secs())));
            (*node, answer.err().map(|why| format!("node {node} at {addr}: {why}")))
        });
        futures::future::join_all(answers).await
    }

    /// A new cluster begins at the greatest version that all its founders speak: nothing in it is older, and there is nothing to
    /// go back to. The founder that leads the system shard raises the version through the log. If not all founders are heard in
    /// time, the version stays as it is.
    pub async fn raise_new_cluster(self: Arc<Self>) {
        let until = Instant::now() + FOUNDING;
        while Instant::now() < until {
            sleep(PACE).await;
            let Some(map) = self.map_cache.get() else { continue };
            let nodes = self.nodes(&map);
            let Some(speaks) = nodes.iter().map(|n| n.said.map(|(speaks, _)| speaks)).min().flatten() else { continue };
            if speaks <= map.version {
                return;
            }
            if self.map_cache.leader(SYSTEM_SHARD) != Some(self.local.node) {
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

/// The version to raise to where none is asked for: the greatest that every node says it speaks. Where that raises nothing, the
/// greatest that any of them speaks: the error names the nodes that prevent more.
fn target(from: ClusterVersion, nodes: &[NodeVersion]) -> ClusterVersion {
    let said = || nodes.iter().map(|node| node.said.map_or(ClusterVersion::FIRST, |(speaks, _)| speaks));
    let by_all = said().min().unwrap_or_default();
    if by_all > from { by_all } else { said().max().unwrap_or_default().max(from) }
}

impl Raised {
    /// Every node of the cluster.
    fn all(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.node).collect()
    }

    /// What is left behind by an attempt that failed after `sealed` did as they were asked; `others` may have done so too.
    fn kept_out(&self, sealed: &[NodeId], others: bool) -> String {
        let sealed: Vec<String> = sealed.iter().map(NodeId::to_string).collect();
        let (nodes, perhaps) = match (sealed.is_empty(), others) {
            (true, _) => ("some nodes perhaps".to_owned(), ""),
            (false, true) => (format!("nodes {}", sealed.join(", ")), ", and perhaps those of the others,"),
            (false, false) => (format!("nodes {}", sealed.join(", ")), ""),
        };
        format!(
            "the data directories of {nodes}{perhaps} keep binaries out from now on that do not speak version {}: mend the cause \
             and repeat the command",
            self.to
        )
    }

    /// Why the version must not be raised, where not every node did as it was asked; what each said.
    fn half_sealed(&self, said: &[(NodeId, Option<String>)]) -> Option<String> {
        let failed: Vec<&str> = said.iter().filter_map(|(_, why)| why.as_deref()).collect();
        if failed.is_empty() {
            return None;
        }
        let sealed: Vec<NodeId> = said.iter().filter(|(_, why)| why.is_none()).map(|(node, _)| *node).collect();
        let (failed, left) = (failed.join("; "), self.kept_out(&sealed, true));
        let Self { from, to, .. } = self;
        Some(format!(
            "not every data directory is made ready for version {to}: {failed}; the cluster is at version {from} still, but {left}"
        ))
    }

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
    fn without_a_wish_the_greatest_that_can_be_is_meant() {
        let to = |from, said: &[Option<(u32, u64)>]| {
            let nodes: Vec<NodeVersion> = said.iter().zip(1..).map(|(said, id)| node(id, *said)).collect();
            target(ClusterVersion(from), &nodes).0
        };
        let [one, two, three] = [1, 2, 3].map(|speaks| Some((speaks, 0)));
        assert_eq!((to(1, &[two, two]), to(2, &[two, two]), to(1, &[one, one])), (2, 2, 1));
        assert_eq!(to(1, &[two, three]), 2, "what can be done is done");
        // Nothing can: the nodes in the way are named for what there would be.
        assert_eq!((to(1, &[one, two]), to(1, &[two, None]), to(2, &[three, two, None])), (2, 2, 3));
        assert_eq!(to(2, &[two, None]), 2, "a node that is down is in nobody's way");
    }

    #[test]
    fn a_failure_after_the_first_directory_names_what_is_left_behind() {
        let nodes = vec![node(1, Some((2, 0))), node(2, Some((2, 0))), node(3, Some((2, 0)))];
        let raised = Raised { from: ClusterVersion(1), to: ClusterVersion(2), nodes, refused: None };
        let done = |id| (NodeId(id), None);
        assert_eq!(raised.half_sealed(&[done(1), done(2), done(3)]), None);
        let failed = |id| (NodeId(id), Some(format!("node {id} at h{id}:1: no answer within 2 s")));
        let why = raised.half_sealed(&[done(2), failed(3), done(1)]).unwrap();
        for words in [
            "version 2: node 3 at h3:1: no answer within 2 s; the cluster is at version 1 still",
            "of nodes 2, 1, and perhaps those of the others, keep binaries out",
            "repeat the command",
        ] {
            assert!(why.contains(words), "{why}");
        }
        assert!(raised.half_sealed(&[failed(3)]).unwrap().contains("of some nodes perhaps keep"));
        assert!(raised.kept_out(&raised.all(), false).contains("of nodes 1, 2, 3 keep binaries out"));
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
        assert!(why_not(1, 9, vec![node(1, Some((9, 0)))]).unwrap().contains("speaks 1 to 4"));
    }
}
