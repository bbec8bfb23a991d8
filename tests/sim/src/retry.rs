//! What follows a failed attempt: the production client's decisions, under the simulation's clock.
//!
//! Owns: what an operation has learnt, in the production client's own type. Must never: decide anything itself.

use crate::dice::Dice;
use std::time::Duration;
use synod_cluster::decide::{self, Attempt, Leader, Progress};
use synod_cluster::error::Error;
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::overlay::News;
use synod_cluster::refusal::Refusal;

/// The production client's defaults: an attempt's patience, and the bounds of its pauses.
const ATTEMPT: Duration = Duration::from_secs(1);
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// How an attempt ended without an answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    Refused(Refusal),
    /// The request was made for older bounds than the node knows; it says who has the keys.
    Moved(Vec<News>),
    /// No connection: nothing left.
    Unreached,
    Broken,
    Silent,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next attempt after this pause, µs.
    Again(u64),
    /// A write starts anew under another name; the shard's time, µs.
    Anew(u64),
    /// The operation ends: what became of it is not known.
    Unknown,
    /// The operation ends: it was not executed.
    Failed,
}

/// An attempt that failed.
pub(crate) struct Failed {
    pub(crate) node: NodeId,
    pub(crate) shard: ShardId,
    pub(crate) voters: usize,
    pub(crate) write: bool,
    /// The client knows by now of another shard that has the keys, or of other bounds or members of this one.
    pub(crate) moved: bool,
    /// The keys are of several shards.
    pub(crate) crosses: bool,
    /// The planted fault: it starts anew whatever may have become of an earlier attempt.
    pub(crate) renews: bool,
}

/// What an operation has learnt from its attempts.
pub(crate) struct Retry {
    learnt: Progress,
    /// A newer map is to be fetched.
    nudged: bool,
    /// It was answered.
    pub(crate) succeeded: bool,
}

fn time(now: u64) -> Duration {
    Duration::from_micros(now)
}

fn verdict(error: &Error) -> Next {
    if let Some(shard_us) = decide::renewal(error) {
        return Next::Anew(shard_us);
    }
    if matches!(error, Error::OutcomeUnknown { .. }) { Next::Unknown } else { Next::Failed }
}

impl Retry {
    pub(crate) fn new(turn: usize) -> Self {
        Self { learnt: Progress::new(ATTEMPT, PAUSE, turn), nudged: false, succeeded: false }
    }

    /// Whether a newer map is to be fetched before the next attempt.
    pub(crate) fn take_nudge(&mut self) -> bool {
        std::mem::take(&mut self.nudged)
    }

    /// Whether a batch whose keys are of several shards is sent all the same.
    pub(crate) fn may_cross(&self) -> bool {
        self.learnt.cross().is_ok()
    }

    /// How long an attempt may take, µs.
    pub(crate) fn patience(&self) -> u64 {
        self.learnt.attempt_timeout().as_micros() as u64
    }

    /// Whom to ask.
    pub(crate) fn choose(&mut self, now: u64, leader: Option<NodeId>, voters: &[NodeId]) -> NodeId {
        let voters: Vec<u64> = voters.iter().map(|node| node.0).collect();
        NodeId(self.learnt.choose(leader.map(|node| node.0), &voters, time(now)).expect("a shard has voters"))
    }

    /// The operation's time is up.
    pub(crate) fn out_of_time(&mut self, write: bool) -> Next {
        verdict(&self.learnt.out_of_time(write))
    }

    /// Takes in how an attempt failed. `leader` is what the client believes, and is changed by what it learns.
    pub(crate) fn failed(
        &mut self,
        now: u64,
        failed: &Failed,
        failure: Failure,
        leader: &mut Option<NodeId>,
        dice: &mut Dice,
    ) -> Next {
        if let (true, Failure::Refused(Refusal::Expired { shard_us })) = (failed.renews, &failure) {
            return Next::Anew(*shard_us);
        }
        let may_have_left = !matches!(failure, Failure::Unreached);
        let failure = match failure {
            Failure::Refused(why) => decide::Failure::Refused(decide::Refused::from(&why)),
            Failure::Moved(_) => decide::Failure::Refused(decide::Refused::WrongShard),
            Failure::Unreached => decide::Failure::Broken("no connection".into()),
            Failure::Broken => decide::Failure::Broken("reset".into()),
            Failure::Silent => decide::Failure::Silent(self.learnt.attempt_timeout()),
        };
        let attempt = Attempt {
            table: "t",
            shard: failed.shard.0,
            voters: failed.voters,
            node: failed.node.0,
            write: failed.write,
            may_have_left,
            moved: failed.moved,
            crosses: failed.crosses,
        };
        match self.learnt.failed(failure, &attempt, time(now), |_| true) {
            decide::Next::Again { leader: learnt, pause, nudge } => {
                self.nudged |= nudge;
                match learnt {
                    Leader::AsBefore => {}
                    Leader::Is(node) => *leader = Some(NodeId(node)),
                    Leader::IsNot(node) => *leader = leader.filter(|leader| leader.0 != node),
                }
                let jitter = |span: Duration| {
                    let half = span.as_micros() as u64 / 2;
                    Duration::from_micros(half + dice.below(half + 1))
                };
                Next::Again(pause.map_or(0, |pause| pause.length(Duration::MAX, jitter).as_micros() as u64))
            }
            decide::Next::LookUp => {
                self.nudged = true;
                Next::Again(0)
            }
            decide::Next::End(error) => verdict(&error),
        }
    }
}

impl Failure {
    /// For counts.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unreached => "no connection",
            Self::Broken => "connection broke",
            Self::Silent => "no answer in time",
            Self::Moved(_) => "made for older bounds",
            Self::Refused(Refusal::NotLeader { maybe: true, .. }) => "not leader any more",
            Self::Refused(Refusal::NotLeader { .. }) => "not leader",
            Self::Refused(Refusal::WrongShard) => "wrong shard",
            Self::Refused(Refusal::Changing { .. }) => "being merged",
            Self::Refused(Refusal::Overloaded) => "overloaded",
            Self::Refused(Refusal::NoMemory(_)) => "no memory",
            Self::Refused(Refusal::TooManyTails { .. }) => "too many tails",
            Self::Refused(Refusal::Expired { .. }) => "expired",
            Self::Refused(Refusal::BelowFloor) => "below floor",
            Self::Refused(Refusal::Trimmed { .. }) => "trimmed",
            Self::Refused(Refusal::Quarantined(_)) => "quarantined",
            Self::Refused(Refusal::Invalid { .. }) => "invalid",
            Self::Refused(Refusal::WrongEpoch { .. }) => "wrong epoch",
            Self::Refused(Refusal::NotReady) => "not ready",
            Self::Refused(Refusal::DiskFull(_)) => "disk low",
        }
    }
}
