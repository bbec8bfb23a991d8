//! Writes, checks before sending, tables.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use synod_client::proto as v1;
use synod_client::{Error, Expect, GetOptions, NewRecord, Options, Retention, TableSpec, WriteName, WriteOp};
use v1::error::Kind;
use v1::shard_request::Body as Ask;

use crate::fake::{Action, AdminFault, World, error};
use crate::{cluster, cluster_with, quick};
use synod_cluster::outcomes::{OUTCOMES_BYTES_MAX, outcome_bytes};

#[tokio::test]
async fn put_get_delete() {
    let (_world, client) = cluster().await;
    assert_eq!(client.get("kv", "a", GetOptions::default()).await.unwrap(), None);
    assert_eq!(client.put("kv", "a", "1").await.unwrap().offset, 0);
    let record = NewRecord::new("2").header("h", "x");
    let written = client.append("kv", "a", vec![record.clone()], Expect::NextOffset(1)).await.unwrap();
    let got = client.get("kv", "a", GetOptions::default()).await.unwrap().unwrap();
    assert_eq!((got.offset, got.ts_us, got.value, got.headers), (1, written.ts_us, "2".into(), record.headers));
    client.delete("kv", "a", Expect::Exists).await.unwrap();
    assert_eq!(client.get("kv", "a", GetOptions::default()).await.unwrap(), None);
    let full = client.get_full("kv", "a", GetOptions::default()).await.unwrap();
    assert_eq!((full.next_offset, full.record.unwrap().tombstone), (3, true));
}

#[tokio::test]
async fn checks_come_before_sending() {
    let (world, client) = cluster().await;
    let code = |r: Result<_, Error>| r.map(|_: synod_client::Written| ()).unwrap_err().code();
    assert_eq!(code(client.put("kv", "", "1").await), "invalid_argument");
    assert_eq!(code(client.put("kv", vec![b'k'; 5000], "1").await), "too_large");
    assert_eq!(code(client.put("kv", "k", vec![0; 2 << 20]).await), "too_large");
    assert_eq!(code(client.put("no such", "k", "1").await), "invalid_argument");
    assert_eq!(code(client.put("nosuch", "k", "1").await), "table_not_found");
    assert_eq!(code(client.append("kv", "k", vec![], Expect::Any).await), "invalid_argument");
    assert_eq!(client.batch("kv", vec![]).await.unwrap_err().code(), "invalid_argument");
    let apart = vec![WriteOp::put("a", "1"), WriteOp::put("z", "1")];
    assert_eq!(client.batch("r", apart).await.unwrap_err(), Error::CrossShard);
    assert!(world.writes().is_empty());
}

#[tokio::test]
async fn a_batch_is_one_write() {
    let (world, client) = cluster().await;
    let ops = vec![WriteOp::put("a", "1"), WriteOp::append("b", vec![NewRecord::new("1"), NewRecord::new("2")])];
    let written = client.batch("r", ops).await.unwrap();
    assert_eq!(written.len(), 2);
    assert_eq!(written[0].ts_us, written[1].ts_us);
    let ops = vec![WriteOp::put("a", "2"), WriteOp::put("b", "x").expect(Expect::Absent)];
    let error = client.batch("r", ops).await.unwrap_err();
    assert_eq!(error, Error::ExpectationFailed { actual: 2, op_index: 1 });
    assert_eq!(world.state.lock().unwrap().executed, 2);
}

/// Refuses as a shard's leader does whose client has too many bytes of outcomes kept, and never answers writes of the key
/// `hung` while `hangs`. Counts what it refused.
fn bounded(world: &World, hangs: Arc<AtomicBool>) -> Arc<AtomicUsize> {
    let refused = Arc::new(AtomicUsize::new(0));
    let told = refused.clone();
    // By shard, client and number.
    let mut kept: BTreeMap<(u64, Bytes, u64), usize> = BTreeMap::new();
    world.hook(move |_, request| {
        let Some(Ask::Write(write)) = &request.body else { return Action::Normal };
        if write.ops[0].key == "hung" {
            return if hangs.load(Ordering::Relaxed) { Action::Silence } else { Action::Normal };
        }
        let id = write.id.clone().unwrap();
        let (shard, client) = (request.shard, id.client.clone());
        if kept.contains_key(&(shard, client.clone(), id.seq)) {
            return Action::Normal;
        }
        kept.retain(|(at, of, seq), _| *at != shard || *of != client || *seq >= id.floor);
        let own = kept.range((shard, client.clone(), 0)..=(shard, client.clone(), u64::MAX));
        let bytes: usize = own.map(|(_, bytes)| bytes).sum();
        if bytes > OUTCOMES_BYTES_MAX && id.seq != id.floor {
            told.fetch_add(1, Ordering::Relaxed);
            return Action::Answer(Box::new(error(Kind::Overloaded(v1::Overloaded {
                retry_after_ms: 100,
                ..Default::default()
            }))));
        }
        kept.insert((shard, client, id.seq), outcome_bytes(write.ops.len()));
        Action::Normal
    });
    refused
}

#[tokio::test]
async fn a_write_waits_where_a_shard_would_keep_too_many_bytes_of_outcomes() {
    let (world, client) = cluster().await;
    // Its leader is known.
    client.put("kv", "a", "1").await.unwrap();
    let hangs = Arc::new(AtomicBool::new(true));
    let refused = bounded(&world, hangs.clone());
    let slow = client.with_timeout(Duration::from_secs(10));
    let hung = tokio::spawn(async move { slow.put("kv", "hung", "1").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let batch = || (0..2000).map(|n| WriteOp::delete(format!("k{n}"))).collect::<Vec<_>>();
    let most = OUTCOMES_BYTES_MAX / outcome_bytes(2000);
    for n in 0..most {
        client.batch("kv", batch()).await.unwrap_or_else(|e| panic!("batch {n} of {most}: {e}"));
    }
    // One more waits for room, and no longer than it may.
    let before = world.writes().len();
    let error = client.with_timeout(Duration::from_millis(100)).batch("kv", batch()).await.unwrap_err();
    assert_eq!((error.code(), error.retryable()), ("unavailable", true), "nothing was sent: {error}");
    assert!(error.to_string().contains(&OUTCOMES_BYTES_MAX.to_string()), "{error}");
    let sent = world.writes().into_iter().skip(before).filter(|(_, write)| write.ops.len() > 1).count();
    assert_eq!(sent, 0, "it was not sent");
    // Other shards keep their own.
    for n in 0..10 {
        client.batch("r", vec![WriteOp::put(format!("a{n}"), "1")]).await.unwrap();
    }
    // The floor rises with the end of the write that held it.
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (client, batch) = (client.clone(), batch());
            tokio::spawn(async move { client.batch("kv", batch).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    hangs.store(false, Ordering::Relaxed);
    hung.await.unwrap().unwrap();
    for write in waiting {
        write.await.unwrap().unwrap();
    }
    assert_eq!(refused.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_batch_larger_than_what_is_kept_goes_alone() {
    let limits = synod_client::limits::Limits { max_batch_records: 1 << 20, ..Default::default() };
    let (world, client) = cluster_with(Options { limits, ..quick() }).await;
    let refused = bounded(&world, Arc::default());
    let many = OUTCOMES_BYTES_MAX / (outcome_bytes(1) - outcome_bytes(0)) + 1;
    let write = |n: u32| {
        let (client, ops) =
            (client.with_timeout(Duration::from_secs(60)), vec![WriteOp::delete(format!("k{n}")); many]);
        async move { client.batch("kv", ops).await.map(|written| written.len()) }
    };
    let (first, second) = tokio::join!(write(1), write(2));
    assert_eq!((first.unwrap(), second.unwrap(), refused.load(Ordering::Relaxed)), (many, many, 0));
}

#[tokio::test]
async fn sixteen_conditional_writers_get_one_winner_each_time() {
    let (_world, client) = cluster().await;
    for next in 0..10 {
        let write = |i: usize| {
            let client = client.clone();
            async move { client.append("h", "hot", vec![NewRecord::new(format!("{i}"))], Expect::NextOffset(next)).await }
        };
        let outcomes = futures::future::join_all((0..16).map(write)).await;
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
        let lost = Error::ExpectationFailed { actual: next + 1, op_index: 0 };
        assert_eq!(outcomes.iter().filter(|o| o.as_ref().is_err_and(|e| *e == lost)).count(), 15);
    }
}

/// Five thousand puts at once, made and answered once each; the frames they were sent in.
async fn frames_of_many_callers() -> usize {
    let (world, client) = cluster().await;
    let write = |i: u64| {
        let client = client.clone();
        tokio::spawn(async move { (i, client.put("h", format!("key-{}", i % 50), format!("{i}")).await.unwrap()) })
    };
    let outcomes = futures::future::join_all((0..5000).map(write)).await;
    let places: HashSet<(u64, u64)> =
        outcomes.into_iter().map(|o| o.unwrap()).map(|(i, w)| (i % 50, w.offset)).collect();
    assert_eq!(places.len(), 5000);
    assert_eq!(world.state.lock().unwrap().executed, 5000);
    let names: HashSet<_> = world.writes().into_iter().map(|(_, w)| w.id.unwrap().seq).collect();
    assert_eq!(names.len(), 5000);
    *world.frames.lock().unwrap()
}

/// On one thread, where callers and connection take turns, no timing decides which callers a frame finds ready.
#[tokio::test]
async fn many_callers_share_frames() {
    let frames = frames_of_many_callers().await;
    assert!(frames < 100, "{frames} frames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once_get_their_answers() {
    frames_of_many_callers().await;
}

#[tokio::test]
async fn tables_are_made_seen_and_dropped() {
    let (_world, client) = cluster().await;
    let made = client.create_table(TableSpec::hash("new", 1, Retention::Latest)).await.unwrap();
    assert_eq!((made.name.as_str(), made.shards), ("new", 1));
    assert!(client.tables().iter().any(|t| t.name == "new"));
    let again = client.create_table(TableSpec::hash("new", 1, Retention::Latest)).await.unwrap_err();
    assert_eq!(again, Error::TableExists { table: "new".into() });
    client.put("new", "k", "1").await.unwrap();
    client.drop_table("new").await.unwrap();
    assert_eq!(client.table("new").await.unwrap_err().code(), "table_not_found");
    assert_eq!(client.drop_table("new").await.unwrap_err().code(), "table_not_found");
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_made_once() {
    let (world, client) = cluster().await;
    let spec = || TableSpec::hash("new", 1, Retention::Latest);
    let lose = |times: usize| world.admin.lock().unwrap().extend(vec![AdminFault::Lost { executed: true }; times]);
    lose(2);
    client.create_table(spec()).await.unwrap();
    lose(1);
    // Somebody makes a table of the same name between the change and its repetition: that one is left alone.
    let dropping = client.drop_table("new");
    let remaking = async {
        while client.tables().iter().any(|t| t.name == "new") {
            client.refresh_map().await.unwrap();
        }
        world.change_map(|map| map.tables.push(v1_table(99, "new")));
    };
    let (dropped, ()) = futures::future::join(dropping, remaking).await;
    dropped.unwrap();
    assert_eq!(client.table("new").await.unwrap().id, 99);
    let changes = world.changes.lock().unwrap();
    let names: Vec<_> = changes.iter().map(|id| (id.client.clone(), id.seq, id.deadline_us)).collect();
    assert_eq!(names.len(), 5);
    assert!(names[0] == names[1] && names[1] == names[2], "one change, one name: {names:?}");
    assert!(names[3] == names[4] && names[3].1 != names[0].1, "another change, another name: {names:?}");
}

#[tokio::test]
async fn a_change_ends_as_refused_only_where_nothing_was_done() {
    let (world, client) = cluster().await;
    let client = client.with_timeout(Duration::from_millis(400));
    let spec = || TableSpec::hash("new", 1, Retention::Latest);
    let faults = |fault: AdminFault| *world.admin.lock().unwrap() = vec![fault; 1000].into();
    faults(AdminFault::Unavailable);
    let refused = client.create_table(spec()).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
    faults(AdminFault::Lost { executed: false });
    let unknown = client.create_table(spec()).await.unwrap_err();
    assert!(matches!(unknown, Error::OutcomeUnknown { .. }), "{unknown}");
    let unknown = client.drop_table("kv").await.unwrap_err();
    assert!(matches!(unknown, Error::OutcomeUnknown { .. }), "{unknown}");
    // One lost answer is enough, whatever is said after it.
    faults(AdminFault::Unavailable);
    world.admin.lock().unwrap().push_front(AdminFault::Lost { executed: true });
    let unknown = client.create_table(spec()).await.unwrap_err();
    assert!(matches!(unknown, Error::OutcomeUnknown { .. }), "{unknown}");
    world.admin.lock().unwrap().clear();
    assert_eq!(client.create_table(spec()).await.unwrap_err(), Error::TableExists { table: "new".into() });
}

#[tokio::test]
async fn a_change_begins_anew_by_the_time_of_a_shard_that_is_ahead() {
    let (world, client) = cluster().await;
    let ahead = crate::fake::state::CLOCK_US + 3_600_000_000;
    let spec = || TableSpec::hash("new", 1, Retention::Latest);
    world.admin.lock().unwrap().push_back(AdminFault::Ahead(ahead));
    client.create_table(spec()).await.unwrap();
    let changes = std::mem::take(&mut *world.changes.lock().unwrap());
    assert_eq!(changes.len(), 2);
    assert!(changes[0].seq != changes[1].seq && changes[1].deadline_us > ahead, "{changes:?}");
    // Not where an earlier attempt may have been carried out.
    let client = client.with_timeout(Duration::from_millis(300));
    world.admin.lock().unwrap().push_back(AdminFault::Lost { executed: true });
    world.admin.lock().unwrap().extend(vec![AdminFault::Ahead(ahead); 1000]);
    let unknown = client.drop_table("new").await.unwrap_err();
    assert!(matches!(unknown, Error::OutcomeUnknown { .. }), "{unknown}");
    let changes = world.changes.lock().unwrap();
    assert!(changes.len() > 1 && changes.iter().all(|id| id.seq == changes[0].seq), "{changes:?}");
}

#[tokio::test]
async fn a_call_that_no_node_knows_fails_for_good() {
    let (_world, client) = cluster().await;
    for error in [client.job(1).await.unwrap_err(), client.cancel_job(1).await.unwrap_err()] {
        assert!(!error.retryable(), "{error}");
        let Error::InvalidArgument { field, why } = &error else { panic!("{error}") };
        assert_eq!(field, "cluster_version");
        assert!(why.contains(" at 127.0.0.1:") && why.contains("runs an older binary"), "{why}");
    }
}

fn v1_table(id: u32, name: &str) -> synod_client::proto::Table {
    use synod_client::proto as v1;
    let retention = Some(v1::Retention { kind: Some(v1::retention::Kind::Latest(true)) });
    let partitioning = v1::Partitioning::Hash.into();
    v1::Table { id, name: name.into(), partitioning, retention, replicas: 3 }
}

#[tokio::test]
async fn status_explain_transfer() {
    let (world, client) = cluster().await;
    let status = client.status().await;
    assert_eq!(status.iter().map(|n| n.status.as_ref().unwrap().node).collect::<Vec<_>>(), [1, 2, 3]);
    client.put("r", "h", "1").await.unwrap();
    let explain = client.explain("r", "h").await.unwrap();
    assert_eq!((explain.shard.id, explain.hash, explain.leader.unwrap().id, explain.voters.len()), (11, None, 1, 3));
    assert!(client.explain("h", "h").await.unwrap().hash.is_some());
    let old = client.upgrade(None, true).await.unwrap_err().to_string();
    assert!(
        old.contains("node ") && old.contains(" at 127.0.0.1:") && old.contains("knows no cluster versions"),
        "{old}"
    );
    client.transfer_leader(11, 2).await.unwrap();
    client.put("r", "h", "2").await.unwrap();
    assert_eq!(client.explain("r", "h").await.unwrap().leader.unwrap().id, 2);
    assert_eq!(client.transfer_leader(11, 9).await.unwrap_err().code(), "invalid_argument");
    assert_eq!(client.transfer_leader(99, 1).await.unwrap_err().code(), "invalid_argument");
    world.change_map(|map| map.nodes.push(v1_node(4)));
    client.refresh_map().await.unwrap();
    let status = client.status().await;
    assert!(status[3].status.is_err() && status[3].id == 4);
}

fn v1_node(id: u64) -> synod_client::proto::Node {
    synod_client::proto::Node { id, addr: "127.0.0.1:1".into(), ..Default::default() }
}

#[tokio::test]
async fn a_write_named_by_its_caller_executes_once_whoever_sends_it() {
    let (world, client) = cluster().await;
    let deadline_us = crate::fake::state::CLOCK_US + 60_000_000;
    let name = |seq| WriteName { client: 7, seq, floor: seq, deadline_us };
    let ops = || vec![WriteOp::put("a", "1")];
    let first = client.batch_as("kv", name(1), ops()).await.unwrap();
    assert_eq!(client.batch_as("kv", name(1), ops()).await.unwrap(), first);
    assert_eq!(client.batch_as("kv", name(2), ops()).await.unwrap()[0].offset, 1);
    assert_eq!(world.state.lock().unwrap().executed, 2);
    let bad = WriteName { floor: 4, ..name(3) };
    assert_eq!(client.batch_as("kv", bad, ops()).await.unwrap_err().code(), "invalid_argument");
}
