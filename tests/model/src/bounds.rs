//! The models that are searched, by name.
//!
//! Owns: their bounds, and what a bound is. Must never: be called complete where a search of them did not end.

use crate::paxos::io::Options;
use crate::paxos::types::{Epoch, Member, MemberRole, Membership, NodeId};

/// Nodes of every model.
pub const NODES: usize = 3;

/// What is searched.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Its name.
    pub name: &'static str,
    /// The members at first.
    pub first: Membership,
    /// The members of the second epoch, where there may be one.
    pub next: Option<Membership>,
    /// Who may stand for election.
    pub proposers: Vec<NodeId>,
    /// No command is proposed behind so many slots.
    pub slots: u64,
    /// How often what may happen.
    pub budget: Budget,
    /// Whether pre-votes are messages of the model.
    pub pre_votes: bool,
    /// Whether a sync may end with a part of what waits; else it takes all, as the log writer does when it is not hurried.
    pub partial_sync: bool,
    /// Whether in every state any two that are left must go on by themselves.
    pub goes_on: bool,
    /// Limits of the core.
    pub options: Options,
    /// Whether what messages claim is judged, or only what comes of it.
    pub strict: bool,
}

/// How often what may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Elections begun.
    pub elections: u8,
    /// Commands proposed.
    pub proposals: u8,
    /// Processes killed.
    pub crashes: u8,
    /// A node's timers run out; only leaders', where pre-votes are left out.
    pub ticks: u8,
    /// A node gives a peer up.
    pub deaf: u8,
    /// Links cut.
    pub cuts: u8,
    /// Membership changes proposed.
    pub changes: u8,
}

impl Bounds {
    /// The other nodes.
    #[must_use]
    pub fn peers(&self, me: NodeId) -> Vec<NodeId> {
        (1..=NODES as u64).map(NodeId).filter(|node| *node != me).collect()
    }
}

/// What a long run searches.
pub const LONG: &[&str] = &[
    // Three acceptors, two proposers, two slots, one crash.
    "crash",
    // The same with two elections: three ballots contend.
    "crash:e=2,p=0",
    "crash:e=2,c=0",
    // Timers of a leader; a sync that takes a part; a link that loses what is on it.
    "crash:p=0,t=1",
    "crash:p=0,s=1",
    "crash:c=0,x=1",
    // One reconfiguration, with a command, and with a crash.
    "reconfigure",
    "reconfigure:p=0,c=1",
    "swap",
    "swap:c=1",
    "shrink",
    // Elections with every message of theirs.
    "pre-vote",
    // Two that are left go on by themselves.
    "left",
    "left:p=0,c=1",
];

/// The members of an epoch: voters, and who may lead B0.
#[must_use]
pub fn epoch_of(epoch: u64, voters: &[u64], first_leader: u64) -> Membership {
    let members = voters.iter().map(|node| Member { node: NodeId(*node), role: MemberRole::Voter }).collect();
    Membership { epoch: Epoch(epoch), members, first_leader: NodeId(first_leader) }
}

fn with_learner(mut epoch: Membership, node: u64) -> Membership {
    epoch.members.push(Member { node: NodeId(node), role: MemberRole::Learner });
    epoch
}

fn bounds(name: &'static str, budget: Budget) -> Bounds {
    Bounds {
        name,
        first: epoch_of(1, &[1, 2, 3], 1),
        next: None,
        proposers: vec![NodeId(1), NodeId(2)],
        slots: 2,
        budget,
        pre_votes: false,
        partial_sync: false,
        // Leases are a matter of time, which a model without a clock has none of.
        options: Options { lease: false, support_us: 0, stall_us: 0, ..Options::default() },
        strict: true,
        goes_on: false,
    }
}

/// Parses `NAME` or `NAME:e=1,p=1,c=1,t=1,x=0,r=0,d=0`.
#[must_use]
pub fn named(text: &str) -> Option<Bounds> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let mut bounds = match name {
        "crash" => bounds("crash", Budget { elections: 1, proposals: 1, crashes: 1, ..Budget::default() }),
        "reconfigure" => Bounds {
            next: Some(epoch_of(2, &[2, 3], 2)),
            slots: 4,
            ..bounds("reconfigure", Budget { elections: 1, proposals: 1, changes: 1, ..Budget::default() })
        },
        // A learner takes a voter's place: two of two before, two of two after.
        "swap" => Bounds {
            first: with_learner(epoch_of(1, &[1, 2], 1), 3),
            next: Some(epoch_of(2, &[2, 3], 2)),
            slots: 4,
            ..bounds("swap", Budget { elections: 1, proposals: 1, changes: 1, ..Budget::default() })
        },
        // The second epoch's majority is one node, which the first epoch's majority need not hold.
        "shrink" => Bounds {
            next: Some(epoch_of(2, &[3], 3)),
            slots: 4,
            ..bounds("shrink", Budget { elections: 1, proposals: 1, changes: 1, ..Budget::default() })
        },
        "pre-vote" => {
            Bounds { pre_votes: true, ..bounds("pre-vote", Budget { elections: 1, deaf: 2, ..Budget::default() }) }
        }
        // One is gone for good, and one of the others may lack its state; limits are as small as they can be, so that whoever
        // lacks anything lacks more than they allow.
        "left" => {
            let mut bounds = bounds("left", Budget { elections: 1, proposals: 1, ..Budget::default() });
            bounds.goes_on = true;
            bounds.options.version = 2;
            (bounds.options.fetch_slots, bounds.options.fetch_bytes, bounds.options.message_bytes) = (0, 0, 0);
            bounds
        }
        _ => return None,
    };
    for part in rest.split(',').filter(|part| !part.is_empty()) {
        let (what, number) = part.split_once('=')?;
        let number: u8 = number.parse().ok()?;
        let budget = &mut bounds.budget;
        match what {
            "s" => bounds.partial_sync = number > 0,
            "e" => budget.elections = number,
            "p" => budget.proposals = number,
            "c" => budget.crashes = number,
            "t" => budget.ticks = number,
            "x" => budget.cuts = number,
            "d" => budget.deaf = number,
            "r" => budget.changes = number,
            _ => return None,
        }
    }
    Some(bounds)
}
