//! Tails: nothing lost, nothing twice, each key in order, from any token.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use synod_client::proto as v1;
use synod_client::{Client, Error, Keys, NewRecord, PassedOver, TailItem, TailOptions, TailStart, WriteOp};
use v1::error::Kind;
use v1::shard_request::Body as Ask;

use crate::cluster;
use crate::fake::{Action, World, error};

/// Single appends, appends of several records, and batches over several keys of one shard.
pub async fn write(client: &Client, table: &str, rounds: std::ops::Range<usize>) {
    for i in rounds {
        let key = |n: usize| format!("{}-key", (b'a' + ((i * 7 + n) % 26) as u8) as char);
        let records = (0..1 + i % 4).map(|n| NewRecord::new(format!("{i}.{n}"))).collect();
        client.append(table, key(0), records, Default::default()).await.unwrap();
        if table == "r" {
            let letters = ["a", "b", "c", "d"].map(|l| WriteOp::put(format!("{l}-key"), format!("{i}")));
            client.batch(table, letters.to_vec()).await.unwrap();
        }
    }
}

pub type Place = (String, u64);

pub fn place(item: &TailItem) -> Place {
    (String::from_utf8(item.record.key.to_vec()).unwrap(), item.record.offset)
}

async fn read_all(client: &Client, table: &str, keys: Keys, start: TailStart) -> Vec<TailItem> {
    let options = TailOptions { keys, start, ..Default::default() };
    client.tail(table, options).try_collect().await.unwrap()
}

/// Every key from `offset` 0 (or where `seen` ended) in order without gaps; as many as there are.
pub fn check(world: &World, items: &[Place], seen: &[Place], wanted: impl Fn(&str) -> bool, table_id: u32) {
    let mut next: HashMap<String, u64> = HashMap::new();
    for (key, offset) in seen.iter().chain(items) {
        let expected = next.entry(key.clone()).or_default();
        assert_eq!(offset, expected, "{key}");
        *expected += 1;
    }
    let state = world.state.lock().unwrap();
    let logs = state.logs.iter().filter(|((table, _), _)| *table == table_id).map(|(_, log)| log);
    let total: usize = logs.filter(|l| wanted(std::str::from_utf8(&l[0].key).unwrap())).map(Vec::len).sum();
    assert_eq!(seen.len() + items.len(), total);
}

fn memory(world: &World, after_us: u64, page: usize) {
    let mut state = world.state.lock().unwrap();
    state.in_memory_after_us = after_us;
    state.page = page;
}

#[tokio::test]
async fn a_tail_gives_everything_once_from_store_and_memory() {
    let (world, client) = cluster().await;
    write(&client, "r", 0..40).await;
    write(&client, "h", 0..40).await;
    for (after_us, page) in [(0, 1000), (0, 3), (400, 1000), (400, 3), (400, 1), (100_000, 2)] {
        memory(&world, after_us, page);
        for (table, id) in [("r", 1), ("h", 2)] {
            let items = read_all(&client, table, Keys::All, TailStart::Earliest).await;
            check(&world, &items.iter().map(place).collect::<Vec<_>>(), &[], |_| true, id);
            let prefix = read_all(&client, table, Keys::Prefix("b".into()), TailStart::Earliest).await;
            check(&world, &prefix.iter().map(place).collect::<Vec<_>>(), &[], |k| k.starts_with('b'), id);
            let key = read_all(&client, table, Keys::Key("c-key".into()), TailStart::Earliest).await;
            check(&world, &key.iter().map(place).collect::<Vec<_>>(), &[], |k| k == "c-key", id);
            let range = Keys::Range { from: "e".into(), to: "t".into() };
            let range = read_all(&client, table, range, TailStart::Earliest).await;
            check(&world, &range.iter().map(place).collect::<Vec<_>>(), &[], |k| ("e".."t").contains(&k), id);
        }
    }
}

#[tokio::test]
async fn every_token_is_exact() {
    let (world, client) = cluster().await;
    write(&client, "r", 0..12).await;
    write(&client, "h", 0..12).await;
    let newest = world.state.lock().unwrap().ts_us;
    for (first, second, page) in
        [(0, 0, 4), (0, newest / 2, 4), (newest / 2, newest / 2, 2), (newest, newest, 3), (newest / 3, newest, 5)]
    {
        for (table, id) in [("r", 1), ("h", 2)] {
            memory(&world, first, page);
            let items = read_all(&client, table, Keys::All, TailStart::Earliest).await;
            let places: Vec<Place> = items.iter().map(place).collect();
            check(&world, &places, &[], |_| true, id);
            memory(&world, second, 1000);
            for (i, item) in items.iter().enumerate() {
                let token = item.token().to_string().parse().unwrap();
                let rest = read_all(&client, table, Keys::All, TailStart::Token(token)).await;
                let rest: Vec<Place> = rest.iter().map(place).collect();
                check(&world, &rest, &places[..=i], |_| true, id);
            }
        }
    }
}

#[tokio::test]
async fn broken_streams_and_new_leaders_lose_and_repeat_nothing() {
    let (world, client) = cluster().await;
    write(&client, "r", 0..40).await;
    memory(&world, 300, 5);
    let (mut n, hooked) = (0u64, world.clone());
    world.hook(move |_, r| {
        n += 1;
        if n % 3 == 0 {
            hooked.state.lock().unwrap().leaders.insert(r.shard, 1 + n % 2);
        }
        match n % 7 {
            2 => Action::Break { executed: true },
            5 => Action::Break { executed: false },
            _ => Action::Normal,
        }
    });
    let items = read_all(&client, "r", Keys::All, TailStart::Earliest).await;
    check(&world, &items.iter().map(place).collect::<Vec<_>>(), &[], |_| true, 1);
}

#[tokio::test]
async fn following_goes_on_across_writes_and_a_split() {
    let (world, client) = cluster().await;
    write(&client, "r", 0..10).await;
    memory(&world, 50, 4);
    let options = TailOptions { follow: true, ..Default::default() };
    let mut tail = client.tail("r", options);
    let mut places = Vec::new();
    let total = || world.state.lock().unwrap().logs.values().map(Vec::len).sum::<usize>();
    while places.len() < total() {
        places.push(place(&tail.try_next().await.unwrap().unwrap()));
    }
    world.split("k");
    write(&client, "r", 10..20).await;
    while places.len() < total() {
        places.push(place(&tail.try_next().await.unwrap().unwrap()));
    }
    check(&world, &places, &[], |_| true, 1);
    assert!(tokio::time::timeout(Duration::from_millis(300), tail.next()).await.is_err());
    let token = tail.token().unwrap();
    write(&client, "r", 20..22).await;
    let rest = read_all(&client, "r", Keys::All, TailStart::Token(token)).await;
    check(&world, &rest.iter().map(place).collect::<Vec<_>>(), &places, |_| true, 1);
}

#[tokio::test]
async fn latest_begins_with_what_comes() {
    let (world, client) = cluster().await;
    write(&client, "h", 0..10).await;
    assert!(read_all(&client, "h", Keys::All, TailStart::Latest).await.is_empty());
    let mut tail = client.tail("h", TailOptions { start: TailStart::Latest, follow: true, ..Default::default() });
    assert!(tokio::time::timeout(Duration::from_millis(100), tail.next()).await.is_err());
    let before: usize = world.state.lock().unwrap().logs.values().map(Vec::len).sum();
    write(&client, "h", 10..20).await;
    let after: usize = world.state.lock().unwrap().logs.values().map(Vec::len).sum();
    for _ in before..after {
        let item = tail.try_next().await.unwrap().unwrap();
        let text = String::from_utf8(item.record.value.to_vec()).unwrap();
        assert!(text.split_once('.').unwrap().0.parse::<usize>().unwrap() >= 10);
    }
}

#[tokio::test]
async fn what_was_trimmed_is_passed_over_and_named_once() {
    let (world, client) = cluster().await;
    write(&client, "r", 0..10).await;
    let seen = read_all(&client, "r", Keys::All, TailStart::Earliest).await;
    let start = TailStart::Token(seen.last().unwrap().token());
    write(&client, "r", 10..30).await;
    // Whoever asks to be told is told of a trim: nothing but the flag goes past that.
    world.hook(|_, request| {
        let tells = match &request.body {
            Some(Ask::Tail(poll)) => poll.tell_trimmed && poll.segments.iter().any(|s| s.after_ts_us > 0),
            Some(Ask::Scan(scan)) => scan.tell_trimmed && scan.after_ts_us > 0,
            _ => false,
        };
        let trimmed = || error(Kind::Trimmed(v1::Trimmed { first: 7, key: "gone".into() }));
        if tells { Action::Answer(Box::new(trimmed())) } else { Action::Normal }
    });
    let newest = world.state.lock().unwrap().ts_us;
    for (after_us, page) in [(0, 3), (newest, 3), (newest - 5, 1000)] {
        memory(&world, after_us, page);
        let options = TailOptions { start: start.clone(), ..Default::default() };
        let told = client.tail("r", options.clone()).try_next().await.unwrap_err();
        assert_eq!(told, Error::Trimmed { key: "gone".into(), first: 7 });
        assert_eq!(told.to_string(), "records of key \"gone\" before offset 7 were trimmed");
        let mut tail = client.tail("r", TailOptions { skip_trimmed: true, ..options });
        let mut items = Vec::new();
        while let Some(item) = tail.try_next().await.unwrap() {
            items.push(place(&item));
        }
        check(&world, &items, &seen.iter().map(place).collect::<Vec<_>>(), |_| true, 1);
        assert_eq!(tail.passed_over(), [PassedOver { key: "gone".into(), first: 7 }]);
    }
}

#[tokio::test]
async fn tokens_of_something_else_are_refused() {
    let (_world, client) = cluster().await;
    write(&client, "r", 0..3).await;
    let part = read_all(&client, "r", Keys::Prefix("a".into()), TailStart::Earliest).await;
    let token = part[0].token();
    for table in ["h", "r"] {
        let options = TailOptions { start: TailStart::Token(token.clone()), ..Default::default() };
        let error = client.tail(table, options).try_next().await.unwrap_err();
        assert!(error.to_string().contains("invalid token"), "{error}");
    }
}

#[tokio::test]
async fn a_tail_that_does_not_follow_ends_however_much_is_written_meanwhile() {
    let (world, client) = cluster().await;
    write(&client, "r", 0..10).await;
    // A page is one record: writers that are faster than that are never caught up with.
    memory(&world, 0, 1);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for i in 10.. {
                    write(&client, "r", i..i + 1).await;
                }
            })
        })
        .collect();
    let written: usize = 10 * 4;
    let read = read_all(&client, "r", Keys::All, TailStart::Earliest);
    let items = tokio::time::timeout(Duration::from_secs(10), read).await.expect("it ends");
    assert!(items.len() >= written);
    // The same for one that begins at a token.
    let start = TailStart::Token(items[7].token());
    let read = read_all(&client, "r", Keys::All, start);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("it ends");
    writers.iter().for_each(|writer| writer.abort());
}
