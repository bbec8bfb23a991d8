//! Sixteen conditional writers on one key: exactly one wins each offset.
//!
//! Owns: the claim that `--expect OFFSET` is a compare-and-set. Must never: count a win that is not in the log read back.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use synod_client::{Client, Error, Expect, NewRecord, Options};
use synod_tests::alone;
use synod_tests::cluster::Cluster;
use synod_tests::run::Ran;

const WRITERS: usize = 16;
const OFFSETS: u64 = 2_000;

#[test]
fn exactly_one_of_sixteen_command_lines_wins_each_offset() {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "4", "--retain", "all"]).ok();
    let mut winners = Vec::new();
    for offset in 0..6u64 {
        let expect = offset.to_string();
        let json = offset % 2 == 0;
        let start = |writer: usize| {
            let value = format!("{writer}");
            let mut args = vec!["append", "t", "key", &value, "--expect", &expect];
            args.extend(["-o", "json"].iter().filter(|_| json));
            let mut command = cluster.command(&args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
        };
        let children: Vec<_> = (0..WRITERS).map(start).collect();
        let ran: Vec<Ran> =
            children.into_iter().map(|child| child.wait_with_output().expect("it ends").into()).collect();
        let (won, lost): (Vec<_>, Vec<_>) = ran.iter().enumerate().partition(|(_, ran)| ran.code == 0);
        assert_eq!(won.len(), 1, "offset {offset} has one winner: {ran:?}");
        winners.push(won[0].0.to_string());
        let next = (offset + 1).to_string();
        for (_, ran) in lost {
            assert_eq!(ran.code, 3, "{ran:?}");
            if json {
                let error = ran.error();
                assert_eq!((&error["error"], &error["actual"]), (&"expectation_failed".into(), &(offset + 1).into()));
            } else {
                ran.refused(3, &["expectation failed", &next]);
            }
        }
    }
    let read = cluster.cli(&["-o", "json", "read", "t", "key"]).ok().json_lines();
    let stored: Vec<&str> = read.iter().filter_map(|record| record["value"].as_str()).collect();
    assert_eq!(stored, winners);
    // The other conditions.
    cluster.cli(&["put", "t", "key", "x", "--expect", "absent"]).refused(3, &["next offset is 6"]);
    cluster.cli(&["put", "t", "other", "x", "--expect", "exists"]).refused(3, &["next offset is 0"]);
    cluster.cli(&["delete", "t", "key", "--expect", "5"]).refused(3, &["next offset is 6"]);
    cluster.cli(&["delete", "t", "key", "--expect", "6"]).ok();
    cluster.cli(&["put", "t", "key", "x", "--expect", "absent"]).ok();
    assert_eq!(cluster.json(&["get", "t", "key"])["offset"], 7);
}

#[test]
fn exactly_one_of_sixteen_clients_wins_each_of_many_offsets() {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--retain", "all"]).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wins: Arc<Mutex<BTreeMap<u64, Vec<String>>>> = Arc::default();
    let began = Instant::now();
    let lost = runtime.block_on(async {
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            // Each a client of its own, as processes are.
            let client = Client::connect(cluster.endpoints(), Options::default()).await.unwrap();
            tasks.push(tokio::spawn(compete(client, writer, Arc::clone(&wins))));
        }
        let mut lost = 0;
        for task in tasks {
            lost += task.await.unwrap();
        }
        lost
    });
    let wins = std::mem::take(&mut *wins.lock().unwrap());
    println!("{} offsets won, {lost} attempts lost, in {:.1?}", wins.len(), began.elapsed());
    assert!(wins.keys().copied().eq(0..wins.len() as u64), "every offset was won: 0, 1, 2, …");
    assert!(wins.len() as u64 >= OFFSETS);
    assert!(lost > OFFSETS, "there was a contest: {lost} losses");
    let read = cluster.cli(&["-o", "json", "read", "t", "key"]).ok().json_lines();
    let stored: BTreeMap<u64, Vec<String>> =
        read.iter().map(|r| (r["offset"].as_u64().unwrap(), vec![r["value"].as_str().unwrap().to_owned()])).collect();
    assert_eq!(stored, wins, "each offset has one winner, and its record is the one stored");
}

/// Goes for each offset until all are given away; returns how often it lost.
async fn compete(client: Client, writer: usize, wins: Arc<Mutex<BTreeMap<u64, Vec<String>>>>) -> u64 {
    let (mut next, mut lost) = (0, 0);
    while next < OFFSETS {
        let value = format!("{writer} at {next}");
        let records = vec![NewRecord::new(value.clone())];
        match client.append("t", "key", records, Expect::NextOffset(next)).await {
            Ok(written) => {
                assert_eq!(written.offset, next, "a win is at the offset asked for");
                wins.lock().unwrap().entry(next).or_default().push(value);
                next += 1;
            }
            Err(Error::ExpectationFailed { actual, .. }) => {
                assert!(actual > next, "the actual offset {actual} is past the one lost, {next}");
                lost += 1;
                next = actual;
            }
            Err(error) => panic!("{error}"),
        }
    }
    lost
}
