use super::*;
use crate::system::{Birth, Partitioning, Retention};
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A shard of one of four tables with three of nine nodes, of any bounds.
fn any(dice: &mut Dice, id: u64) -> Descriptor {
    let first = dice.below(7);
    let member = |node| Member { node: NodeId(node), role: MemberRole::Voter };
    let members = vec![member(first), member(first + 1), member(first + 2)];
    Descriptor {
        shard: ShardId(id),
        table: TableId(u32::try_from(dice.below(4)).unwrap()),
        partitioning: Partitioning::Range,
        retention: Retention::All,
        from: Bytes::copy_from_slice(&dice.below(50).to_be_bytes()),
        to: Bytes::new(),
        version: 1 + dice.below(9),
        membership: Membership { epoch: Epoch(1 + dice.below(9)), members, first_leader: NodeId(first) },
        born: Birth::Founded,
    }
}

/// Each index says what a scan of all descriptors says.
fn check(shards: &Shards, seed: u64) {
    for table in (0..5).map(TableId) {
        let mut scanned: Vec<&Descriptor> = shards.values().filter(|d| d.table == table).collect();
        scanned.sort_by(|a, b| (&a.from, a.shard).cmp(&(&b.from, b.shard)));
        assert!(shards.of_table(table).eq(scanned.iter().copied()), "seed {seed}, table {}", table.0);
        for from in (0..50_u64).map(|from| Bytes::copy_from_slice(&from.to_be_bytes())) {
            let first = scanned.iter().copied().find(|d| d.from == from);
            assert_eq!(shards.beginning_at(table, &from), first, "seed {seed}");
        }
    }
    for node in (0..10).map(NodeId) {
        let scanned = shards.values().filter(|d| d.membership.role_of(node).is_some());
        assert!(shards.of_node(node).eq(scanned), "seed {seed}, node {node}");
    }
    let anew: Shards = shards.iter().map(|(id, d)| (*id, d.clone())).collect();
    assert_eq!((&anew, anew.digest()), (shards, shards.digest()), "seed {seed}");
}

#[test]
fn indexes_agree_with_a_scan_after_any_changes() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut shards = Shards::default();
        for _ in 0..300 {
            let id = dice.below(120);
            match dice.below(4) {
                0 => drop(shards.remove(&ShardId(id))),
                1 => {
                    let other = any(&mut dice, id);
                    shards.change(&ShardId(id), |d| *d = other);
                }
                _ => drop(shards.insert(ShardId(id), any(&mut dice, id))),
            }
        }
        check(&shards, seed);
        shards.retain(|id, d| id.0.is_multiple_of(2) && d.table != TableId(1));
        assert!(shards.values().all(|d| d.shard.0.is_multiple_of(2) && d.table != TableId(1)));
        check(&shards, seed);
    }
}

#[test]
fn a_clone_does_not_see_what_changes_later() {
    let mut dice = Dice(1);
    let mut shards: Shards = (0..1_000).map(|id| (ShardId(id), any(&mut dice, id))).collect();
    let (before, digest) = (shards.clone(), shards.digest());
    shards.change(&ShardId(5), |d| d.version += 1).unwrap();
    shards.remove(&ShardId(6)).unwrap();
    assert_eq!((before.len(), shards.len(), before.digest()), (1_000, 999, digest));
    assert_ne!(shards.digest(), digest);
    let told: Vec<(ShardId, bool)> = shards.since(&before).map(|(id, now)| (id, now.is_some())).collect();
    assert_eq!(told, [(ShardId(5), true), (ShardId(6), false)]);
    check(&before, 0);
}
