//! Shards whose records are in the space of another one, as after a split: whatever happens to one of them, the other keeps all.

use super::harness::{Cluster, Disk, N2};
use super::scrub::equal;
use super::snapshots::{installed, mem, write};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, ShardId, Slot, Space, TableId};
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemOutcome};
use synod_engine::codec::keys;
use synod_engine::codec::pieces::{self, Piece};
use synod_engine::logstore::LogStore;
use synod_engine::logstore::mem::MemLog;
use synod_engine::state::mem::{MemDisk, MemState};
use synod_engine::state::{StateBatch, StateStore};

/// A shard of a table of its own.
#[derive(Clone, Copy)]
struct One {
    table: TableId,
    shard: ShardId,
}

fn disk_of(c: &Cluster, node: NodeId) -> (Arc<MemLog>, MemDisk) {
    let Disk::Mem { log, state, .. } = &c.nodes[&node].disk else { panic!("in memory only") };
    (Arc::clone(log), state.clone())
}

/// Where the log says that a shard's own rows are.
fn space_of(c: &Cluster, node: NodeId, shard: ShardId) -> Space {
    let found = disk_of(c, node).0.recover_group(shard).unwrap().unwrap();
    found.space.unwrap_or(Space(u32::try_from(shard.0).unwrap()))
}

/// On this node the records of `guest` are in the space of `host` from now on.
fn share(c: &mut Cluster, node: NodeId, host: One, guest: One) {
    c.kill(node);
    let (to, own) = (space_of(c, node, host.shard), space_of(c, node, guest.shard));
    let mut store = MemState::open(&disk_of(c, node).1);
    let (first, end) = keys::table_bounds(own, guest.table);
    let mut batch = StateBatch::default();
    let mut visit = |key: &[u8], value: &[u8]| {
        batch.rows.push(([&to.0.to_be_bytes()[..], &key[4..]].concat(), Some(Bytes::copy_from_slice(value))));
        batch.rows.push((key.to_vec(), None));
        ControlFlow::Continue(())
    };
    store.scan(&first, &end, false, &mut visit).unwrap();
    let map = c.map();
    let descriptor = &map.shards[&guest.shard];
    let all = Piece { from: descriptor.from.clone(), to: descriptor.to.clone(), space: to };
    batch.rows.push((keys::pieces_row(own), Some(pieces::encode(&[all]))));
    store.apply(batch).unwrap();
    store.freeze().unwrap();
    c.start(node);
}

/// How many rows of a table a node's disk has, and in which spaces.
fn stored(c: &Cluster, node: NodeId, table: TableId) -> (usize, Vec<Space>) {
    let (mut count, mut spaces) = (0, vec![]);
    let mut visit = |key: &[u8], _: &[u8]| {
        if let Ok(found) = keys::parse_record(key, true)
            && found.table == table
        {
            count += 1;
            spaces.push(found.space);
        }
        ControlFlow::Continue(())
    };
    MemState::open(&disk_of(c, node).1).scan(&[], &[0xff; 5], false, &mut visit).unwrap();
    spaces.dedup();
    (count, spaces)
}

/// Two tables of one shard each, whose logs keep hardly anything; on one node the records of the second are in the space of the first.
fn sharing() -> (Cluster, One, One) {
    let (mut c, table, shard) = mem();
    let host = One { table, shard };
    let guest = with_guest(&mut c, host);
    (c, host, guest)
}

/// A second table, whose records are in the space of the first on one node.
fn with_guest(c: &mut Cluster, host: One) -> One {
    let table = c.create_table("guest", Partitioning::Hash, Retention::All, 1);
    let guest = One { table, shard: c.shards_of(table)[0] };
    write(c, host.table, 60);
    write(c, guest.table, 60);
    c.run_for(1_000_000);
    share(c, N2, host, guest);
    write(c, host.table, 60);
    write(c, guest.table, 60);
    c.check_equal(host.shard);
    c.check_equal(guest.shard);
    c.run_for(1_000_000);
    let space = space_of(c, N2, host.shard);
    let (count, spaces) = stored(c, N2, guest.table);
    assert!(count > 0 && spaces == [space], "{count} rows in {spaces:?}, not in {space:?}");
    guest
}

/// Of the state of `host` this node has the records, and nothing that says whose they are and how far they go.
fn lose_own_rows(c: &mut Cluster, node: NodeId, host: One) -> Space {
    c.kill(node);
    let space = space_of(c, node, host.shard);
    let mut store = MemState::open(&disk_of(c, node).1);
    let (from, to) = keys::own_bounds(space);
    store.remove_range(&from, &to).unwrap();
    store.freeze().unwrap();
    c.start(node);
    // The guest has its state.
    assert_eq!(c.nodes[&node].metrics.as_ref().unwrap().reinstalling.get(), 1);
    space
}

#[test]
fn replicas_are_equal_however_their_records_are_spread() {
    let (mut c, host, guest) = sharing();
    equal(&mut c, host.shard);
    equal(&mut c, guest.shard);
}

#[test]
fn a_table_that_is_dropped_leaves_the_records_of_others_in_its_space() {
    for drops_host in [true, false] {
        let (mut c, host, guest) = sharing();
        let (gone, kept, name) = if drops_host { (host, guest, "t") } else { (guest, host, "guest") };
        let before = c.dump(N2, kept.shard);
        assert_eq!(c.system(&SystemCommand::DropTable { name: name.into() }), SystemOutcome::Done);
        c.run_until("its replica is gone", |c| c.replica(N2, gone.shard).is_none());
        assert_eq!(c.dump(N2, kept.shard), before);
        write(&mut c, kept.table, 60);
        c.check_equal(kept.shard);
        let now = c.dump(N2, kept.shard);
        for _ in 0..2 {
            c.run_for(2_000_000);
            c.kill(N2);
            c.start(N2);
            c.check_equal(kept.shard);
            assert_eq!(c.dump(N2, kept.shard), now);
        }
        write(&mut c, kept.table, 60);
        c.run_for(2_000_000);
        assert_eq!(stored(&c, N2, gone.table).0, 0, "rows of the table that was dropped are left");
        equal(&mut c, kept.shard);
    }
}

#[test]
fn a_state_that_is_lost_and_reinstalled_leaves_the_records_of_others_in_its_space() {
    let (mut c, host, guest) = sharing();
    c.run_until("the node trims", |c| c.replica(N2, host.shard).is_some_and(|r| r.trimmed > Slot(0)));
    let space = lose_own_rows(&mut c, N2, host);
    write(&mut c, host.table, 20);
    c.run_until("it is reinstalled", |c| installed(c, N2) == 1);
    write(&mut c, guest.table, 20);
    for shard in [host.shard, guest.shard] {
        c.check_equal(shard);
        equal(&mut c, shard);
    }
    assert_ne!(space_of(&c, N2, host.shard), space);
    // The sweep of the space that the host has left spares what is the guest's.
    for _ in 0..2 {
        c.run_for(2_000_000);
        c.kill(N2);
        c.start(N2);
        c.check_equal(host.shard);
        c.check_equal(guest.shard);
    }
    assert_eq!(stored(&c, N2, guest.table).1, [space]);
    assert_eq!(stored(&c, N2, host.table).1, [space_of(&c, N2, host.shard)]);
}

/// The log could make the state anew, but from its beginning it would write over what a shard split off since has newer.
#[test]
fn a_lost_state_is_not_made_from_its_log_where_others_have_records_in_its_space() {
    let mut c = Cluster::new((0..3).map(|_| Disk::mem(1 << 12)).collect());
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let host = One { table, shard: c.shards_of(table)[0] };
    let guest = with_guest(&mut c, host);
    assert_eq!(c.replica(N2, host.shard).unwrap().trimmed, Slot(0));
    let before = c.dump(N2, guest.shard);
    lose_own_rows(&mut c, N2, host);
    c.run_until("it is reinstalled", |c| installed(c, N2) == 1);
    c.check_equal(guest.shard);
    assert_eq!(c.dump(N2, guest.shard), before);
    write(&mut c, host.table, 20);
    write(&mut c, guest.table, 20);
    for shard in [host.shard, guest.shard] {
        c.check_equal(shard);
        equal(&mut c, shard);
    }
}
