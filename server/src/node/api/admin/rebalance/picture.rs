//! The planner's picture, from the map and from what nodes say.
//!
//! Owns: what of the two counts where they differ, and what is assumed where nothing is known. Must never: ask anybody, or read a clock.

use crate::node::peer::Place;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::jobs::split::middle_of_ring;
use synod_cluster::planner::Picture;
use synod_cluster::planner::picture::{Mark, NodeView, Sample, ShardView, TableView};
use synod_cluster::planner::settings::{Rate, Settings};
use synod_cluster::system::{Descriptor, Partitioning, SystemState};
use synod_paxos::types::MemberRole;
use synod_proto::v1;

/// The disk of a node whose room is not known, bytes: no replica is too large for it.
const ROOMY: u64 = u64::MAX;

/// What is known of a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Its size and what is free of it, bytes.
    Known { size: u64, free: u64 },
    /// Its binary does not say.
    Unknown,
    /// It takes no replica: the disk is low, or it does not answer.
    None,
}

/// What was heard of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// Where it runs, as it said last.
    pub(super) place: Place,
    /// Whether it is held for alive and takes part.
    pub(super) alive: bool,
    /// How long nothing was heard of it.
    pub(super) silent: Duration,
    pub(super) room: Room,
}

/// What a shard's leader says of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Led {
    pub(super) leader: NodeId,
    /// How far it is: of two that say they lead, the one further on does.
    pub(super) rank: (u64, u64),
    /// Bytes of its replica, where it was measured.
    pub(super) bytes: Option<u64>,
    pub(super) rate: Rate,
    pub(super) rate_max: Rate,
}

/// Where a shard's leader would divide it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Divided {
    /// Of the bounds that it is of.
    pub(super) version: u64,
    pub(super) middle: Option<Bytes>,
    pub(super) samples: Vec<Sample>,
}

/// All that was heard, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// Since this process began, which is where times count from.
    pub(super) now: Duration,
    pub(super) nodes: BTreeMap<NodeId, Heard>,
    pub(super) led: BTreeMap<ShardId, Led>,
    pub(super) divided: BTreeMap<ShardId, Divided>,
    /// Nodes that are held for alive and did not answer.
    pub(super) silent: Vec<NodeId>,
}

impl Seen {
    /// Another node's word about a shard that it leads.
    pub(super) fn add(&mut self, shard: ShardId, led: Led) {
        if self.led.get(&shard).is_none_or(|known| known.rank < led.rank) {
            self.led.insert(shard, led);
        }
    }
}

/// The rate of what a replica has to do, and the greatest of five minutes.
pub(super) fn rates(load: &v1::ShardLoad) -> (Rate, Rate) {
    let rate = |reads: u64, writes: u64, read: u64, written: u64| Rate {
        ops: reads.saturating_add(writes),
        bytes: read.saturating_add(written),
    };
    let now = rate(load.reads, load.writes, load.read_bytes, load.write_bytes);
    (now, rate(load.reads_max, load.writes_max, load.read_bytes_max, load.write_bytes_max))
}

/// The cluster as the planner sees it; with a table, only the shards of that.
pub(super) fn of(state: &SystemState, seen: &Seen, settings: Settings, table: Option<TableId>) -> Picture {
    let shards = state.shards.values().filter(|d| table.is_none_or(|table| d.table == table));
    // Merges are not carried out yet: a table keeps as many shards as it has.
    let view = |replicas: u32| TableView { replicas, shards_min: u32::MAX };
    Picture {
        now: seen.now,
        nodes: state.nodes.iter().map(|(id, info)| (*id, node(seen, *id, info.mark))).collect(),
        tables: state.tables.iter().map(|(id, table)| (*id, view(table.replicas))).collect(),
        shards: shards.map(|d| (d.shard, shard(seen, d))).collect(),
        running: state.jobs.values().filter(|job| job.end().is_none()).map(|job| job.goal.clone()).collect(),
        settings,
    }
}

fn node(seen: &Seen, id: NodeId, mark: Mark) -> NodeView {
    let unheard = Heard { place: Place::default(), alive: false, silent: Duration::ZERO, room: Room::None };
    let Heard { place, alive, silent, room } = seen.nodes.get(&id).cloned().unwrap_or(unheard);
    let (disk_bytes, free_bytes) = match room {
        Room::Known { size, free } => (size, free),
        Room::Unknown => (ROOMY, ROOMY),
        Room::None => (ROOMY, 0),
    };
    NodeView {
        zone: place.zone,
        rack: place.rack,
        alive,
        since: seen.now.saturating_sub(silent),
        disk_bytes,
        free_bytes,
        mark,
    }
}

fn shard(seen: &Seen, d: &Descriptor) -> ShardView {
    let led = seen.led.get(&d.shard);
    let divided = seen.divided.get(&d.shard).filter(|divided| divided.version == d.version);
    // The map's members count: what the job for an operation will be held against.
    let leader = led.map(|led| led.leader).filter(|node| d.membership.role_of(*node) == Some(MemberRole::Voter));
    let middle = match d.partitioning {
        Partitioning::Hash => middle_of_ring(&d.from, &d.to),
        Partitioning::Range => divided.and_then(|divided| divided.middle.clone()),
    };
    ShardView {
        table: d.table,
        from: d.from.clone(),
        to: d.to.clone(),
        version: d.version,
        membership: d.membership.clone(),
        leader,
        bytes: led.and_then(|led| led.bytes).unwrap_or_default(),
        rate: led.map(|led| led.rate).unwrap_or_default(),
        rate_max: led.map(|led| led.rate_max).unwrap_or_default(),
        samples: divided.map(|divided| divided.samples.clone()).unwrap_or_default(),
        middle,
        // Nobody keeps it yet.
        resized: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::SYSTEM_SHARD;
    use synod_cluster::planner::plan;
    use synod_cluster::system::{Retention, SystemCommand};

    /// Three founders, and two tables of two shards each.
    fn state() -> SystemState {
        let mut state = SystemState::found(7, &["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()]);
        for name in ["t", "u"] {
            state.execute(&SystemCommand::CreateTable {
                name: name.into(),
                partitioning: Partitioning::Hash,
                retention: Retention::All,
                shards: 2,
                splits: vec![],
                replicas: 3,
            });
        }
        state
    }

    fn heard(zone: &str) -> Heard {
        let place = Place { zone: zone.to_owned(), rack: String::new() };
        let room = Room::Known { size: 1 << 40, free: 1 << 39 };
        Heard { place, alive: true, silent: Duration::ZERO, room }
    }

    fn seen(nodes: u64) -> Seen {
        let nodes = (1..=nodes).map(|id| (NodeId(id), heard("z"))).collect();
        Seen { now: Duration::from_secs(7_200), nodes, ..Seen::default() }
    }

    fn led(leader: u64, rank: u64) -> Led {
        let rate = Rate { ops: 5, bytes: 0 };
        Led { leader: NodeId(leader), rank: (1, rank), bytes: Some(1 << 20), rate, rate_max: rate }
    }

    #[test]
    fn a_dead_node_keeps_its_zone_and_is_dead_since_it_was_last_heard() {
        let mut seen = seen(3);
        let silent = Duration::from_secs(700);
        seen.nodes.insert(NodeId(3), Heard { alive: false, silent, room: Room::None, ..heard("far") });
        let picture = of(&state(), &seen, Settings::default(), None);
        let dead = &picture.nodes[&NodeId(3)];
        assert_eq!((dead.zone.as_str(), dead.alive, dead.since), ("far", false, Duration::from_secs(6_500)));
        assert!(picture.lost(NodeId(3)) && !picture.lost(NodeId(1)));
        // One that was not heard of at all was not heard of since just now, as far as anybody knows.
        seen.nodes.remove(&NodeId(3));
        let picture = of(&state(), &seen, Settings::default(), None);
        assert!(!picture.alive(NodeId(3)) && !picture.lost(NodeId(3)));
    }

    #[test]
    fn of_two_leaders_the_one_further_on_counts_and_only_a_voter_leads() {
        let (state, shard) = (state(), ShardId(2));
        let mut seen = seen(3);
        seen.add(shard, led(1, 9));
        seen.add(shard, led(2, 12));
        seen.add(shard, led(3, 5));
        let view = &of(&state, &seen, Settings::default(), None).shards[&shard];
        assert_eq!((view.leader, view.bytes, view.rate.ops), (Some(NodeId(2)), 1 << 20, 5));
        seen.add(shard, led(9, 20));
        assert_eq!(of(&state, &seen, Settings::default(), None).shards[&shard].leader, None);
    }

    #[test]
    fn a_table_is_seen_alone_and_the_system_shard_with_all_of_them_only() {
        let state = state();
        let id = *state.tables.iter().find(|(_, table)| table.name == "u").expect("it is there").0;
        let picture = of(&state, &seen(3), Settings::default(), Some(id));
        assert!(picture.shards.len() == 2 && picture.shards.values().all(|view| view.table == id));
        let picture = of(&state, &seen(3), Settings::default(), None);
        assert!(picture.shards.len() == 5 && picture.shards.contains_key(&SYSTEM_SHARD));
    }

    #[test]
    fn a_word_about_other_bounds_does_not_count() {
        let (state, shard) = (state(), ShardId(2));
        let mut seen = seen(3);
        let samples = vec![Sample { at: Bytes::from_static(b"m"), rate: Rate::default() }];
        let divided = Divided { version: state.shards[&shard].version + 1, middle: None, samples };
        seen.divided.insert(shard, divided.clone());
        let view = |seen: &Seen| of(&state, seen, Settings::default(), None).shards[&shard].clone();
        assert!(view(&seen).samples.is_empty() && view(&seen).middle.is_some(), "the ring has a middle in any case");
        seen.divided.insert(shard, Divided { version: state.shards[&shard].version, ..divided });
        assert_eq!(view(&seen).samples.len(), 1);
    }

    #[test]
    fn idle_neighbours_are_not_merged_and_a_node_that_joined_gets_its_part() {
        let mut state = state();
        let resting = of(&state, &seen(3), Settings::default(), None);
        assert!(plan(&resting).operations.is_empty(), "{:?}", plan(&resting).operations);
        state.execute(&SystemCommand::AddNode { addr: "d:1".into(), nonce: 9, speaks: state.version });
        let mut seen = seen(4);
        for shard in state.shards.keys() {
            seen.add(*shard, led(1, 1));
        }
        let full = plan(&of(&state, &seen, Settings::default(), None));
        assert!(!full.operations.is_empty(), "node 4 has nothing");
        // One whose disk is not known gets its part, also of what is predicted.
        seen.nodes.insert(NodeId(4), Heard { room: Room::Unknown, ..heard("z") });
        let mut predicted = of(&state, &seen, Settings::default(), None);
        let unknown = plan(&predicted);
        assert!(unknown.operations.iter().all(|operation| synod_cluster::planner::apply(&mut predicted, operation)));
        assert_eq!(unknown.operations.len(), full.operations.len());
        // One whose disk has no room gets nothing.
        seen.nodes.insert(NodeId(4), Heard { room: Room::None, ..heard("z") });
        let kept = plan(&of(&state, &seen, Settings::default(), None));
        let to_4 = |plan: &synod_cluster::planner::Plan| {
            let moves = plan.operations.iter().filter(|operation| operation.change.to_string().ends_with("to node 4"));
            moves.count()
        };
        assert!(to_4(&full) > 0 && to_4(&kept) == 0, "{full:?}, {kept:?}");
    }
}
