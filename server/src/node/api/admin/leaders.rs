//! The way of a call to the leader of a shard.
//!
//! Owns: which nodes are asked where this node's worker refused a call because it does not lead the shard, and in which order. Must never:
//! send on what another node sent here, or ask a second node where the first may have done what was asked for.

use super::{Running, unavailable};
use crate::node::api::convert;
use crate::node::status::{status, typed};
use std::time::Duration;
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::CLUSTER_VERSION;
use synod_paxos::types::MemberRole;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use v1::error::Kind;

/// How long nodes are looked for that lead: less than a client gives an attempt.
const SEARCH: Duration = Duration::from_secs(3);
/// Pause before all who may lead are asked once more: an election takes about as long.
const AGAIN: Duration = Duration::from_millis(200);

/// The nodes that may lead a shard, the likeliest first. Each is asked once in a round, and once more where another names it.
#[derive(Debug)]
struct Candidates {
    me: NodeId,
    left: Vec<NodeId>,
    named: Option<NodeId>,
    /// Asked because another node named it, in this round.
    followed: Vec<NodeId>,
}

impl Candidates {
    /// `likely` are those who were last heard to lead, `others` those who may.
    fn new(me: NodeId, likely: &[Option<NodeId>], others: &[NodeId]) -> Self {
        let mut left: Vec<NodeId> = Vec::new();
        for node in likely.iter().flatten().chain(others) {
            if *node != me && !left.contains(node) {
                left.push(*node);
            }
        }
        // Taken from the end.
        left.reverse();
        Self { me, left, named: None, followed: Vec::new() }
    }

    /// A node that was asked named this one as the leader.
    fn name(&mut self, leader: NodeId) {
        if leader != self.me && !self.followed.contains(&leader) {
            self.followed.push(leader);
            self.named = Some(leader);
        }
    }

    /// Whom to ask next; `None` where all were asked.
    fn next(&mut self) -> Option<NodeId> {
        if let Some(named) = self.named.take() {
            self.left.retain(|node| *node != named);
            return Some(named);
        }
        self.left.pop()
    }
}

/// What an answer says of where the leader is.
enum Said {
    /// This is the leader's answer, or nobody else can know better.
    Final,
    /// The node does not lead the shard; who does, where it knows.
    Elsewhere(Option<NodeId>),
    /// The node's binary does not know the call.
    Unknown,
}

fn said(answer: &Status) -> Said {
    if answer.code() == Code::Unimplemented {
        return Said::Unknown;
    }
    match typed(answer).and_then(|error| error.kind) {
        Some(Kind::NotLeader(why)) if !why.maybe => Said::Elsewhere((why.leader != 0).then_some(NodeId(why.leader))),
        Some(Kind::WrongShard(_)) => Said::Elsewhere(None),
        _ => Said::Final,
    }
}

/// A node does not know a call that this node's binary knows. A client would take the bare code for a word about the node that it asked.
fn not_known(node: NodeId, addr: &str, shard: ShardId) -> Status {
    let why = format!(
        "node {node} at {addr}, which may lead shard {shard}, runs an older binary that does not know this call: replace its binary"
    );
    status(&convert::invalid(CLUSTER_VERSION, why))
}

/// A node does not lead a shard, as whoever called it is told.
fn not_leading(node: NodeId, shard: ShardId, leader: Option<NodeId>) -> Status {
    let knows =
        leader.map_or_else(|| "nor knows who does".to_owned(), |leader| format!("it believes that node {leader} does"));
    let why = v1::NotLeader { leader: leader.map_or(0, |leader| leader.0), maybe: false };
    status(&convert::error(Kind::NotLeader(why), true, format!("node {node} does not lead shard {shard}, {knows}")))
}

impl Running {
    /// Makes a call at the shard's leader that this node's worker refused; `forwarded` where another node sent it here. First the node is
    /// asked that the refusal names, then who was last heard to lead, then the voters that are alive, and whom one of them names.
    ///
    /// # Errors
    /// The refusal, where it is for another reason or the call was forwarded; what the leader answers; where nobody led: that a node runs
    /// an older binary, else `NotLeader`, or `Unavailable` where a node could not be reached.
    pub(super) async fn at_leader<T, C>(
        &self,
        refusal: &Refusal,
        shard: ShardId,
        forwarded: bool,
        call: impl Fn(AdminClient<Channel>) -> C,
    ) -> Result<Response<T>, Status>
    where
        C: Future<Output = Result<Response<T>, Status>>,
    {
        let hint = match refusal {
            Refusal::NotLeader { leader, maybe: false } if !forwarded => *leader,
            Refusal::WrongShard if !forwarded => None,
            Refusal::WrongShard => return Err(not_leading(self.node, shard, None)),
            refusal => return Err(status(&convert::refusal_error(refusal))),
        };
        let until = Instant::now() + SEARCH;
        let mut last = not_leading(self.node, shard, hint);
        // One that runs an older binary may be the leader, or not: others are asked first.
        let mut older = None;
        loop {
            let mut candidates = self.candidates(shard, hint)?;
            while let Some(node) = candidates.next() {
                let client = match self.admin_of(node).await {
                    Ok(client) => client,
                    // Nothing was sent.
                    Err(unreachable) => {
                        last = unreachable;
                        continue;
                    }
                };
                let answer = call(client).await;
                match answer.as_ref().err().map_or(Said::Final, said) {
                    Said::Final => {
                        if answer.is_ok() {
                            self.map_cache.heard_leader(shard, node);
                        }
                        return answer;
                    }
                    Said::Unknown => older = Some(not_known(node, &self.address_of(node), shard)),
                    Said::Elsewhere(leader) => {
                        last = not_leading(node, shard, leader);
                        leader.into_iter().for_each(|leader| candidates.name(leader));
                    }
                }
                if Instant::now() >= until {
                    return Err(older.unwrap_or(last));
                }
            }
            // This node may be elected meanwhile: whoever called asks again.
            if self.may_lead(shard) || Instant::now() + AGAIN >= until {
                return Err(older.unwrap_or(last));
            }
            sleep(AGAIN).await;
        }
    }

    fn address_of(&self, node: NodeId) -> String {
        self.peers.address(node).unwrap_or_else(|| "an unknown address".to_owned())
    }

    fn may_lead(&self, shard: ShardId) -> bool {
        let map = self.map_cache.get();
        let descriptor = map.as_ref().and_then(|map| map.shards.get(&shard));
        descriptor.is_some_and(|d| d.membership.role_of(self.node) == Some(MemberRole::Voter))
    }

    /// Who may lead a shard, by what was heard and by the map.
    fn candidates(&self, shard: ShardId, hint: Option<NodeId>) -> Result<Candidates, Status> {
        let map = self.map_cache.get().ok_or_else(|| unavailable("the node has no shard map yet"))?;
        let Some(descriptor) = map.shards.get(&shard) else {
            return Err(status(&convert::invalid("shard", format!("there is no shard {shard}"))));
        };
        let known = [hint, self.map_cache.leader(shard), self.map_cache.heard(shard)];
        let alive = |node: &NodeId| *node == self.node || self.peers.is_alive(*node);
        let likely = known.map(|node| node.filter(alive));
        let mut voters: Vec<NodeId> = descriptor.membership.voters().filter(alive).collect();
        if voters.is_empty() {
            // Held for dead, all of them: the detector may be wrong.
            voters = descriptor.membership.voters().collect();
        }
        Ok(Candidates::new(self.node, &likely, &voters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::types::Epoch;

    fn asked(candidates: &mut Candidates) -> Vec<u64> {
        std::iter::from_fn(|| candidates.next()).map(|node| node.0).collect()
    }

    #[test]
    fn the_likeliest_are_asked_first_and_each_once() {
        let likely = [None, Some(NodeId(6)), Some(NodeId(6))];
        let mut candidates = Candidates::new(NodeId(1), &likely, &[NodeId(4), NodeId(5), NodeId(6)]);
        assert_eq!(asked(&mut candidates), [6, 4, 5]);
        let mut candidates = Candidates::new(NodeId(4), &[Some(NodeId(4))], &[NodeId(4), NodeId(5)]);
        assert_eq!(asked(&mut candidates), [5], "this node was the first that was asked");
    }

    #[test]
    fn who_is_named_is_asked_next_and_two_that_name_each_other_end() {
        let voters = [NodeId(4), NodeId(5), NodeId(6)];
        let mut candidates = Candidates::new(NodeId(1), &[], &voters);
        assert_eq!(candidates.next(), Some(NodeId(4)));
        candidates.name(NodeId(6));
        assert_eq!(candidates.next(), Some(NodeId(6)));
        candidates.name(NodeId(4));
        assert_eq!(candidates.next(), Some(NodeId(4)), "it may have been elected meanwhile");
        candidates.name(NodeId(6));
        candidates.name(NodeId(1));
        assert_eq!(asked(&mut candidates), [5]);
    }

    #[test]
    fn an_older_binary_is_named_and_the_call_is_not_to_be_repeated() {
        let refused = not_known(NodeId(2), "h2:1", ShardId(1));
        let error = typed(&refused).expect("it is typed");
        assert!(!error.retryable && error.message.contains("node 2 at h2:1, which may lead shard 1"), "{error:?}");
        assert!(matches!(error.kind, Some(Kind::InvalidArgument(why)) if why.field == CLUSTER_VERSION));
        assert!(matches!(said(&Status::unimplemented("")), Said::Unknown));
        assert!(matches!(said(&refused), Said::Final));
    }

    #[test]
    fn only_who_does_not_lead_sends_to_another() {
        let named = not_leading(NodeId(4), ShardId(2), Some(NodeId(6)));
        assert_eq!(named.message(), "node 4 does not lead shard 2, it believes that node 6 does");
        assert!(matches!(said(&named), Said::Elsewhere(Some(NodeId(6)))));
        let not_leader = |leader, maybe| {
            let refusal = Refusal::NotLeader { leader: Some(NodeId(leader)), maybe };
            status(&convert::refusal_error(&refusal))
        };
        assert!(matches!(said(&not_leader(5, false)), Said::Elsewhere(Some(NodeId(5)))));
        assert!(matches!(said(&not_leader(5, true)), Said::Final), "it may have been done");
        assert!(matches!(said(&not_leading(NodeId(1), ShardId(2), None)), Said::Elsewhere(None)));
        let epoch = Refusal::WrongEpoch { current: Epoch(3), expected: Epoch(2) };
        assert!(matches!(said(&status(&convert::refusal_error(&epoch))), Said::Final));
        assert!(matches!(said(&Status::unavailable("the connection broke")), Said::Final), "it may have been done");
    }
}
