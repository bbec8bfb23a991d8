//! What a node may hold in memory: each holder is filled, and stays within its part.

use super::harness::{Cluster, append};
use super::{TailPoll, tail_poll};
use std::sync::Arc;
use synod_cluster::ids::{ClientId, ClientSeq, NodeId, ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{KeyOp, WriteId};
use synod_engine::host::{Answer, Body, Freshness, Read};
use synod_engine::memory::{Account, Holder};
use synod_engine::sessions::OUTCOMES_BYTES_MAX;

/// Three nodes that may hold so much.
fn cluster(memory_max: usize) -> Cluster {
    let mut c = Cluster::mem(3);
    for node in c.ids() {
        c.kill(node);
    }
    c.memory_max = memory_max;
    for node in c.ids() {
        c.start(node);
    }
    c
}

fn account(c: &Cluster, node: NodeId, holder: Holder) -> Arc<Account> {
    Arc::clone(c.nodes[&node].memory.as_ref().unwrap().of(holder))
}

fn fill(c: &mut Cluster, table: TableId, shard: ShardId, records: usize, value: &str) {
    let mut written = 0;
    for n in 0.. {
        let key = format!("k{n}");
        if c.shard_for(table, &key) == shard {
            c.append(table, &key, value);
            written += 1;
            if written == records {
                return;
            }
        }
    }
}

/// What a poll for everything after `after` says, where it need not wait.
fn poll(c: &mut Cluster, shard: ShardId, poll: TailPoll) -> Answer {
    let leader = c.leader(shard).unwrap();
    let id = c.send(leader, shard, Body::Read { read: Read::Tail(poll), freshness: Freshness::Local });
    c.await_answer(id).unwrap()
}

#[test]
fn newest_records_and_entries_of_all_shards_stay_within_their_parts() {
    const PART: usize = 1 << 20;
    let mut c = cluster(8 * PART);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 6);
    let value = "x".repeat(10_000);
    let shards = c.shards_of(table);
    // Each shard alone could hold more than a third of the part.
    for (n, shard) in shards.iter().enumerate() {
        fill(&mut c, table, *shard, 80, &value);
        for node in c.ids() {
            for holder in [Holder::Rings, Holder::Entries] {
                let (used, limit) = (account(&c, node, holder).used(), account(&c, node, holder).limit());
                assert_eq!(limit, PART);
                assert!(
                    used <= limit + 50_000,
                    "after {} shards, {node}: {holder:?} takes {used} of {limit} bytes",
                    n + 1
                );
            }
        }
    }
    let node = c.leader(shards[5]).unwrap();
    assert!(account(&c, node, Holder::Rings).used() > PART / 2, "there is room, and it is used");
    // Shards that fell silent give way: the last one's newest records are in memory, its tails need not scan.
    c.run_for(2_000_000);
    fill(&mut c, table, shards[5], 10, &value);
    let Answer::Tail { upto_ts, .. } = poll(&mut c, shards[5], tail_poll(u64::MAX - 1, 0)) else { panic!() };
    fill(&mut c, table, shards[5], 10, &value);
    match poll(&mut c, shards[5], tail_poll(upto_ts, 0)) {
        Answer::Tail { records, .. } => assert_eq!(records.len(), 10),
        other => panic!("{other:?}"),
    }
    // What goes with a shard is given back.
    c.system(&synod_cluster::system::SystemCommand::DropTable { name: "t".into() });
    c.run_for(2_000_000);
    for node in c.ids() {
        let used = account(&c, node, Holder::Rings).used() + account(&c, node, Holder::Outcomes).used();
        assert!(used < 50_000, "{node}: {used} bytes held of shards that are gone");
    }
}

fn named(client: u128, seq: u64, floor: u64) -> WriteId {
    WriteId { client: ClientId(client), seq: ClientSeq(seq), floor: ClientSeq(floor), deadline_us: u64::MAX }
}

fn batch(ops: usize) -> Vec<KeyOp> {
    (0..ops).map(|_| append("k", "")).collect()
}

#[test]
fn outcomes_of_batches_are_kept_of_one_client_up_to_so_many_bytes() {
    let mut c = cluster(1 << 30);
    let table = c.create_table("t", Partitioning::Range, Retention::Latest, 1);
    let mut refused = None;
    for seq in 1..1000 {
        match c.write_as(named(9, seq, 0), table, batch(2000)) {
            Ok(_) => {}
            Err(why) => {
                refused = Some((seq, why));
                break;
            }
        }
    }
    let Some((seq, Refusal::NoMemory(why))) = refused else {
        panic!("{refused:?}: more than a thousand batches are kept")
    };
    assert!(why.contains("id.floor") && why.contains(&OUTCOMES_BYTES_MAX.to_string()), "{why}");
    let shard = c.shards_of(table)[0];
    let leader = c.leader(shard).unwrap();
    let kept = account(&c, leader, Holder::Outcomes).used();
    assert!(kept < OUTCOMES_BYTES_MAX + 100_000, "{kept} bytes are kept of one client");
    // One that was executed is told again, other clients write, and so does this one with a floor.
    let again = c.write_as(named(9, seq - 1, 0), table, batch(2000)).unwrap();
    assert!(matches!(again, synod_engine::command::Outcome::Written(results) if results.len() == 2000));
    c.write_as(named(10, 1, 0), table, batch(1)).unwrap();
    c.write_as(named(9, seq, seq), table, batch(1)).unwrap();
    assert!(account(&c, leader, Holder::Outcomes).used() < 50_000);
}

#[test]
fn outcomes_of_all_clients_stay_within_their_part() {
    let mut c = cluster(1 << 20);
    let table = c.create_table("t", Partitioning::Range, Retention::Latest, 1);
    let refused =
        (1..5000).find_map(|client| c.write_as(named(client, 1, 0), table, batch(1)).err().map(|why| (client, why)));
    let Some((client, Refusal::NoMemory(why))) = refused else { panic!("{refused:?}") };
    assert!(client > 100 && why.contains("limits.memory_max"), "{client}: {why}");
    let shard = c.shards_of(table)[0];
    let all = account(&c, c.leader(shard).unwrap(), Holder::Outcomes);
    assert!(all.used() <= all.limit() + 1000, "{} of {} bytes", all.used(), all.limit());
    // Who lets an outcome go for each that is added goes on.
    for seq in 2..50 {
        c.write_as(named(1, seq, seq), table, batch(1)).unwrap();
    }
    assert_eq!(c.get(table, "k"), Some(String::new()));
}
