//! A job, as the system shard keeps it.
//!
//! Owns: its goal, its state, and the words for both. Must never: hold how far a job has come: whoever carries it out sees that anew.

use super::move_replica::MoveReplica;
use crate::ids::ShardId;
use std::fmt;

/// What a job is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobGoal {
    /// A shard's replica moves.
    Move {
        /// The shard.
        shard: ShardId,
        /// From where to where.
        replica: MoveReplica,
    },
}

impl JobGoal {
    /// The shard whose members it changes.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        let Self::Move { shard, .. } = self;
        *shard
    }
}

impl fmt::Display for JobGoal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Move { shard, replica: MoveReplica { from, to } } = self;
        match to {
            Some(to) => write!(f, "moves the replica of shard {shard} from node {from} to node {to}"),
            None => write!(f, "removes the learner of shard {shard} from node {from}"),
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// The goal is reached.
    Done,
    /// It was cancelled, and nothing of it is left.
    Cancelled,
    /// Another command changed the members so that the goal makes no sense any longer; says how.
    Overtaken(String),
    /// It cannot go on; says why.
    Failed(String),
}

impl JobEnd {
    /// One word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Overtaken(_) => "overtaken",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it ended short of its goal, where that is said.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Done | Self::Cancelled => None,
            Self::Overtaken(why) | Self::Failed(why) => Some(why),
        }
    }
}

/// What is to be done with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It goes forward.
    Running,
    /// It goes back, where it still can.
    Cancelling,
    /// Nothing.
    Ended {
        /// How it ended.
        end: JobEnd,
        /// Which one to end it was, from 1.
        order: u64,
    },
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What it is to reach.
    pub goal: JobGoal,
    /// What is to be done with it.
    pub state: JobState,
}

impl Job {
    /// How it ended, where it has.
    #[must_use]
    pub fn end(&self) -> Option<&JobEnd> {
        match &self.state {
            JobState::Ended { end, .. } => Some(end),
            JobState::Running | JobState::Cancelling => None,
        }
    }

    /// Its state in one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match &self.state {
            JobState::Running => "running",
            JobState::Cancelling => "cancelling",
            JobState::Ended { end, .. } => end.word(),
        }
    }
}
