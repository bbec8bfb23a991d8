//! The way to the system shard: metadata commands, here or at its leader.
//!
//! Owns: the naming of commands, so that one sent twice executes once. Must never: report a command as failed whose outcome
//! is not known.

use super::api::{convert, status};
use super::map::MapBook;
use super::peer::{Addresses, Peers, SystemGate};
use bytes::Bytes;
use prost::Message as _;
use rand::RngExt;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest, decode_requests, encode_requests};
use synod_engine::host::{Answer, Body, Input, Refusal, Reply, ReplySink, Request};
use synod_engine::ids::{ClientId, ClientSeq, ClusterVersion, NodeId, SYSTEM_SHARD};
use synod_engine::runner::WorkerHandle;
use synod_engine::system::{SystemCommand, SystemOutcome};
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{JoinReply, JoinRequest, SystemProposal, SystemReply};
use synod_proto::v1;
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
    peers: Arc<Peers>,
    addresses: Arc<Addresses>,
    client: ClientId,
    names: Names,
}

/// Numbers of commands, and which of them may still be tried. Outcomes below the floor are kept no longer.
#[derive(Default)]
struct Names(Mutex<UnderWay>);

#[derive(Default)]
struct UnderWay {
    last: u64,
    tried: BTreeSet<u64>,
}

/// A command's number, while it is tried.
struct Name<'a> {
    names: &'a Names,
    seq: ClientSeq,
    floor: ClientSeq,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Name<'_> {
        let mut under_way = self.lock();
        under_way.last += 1;
        let seq = under_way.last;
        under_way.tried.insert(seq);
        let floor = under_way.tried.first().copied().unwrap_or(seq);
        Name { names: self, seq: ClientSeq(seq), floor: ClientSeq(floor) }
    }
}

impl Drop for Name<'_> {
    fn drop(&mut self) {
        self.names.lock().tried.remove(&self.seq.0);
    }
}

impl SystemDesk {
    /// A desk of this node.
    #[must_use]
    pub fn new(
        node: NodeId,
        cluster: u128,
        worker: WorkerHandle,
        book: Arc<MapBook>,
        peers: Arc<Peers>,
        addresses: Arc<Addresses>,
    ) -> Self {
        let (client, names) = (ClientId(rand::random()), Names::default());
        Self { node, cluster, worker, book, peers, addresses, client, names }
    }

    /// Carries out one command, wherever the system shard's leader is.
    ///
    /// # Errors
    /// `Unavailable` where no attempt can have reached the leader; `Unknown` where one may have.
    pub async fn execute(&self, command: &SystemCommand) -> Result<SystemOutcome, Status> {
        let until = Instant::now() + PATIENCE;
        let mut name = self.names.next();
        let mut request = self.request(command, &name, self.peers.cluster_time_us());
        let mut sent = false;
        loop {
            match self.attempt(&request).await {
                Ok(outcome) => return Ok(outcome),
                Err(Attempt::Final(status)) => return Err(status),
                // The shard's time is ahead. What no attempt can have executed starts anew, with a deadline by that time.
                Err(Attempt::Expired { shard_us }) if !sent && shard_us > 0 => {
                    name = self.names.next();
                    request = self.request(command, &name, shard_us);
                }
                Err(Attempt::Expired { .. }) => {
                    return Err(Status::unknown("a later attempt came behind the command's deadline"));
                }
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

    /// A command under a name, with a deadline that is counted from `now_us`.
    fn request(&self, command: &SystemCommand, name: &Name<'_>, now_us: u64) -> WriteRequest {
        let deadline_us = now_us.saturating_add(u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX));
        let id = WriteId { client: self.client, seq: name.seq, floor: name.floor, deadline_us };
        WriteRequest { id, op: Op::System(command.encode()) }
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
            Err(Refusal::Expired { shard_us }) => return Err(Attempt::Expired { shard_us }),
            Err(other) => return Err(Attempt::Final(Status::unknown(other.to_string()))),
        };
        let leader = leader.or_else(|| self.book.leader(SYSTEM_SHARD)).filter(|n| *n != self.node);
        let Some(addr) = leader.and_then(|n| self.address(n)).or_else(|| self.any_member()) else {
            return Err(Attempt::Again { maybe: false });
        };
        self.remote(&addr, request).await
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.addresses.of(node)
    }

    /// A random other member of the system shard: it knows the leader, or will.
    fn any_member(&self) -> Option<String> {
        let map = self.book.get()?;
        let members: Vec<NodeId> =
            map.shards.get(&SYSTEM_SHARD)?.membership.voters().filter(|n| *n != self.node).collect();
        let pick = *members.get(rand::rng().random_range(0..members.len().max(1)))?;
        self.address(pick)
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
            Ok(Err(status)) => Err(match expired(&status) {
                Some(shard_us) => Attempt::Expired { shard_us },
                None => Attempt::Again { maybe: status.code() != tonic::Code::FailedPrecondition },
            }),
            Ok(Ok(reply)) => SystemOutcome::decode(reply.into_inner().outcome)
                .map_err(|e| Attempt::Final(Status::internal(format!("outcome of the system shard: {e}")))),
        }
    }
}

/// The shard's time, where a leader refused a command for its deadline.
fn expired(status: &Status) -> Option<u64> {
    match v1::Error::decode(status.details()).ok()?.kind? {
        v1::error::Kind::Expired(expired) => Some(expired.shard_time_us),
        _ => None,
    }
}

/// What an attempt that brought no outcome means.
enum Attempt {
    /// Nothing will help.
    Final(Status),
    /// Its deadline has passed by the shard's time: this attempt is not executed, now or ever.
    Expired { shard_us: u64 },
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
            Err(expired @ Refusal::Expired { .. }) => Err(status(&convert::refusal_error(&expired))),
            Err(other) => Err(Status::unknown(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_commands_that_ended_are_not_kept() {
        let names = Names::default();
        let first = names.next();
        let second = names.next();
        assert_eq!(
            (first.seq, first.floor, second.seq, second.floor),
            (ClientSeq(1), ClientSeq(1), ClientSeq(2), ClientSeq(1))
        );
        drop(first);
        assert_eq!(names.next().floor, ClientSeq(2));
        drop(second);
        for seq in 4..100_000 {
            let name = names.next();
            assert_eq!((name.seq, name.floor), (ClientSeq(seq), ClientSeq(seq)));
        }
    }
}
