//! Merges of shards, as the map sees them.
//!
//! Owns: which two shards may be asked to become one, and what the map says of that. Must never: change the map: a merge is told by a report
//! of bounds, as a split is.

use super::{Descriptor, SystemOutcome, SystemState};
use crate::ids::{ClusterVersion, SYSTEM_SHARD, ShardId};
use crate::jobs::merge::{self, Mapped, Seen, Side};
use crate::jobs::split::Bounds;
use crate::position::within;

fn invalid(field: &str, why: impl Into<String>) -> SystemOutcome {
    SystemOutcome::Invalid { field: field.into(), why: why.into() }
}

fn mapped(descriptor: &Descriptor) -> Mapped {
    let Descriptor { from, to, version, membership, .. } = descriptor.clone();
    Mapped { bounds: Bounds { from, to, version }, membership }
}

impl SystemState {
    /// What the map says of a merge; what the shards' leaders say is not in it.
    #[must_use]
    pub fn look_at_merge(&self, goal: merge::Goal<'_>) -> Seen {
        let side = |shard: &ShardId| Side { mapped: self.shards.get(shard).map(mapped), leader: None };
        let table = [goal.target, goal.source].iter().find_map(|shard| self.shards.get(shard)).map(|d| d.table);
        let inside = |d: &Descriptor| d.from != goal.border && within(goal.border, &d.from, &d.to);
        let holds = |d: &&Descriptor| Some(d.table) == table && inside(d);
        Seen {
            target: side(&goal.target),
            source: side(&goal.source),
            holds_border: self.shards.values().find(holds).map(|d| d.shard),
        }
    }

    pub(super) fn knows_merges(&self) -> Result<(), SystemOutcome> {
        self.knows("merges need", ClusterVersion::FIFTH)
    }

    /// Refuses a merge that makes no sense by the bounds and members that are known.
    pub(super) fn check_merge(&self, target: ShardId, source: ShardId, border: &[u8]) -> Result<(), SystemOutcome> {
        let of = |field, shard: ShardId| {
            if shard == SYSTEM_SHARD {
                return Err(invalid(field, "the system shard is never merged"));
            }
            self.shards.get(&shard).ok_or_else(|| invalid(field, format!("there is no shard {shard}")))
        };
        let (kept, gone) = (of("shard", target)?, of("source", source)?);
        if target == source {
            return Err(invalid("source", format!("shard {source} cannot go into itself")));
        }
        if kept.table != gone.table {
            return Err(invalid("source", format!("shards {target} and {source} are of two tables")));
        }
        let (kept, gone) = (mapped(kept), mapped(gone));
        if !merge::are_neighbours(&kept.bounds, &gone.bounds, border) {
            return Err(invalid("source", format!("shards {target} and {source} are no neighbours at this border")));
        }
        match merge::differ(merge::Goal { target, source, border }, &kept, &gone) {
            Some(why) => Err(invalid("source", why)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::JobGoal;
    use crate::system::CLUSTER_VERSION;
    use crate::system::{Partitioning, Retention, SystemCommand};
    use bytes::Bytes;

    /// Shards 2 to 4 of one table, divided at g and p, and shard 5 of another.
    fn state() -> SystemState {
        let mut state = SystemState::found(7, &["a:1".to_owned()]);
        state.version = ClusterVersion::FIFTH;
        for (name, splits) in [("t", vec![Bytes::from_static(b"g"), Bytes::from_static(b"p")]), ("other", vec![])] {
            let created = state.execute(&SystemCommand::CreateTable {
                name: name.into(),
                partitioning: Partitioning::Range,
                retention: Retention::All,
                shards: 0,
                splits,
                replicas: 1,
            });
            assert!(matches!(created.0, SystemOutcome::Table(_)), "{created:?}");
        }
        state
    }

    fn goal(shard: u64, source: u64, border: &'static [u8]) -> JobGoal {
        JobGoal::Merge { shard: ShardId(shard), source: ShardId(source), border: Bytes::from_static(border) }
    }

    fn start(state: &mut SystemState, goal: JobGoal) -> SystemOutcome {
        let command = SystemCommand::StartJob { goal };
        assert_eq!(command.needs(), ClusterVersion::FIFTH);
        assert_eq!(SystemCommand::decode(command.encode()).unwrap(), command);
        state.execute(&command).0
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_says_why() {
        let cases = [
            (goal(1, 2, b"g"), "the system shard is never merged"),
            (goal(2, 9, b"g"), "there is no shard 9"),
            (goal(2, 2, b"g"), "cannot go into itself"),
            (goal(2, 5, b"g"), "are of two tables"),
            (goal(2, 4, b"g"), "no neighbours at this border"),
            (goal(2, 3, b"p"), "no neighbours at this border"),
        ];
        for (goal, wanted) in cases {
            match start(&mut state(), goal) {
                SystemOutcome::Invalid { why, .. } => assert!(why.contains(wanted), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        let mut old = SystemState { version: ClusterVersion::FOURTH, ..state() };
        match start(&mut old, goal(2, 3, b"g")) {
            SystemOutcome::Invalid { field, why } => {
                assert!(field == CLUSTER_VERSION && why.contains("merges need 5"), "{why}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_job_at_a_time_changes_a_shard() {
        let mut state = state();
        let begun = start(&mut state, goal(3, 2, b"g"));
        assert!(matches!(begun, SystemOutcome::Job(_)), "{begun:?}");
        assert_eq!(start(&mut state, goal(3, 2, b"g")), begun, "the same goal is the same job");
        for (shard, source, border) in [(3, 4, b"p"), (4, 3, b"p"), (2, 3, b"g")] {
            let refused = start(&mut state, goal(shard, source, border));
            assert!(
                matches!(&refused, SystemOutcome::JobConflict { why, .. } if why.contains("merges shard 2 into shard 3")),
                "{refused:?}"
            );
        }
        let split = JobGoal::Split { shard: ShardId(2), version: 1, at: Some(Bytes::from_static(b"c")) };
        let refused = state.execute(&SystemCommand::StartJob { goal: split }).0;
        assert!(matches!(refused, SystemOutcome::JobConflict { .. }), "the one that goes counts too: {refused:?}");
    }

    #[test]
    fn a_merge_is_seen_once_the_map_has_no_border_there() {
        let mut state = state();
        let wanted = goal(2, 3, b"g");
        let wanted = wanted.as_merge().unwrap();
        let seen = state.look_at_merge(wanted);
        assert_eq!((seen.holds_border, seen.target.mapped.is_some()), (None, true));
        let gone = state.shards.remove(&ShardId(3)).unwrap();
        state.shards.change(&ShardId(2), |d| d.to = gone.to.clone()).unwrap();
        let seen = state.look_at_merge(wanted);
        assert_eq!((seen.holds_border, &seen.source), (Some(ShardId(2)), &Side::default()));
        assert_eq!(merge::next(wanted, &seen), merge::Step::Done);
    }
}
