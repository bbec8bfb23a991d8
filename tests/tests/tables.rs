//! Tables as several clients see them.
//!
//! Owns: the claim that a table is there for every client once its creation was answered. Must never: wait for maps to
//! spread.

use synod_client::{Client, GetOptions, Options, Retention, TableSpec};
use synod_tests::alone;
use synod_tests::cluster::Cluster;

#[test]
fn a_table_is_there_for_every_client_once_its_creation_was_answered() {
    let _turn = alone();
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut clients = Vec::new();
        for number in 1..=3 {
            clients.push(Client::connect([cluster.addr(number)], Options::default()).await.unwrap());
        }
        for round in 0..60 {
            let table = format!("t{round}");
            let spec = TableSpec::hash(&table, 1, Retention::Latest);
            clients[round % 3].create_table(spec).await.unwrap();
            for client in &clients {
                let got = client.get(&table, "k", GetOptions::default()).await;
                assert_eq!(got.unwrap_or_else(|error| panic!("round {round}: {error}")), None);
            }
        }
    });
}

#[test]
fn the_replicas_of_a_table_change_from_the_fifth_cluster_version_on() {
    let _turn = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash"]).ok();
    let words = ["the cluster is at version", "this needs 5", "synod cluster upgrade"];
    for more in [&[][..], &["--dry-run"], &["--detach"]] {
        let line: Vec<&str> = ["table", "alter", "t", "--replicas", "2"].iter().chain(more).copied().collect();
        cluster.cli(&line).refused(1, &words);
    }
    assert_eq!(cluster.json(&["table", "describe", "t"])["replicas"], 3);
}
