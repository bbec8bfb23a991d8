//! Nodes that join, and changes of members, as an operator makes them.

use super::{Cluster, Disk, Sim};
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{ClusterVersion, NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{SystemCommand, SystemOutcome};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::{AdminInput, Body};
use synod_paxos::types::{Epoch, Membership};

impl Cluster {
    /// Raises the cluster to the greatest version there is.
    pub fn upgrade(&mut self) {
        let spoken_by = self.map().nodes.keys().copied().collect();
        let command = SystemCommand::Upgrade { to: ClusterVersion::SPOKEN, spoken_by };
        assert_eq!(self.system(&command), SystemOutcome::Done);
        self.run_until("every node knows the cluster's version", |c| {
            let nodes: Vec<NodeId> = c.ids().into_iter().filter(|n| c.is_up(*n)).collect();
            nodes.into_iter().all(|node| c.report(node).cluster_version == ClusterVersion::SPOKEN)
        });
    }

    /// A further node, which holds nothing.
    pub fn join(&mut self) -> NodeId {
        let n = self.nodes.len() as u64 + 1;
        let speaks = self.map().version;
        let command = SystemCommand::AddNode { addr: format!("host{n}:1"), nonce: u128::from(n) << 64, speaks };
        assert_eq!(self.system(&command), SystemOutcome::Node(NodeId(n)));
        let snapshots = tempfile::tempdir().unwrap();
        let sim =
            Sim { disk: Disk::mem(1 << 12), seen: Arc::default(), snapshots, metrics: None, memory: None, up: None };
        self.nodes.insert(NodeId(n), sim);
        self.start(NodeId(n));
        NodeId(n)
    }

    /// What leaders report of their members goes to the system shard; an answer is not waited for.
    pub(super) fn tell_members(&mut self, members: Vec<(ShardId, Membership)>) {
        for (shard, membership) in members {
            let command = SystemCommand::SetMembers { shard, membership };
            let request = WriteRequest { id: self.next_id(), op: Op::System(command.encode()) };
            if let Some(leader) = self.leader(SYSTEM_SHARD) {
                self.send(leader, SYSTEM_SHARD, Body::Write(request));
            }
        }
    }

    /// One change, as the leader answers it.
    pub fn try_change(&mut self, shard: ShardId, change: MemberChange) -> Result<(), Refusal> {
        let expected = self.members(shard).epoch;
        self.try_change_of(shard, expected, change)
    }

    /// The same, computed from the members of this epoch.
    pub fn try_change_of(&mut self, shard: ShardId, expected: Epoch, change: MemberChange) -> Result<(), Refusal> {
        self.run_until("a leader", |c| c.leader(shard).is_some());
        let leader = self.leader(shard).unwrap();
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let done = Box::new(move |result| *tell.lock().unwrap() = Some(result));
        self.push(leader, AdminInput::ChangeMembers { shard, expected, change, done });
        let end = self.now.plus(1_000_000);
        self.run_until("an answer, or the leader's end", |c| told.lock().unwrap().is_some() || c.now >= end);
        let result = told.lock().unwrap().take();
        result.unwrap_or(Err(Refusal::NotReady))
    }

    pub fn members(&self, shard: ShardId) -> Membership {
        self.map().shards[&shard].membership.clone()
    }

    /// Moves a replica as the command line does: the same steps from wherever an earlier attempt ended.
    pub fn move_replica(&mut self, shard: ShardId, from: NodeId, to: NodeId) {
        for _ in 0..600 {
            let members = self.members(shard);
            let votes = |n| members.voters().any(|v| v == n);
            let replaced = members.role_of(from).map(|_| from);
            let change = if votes(to) {
                let Some(from) = replaced else { return };
                MemberChange::Remove(from)
            } else if members.role_of(to).is_none() {
                MemberChange::Learn(to)
            } else {
                MemberChange::Promote { node: to, instead_of: replaced }
            };
            match self.try_change(shard, change) {
                Ok(()) | Err(Refusal::NotReady | Refusal::NotLeader { .. } | Refusal::WrongShard) => {}
                // An earlier step was overtaken by what the map does not tell yet.
                Err(Refusal::Invalid { .. } | Refusal::WrongEpoch { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
            self.run_for(100_000);
        }
        panic!("the replica of shard {shard} did not move from {from} to {to}: {:?}", self.members(shard));
    }
}
