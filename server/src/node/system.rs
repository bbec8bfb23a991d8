//! The way to the system shard: metadata commands, here or at its leader.
//!
//! Owns: the naming of commands, so that one sent twice executes once. Must never: report a command as failed whose outcome
//! is not known.

use super::api::session::cluster_time_us;
use super::map::MapBook;
use super::peer::SystemGate;
use bytes::Bytes;
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest, decode_requests, encode_requests};
use synod_engine::host::{Answer, Body, Input, Refusal, Reply, ReplySink, Request};
use synod_engine::ids::{ClientId, ClientSeq, ClusterVersion, NodeId, SYSTEM_SHARD};
use synod_engine::runner::WorkerHandle;
use synod_engine::system::{SystemCommand, SystemOutcome};
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{JoinReply, JoinRequest, SystemProposal, SystemReply};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::Endpoint;

/// How long a command is tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A reply slot for one request of the node's own.
struct OneReply(Mutex<Option<oneshot::Sender<Result<Answer, Refusal>>>>);

impl ReplySink for OneReply {
    fn reply(&self, _id: u64, answer: Result<Answer, Refusal>) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody waits any more: the answer is not needed.
            let _ = sender.send(answer);
        }
    }
}

/// Asks the worker one thing and waits for its answer.
pub async fn ask(worker: &WorkerHandle, shard: synod_engine::ids::ShardId, body: Body) -> Result<Answer, Refusal> {
    let (sender, receiver) = oneshot::channel();
    let reply = Reply { sink: Arc::new(OneReply(Mutex::new(Some(sender)))), id: 0 };
    let request = Request { shard, epoch: None, body, reply };
    if worker.try_push(Input::Requests(vec![request])).is_err() {
        return Err(Refusal::Overloaded);
    }
    receiver.await.unwrap_or(Err(Refusal::NotReady))
}

/// Proposes metadata commands.
pub struct SystemDesk {
    node: NodeId,
    cluster: u128,
    worker: WorkerHandle,
    book: Arc<MapBook>,
    client: ClientId,
    seq: AtomicU64,
}

impl SystemDesk {
    /// A desk of this node.
    #[must_use]
    pub fn new(node: NodeId, cluster: u128, worker: WorkerHandle, book: Arc<MapBook>) -> Self {
        Self { node, cluster, worker, book, client: ClientId(rand::random()), seq: AtomicU64::new(1) }
    }

    /// Carries out one command, wherever the system shard's leader is.
    ///
    /// # Errors
    /// `Unavailable` where no attempt can have reached the leader; `Unknown` where one may have.
    pub async fn execute(&self, command: &SystemCommand) -> Result<SystemOutcome, Status> {
        let seq = ClientSeq(self.seq.fetch_add(1, Ordering::Relaxed));
        let deadline_us = cluster_time_us() + u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
        // Every command keeps its outcome until the client name expires: they are few.
        let id = WriteId { client: self.client, seq, floor: ClientSeq(0), deadline_us };
        let request = WriteRequest { id, op: Op::System(command.encode()) };
        let until = Instant::now() + PATIENCE;
        let mut sent = false;
        loop {
            match self.attempt(&request).await {
                Ok(outcome) => return Ok(outcome),
                Err(Attempt::Final(status)) => return Err(status),
                Err(Attempt::Again { maybe }) => sent |= maybe,
            }
            if Instant::now() >= until {
                let why = "the system shard did not answer in time: is a majority of its replicas up?";
                return Err(if sent { Status::unknown(why) } else { Status::unavailable(why) });
            }
            let pause = rand::rng().random_range(10..60);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn attempt(&self, request: &WriteRequest) -> Result<SystemOutcome, Attempt> {
        let leader = match self.local(request.clone()).await {
            Ok(outcome) => return Ok(outcome),
            Err(Refusal::NotLeader { leader, maybe }) => {
                if maybe {
                    return Err(Attempt::Again { maybe });
                }
                leader
            }
            Err(Refusal::WrongShard | Refusal::NotReady | Refusal::Overloaded) => None,
            Err(Refusal::Quarantined(why)) => return Err(Attempt::Final(Status::failed_precondition(why.to_string()))),
            Err(other) => return Err(Attempt::Final(Status::unknown(other.to_string()))),
        };
        let leader = leader.or_else(|| self.book.leader(SYSTEM_SHARD)).filter(|n| *n != self.node);
        let Some(addr) = leader.and_then(|n| self.address(n)).or_else(|| self.any_member()) else {
            return Err(Attempt::Again { maybe: false });
        };
        self.remote(&addr, request).await
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.book.get()?.nodes.get(&node).map(|n| n.addr.clone())
    }

    /// A random other member of the system shard: it knows the leader, or will.
    fn any_member(&self) -> Option<String> {
        let map = self.book.get()?;
        let members: Vec<NodeId> =
            map.shards.get(&SYSTEM_SHARD)?.membership.voters().filter(|n| *n != self.node).collect();
        let pick = *members.get(rand::rng().random_range(0..members.len().max(1)))?;
        map.nodes.get(&pick).map(|n| n.addr.clone())
    }

    async fn local(&self, request: WriteRequest) -> Result<SystemOutcome, Refusal> {
        match ask(&self.worker, SYSTEM_SHARD, Body::Write(request)).await? {
            Answer::Outcome(Outcome::System(outcome)) => {
                SystemOutcome::decode(outcome).map_err(|e| Refusal::Invalid { field: "outcome", why: e.to_string() })
            }
            other => Err(Refusal::Invalid { field: "outcome", why: format!("{other:?}") }),
        }
    }

    async fn remote(&self, addr: &str, request: &WriteRequest) -> Result<SystemOutcome, Attempt> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))
            .map_err(|e| Attempt::Final(Status::internal(e.to_string())))?
            .connect_timeout(Duration::from_millis(500));
        let channel = endpoint.connect().await.map_err(|_| Attempt::Again { maybe: false })?;
        let command = encode_requests(std::iter::once(request), request.size());
        let proposal = SystemProposal { command, timeout_ms: 2000 };
        match timeout(ATTEMPT, PeerClient::new(channel).propose(proposal)).await {
            Err(_) => Err(Attempt::Again { maybe: true }),
            Ok(Err(status)) => Err(Attempt::Again { maybe: status.code() != tonic::Code::FailedPrecondition }),
            Ok(Ok(reply)) => SystemOutcome::decode(reply.into_inner().outcome)
                .map_err(|e| Attempt::Final(Status::internal(format!("outcome of the system shard: {e}")))),
        }
    }
}

/// What an attempt that brought no outcome means.
enum Attempt {
    /// Nothing will help.
    Final(Status),
    /// Try again; `maybe`: this one may have been executed.
    Again { maybe: bool },
}

#[tonic::async_trait]
impl SystemGate for SystemDesk {
    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Status> {
        let nonce = <[u8; 16]>::try_from(&request.nonce[..])
            .map_err(|_| Status::invalid_argument("a join's nonce has 16 bytes"))?;
        let command = SystemCommand::AddNode {
            addr: request.addr,
            nonce: u128::from_be_bytes(nonce),
            speaks: ClusterVersion::FIRST,
        };
        match self.execute(&command).await? {
            SystemOutcome::Node(node) => {
                Ok(JoinReply { cluster: Bytes::copy_from_slice(&self.cluster.to_be_bytes()), node: node.0 })
            }
            SystemOutcome::Invalid { field, why } => Err(Status::already_exists(format!("{field}: {why}"))),
            other => Err(Status::internal(format!("a join's outcome was {other:?}"))),
        }
    }

    /// One attempt, here: the caller goes on looking for the leader.
    async fn propose(&self, proposal: SystemProposal) -> Result<SystemReply, Status> {
        let requests = decode_requests(proposal.command).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let [request] = &requests[..] else {
            return Err(Status::invalid_argument("a proposal has one command"));
        };
        if !matches!(request.op, Op::System(_)) {
            return Err(Status::invalid_argument("a proposal is a metadata command"));
        }
        match self.local(request.clone()).await {
            Ok(outcome) => Ok(SystemReply { outcome: outcome.encode() }),
            Err(Refusal::NotLeader { maybe: false, .. } | Refusal::NotReady | Refusal::WrongShard) => {
                Err(Status::failed_precondition("this node does not lead the system shard"))
            }
            Err(other) => Err(Status::unknown(other.to_string())),
        }
    }
}
