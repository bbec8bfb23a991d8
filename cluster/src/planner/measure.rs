//! How well a cluster is placed.
//!
//! Owns: the figures that are compared before and after a plan. Must never: decide anything.

use super::draft::Draft;
use super::picture::{Mark, Picture};
use crate::ids::NodeId;

/// The state of a cluster in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Shards.
    pub shards: usize,
    /// Voters that are to be replaced, and voters that are missing.
    pub lost: usize,
    /// Pairs of voters of one shard that share a zone.
    pub zone_pairs: u64,
    /// Replicas on nodes that are being emptied.
    pub marked: usize,
    /// Bytes of the fullest node, percent of the mean. 0 where there are none, as below.
    pub bytes_percent: u64,
    /// Replicas of the node that has most, percent of the mean.
    pub replicas_percent: u64,
    /// Leaderships of the node that has most, percent of the mean.
    pub leaders_percent: u64,
    /// Load of the busiest node, percent of the mean.
    pub load_percent: u64,
}

impl Measure {
    /// Measures a picture.
    #[must_use]
    pub fn of(picture: &Picture) -> Self {
        let draft = Draft::of(picture);
        let mut measure = Self { shards: picture.shards.len(), ..Self::default() };
        for view in picture.shards.values() {
            let voters: Vec<NodeId> = view.membership.voters().collect();
            let missing = picture.wanted(view).saturating_sub(voters.len());
            measure.lost += missing + voters.iter().filter(|node| picture.lost(**node)).count();
            measure.zone_pairs += u64::from(picture.crowding(&voters).zone);
            let marked = |node: &&NodeId| picture.nodes.get(*node).is_some_and(|view| view.mark != Mark::Stays);
            measure.marked += voters.iter().filter(marked).count();
        }
        let takers: Vec<NodeId> = picture.takers().collect();
        let most = |dim: usize| {
            let has: Vec<u128> = takers.iter().map(|node| u128::from(draft.has(None, *node)[dim])).collect();
            let (sum, most) = (has.iter().sum::<u128>(), has.iter().copied().max().unwrap_or_default());
            let percent = most * 100 * has.len() as u128 / sum.max(1);
            u64::try_from(percent).unwrap_or(u64::MAX)
        };
        [measure.bytes_percent, measure.replicas_percent, measure.leaders_percent, measure.load_percent] =
            [most(0), most(1), most(2), most(3)];
        measure
    }

    /// The greatest percentage.
    #[must_use]
    pub fn worst(&self) -> u64 {
        let percents = [self.bytes_percent, self.replicas_percent, self.leaders_percent, self.load_percent];
        percents.into_iter().max().unwrap_or_default()
    }
}
