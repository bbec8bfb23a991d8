//! Maps that come as deltas, or whole from nodes that know none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use synod_client::Client;

use crate::cluster;
use crate::fake::World;

/// Longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Changes a shard's members, and waits until the client knows.
async fn change(world: &World, client: &Client) {
    world.change_map(|map| map.shards[0].epoch += 1);
    let (revision, began) = (world.map.borrow().revision, Instant::now());
    while client.map().revision < revision {
        assert!(began.elapsed() < PATIENCE, "the client does not hear of revision {revision}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The shards that the client knows, and those that there are: id, version, epoch.
fn both(world: &World, client: &Client) -> [Vec<(u64, u64, u64)>; 2] {
    let known = client.map().shards.iter().map(|s| (s.id, s.version, s.epoch)).collect();
    let there = world.map.borrow().shards.iter().map(|s| (s.id, s.version, s.epoch)).collect();
    [known, there].map(|mut shards: Vec<_>| {
        shards.sort_unstable();
        shards
    })
}

/// A client whose watch has had a whole map, from nodes that send deltas.
async fn watching() -> (Arc<World>, Client) {
    let (world, client) = cluster().await;
    world.deltas.store(true, Ordering::SeqCst);
    change(&world, &client).await;
    (world, client)
}

#[tokio::test]
async fn a_client_follows_deltas() {
    let (world, client) = watching().await;
    change(&world, &client).await;
    world.split("k");
    change(&world, &client).await;
    let [known, there] = both(&world, &client);
    assert_eq!(known, there);
    assert!(world.watched.lock().unwrap().iter().all(|asked| asked.deltas));
    assert!(world.sent.lock().unwrap().iter().any(|since| *since > 0), "no delta was sent");
    client.put("r", "m", "1").await.unwrap();
    assert_eq!(world.seen.lock().unwrap().last().map(|(_, asked)| asked.shard), Some(13));
}

#[tokio::test]
async fn a_delta_with_a_gap_makes_the_client_ask_anew_for_a_whole_map() {
    let (world, client) = watching().await;
    let before = world.watched.lock().unwrap().len();
    world.gap.store(true, Ordering::SeqCst);
    change(&world, &client).await;
    assert!(!world.gap.load(Ordering::SeqCst), "there was a gap");
    let again = world.watched.lock().unwrap()[before..].to_vec();
    assert!(again.iter().any(|asked| asked.digest == 0 && asked.from_revision > 0), "{again:?}");
    let [known, there] = both(&world, &client);
    assert_eq!(known, there);
}

#[tokio::test]
async fn whole_maps_of_nodes_that_know_no_deltas_are_taken() {
    let (world, client) = cluster().await;
    for _ in 0..3 {
        change(&world, &client).await;
    }
    let [known, there] = both(&world, &client);
    assert_eq!(known, there);
    assert!(world.sent.lock().unwrap().iter().all(|since| *since == 0));
}
