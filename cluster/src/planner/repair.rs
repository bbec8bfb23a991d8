//! Lost and missing voters, and learners that were left behind.
//!
//! Owns: which shard is repaired first. Must never: take a live voter away, or touch a shard without a live majority.

use super::draft::Draft;
use super::operation::{Change, Predicted, Quantity, Refusal, Rule};
use super::picture::ShardView;
use crate::ids::ShardId;
use synod_paxos::types::MemberRole;

const RULE: Rule = Rule::Repair;

/// Plans the repair of every shard, those with the fewest spare voters first.
pub(super) fn run(draft: &mut Draft<'_>) {
    let picture = draft.picture;
    let mut shards: Vec<(usize, ShardId)> = Vec::new();
    for (shard, view) in &picture.shards {
        let (live, quorum) = (picture.live_voters(view), view.membership.quorum());
        if live < quorum {
            draft.refuse(Refusal::NoQuorum { shard: *shard, live, quorum });
        } else {
            shards.push((live - quorum, *shard));
        }
    }
    shards.sort_unstable();
    for (_, shard) in shards {
        if let Some(view) = picture.shards.get(&shard).filter(|_| draft.is_free(shard)) {
            repair(draft, shard, view);
        }
    }
}

fn repair(draft: &mut Draft<'_>, shard: ShardId, view: &ShardView) {
    let picture = draft.picture;
    let members = &view.membership;
    if let Some(learner) = members.members.iter().find(|m| m.role == MemberRole::Learner) {
        let learners = members.members.iter().filter(|m| m.role == MemberRole::Learner).count() as u64;
        let predicted = Predicted { what: Quantity::Learners, before: learners, after: learners - 1 };
        let why = format!("node {} learns and no job needs it", learner.node);
        draft.push(shard, RULE, Change::Forget { node: learner.node }, why, predicted);
        return;
    }
    let lost = members.voters().find(|node| picture.lost(*node));
    let voters = members.voters().count();
    if lost.is_none() && voters >= picture.wanted(view) {
        return;
    }
    let live = picture.live_voters(view) as u64;
    let predicted = Predicted { what: Quantity::LiveVoters, before: live, after: live + 1 };
    match (draft.target(view, lost), lost) {
        (Err(lacks), _) => draft.refuse(Refusal::NoTarget { shard, rule: RULE, lacks }),
        (Ok(to), Some(from)) => {
            let why = format!("node {from} is dead for longer than it is waited for, or was removed");
            draft.push(shard, RULE, Change::Move { from, to }, why, predicted);
        }
        (Ok(to), None) => {
            let why = format!("it has {voters} voters, its table asks for {}", picture.wanted(view));
            draft.push(shard, RULE, Change::Add { to }, why, predicted);
        }
    }
}
