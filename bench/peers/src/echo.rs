//! What gRPC itself costs: the same messages and library as Synod's, answered at once.
//!
//! Owns: an echoing server and its client, each with a thread of its own. Must never: be taken for Synod: nothing is kept.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Serialize;
use synod_proto::v1;
use synod_proto::v1::synod_client::SynodClient;
use synod_proto::v1::synod_server::{Synod, SynodServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Bytes of a request's value.
const VALUE: usize = 128;

/// One way of calling, at one number of requests under way.
#[derive(Clone, Debug, Serialize)]
pub struct Echo {
    /// `unary`, or `stream`: one stream for all requests.
    pub kind: &'static str,
    /// Messages under way.
    pub in_flight: usize,
    /// Operations a message.
    pub ops_per_message: usize,
    /// Operations a second.
    pub ops_per_s: f64,
}

/// All ways.
///
/// # Errors
/// The server cannot listen, or a call fails.
pub fn all(time: Duration) -> Result<Vec<Echo>, String> {
    let server = runtime("echo-server")?;
    let addr = server.block_on(serve())?;
    let client = runtime("echo-client")?;
    let mut found = Vec::new();
    for in_flight in [1, 64, 256] {
        found.push(client.block_on(unary(addr, in_flight, time))?);
    }
    for (in_flight, ops) in [(1, 1), (64, 1), (64, 16), (64, 64)] {
        found.push(client.block_on(stream(addr, in_flight, ops, time))?);
    }
    client.shutdown_background();
    server.shutdown_background();
    Ok(found)
}

fn runtime(name: &str) -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
    runtime.map_err(|error| error.to_string())
}

async fn serve() -> Result<SocketAddr, String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    let addr = listener.local_addr().map_err(|e| e.to_string())?;
    let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(SynodServer::new(Echoing));
    // It ends with its runtime.
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(addr)
}

async fn connect(addr: SocketAddr) -> Result<SynodClient<tonic::transport::Channel>, String> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}")).map_err(|e| e.to_string())?;
    let channel = endpoint.tcp_nodelay(true).connect().await.map_err(|e| e.to_string())?;
    Ok(SynodClient::new(channel))
}

/// The write that every request carries.
fn write() -> v1::WriteOp {
    let value = Bytes::from(vec![7; VALUE]);
    let append = v1::Append { records: vec![v1::AppendRecord { value, ..v1::AppendRecord::default() }] };
    let key = Bytes::from_static(b"key-0000000001");
    v1::WriteOp { key, op: Some(v1::write_op::Op::Append(append)), ..v1::WriteOp::default() }
}

async fn unary(addr: SocketAddr, in_flight: usize, time: Duration) -> Result<Echo, String> {
    let client = connect(addr).await?;
    let started = Instant::now();
    let caller = |_| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut done = 0u64;
            while started.elapsed() < time {
                let call = v1::WriteCall { table: "bench".into(), ops: vec![write()], ..v1::WriteCall::default() };
                client.write(call).await.map_err(|status| status.to_string())?;
                done += 1;
            }
            Ok::<u64, String>(done)
        })
    };
    let callers: Vec<_> = (0..in_flight).map(caller).collect();
    let mut done = 0;
    for caller in callers {
        done += caller.await.map_err(|e| e.to_string())??;
    }
    Ok(Echo { kind: "unary", in_flight, ops_per_message: 1, ops_per_s: done as f64 / started.elapsed().as_secs_f64() })
}

async fn stream(addr: SocketAddr, in_flight: usize, ops: usize, time: Duration) -> Result<Echo, String> {
    let mut client = connect(addr).await?;
    let (frames, rx) = mpsc::channel::<v1::ClientFrame>(in_flight);
    let frame = || {
        let request = |id| {
            let write = v1::Write { table_id: 1, ops: vec![write()], ..v1::Write::default() };
            v1::ShardRequest { id, shard: 1, version: 1, body: Some(v1::shard_request::Body::Write(write)) }
        };
        v1::ClientFrame { requests: (0..ops as u64).map(request).collect() }
    };
    for _ in 0..in_flight {
        frames.send(frame()).await.map_err(|e| e.to_string())?;
    }
    let replies = client.session(ReceiverStream::new(rx)).await.map_err(|status| status.to_string())?;
    let mut replies = replies.into_inner();
    let (started, mut done) = (Instant::now(), 0u64);
    while started.elapsed() < time {
        let Some(reply) = replies.next().await else { return Err("the stream ended".into()) };
        done += reply.map_err(|status| status.to_string())?.replies.len() as u64;
        frames.send(frame()).await.map_err(|e| e.to_string())?;
    }
    let ops_per_s = done as f64 / started.elapsed().as_secs_f64();
    Ok(Echo { kind: "stream", in_flight, ops_per_message: ops, ops_per_s })
}

/// Answers writes at once, and nothing else.
struct Echoing;

type Pages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Synod for Echoing {
    type ReadStream = Pages<v1::RecordPage>;
    type ScanStream = Pages<v1::RecordPage>;
    type TailStream = Pages<v1::TailPage>;
    type SessionStream = Pages<v1::ServerFrame>;
    type WatchMapStream = Pages<v1::ShardMap>;

    async fn write(&self, _: Request<v1::WriteCall>) -> Result<Response<v1::WriteReply>, Status> {
        Ok(Response::new(v1::WriteReply::default()))
    }

    async fn session(
        &self,
        frames: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let answer = |frame: Result<v1::ClientFrame, Status>| {
            let reply = |request: v1::ShardRequest| v1::ShardReply {
                id: request.id,
                body: Some(v1::shard_reply::Body::Write(v1::WriteResult {
                    results: vec![v1::OpResult { offset: 1, ts_us: 1 }],
                    failed: None,
                })),
            };
            frame.map(|frame| v1::ServerFrame { replies: frame.requests.into_iter().map(reply).collect() })
        };
        Ok(Response::new(Box::pin(frames.into_inner().map(answer))))
    }

    async fn get(&self, _: Request<v1::GetCall>) -> Result<Response<v1::GetReply>, Status> {
        Err(Status::unimplemented("this only echoes writes"))
    }

    async fn read(&self, _: Request<v1::ReadCall>) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("this only echoes writes"))
    }

    async fn scan(&self, _: Request<v1::ScanCall>) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("this only echoes writes"))
    }

    async fn tail(&self, _: Request<v1::TailCall>) -> Result<Response<Self::TailStream>, Status> {
        Err(Status::unimplemented("this only echoes writes"))
    }

    async fn watch_map(&self, _: Request<v1::WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        Err(Status::unimplemented("this only echoes writes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_answered() {
        let found = all(Duration::from_millis(30)).unwrap();
        assert_eq!(found.len(), 7);
        assert!(found.iter().all(|echo| echo.ops_per_s > 0.0), "{found:?}");
    }
}
