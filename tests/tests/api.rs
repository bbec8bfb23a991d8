//! The unary calls, as any gRPC client makes them.
//!
//! Owns: the claim that every node answers them and that a write named by its caller executes once. Must never: use the
//! client library for what is tested here.

use synod_proto::v1::synod_client::SynodClient;
use synod_proto::v1::{self, write_op};
use synod_tests::alone;
use synod_tests::cluster::Cluster;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

async fn node(cluster: &Cluster, number: u16) -> SynodClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.addr(number))).unwrap();
    SynodClient::new(endpoint.connect().await.unwrap())
}

fn put(key: &str, value: &str, id: Option<v1::WriteId>) -> v1::WriteCall {
    let record = v1::AppendRecord { headers: vec![], value: value.to_owned().into() };
    let op = write_op::Op::Append(v1::Append { records: vec![record] });
    let op = v1::WriteOp { key: key.to_owned().into(), expect: None, op: Some(op) };
    v1::WriteCall { table: "t".into(), ops: vec![op], id, timeout_ms: 20_000 }
}

fn id(seq: u64, ahead_s: u64) -> v1::WriteId {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let deadline_us = now.as_micros() as u64 + ahead_s * 1_000_000;
    v1::WriteId { client: vec![7; 16].into(), seq, floor: seq, deadline_us }
}

async fn offset(node: &mut SynodClient<Channel>, call: v1::WriteCall) -> Result<u64, Status> {
    let reply = node.write(call).await?.into_inner();
    Ok(reply.result.unwrap().results[0].offset)
}

#[test]
fn a_unary_write_named_by_its_caller_executes_once_through_any_node() {
    let _turn = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "2", "--retain", "all"]).ok();
    tokio::runtime::Runtime::new().unwrap().block_on(named_writes(&mut cluster));
}

async fn named_writes(cluster: &mut Cluster) {
    let mut first = node(cluster, 1).await;
    let mut second = node(cluster, 2).await;
    // Without a name each call is a write of its own.
    assert_eq!(offset(&mut first, put("k", "a", None)).await.unwrap(), 0);
    assert_eq!(offset(&mut second, put("k", "a", None)).await.unwrap(), 1);
    let named = put("k", "b", Some(id(1, 300)));
    assert_eq!(offset(&mut first, named.clone()).await.unwrap(), 2);
    assert_eq!(offset(&mut second, named.clone()).await.unwrap(), 2);
    // Nor does another leader execute it again.
    cluster.kill(1);
    for _ in 0..3 {
        assert_eq!(offset(&mut second, named.clone()).await.unwrap(), 2);
    }
    assert_eq!(offset(&mut second, put("k", "c", Some(id(2, 300)))).await.unwrap(), 3);
    let got = second.get(v1::GetCall { table: "t".into(), key: "k".into(), ..v1::GetCall::default() }).await.unwrap();
    assert_eq!(got.into_inner().result.unwrap().next_offset, 4);
    // Names that cannot be.
    let short = v1::WriteId { client: vec![7; 3].into(), ..id(3, 300) };
    let above = v1::WriteId { floor: 9, ..id(3, 300) };
    for (bad, what) in [(short, "id.client"), (above, "floor"), (id(3, 3600), "id.deadline_us")] {
        let status = offset(&mut second, put("k", "d", Some(bad))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(what), "{status:?}");
    }
}
