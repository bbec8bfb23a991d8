//! Replicas on their way from node to node: those that an operator moves, and those that the cluster moves by itself.
//!
//! Owns: what is known of each. Must never: take a step: `members` does.

use crate::dice::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{JobId, NodeId, ShardId};
use synod_cluster::jobs::executor::Executor;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::SystemState;
use synod_paxos::types::Epoch;

/// A run's choices about jobs are drawn apart from all others.
const SALT: u64 = 0x6a6f_6273_6a6f_6273;

/// A replica on its way.
pub(crate) struct Move {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// The operator goes away then, and leaves things as they are.
    pub(crate) until: u64,
}

/// All that move.
#[derive(Default)]
pub(crate) struct Moves {
    pub(crate) under_way: BTreeMap<ShardId, Move>,
    /// Commands that tell the system shard of members.
    pub(crate) telling: BTreeMap<(ShardId, Epoch), u64>,
    /// What leaders said to proposals.
    pub(crate) answers: Arc<Mutex<Vec<Result<(), Refusal>>>>,
}

impl Moves {
    pub(crate) fn none(&self) -> bool {
        self.under_way.is_empty()
    }
}

/// The jobs of one run.
pub(crate) struct Jobs {
    pub(crate) dice: Dice,
    /// The metadata that a process's own replica of the system shard has applied.
    pub(crate) known: BTreeMap<NodeId, (u64, Arc<SystemState>)>,
    /// Of the processes that lead the system shard.
    pub(crate) executors: BTreeMap<(NodeId, u64), Executor>,
    /// Commands under way, by job; those that begin one have none yet.
    pub(crate) ops: BTreeSet<(Option<JobId>, u64)>,
    /// Who decided for a job last.
    pub(crate) carriers: BTreeMap<JobId, (NodeId, u64)>,
}

impl Jobs {
    pub(crate) fn choose(seed: u64) -> Self {
        let (known, executors, ops, carriers) = Default::default();
        Self { dice: Dice::new(seed ^ SALT), known, executors, ops, carriers }
    }

    /// A process's replica of the system shard has applied this.
    pub(crate) fn published(&mut self, node: NodeId, process: u64, map: &Arc<SystemState>) {
        let older = |(known, state): &(u64, Arc<SystemState>)| (*known, state.revision) <= (process, map.revision);
        if self.known.get(&node).is_none_or(older) {
            self.known.insert(node, (process, Arc::clone(map)));
        }
    }
}
