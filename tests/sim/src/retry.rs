//! What follows a failed attempt: another node, a pause, or the end of the operation.
//!
//! Owns: what a client has learnt from an operation's attempts. Must never: call a write not executed that may have been.
//!
//! The rules are those of `client/src/retry.rs`.

use crate::dice::Dice;
use synod_engine::host::Refusal;
use synod_engine::ids::NodeId;

/// `NotLeader` hints followed without a pause before one is made.
const MAX_HOPS: u32 = 3;
/// How long a node that did not answer is passed over, and one whose connection broke, µs.
const SUSPECT_SILENT: u64 = 1_000_000;
const SUSPECT_BROKEN: u64 = 100_000;
/// An attempt waits so long at first, µs.
const ATTEMPT: u64 = 1_000_000;
/// Shortest and longest pause, µs.
const PAUSE: (u64, u64) = (5_000, 500_000);

/// How an attempt ended without an answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    Refused(Refusal),
    /// No connection: nothing left.
    Unreached,
    Broken,
    Silent,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next attempt after this pause, µs.
    Again(u64),
    /// The operation ends: what became of it is not known.
    Unknown,
    /// The operation ends: it was not executed.
    Failed(Refusal),
}

/// What an operation has learnt from its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    pub(crate) attempt_timeout: u64,
    pause: u64,
    turn: u64,
    hops: u32,
    suspects: Vec<(NodeId, u64)>,
    silent: Vec<NodeId>,
    /// An attempt was possibly delivered.
    pub(crate) maybe: bool,
    /// It was answered.
    pub(crate) succeeded: bool,
}

impl Retry {
    pub(crate) fn new(turn: u64) -> Self {
        Self {
            attempt_timeout: ATTEMPT,
            pause: PAUSE.0,
            turn,
            hops: 0,
            suspects: Vec::new(),
            silent: Vec::new(),
            maybe: false,
            succeeded: false,
        }
    }

    /// Whom to ask: the leader, or the next voter in turn.
    pub(crate) fn choose(&mut self, now: u64, leader: Option<NodeId>, voters: &[NodeId]) -> NodeId {
        if let Some(leader) = leader.filter(|leader| !self.is_suspect(now, *leader)) {
            return leader;
        }
        let nth = |turn: u64| voters[(turn % voters.len() as u64) as usize];
        for _ in 0..voters.len() {
            if !self.is_suspect(now, nth(self.turn)) {
                break;
            }
            self.turn += 1;
        }
        nth(self.turn)
    }

    fn is_suspect(&self, now: u64, node: NodeId) -> bool {
        self.suspects.iter().any(|(id, until)| *id == node && now < *until)
    }

    fn suspect(&mut self, node: NodeId, until: u64) {
        self.suspects.retain(|(id, _)| *id != node);
        self.suspects.push((node, until));
    }

    /// Takes in how an attempt at `node` failed. `leader` is what the client believes, and is changed by what it learns.
    pub(crate) fn failed(
        &mut self,
        now: u64,
        node: NodeId,
        failure: Failure,
        leader: &mut Option<NodeId>,
        dice: &mut Dice,
    ) -> Next {
        match failure {
            Failure::Unreached => {
                self.suspect(node, now + SUSPECT_BROKEN);
                self.another(node, leader, dice)
            }
            Failure::Broken => {
                self.maybe = true;
                self.suspect(node, now + SUSPECT_BROKEN);
                self.another(node, leader, dice)
            }
            Failure::Silent => {
                self.maybe = true;
                self.suspect(node, now + SUSPECT_SILENT);
                if self.silent.contains(&node) {
                    self.attempt_timeout *= 2;
                } else {
                    self.silent.push(node);
                }
                self.another(node, leader, dice)
            }
            Failure::Refused(Refusal::NotLeader { leader: hint, maybe }) => {
                self.maybe |= maybe;
                match hint.filter(|hint| *hint != node && !self.is_suspect(now, *hint)) {
                    Some(hint) => {
                        *leader = Some(hint);
                        self.hops += 1;
                        if self.hops > MAX_HOPS { self.back_off(0, dice) } else { Next::Again(0) }
                    }
                    None => self.another(node, leader, dice),
                }
            }
            Failure::Refused(Refusal::WrongShard) => self.back_off(0, dice),
            Failure::Refused(Refusal::Overloaded) => self.back_off(20_000, dice),
            Failure::Refused(Refusal::NotReady) => {
                self.maybe = true;
                self.another(node, leader, dice)
            }
            Failure::Refused(Refusal::Quarantined(_)) => self.another(node, leader, dice),
            Failure::Refused(Refusal::BelowFloor) => Next::Unknown,
            Failure::Refused(why) => self.settle(why),
        }
    }

    fn settle(&self, why: Refusal) -> Next {
        let of_the_request = matches!(why, Refusal::Invalid { .. });
        if self.maybe && !of_the_request { Next::Unknown } else { Next::Failed(why) }
    }

    fn another(&mut self, node: NodeId, leader: &mut Option<NodeId>, dice: &mut Dice) -> Next {
        if *leader == Some(node) {
            *leader = None;
        }
        self.turn += 1;
        self.back_off(0, dice)
    }

    fn back_off(&mut self, at_least: u64, dice: &mut Dice) -> Next {
        let pause = self.pause / 2 + dice.below(self.pause / 2 + 1);
        self.pause = (self.pause * 2).min(PAUSE.1);
        self.hops = 0;
        Next::Again(pause.max(at_least))
    }
}

impl Failure {
    /// For counts.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unreached => "no connection",
            Self::Broken => "connection broke",
            Self::Silent => "no answer in time",
            Self::Refused(Refusal::NotLeader { maybe: true, .. }) => "not leader any more",
            Self::Refused(Refusal::NotLeader { .. }) => "not leader",
            Self::Refused(Refusal::WrongShard) => "wrong shard",
            Self::Refused(Refusal::Overloaded) => "overloaded",
            Self::Refused(Refusal::Expired) => "expired",
            Self::Refused(Refusal::BelowFloor) => "below floor",
            Self::Refused(Refusal::Trimmed { .. }) => "trimmed",
            Self::Refused(Refusal::Quarantined(_)) => "quarantined",
            Self::Refused(Refusal::Invalid { .. }) => "invalid",
            Self::Refused(Refusal::NotReady) => "not ready",
        }
    }
}
