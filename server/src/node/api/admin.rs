//! The `Admin` service: tables, the node's own status, leadership.
//!
//! Owns: nothing but the way in. Must never: change metadata but through the system shard's log.

mod divide;
pub mod job_manager;
mod jobs;
mod leaders;
mod merges;
mod nodes;
mod rebalance;
pub mod repairs;
mod replicas;
mod resizes;
mod splits;

use super::{cluster, convert};
use crate::node::dial;
use crate::node::disk::Spare;
use crate::node::host::Signals;
use crate::node::map::{MapCache, table_to_wire};
use crate::node::peer::Peers;
use crate::node::snapshots::SnapshotManager;
use crate::node::status::status;
use crate::node::system::SystemProposer;
use crate::node::threads::processor_us;
use crate::node::versions::{NodeVersion, VersionManager};
use bytes::Bytes;
pub use replicas::Sizes;
use replicas::ahead;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClusterVersion, NodeId, ShardId, TableId};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, Partitioning, Retention, SystemCommand, SystemOutcome};
use synod_engine::host::{AdminInput, NodeInput, NodeReport};
use synod_engine::runner::WorkerHandle;
use synod_paxos::types::Epoch;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use synod_proto::v1::admin_server::Admin;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use v1::error::Kind;

/// How long a node waits for its own worker.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
/// Longest status of a node that is taken: it names the bounds of each of its replicas.
const STATUS_BYTES_MAX: usize = 64 << 20;
/// Marks a call that another node forwarded: it is not forwarded again.
const FORWARDED: &str = "synod-forwarded";

/// What the service needs once the node is up.
pub struct Running {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: u128,
    /// The address others reach it by.
    pub addr: String,
    /// The engine.
    pub worker: WorkerHandle,
    /// The map.
    pub map_cache: Arc<MapCache>,
    /// The peers.
    pub peers: Arc<Peers>,
    /// The way to the system shard.
    pub system: Arc<SystemProposer>,
    /// The cluster's version.
    pub versions: Arc<VersionManager>,
    /// The jobs.
    pub jobs: Arc<job_manager::JobManager>,
    /// The worker's signals.
    pub signals: Arc<Signals>,
    /// Snapshot files.
    pub snapshots: Arc<SnapshotManager>,
    /// Bytes of the shards led here.
    pub sizes: Sizes,
    /// The disk.
    pub disk: Spare,
    /// When this process began.
    pub started: Instant,
}

/// The service; answers `Unavailable` until the node is up.
#[derive(Clone, Default)]
pub struct AdminService {
    running: Arc<OnceLock<Running>>,
}

impl AdminService {
    /// The node is up.
    pub fn started(&self, running: Running) {
        // A node comes up once.
        let _ = self.running.set(running);
    }

    fn get(&self) -> Result<&Running, Status> {
        self.running.get().ok_or_else(|| unavailable("the node is starting"))
    }

    /// What a node knows of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status_of(&self, node: NodeId) -> Result<v1::NodeStatusReply, Status> {
        let running = self.get()?;
        let asked = v1::NodeStatusRequest {};
        let reply = if node == running.node {
            self.node_status(Request::new(asked)).await?
        } else {
            running.admin_of(node).await?.node_status(running.forward(asked)).await?
        };
        Ok(reply.into_inner())
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_table(&self, request: Request<v1::CreateTableRequest>) -> Result<Response<v1::Table>, Status> {
        let running = self.get()?;
        let request = request.into_inner();
        let command = create_command(&request)?;
        match running.change(request.id.as_ref(), &command).await? {
            SystemOutcome::Table(id) => Ok(Response::new(running.created(id, request).await)),
            SystemOutcome::TableExists(table) => {
                let message = format!("table {table:?} exists already");
                Err(status(&convert::error(Kind::TableExists(v1::TableExists { table }), false, message)))
            }
            SystemOutcome::Invalid { field, why } => Err(status(&convert::invalid(&field, why))),
            other => Err(Status::internal(format!("the outcome of a table's creation was {other:?}"))),
        }
    }

    async fn drop_table(&self, request: Request<v1::DropTableRequest>) -> Result<Response<v1::DropTableReply>, Status> {
        let v1::DropTableRequest { name, id } = request.into_inner();
        match self.get()?.change(id.as_ref(), &SystemCommand::DropTable { name }).await? {
            SystemOutcome::Done => Ok(Response::new(v1::DropTableReply {})),
            SystemOutcome::TableNotFound(table) => Err(no_such_table(table)),
            other => Err(Status::internal(format!("the outcome of a table's removal was {other:?}"))),
        }
    }

    async fn node_status(
        &self,
        _request: Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatusReply>, Status> {
        let running = self.get()?;
        let report = running.report().await?;
        let map = running.map_cache.get();
        let mut clock_alarms = running.peers.alarms();
        clock_alarms.extend(report.replicas.iter().filter_map(ahead));
        let replicas = replicas::to_wire(&running.sizes, report.replicas).await;
        let peers = map.iter().flat_map(|m| m.nodes.keys()).filter(|n| **n != running.node);
        let quarantined = running.signals.quarantined.borrow().clone().or(report.quarantined);
        let place = running.peers.place(running.node);
        let quarantined = quarantined.or_else(|| running.map_cache.removed()).unwrap_or_default();
        Ok(Response::new(v1::NodeStatusReply {
            cluster: Bytes::copy_from_slice(&running.cluster.to_be_bytes()),
            node: running.node.0,
            addr: running.addr.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            map_revision: map.as_ref().map_or(report.map_revision, |m| m.revision),
            replicas,
            peers: peers.map(|n| v1::PeerStatus { node: n.0, alive: running.peers.is_alive(*n) }).collect(),
            quarantined,
            disk_low: report.disk_low.unwrap_or_default(),
            clock_alarms,
            snapshots_made: report.snapshots_made,
            snapshots_installed: report.snapshots_installed,
            speaks: running.map_cache.speaks().0,
            cluster_version: running.map_cache.version().0,
            threads: processor_us()
                .into_iter()
                .map(|(name, processor_us)| v1::ThreadTime { name, processor_us })
                .collect(),
            uptime_ms: u64::try_from(running.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            jobs: running.jobs.running().into_iter().map(|job| jobs::to_wire(job, false)).collect(),
            zone: place.zone,
            rack: place.rack,
            disk_bytes: running.disk.total(),
            disk_free_bytes: running.disk.free(),
        }))
    }

    async fn scrub(&self, request: Request<v1::ScrubRequest>) -> Result<Response<v1::ScrubReply>, Status> {
        let running = self.get()?;
        let forwarded = request.metadata().contains_key(FORWARDED);
        let wanted = request.into_inner();
        let shard = ShardId(wanted.shard);
        match running.asked(|done| AdminInput::Scrub { shard, done }).await? {
            Ok(slot) => Ok(Response::new(v1::ScrubReply { slot: slot.0 })),
            Err(refusal) => {
                let call = |mut leader: AdminClient<Channel>| {
                    let request = running.forward(wanted);
                    async move { leader.scrub(request).await }
                };
                running.at_leader(&refusal, shard, forwarded, call).await
            }
        }
    }

    type SnapshotStream = ReceiverStream<Result<v1::SnapshotPart, Status>>;

    async fn snapshot(&self, request: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let running = self.get()?;
        let shard = ShardId(request.into_inner().shard);
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |result| drop(tell.send(result)));
        running
            .worker
            .try_push(AdminInput::MakeSnapshot { shard, done })
            .map_err(|_| Status::unavailable("the node is busy"))?;
        match told.await {
            Ok(Ok(())) => running.snapshots.stream(shard).map(|parts| Response::new(ReceiverStream::new(parts))),
            Ok(Err(why)) => Err(Status::failed_precondition(why)),
            Err(_) => Err(Status::unavailable("the node is stopping")),
        }
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        let running = self.get()?;
        let forwarded = request.metadata().contains_key(FORWARDED);
        let wanted = request.into_inner();
        let (shard, to) = (ShardId(wanted.shard), NodeId(wanted.to));
        match running.asked(|done| AdminInput::Transfer { shard, to, done }).await? {
            Ok(()) => Ok(Response::new(v1::TransferLeaderReply {})),
            Err(refusal) => {
                let call = |mut leader: AdminClient<Channel>| {
                    let request = running.forward(wanted);
                    async move { leader.transfer_leader(request).await }
                };
                running.at_leader(&refusal, shard, forwarded, call).await
            }
        }
    }

    async fn change_members(
        &self,
        request: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        let running = self.get()?;
        let forwarded = request.metadata().contains_key(FORWARDED);
        let wanted = request.into_inner();
        let (shard, expected, change) = (ShardId(wanted.shard), expected_epoch(&wanted)?, member_change(&wanted)?);
        match running.asked(|done| AdminInput::ChangeMembers { shard, expected, change, done }).await? {
            Ok(()) => Ok(Response::new(v1::ChangeMembersReply {})),
            Err(refusal) => {
                let call = |mut leader: AdminClient<Channel>| {
                    let request = running.forward(wanted);
                    async move { leader.change_members(request).await }
                };
                running.at_leader(&refusal, shard, forwarded, call).await
            }
        }
    }

    async fn propose_merge(
        &self,
        request: Request<v1::ProposeMergeRequest>,
    ) -> Result<Response<v1::ProposeMergeReply>, Status> {
        merges::propose(self.get()?, request).await
    }

    async fn propose_split(
        &self,
        request: Request<v1::ProposeSplitRequest>,
    ) -> Result<Response<v1::ProposeSplitReply>, Status> {
        splits::propose(self.get()?, request).await
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeReply>, Status> {
        let v1::RemoveNodeRequest { node, id } = request.into_inner();
        let command = SystemCommand::RemoveNode { node: NodeId(node) };
        match self.get()?.change(id.as_ref(), &command).await? {
            SystemOutcome::Done => Ok(Response::new(v1::RemoveNodeReply {})),
            SystemOutcome::Invalid { field, why } => Err(status(&convert::invalid(&field, why))),
            other => Err(Status::internal(format!("the outcome of a node's removal was {other:?}"))),
        }
    }

    async fn upgrade(&self, request: Request<v1::UpgradeRequest>) -> Result<Response<v1::UpgradeReply>, Status> {
        let v1::UpgradeRequest { to, dry_run } = request.into_inner();
        let raised = self.get()?.versions.raise((to != 0).then_some(ClusterVersion(to)), dry_run).await?;
        Ok(Response::new(v1::UpgradeReply {
            from: raised.from.0,
            to: raised.to.0,
            nodes: raised.nodes.into_iter().map(version_to_wire).collect(),
            refused: raised.refused.unwrap_or_default(),
        }))
    }

    async fn start_job(&self, request: Request<v1::StartJobRequest>) -> Result<Response<v1::StartJobReply>, Status> {
        jobs::start(self.get()?, request.into_inner()).await.map(Response::new)
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsReply>, Status> {
        jobs::list(self.get()?, request).await
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        jobs::get(self.get()?, request).await
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Result<Response<v1::CancelJobReply>, Status> {
        jobs::cancel(self.get()?, request.into_inner()).await.map(Response::new)
    }

    async fn divide_shard(
        &self,
        request: Request<v1::DivideShardRequest>,
    ) -> Result<Response<v1::DivideShardReply>, Status> {
        divide::divide(self.get()?, request).await
    }

    async fn pause_job(&self, request: Request<v1::PauseJobRequest>) -> Result<Response<v1::PauseJobReply>, Status> {
        jobs::pause(self.get()?, request.into_inner()).await.map(Response::new)
    }

    async fn recommission_node(
        &self,
        request: Request<v1::RecommissionNodeRequest>,
    ) -> Result<Response<v1::RecommissionNodeReply>, Status> {
        jobs::recommission(self.get()?, request.into_inner()).await.map(Response::new)
    }

    async fn plan_node(&self, request: Request<v1::PlanNodeRequest>) -> Result<Response<v1::PlanNodeReply>, Status> {
        jobs::plan(self, request).await
    }

    async fn plan_rebalance(
        &self,
        request: Request<v1::PlanRebalanceRequest>,
    ) -> Result<Response<v1::PlanRebalanceReply>, Status> {
        rebalance::plan(self, request).await
    }

    async fn check_operations(
        &self,
        request: Request<v1::CheckOperationsRequest>,
    ) -> Result<Response<v1::CheckOperationsReply>, Status> {
        rebalance::check(self, request).await
    }

    async fn alter_table(
        &self,
        request: Request<v1::AlterTableRequest>,
    ) -> Result<Response<v1::AlterTableReply>, Status> {
        jobs::alter(self, request).await
    }
}

fn version_to_wire(NodeVersion { node, addr, said }: NodeVersion) -> v1::NodeVersion {
    let (speaks, ago) = said.map_or((0, Duration::ZERO), |(speaks, ago)| (speaks.0, ago));
    v1::NodeVersion { node: node.0, addr, speaks, heard_ms_ago: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX) }
}

/// Nothing was done; asked again, here or elsewhere, it may be.
fn unavailable(why: impl Into<String>) -> Status {
    status(&convert::error(Kind::Unavailable(v1::Unavailable {}), true, why))
}

fn no_such_table(table: String) -> Status {
    let message = format!("table {table:?} does not exist");
    status(&convert::error(Kind::TableNotFound(v1::TableNotFound { table }), false, message))
}

/// The epoch that a change was made for: it must be named, since no epoch is 0.
fn expected_epoch(wanted: &v1::ChangeMembersRequest) -> Result<Epoch, Status> {
    match wanted.expected_epoch {
        0 => Err(status(&convert::invalid("expected_epoch", "must be given: the epoch that the change was made for"))),
        epoch => Ok(Epoch(epoch)),
    }
}

fn member_change(wanted: &v1::ChangeMembersRequest) -> Result<MemberChange, Status> {
    use v1::change_members_request::Change;
    match wanted.change {
        Some(Change::Learn(node)) => Ok(MemberChange::Learn(NodeId(node))),
        Some(Change::Promote(node)) => {
            let instead_of = (wanted.instead_of != 0).then_some(NodeId(wanted.instead_of));
            Ok(MemberChange::Promote { node: NodeId(node), instead_of })
        }
        Some(Change::Remove(node)) => Ok(MemberChange::Remove(NodeId(node))),
        None => Err(status(&convert::invalid("change", "must be given: learn, promote or remove"))),
    }
}

fn create_command(request: &v1::CreateTableRequest) -> Result<SystemCommand, Status> {
    let partitioning = match request.partitioning() {
        v1::Partitioning::Hash => Partitioning::Hash,
        v1::Partitioning::Range => Partitioning::Range,
        v1::Partitioning::Unspecified => {
            return Err(status(&convert::invalid("partitioning", "must be given: range or hash")));
        }
    };
    let retention = match request.retention.as_ref().and_then(|r| r.kind.as_ref()) {
        None | Some(v1::retention::Kind::Latest(_)) => Retention::Latest,
        Some(v1::retention::Kind::All(_)) => Retention::All,
    };
    Ok(SystemCommand::CreateTable {
        name: request.name.clone(),
        partitioning,
        retention,
        shards: request.shards,
        splits: request.split_at.clone(),
        replicas: request.replicas,
    })
}

impl Running {
    /// The request once more, marked so that its receiver does not send it on, for a node of this cluster.
    fn forward<T>(&self, wanted: T) -> Request<T> {
        let mut request = Request::new(wanted);
        request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
        cluster::stamp(request.metadata_mut(), self.cluster);
        request
    }

    /// Refuses a command of a later version than this binary speaks where the cluster is too old for it, as far as is known here: no node
    /// would even be sent it.
    fn check_version(&self, command: &SystemCommand) -> Result<(), Status> {
        let (version, needs) = (self.map_cache.version(), command.needs());
        if version >= needs || needs <= ClusterVersion::SPOKEN {
            return Ok(());
        }
        let why = format!("the cluster is at version {version}, this needs {needs}: `synod cluster upgrade` raises it");
        Err(status(&convert::invalid(CLUSTER_VERSION, why)))
    }

    async fn report(&self) -> Result<NodeReport, Status> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |report| {
            // A caller that went away needs no report.
            let _ = sender.send(report);
        });
        self.worker
            .try_push(NodeInput::Status(done))
            .map_err(|_| Status::resource_exhausted("the node is overloaded"))?;
        match timeout(WORKER_PATIENCE, receiver).await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(_)) | Err(_) => Err(Status::unavailable("the node's worker does not answer: is its disk hung?")),
        }
    }

    /// Carries out a change of the metadata under its caller's name, or under one of this node's own.
    async fn change(&self, id: Option<&v1::WriteId>, command: &SystemCommand) -> Result<SystemOutcome, Status> {
        match id {
            Some(id) => self.system.execute_as(convert::write_id(id).map_err(|e| status(&e))?, command).await,
            None => self.system.execute(command).await,
        }
    }

    /// Has the worker do what it answers with success or a refusal.
    async fn asked<T: Send + 'static>(
        &self,
        input: impl FnOnce(Box<dyn FnOnce(Result<T, Refusal>) + Send>) -> AdminInput,
    ) -> Result<Result<T, Refusal>, Status> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| {
            // A caller that went away needs no answer.
            let _ = sender.send(result);
        });
        self.worker.try_push(input(done)).map_err(|_| status(&convert::overloaded(20)))?;
        match timeout(WORKER_PATIENCE, receiver).await {
            Ok(Ok(result)) => Ok(result),
            // It has the request and may come to it.
            Ok(Err(_)) | Err(_) => {
                let why = "the node's worker does not answer: is its disk hung?";
                Err(status(&convert::error(Kind::OutcomeUnknown(v1::OutcomeUnknown {}), true, why)))
            }
        }
    }

    /// A client of a node's admin service.
    async fn admin_of(&self, node: NodeId) -> Result<AdminClient<Channel>, Status> {
        let map = self.map_cache.get().ok_or_else(|| unavailable("the node has no shard map yet"))?;
        let info = map.nodes.get(&node).ok_or_else(|| unavailable(format!("node {node} is not in the map")))?;
        let failed = |why: String| unavailable(format!("node {node} at {}: {why}", info.addr));
        let endpoint = dial::endpoint(&info.addr).map_err(failed)?;
        let channel = endpoint.connect().await.map_err(|e| failed(dial::chain(&e)))?;
        Ok(AdminClient::new(channel).max_decoding_message_size(STATUS_BYTES_MAX))
    }

    /// The new table as this node's map has it, once that has caught up; else as it was asked for.
    async fn created(&self, id: TableId, request: v1::CreateTableRequest) -> v1::Table {
        let mut changes = self.map_cache.watch();
        let known = async {
            loop {
                if let Some(table) = self.map_cache.get().and_then(|m| m.tables.get(&id).map(|t| table_to_wire(id, t)))
                {
                    return table;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let partitioning = request.partitioning;
        let asked = v1::Table {
            id: id.0,
            name: request.name,
            partitioning,
            retention: request.retention,
            replicas: request.replicas,
        };
        timeout(Duration::from_millis(500), known).await.unwrap_or(asked)
    }
}
