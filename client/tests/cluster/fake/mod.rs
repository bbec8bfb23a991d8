//! A fake cluster for the client's tests: nodes on real sockets over one shared, in-memory state.
//!
//! Owns: what the wire contract promises, as simply as possible, and hooks to break it. Must never: be clever; where the
//! client needs more than the contract says, the test belongs elsewhere.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use synod_client::proto as v1;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};
use v1::shard_reply::Body as Answer;
use v1::shard_request::Body as Ask;

pub mod state;
pub use state::State;

/// What a hook makes of a request.
pub enum Action {
    /// As the contract says.
    Normal,
    /// This answer, nothing executed.
    Answer(Box<Answer>),
    /// No answer, nothing executed.
    Silence,
    /// The stream breaks; before that the request is executed, or not.
    Break { executed: bool },
}

/// Sees each request with the node it came to.
pub type Hook = Box<dyn FnMut(u64, &v1::ShardRequest) -> Action + Send>;

pub struct World {
    pub state: Mutex<State>,
    pub map: watch::Sender<v1::ShardMap>,
    /// Whether nodes send deltas to watchers that ask for them; otherwise they are as nodes that know none.
    pub deltas: AtomicBool,
    /// The next delta is of another revision than what was sent before it.
    pub gap: AtomicBool,
    /// What each watcher asked for, and the revision from which each map that was sent changes it; 0: a whole map.
    pub watched: Mutex<Vec<v1::WatchMapRequest>>,
    pub sent: Mutex<Vec<u64>>,
    /// What the nodes know already and the map does not.
    ahead: Mutex<Option<v1::ShardMap>>,
    hook: Mutex<Option<Hook>>,
    /// Requests seen, with the node; clock requests left out.
    pub seen: Mutex<Vec<(u64, v1::ShardRequest)>>,
    pub frames: Mutex<usize>,
    /// Connections made so far, to any node.
    pub connections: Arc<Mutex<usize>>,
    commits: watch::Sender<u64>,
    /// What becomes of the next admin calls; those after them are answered.
    pub admin: Mutex<VecDeque<AdminFault>>,
    /// The names of the changes that came, in order.
    pub changes: Mutex<Vec<v1::WriteId>>,
    /// What was answered to each change, by client and number.
    done: Mutex<HashMap<(Bytes, u64), Result<v1::Table, Status>>>,
}

/// What keeps an admin call from its answer.
#[derive(Clone, Copy, Debug)]
pub enum AdminFault {
    /// The connection breaks; before that the change is made, or not.
    Lost { executed: bool },
    /// The node says that nothing was done.
    Unavailable,
    /// The shard's time is this, µs: past the change's deadline.
    Ahead(u64),
}

pub fn error(kind: v1::error::Kind) -> Answer {
    Answer::Error(v1::Error { message: "by the test".into(), retryable: false, kind: Some(kind) })
}

pub fn not_leader(leader: u64, maybe: bool) -> Action {
    Action::Answer(Box::new(error(v1::error::Kind::NotLeader(v1::NotLeader { leader, maybe }))))
}

fn shard(id: u64, table_id: u32, from: &[u8], to: &[u8]) -> v1::Shard {
    let bytes = Bytes::copy_from_slice;
    v1::Shard {
        id,
        table_id,
        from: bytes(from),
        to: bytes(to),
        version: 1,
        epoch: 1,
        voters: vec![1, 2, 3],
        leader_hint: 0,
        ..v1::Shard::default()
    }
}

fn table(id: u32, name: &str, partitioning: v1::Partitioning, kind: v1::retention::Kind) -> v1::Table {
    let retention = Some(v1::Retention { kind: Some(kind) });
    v1::Table { id, name: name.into(), partitioning: partitioning.into(), retention, replicas: 3 }
}

fn split(map: &mut v1::ShardMap, at: &'static str) {
    let parent = map.shards.iter_mut().find(|s| s.id == 11).unwrap();
    let mut child = parent.clone();
    parent.to = Bytes::from_static(at.as_bytes());
    parent.version += 1;
    child.from = Bytes::from_static(at.as_bytes());
    child.id = 13;
    child.version = parent.version;
    map.shards.push(child);
}

impl World {
    /// Three nodes; table `r` (range, all, split at `g` and `p`), table `h` (hash, all, 4 shards), table `kv` (hash,
    /// latest, 1 shard). Node 1 leads every shard.
    pub async fn start() -> (Arc<World>, Vec<String>) {
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addrs: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let quarter = |i: u64| if i.is_multiple_of(4) { vec![] } else { (i << 62).to_be_bytes().to_vec() };
        let mut shards = vec![shard(10, 1, b"", b"g"), shard(11, 1, b"g", b"p"), shard(12, 1, b"p", b"")];
        shards.extend((0..4).map(|i| shard(20 + i, 2, &quarter(i), &quarter(i + 1))));
        shards.push(shard(30, 3, b"", b""));
        let all = v1::retention::Kind::All(true);
        let latest = v1::retention::Kind::Latest(true);
        let map = v1::ShardMap {
            cluster: Bytes::from_static(&[9; 16]),
            revision: 1,
            nodes: addrs
                .iter()
                .zip(1..)
                .map(|(addr, id)| v1::Node { id, addr: addr.clone(), ..v1::Node::default() })
                .collect(),
            tables: vec![
                table(1, "r", v1::Partitioning::Range, all),
                table(2, "h", v1::Partitioning::Hash, all),
                table(3, "kv", v1::Partitioning::Hash, latest),
            ],
            shards,
            next_shard: 31,
            digest: 1,
            ..v1::ShardMap::default()
        };
        let world = Arc::new(World {
            state: Mutex::new(State::new()),
            map: watch::Sender::new(map),
            deltas: AtomicBool::new(false),
            gap: AtomicBool::new(false),
            watched: Mutex::default(),
            sent: Mutex::default(),
            ahead: Mutex::default(),
            hook: Mutex::new(None),
            seen: Mutex::default(),
            frames: Mutex::default(),
            connections: Arc::default(),
            commits: watch::Sender::new(0),
            admin: Mutex::default(),
            changes: Mutex::default(),
            done: Mutex::default(),
        });
        for (listener, id) in listeners.into_iter().zip(1..) {
            let node = Node { id, world: world.clone() };
            let server = tonic::transport::Server::builder()
                .add_service(v1::synod_server::SynodServer::new(node.clone()))
                .add_service(v1::admin_server::AdminServer::new(node));
            // Without this each small answer waits for the acknowledgement of the one before: 40 ms.
            let connections = world.connections.clone();
            let incoming = TcpListenerStream::new(listener).inspect(move |stream| {
                *connections.lock().unwrap() += 1;
                stream.as_ref().unwrap().set_nodelay(true).unwrap();
            });
            tokio::spawn(server.serve_with_incoming(incoming));
        }
        (world, addrs)
    }

    pub fn hook(&self, hook: impl FnMut(u64, &v1::ShardRequest) -> Action + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    pub fn no_hook(&self) {
        *self.hook.lock().unwrap() = None;
    }

    /// Writes seen, with the node they came to.
    pub fn writes(&self) -> Vec<(u64, v1::Write)> {
        let write = |(node, r): &(u64, v1::ShardRequest)| match &r.body {
            Some(Ask::Write(w)) => Some((*node, w.clone())),
            _ => None,
        };
        self.seen.lock().unwrap().iter().filter_map(write).collect()
    }

    /// Changes the map; its revision goes up.
    pub fn change_map(&self, change: impl FnOnce(&mut v1::ShardMap)) {
        self.map.send_modify(|map| {
            change(map);
            map.revision += 1;
            map.digest += 1;
        });
    }

    /// What of the shards changed from one map to another.
    fn delta(&self, before: &v1::ShardMap, mut map: v1::ShardMap) -> v1::ShardMap {
        let left = |shard: &&v1::Shard| !map.shards.iter().any(|now| now.id == shard.id);
        map.gone_shards = before.shards.iter().filter(left).map(|shard| shard.id).collect();
        map.shards.retain(|shard| !before.shards.contains(shard));
        (map.nodes, map.tables) = (vec![], vec![]);
        let gap = if self.gap.swap(false, Ordering::SeqCst) { 100 } else { 0 };
        map.since = before.revision + gap;
        map
    }

    /// Splits range shard 11 (`g`..`p`) at `at`: the new shard is 13.
    pub fn split(&self, at: &'static str) {
        self.change_map(|map| split(map, at));
    }

    /// The same, and the map does not hear of it before it is told.
    pub fn split_untold(&self, at: &'static str) {
        let mut map = self.map.borrow().clone();
        split(&mut map, at);
        *self.ahead.lock().unwrap() = Some(map);
    }

    /// The map hears of what the nodes know.
    pub fn tell(&self) {
        let known = self.ahead.lock().unwrap().clone();
        if let Some(known) = known {
            self.change_map(|map| map.shards = known.shards);
        }
        *self.ahead.lock().unwrap() = None;
    }

    async fn answer(&self, node: u64, request: v1::ShardRequest) -> Answer {
        let Some(ask) = request.body else { return error(v1::error::Kind::Unavailable(v1::Unavailable {})) };
        let mut commits = self.commits.subscribe();
        let mut last_try = tokio::time::Instant::now();
        if let Ask::Tail(poll) = &ask {
            last_try += Duration::from_millis(poll.wait_ms.into());
        }
        loop {
            let answer = {
                let (told, ahead) = (self.map.borrow(), self.ahead.lock().unwrap());
                let map = ahead.as_ref().unwrap_or(&told);
                let mut state = self.state.lock().unwrap();
                match state.admit(map, node, request.shard, request.version) {
                    Ok(shard) => state.answer(map, &shard, &ask),
                    Err(kind) => error(kind),
                }
            };
            if matches!(ask, Ask::Write(_)) {
                self.commits.send_modify(|n| *n += 1);
            }
            match &answer {
                Answer::Tail(v1::TailResult { records, scan: None, .. }) if records.is_empty() => {
                    if tokio::time::timeout_at(last_try, commits.changed()).await.is_err() {
                        return answer;
                    }
                }
                _ => return answer,
            }
        }
    }
}

#[derive(Clone)]
struct Node {
    id: u64,
    world: Arc<World>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::synod_server::Synod for Node {
    type ReadStream = Replies<v1::RecordPage>;
    type ScanStream = Replies<v1::RecordPage>;
    type TailStream = Replies<v1::TailPage>;
    type SessionStream = ReceiverStream<Result<v1::ServerFrame, Status>>;
    type WatchMapStream = Replies<v1::ShardMap>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (tx, rx) = mpsc::channel(1024);
        let (world, id) = (self.world.clone(), self.id);
        let mut frames = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                *world.frames.lock().unwrap() += 1;
                for request in frame.requests {
                    let number = request.id;
                    let reply = move |body| {
                        Ok(v1::ServerFrame { replies: vec![v1::ShardReply { id: number, body: Some(body) }] })
                    };
                    if matches!(request.body, Some(Ask::Clock(_))) {
                        let _ = tx.send(reply(Answer::ClockUs(state::CLOCK_US))).await;
                        continue;
                    }
                    world.seen.lock().unwrap().push((id, request.clone()));
                    let action = world.hook.lock().unwrap().as_mut().map_or(Action::Normal, |h| h(id, &request));
                    match action {
                        Action::Normal => {
                            let (world, tx) = (world.clone(), tx.clone());
                            tokio::spawn(async move {
                                let answer = world.answer(id, request).await;
                                let _ = tx.send(reply(answer)).await;
                            });
                        }
                        Action::Answer(answer) => drop(tx.send(reply(*answer)).await),
                        Action::Silence => {}
                        Action::Break { executed } => {
                            if executed {
                                world.answer(id, request).await;
                            }
                            let _ = tx.send(Err(Status::unavailable("broken by the test"))).await;
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn watch_map(&self, request: Request<v1::WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        let request = request.into_inner();
        let (world, from, asks) = (self.world.clone(), request.from_revision, request.deltas);
        world.watched.lock().unwrap().push(request);
        let mut has: Option<v1::ShardMap> = None;
        let next = move |map: v1::ShardMap| {
            let before = has.replace(map.clone()).filter(|_| asks && world.deltas.load(Ordering::SeqCst));
            let next = before.map_or(map.clone(), |before| world.delta(&before, map));
            world.sent.lock().unwrap().push(next.since);
            Ok::<_, Status>(next)
        };
        let maps = WatchStream::new(self.world.map.subscribe());
        let maps = maps.filter(move |m| std::future::ready(m.revision > from)).map(next);
        Ok(Response::new(Box::pin(maps)))
    }

    async fn write(&self, _: Request<v1::WriteCall>) -> Result<Response<v1::WriteReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn get(&self, _: Request<v1::GetCall>) -> Result<Response<v1::GetReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn read(&self, _: Request<v1::ReadCall>) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn scan(&self, _: Request<v1::ScanCall>) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn tail(&self, _: Request<v1::TailCall>) -> Result<Response<Self::TailStream>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}

fn refuse(kind: v1::error::Kind) -> Status {
    use prost::Message;
    let error = v1::Error { message: String::new(), retryable: false, kind: Some(kind) };
    Status::with_details(tonic::Code::FailedPrecondition, "by the test", Bytes::from(error.encode_to_vec()))
}

impl Node {
    /// Makes a change, under one name once.
    fn change(
        &self,
        id: Option<v1::WriteId>,
        make: impl FnOnce() -> Result<v1::Table, Status>,
    ) -> Result<Response<v1::Table>, Status> {
        let id = id.expect("the client names its changes");
        self.world.changes.lock().unwrap().push(id.clone());
        let fault = self.world.admin.lock().unwrap().pop_front();
        match fault {
            Some(AdminFault::Unavailable) => {
                return Err(refuse(v1::error::Kind::Unavailable(v1::Unavailable {})));
            }
            Some(AdminFault::Ahead(shard_time_us)) => {
                return Err(refuse(v1::error::Kind::Expired(v1::Expired { shard_time_us })));
            }
            Some(AdminFault::Lost { executed: false }) => return Err(Status::unavailable("broken by the test")),
            _ => {}
        }
        let outcome = self.world.done.lock().unwrap().entry((id.client, id.seq)).or_insert_with(make).clone();
        match fault {
            Some(_) => Err(Status::unavailable("broken by the test")),
            None => outcome.map(Response::new),
        }
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Node {
    async fn create_table(&self, request: Request<v1::CreateTableRequest>) -> Result<Response<v1::Table>, Status> {
        let r = request.into_inner();
        self.change(r.id.clone(), || {
            if self.world.map.borrow().tables.iter().any(|t| t.name == r.name) {
                return Err(refuse(v1::error::Kind::TableExists(v1::TableExists { table: r.name })));
            }
            let id = self.world.map.borrow().tables.iter().map(|t| t.id).max().unwrap_or(0) + 1;
            let (partitioning, retention, replicas) = (r.partitioning, r.retention, r.replicas);
            let made = v1::Table { id, name: r.name, partitioning, retention, replicas };
            self.world.change_map(|map| {
                map.tables.push(made.clone());
                map.shards.push(shard(100 + u64::from(id), id, b"", b""));
            });
            Ok(made)
        })
    }

    async fn drop_table(&self, request: Request<v1::DropTableRequest>) -> Result<Response<v1::DropTableReply>, Status> {
        let v1::DropTableRequest { name, id } = request.into_inner();
        let dropped = self.change(id, || {
            if !self.world.map.borrow().tables.iter().any(|t| t.name == name) {
                return Err(refuse(v1::error::Kind::TableNotFound(v1::TableNotFound { table: name })));
            }
            self.world.change_map(|map| map.tables.retain(|t| t.name != name));
            Ok(v1::Table::default())
        });
        dropped.map(|_| Response::new(v1::DropTableReply {}))
    }

    async fn node_status(&self, _: Request<v1::NodeStatusRequest>) -> Result<Response<v1::NodeStatusReply>, Status> {
        Ok(Response::new(v1::NodeStatusReply { node: self.id, ..v1::NodeStatusReply::default() }))
    }

    async fn change_members(
        &self,
        _: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        Err(Status::unimplemented("members do not change here"))
    }

    async fn propose_split(
        &self,
        _: Request<v1::ProposeSplitRequest>,
    ) -> Result<Response<v1::ProposeSplitReply>, Status> {
        Err(Status::unimplemented("shards are split by the tests here"))
    }

    async fn propose_merge(
        &self,
        _: Request<v1::ProposeMergeRequest>,
    ) -> Result<Response<v1::ProposeMergeReply>, Status> {
        Err(Status::unimplemented("shards are not merged here"))
    }

    async fn divide_shard(&self, _: Request<v1::DivideShardRequest>) -> Result<Response<v1::DivideShardReply>, Status> {
        Err(Status::unimplemented("shards have no load here"))
    }

    async fn remove_node(&self, _: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::RemoveNodeReply>, Status> {
        Err(Status::unimplemented("nodes do not go here"))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        let r = request.into_inner();
        self.world.state.lock().unwrap().leaders = HashMap::from([(r.shard, r.to)]);
        Ok(Response::new(v1::TransferLeaderReply {}))
    }

    async fn scrub(&self, _: Request<v1::ScrubRequest>) -> Result<Response<v1::ScrubReply>, Status> {
        Ok(Response::new(v1::ScrubReply::default()))
    }

    async fn start_job(&self, _: Request<v1::StartJobRequest>) -> Result<Response<v1::StartJobReply>, Status> {
        Err(Status::unimplemented("jobs are not known here"))
    }

    async fn list_jobs(&self, _: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsReply>, Status> {
        Err(Status::unimplemented("jobs are not known here"))
    }

    async fn get_job(&self, _: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        Err(Status::unimplemented("jobs are not known here"))
    }

    async fn cancel_job(&self, _: Request<v1::CancelJobRequest>) -> Result<Response<v1::CancelJobReply>, Status> {
        Err(Status::unimplemented("jobs are not known here"))
    }

    async fn pause_job(&self, _: Request<v1::PauseJobRequest>) -> Result<Response<v1::PauseJobReply>, Status> {
        Err(Status::unimplemented("jobs are not known here"))
    }

    async fn recommission_node(
        &self,
        _: Request<v1::RecommissionNodeRequest>,
    ) -> Result<Response<v1::RecommissionNodeReply>, Status> {
        Err(Status::unimplemented("nodes do not go here"))
    }

    async fn plan_node(&self, _: Request<v1::PlanNodeRequest>) -> Result<Response<v1::PlanNodeReply>, Status> {
        Err(Status::unimplemented("nodes do not go here"))
    }

    async fn plan_rebalance(
        &self,
        _: Request<v1::PlanRebalanceRequest>,
    ) -> Result<Response<v1::PlanRebalanceReply>, Status> {
        Err(Status::unimplemented("nothing is placed here"))
    }

    async fn check_operations(
        &self,
        _: Request<v1::CheckOperationsRequest>,
    ) -> Result<Response<v1::CheckOperationsReply>, Status> {
        Err(Status::unimplemented("nothing is placed here"))
    }

    async fn alter_table(&self, _: Request<v1::AlterTableRequest>) -> Result<Response<v1::AlterTableReply>, Status> {
        Err(Status::unimplemented("tables do not change here"))
    }

    async fn upgrade(&self, _: Request<v1::UpgradeRequest>) -> Result<Response<v1::UpgradeReply>, Status> {
        Err(Status::unimplemented("versions do not rise here"))
    }

    type SnapshotStream = ReceiverStream<Result<v1::SnapshotPart, Status>>;

    async fn snapshot(&self, _: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("the client has no snapshots"))
    }
}

/// Logs by table and position.
pub type Logs = BTreeMap<(u32, Vec<u8>), Vec<v1::Record>>;
