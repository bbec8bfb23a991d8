//! What all shards of a node share: places of requests, and what their logs keep.

use super::harness::{Cluster, Disk, N1, N2, N3};
use super::tail_poll;
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::host::{Body, Freshness, Read};

fn restarted_with(mut c: Cluster, change: impl Fn(&mut Cluster)) -> Cluster {
    for node in c.ids() {
        c.kill(node);
    }
    change(&mut c);
    for node in c.ids() {
        c.start(node);
    }
    c
}

fn idle_tail(c: &mut Cluster, node: NodeId, shard: ShardId) -> u64 {
    let read = Read::Tail(tail_poll(u64::MAX - 1, 60_000_000));
    c.send(node, shard, Body::Read { read, freshness: Freshness::Local })
}

#[test]
fn idle_tails_keep_nobody_from_writing() {
    let mut c = restarted_with(Cluster::mem(3), |c| c.options.waiting_max = 16);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let leader = c.leader(shard).unwrap();
    let tails: Vec<u64> = (0..40).map(|_| idle_tail(&mut c, leader, shard)).collect();
    c.run_for(50_000);
    for n in 0..30u64 {
        assert_eq!(c.append(table, "k", "v"), n);
    }
    for tail in tails {
        assert!(c.answers.take(tail).is_none(), "tail {tail} was answered though it wants nothing of this");
    }
}

/// What the node's logs of these shards hold, bytes, by the size of their records.
fn kept(c: &mut Cluster, node: NodeId, shards: &[ShardId], record: u64) -> u64 {
    let replicas = c.report(node).replicas;
    let of_table = replicas.iter().filter(|r| shards.contains(&r.shard));
    of_table.map(|r| (r.last.0 - r.trimmed.0) * record).sum()
}

const SHARDS: u32 = 8;
const RECORD: usize = 1000;

fn fill(c: &mut Cluster, table: TableId, bytes: usize) {
    let value = "x".repeat(RECORD);
    for n in 0..bytes / RECORD {
        c.append(table, &format!("k{n}"), &value);
    }
}

#[test]
fn what_a_dead_member_lacks_is_kept_within_one_budget_for_all_shards() {
    const BUDGET: u64 = 64 << 10;
    let mut c = restarted_with(Cluster::mem(3), |c| {
        (c.options.log_keep_bytes, c.options.trim_slots, c.options.trim_slots_flushed) = (BUDGET, 1, 1);
    });
    let table = c.create_table("t", Partitioning::Hash, Retention::All, SHARDS);
    let shards = c.shards_of(table);
    c.kill(N3);
    // Of each shard less than the budget, of all together much more.
    fill(&mut c, table, 5 * BUDGET as usize);
    c.run_for(3_000_000);
    for node in [N1, N2] {
        let kept = kept(&mut c, node, &shards, RECORD as u64);
        assert!(kept > BUDGET / 4, "{node} keeps {kept} bytes of its logs, it may keep {BUDGET}");
        // Sizes are noted a sixteenth of a share apart, and there is always a last entry.
        assert!(kept < BUDGET + BUDGET / 4, "{node} keeps {kept} bytes of its logs, it may keep {BUDGET}");
    }
    // The one that was down gets what it lacks by snapshots.
    c.start(N3);
    for shard in shards {
        c.check_equal(shard);
    }
}

#[test]
fn a_low_disk_shrinks_what_logs_keep() {
    const BUDGET: u64 = 256 << 10;
    let mut c = restarted_with(Cluster::mem(3), |c| {
        (c.options.log_keep_bytes, c.options.trim_slots, c.options.trim_slots_flushed) = (BUDGET, 1, 1);
    });
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 2);
    let shards = c.shards_of(table);
    c.kill(N3);
    fill(&mut c, table, BUDGET as usize / 2);
    c.run_for(3_000_000);
    assert!(kept(&mut c, N1, &shards, RECORD as u64) > BUDGET / 3);
    c.push(N1, synod_engine::host::NodeInput::DiskLow(Some("little room".into())));
    c.run_for(5_000_000);
    let kept = kept(&mut c, N1, &shards, RECORD as u64);
    assert!(kept < BUDGET / 8, "{kept} bytes kept on a low disk, of a budget of {BUDGET}");
}

#[test]
fn logs_found_at_the_start_count_too() {
    const BUDGET: u64 = 64 << 10;
    // What was applied is flushed at once: nothing of an earlier life is applied again, and so counted.
    let disks = (0..3).map(|_| Disk::mem(1 << 12)).collect();
    let mut c = restarted_with(Cluster::new(disks), |c| {
        (c.options.log_keep_bytes, c.options.trim_slots, c.options.trim_slots_flushed) = (BUDGET, 1, 1);
    });
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shards = c.shards_of(table);
    c.kill(N3);
    // Less than the budget in each life of the two that are left, and much more in all.
    for _ in 0..6 {
        fill(&mut c, table, BUDGET as usize * 3 / 4);
        c.run_for(2_000_000);
        for node in [N1, N2] {
            c.kill(node);
            c.start(node);
        }
        c.run_until("a leader", |c| c.leader(shards[0]).is_some());
    }
    c.run_for(2_000_000);
    let kept = kept(&mut c, N1, &shards, RECORD as u64);
    assert!(kept < 2 * BUDGET, "{kept} bytes kept after restarts, of a budget of {BUDGET}");
}
