//! What the client does when a node does not simply answer.

use std::time::{Duration, Instant};

use synod_client::proto as v1;
use synod_client::{Client, Consistency, Error, Expect, GetOptions, NewRecord, Options, WriteName, WriteOp};
use v1::error::Kind;

use crate::fake::{Action, error, not_leader};
use crate::{cluster, cluster_with, quick};

fn answer(kind: Kind) -> Action {
    Action::Answer(Box::new(error(kind)))
}

fn is_write(r: &v1::ShardRequest) -> bool {
    matches!(r.body, Some(v1::shard_request::Body::Write(_)))
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let (world, client) = cluster().await;
    world.state.lock().unwrap().leaders.insert(30, 3);
    client.put("kv", "a", "1").await.unwrap();
    let before = world.writes().len();
    assert!(before <= 2, "{before} attempts");
    client.put("kv", "b", "1").await.unwrap();
    let writes = world.writes();
    assert_eq!((writes.len(), writes[before].0), (before + 1, 3));
}

#[tokio::test]
async fn without_a_hint_the_voters_are_asked_in_turn() {
    let (world, client) = cluster().await;
    world.state.lock().unwrap().leaders.insert(30, 2);
    world.hook(|node, _| if node == 2 { Action::Normal } else { not_leader(0, false) });
    client.put("kv", "a", "1").await.unwrap();
    assert_eq!(world.writes().last().unwrap().0, 2);
    assert_eq!(world.state.lock().unwrap().executed, 1);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_retried_under_its_name_and_executed_once() {
    let (world, client) = cluster().await;
    let mut first = true;
    world.hook(move |_, r| {
        if is_write(r) && std::mem::take(&mut first) { Action::Break { executed: true } } else { Action::Normal }
    });
    let written = client.put("kv", "a", "1").await.unwrap();
    assert_eq!(written.offset, 0);
    let writes = world.writes();
    assert!(writes.len() >= 2);
    assert!(writes.iter().all(|(_, w)| w.id == writes[0].1.id), "{writes:?}");
    assert_eq!(world.state.lock().unwrap().executed, 1);
}

#[tokio::test]
async fn a_silent_leader_leads_to_another_voter() {
    let (world, client) = cluster().await;
    client.put("kv", "a", "1").await.unwrap();
    world.state.lock().unwrap().leaders.insert(30, 2);
    world.hook(|node, _| if node == 1 { Action::Silence } else { Action::Normal });
    let began = Instant::now();
    client.put("kv", "b", "1").await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(190) && took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_silent_node_costs_its_patience_once_and_not_once_for_each_shard_it_led() {
    let (world, client) = cluster().await;
    let shards: Vec<u64> = client.map().shards.iter().filter(|s| s.table_id == 2).map(|s| s.id).collect();
    assert_eq!(shards.len(), 4);
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    world.state.lock().unwrap().leaders = shards.iter().map(|shard| (*shard, 1)).collect();
    for key in &keys {
        client.put("h", key.clone(), "1").await.unwrap();
    }
    world.state.lock().unwrap().leaders = shards.iter().map(|shard| (*shard, 2)).collect();
    world.hook(|node, _| if node == 1 { Action::Silence } else { Action::Normal });
    let before = world.writes().len();
    for key in &keys {
        client.put("h", key.clone(), "2").await.unwrap();
    }
    let silent = world.writes()[before..].iter().filter(|(node, _)| *node == 1).count();
    assert_eq!(silent, 1, "writes that the silent node was asked for");
}

#[tokio::test]
async fn nobody_answers_a_write_outcome_unknown_a_read_unavailable() {
    let (world, client) = cluster().await;
    let client = client.with_timeout(Duration::from_millis(600));
    world.hook(|_, _| Action::Silence);
    let error = client.put("kv", "a", "1").await.unwrap_err();
    assert_eq!(error.code(), "outcome_unknown", "{error}");
    let error = client.get("kv", "a", GetOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), "unavailable", "{error}");
    // Nobody leads, and nobody ever took the write.
    world.hook(|_, _| not_leader(0, false));
    assert_eq!(client.put("kv", "a", "1").await.unwrap_err().code(), "unavailable");
    // A leader that steps down may have proposed it.
    world.hook(|_, _| not_leader(0, true));
    assert_eq!(client.put("kv", "a", "1").await.unwrap_err().code(), "outcome_unknown");
    world.no_hook();
    assert_eq!(client.put("kv", "a", "2").await.unwrap().offset, 0);
}

#[tokio::test]
async fn a_write_that_was_never_sent_is_unavailable() {
    let (world, client) = cluster().await;
    // The only voter is a node nobody listens for.
    world.change_map(|map| {
        map.nodes.push(v1::Node { id: 4, addr: "127.0.0.1:1".into(), ..v1::Node::default() });
        map.shards.iter_mut().for_each(|s| s.voters = vec![4]);
    });
    while client.map().revision < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = client.with_timeout(Duration::from_millis(300));
    let error = client.put("kv", "a", "1").await.unwrap_err();
    assert_eq!(error.code(), "unavailable", "{error}");
    assert!(error.retryable() && error.to_string().contains("node 4"), "{error}");
}

#[tokio::test]
async fn overload_is_waited_out_and_is_no_unknown_outcome() {
    let (world, client) = cluster().await;
    let mut times = 0;
    let overloaded = || answer(Kind::Overloaded(v1::Overloaded { retry_after_ms: 100, ..Default::default() }));
    world.hook(move |_, _| {
        times += 1;
        if times <= 2 { overloaded() } else { Action::Normal }
    });
    let began = Instant::now();
    client.put("kv", "a", "1").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    world.hook(move |_, _| overloaded());
    let error = client.with_timeout(Duration::from_millis(300)).put("kv", "a", "1").await.unwrap_err();
    assert_eq!(error.code(), "overloaded");
    assert!(error.to_string().contains("by the test"), "the node says what is full: {error}");
    // Where another attempt may have been executed nobody knows.
    let mut first = true;
    world.hook(move |_, _| if std::mem::take(&mut first) { Action::Break { executed: false } } else { overloaded() });
    let error = client.with_timeout(Duration::from_millis(300)).put("kv", "a", "1").await.unwrap_err();
    assert_eq!(error.code(), "outcome_unknown");
}

#[tokio::test]
async fn expired_is_plain_at_first_and_unknown_after_a_lost_attempt() {
    let (world, client) = cluster().await;
    // A node of an older version does not say what the shard's time is.
    world.hook(|_, _| answer(Kind::Expired(v1::Expired { shard_time_us: 0 })));
    assert_eq!(client.put("kv", "a", "1").await.unwrap_err(), Error::Expired { shard_time_us: 0 });
    let mut first = true;
    world.hook(move |_, _| {
        if std::mem::take(&mut first) {
            Action::Break { executed: false }
        } else {
            answer(Kind::Expired(v1::Expired { shard_time_us: 9_000_000_000 }))
        }
    });
    assert_eq!(client.put("kv", "a", "1").await.unwrap_err().code(), "outcome_unknown");
}

#[tokio::test]
async fn a_failed_expectation_found_again_after_a_lost_answer_is_the_outcome() {
    let (world, client) = cluster().await;
    client.put("kv", "a", "1").await.unwrap();
    let mut first = true;
    world.hook(move |_, _| if std::mem::take(&mut first) { Action::Break { executed: true } } else { Action::Normal });
    let error = client.append("kv", "a", vec![NewRecord::new("2")], Expect::Absent).await.unwrap_err();
    assert_eq!(error, Error::ExpectationFailed { actual: 1, op_index: 0 });
}

#[tokio::test]
async fn wrong_shard_waits_for_the_next_map() {
    let (world, client) = cluster().await;
    client.put("r", "h", "1").await.unwrap();
    world.split("k");
    let (a, b) = tokio::join!(client.put("r", "h", "2"), client.put("r", "m", "1"));
    assert_eq!((a.unwrap().offset, b.unwrap().offset), (1, 0));
    assert_eq!(world.state.lock().unwrap().executed, 3);
}

#[tokio::test]
async fn a_dropped_call_does_not_hold_the_floor() {
    let (world, client) = cluster().await;
    world.hook(|_, r| if is_write(r) { Action::Silence } else { Action::Normal });
    let call = client.put("kv", "a", "1");
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
    world.no_hook();
    client.put("kv", "b", "1").await.unwrap();
    let last = world.writes().last().unwrap().1.id.clone().unwrap();
    assert_eq!((last.seq, last.floor), (2, 2));
}

#[tokio::test]
async fn local_reads_go_on_without_a_leader() {
    let (world, client) = cluster().await;
    client.put("kv", "a", "1").await.unwrap();
    // Only node 3 answers; the fake lets it, as a replica would.
    world.state.lock().unwrap().leaders.insert(30, 3);
    world.hook(|node, _| if node == 3 { Action::Normal } else { Action::Silence });
    let options = GetOptions { consistency: Consistency::Local, ..GetOptions::default() };
    let record = client.get("kv", "a", options).await.unwrap().unwrap();
    assert_eq!(record.value, "1");
}

#[tokio::test]
async fn a_stale_read_goes_from_replica_to_replica_and_says_how_old_it_may_be() {
    let (world, client) = cluster().await;
    client.put("kv", "a", "1").await.unwrap();
    world.state.lock().unwrap().leaders.insert(30, 3);
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = asked.clone();
    // The others have no word of the leader that is young enough.
    world.hook(move |node, r| {
        if let Some(v1::shard_request::Body::Get(get)) = &r.body {
            told.lock().unwrap().push((node, get.consistency, get.max_age_ms));
        }
        if node == 3 {
            Action::Normal
        } else {
            answer(Kind::NotLeader(v1::NotLeader { leader: 0, ..Default::default() }))
        }
    });
    let age = Duration::from_micros(1_500_900);
    let options = GetOptions { consistency: Consistency::Stale(age), ..GetOptions::default() };
    for _ in 0..3 {
        let record = client.get("kv", "a", options).await.unwrap().unwrap();
        assert_eq!(record.value, "1");
    }
    let asked = asked.lock().unwrap();
    let stale = v1::Consistency::Stale as i32;
    assert!(asked.iter().all(|(_, consistency, age)| (*consistency, *age) == (stale, 1_500)), "{asked:?}");
    assert_eq!(asked.iter().filter(|(node, ..)| *node == 3).count(), 3);
}

#[tokio::test]
async fn a_new_table_under_an_old_name_is_found() {
    let (world, client) = cluster().await;
    client.put("kv", "a", "1").await.unwrap();
    let missing = |r: &v1::ShardRequest| matches!(&r.body, Some(v1::shard_request::Body::Write(w)) if w.table_id == 3);
    world.hook(move |_, r| {
        if missing(r) {
            answer(Kind::TableNotFound(v1::TableNotFound { table: String::new() }))
        } else {
            Action::Normal
        }
    });
    let error = client.put("kv", "a", "1").await.unwrap_err();
    assert_eq!(error, Error::TableNotFound { table: "kv".into() });
    world.change_map(|map| {
        map.tables.iter_mut().find(|t| t.id == 3).unwrap().id = 4;
        map.shards.iter_mut().find(|s| s.id == 30).unwrap().table_id = 4;
    });
    client.put("kv", "a", "1").await.unwrap();
}

#[tokio::test]
async fn no_endpoint_answers() {
    let options = Options { call_timeout: Duration::from_millis(300), ..quick() };
    let error = Client::connect(["127.0.0.1:1"], options).await.unwrap_err();
    assert_eq!(error.code(), "unavailable");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    let error = Client::connect(["nonsense"], quick()).await.unwrap_err();
    assert_eq!(error.code(), "invalid_argument");
    let error = Client::connect(Vec::<String>::new(), quick()).await.unwrap_err();
    assert_eq!(error.code(), "invalid_argument");
}

#[tokio::test]
async fn too_many_outstanding_writes_wait_for_room() {
    let (world, client) = cluster_with(Options { max_outstanding_writes: 1, ..quick() }).await;
    world.hook(|_, _| Action::Silence);
    let slow = client.with_timeout(Duration::from_secs(2));
    let first = tokio::spawn(async move { slow.put("kv", "a", "1").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = client.with_timeout(Duration::from_millis(100)).put("kv", "b", "1").await.unwrap_err();
    assert_eq!(error.code(), "unavailable");
    assert!(error.to_string().contains("max_outstanding_writes"), "{error}");
    assert_eq!(first.await.unwrap().unwrap_err().code(), "outcome_unknown");
}

#[tokio::test]
async fn after_a_leader_stepped_down_no_refusal_says_what_became_of_the_write() {
    let (world, client) = cluster().await;
    let refusal = |kind: Kind| {
        let mut first = true;
        let mut kind = Some(kind);
        move |_: u64, _: &v1::ShardRequest| {
            if std::mem::take(&mut first) { not_leader(0, true) } else { answer(kind.take().unwrap()) }
        }
    };
    let large = v1::TooLarge { what: "the batch".into(), limit: 7, knob: "limits.batch_bytes_max".into() };
    // A leader that stepped down may have proposed the write, and its limits may be others.
    let bad = v1::InvalidArgument { field: "ops".into(), why: "bad".into() };
    let late = v1::Expired { shard_time_us: 9_000_000_000 };
    let (large, bad, late) = (Kind::TooLarge(large), Kind::InvalidArgument(bad), Kind::Expired(late));
    for kind in [large, bad, Kind::CrossShard(v1::CrossShard {}), late] {
        world.hook(refusal(kind.clone()));
        assert_eq!(client.put("kv", "a", "1").await.unwrap_err().code(), "outcome_unknown", "{kind:?}");
    }
    // What the client itself refuses was never sent.
    let before = world.writes().len();
    let error = client.put("kv", "a", vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert_eq!((error.code(), world.writes().len()), ("too_large", before));
}

#[tokio::test]
async fn a_write_whose_one_attempt_came_too_late_by_the_shards_time_starts_anew_by_that_time() {
    const AHEAD: u64 = 4_000_000_000_000_000;
    let (world, client) = cluster().await;
    let by_shard = |_: u64, r: &v1::ShardRequest| match &r.body {
        Some(v1::shard_request::Body::Write(w)) if w.id.as_ref().unwrap().deadline_us < AHEAD => {
            answer(Kind::Expired(v1::Expired { shard_time_us: AHEAD }))
        }
        _ => Action::Normal,
    };
    world.hook(by_shard);
    assert_eq!(client.put("kv", "a", "1").await.unwrap().offset, 0);
    // Redirected, the new name is asked for again: it stays the same.
    let mut ids: Vec<v1::WriteId> = world.writes().into_iter().map(|(_, w)| w.id.unwrap()).collect();
    ids.dedup();
    let [old, new] = &ids[..] else { panic!("{ids:?}") };
    assert_eq!(world.state.lock().unwrap().executed, 1);
    assert_ne!((&old.client, old.seq), (&new.client, new.seq));
    assert!(new.deadline_us > AHEAD && new.deadline_us < AHEAD + 60_000_000, "{new:?}");
    // A redirect says that nothing was proposed: what follows it is still the one attempt.
    let mut first = true;
    world.hook(move |node, r| if std::mem::take(&mut first) { not_leader(1, false) } else { by_shard(node, r) });
    client.put("kv", "b", "1").await.unwrap();
    assert_eq!(world.state.lock().unwrap().executed, 2);
    // A shard whose time runs away from every deadline ends it.
    let mut time = AHEAD;
    world.hook(move |_, _| {
        time *= 2;
        answer(Kind::Expired(v1::Expired { shard_time_us: time.min(u64::MAX / 4) }))
    });
    assert_eq!(client.put("kv", "c", "1").await.unwrap_err().code(), "expired");
    // A name that the caller gave is the caller's: it is not changed.
    let before = world.writes().len();
    world.hook(by_shard);
    let name = WriteName { client: 7, seq: 1, floor: 1, deadline_us: 5 };
    let error = client.batch_as("kv", name, vec![WriteOp::put("d", "1")]).await.unwrap_err();
    assert_eq!((error, world.writes().len()), (Error::Expired { shard_time_us: AHEAD }, before + 1));
}

#[tokio::test]
async fn maps_are_asked_for_on_connections_that_are_there() {
    let (world, client) = cluster().await;
    client.put("kv", "a", "1").await.unwrap();
    let before = *world.connections.lock().unwrap();
    for _ in 0..20 {
        client.refresh_map().await.unwrap();
    }
    let storm = (0..200).map(|_| client.refresh_map());
    for refreshed in futures::future::join_all(storm).await {
        refreshed.unwrap();
    }
    let made = *world.connections.lock().unwrap() - before;
    assert!(made <= 3, "{made} connections to three nodes for 220 questions");
    // What changed is seen by who asks afterwards.
    world.change_map(|map| map.tables[2].name = "renamed".into());
    assert!(client.refresh_map().await.unwrap().tables.iter().any(|table| table.name == "renamed"));
}
