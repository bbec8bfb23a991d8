//! The `Synod` service: sessions, the map, and the unary calls that any node forwards.
//!
//! Owns: nothing but the way in. Must never: answer a unary call from its own state: it goes the same way as any client's.

use super::admission::AdmissionQueues;
use super::{client_status, cluster, convert, session};
use crate::config::Limits;
use crate::node::map::MapCache;
use crate::node::map_stream;
use crate::node::peer::Peers;
use crate::node::status::status;
use crate::node::whereabouts::Whereabouts;
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use synod_client::{
    At, Client, Consistency, Expect, GetOptions, Header, Keys, NewRecord, OpKind, Record, ScanOptions, TailOptions,
    TailStart, WriteName, WriteOp,
};
use synod_engine::memory::Memory;
use synod_engine::runner::WorkerHandle;
use synod_proto::v1;
use synod_proto::v1::synod_server::Synod;
use tonic::{Request, Response, Status, Streaming};

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Records a page of a unary stream.
const PAGE: usize = 500;

/// What the service needs once the node is up.
pub struct Running {
    /// The node's cluster.
    pub cluster: u128,
    /// The engine.
    pub worker: WorkerHandle,
    /// The way into it.
    pub admissions: Arc<AdmissionQueues>,
    /// The map.
    pub map_cache: Arc<MapCache>,
    /// The peers, and with them the cluster's time.
    pub peers: Arc<Peers>,
    /// Sizes above which a request is refused.
    pub limits: Limits,
    /// What all streams may hold.
    pub memory: Memory,
    /// Where keys are whose shard has other bounds by now.
    pub whereabouts: Arc<Whereabouts>,
    /// This node as a client of its cluster, for unary calls.
    pub gateway: tokio::sync::OnceCell<Client>,
    /// Where the gateway connects.
    pub endpoint: String,
}

impl Running {
    async fn gateway(&self, timeout_ms: u32) -> Result<Client, Status> {
        let cluster = Some(self.cluster.to_be_bytes());
        let options = || synod_client::Options { cluster, ..synod_client::Options::default() };
        let connect = || Client::connect([self.endpoint.clone()], options());
        let client = self.gateway.get_or_try_init(connect).await.map_err(|e| client_status(&e))?;
        Ok(if timeout_ms == 0 { client.clone() } else { client.with_timeout(Duration::from_millis(timeout_ms.into())) })
    }
}

/// The service; answers `Unavailable` until the node is up.
#[derive(Clone, Default)]
pub struct SynodService {
    running: Arc<OnceLock<Running>>,
}

impl SynodService {
    /// The node is up.
    pub fn started(&self, running: Running) {
        // A node comes up once.
        let _ = self.running.set(running);
    }

    fn get(&self) -> Result<&Running, Status> {
        self.running.get().ok_or_else(|| {
            let error = convert::error(v1::error::Kind::Unavailable(v1::Unavailable {}), true, "the node is starting");
            status(&error)
        })
    }
}

#[tonic::async_trait]
impl Synod for SynodService {
    type ReadStream = Boxed<v1::RecordPage>;
    type ScanStream = Boxed<v1::RecordPage>;
    type TailStream = Boxed<v1::TailPage>;
    type SessionStream = Boxed<v1::ServerFrame>;
    type WatchMapStream = Boxed<v1::ShardMap>;

    async fn write(&self, request: Request<v1::WriteCall>) -> Result<Response<v1::WriteReply>, Status> {
        let call = request.into_inner();
        let name = call.id.map(write_name).transpose()?;
        let client = self.get()?.gateway(call.timeout_ms).await?;
        let ops = call.ops.into_iter().map(write_op).collect::<Result<Vec<_>, _>>()?;
        let written = match name {
            None => client.batch(&call.table, ops).await,
            Some(name) => client.batch_as(&call.table, name, ops).await,
        };
        let written = written.map_err(|e| client_status(&e))?;
        let results = written.into_iter().map(|w| v1::OpResult { offset: w.offset, ts_us: w.ts_us }).collect();
        let result = v1::WriteResult { results, failed: None };
        Ok(Response::new(v1::WriteReply { result: Some(result) }))
    }

    async fn get(&self, request: Request<v1::GetCall>) -> Result<Response<v1::GetReply>, Status> {
        let call = request.into_inner();
        let client = self.get()?.gateway(call.timeout_ms).await?;
        let at = match call.at.and_then(|a| a.kind) {
            None => None,
            Some(v1::at::Kind::Offset(offset)) => Some(At::Offset(offset)),
            Some(v1::at::Kind::TsUs(ts)) => Some(At::TsUs(ts)),
        };
        let options = GetOptions { at, consistency: consistency(call.consistency, call.max_age_ms)? };
        let full = client.get_full(&call.table, call.key, options).await.map_err(|e| client_status(&e))?;
        let result = v1::GetResult {
            record: full.record.map(wire_record),
            next_offset: full.next_offset,
            first_offset: full.first_offset,
        };
        Ok(Response::new(v1::GetReply { result: Some(result) }))
    }

    async fn read(&self, request: Request<v1::ReadCall>) -> Result<Response<Self::ReadStream>, Status> {
        let call = request.into_inner();
        let client = self.get()?.gateway(0).await?;
        let limit = (call.limit != 0).then_some(call.limit);
        let consistency = consistency(call.consistency, call.max_age_ms)?;
        let records = client.read(&call.table, call.key, call.from, limit, consistency);
        Ok(Response::new(pages(records)))
    }

    async fn scan(&self, request: Request<v1::ScanCall>) -> Result<Response<Self::ScanStream>, Status> {
        let call = request.into_inner();
        let client = self.get()?.gateway(0).await?;
        let cursor = if call.cursor.is_empty() {
            None
        } else {
            let text = String::from_utf8_lossy(&call.cursor);
            Some(text.parse().map_err(|e| client_status(&e))?)
        };
        let options = ScanOptions {
            keys: keys(call.from, call.to),
            limit: (call.limit != 0).then_some(call.limit),
            reverse: call.reverse,
            keys_only: call.keys_only,
            cursor,
            consistency: consistency(call.consistency, call.max_age_ms)?,
            page_records: 0,
        };
        Ok(Response::new(pages(client.scan(&call.table, options))))
    }

    async fn tail(&self, request: Request<v1::TailCall>) -> Result<Response<Self::TailStream>, Status> {
        let call = request.into_inner();
        let client = self.get()?.gateway(0).await?;
        let start = match call.start.as_str() {
            "" | "earliest" => TailStart::Earliest,
            "latest" => TailStart::Latest,
            token => TailStart::Token(token.parse().map_err(|e| client_status(&e))?),
        };
        let keys = keys(call.from, call.to);
        let (follow, skip_trimmed) = (call.follow, call.skip_trimmed);
        let options = TailOptions { keys, start, follow, page_records: 0, skip_trimmed };
        let stream = client.tail(&call.table, options).map(|item| {
            let item = item.map_err(|e| client_status(&e))?;
            let token = item.token().to_string();
            Ok(v1::TailPage { records: vec![wire_record(item.record)], token })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let running = self.get()?;
        let (worker, admissions, limits) = (running.worker.clone(), running.admissions.clone(), running.limits.clone());
        let (peers, memory) = (running.peers.clone(), running.memory.clone());
        let desk = session::Desk { worker, admissions, limits, peers, whereabouts: running.whereabouts.clone() };
        let replies = session::serve(request.into_inner(), desk, memory);
        let mut answer: Response<Self::SessionStream> = Response::new(Box::pin(replies));
        cluster::stamp(answer.metadata_mut(), running.cluster);
        Ok(answer)
    }

    async fn watch_map(&self, request: Request<v1::WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        let map_cache = self.get()?.map_cache.clone();
        let v1::WatchMapRequest { from_revision, deltas, digest } = request.into_inner();
        let maps: Self::WatchMapStream = if deltas {
            Box::pin(map_stream::deltas(map_cache, from_revision, digest))
        } else {
            Box::pin(map_stream::whole(map_cache, from_revision))
        };
        Ok(Response::new(maps))
    }
}

/// Records of a stream in pages of what is at hand.
fn pages(records: impl Stream<Item = synod_client::Result<Record>> + Send + 'static) -> Boxed<v1::RecordPage> {
    Box::pin(records.ready_chunks(PAGE).map(|chunk| {
        let records = chunk.into_iter().map(|r| r.map(wire_record)).collect::<Result<_, _>>();
        let records = records.map_err(|e| client_status(&e))?;
        Ok(v1::RecordPage { records, ..v1::RecordPage::default() })
    }))
}

fn keys(from: bytes::Bytes, to: bytes::Bytes) -> Keys {
    if from.is_empty() && to.is_empty() { Keys::All } else { Keys::Range { from, to } }
}

fn consistency(wire: i32, max_age_ms: u32) -> Result<Consistency, Status> {
    Ok(match v1::Consistency::try_from(wire).map_err(|e| Status::invalid_argument(format!("consistency: {e}")))? {
        v1::Consistency::Linearizable => Consistency::Linearizable,
        v1::Consistency::Local => Consistency::Local,
        v1::Consistency::Stale => Consistency::Stale(Duration::from_millis(max_age_ms.into())),
    })
}

fn wire_record(record: Record) -> v1::Record {
    let headers = record.headers.into_iter().map(|h| v1::Header { name: h.name, value: h.value }).collect();
    v1::Record {
        key: record.key,
        offset: record.offset,
        ts_us: record.ts_us,
        headers,
        value: record.value,
        tombstone: record.tombstone,
    }
}

fn write_name(id: v1::WriteId) -> Result<WriteName, Status> {
    let client = <[u8; 16]>::try_from(&id.client[..]);
    let client = client.map_err(|_| status(&convert::invalid("id.client", "has 16 bytes")))?;
    Ok(WriteName { client: u128::from_be_bytes(client), seq: id.seq, floor: id.floor, deadline_us: id.deadline_us })
}

fn write_op(op: v1::WriteOp) -> Result<WriteOp, Status> {
    let expect = match op.expect.and_then(|e| e.kind) {
        None => Expect::Any,
        Some(v1::expect::Kind::Absent(_)) => Expect::Absent,
        Some(v1::expect::Kind::Exists(_)) => Expect::Exists,
        Some(v1::expect::Kind::NextOffset(n)) => Expect::NextOffset(n),
    };
    let kind = match op.op {
        None => return Err(status(&convert::invalid("op", "is missing"))),
        Some(v1::write_op::Op::Delete(_)) => OpKind::Delete,
        Some(v1::write_op::Op::Trim(trim)) => OpKind::Trim { before: trim.before },
        Some(v1::write_op::Op::Append(append)) => OpKind::Append(append.records.into_iter().map(new_record).collect()),
    };
    Ok(WriteOp { key: op.key, expect, kind })
}

fn new_record(record: v1::AppendRecord) -> NewRecord {
    let headers = record.headers.into_iter().map(|h| Header { name: h.name, value: h.value }).collect();
    NewRecord { headers, value: record.value }
}
