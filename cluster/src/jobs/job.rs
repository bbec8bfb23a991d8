//! A job, as the system shard keeps it.
//!
//! Owns: its goal, its state, and the words for both. Must never: hold how far a job has come: whoever carries it out sees that anew.

use super::empty_node::EmptyNode;
use super::move_replica::MoveReplica;
use super::resize_shard::ResizeShard;
use super::{merge, split};
use crate::ids::{ClusterVersion, ShardId};
use bytes::Bytes;
use std::fmt;

/// What a job is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobGoal {
    /// A shard's replica moves.
    Move {
        /// The shard.
        shard: ShardId,
        /// From where to where.
        replica: MoveReplica,
    },
    /// A shard is split. From [`ClusterVersion::FOURTH`] on.
    Split {
        /// The shard.
        shard: ShardId,
        /// Its version when that was asked for: without it nobody could tell this split from an earlier one.
        version: u64,
        /// Where the child is to begin, a position; `None`: where its leader finds the middle of what it has.
        at: Option<Bytes>,
    },
    /// Two neighbours become one shard. From [`ClusterVersion::FIFTH`] on.
    Merge {
        /// The shard that stays.
        shard: ShardId,
        /// The shard that goes into it.
        source: ShardId,
        /// The position where the upper one of the two begins. Once it lies within one shard, that is what became of them.
        border: Bytes,
    },
    /// A node is emptied. From [`ClusterVersion::FOURTH`] on.
    Empty(EmptyNode),
    /// A shard gets as many voters as its table asks for. From [`ClusterVersion::FIFTH`] on.
    Resize(ResizeShard),
}

impl JobGoal {
    /// The shard whose members or bounds it changes, of a merge the one that stays; `None` where others do that for it.
    #[must_use]
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Move { shard, .. }
            | Self::Split { shard, .. }
            | Self::Merge { shard, .. }
            | Self::Resize(ResizeShard { shard, .. }) => Some(*shard),
            Self::Empty(_) => None,
        }
    }

    /// All shards whose members or bounds it changes.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        let source = self.as_merge().map(|goal| goal.source);
        self.shard().into_iter().chain(source)
    }

    /// The shard and the replica that moves, where it is a move.
    #[must_use]
    pub fn as_move(&self) -> Option<(ShardId, MoveReplica)> {
        match self {
            Self::Move { shard, replica } => Some((*shard, *replica)),
            Self::Split { .. } | Self::Merge { .. } | Self::Empty(_) | Self::Resize(_) => None,
        }
    }

    /// The split, where it is one.
    #[must_use]
    pub fn as_split(&self) -> Option<split::Goal<'_>> {
        match self {
            Self::Split { shard, version, at } => {
                Some(split::Goal { shard: *shard, version: *version, at: at.as_ref() })
            }
            Self::Move { .. } | Self::Merge { .. } | Self::Empty(_) | Self::Resize(_) => None,
        }
    }

    /// The merge, where it is one.
    #[must_use]
    pub fn as_merge(&self) -> Option<merge::Goal<'_>> {
        match self {
            Self::Merge { shard, source, border } => {
                Some(merge::Goal { target: *shard, source: *source, border: border.as_ref() })
            }
            Self::Move { .. } | Self::Split { .. } | Self::Empty(_) | Self::Resize(_) => None,
        }
    }

    /// The node that is emptied, where one is.
    #[must_use]
    pub fn as_empty(&self) -> Option<EmptyNode> {
        match self {
            Self::Empty(goal) => Some(*goal),
            Self::Move { .. } | Self::Split { .. } | Self::Merge { .. } | Self::Resize(_) => None,
        }
    }

    /// The shard whose voters change in number, where those of one do.
    #[must_use]
    pub fn as_resize(&self) -> Option<ResizeShard> {
        match self {
            Self::Resize(goal) => Some(*goal),
            Self::Move { .. } | Self::Split { .. } | Self::Merge { .. } | Self::Empty(_) => None,
        }
    }

    /// The cluster version that knows it.
    #[must_use]
    pub fn needs(&self) -> ClusterVersion {
        match self {
            Self::Move { .. } => ClusterVersion::THIRD,
            Self::Split { .. } | Self::Empty(_) => ClusterVersion::FOURTH,
            Self::Merge { .. } | Self::Resize(_) => ClusterVersion::FIFTH,
        }
    }
}

impl fmt::Display for JobGoal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move { shard, replica: MoveReplica { from, to: Some(to) } } => {
                write!(f, "moves the replica of shard {shard} from node {from} to node {to}")
            }
            Self::Move { shard, replica: MoveReplica { from, to: None } } => {
                write!(f, "removes the learner of shard {shard} from node {from}")
            }
            Self::Split { shard, at: Some(at), .. } => write!(f, "splits shard {shard} at {}", position_in_words(at)),
            Self::Split { shard, at: None, .. } => write!(f, "splits shard {shard} in the middle"),
            Self::Merge { shard, source, .. } => write!(f, "merges shard {source} into shard {shard}"),
            Self::Empty(EmptyNode { node, remove: false, .. }) => write!(f, "drains node {node}"),
            Self::Empty(EmptyNode { node, remove: true, .. }) => {
                write!(f, "empties node {node} and takes it out of the cluster")
            }
            Self::Resize(ResizeShard { shard, voters }) => write!(f, "gives shard {shard} {voters} replicas"),
        }
    }
}

/// A key of printable ASCII in quotes, anything else as hexadecimal digits: a hash, for one.
fn position_in_words(at: &[u8]) -> String {
    if at.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return format!("\"{}\"", at.escape_ascii());
    }
    at.iter().fold("0x".to_owned(), |digits, byte| digits + &format!("{byte:02x}"))
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
    /// Nothing until it is resumed. From [`ClusterVersion::FOURTH`] on.
    Paused,
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
            JobState::Running | JobState::Paused | JobState::Cancelling => None,
        }
    }

    /// Its state in one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match &self.state {
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Cancelling => "cancelling",
            JobState::Ended { end, .. } => end.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_names_its_place_as_a_key_or_as_a_hash() {
        let words = |at: &'static [u8]| {
            JobGoal::Split { shard: ShardId(2), version: 1, at: Some(Bytes::from_static(at)) }.to_string()
        };
        assert_eq!(words(b"order 7\"x"), r#"splits shard 2 at "order 7\"x""#);
        assert_eq!(words(&[0x80, 0, 0, 0, 0, 0, 0, 0x1f]), "splits shard 2 at 0x800000000000001f");
        assert_eq!(words("ü".as_bytes()), "splits shard 2 at 0xc3bc");
        let middle = JobGoal::Split { shard: ShardId(2), version: 1, at: None };
        assert_eq!(middle.to_string(), "splits shard 2 in the middle");
    }
}
