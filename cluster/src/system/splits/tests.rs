use super::*;
use crate::ids::{JobId, NodeId, TableId};
use crate::jobs::job::JobGoal;
use crate::system::tests::execute;
use crate::system::{Retention, SystemCommand};
use std::collections::BTreeMap;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

/// Three nodes and a range table whose shards are 2, `[, m)`, and 3, `[m, )`, at the fourth version.
fn state() -> SystemState {
    let founders: Vec<String> = (1..=3).map(|i| format!("127.0.0.1:740{i}")).collect();
    let mut state = SystemState::found(7, &founders);
    let spoken_by = state.nodes.keys().copied().collect();
    state.execute(&SystemCommand::Upgrade { to: ClusterVersion::FOURTH, spoken_by });
    state.execute(&SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Range,
        retention: Retention::All,
        shards: 0,
        splits: vec![Bytes::from_static(b"m")],
        replicas: 3,
    });
    state
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn voters(nodes: &[u64]) -> Membership {
    let members = nodes.iter().map(|n| Member { node: NodeId(*n), role: MemberRole::Voter }).collect();
    Membership { epoch: Epoch(1), members, first_leader: NodeId(nodes[0]) }
}

fn child(shard: u64, from: &str, to: &str, version: u64) -> Child {
    Child { shard: ShardId(shard), from: bytes(from), to: bytes(to), version, membership: voters(&[1, 2, 3]) }
}

fn news(shard: u64, from: &str, to: &str, version: u64, children: &[Child], absorbed: &[u64]) -> ShardNews {
    let absorbed = absorbed.iter().map(|id| ShardId(*id)).collect();
    ShardNews {
        shard: ShardId(shard),
        from: bytes(from),
        to: bytes(to),
        version,
        children: children.to_vec(),
        absorbed,
    }
}

fn reserve(parent: u64, version: u64) -> SystemCommand {
    SystemCommand::ReserveChild { parent: ShardId(parent), version }
}

fn told(state: &mut SystemState, news: ShardNews) {
    assert_eq!(execute(state, &SystemCommand::ShardNews(news)), SystemOutcome::Done);
}

fn invalid_in(outcome: &SystemOutcome, part: &str, words: &str) {
    let SystemOutcome::Invalid { field, why } = outcome else { panic!("{outcome:?}") };
    assert!(field == part && why.contains(words), "{field}: {why}");
}

/// Where each shard lies and at which version, by number.
fn bounds(state: &SystemState) -> Vec<(u64, String, String, u64)> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let data = state.shards.values().filter(|d| d.shard != SYSTEM_SHARD);
    data.map(|d| (d.shard.0, text(&d.from), text(&d.to), d.version)).collect()
}

fn at(shard: u64, from: &str, to: &str, version: u64) -> (u64, String, String, u64) {
    (shard, from.into(), to.into(), version)
}

#[test]
fn below_the_fourth_version_nothing_is_reserved_or_told_and_every_byte_is_as_before() {
    let mut state = state();
    state.version = ClusterVersion::THIRD;
    let before = state.encode();
    for command in [reserve(2, 1), SystemCommand::ShardNews(news(2, "", "f", 2, &[], &[]))] {
        assert_eq!(command.needs(), ClusterVersion::FOURTH);
        let outcome = execute(&mut state, &command);
        invalid_in(&outcome, "cluster_version", "splits need 4: `synod cluster upgrade` raises it");
    }
    assert_eq!(state.encode(), before);
    let founded = state.shards.values().all(|d| encode_descriptor(d)[0] == 1);
    assert!(founded, "a descriptor's format is the first, as long as there is no child");
}

#[test]
fn a_parent_has_one_unused_id_and_it_has_not_vanished() {
    let mut state = state();
    assert_eq!(execute(&mut state, &reserve(2, 1)), SystemOutcome::Shard(ShardId(4)));
    let revision = state.revision;
    assert_eq!(execute(&mut state, &reserve(2, 1)), SystemOutcome::Shard(ShardId(4)), "whoever asked may have died");
    assert_eq!(state.revision, revision);
    assert_eq!(execute(&mut state, &reserve(3, 1)), SystemOutcome::Shard(ShardId(5)), "each parent has its own");
    let reserved = Reserved { parent: ShardId(2), version: 1 };
    assert_eq!((state.reserved[&ShardId(4)], state.next_shard), (reserved, 6));
    for (id, gone) in [(1, false), (2, false), (4, false), (5, false), (6, false)] {
        assert_eq!(state.vanished(ShardId(id)), gone, "shard {id}");
    }
    let mut without = state.clone();
    without.reserved.clear();
    assert!(without.vanished(ShardId(4)), "a map without the reservation would have every node delete the child");

    invalid_in(&execute(&mut state, &reserve(1, 1)), "parent", "the system shard");
    invalid_in(&execute(&mut state, &reserve(9, 1)), "parent", "there is no shard 9");
    invalid_in(&execute(&mut state, &reserve(4, 1)), "parent", "there is no shard 4");
    invalid_in(&execute(&mut state, &reserve(2, 2)), "version", "shard 2 is at version 1");
}

#[test]
fn an_id_that_no_split_has_used_is_given_at_the_next_version_too() {
    let mut state = state();
    assert_eq!(execute(&mut state, &reserve(2, 1)), SystemOutcome::Shard(ShardId(4)));
    // It absorbs its neighbour meanwhile.
    told(&mut state, news(2, "", "", 2, &[], &[3]));
    assert_eq!(execute(&mut state, &reserve(2, 2)), SystemOutcome::Shard(ShardId(4)));
    assert_eq!(state.reserved[&ShardId(4)].version, 2);
    invalid_in(&execute(&mut state, &reserve(2, 1)), "version", "computed from version 1");
}

#[test]
fn a_split_is_one_revision_and_its_child_is_of_its_parents_table() {
    let mut state = state();
    execute(&mut state, &reserve(2, 1));
    let split = news(2, "", "f", 2, &[child(4, "f", "m", 2)], &[]);
    told(&mut state, split.clone());
    assert_eq!(bounds(&state), [at(2, "", "f", 2), at(3, "m", "", 1), at(4, "f", "m", 2)]);
    let born = &state.shards[&ShardId(4)];
    assert_eq!((born.table, born.partitioning, born.retention), (TableId(1), Partitioning::Range, Retention::All));
    assert_eq!(born.born, Birth::Child { parent: ShardId(2), version: 2 });
    assert_eq!(born.membership, voters(&[1, 2, 3]));
    assert_eq!(encode_descriptor(born)[0], 2);
    assert!(state.reserved.is_empty());
    // Told again, by whomever, and told late.
    let after = state.clone();
    told(&mut state, split);
    told(&mut state, news(2, "", "m", 1, &[], &[]));
    told(&mut state, news(4, "f", "m", 2, &[], &[]));
    assert_eq!(state, after);
    assert_eq!(execute(&mut state, &reserve(2, 2)), SystemOutcome::Shard(ShardId(5)), "no id is given twice");
}

#[test]
fn news_about_what_is_neither_there_nor_reserved_change_nothing() {
    let mut state = state();
    execute(&mut state, &reserve(2, 1));
    let before = state.clone();
    told(&mut state, news(9, "", "f", 7, &[child(4, "f", "m", 7)], &[2]));
    // A child whose id was never reserved.
    told(&mut state, news(2, "", "m", 1, &[child(8, "f", "m", 2)], &[]));
    assert_eq!(state, before);
    // The child tells before its parent does: there is no place for it yet.
    told(&mut state, news(4, "f", "m", 2, &[], &[3]));
    assert_eq!(state, before, "its neighbour stays, or there would be a hole");
}

#[test]
fn a_dropped_table_takes_its_reservations_and_late_news_bring_nothing_back() {
    let mut state = state();
    execute(&mut state, &reserve(2, 1));
    assert_eq!(execute(&mut state, &SystemCommand::DropTable { name: "t".into() }), SystemOutcome::Done);
    assert!(state.reserved.is_empty() && state.vanished(ShardId(4)) && state.vanished(ShardId(2)));
    let before = state.clone();
    told(&mut state, news(2, "", "f", 2, &[child(4, "f", "m", 2)], &[]));
    assert_eq!(state, before);
}

#[test]
fn what_was_absorbed_goes_with_its_reservations_once_the_absorbing_shard_is_there() {
    let mut state = state();
    execute(&mut state, &reserve(2, 1));
    execute(&mut state, &reserve(3, 1));
    // Split at f; the child then absorbs shard 3, and the map hears of that first.
    let half = news(4, "f", "", 3, &[], &[3]);
    let before = state.clone();
    told(&mut state, half.clone());
    assert_eq!(state, before);
    told(&mut state, news(2, "", "f", 2, &[child(4, "f", "m", 2)], &[]));
    told(&mut state, half);
    assert_eq!(bounds(&state), [at(2, "", "f", 2), at(4, "f", "", 3)]);
    assert!(state.reserved.is_empty() && state.vanished(ShardId(3)) && state.vanished(ShardId(5)));
}

#[test]
fn a_child_that_came_and_went_before_the_map_heard_of_it_has_vanished() {
    let mut state = state();
    execute(&mut state, &reserve(2, 1));
    told(&mut state, news(2, "", "m", 3, &[child(4, "f", "m", 2)], &[4]));
    assert_eq!(bounds(&state), [at(2, "", "m", 3), at(3, "m", "", 1)]);
    assert!(state.vanished(ShardId(4)) && state.reserved.is_empty());
}

#[test]
fn the_children_of_what_was_absorbed_are_told_by_who_absorbed_it() {
    let mut state = state();
    execute(&mut state, &reserve(3, 1));
    // Shard 3 split off `[t, )` as 4, and what was left of it went into shard 2.
    told(&mut state, news(2, "", "t", 3, &[child(4, "t", "", 2)], &[3]));
    assert_eq!(bounds(&state), [at(2, "", "t", 3), at(4, "t", "", 2)]);
    assert_eq!(state.shards[&ShardId(4)].born, Birth::Child { parent: ShardId(3), version: 2 });
}

#[test]
fn a_shard_that_absorbed_its_parent_tells_of_its_own_birth() {
    let mut state = SystemState { version: ClusterVersion::FIFTH, ..state() };
    execute(&mut state, &reserve(3, 1));
    // The map has heard of nothing when shard 4 has taken its parent in.
    told(&mut state, news(4, "m", "", 3, &[child(4, "t", "", 2)], &[3]));
    assert_eq!(bounds(&state), [at(2, "", "m", 1), at(4, "m", "", 3)]);
    assert!(state.reserved.is_empty());
}

#[test]
fn news_that_make_no_sense_change_nothing() {
    let mut state = state();
    execute(&mut state, &reserve(2, 1));
    let before = state.clone();
    let unsound =
        Child { membership: Membership { first_leader: NodeId(9), ..voters(&[1, 2]) }, ..child(4, "f", "m", 2) };
    for (news, part) in [
        (news(1, "", "f", 2, &[], &[]), "shard"),
        (news(2, "f", "f", 2, &[], &[]), "to"),
        (news(2, "", "f", 2, &[child(4, "m", "f", 2)], &[]), "children"),
        (news(2, "", "f", 2, &[child(2, "f", "m", 2)], &[]), "children"),
        (news(2, "", "f", 2, &[unsound], &[]), "children"),
        (news(2, "", "f", 2, &[], &[1]), "absorbed"),
        (news(2, "", "f", 2, &[], &[2]), "absorbed"),
    ] {
        invalid_in(&execute(&mut state, &SystemCommand::ShardNews(news)), part, "");
    }
    assert_eq!(state, before);
    // A member that was removed from the cluster meanwhile is no reason to leave the child out for ever.
    let gone = Child { membership: voters(&[1, 2, 9]), ..child(4, "f", "m", 2) };
    told(&mut state, news(2, "", "f", 2, &[gone], &[]));
    assert!(state.shards.contains_key(&ShardId(4)));
}

#[test]
fn a_cluster_made_of_a_backup_has_no_reservations_and_no_children() {
    let mut state = state();
    execute(&mut state, &reserve(2, 1));
    told(&mut state, news(2, "", "f", 2, &[child(4, "f", "m", 2)], &[]));
    execute(&mut state, &reserve(4, 2));
    let restored = state.refounded(8, &["a:1".into()], &BTreeMap::new());
    assert!(restored.reserved.is_empty() && restored.vanished(ShardId(5)));
    assert!(restored.shards.values().all(|d| d.born == Birth::Founded));
    assert_eq!(bounds(&restored), bounds(&state));
}

#[test]
fn a_reservation_that_cannot_be_is_not_read() {
    let mut sound = state();
    execute(&mut sound, &reserve(2, 1));
    let reserved = sound.reserved[&ShardId(4)];
    for id in [3, 5] {
        let mut state = sound.clone();
        state.reserved = BTreeMap::from([(ShardId(id), reserved)]);
        assert!(!state.reservations_are_sound());
        assert!(SystemState::decode_for(state.encode(), ClusterVersion::FOURTH).is_err(), "id {id}");
    }
    assert!(sound.reservations_are_sound());
    assert!(
        SystemState::decode_for(sound.encode(), ClusterVersion::THIRD).is_err(),
        "a binary that does not speak the version says so"
    );
}

/// Splits and merges at random, told by anybody, late, twice and in any order: see `a_map_never_goes_back_shows_no_hole_and_ends_as_what_is`.
struct Story {
    random: u64,
    state: SystemState,
    /// What each shard has applied: bounds, version, children and absorbed shards that may not be known yet.
    real: BTreeMap<ShardId, ShardNews>,
    told: Vec<ShardNews>,
}

impl Story {
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % n as u64).unwrap()
    }

    fn pick(&mut self) -> ShardId {
        let ids: Vec<ShardId> = self.real.keys().copied().collect();
        ids[self.below(ids.len())]
    }

    fn split(&mut self) {
        let parent = self.pick();
        let real = self.real[&parent].clone();
        let command = SystemCommand::ReserveChild { parent, version: real.version };
        let SystemOutcome::Shard(id) = execute(&mut self.state, &command) else { return };
        let end = real.to.first().map_or(32, |to| usize::from(*to));
        let begin = real.from.first().map_or(0, |from| usize::from(*from));
        if end - begin < 2 {
            return;
        }
        let at = Bytes::from(vec![u8::try_from(begin + 1 + self.below(end - begin - 1)).unwrap()]);
        let (from, to, version) = (at.clone(), real.to.clone(), real.version + 1);
        let membership = voters(&[1, 2, 3]);
        let born = Child { shard: id, from: from.clone(), to: to.clone(), version, membership };
        assert!(!self.real.contains_key(&id), "shard {id} is made twice");
        self.real.insert(id, ShardNews { shard: id, from, to, version, children: vec![], absorbed: vec![] });
        let parent = self.real.get_mut(&parent).unwrap();
        (parent.to, parent.version) = (at, version);
        parent.children.push(born);
    }

    fn merge(&mut self) {
        let into = self.pick();
        let end = self.real[&into].to.clone();
        let Some(next) = self.real.values().find(|s| !end.is_empty() && s.from == end).map(|s| s.shard) else { return };
        let gone = self.real.remove(&next).unwrap();
        let into = self.real.get_mut(&into).unwrap();
        into.to = gone.to;
        into.version = into.version.max(gone.version + 1) + 1;
        into.children.extend(gone.children);
        into.absorbed.extend(gone.absorbed);
        into.absorbed.push(next);
    }

    /// The version of each position, as the map has it: 0 where it has no owner.
    fn versions(&self) -> Vec<u64> {
        let data = || self.state.shards.values().filter(|d| d.shard != SYSTEM_SHARD);
        let of = |position: u8| data().filter(|d| d.contains(&[position])).map(|d| d.version).max();
        (0..32).map(|position| of(position).unwrap_or(0)).collect()
    }

    fn step(&mut self) {
        let before = self.versions();
        match self.below(8) {
            0..=1 => self.split(),
            2 => self.merge(),
            3..=5 => {
                let shard = self.pick();
                self.told.push(self.real[&shard].clone());
            }
            _ if self.told.is_empty() => {}
            _ => {
                let at = self.below(self.told.len());
                // One in four comes again.
                let news = if self.below(4) == 0 { self.told[at].clone() } else { self.told.remove(at) };
                told(&mut self.state, news);
            }
        }
        let now = self.versions();
        assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "{before:?}, then {now:?}");
        for id in self.real.keys() {
            assert!(!self.state.vanished(*id), "shard {id} is there, and every node would delete it");
        }
    }
}

#[test]
fn a_map_never_goes_back_shows_no_hole_and_ends_as_what_is() {
    for seed in 1..=60u64 {
        let mut state = state();
        let bound = Bytes::from_static(&[16]);
        state.shards.change(&ShardId(2), |d| d.to = bound.clone()).unwrap();
        state.shards.change(&ShardId(3), |d| d.from = bound).unwrap();
        let first = |id: u64| {
            let Descriptor { from, to, .. } = state.shards[&ShardId(id)].clone();
            ShardNews { shard: ShardId(id), from, to, version: 1, children: vec![], absorbed: vec![] }
        };
        let real = [2, 3].map(|id| (ShardId(id), first(id))).into();
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut story = Story { random, state, real, told: vec![] };
        for _ in 0..80 {
            story.step();
        }
        // Everybody tells until nothing is new.
        for _ in 0..story.real.len() + 1 {
            let all: Vec<ShardNews> = story.real.values().cloned().collect();
            all.into_iter().for_each(|news| told(&mut story.state, news));
        }
        let known = story.state.shards.values().filter(|d| d.shard != SYSTEM_SHARD);
        let known: Vec<_> = known.map(|d| (d.shard, d.from.clone(), d.to.clone(), d.version)).collect();
        let real = story.real.values().map(|s| (s.shard, s.from.clone(), s.to.clone(), s.version));
        assert_eq!(known, real.collect::<Vec<_>>(), "seed {seed}");
    }
}

fn splits(shard: u64, version: u64, at: Option<&str>) -> JobGoal {
    JobGoal::Split { shard: ShardId(shard), version, at: at.map(bytes) }
}

#[test]
fn a_split_begins_as_a_job_where_it_makes_sense() {
    let mut state = state();
    let start = |goal: JobGoal| SystemCommand::StartJob { goal };
    for (goal, part, words) in [
        (splits(1, 1, None), "shard", "the system shard"),
        (splits(9, 1, None), "shard", "there is no shard 9"),
        (splits(2, 2, None), "version", "is at version 1"),
        (splits(2, 1, Some("")), "at", "begins there"),
        (splits(3, 1, Some("m")), "at", "begins there"),
        (splits(2, 1, Some("m")), "at", "does not lie within shard 2"),
        (splits(2, 1, Some("k".repeat(4097).as_str())), "at", "this one has 4097"),
    ] {
        invalid_in(&execute(&mut state, &start(goal)), part, words);
    }
    let goal = splits(2, 1, Some("f"));
    assert_eq!(start(goal.clone()).needs(), ClusterVersion::FOURTH);
    assert_eq!(execute(&mut state, &start(goal.clone())), SystemOutcome::Job(JobId(1)));
    assert_eq!(execute(&mut state, &start(goal.clone())), SystemOutcome::Job(JobId(1)), "the same again");
    let other = execute(&mut state, &start(splits(2, 1, None)));
    assert!(
        matches!(&other, SystemOutcome::JobConflict { why, .. } if why.contains("splits shard 2 at \"f\" already")),
        "{other:?}"
    );
    assert_eq!(execute(&mut state, &start(splits(3, 1, None))), SystemOutcome::Job(JobId(2)));
    state.version = ClusterVersion::THIRD;
    invalid_in(&execute(&mut state, &start(splits(2, 1, None))), "cluster_version", "splits need 4");
    assert!(state.look_at(&goal).is_none(), "it is no move");
}

#[test]
fn a_hash_table_is_split_at_a_hash() {
    let mut state = state();
    state.execute(&SystemCommand::CreateTable {
        name: "h".into(),
        partitioning: Partitioning::Hash,
        retention: Retention::All,
        shards: 1,
        splits: vec![],
        replicas: 3,
    });
    let start = |at: &str| SystemCommand::StartJob { goal: splits(4, 1, Some(at)) };
    invalid_in(&execute(&mut state, &start("seven b")), "at", "a hash of 8 bytes; this one has 7");
    assert_eq!(execute(&mut state, &start("8 bytes!")), SystemOutcome::Job(JobId(1)));
}

#[test]
fn the_map_says_whether_a_split_was_made_and_by_which_id_it_can_be() {
    let mut state = state();
    let (at, goals) = (bytes("f"), [Some("f"), None].map(|at| splits(2, 1, at)));
    let look = |state: &SystemState| goals.clone().map(|goal| state.look_at_split(goal.as_split().unwrap()));
    for seen in look(&state) {
        let mapped = Some(split::Bounds { from: Bytes::new(), to: bytes("m"), version: 1 });
        assert_eq!(seen, split::Seen { mapped, ..split::Seen::default() });
    }
    execute(&mut state, &reserve(2, 1));
    let unused = split::Unused { id: ShardId(4), version: 1 };
    assert!(look(&state).iter().all(|seen| seen.reserved == Some(unused) && seen.made.is_none()));
    // Split elsewhere: only the one that left the place open is done.
    told(&mut state, news(2, "", "h", 2, &[child(4, "h", "m", 2)], &[]));
    assert_eq!(look(&state).map(|seen| seen.made), [None, Some(ShardId(4))]);
    execute(&mut state, &reserve(2, 2));
    told(&mut state, news(2, "", "f", 3, &[child(5, "f", "h", 3)], &[]));
    assert_eq!(look(&state).map(|seen| seen.made), [Some(ShardId(5)), Some(ShardId(4))]);
    let gone = split::Goal { shard: ShardId(9), version: 1, at: Some(&at) };
    assert_eq!(state.look_at_split(gone), split::Seen::default());
}

/// Bytes that were written once are read for ever.
#[test]
fn the_bytes_of_commands_and_rows_are_these() {
    let number = |n: u64| n.to_le_bytes().to_vec();
    let members = [number(1), number(2), vec![1], number(2), vec![0]].concat();
    let membership = voters(&[2]);
    let child = Child { membership, ..child(4, "f", "m", 2) };
    let born = [number(4), vec![1, b'f', 1, b'm'], number(2), members].concat();
    let told = [vec![1, 13], number(2), vec![0, 1, b'f'], number(2), vec![1], born, vec![1], number(3)].concat();
    let split = [vec![1, 9, 2], number(2), number(1), vec![1, 1, b'f']].concat();
    let middle = [vec![1, 9, 2], number(2), number(1), vec![0]].concat();
    for (command, bytes) in [
        (reserve(2, 1), [vec![1, 12], number(2), number(1)].concat()),
        (SystemCommand::ShardNews(news(2, "", "f", 2, &[child], &[3])), told),
        (SystemCommand::StartJob { goal: splits(2, 1, Some("f")) }, split),
        (SystemCommand::StartJob { goal: splits(2, 1, None) }, middle),
    ] {
        assert_eq!(command.encode(), bytes, "{command:?}");
        assert_eq!(SystemCommand::decode(bytes.into()), Ok(command));
    }
    assert_eq!(SystemOutcome::Shard(ShardId(4)).encode(), [vec![1, 10], number(4)].concat());
    let row = encode_reserved(Reserved { parent: ShardId(2), version: 1 });
    assert_eq!(row[..row.len() - 4], [vec![1], number(2), number(1)].concat());
}
