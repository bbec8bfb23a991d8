//! One node lacks much, one never returns, and all were killed at once: the majority that is left recovers by itself.
//!
//! Owns: the claim that a majority with all data makes progress, whatever lags in it. Must never: bring the missing node back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use synod_client::{Expect, NewRecord, Retention, TableSpec};
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::load::Load;

const CALLS: Duration = Duration::from_secs(60);
const TABLE: &str = "bulk";
/// More slots than a candidate fetches of what is known chosen, and more bytes than wait for a peer's socket.
const RECORDS: u64 = 4_600;
const RECORD: usize = 16 << 10;
/// What an election and a hundred messages may take, beside other work.
const RESUME: Duration = Duration::from_secs(20);

#[test]
fn a_majority_with_all_data_goes_on_though_one_lags_far_and_one_never_returns() {
    let _alone = alone();
    // Nothing is flushed meanwhile: what is flushed is known chosen.
    let mut cluster = Cluster::start_with("[storage]\nstate_memory = \"256 MiB\"\n");
    let load = Load::start(&cluster, 0, CALLS);
    let (client, runtime) = load.client();
    let append = |n: u64| {
        let value: Vec<u8> = (0..RECORD as u64).map(|i| ((i * 31 + n * 17) % 251) as u8).collect();
        let record = NewRecord::new(Bytes::from(value));
        runtime.block_on(client.append(TABLE, format!("k{}", n % 50), vec![record], Expect::Any))
    };
    runtime.block_on(client.create_table(TableSpec::hash(TABLE, 1, Retention::All))).expect("a table can be created");
    append(0).expect("all are there");
    let status = cluster.wait_up();
    let complete = cluster.leader(&status, TABLE, 0);
    let others: Vec<u16> = (1..=3).filter(|number| *number != complete).collect();
    let (lagging, gone) = (others[0], others[1]);
    cluster.kill(lagging);
    let began = Instant::now();
    for n in 1..=RECORDS {
        append(n).expect("a majority is there");
    }
    println!("{RECORDS} records of {RECORD} bytes in {:.2?}", began.elapsed());
    cluster.signal(complete, Signal::SIGKILL);
    cluster.signal(gone, Signal::SIGKILL);
    cluster.kill(complete);
    cluster.kill(gone);
    let back = Instant::now();
    cluster.restart(complete);
    cluster.restart(lagging);
    append(RECORDS + 1).expect("a majority with all data is there");
    let took = back.elapsed();
    println!("the first write was acknowledged {took:.2?} after two of three were started again");
    assert!(took < RESUME, "it took {took:?}");
    let goal = cluster.wait_status("the shards are led", |status| status.is_led());
    let caught_up = synod_tests::run::until(PATIENCE, "the node that lagged has caught up", || {
        let status = cluster.status()?;
        cluster.is_caught_up(lagging, &goal, &status).then_some(())
    });
    caught_up.unwrap_or_else(|why| panic!("{why}"));
    let held = (0..50).map(|key| {
        let newest = cluster.json(&["get", TABLE, &format!("k{key}")]);
        newest["offset"].as_u64().expect("a record has an offset") + 1
    });
    assert_eq!(held.sum::<u64>(), RECORDS + 2, "nothing acknowledged is lost or doubled");
}
