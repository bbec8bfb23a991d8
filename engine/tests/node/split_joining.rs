//! What a node begins with that first hears of a shard when it has been split.

use super::{KEYS, Table, has, kill_all, middle, start_all};
use crate::harness::{Cluster, N3};
use crate::snapshots::installed;
use synod_cluster::ids::ShardId;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::worker::WorkerOptions;

/// A table of one shard, with records, of which the third node knows nothing: it is down.
fn unknown_to_one(partitioning: Partitioning) -> (Cluster, Table, ShardId) {
    let mut c = Cluster::that_splits(3, WorkerOptions::default());
    c.kill(N3);
    let table = c.create_table("t", partitioning, Retention::All, 1);
    let parent = c.shards_of(table)[0];
    let mut t = Table { table, written: Vec::new() };
    t.write(&mut c, 2 * KEYS);
    (c, t, parent)
}

/// The map has the bounds of after the split by then. A replica that began with those would take the split in the log for one that does
/// not count, would refuse the writes of the child's keys before it, and would never make the child.
#[test]
fn a_node_that_sleeps_while_a_shard_is_created_and_split_begins_with_what_the_others_have() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let (mut c, mut t, parent) = unknown_to_one(partitioning);
        let child = c.split(parent, &middle(partitioning));
        t.write(&mut c, KEYS);
        assert!(c.map().shards[&parent].version > 1);
        c.start(N3);
        c.run_until("it has both", |c| has(c, N3, parent) && has(c, N3, child));
        t.write(&mut c, KEYS);
        t.check(&mut c);
        assert_eq!(installed(&c, N3), 2);
        kill_all(&mut c);
        start_all(&mut c);
        t.check(&mut c);
    }
}

/// The parent's replica begins with a snapshot of after both splits, so it makes neither child. The map tells of the second one later.
#[test]
fn a_child_that_its_parents_replica_cannot_make_here_begins_with_a_snapshot_of_its_own() {
    let (mut c, mut t, parent) = unknown_to_one(Partitioning::Range);
    let first = c.split(parent, b"k16");
    let second = c.reserve(parent);
    c.untold = true;
    let made = (0..200).any(|_| {
        let wanted = c.wanted(parent, second, b"k08");
        let result = c.try_split(parent, wanted);
        c.run_for(50_000);
        result.is_ok()
    });
    assert!(made, "shard {parent} was not split in 200 attempts");
    c.start(N3);
    c.run_until("it has what the map names", |c| {
        has(c, N3, first) && c.replica(N3, parent).is_some_and(|replica| replica.version == 3)
    });
    c.run_for(1_000_000);
    assert!(!c.map().shards.contains_key(&second) && !has(&mut c, N3, second));
    c.untold = false;
    c.run_until("it has all three", |c| has(c, N3, second));
    t.write(&mut c, KEYS);
    t.check(&mut c);
    assert_eq!(installed(&c, N3), 3);
}
