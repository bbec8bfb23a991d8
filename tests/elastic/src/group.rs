//! The log of one shard, as its consensus would choose it.
//!
//! Owns: the chosen entries, what is proposed, who leads. Must never: apply an entry.
//!
//! The consensus itself is not here: `tests/explorer` explores it. An entry is chosen once a majority of the members has it.

use bytes::Bytes;
use std::collections::BTreeMap;
use synod_cluster::ids::{Ballot, ShardId};
use synod_engine::command::{Admin, Split, WriteRequest, encode_admin, encode_requests};
use synod_engine::genesis::Genesis;
use synod_paxos::types::{Entry, EntryId, Epoch, Member, MemberRole, Membership, NodeId, Payload};

/// Which attempt of which write somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) client: usize,
    pub(crate) seq: u64,
    pub(crate) attempt: u64,
    pub(crate) shard: ShardId,
    pub(crate) node: usize,
}

/// What is proposed.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Noop,
    Write(WriteRequest),
    Split(Split),
    Config(Membership),
    /// A step of a merge.
    Admin(Admin),
}

impl What {
    /// Its payload in the log.
    pub(crate) fn payload(&self) -> Payload {
        match self {
            Self::Noop => Payload::Noop,
            Self::Write(request) => Payload::Command(encode_requests([request].into_iter(), 0)),
            Self::Split(split) => Payload::Command(encode_admin(&Admin::Split(split.clone()))),
            Self::Admin(admin) => Payload::Command(encode_admin(admin)),
            Self::Config(membership) => Payload::Config(membership.clone()),
        }
    }
}

/// A proposal that is not chosen yet.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) what: What,
    pub(crate) ts: u64,
    pub(crate) origin: Ballot,
    pub(crate) ticket: Option<Ticket>,
}

/// Who answers for an entry: the process that proposed it, as long as it leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposer {
    pub(crate) ticket: Option<Ticket>,
    pub(crate) node: usize,
    pub(crate) life: u64,
    pub(crate) term: u64,
}

/// One shard's group.
pub(crate) struct Group {
    pub(crate) shard: ShardId,
    pub(crate) genesis: Genesis,
    /// The chosen entries; that of slot 1 is the first.
    pub(crate) log: Vec<Entry>,
    /// What each chosen entry was.
    pub(crate) whats: Vec<What>,
    pub(crate) proposers: Vec<Proposer>,
    /// The hash of the state behind each slot, from slot 0 on.
    pub(crate) digests: Vec<u128>,
    pub(crate) membership: Membership,
    /// Slot of the last change of members.
    pub(crate) changed_at: u64,
    pub(crate) leader: Option<usize>,
    pub(crate) term: u64,
    pub(crate) pending: Vec<Pending>,
    /// What the leader was told: by node, the number of a merge and the freeze of its source.
    pub(crate) words: BTreeMap<usize, (u64, EntryId)>,
    /// Who answers reads without asking a majority.
    pub(crate) lease: Option<usize>,
    /// Greatest timestamp proposed.
    pub(crate) last_ts: u64,
}

impl Group {
    /// A group that begins with a state of this hash.
    pub(crate) fn new(shard: ShardId, genesis: Genesis, membership: Membership, digest: u128, last_ts: u64) -> Self {
        Self {
            shard,
            genesis,
            log: Vec::new(),
            whats: Vec::new(),
            proposers: Vec::new(),
            digests: vec![digest],
            membership,
            changed_at: 0,
            leader: None,
            term: 1,
            pending: Vec::new(),
            words: BTreeMap::new(),
            lease: None,
            last_ts,
        }
    }

    /// Slots chosen.
    pub(crate) fn chosen(&self) -> u64 {
        self.log.len() as u64
    }

    /// The voters, as indices of nodes.
    pub(crate) fn voters(&self) -> Vec<usize> {
        self.membership.voters().map(index_of).collect()
    }

    /// The voters by whom a slot was chosen, as indices of nodes.
    pub(crate) fn voters_at(&self, slot: u64) -> Vec<usize> {
        let before = self.whats.iter().take(slot.saturating_sub(1) as usize).rev();
        let changed = before.filter_map(|what| match what {
            What::Config(membership) => Some(membership),
            What::Noop | What::Write(_) | What::Split(_) | What::Admin(_) => None,
        });
        let first = self.genesis.descriptor().map(|descriptor| &descriptor.membership);
        let members = changed.chain(first).next();
        members.map(|members| members.voters().map(index_of).collect()).unwrap_or_default()
    }

    /// Whether a node is a member.
    pub(crate) fn lists(&self, node: usize) -> bool {
        self.membership.role_of(id_of(node)).is_some()
    }

    /// The learner, where there is one.
    pub(crate) fn learner(&self) -> Option<usize> {
        let learners = self.membership.members.iter().filter(|member| member.role == MemberRole::Learner);
        learners.map(|member| index_of(member.node)).next()
    }

    /// The epoch that a replica knows which knows so many slots as chosen.
    pub(crate) fn epoch_at(&self, commit: u64) -> Epoch {
        let changes = self.whats.iter().take(commit as usize).filter(|what| matches!(what, What::Config(_)));
        Epoch(1 + changes.count() as u64)
    }

    /// Whether a change of the shard itself is proposed, or chosen and not applied up to this slot.
    pub(crate) fn changes_after(&self, applied: u64) -> bool {
        let admin = |what: &What| matches!(what, What::Split(_) | What::Config(_) | What::Admin(_));
        self.pending.iter().any(|pending| admin(&pending.what)) || self.whats.iter().skip(applied as usize).any(admin)
    }
}

/// The node of an index.
pub(crate) fn id_of(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

/// The index of a node.
pub(crate) fn index_of(node: NodeId) -> usize {
    (node.0 - 1) as usize
}

/// Members: voters, and a learner where there is one.
pub(crate) fn members(epoch: Epoch, voters: &[usize], learner: Option<usize>, first_leader: usize) -> Membership {
    let role = |role| move |node: &usize| Member { node: id_of(*node), role };
    let mut members: Vec<Member> = voters.iter().map(role(MemberRole::Voter)).collect();
    members.extend(learner.iter().map(role(MemberRole::Learner)));
    members.sort_unstable();
    Membership { epoch, members, first_leader: id_of(first_leader) }
}

/// The value of a record: who wrote it.
pub(crate) fn value_of(client: usize, seq: u64) -> Bytes {
    Bytes::from(format!("{client}/{seq}"))
}
