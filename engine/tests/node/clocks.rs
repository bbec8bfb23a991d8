//! Wall clocks that are off: by hours, of one node or of all, and set right again.

use super::harness::{Cluster, WALL, append};
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest};
use synod_engine::host::Body;

const SECOND: u64 = 1_000_000;
const HOUR: i64 = 3_600_000_000;

impl Cluster {
    fn table(&mut self) -> (TableId, ShardId) {
        let table = self.create_table("t", Partitioning::Hash, Retention::All, 1);
        (table, self.shards_of(table)[0])
    }

    /// Writes with this deadline; the timestamp it got.
    fn write_by(&mut self, table: TableId, deadline_us: u64) -> Result<u64, Refusal> {
        let id = WriteId { deadline_us, ..self.next_id() };
        match self.write_as(id, table, vec![append("k", "v")])? {
            Outcome::Written(results) => Ok(results[0].ts_us),
            other => panic!("{other:?}"),
        }
    }

    fn set_clock(&mut self, node: NodeId, off: i64) {
        self.wall_off.insert(node, off);
        self.run_for(SECOND);
    }
}

#[test]
fn a_leaders_timestamps_follow_no_clock_that_a_quorum_does_not_confirm() {
    let mut c = Cluster::mem(3);
    let (table, shard) = c.table();
    let leader = c.leader(shard).unwrap();
    let others: Vec<NodeId> = c.ids().into_iter().filter(|node| *node != leader).collect();
    for off in [HOUR, -HOUR] {
        c.set_clock(leader, off);
        let (true_time, ts) = (WALL + c.now.0, c.write_by(table, u64::MAX).unwrap());
        assert!(ts >= true_time - SECOND && ts <= true_time + SECOND, "clock {off} off: {ts} at {true_time}");
    }
    // With one of the others silent two clocks are left, and what both have reached counts.
    c.set_clock(leader, HOUR);
    c.kill(others[0]);
    c.run_for(20 * SECOND);
    let (true_time, ts) = (WALL + c.now.0, c.write_by(table, u64::MAX).unwrap());
    assert!(ts >= true_time - SECOND && ts <= true_time + SECOND, "{ts} at {true_time}");
    // A quorum that agrees is believed.
    c.set_clock(others[1], HOUR);
    let ts = c.write_by(table, u64::MAX).unwrap();
    assert!(ts >= WALL + HOUR as u64, "{ts}");
}

#[test]
fn a_leader_that_hears_nobody_goes_by_the_time_that_was_confirmed() {
    let mut c = Cluster::mem(3);
    let (table, shard) = c.table();
    let leader = c.leader(shard).unwrap();
    c.write_by(table, u64::MAX).unwrap();
    c.set_clock(leader, HOUR);
    // What it proposes now is chosen by whoever leads next, with the timestamp it was given here.
    c.isolate(leader);
    let op = Op::Write { table, ops: vec![append("k", "cut off")] };
    let request = WriteRequest { id: c.next_id(), op };
    let request = c.send(leader, shard, Body::Write(request));
    c.run_for(11 * SECOND);
    c.heal();
    c.run_for(5 * SECOND);
    drop(c.answers.take(request));
    c.write_by(table, u64::MAX).unwrap();
    let (now, records) = (WALL + c.now.0, c.range(table, "k"));
    assert!(records.iter().all(|r| r.record.ts_us <= now + SECOND), "{records:?} at {now}");
}

#[test]
fn a_shard_whose_time_is_ahead_goes_on_taking_writes_and_says_how_far() {
    let mut c = Cluster::mem(3);
    let (table, shard) = c.table();
    for node in c.ids() {
        c.set_clock(node, HOUR);
    }
    let mut last_ts = c.write_by(table, u64::MAX).unwrap();
    for node in c.ids() {
        c.set_clock(node, 0);
    }
    let deadline = WALL + c.now.0 + 10 * SECOND;
    let Err(Refusal::Expired { shard_us }) = c.write_by(table, deadline) else {
        panic!("its deadline has passed there")
    };
    assert!(shard_us >= last_ts, "{shard_us} after {last_ts}");
    for _ in 0..5 {
        let ts = c.write_by(table, shard_us + 10 * SECOND).unwrap();
        assert!(ts > last_ts, "{ts} after {last_ts}");
        last_ts = ts;
        c.run_for(SECOND / 2);
    }
    let leader = c.leader(shard).unwrap();
    let ahead = c.replica(leader, shard).unwrap().ahead_us;
    assert!((HOUR as u64 - 60 * SECOND..=HOUR as u64).contains(&ahead), "{ahead}");
    // Its time goes on, more slowly than the clocks do: deadlines pass there too, and the distance shrinks.
    c.run_for(40 * SECOND);
    assert!(matches!(c.write_by(table, shard_us + 10 * SECOND), Err(Refusal::Expired { .. })));
    assert!(c.replica(leader, shard).unwrap().ahead_us < ahead - 10 * SECOND);
}

#[test]
fn a_deadline_counts_from_the_shards_time() {
    let mut c = Cluster::mem(3);
    let (table, _) = c.table();
    c.options.deadline_ahead_us = 60 * SECOND;
    for node in c.ids() {
        c.kill(node);
        c.start(node);
    }
    let far = WALL + c.now.0 + HOUR as u64 + 30 * SECOND;
    let refused = c.write_by(table, far);
    assert!(matches!(&refused, Err(Refusal::Invalid { field: "id.deadline_us", .. })), "{refused:?}");
    for node in c.ids() {
        c.set_clock(node, HOUR);
    }
    assert!(c.write_by(table, far).is_ok(), "it is near by clocks that are an hour on");
    for node in c.ids() {
        c.set_clock(node, 0);
    }
    assert!(c.write_by(table, far).is_ok(), "it is near by the shard's time, which is what it was");
}
