//! What the map hears of shards.
//!
//! Owns: the reports, which may be late, repeated and in any order. Must never: decide what a report changes; the real metadata does.

use crate::plan::HostFault;
use crate::violation::Check;
use crate::world::{Report, World};
use synod_cluster::ids::ShardId;
use synod_cluster::system::{Child, ShardNews, SystemCommand};
use synod_engine::codec::bounds::ChildMark;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

/// A child as its parent's mark has it: the mark has its voters, and any of them may stand as the first leader.
fn child(mark: &ChildMark) -> Option<Child> {
    let members = mark.voters.iter().map(|node| Member { node: *node, role: MemberRole::Voter }).collect();
    let membership = Membership { epoch: Epoch(1), members, first_leader: *mark.voters.first()? };
    let ChildMark { shard, version, .. } = *mark;
    Some(Child { shard, from: mark.from.clone(), to: mark.to.clone(), version, membership })
}

impl World {
    /// A replica tells what it has applied of its shard's bounds; a leader whose epoch has begun tells its members too.
    pub(crate) fn report(&mut self, shard: ShardId) {
        let Some(group) = self.groups.get(&shard) else { return };
        let able: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].lives(shard)).collect();
        let leader = group.leader.filter(|leader| able.contains(leader));
        let told_by_leader = self.dice.chance(700);
        let any = self.dice.pick(&able);
        let Some(at) = leader.filter(|_| told_by_leader).or(any) else { return };
        let begun = leader == Some(at) && (group.chosen() > group.changed_at || group.membership.epoch == Epoch(1));
        if !begun && self.is_planted(HostFault::OnlyBegunEpochsReport) {
            return;
        }
        let Some(state) = self.nodes[at].states.get(&shard) else { return };
        let members = begun.then(|| group.membership.clone());
        let known = state.descriptor();
        let news = ShardNews {
            shard,
            from: known.from.clone(),
            to: known.to.clone(),
            version: known.version,
            children: state.children().iter().filter_map(child).collect(),
            absorbed: state.absorbed().to_vec(),
        };
        self.reports.push(Report { news, members });
    }

    /// A report reaches the system shard, and sometimes comes again.
    pub(crate) fn index(&mut self) -> Check {
        if self.reports.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(self.reports.len());
        let report = if self.dice.chance(200) { self.reports[at].clone() } else { self.reports.swap_remove(at) };
        let Report { news, members } = report;
        let shard = news.shard;
        self.execute(&SystemCommand::ShardNews(news))?;
        if let Some(membership) = members {
            self.execute(&SystemCommand::SetMembers { shard, membership })?;
        }
        Ok(())
    }
}
