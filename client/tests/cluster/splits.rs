//! A shard is split while the client is at work, and the map hears of it later or never.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use synod_client::proto as v1;
use synod_client::{Client, Error, Options, ScanOptions, TailOptions, TailStart, WriteOp};

use crate::fake::{Action, World};
use crate::tails::{Place, check, place, write};
use crate::{cluster, cluster_with, quick};

/// Half of a pause, which it lasts at least, is longer than what the tests allow.
const LONG: Duration = Duration::from_secs(8);
const AT_ONCE: Duration = Duration::from_secs(3);
/// A pause in which something happens.
const SHORT: Duration = Duration::from_millis(300);

/// A cluster whose nodes tell where a shard's keys are by now, and a client with pauses of this length.
async fn telling(pause: Duration) -> (Arc<World>, Client) {
    let options = Options { call_timeout: Duration::from_secs(10), backoff_min: pause, backoff_max: pause, ..quick() };
    let (world, client) = cluster_with(options).await;
    world.state.lock().unwrap().tells = true;
    (world, client)
}

fn is_write(r: &v1::ShardRequest) -> bool {
    matches!(r.body, Some(v1::shard_request::Body::Write(_)))
}

/// Shard and version that each write asked for.
fn asked(world: &World) -> Vec<(u64, u64)> {
    world.seen.lock().unwrap().iter().filter(|(_, r)| is_write(r)).map(|(_, r)| (r.shard, r.version)).collect()
}

#[tokio::test]
async fn a_write_goes_on_at_once_where_its_key_is_by_now_and_the_next_goes_there_first() {
    let (world, client) = telling(LONG).await;
    client.put("r", "h", "1").await.unwrap();
    world.split_untold("k");
    let (began, before) = (Instant::now(), asked(&world).len());
    client.put("r", "m", "1").await.unwrap();
    client.put("r", "n", "1").await.unwrap();
    client.put("r", "h", "2").await.unwrap();
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(asked(&world)[before..], [(11, 1), (13, 2), (13, 2), (11, 2)]);
    assert_eq!((world.state.lock().unwrap().executed, client.map().revision), (4, 1));
    // The map hears of it, and nothing changes.
    world.tell();
    while client.map().revision < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.put("r", "m", "2").await.unwrap();
    assert_eq!(asked(&world).last(), Some(&(13, 2)));
}

#[tokio::test]
async fn without_news_the_client_waits_for_the_next_map() {
    let (world, client) = cluster().await;
    client.put("r", "h", "1").await.unwrap();
    world.split_untold("k");
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("r", "m", "1").await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!put.is_finished());
    world.tell();
    assert_eq!(put.await.unwrap().unwrap().offset, 0);
    assert_eq!(world.state.lock().unwrap().executed, 2);
}

#[tokio::test]
async fn a_write_that_was_executed_before_the_split_finds_its_outcome_behind_it() {
    let (world, client) = telling(SHORT).await;
    client.put("r", "h", "1").await.unwrap();
    let mut first = true;
    world.hook(move |_, r| {
        if is_write(r) && std::mem::take(&mut first) { Action::Break { executed: true } } else { Action::Normal }
    });
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.put("r", "m", "1").await }
    });
    while world.state.lock().unwrap().executed < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.split_untold("k");
    assert_eq!(call.await.unwrap().unwrap().offset, 0);
    assert_eq!(world.state.lock().unwrap().executed, 2);
    assert_eq!(asked(&world).last(), Some(&(13, 2)));
}

/// A batch whose first attempt was executed or not, before its keys went apart.
async fn batch_apart(executed: bool) -> (Arc<World>, Result<usize, Error>) {
    let (world, client) = telling(SHORT).await;
    client.put("r", "h", "1").await.unwrap();
    let hooked = Arc::downgrade(&world);
    let mut first = true;
    world.hook(move |_, r| {
        if !is_write(r) || !std::mem::take(&mut first) {
            return Action::Normal;
        }
        // The break itself executes it under the bounds that the client knows.
        if !executed && let Some(world) = hooked.upgrade() {
            world.split_untold("k");
        }
        Action::Break { executed }
    });
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.batch("r", vec![WriteOp::put("i", "1"), WriteOp::put("m", "1")]).await }
    });
    if executed {
        while world.state.lock().unwrap().executed < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.split_untold("k");
    }
    let ended = call.await.unwrap().map(|written| written.len());
    // It is known by now that the keys are of two shards: nothing is sent.
    let sent = asked(&world).len();
    let apart = client.batch("r", vec![WriteOp::put("i", "2"), WriteOp::put("m", "2")]).await;
    assert_eq!((apart.unwrap_err(), asked(&world).len()), (Error::CrossShard, sent));
    (world, ended)
}

#[tokio::test]
async fn a_batch_whose_keys_went_apart_is_told_what_became_of_it_and_never_that_nothing_did() {
    let (world, ended) = batch_apart(true).await;
    assert_eq!((ended, world.state.lock().unwrap().executed), (Ok(2), 2));
    let (world, ended) = batch_apart(false).await;
    assert_eq!(ended.unwrap_err().code(), "outcome_unknown");
    assert_eq!(world.state.lock().unwrap().executed, 1);
    assert_eq!(asked(&world).last(), Some(&(11, 2)), "the shard of its first key was asked");
}

#[tokio::test]
async fn a_scan_goes_on_from_its_last_position_at_the_shard_that_has_it_now() {
    for reverse in [false, true] {
        let (world, client) = telling(LONG).await;
        for letter in b'a'..=b'z' {
            client.put("r", format!("{}-key", letter as char), "1").await.unwrap();
        }
        world.state.lock().unwrap().page = 2;
        let options = ScanOptions { reverse, ..ScanOptions::default() };
        let whole: Vec<_> = client.scan("r", options.clone()).map_ok(|r| r.key).try_collect().await.unwrap();
        let mut scan = client.scan("r", options).map_ok(|r| r.key);
        let began = Instant::now();
        let mut seen = Vec::new();
        while let Some(key) = scan.try_next().await.unwrap() {
            // In the middle of shard 11.
            if key == "j-key" {
                world.split_untold("l");
            }
            seen.push(key);
        }
        assert_eq!((seen.len(), seen), (26, whole));
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_tail_goes_on_in_two_lanes_and_its_token_stays_true() {
    for (after_us, page) in [(0, 1000), (50, 4)] {
        let (world, client) = telling(LONG).await;
        write(&client, "r", 0..10).await;
        {
            let mut state = world.state.lock().unwrap();
            (state.in_memory_after_us, state.page) = (after_us, page);
        }
        let total = || world.state.lock().unwrap().logs.values().map(Vec::len).sum::<usize>();
        let mut tail = client.tail("r", TailOptions { follow: true, ..TailOptions::default() });
        let mut places: Vec<Place> = Vec::new();
        let began = Instant::now();
        while places.len() < total() / 2 {
            places.push(place(&tail.try_next().await.unwrap().unwrap()));
        }
        world.split_untold("k");
        write(&client, "r", 10..20).await;
        while places.len() < total() {
            places.push(place(&tail.try_next().await.unwrap().unwrap()));
        }
        check(&world, &places, &[], |_| true, 1);
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert_eq!(client.map().revision, 1);
        let token = tail.token().unwrap();
        write(&client, "r", 20..22).await;
        let options = TailOptions { start: TailStart::Token(token), ..TailOptions::default() };
        let rest: Vec<_> = client.tail("r", options).try_collect().await.unwrap();
        check(&world, &rest.iter().map(place).collect::<Vec<_>>(), &places, |_| true, 1);
    }
}
