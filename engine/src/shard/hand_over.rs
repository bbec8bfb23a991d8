//! A replica on its way from one worker of the node to another.
//!
//! Owns: when it may go, and what it is told where it arrives. Must never: change its state between the freeze that makes it durable
//! and its arrival, or leave anything of itself with the worker that it leaves.

use super::{Core, Shard};
use crate::host::Host;
use crate::round::Node;
use std::collections::BTreeSet;
use synod_cluster::ids::{NodeId, ShardId};
use synod_paxos::io::Input;

impl Shard {
    /// Which shard it is a replica of.
    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// Whether nothing binds the replica to its worker: it takes part, and none of its rows are about to be read or replaced.
    pub(crate) fn may_leave(&self) -> bool {
        matches!(self.core, Core::Running(_)) && !self.is_missing() && !self.scrubs.is_busy()
    }

    /// From now on nothing is applied, or what was chosen meanwhile is.
    pub(crate) fn stand_still(&mut self, still: bool) {
        self.still = still;
    }

    /// Whether all that was asked of it is done, nothing is applied, and all that was is known to be on disk. A replica that took the
    /// place of the one that stood still does not.
    pub(crate) fn is_at_rest(&self) -> bool {
        let rows = self.still && !self.unflushed();
        let rows = rows || planted!(HandedOverUnflushed);
        let rows = rows || planted!(HandedOverApplies);
        !self.scheduled && rows
    }

    /// Requests that wait for an answer, and tails that wait for news.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.proposals.waiting() + self.reads.waiting() + self.fetches.waiting(), self.reads.tails())
    }

    /// Its worker lets go of it.
    pub(crate) fn leave<H: Host>(&mut self, node: &mut Node<H>) {
        if let Some(at) = self.timer.take() {
            node.timers.remove(&(at, self.id));
        }
        self.scheduled = false;
    }

    /// Goes on with another worker, which may have heard other peers than the first one, whose view was `heard`.
    pub(crate) fn arrive<H: Host>(&mut self, node: &mut Node<H>, heard: &BTreeSet<NodeId>) {
        self.still = false;
        let others: Vec<NodeId> = self.members.members.iter().map(|m| m.node).filter(|n| *n != node.me).collect();
        for peer in others {
            let alive = node.live.contains(&peer);
            // That a peer is alive is said again after each reconnection, and that may have happened on the way.
            if alive || heard.contains(&peer) {
                self.step(node, Input::PeerLiveness { node: peer, alive });
            }
        }
        // What was due meanwhile, and the next timer.
        self.step(node, Input::Tick);
        self.schedule(node);
    }

    /// Inputs and requests since this was last asked.
    pub(crate) fn take_handled(&mut self) -> u64 {
        std::mem::take(&mut self.handled)
    }
}
