//! What follows from an applied entry outside the state.
//!
//! Owns: the value that says all of it. Must never: be looked at by what applies entries: the state depends on none of it.

use super::split::Born;
use crate::command::Outcome;
use synod_cluster::refusal::Refusal;

/// What became of one request of an entry.
pub type Applied = Result<Outcome, Refusal>;

/// Whether somebody waits for what becomes of an entry's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Somebody does.
    Results,
    /// Nobody does: outcomes are kept with their sessions and not copied.
    Nothing,
}

/// What follows from an applied entry outside the state. Whoever carries it out names every field, so that a new one is not
/// forgotten.
#[must_use = "what follows from an entry is to be carried out"]
#[derive(Debug, Default)]
pub struct Effects {
    /// What became of each of the entry's requests, in order; empty where that was not wanted.
    pub results: Vec<Applied>,
    /// The revision that the metadata has come to, where the entry changed it.
    pub metadata: Option<u64>,
    /// The entry is a marker: replicas are compared at its slot.
    pub marker: bool,
    /// The shard that the entry began, where it split this one and no replica of the child has begun here before.
    pub child: Option<Box<Born>>,
    /// Why an administrative entry changed nothing; for its proposer.
    pub refused: Option<Refusal>,
}

impl Effects {
    /// Of an entry with so many requests, before any of them is applied.
    pub(super) fn of(requests: usize, wanted: Wanted) -> Self {
        let results = match wanted {
            Wanted::Results => Vec::with_capacity(requests),
            Wanted::Nothing => Vec::new(),
        };
        Self { results, ..Self::default() }
    }
}
