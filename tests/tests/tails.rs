//! Tails that wait for news: they have places of their own, and keep nobody from writing.
//!
//! Owns: the claims about `limits.node_tails_max` and about what idle tails cost others. Must never: use the client library for
//! what is tested here.

use std::time::{Duration, Instant};
use synod_proto::v1::synod_client::SynodClient;
use synod_proto::v1::{self, shard_reply, shard_request, write_op};
use synod_tests::alone;
use synod_tests::cluster::Cluster;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// A stream to a node, and the shard that is asked.
struct Stream {
    frames: mpsc::Sender<v1::ClientFrame>,
    replies: Streaming<v1::ServerFrame>,
    shard: v1::Shard,
    last: u64,
}

impl Stream {
    async fn open(client: &mut SynodClient<Channel>) -> Stream {
        let mut maps = client.watch_map(v1::WatchMapRequest::default()).await.unwrap().into_inner();
        let map = maps.message().await.unwrap().unwrap();
        let table = map.tables.iter().find(|table| table.name == "t").unwrap().id;
        let shard = map.shards.into_iter().find(|shard| shard.table_id == table).unwrap();
        let (frames, sent) = mpsc::channel(16);
        let replies = client.session(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Stream { frames, replies, shard, last: 0 }
    }

    async fn send(&mut self, bodies: Vec<shard_request::Body>) {
        let (shard, version) = (self.shard.id, self.shard.version);
        let requests = bodies.into_iter().map(|body| {
            self.last += 1;
            v1::ShardRequest { id: self.last, shard, version, body: Some(body) }
        });
        let frame = v1::ClientFrame { requests: requests.collect() };
        self.frames.send(frame).await.unwrap();
    }

    /// The answers that come until there was none for `quiet`.
    async fn answers(&mut self, quiet: Duration) -> Vec<v1::ShardReply> {
        let mut all = vec![];
        while let Ok(frame) = tokio::time::timeout(quiet, self.replies.message()).await {
            all.extend(frame.unwrap().expect("the stream is open").replies);
        }
        all
    }

    fn idle_tail(&self) -> shard_request::Body {
        let segment = v1::TailSegment { after_ts_us: u64::MAX - 1, ..v1::TailSegment::default() };
        let table_id = self.shard.table_id;
        shard_request::Body::Tail(v1::TailPoll {
            table_id,
            segments: vec![segment],
            wait_ms: 30_000,
            ..v1::TailPoll::default()
        })
    }

    fn put(&self, seq: u64) -> shard_request::Body {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let deadline_us = now.as_micros() as u64 + 60_000_000;
        let id = v1::WriteId { client: vec![3; 16].into(), seq, floor: seq, deadline_us };
        let record = v1::AppendRecord { headers: vec![], value: "v".into() };
        let op = write_op::Op::Append(v1::Append { records: vec![record] });
        let ops = vec![v1::WriteOp { key: "k".into(), expect: None, op: Some(op) }];
        shard_request::Body::Write(v1::Write { table_id: self.shard.table_id, ops, id: Some(id) })
    }
}

#[test]
fn idle_tails_wait_in_places_of_their_own_and_one_too_many_is_refused_by_name() {
    let _turn = alone();
    let cluster = Cluster::start_with("[limits]\nnode_requests_max = 64\nnode_tails_max = 300\n");
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "1", "--retain", "all"]).ok();
    let status = cluster.wait_up();
    let leader = cluster.leader(&status, "t", 0);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = Endpoint::from_shared(format!("http://{}", cluster.addr(leader))).unwrap();
        let mut client = SynodClient::new(node.connect().await.unwrap());
        let mut stream = Stream::open(&mut client).await;
        for _ in 0..3 {
            let tails = (0..100).map(|_| stream.idle_tail()).collect();
            stream.send(tails).await;
        }
        let early = stream.answers(Duration::from_millis(500)).await;
        assert!(early.is_empty(), "idle tails are answered: {early:?}");
        let began = Instant::now();
        for seq in 1..=50 {
            let put = stream.put(seq);
            stream.send(vec![put]).await;
            let answers = stream.answers(Duration::from_millis(20)).await;
            for answer in answers {
                assert!(matches!(answer.body, Some(shard_reply::Body::Write(_))), "beside idle tails: {answer:?}");
            }
        }
        assert!(began.elapsed() < Duration::from_secs(20));
        let one_more = stream.idle_tail();
        stream.send(vec![one_more]).await;
        let refused = stream.answers(Duration::from_millis(500)).await;
        let [v1::ShardReply { body: Some(shard_reply::Body::Error(error)), .. }] = &refused[..] else {
            panic!("{refused:?}")
        };
        assert!(error.retryable && error.message.contains("300 tails wait on this node"), "{error:?}");
        assert!(error.message.contains("limits.node_tails_max"), "{error:?}");
        // Others write through the library meanwhile.
        cluster.cli(&["append", "t", "other", "v"]).ok();
    });
}
