use super::*;

/// Executes it; every row that changed makes the same state again, and one command is one revision.
pub(super) fn execute(state: &mut SystemState, command: &SystemCommand) -> SystemOutcome {
    assert_eq!(SystemCommand::decode(command.encode()).as_ref(), Ok(command));
    let mut rows: BTreeMap<(u8, u64), Bytes> =
        state.rows().into_iter().map(|(kind, id, row)| ((kind, id), row.unwrap())).collect();
    let before = state.clone();
    let (outcome, changes) = state.execute(command);
    assert_eq!(SystemOutcome::decode(outcome.encode()).as_ref(), Ok(&outcome));
    assert_eq!(changes.is_empty(), *state == before, "{command:?}: {outcome:?}");
    assert_eq!(state.revision, before.revision + u64::from(!changes.is_empty()));
    for (kind, id, row) in changes {
        match row {
            Some(row) => drop(rows.insert((kind, id), row)),
            None => drop(rows.remove(&(kind, id))),
        }
    }
    let rows = rows.into_iter().map(|((kind, id), row)| (kind, id, row));
    assert_eq!(SystemState::from_rows_for(rows, state.version).as_ref(), Ok(&*state), "after {command:?}");
    assert_eq!(SystemState::decode_for(state.encode(), state.version).as_ref(), Ok(&*state), "after {command:?}");
    outcome
}

#[test]
fn a_hash_table_is_not_split_at_the_first_hash_by_either_name() {
    let (first, second) = ([0; 8], [0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(!Partitioning::Hash.divides(&first, b"", b"") && Partitioning::Hash.divides(&second, b"", b""));
    assert!(Partitioning::Range.divides(&first, b"", b""), "a key like others");
    assert!(!Partitioning::Hash.divides(&second, &second, b"") && !Partitioning::Range.divides(b"", b"", b""));
}

fn founded(n: usize) -> SystemState {
    let founders: Vec<String> = (1..=n).map(|i| format!("127.0.0.1:740{i}")).collect();
    SystemState::found(7, &founders)
}

fn create(partitioning: Partitioning, shards: u32, splits: &[&str], replicas: u32) -> SystemCommand {
    SystemCommand::CreateTable {
        name: "t".into(),
        partitioning,
        retention: Retention::All,
        shards,
        splits: splits.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect(),
        replicas,
    }
}

fn add(addr: &str, nonce: u128, speaks: ClusterVersion) -> SystemCommand {
    SystemCommand::AddNode { addr: addr.into(), nonce, speaks }
}

#[test]
fn replicas_and_first_leaders_are_spread() {
    let mut state = founded(5);
    let (outcome, _) = state.execute(&create(Partitioning::Hash, 10, &[], 3));
    assert_eq!(outcome, SystemOutcome::Table(TableId(1)));
    for node in state.nodes.keys() {
        let held = state.shards.values().filter(|d| d.membership.voters().any(|v| v == *node)).count();
        let led = state.shards.values().filter(|d| d.membership.first_leader == *node).count();
        assert!((6..=8).contains(&held), "node {node} holds {held} of 35 replicas");
        assert!((1..=3).contains(&led), "node {node} leads {led} of 11 shards");
    }
}

/// The choice as it is meant: everything counted anew for each shard.
fn chosen(state: &SystemState, before: ShardId, replicas: usize) -> (Vec<NodeId>, NodeId) {
    let others = || state.shards.values().filter(|d| d.shard < before);
    let held = |n: NodeId| others().filter(|d| d.membership.voters().any(|v| v == n)).count();
    let led = |n: NodeId| others().filter(|d| d.membership.first_leader == n).count();
    let mut nodes: Vec<NodeId> = state.nodes.keys().copied().collect();
    nodes.sort_by_key(|n| (held(*n), *n));
    nodes.truncate(replicas);
    let leader = *nodes.iter().min_by_key(|n| (led(**n), **n)).unwrap();
    (nodes, leader)
}

#[test]
fn each_shard_goes_where_those_before_it_leave_most_room() {
    let mut state = founded(7);
    let tables = [("a", 23, 3), ("b", 1, 5), ("c", 40, 2), ("d", 9, 7)];
    for (name, shards, replicas) in tables {
        let SystemCommand::CreateTable { partitioning, retention, splits, .. } = create(Partitioning::Hash, 1, &[], 0)
        else {
            unreachable!()
        };
        let name = name.to_owned();
        state.execute(&SystemCommand::CreateTable { name, partitioning, retention, shards, splits, replicas });
    }
    for descriptor in state.shards.values().filter(|d| d.shard != SYSTEM_SHARD) {
        let replicas = state.tables[&descriptor.table].replicas as usize;
        let (mut nodes, leader) = chosen(&state, descriptor.shard, replicas);
        nodes.sort_unstable();
        let placed: Vec<NodeId> = descriptor.membership.voters().collect();
        assert_eq!((placed, descriptor.membership.first_leader), (nodes, leader), "shard {}", descriptor.shard);
    }
}

#[test]
fn hash_bounds_cover_the_ring_in_equal_parts() {
    let parts = bounds(Partitioning::Hash, 4, &[]).unwrap();
    let hex: Vec<String> = parts.iter().map(|(f, _)| f.iter().map(|b| format!("{b:02x}")).collect()).collect();
    assert_eq!(hex, ["", "4000000000000000", "8000000000000000", "c000000000000000"]);
    assert!(parts.windows(2).all(|w| w[0].1 == w[1].0) && parts[3].1.is_empty());
}

#[test]
fn nonsense_changes_nothing() {
    let mut state = founded(3);
    let before = state.clone();
    for (command, part) in [
        (create(Partitioning::Hash, 0, &[], 3), "shards"),
        (create(Partitioning::Hash, 4097, &[], 3), "shards"),
        (create(Partitioning::Hash, 4, &["k"], 3), "split_at"),
        (create(Partitioning::Range, 4, &[], 3), "shards"),
        (create(Partitioning::Range, 0, &["b", "a"], 3), "split_at"),
        (create(Partitioning::Range, 0, &["a", "a"], 3), "split_at"),
        (create(Partitioning::Range, 0, &[""], 3), "split_at"),
        (create(Partitioning::Hash, 4, &[], 4), "replicas"),
    ] {
        let (outcome, rows) = state.execute(&command);
        assert!(matches!(&outcome, SystemOutcome::Invalid { field, .. } if field == part), "{command:?}: {outcome:?}");
        assert!(rows.is_empty());
    }
    for name in ["", "a b", "-x", &"x".repeat(65)] {
        let command = SystemCommand::CreateTable {
            name: name.into(),
            partitioning: Partitioning::Hash,
            retention: Retention::Latest,
            shards: 1,
            splits: vec![],
            replicas: 0,
        };
        assert!(matches!(state.execute(&command).0, SystemOutcome::Invalid { field, .. } if field == "name"));
    }
    assert_eq!(state, before);
}

#[test]
fn rows_and_buffers_read_back() {
    let mut state = founded(3);
    state.execute(&create(Partitioning::Range, 0, &["g", "p"], 0));
    assert_eq!(SystemState::decode(state.encode()).unwrap(), state);
    let (again, rows) = state.clone().execute(&create(Partitioning::Hash, 1, &[], 0));
    assert_eq!((again, rows), (SystemOutcome::TableExists("t".into()), vec![]));
    let (_, rows) = state.execute(&SystemCommand::DropTable { name: "t".into() });
    assert_eq!(rows.iter().filter(|(_, _, data)| data.is_none()).count(), 4);
    for command in [
        create(Partitioning::Range, 0, &["g"], 1),
        add("h:1", 9, ClusterVersion::FIRST),
        add("h:1", 9, ClusterVersion::SECOND),
        SystemCommand::Upgrade { to: ClusterVersion::SECOND, spoken_by: vec![NodeId(1), NodeId(4)] },
        SystemCommand::SetAddr { node: NodeId(2), addr: "h:1".into() },
        SystemCommand::DropTable { name: "x".into() },
        SystemCommand::SetMembers { shard: ShardId(2), membership: members(3, &[2, 3], 3) },
        SystemCommand::RemoveNode { node: NodeId(2) },
    ] {
        assert_eq!(SystemCommand::decode(command.encode()).unwrap(), command);
    }
}

#[test]
fn a_repeated_join_gets_the_same_id() {
    let mut state = founded(3);
    let join = add("127.0.0.1:7409", 99, ClusterVersion::FIRST);
    assert_eq!(state.execute(&join).0, SystemOutcome::Node(NodeId(4)));
    assert_eq!(state.execute(&join).0, SystemOutcome::Node(NodeId(4)));
    let other = add("127.0.0.1:7409", 100, ClusterVersion::FIRST);
    assert!(matches!(state.execute(&other).0, SystemOutcome::Invalid { .. }));
}

fn members(epoch: u64, nodes: &[u64], learner: u64) -> Membership {
    let role = |n| if n == learner { MemberRole::Learner } else { MemberRole::Voter };
    let members = nodes.iter().map(|&n| Member { node: NodeId(n), role: role(n) }).collect();
    Membership { epoch: Epoch(epoch), members, first_leader: NodeId(nodes[0]) }
}

#[test]
fn members_go_forward_only_and_a_node_goes_once_it_holds_nothing() {
    let mut state = founded(4);
    state.execute(&create(Partitioning::Hash, 1, &[], 3));
    let shard = ShardId(2);
    let report = |membership: &Membership| SystemCommand::SetMembers { shard, membership: membership.clone() };
    let later = members(3, &[2, 3, 4], 4);
    let (outcome, rows) = state.execute(&report(&later));
    assert_eq!((outcome, rows.len()), (SystemOutcome::Done, 2));
    assert_eq!(state.shards[&shard].membership, later);
    let revision = state.revision;
    for stale in [members(2, &[1, 2, 3], 0), members(3, &[1, 2, 3], 0)] {
        assert_eq!(state.execute(&report(&stale)), (SystemOutcome::Done, vec![]));
    }
    assert_eq!((state.revision, &state.shards[&shard].membership), (revision, &later));
    let strange = state.execute(&report(&members(4, &[2, 9], 0))).0;
    assert!(matches!(strange, SystemOutcome::Invalid { field, .. } if field == "members"));
    // Nobody, nobody who votes, a leader who does not, disorder, a node twice.
    let nobody = Membership { epoch: Epoch(4), members: vec![], first_leader: NodeId(2) };
    let no_voter = members(4, &[3], 3);
    let no_leader = Membership { first_leader: NodeId(1), ..members(4, &[2, 3], 0) };
    let learner_leads = members(4, &[2, 3, 4], 2);
    for nonsense in [nobody, no_voter, no_leader, learner_leads, members(4, &[3, 2], 0), members(4, &[2, 2, 3], 0)] {
        let (outcome, rows) = state.execute(&report(&nonsense));
        assert!(
            matches!(&outcome, SystemOutcome::Invalid { field, .. } if field == "members"),
            "{nonsense:?}: {outcome:?}"
        );
        assert!(rows.is_empty() && state.shards[&shard].membership == later);
        let row = encode_descriptor(&Descriptor { membership: nonsense.clone(), ..state.shards[&shard].clone() });
        assert!(decode_descriptor(row).is_err(), "{nonsense:?} is read");
    }
    let dropped = SystemCommand::SetMembers { shard: ShardId(77), membership: later };
    assert_eq!(state.execute(&dropped), (SystemOutcome::Done, vec![]));

    let remove = |node| SystemCommand::RemoveNode { node: NodeId(node) };
    assert!(matches!(state.execute(&remove(1)).0, SystemOutcome::Invalid { why, .. } if why.contains("1 shards")));
    let system = SystemCommand::SetMembers { shard: SYSTEM_SHARD, membership: members(2, &[2, 3, 4], 0) };
    assert_eq!(state.execute(&system).0, SystemOutcome::Done);
    assert_eq!(state.execute(&remove(1)).0, SystemOutcome::Done);
    assert!(matches!(state.execute(&remove(1)).0, SystemOutcome::Invalid { .. }));
    let back = add("127.0.0.1:7401", 5, ClusterVersion::FIRST);
    assert_eq!(state.execute(&back).0, SystemOutcome::Node(NodeId(5)), "its number is never used again");
}

#[test]
fn a_cluster_without_nodes_takes_no_table() {
    let mut state = founded(1);
    state.nodes.clear();
    let before = state.clone();
    for replicas in [0, 1] {
        let (outcome, rows) = state.execute(&create(Partitioning::Hash, 1, &[], replicas));
        assert!(matches!(&outcome, SystemOutcome::Invalid { field, .. } if field == "replicas"), "{outcome:?}");
        assert!(rows.is_empty() && state == before);
    }
}

fn upgrade(to: u32, spoken_by: &[u64]) -> SystemCommand {
    SystemCommand::Upgrade { to: ClusterVersion(to), spoken_by: spoken_by.iter().map(|&n| NodeId(n)).collect() }
}

#[test]
fn the_version_rises_once_every_node_speaks_the_next_and_never_falls() {
    let mut state = founded(3);
    assert_eq!((state.version, state.encode()[0]), (ClusterVersion::FIRST, 1), "a new cluster's bytes are as ever");
    let before = state.clone();
    // A node that is not known to speak it, one that this binary has no word of, and one from beyond what is known.
    for (command, part, words) in [
        (upgrade(2, &[1, 3]), "speaks", "nodes 2"),
        (upgrade(2, &[]), "speaks", "nodes 1, 2, 3"),
        (upgrade(99, &[1, 2, 3]), "to", "speaks versions 1 to 4"),
    ] {
        let (outcome, rows) = state.execute(&command);
        let SystemOutcome::Invalid { field, why } = &outcome else { panic!("{command:?}: {outcome:?}") };
        assert!(field == part && why.contains(words), "{command:?}: {field}: {why}");
        assert!(rows.is_empty() && state == before);
    }
    assert_eq!(state.execute(&upgrade(1, &[])), (SystemOutcome::Done, vec![]), "it is there already");

    let (outcome, rows) = state.execute(&upgrade(2, &[1, 2, 3, 9]));
    assert_eq!((outcome, state.version, state.revision), (SystemOutcome::Done, ClusterVersion::SECOND, 2));
    assert!(matches!(&rows[..], [(ROW_CLUSTER, 0, Some(row))] if row[0] == 2), "{rows:?}");
    let read = SystemState::from_rows(state.rows().into_iter().map(|(kind, id, row)| (kind, id, row.unwrap())));
    assert_eq!(read.as_ref(), Ok(&state));
    assert_eq!(SystemState::decode(state.encode()).as_ref(), Ok(&state));

    assert_eq!(state.execute(&upgrade(2, &[])), (SystemOutcome::Done, vec![]), "it may be said again");
    let lower = state.execute(&upgrade(1, &[1, 2, 3])).0;
    assert!(matches!(&lower, SystemOutcome::Invalid { field, why } if field == "to" && why.contains("never lowered")));

    let old = state.execute(&add("127.0.0.1:7404", 4, ClusterVersion::FIRST)).0;
    let SystemOutcome::Invalid { field, why } = old else { panic!("{old:?}") };
    assert!(field == "speaks" && why.contains("up to 1") && why.contains("at version 2"), "{why}");
    assert_eq!(state.execute(&add("127.0.0.1:7404", 4, ClusterVersion::SECOND)).0, SystemOutcome::Node(NodeId(4)));
    assert_eq!(state.refounded(8, &["a:1".into()], &BTreeMap::new()).version, ClusterVersion::SECOND);
}

/// A row, a state and a command of a version from beyond: the error names both versions, whatever follows.
#[test]
fn a_version_that_is_not_spoken_is_named() {
    use crate::buf::{Put, Writer};
    let beyond = |format: u8, rest: &[u8]| {
        let mut w = Writer::new();
        w.u8(format);
        w.u32(7);
        w.raw(rest);
        w
    };
    let named = |error: MetadataError| {
        assert_eq!(error, TooNew { found: ClusterVersion(7), spoken: ClusterVersion::SPOKEN }.into());
        let text = error.to_string();
        assert!(text.contains("the cluster is at version 7, this node speaks versions 1 to 4"), "{text}");
    };
    for format in [2, 3, 255] {
        named(SystemState::decode(beyond(format, b"of some later format").into_checked()).unwrap_err());
        let row = beyond(format, b"of some later format").into_checked();
        named(SystemState::from_rows([(ROW_CLUSTER, 0, row)]).unwrap_err());
    }
    named(SystemCommand::decode(upgrade(7, &[1]).encode()).unwrap_err());
    // One form for each state: the first version is not written in the second format.
    let mut again = Writer::new();
    again.u8(2);
    again.u32(1);
    again.raw(&founded(1).encode_cluster()[1..]);
    let row = again.0[..again.0.len() - 4].to_vec();
    let crc = crc32fast::hash(&row).to_le_bytes();
    let row = Bytes::from([&row[..], &crc].concat());
    assert!(matches!(SystemState::from_rows([(ROW_CLUSTER, 0, row)]), Err(MetadataError::Decode(_))));
}

#[test]
fn each_command_says_which_nodes_can_read_it() {
    let version = |command: SystemCommand| command.read_from().0;
    assert_eq!(version(create(Partitioning::Hash, 1, &[], 1)), 1);
    assert_eq!(version(add("h:1", 5, ClusterVersion::FIRST)), 1);
    assert_eq!(version(add("h:1", 5, ClusterVersion::FOURTH)), 2, "it is of a kind of its own");
    assert_eq!(version(SystemCommand::CancelJob { job: JobId(1) }), 3);
    assert_eq!(version(SystemCommand::PauseJob { job: JobId(1), paused: true }), 4);
    for (to, read_from) in [(1, 2), (2, 2), (4, 4)] {
        let to = ClusterVersion(to);
        assert_eq!(version(SystemCommand::Upgrade { to, spoken_by: vec![] }), read_from);
    }
    let why = not_read_by(
        (NodeId(2), "h2:1", "which leads the system shard"),
        Some(ClusterVersion::FIRST),
        ClusterVersion::THIRD,
    );
    for words in ["node 2 at h2:1, which leads", "up to 1", "needs 3", "replace its binary", "`synod cluster upgrade`"]
    {
        assert!(why.contains(words), "{why}");
    }
    let unheard = not_read_by((NodeId(2), "h2:1", "which leads the system shard"), None, ClusterVersion::THIRD);
    assert!(unheard.contains("has not said yet"), "{unheard}");
}
