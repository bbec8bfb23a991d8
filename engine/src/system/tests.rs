use super::*;

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
        SystemCommand::AddNode { addr: "h:1".into(), nonce: 9 },
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
    let join = SystemCommand::AddNode { addr: "127.0.0.1:7409".into(), nonce: 99 };
    assert_eq!(state.execute(&join).0, SystemOutcome::Node(NodeId(4)));
    assert_eq!(state.execute(&join).0, SystemOutcome::Node(NodeId(4)));
    let other = SystemCommand::AddNode { addr: "127.0.0.1:7409".into(), nonce: 100 };
    assert!(matches!(state.execute(&other).0, SystemOutcome::Invalid { .. }));
}

fn members(config: u64, nodes: &[u64], learner: u64) -> Membership {
    let role = |n| if n == learner { MemberRole::Learner } else { MemberRole::Voter };
    let members = nodes.iter().map(|&n| Member { node: NodeId(n), role: role(n) }).collect();
    Membership { config: ConfigId(config), members, first_leader: NodeId(nodes[0]) }
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
    let nobody = Membership { config: ConfigId(4), members: vec![], first_leader: NodeId(2) };
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
    let back = SystemCommand::AddNode { addr: "127.0.0.1:7401".into(), nonce: 5 };
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
