//! Nodes that die, are cut off, wiped or set back, and what must hold all the same.

use super::harness::{Cluster, Disk, N1, N2, N3, append};
use super::{rocks, text};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use synod_cluster::ids::{
    ClientId, ClientSeq, Incarnation, NodeId, NodeWriteSeq, Offset, SYSTEM_SHARD, ShardId, Slot, TableId,
};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest};
use synod_engine::host::{Answer, Body, Freshness, PeerInput, Read, Scan};
use synod_engine::logstore::LogStore as _;
use synod_engine::logstore::mem::MemLog;
use synod_engine::state::mem::MemDisk;

#[test]
fn a_retry_across_a_leader_change_executes_once() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    for round in 0..6u64 {
        let leader = c.leader(shard).unwrap();
        let id = c.next_id();
        let request = WriteRequest { id, op: Op::Write { table, ops: vec![append("k", &format!("{round}"))] } };
        let sent = c.send(leader, shard, Body::Write(request.clone()));
        // The leader dies somewhere on the way: before, while or after its followers take the entry.
        for _ in 0..=round {
            c.step();
        }
        c.kill(leader);
        c.run_until("another leads", |c| c.leader(shard).is_some());
        let early = c.answers.take(sent);
        let outcome = c.write_as(id, table, vec![append("k", &format!("{round}"))]).unwrap();
        let Outcome::Written(results) = &outcome else { panic!("{outcome:?}") };
        assert_eq!(results[0].offset, Offset(round));
        if let Some(Ok(Answer::Outcome(early))) = early {
            assert_eq!(early, outcome);
        }
        c.start(leader);
        c.run_for(500_000);
    }
    let values: Vec<String> = c.range(table, "k").iter().map(|r| text(&r.record.value)).collect();
    assert_eq!(values, ["0", "1", "2", "3", "4", "5"]);
    c.check_equal(shard);
}

#[test]
fn a_leader_cut_off_answers_maybe_and_the_retry_finds_the_outcome() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let leader = c.leader(shard).unwrap();
    c.append(table, "k", "before");
    c.isolate(leader);
    let id = c.next_id();
    let request = WriteRequest { id, op: Op::Write { table, ops: vec![append("k", "lost or not")] } };
    let sent = c.send(leader, shard, Body::Write(request));
    let mut answer = None;
    c.run_until("the old leader gives up and another leads", |c| {
        answer = answer.take().or_else(|| c.answers.take(sent));
        answer.is_some() && c.leader(shard).is_some_and(|l| l != leader)
    });
    assert!(matches!(answer, Some(Err(Refusal::NotLeader { .. }))), "{answer:?}");
    assert!(c.write_as(id, table, vec![append("k", "lost or not")]).is_ok());
    c.heal();
    c.run_for(1_000_000);
    assert_eq!(c.range(table, "k").len(), 2);
    c.check_equal(shard);
}

#[test]
fn killed_all_at_once_nothing_acknowledged_is_lost() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 2);
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for round in 0..5 {
        for n in 0..60 {
            let (key, value) = (format!("k{}", n % 5), format!("{round}-{n} {}", "x".repeat(500)));
            c.append(table, &key, &value);
            expected.entry(key).or_default().push(value);
        }
        for node in c.ids() {
            c.kill(node);
        }
        for node in c.ids() {
            c.start(node);
        }
    }
    for (key, values) in expected {
        let found: Vec<String> = c.range(table, &key).iter().map(|r| text(&r.record.value)).collect();
        assert_eq!(found, values);
    }
    for shard in c.shards_of(table) {
        c.check_equal(shard);
    }
}

#[test]
fn a_follower_that_was_away_catches_up() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let away = c.ids().into_iter().find(|n| Some(*n) != c.leader(shard)).unwrap();
    c.kill(away);
    for n in 0..2000 {
        c.append(table, &format!("k{}", n % 7), &"v".repeat(n % 300));
    }
    let leader = c.leader(shard).unwrap();
    let report = c.replica(leader, shard).unwrap();
    assert_eq!(report.trimmed, Slot(0), "nothing goes that a member lacks");
    assert!(report.lag.iter().any(|(node, slots)| *node == away && *slots >= 2000));
    c.start(away);
    c.check_equal(shard);
    assert_eq!(c.dump(away, shard).len(), 2000);
}

#[test]
fn the_log_is_trimmed_below_what_is_flushed_and_everyone_has() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::Latest, 1);
    let shard = c.shards_of(table)[0];
    for n in 0..3000 {
        c.append(table, &format!("k{}", n % 50), &format!("{n}{}", "x".repeat(40)));
    }
    c.run_for(3_000_000);
    let trimmed: Vec<Slot> = c.ids().into_iter().map(|n| c.replica(n, shard).unwrap().trimmed).collect();
    assert!(trimmed.iter().all(|slot| *slot >= Slot(1024)), "{trimmed:?}");
    for node in c.ids() {
        c.kill(node);
    }
    for node in c.ids() {
        c.start(node);
    }
    assert_eq!(c.append(table, "k7", "again"), 60);
    c.check_equal(shard);
}

#[test]
fn entry_timestamps_rise_across_a_restart_on_a_log_trimmed_to_its_end() {
    let disks = (0..3).map(|_| Disk::mem(1)).collect();
    let mut c = Cluster::new(disks);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    (c.options.trim_slots, c.options.trim_slots_flushed) = (1, 1);
    let restart_all = |c: &mut Cluster| {
        c.ids().into_iter().for_each(|node| c.kill(node));
        c.ids().into_iter().for_each(|node| c.start(node));
    };
    restart_all(&mut c);
    let id = c.next_id();
    let Ok(Outcome::Written(results)) = c.write_as(id, table, vec![append("k", "last")]) else { panic!() };
    c.run_for(3_000_000);
    for node in c.ids() {
        let replica = c.replica(node, shard).unwrap();
        assert_eq!(replica.trimmed, replica.last, "the whole log is trimmed on node {node}");
    }
    let trimmed = c.replica(N1, shard).unwrap().trimmed;
    restart_all(&mut c);
    c.run_until("another leadership", |c| c.leader(shard).is_some());
    c.run_for(1_000_000);
    let Disk::Mem { log, .. } = &c.nodes[&N1].disk else { panic!() };
    let entries = log.entries(shard, trimmed, trimmed.next(), 1).unwrap();
    assert!(entries[0].ts > results[0].ts_us, "{:?} follows an entry of {}", entries[0], results[0].ts_us);
}

#[test]
fn a_wiped_node_is_quarantined_and_says_so() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    for n in 0..20 {
        c.append(table, "k", &format!("{n}"));
    }
    c.kill(N2);
    c.append(table, "k", "while away");
    let log = Arc::new(MemLog::new());
    c.nodes.get_mut(&N2).unwrap().disk = Disk::Mem { log, state: MemDisk::default(), freeze_bytes: 1 << 16 };
    c.start(N2);
    c.run_until("quarantine", |c| c.nodes[&N2].seen.lock().unwrap().quarantined.is_some());
    let why = c.nodes[&N2].seen.lock().unwrap().quarantined.clone().unwrap();
    assert!(
        why.starts_with("node 2's data directory is older than what node ") && why.contains("it was wiped"),
        "{why}"
    );
    let body = Body::Read { read: Read::Scan(Scan::default()), freshness: Freshness::Local };
    let id = c.send(N2, SYSTEM_SHARD, body);
    assert_eq!(c.await_answer(id).unwrap_err(), Refusal::Quarantined(why.as_str().into()));
    assert_eq!(c.report(N2).quarantined, Some(why));
    // It counts in no quorum: with one of the others gone nothing is accepted.
    assert_eq!(c.append(table, "k", "two are enough"), 21);
    let shard = c.shards_of(table)[0];
    let leader = c.leader(shard).unwrap();
    let other = if leader == N1 { N3 } else { N1 };
    c.kill(other);
    let id = c.next_id();
    let request = WriteRequest { id, op: Op::Write { table, ops: vec![append("k", "no quorum")] } };
    let sent = c.send(leader, shard, Body::Write(request));
    c.run_for(5_000_000);
    assert!(!matches!(c.answers.take(sent), Some(Ok(_))));
}

#[test]
fn a_node_that_is_ruled_out_still_learns_that_its_directory_is_an_older_copy() {
    let mut c = Cluster::mem(3);
    let reason = |c: &Cluster| c.nodes[&N2].seen.lock().unwrap().quarantined.clone();
    let seen = (Incarnation(0), NodeWriteSeq(0));
    c.push(N2, PeerInput::RunsTwice { from: N1, seen, why: "node 2 runs twice".into() });
    c.run_until("quarantine", |c| reason(c).is_some());
    assert_eq!(reason(&c).as_deref(), Some("node 2 runs twice"));
    c.push(N2, PeerInput::IdentityAnswer { from: N3, seen: (Incarnation(9), NodeWriteSeq(900)) });
    c.run_until("the better reason", |c| reason(c).is_some_and(|why| why.contains("older than what node 3 has seen")));
    // What comes after says nothing better.
    c.push(N2, PeerInput::IdentityAnswer { from: N1, seen: (Incarnation(9), NodeWriteSeq(901)) });
    c.push(N2, PeerInput::RunsTwice { from: N1, seen, why: "node 2 runs twice".into() });
    c.run_for(50_000);
    assert!(reason(&c).is_some_and(|why| why.contains("node 3 has seen")), "{:?}", reason(&c));
}

#[test]
fn a_node_set_back_to_an_old_copy_is_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = Cluster::new(rocks(dir.path(), 3));
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    c.append(table, "k", "0");
    c.kill(N3);
    let (data, copy) = (dir.path().join("n3"), dir.path().join("copy"));
    copy_dir(&data, &copy);
    c.start(N3);
    for n in 1..20 {
        c.append(table, "k", &format!("{n}"));
    }
    c.run_for(500_000);
    c.kill(N3);
    c.append(table, "k", "after");
    std::fs::remove_dir_all(&data).unwrap();
    copy_dir(&copy, &data);
    c.start(N3);
    c.run_until("quarantine", |c| c.nodes[&N3].seen.lock().unwrap().quarantined.is_some());
    let why = c.nodes[&N3].seen.lock().unwrap().quarantined.clone().unwrap();
    assert!(why.contains("it was set back to an old copy; remove it and join as a new node"), "{why}");
    assert_eq!(c.append(table, "k", "goes on"), 21);
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn damage_in_a_log_is_named_and_the_node_does_not_start() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    for n in 0..5 {
        c.append(table, "k", &format!("{n}"));
    }
    c.check_equal(shard);
    c.kill(N2);
    let Disk::Mem { log, .. } = &c.nodes[&N2].disk else { panic!() };
    assert!(log.damage_entry(shard, Slot(3), |entry| entry.ts += 1));
    let error = c.try_start(N2).unwrap_err();
    assert_eq!(error.to_string(), format!("damaged log of shard {shard}, slot 3: entry checksum mismatch"));
}

/// Nodes die, come back, are cut off and lose frames at random; every write is retried until its outcome is known.
/// `forgetful` plants a fault: each attempt gets an id of its own, so that a write may execute twice.
fn random_faults(seed: u64, forgetful: bool) -> Result<(), String> {
    let mut c = Cluster::mem(3);
    c.seed(seed);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 2);
    c.loss = c.below(3) * 4;
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    c.disturb = Some(disturb);
    for n in 0..120 {
        let (key, value) = (format!("k{}", c.below(4)), format!("{n}"));
        let offset =
            if forgetful { append_forgetfully(&mut c, table, &key, &value) } else { c.append(table, &key, &value) };
        let values = expected.entry(key).or_default();
        values.push(value);
        if offset + 1 != values.len() as u64 {
            return Err(format!("seed {seed}: write {n} got offset {offset}"));
        }
    }
    (c.loss, c.disturb) = (0, None);
    c.heal();
    for node in c.ids().into_iter().filter(|n| !c.is_up(*n)).collect::<Vec<_>>() {
        c.start(node);
    }
    for (key, values) in expected {
        let found: Vec<String> = c.range(table, &key).iter().map(|r| text(&r.record.value)).collect();
        if found != values {
            return Err(format!("seed {seed}: key {key} holds {found:?}, acknowledged were {values:?}"));
        }
    }
    let shards: Vec<ShardId> = c.map().shards.keys().copied().collect();
    for shard in shards {
        c.check_equal(shard);
    }
    Ok(())
}

fn append_forgetfully(c: &mut Cluster, table: TableId, key: &str, value: &str) -> u64 {
    let (shard, first) = (c.shard_for(table, key), c.next_id());
    let attempt = Cell::new(0);
    let answer = c.call(shard, || {
        attempt.set(attempt.get() + 1);
        let id = WriteId { client: ClientId(first.seq.0.into()), seq: ClientSeq(attempt.get()), ..first };
        Body::Write(WriteRequest { id, op: Op::Write { table, ops: vec![append(key, value)] } })
    });
    match answer {
        Ok(Answer::Outcome(Outcome::Written(results))) => results[0].offset.0,
        other => panic!("{other:?}"),
    }
}

/// Perhaps one fault, or the end of one; at most one node is away at a time, unless all die at once.
fn disturb(c: &mut Cluster) {
    let away: Vec<NodeId> = c.ids().into_iter().filter(|n| !c.is_up(*n)).collect();
    let whole = away.is_empty() && c.cut.is_empty();
    let victim = NodeId(1 + c.below(3));
    match c.chance() {
        0..8 if whole => c.kill(victim),
        8..14 if whole => c.isolate(victim),
        14..16 if whole => {
            c.ids().into_iter().for_each(|n| c.kill(n));
            c.ids().into_iter().for_each(|n| c.start(n));
        }
        16..30 if !c.cut.is_empty() => c.heal(),
        16..30 => away.into_iter().for_each(|n| c.start(n)),
        30..40 => {
            let pause = c.below(2_000_000);
            c.run_for(pause);
        }
        _ => {}
    }
}

#[test]
fn random_faults_lose_and_double_nothing() {
    for seed in 1..=100 {
        random_faults(seed, false).unwrap();
    }
}

#[test]
fn random_faults_find_writes_that_execute_twice() {
    let found = (1..=100).filter(|seed| random_faults(*seed, true).is_err()).count();
    assert!(found >= 5, "only {found} of 100 runs found the planted fault");
}
