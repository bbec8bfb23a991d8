//! What a replica knows in each of its roles.
//!
//! Owns: the data of the roles, and the arithmetic on it. Must never: see the replica. The modules that act on messages see
//! both, so that no two of them import each other.

mod candidate;
mod chunks;
mod follower;
mod leader;
mod reads;
mod support;

pub(crate) use candidate::{Candidate, Fetched, Fetching, Phase, Promised};
pub(crate) use chunks::Staging;
pub(crate) use follower::Follower;
pub(crate) use leader::{Leader, Transfer};
pub(crate) use reads::{Followed, Question, Reader, Reads};
pub(crate) use support::Support;

/// The three roles a replica acts in; learners and non-members are followers that never stand for election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Box<Leader>),
}
