//! Changes of a group's members, as its leader's driver makes them.
//!
//! Owns: the next epoch's members and first leader. Must never: give a vote to a node that has not caught up as a learner, or
//! take this node for a member that the map knows to be none, or change members that the change was not computed from.

use super::Shard;
use crate::host::Host;
use crate::round::Node;
use synod_cluster::ids::{NodeId, Slot};
use synod_cluster::members::{MemberChange, has_caught_up};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::SystemState;
use synod_paxos::io::Input;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

impl Shard {
    /// Proposes a change of members, where this replica leads. Nothing is to be done where it is in force already.
    /// Refused in another epoch than the `expected` one: what was to be done to other members need not be right for these.
    pub(crate) fn change_members<H: Host>(
        &mut self,
        node: &mut Node<H>,
        expected: Epoch,
        change: MemberChange,
    ) -> Result<(), Refusal> {
        if !self.leading {
            return Err(Refusal::NotLeader { leader: self.leader(), maybe: false });
        }
        let current = self.members.epoch;
        if current != expected {
            return Err(Refusal::WrongEpoch { current, expected });
        }
        // An absorb counts only in the epoch of its begin, and a source that is frozen has the members of its target.
        if self.order.is_some() || !self.state.may_change_members() {
            return Err(Refusal::NotReady);
        }
        let mut members = self.members.members.clone();
        let mut comes = None;
        match change {
            MemberChange::Learn(learner) => {
                if self.members.role_of(learner).is_none() {
                    members.push(Member { node: learner, role: MemberRole::Learner });
                }
            }
            MemberChange::Promote { node: learner, instead_of } => {
                self.may_vote(learner)?;
                self.may_take_place_of(learner, instead_of)?;
                members.retain(|m| m.node != learner && Some(m.node) != instead_of);
                members.push(Member { node: learner, role: MemberRole::Voter });
                comes = Some(learner);
            }
            MemberChange::Remove(gone) => members.retain(|m| m.node != gone),
        }
        members.sort_unstable();
        if members == self.members.members {
            return Ok(());
        }
        let first_leader = self.first_leader(node, &members, comes)?;
        let membership = Membership { epoch: self.members.epoch.next(), members, first_leader };
        tracing::info!(shard = self.id.0, ?membership, "a change of members is proposed");
        let ts = self.timestamp(node);
        self.ask(node, Input::ChangeConfig { membership, ts })?;
        Ok(())
    }

    /// Refuses a vote to who is no member, or lacks too much yet.
    fn may_vote(&self, node: NodeId) -> Result<(), Refusal> {
        match self.members.role_of(node) {
            Some(MemberRole::Voter) => Ok(()),
            None => {
                let why = format!("node {node} must learn the log of shard {} before it votes", self.id);
                Err(Refusal::Invalid { field: "node", why })
            }
            Some(MemberRole::Learner) => {
                let status = self.status().ok_or(Refusal::NotReady)?;
                let held = status.progress.iter().find(|(n, _)| *n == node).map_or(Slot(0), |(_, slot)| *slot);
                if has_caught_up(held, status.last.slot) { Ok(()) } else { Err(Refusal::NotReady) }
            }
        }
    }

    /// Refuses a change by which the voters would not be as many as before: one who votes already takes nobody's place, and
    /// who has no vote has none to give up.
    fn may_take_place_of(&self, node: NodeId, instead_of: Option<NodeId>) -> Result<(), Refusal> {
        let Some(gone) = instead_of else { return Ok(()) };
        let votes = |n| self.members.role_of(n) == Some(MemberRole::Voter);
        let why = match (votes(node), votes(gone)) {
            (false, true) => return Ok(()),
            // Done before.
            (true, false) if self.members.role_of(gone).is_none() => return Ok(()),
            (true, _) => format!("node {node} votes in shard {} already: it can take nobody's place", self.id),
            (false, false) => format!("node {gone} has no vote in shard {} that node {node} could take", self.id),
        };
        Err(Refusal::Invalid { field: "instead_of", why })
    }

    /// This node where it stays, else the voter that has most. Where no voter of before can lead, the one who gets its vote with this
    /// change: it has caught up, and leads once it has learnt the rest of this epoch, which only this node may be left to tell it.
    fn first_leader<H: Host>(
        &self,
        node: &Node<H>,
        members: &[Member],
        comes: Option<NodeId>,
    ) -> Result<NodeId, Refusal> {
        let votes = |n: NodeId| members.iter().any(|m| m.node == n && m.role == MemberRole::Voter);
        let stays = votes(node.me).then_some(node.me);
        let follows = stays.or_else(|| self.best_successor(node, |_, n| votes(n)));
        let can_lead = |n: &NodeId| votes(*n) && node.live.contains(n) && !node.low_peers.contains(n);
        let leads = follows.or_else(|| comes.filter(can_lead));
        leads.ok_or_else(|| {
            let why = match comes {
                Some(low) if node.low_peers.contains(&low) => {
                    format!("node {low} is to lead shard {} and its disk is low: free room there", self.id)
                }
                Some(down) => format!("node {down} is to lead shard {} and is not heard from: is it up?", self.id),
                None => format!("no voter of shard {} would be left that can lead", self.id),
            };
            Refusal::Invalid { field: "node", why }
        })
    }

    /// Tells the first leader of an epoch in which this node is no member how far that epoch's log is known here. Where it is the only
    /// voter, and was none before, nobody else can tell it, and it has no reason to ask: what was told it before may be lost.
    pub(crate) fn remind_successor<H: Host>(&mut self, node: &mut Node<H>) {
        let first = self.members.first_leader;
        if !self.has_member(node.me) && node.live.contains(&first) {
            self.step(node, Input::PeerLiveness { node: first, alive: true });
        }
    }

    /// Where the epoch in force began.
    pub(crate) fn epoch_start(&self) -> Slot {
        self.status().map_or(Slot(0), |status| status.epoch_start)
    }

    /// Tells the core which of a new epoch's members are alive: it has heard only of those of the last one.
    pub(super) fn meet_members<H: Host>(&mut self, node: &mut Node<H>) {
        if std::mem::take(&mut self.meet_members) {
            let alive: Vec<NodeId> = node.live.iter().copied().filter(|n| self.has_member(*n)).collect();
            for peer in alive {
                self.step(node, Input::PeerLiveness { node: peer, alive: true });
            }
        }
    }

    /// What the system shard is to be told: the members, once an entry of their epoch is chosen, where the map knows an
    /// earlier epoch. `Err` where it need not be asked again: another leads, or the map knows.
    pub(crate) fn news_of_members(&self, map: &SystemState) -> Result<Option<Membership>, ()> {
        let known = map.shards.get(&self.id).map(|d| d.membership.epoch);
        if !self.leading || known.is_some_and(|known| known >= self.members.epoch) {
            return Err(());
        }
        let begun = self.status().is_some_and(|status| status.commit > status.epoch_start);
        let begun = begun || planted!(MembersToldEarly);
        Ok(begun.then(|| self.members.clone()))
    }

    /// The epoch that ended the membership of `me`, as the map knows it.
    pub(crate) fn left(&self, me: NodeId, map: &SystemState) -> Option<Epoch> {
        let known = &map.shards.get(&self.id)?.membership;
        let later = known.epoch >= self.members.epoch && known.epoch > super::FIRST_EPOCH;
        (later && known.role_of(me).is_none()).then_some(known.epoch)
    }
}
