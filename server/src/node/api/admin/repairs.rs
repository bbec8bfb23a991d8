//! Nodes that stay dead: their replicas are rebuilt on others.
//!
//! Owns: for how long each node is not heard by the node that leads the system shard, and the jobs that begin after that. Must never:
//! choose a replica or its target (`synod_cluster::system` does, by the planner's rule), or begin anything where this node does not lead.
//!
//! What is counted here is forgotten with the leadership: who leads next waits for the whole time again.

use super::job_manager::JobManager;
use super::{AdminService, nodes};
use crate::node::host::Signals;
use crate::node::system::SystemProposer;
use prometheus::{IntCounter, Registry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{ClusterVersion, NodeId};
use synod_cluster::jobs::job::JobGoal;
use synod_cluster::system::{Repairs, SystemCommand, SystemOutcome, SystemState};
use tokio::time::{Instant, sleep};

/// Pause between two looks at who is heard.
const BEAT: Duration = Duration::from_secs(1);

/// Has what nodes that stay dead held rebuilt, while this node leads the system shard.
pub struct Repairer {
    node: NodeId,
    grace: Duration,
    jobs: Arc<JobManager>,
    signals: Arc<Signals>,
    system: Arc<SystemProposer>,
    begun: IntCounter,
}

/// Since when nodes are not heard, and what was said of it.
#[derive(Default)]
struct Silent {
    since: BTreeMap<NodeId, Duration>,
    told: BTreeSet<String>,
}

impl Silent {
    /// The nodes that are not heard for `grace` by now.
    fn lost(
        &mut self,
        nodes: impl Iterator<Item = NodeId>,
        hears: impl Fn(NodeId) -> bool,
        now: Duration,
        grace: Duration,
    ) -> BTreeSet<NodeId> {
        let silent: BTreeSet<NodeId> = nodes.filter(|node| !hears(*node)).collect();
        self.since.retain(|node, _| silent.contains(node));
        for node in silent {
            self.since.entry(node).or_insert(now);
        }
        if self.since.is_empty() {
            self.told.clear();
        }
        let overdue = self.since.iter().filter(|(_, since)| now.saturating_sub(**since) >= grace);
        overdue.map(|(node, _)| *node).collect()
    }

    /// Whether something is new to who reads the log.
    fn is_news(&mut self, why: &str) -> bool {
        self.told.insert(why.to_owned())
    }
}

impl Repairer {
    /// The repairer of this node; a node is waited for as long as `grace` says.
    ///
    /// # Errors
    /// The registry holds a metric of the same name.
    pub fn new(
        node: NodeId,
        grace: Duration,
        jobs: Arc<JobManager>,
        signals: Arc<Signals>,
        system: Arc<SystemProposer>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let help = "Moves that began because a node was dead for balance.dead_grace";
        let begun = IntCounter::new("synod_repairs_begun_total", help)?;
        registry.register(Box::new(begun.clone()))?;
        Ok(Self { node, grace, jobs, signals, system, begun })
    }

    /// Looks for as long as the node runs.
    pub async fn run(self, admin: AdminService) {
        let origin = Instant::now();
        let mut silent = Silent::default();
        loop {
            sleep(BEAT).await;
            let state = self.signals.maps.borrow().clone();
            match state.filter(|_| self.jobs.leads()) {
                Some(state) => self.look(&state, &admin, &mut silent, origin.elapsed()).await,
                None => silent = Silent::default(),
            }
        }
    }

    async fn look(&self, state: &SystemState, admin: &AdminService, silent: &mut Silent, now: Duration) {
        let others = state.nodes.keys().copied().filter(|node| *node != self.node);
        let lost = silent.lost(others, |node| self.system.hears(node), now, self.grace);
        let holds = |node: &NodeId| state.shards.values().any(|d| d.membership.role_of(*node).is_some());
        if state.version < ClusterVersion::FOURTH || !lost.iter().any(holds) {
            return;
        }
        for node in &lost {
            let grace = humantime::format_duration(self.grace);
            let what =
                format!("node {node} is dead for {grace} (balance.dead_grace): its replicas are rebuilt on others");
            if silent.is_news(&what) {
                tracing::warn!(%node, "{what}");
            }
        }
        let Repairs { begin, refused } = state.plan_repairs(&lost, &nodes::heard(state, admin).await);
        // One for all: many shards may wait for the same.
        if let Some(why) = refused.first().filter(|why| silent.is_news(why)) {
            tracing::warn!(replicas = refused.len(), "replicas of dead nodes cannot be rebuilt now; the first: {why}");
        }
        for goal in begin {
            self.begin(goal).await;
        }
    }

    /// Has one move begin. A refusal says that the shard changed meanwhile: it is looked at again.
    async fn begin(&self, goal: JobGoal) {
        let words = goal.to_string();
        match self.system.execute(&SystemCommand::StartJob { goal }).await {
            Ok(SystemOutcome::Job(job)) => {
                self.begun.inc();
                tracing::info!(%job, "the job {words}, since the first of these is dead");
            }
            Ok(other) => tracing::debug!("no job {words}: {other:?}"),
            Err(status) => tracing::debug!("nobody knows whether a job {words}: {}", status.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_lost_once_it_is_silent_for_the_whole_time() {
        let mut silent = Silent::default();
        let grace = Duration::from_secs(10);
        let mut look = |at: u64, heard: &[u64]| {
            let all = [2, 3].map(NodeId).into_iter();
            let lost = silent.lost(all, |node| heard.contains(&node.0), Duration::from_secs(at), grace);
            lost.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        assert!(look(0, &[2, 3]).is_empty() && look(5, &[2]).is_empty() && look(14, &[2]).is_empty());
        assert_eq!(look(15, &[2]), [3]);
        // It comes back for a moment: the time begins anew.
        assert!(look(16, &[2, 3]).is_empty() && look(17, &[2]).is_empty() && look(26, &[2]).is_empty());
        assert_eq!(look(27, &[2]), [3]);
    }
}
