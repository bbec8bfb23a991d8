//! What a node begins with that first hears of a shard when it has been split.

use super::{KEYS, Table, has, kill_all, middle, start_all};
use crate::harness::{Cluster, N3};
use crate::snapshots::installed;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::worker::WorkerOptions;

/// The map has the bounds of after the split by then. A replica that began with those would take the split in the log for one that does
/// not count, would refuse the writes of the child's keys before it, and would never make the child.
#[test]
fn a_node_that_sleeps_while_a_shard_is_created_and_split_begins_with_what_the_others_have() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let mut c = Cluster::that_splits(3, WorkerOptions::default());
        c.kill(N3);
        let table = c.create_table("t", partitioning, Retention::All, 1);
        let parent = c.shards_of(table)[0];
        let mut t = Table { table, written: Vec::new() };
        t.write(&mut c, 2 * KEYS);
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
