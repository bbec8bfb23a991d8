//! Reads of a key and scans of a table.

use futures::TryStreamExt;
use synod_client::{Client, Consistency, Cursor, Keys, Record, ScanOptions};

use crate::cluster;
use crate::fake::World;

async fn fill(client: &Client, table: &str) -> Vec<String> {
    let mut keys: Vec<String> = (b'a'..=b'z').map(|c| format!("{}-key", c as char)).collect();
    for key in &keys {
        client.put(table, key.clone(), "old").await.unwrap();
        client.put(table, key.clone(), "new").await.unwrap();
    }
    keys.sort();
    keys
}

fn page(world: &World, records: usize) {
    world.state.lock().unwrap().page = records;
}

async fn scan(client: &Client, table: &str, options: ScanOptions) -> Vec<String> {
    let records: Vec<Record> = client.scan(table, options).try_collect().await.unwrap();
    assert!(records.iter().all(|r| r.value == "new"));
    records.into_iter().map(|r| String::from_utf8(r.key.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_key_is_read_in_order_over_pages() {
    let (world, client) = cluster().await;
    for i in 0..25 {
        client.put("r", "k", format!("{i}")).await.unwrap();
    }
    page(&world, 4);
    for (from, limit, want) in
        [(0, None, 0..25), (7, None, 7..25), (7, Some(9), 7..16), (0, Some(0), 0..0), (25, None, 0..0)]
    {
        let read = client.read("r", "k", from, limit, Consistency::Linearizable);
        let records: Vec<Record> = read.try_collect().await.unwrap();
        assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), want.collect::<Vec<_>>());
        assert!(records.iter().all(|r| r.value == r.offset.to_string()));
    }
}

#[tokio::test]
async fn range_tables_are_scanned_in_key_order_both_ways() {
    let (world, client) = cluster().await;
    let keys = fill(&client, "r").await;
    let reversed: Vec<String> = keys.iter().rev().cloned().collect();
    for size in [1, 3, 100] {
        page(&world, size);
        assert_eq!(scan(&client, "r", ScanOptions::default()).await, keys);
        assert_eq!(scan(&client, "r", ScanOptions { reverse: true, ..Default::default() }).await, reversed);
        let range = Keys::Range { from: "f".into(), to: "q".into() };
        assert_eq!(scan(&client, "r", ScanOptions { keys: range.clone(), ..Default::default() }).await, keys[5..16]);
        let options = ScanOptions { keys: range, reverse: true, ..Default::default() };
        assert_eq!(scan(&client, "r", options).await, reversed[10..21]);
        let prefix = ScanOptions { keys: Keys::Prefix("g".into()), ..Default::default() };
        assert_eq!(scan(&client, "r", prefix).await, ["g-key"]);
        let one = ScanOptions { keys: Keys::Key("z-key".into()), ..Default::default() };
        assert_eq!(scan(&client, "r", one).await, ["z-key"]);
        let none = Keys::Range { from: "q".into(), to: "q".into() };
        assert!(scan(&client, "r", ScanOptions { keys: none, ..Default::default() }).await.is_empty());
    }
}

#[tokio::test]
async fn hash_tables_are_scanned_whole_and_by_filter() {
    let (world, client) = cluster().await;
    let keys = fill(&client, "h").await;
    page(&world, 3);
    let forward = scan(&client, "h", ScanOptions::default()).await;
    let mut backward = scan(&client, "h", ScanOptions { reverse: true, ..Default::default() }).await;
    backward.reverse();
    assert_eq!(forward, backward);
    let mut sorted = forward.clone();
    sorted.sort();
    assert_eq!(sorted, keys);
    let one = ScanOptions { keys: Keys::Key("q-key".into()), ..Default::default() };
    assert_eq!(scan(&client, "h", one).await, ["q-key"]);
    let prefix = ScanOptions { keys: Keys::Prefix("q".into()), ..Default::default() };
    assert_eq!(scan(&client, "h", prefix).await, ["q-key"]);
}

#[tokio::test]
async fn a_cursor_goes_on_where_the_scan_stood_even_after_a_split() {
    let (world, client) = cluster().await;
    fill(&client, "r").await;
    fill(&client, "h").await;
    page(&world, 4);
    for (table, reverse) in [("r", false), ("r", true), ("h", false), ("h", true)] {
        let whole = scan(&client, table, ScanOptions { reverse, ..Default::default() }).await;
        let mut seen = Vec::new();
        let mut cursor: Option<Cursor> = None;
        loop {
            let options = ScanOptions { reverse, limit: Some(5), cursor: cursor.clone(), ..Default::default() };
            let mut stream = client.scan(table, options);
            while let Some(record) = stream.try_next().await.unwrap() {
                seen.push(String::from_utf8(record.key.to_vec()).unwrap());
                assert!(seen.len() == 26 || stream.cursor().is_some());
            }
            if seen.len() == 10 && table == "r" && !reverse {
                world.split("k");
            }
            match stream.cursor() {
                Some(next) => cursor = Some(next.to_string().parse().unwrap()),
                None => break,
            }
        }
        assert_eq!(seen, whole, "{table} {reverse}");
    }
}

#[tokio::test]
async fn cursors_of_something_else_are_refused() {
    let (_world, client) = cluster().await;
    fill(&client, "r").await;
    let mut stream = client.scan("r", ScanOptions { limit: Some(1), ..Default::default() });
    while stream.try_next().await.unwrap().is_some() {}
    let cursor = stream.cursor();
    for (table, reverse) in [("h", false), ("r", true)] {
        let options = ScanOptions { reverse, cursor: cursor.clone(), ..Default::default() };
        let error = client.scan(table, options).try_next().await.unwrap_err();
        assert!(error.to_string().contains("invalid cursor"), "{error}");
    }
    let error = client.scan("nosuch", ScanOptions::default()).try_next().await.unwrap_err();
    assert_eq!(error.code(), "table_not_found");
}
