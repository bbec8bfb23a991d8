//! Two clusters that could be taken for each other: made anew on the same ports, named in one list, followed by a stray node.
//!
//! Owns: the claim that no cluster's word is taken for another's. Must never: let the two share a data directory.

use std::fs;
use std::time::Duration;

use synod_client::{Client, Error, Expect, NewRecord, Options};
use synod_cluster::ids::{ClientId, ClientSeq};
use synod_cluster::system::SystemCommand;
use synod_engine::command::{Op, WriteId, WriteRequest, encode_requests};
use synod_proto::peer::SystemProposal;
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::v1;
use synod_proto::v1::synod_client::SynodClient;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::run::until;

fn id(cluster: &Cluster) -> String {
    cluster.wait_up().value["cluster"].as_str().expect("clusters have names").to_owned()
}

fn create(cluster: &Cluster, table: &str) {
    cluster.cli(&["table", "create", table, "--partition", "hash", "--shards", "4", "--retain", "all"]).ok();
}

/// The founders' data goes, and others found a cluster in their place.
fn found_anew(cluster: &mut Cluster) {
    (1..=3).for_each(|node| cluster.kill(node));
    for node in 1..=3 {
        let data = cluster.data_dir(node);
        fs::rename(&data, data.with_extension("before")).expect("the data can be moved");
    }
    (1..=3).for_each(|node| cluster.restart(node));
}

#[test]
fn a_client_of_a_cluster_that_was_made_anew_on_the_same_ports_writes_nothing_to_the_other() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    create(&cluster, "t");
    let first = id(&cluster);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = Options { call_timeout: Duration::from_secs(3), ..Options::default() };
    let client = runtime.block_on(Client::connect(cluster.endpoints(), options)).expect("it can be reached");
    let append =
        |key: &str| runtime.block_on(client.append("t", key.to_owned(), vec![NewRecord::new("v")], Expect::Any));
    for n in 0..20 {
        append(&format!("k{n}")).expect("its own cluster takes it");
    }

    found_anew(&mut cluster);
    let second = id(&cluster);
    assert_ne!(first, second);
    create(&cluster, "t");
    cluster.wait_up();
    for n in 0..6 {
        let error = append(&format!("new{n}")).expect_err("another cluster took it");
        println!("{error}");
        assert!(matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("another cluster") && text.contains(&first) && text.contains(&second), "{text}");
    }
    let dropped = runtime.block_on(client.drop_table("t")).expect_err("another cluster dropped its table");
    assert!(dropped.to_string().contains("another cluster"), "{dropped}");
    let left = runtime.block_on(client.status());
    assert!(left.iter().all(|node| node.status.is_err()), "another cluster's nodes count as none: {left:?}");
    let records = cluster.cli(&["-o", "json", "scan", "t"]).ok().json_lines();
    assert!(records.is_empty(), "the other cluster has {records:?}");
}

#[test]
fn a_node_does_not_follow_another_clusters_map() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.add_joiner(4);
    cluster.wait_up();
    create(&cluster, "t");
    let first = id(&cluster);
    let own = cluster.addr(4);
    let held = |cluster: &Cluster| {
        let ran = cluster.cli(&["-o", "json", "--timeout", "3s", "--endpoints", &own, "status"]);
        let status = ran.json();
        let nodes = status["nodes"].as_array().expect("nodes").clone();
        let replicas = nodes.iter().find(|node| node["addr"] == own.as_str()).map(|node| node["replicas"].clone());
        (status["cluster"].as_str().expect("clusters have names").to_owned(), replicas)
    };
    let before = held(&cluster);
    assert_eq!(before.0, first);

    // Another one where the members of its system shard were, further on in its history.
    found_anew(&mut cluster);
    let others: Vec<String> = (1..=3).map(|node| cluster.addr(node)).collect();
    let others = others.join(",");
    let on = |args: &[&str]| cluster.cli(&[&["--endpoints", &others], args].concat());
    until(PATIENCE, "the other cluster is there", || (on(&["table", "list"]).code == 0).then_some(())).unwrap();
    for n in 0..20 {
        on(&["table", "create", &format!("other{n}"), "--partition", "hash", "--shards", "1"]).ok();
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(held(&cluster), before, "what it holds is its own cluster's");
    assert!(cluster.log(4).contains("another cluster"), "it says why nobody gives it a map");
}

#[test]
fn endpoints_of_two_clusters_in_one_list_are_refused_by_name() {
    let _alone = alone();
    let (mut one, mut two) = (Cluster::empty(1), Cluster::empty(1));
    one.add_founder(1);
    two.add_founder(1);
    let (first, second) = (id(&one), id(&two));
    for list in [[one.addr(1), two.addr(1)], [two.addr(1), one.addr(1)]] {
        for _ in 0..5 {
            let ran = one.cli(&["--endpoints", &list.join(","), "table", "list"]);
            println!("{}", ran.refused(2, &[&one.addr(1), &two.addr(1), &first, &second]));
        }
    }
    // A node that is not there is no node of another cluster.
    one.cli(&["--endpoints", &format!("{},127.0.0.1:1", one.addr(1)), "table", "list"]).ok();
}

fn append_of_one(table: &str) -> v1::WriteCall {
    let records = vec![v1::AppendRecord { headers: vec![], value: "v".into() }];
    let op = v1::write_op::Op::Append(v1::Append { records });
    let op = v1::WriteOp { key: "k".into(), expect: None, op: Some(op) };
    v1::WriteCall { table: table.into(), ops: vec![op], id: None, timeout_ms: 3000 }
}

fn drop_command(table: &str) -> bytes::Bytes {
    let deadline_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    let id =
        WriteId { client: ClientId(7), seq: ClientSeq(1), floor: ClientSeq(0), deadline_us: deadline_us + 60_000_000 };
    let command = SystemCommand::DropTable { name: table.into() }.encode();
    let request = WriteRequest { id, op: Op::System(command) };
    encode_requests([&request].into_iter(), 0)
}

#[test]
fn a_plain_call_and_a_proposal_that_name_another_cluster_are_refused() {
    let _alone = alone();
    let mut cluster = Cluster::empty(1);
    cluster.add_founder(1);
    let own = id(&cluster);
    let other = "0".repeat(31) + "7";
    create(&cluster, "t");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.addr(1))).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = endpoint.connect().await.unwrap();
        for (named, taken) in [(None, true), (Some(&own), true), (Some(&other), false)] {
            let mut request = tonic::Request::new(append_of_one("t"));
            if let Some(named) = named {
                request.metadata_mut().insert(synod_proto::CLUSTER, named.parse().unwrap());
            }
            let answer = SynodClient::new(channel.clone()).write(request).await;
            match answer {
                Ok(_) => assert!(taken, "a call for another cluster was carried out"),
                Err(status) => {
                    assert!(!taken && status.code() == tonic::Code::FailedPrecondition, "{status}");
                    let said = status.message();
                    assert!(said.contains("another cluster") && said.contains(&own) && said.contains(&other), "{said}");
                }
            }
        }
        let propose = |cluster: u128| {
            let cluster = bytes::Bytes::copy_from_slice(&cluster.to_be_bytes());
            let command = drop_command("t");
            let proposal = SystemProposal { command, timeout_ms: 3000, cluster, ..SystemProposal::default() };
            let channel = channel.clone();
            async move { PeerClient::new(channel).propose(proposal).await }
        };
        let refused = propose(7).await.expect_err("a table of another cluster was dropped");
        assert!(refused.message().contains("another cluster"), "{refused}");
    });
    assert_eq!(cluster.cli(&["-o", "json", "read", "t", "k"]).ok().json_lines().len(), 2);
}
