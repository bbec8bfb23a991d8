use super::*;
use crate::ids::ClusterVersion;
use crate::position::within;
use crate::system::{Partitioning, Retention, SystemCommand};
use std::collections::BTreeMap;

const P: ShardId = ShardId(2);
const C: ShardId = ShardId(3);
const D: ShardId = ShardId(4);
const ME: NodeId = NodeId(1);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn owner(shard: ShardId, from: &str, to: &str, version: u64, lists: bool) -> Owner {
    Owner { shard, from: bytes(from), to: bytes(to), version, lists }
}

fn given(shard: ShardId, from: &str, to: &str, how: How) -> GivenUp {
    GivenUp { shard, table: TableId(1), from: bytes(from), to: bytes(to), how }
}

/// A snapshot of P's `[, m)` takes the place of a replica of version 1 that has everything.
fn behind_the_split() -> GivenUp {
    given(P, "", "", How::Snapshot { version: 1, from: Bytes::new(), to: bytes("m") })
}

fn removal(shard: ShardId, from: &str, to: &str) -> GivenUp {
    given(shard, from, to, How::Removal { frozen_for: None })
}

fn judged(given: &GivenUp, known: &[Owner], here: &[(ShardId, Here)]) -> Custody {
    let here: BTreeMap<ShardId, Here> = here.iter().copied().collect();
    judge(given, known.iter().cloned(), |shard| here.get(&shard).copied().unwrap_or(Here::Absent))
}

fn held(shard: ShardId, version: u64) -> Custody {
    Custody::Waits(Wait::Held { shard, version })
}

fn map(position: &str) -> Custody {
    Custody::Waits(Wait::Map { position: bytes(position) })
}

#[test]
fn a_snapshot_of_the_parent_behind_the_split_waits_until_the_child_is_held() {
    let known = [owner(P, "", "m", 2, true), owner(C, "m", "", 2, true)];
    let given = behind_the_split();
    for (here, wanted) in [
        (Here::Absent, held(C, 2)),
        (Here::Unheld, held(C, 2)),
        (Here::Held(1), held(C, 2)),
        (Here::Held(2), Custody::Allowed),
        // It may have split the range off again.
        (Here::Held(7), map("m")),
    ] {
        assert_eq!(judged(&given, &known, &[(C, here)]), wanted, "{here:?}");
    }
    // What the snapshot itself has is not given up, whoever is said to own it.
    let odd = [owner(D, "", "m", 9, true), owner(C, "m", "", 2, false)];
    assert_eq!(judged(&given, &odd, &[]), Custody::Allowed);
}

#[test]
fn the_mark_in_the_header_is_enough_where_the_map_does_not_know_the_child() {
    let old = owner(P, "", "", 1, true);
    let mark = owner(C, "m", "", 2, true);
    assert_eq!(judged(&behind_the_split(), &[old.clone(), mark.clone()], &[]), held(C, 2));
    assert_eq!(judged(&behind_the_split(), &[old.clone(), mark], &[(C, Here::Held(2))]), Custody::Allowed);
    // A mark that does not list this node.
    assert_eq!(judged(&behind_the_split(), &[old, owner(C, "m", "", 2, false)], &[]), Custody::Allowed);
}

#[test]
fn an_owner_that_is_no_newer_is_no_news() {
    for known in [vec![], vec![owner(P, "", "", 1, true)], vec![owner(D, "m", "", 1, false)]] {
        assert_eq!(judged(&behind_the_split(), &known, &[(P, Here::Held(1))]), map("m"), "{known:?}");
    }
    // Not even the shard itself at a later version: of what this snapshot lacks it says nothing.
    assert_eq!(judged(&behind_the_split(), &[owner(P, "", "", 5, false)], &[]), map("m"));
    // One that was never born gives up whatever has an owner.
    let unborn = given(C, "m", "", How::Snapshot { version: 0, from: bytes("m"), to: bytes("t") });
    assert_eq!(judged(&unborn, &[owner(D, "t", "", 1, false)], &[]), Custody::Allowed);
    assert_eq!(judged(&unborn, &[owner(D, "t", "", 3, true)], &[]), held(D, 3));
}

#[test]
fn every_position_counts_by_its_own_newest_owner() {
    // C split again: of its first range it kept only the first part.
    let known = [owner(C, "m", "", 2, true), owner(C, "m", "t", 3, true), owner(D, "t", "", 3, false)];
    assert_eq!(judged(&behind_the_split(), &known, &[(C, Here::Held(2))]), held(C, 3));
    assert_eq!(judged(&behind_the_split(), &known, &[(C, Here::Held(3))]), Custody::Allowed);
    let known = [owner(C, "m", "t", 3, false), owner(D, "t", "", 3, true)];
    assert_eq!(judged(&behind_the_split(), &known, &[]), held(D, 3));
    // The map does not know yet that C split again, and C began here with a snapshot of after that.
    let (left, old) = (owner(P, "", "m", 2, false), owner(C, "m", "", 2, true));
    let here = [(C, Here::Held(3))];
    assert_eq!(judged(&behind_the_split(), &[left.clone(), old.clone()], &here), map("m"));
    assert_eq!(judged(&removal(P, "", ""), &[left, old], &here), map("m"));
    // A hole in what is known.
    let known = [owner(C, "m", "t", 3, false), owner(D, "u", "", 3, false)];
    assert_eq!(judged(&behind_the_split(), &known, &[]), map("t"));
}

#[test]
fn a_parent_leaves_the_node_only_once_its_child_is_held() {
    // Moved away at version 2; here it is still at version 1.
    let known = [owner(P, "", "m", 2, false), owner(C, "m", "", 2, true)];
    let leaves = removal(P, "", "");
    assert_eq!(judged(&leaves, &known, &[(P, Here::Held(1))]), held(C, 2));
    assert_eq!(judged(&leaves, &known, &[(C, Here::Unheld)]), held(C, 2));
    assert_eq!(judged(&leaves, &known, &[(C, Here::Held(2))]), Custody::Allowed);
    // It has applied the split itself: its range is its own.
    assert_eq!(judged(&removal(P, "", "m"), &known, &[]), Custody::Allowed);
    // A map from before the split says that it left: the same range, and nobody new.
    assert_eq!(judged(&removal(P, "", "m"), &[owner(P, "", "", 1, false)], &[]), Custody::Allowed);
    // As long as the map says that it belongs here, it stays.
    assert_eq!(judged(&removal(P, "", "m"), &[owner(P, "", "m", 2, true)], &[(P, Here::Held(2))]), map(""));
}

#[test]
fn a_source_stays_until_its_target_has_absorbed_it_here() {
    // D went into C, which is at version 4 since then.
    let known = [owner(C, "m", "", 4, true)];
    let frozen = given(D, "t", "", How::Removal { frozen_for: Some(C) });
    let absorbs = Custody::Waits(Wait::Absorb { shard: C });
    for here in [Here::Unheld, Here::Held(3), Here::Held(9)] {
        assert_eq!(judged(&frozen, &known, &[(C, here)]), absorbs, "{here:?}");
    }
    // C is not here: then the rule.
    assert_eq!(judged(&frozen, &known, &[]), held(C, 4));
    assert_eq!(judged(&frozen, &[owner(C, "m", "", 4, false)], &[]), Custody::Allowed);
    // It lags, and is not even frozen.
    let lags = removal(D, "t", "");
    assert_eq!(judged(&lags, &known, &[(C, Here::Held(3))]), held(C, 4));
    assert_eq!(judged(&lags, &known, &[(C, Here::Held(4))]), Custody::Allowed);
}

#[test]
fn only_what_was_dropped_with_its_table_goes_at_once() {
    let mut map = SystemState::found(7, &["a:1".into(), "b:1".into(), "c:1".into()]);
    map.version = ClusterVersion::FOURTH;
    let create = |name: &str| SystemCommand::CreateTable {
        name: name.into(),
        partitioning: Partitioning::Range,
        retention: Retention::All,
        shards: 0,
        splits: vec![Bytes::from_static(b"m")],
        replicas: 3,
    };
    map.execute(&create("t"));
    let nothing = |_| Here::Absent;
    let split = removal(P, "", "m");
    let members = map.clone();
    assert_eq!(may_give_up(&split, ME, &members, &[], nothing), Custody::Waits(Wait::Map { position: Bytes::new() }));
    assert_eq!(may_give_up(&split, NodeId(9), &members, &[], nothing), Custody::Allowed, "it is no member");
    // Gone from the map, while its table is there: it was absorbed, by whom is not known here.
    let mut absorbed = map.clone();
    absorbed.shards.remove(&P);
    assert!(absorbed.vanished(P));
    assert_eq!(may_give_up(&split, ME, &absorbed, &[], nothing), Custody::Waits(Wait::Map { position: Bytes::new() }));
    map.execute(&SystemCommand::DropTable { name: "t".into() });
    assert_eq!(may_give_up(&split, ME, &map, &[], nothing), Custody::Allowed);
    // A map from before the table was made.
    let before = SystemState::found(7, &["a:1".into()]);
    assert_eq!(may_give_up(&split, ME, &before, &[], nothing), Custody::Waits(Wait::Map { position: Bytes::new() }));
}

#[test]
fn of_one_version_the_map_knows_the_members_better_than_the_mark() {
    let mut map = SystemState::found(7, &["a:1".into(), "b:1".into()]);
    map.execute(&SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Range,
        retention: Retention::All,
        shards: 0,
        splits: vec![Bytes::from_static(b"m")],
        replicas: 1,
    });
    map.shards.change(&C, |child| child.version = 2).unwrap();
    let child = &map.shards[&C];
    let (member, other) = match child.membership.role_of(ME) {
        Some(_) => (ME, NodeId(2)),
        None => (NodeId(2), ME),
    };
    let mark = [owner(C, "m", "", 2, true)];
    assert_eq!(may_give_up(&behind_the_split(), other, &map, &mark, |_| Here::Absent), Custody::Allowed);
    assert_eq!(may_give_up(&behind_the_split(), member, &map, &mark, |_| Here::Absent), held(C, 2));
}

#[test]
fn each_wait_names_its_shard_and_says_why() {
    for (wait, shard, words) in [
        (Wait::Map { position: Bytes::new() }, None, "no newer owner"),
        (Wait::Held { shard: C, version: 4 }, Some(C), "shard 3 has a part of its range since version 4"),
        (Wait::Absorb { shard: C }, Some(C), "frozen for shard 3"),
    ] {
        assert_eq!(wait.shard(), shard);
        assert!(wait.to_string().contains(words), "{wait}");
    }
}

/// Against the rule written position by position, on random owners.
#[test]
fn it_is_the_rule_at_every_position() {
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut below = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    let bound = |at: u64| if at == 8 { Bytes::new() } else { Bytes::from(vec![u8::try_from(at).unwrap()]) };
    let (mut allowed, mut waits) = (0, 0);
    for _ in 0..5_000 {
        let known: Vec<Owner> = (0..1 + below(5))
            .map(|_| {
                let from = below(8);
                let to = from + 1 + below(8 - from);
                let (shard, version, lists) = (ShardId(2 + below(4)), 1 + below(5), below(2) == 0);
                Owner { shard, from: bound(from), to: bound(to), version, lists }
            })
            .collect();
        let here: Vec<Here> = (0..4)
            .map(|_| [Here::Absent, Here::Unheld, Here::Held(1 + below(5))][usize::try_from(below(3)).unwrap()])
            .collect();
        let here = |shard: ShardId| here[usize::try_from(shard.0 - 2).unwrap()];
        let least = below(4);
        let keeps = below(8);
        let how = match below(2) {
            0 => How::Removal { frozen_for: None },
            _ => How::Snapshot { version: least, from: bound(0), to: bound(keeps.max(1)) },
        };
        let given = GivenUp { shard: P, table: TableId(1), from: bound(0), to: Bytes::new(), how };
        let fine = |at: u8| {
            let news = |o: &&Owner| {
                within(&[at], &o.from, &o.to)
                    && match &given.how {
                        How::Removal { .. } => true,
                        How::Snapshot { version, .. } => o.shard != P && o.version > *version,
                    }
            };
            if matches!(&given.how, How::Snapshot { from, to, .. } if within(&[at], from, to)) {
                return true;
            }
            // Of one version the first.
            let newest = known.iter().filter(news).rev().max_by_key(|o| o.version);
            newest.is_some_and(|o| !o.lists || (o.shard != P && here(o.shard) == Here::Held(o.version)))
        };
        let wanted = (0..8).all(fine);
        let found = judge(&given, known.iter().cloned(), here);
        assert_eq!(found == Custody::Allowed, wanted, "{given:?} {known:?}: {found:?}");
        if wanted { allowed += 1 } else { waits += 1 }
    }
    assert!(allowed > 200 && waits > 200, "{allowed} allowed, {waits} not");
}
