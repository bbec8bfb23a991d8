//! The way to the system shard: metadata commands, here or at its leader.
//!
//! Owns: the naming of commands, so that one sent twice executes once. Must never: report a command as failed whose outcome
//! is not known, or send one to a node that is not known to speak the version that the command needs: nodes of the first version propose
//! what they cannot read, and their copies of the system shard differ from then on.

use super::dial;
use super::map::MapCache;
use super::peer::{Addresses, Peers, SystemHandler};
use super::proposal::{Wanted, pause_ms};
use super::status::{status, typed};
use bytes::Bytes;
use rand::RngExt;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use synod_cluster::ids::{ClientId, ClientSeq, ClusterVersion, NodeId, SYSTEM_SHARD};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, SPEAKS, SystemCommand, SystemOutcome, TooNew, not_read_by, too_old};
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest, decode_requests};
use synod_engine::host::{Answer, Body, Input, Reply, ReplySink, Request};
use synod_engine::logstore::LogStore;
use synod_engine::runner::WorkerHandle;
use synod_proto::errors::{error, invalid, refusal_error};
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{JoinReply, JoinRequest, SystemProposal, SystemReply};
use synod_proto::v1;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use v1::error::Kind;

/// How long a command is tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long a node that is up may take to say what it speaks: pulses say it all the time. A client waits less than `PATIENCE` for one node.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// What is said of a node that is not sent a command: why it would be.
const LEADS: &str = "which leads the system shard";
/// The same where nobody is known to lead.
const MEMBER: &str = "which has a replica of the system shard";

/// What is invalid where a command was carried out and what came of it cannot be read.
const OUTCOME: &str = "outcome";

/// A reply slot for one request of the node's own.
struct OneReply(Mutex<Option<oneshot::Sender<Result<Answer, Refusal>>>>);

impl ReplySink for OneReply {
    fn reply(&self, _id: u64, answer: Result<Answer, Refusal>) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody waits for the answer.
            let _ = sender.send(answer);
        }
    }
}

/// Asks the worker one thing and waits for its answer.
pub async fn ask(worker: &WorkerHandle, shard: synod_cluster::ids::ShardId, body: Body) -> Result<Answer, Refusal> {
    let (sender, receiver) = oneshot::channel();
    let reply = Reply { sink: Arc::new(OneReply(Mutex::new(Some(sender)))), id: 0 };
    let request = Request { shard, version: None, body, reply };
    if worker.try_push(Input::Requests(vec![request])).is_err() {
        return Err(Refusal::Overloaded);
    }
    // The worker took the request and ended: whether it was carried out is unknown.
    receiver.await.unwrap_or(Err(Refusal::NotLeader { leader: None, maybe: true }))
}

/// Proposes metadata commands.
pub struct SystemProposer {
    node: NodeId,
    cluster: u128,
    worker: WorkerHandle,
    map_cache: Arc<MapCache>,
    peers: Arc<Peers>,
    addresses: Arc<Addresses>,
    /// The worker's. It is closed when the worker ends: an owner that outlives that would close it while the process exits, after
    /// what RocksDB needs for it is gone.
    log: Weak<dyn LogStore>,
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

impl SystemProposer {
    /// The proposer of this node.
    #[must_use]
    pub fn new(
        node: NodeId,
        cluster: u128,
        worker: WorkerHandle,
        map_cache: Arc<MapCache>,
        peers: Arc<Peers>,
        addresses: Arc<Addresses>,
        log: Weak<dyn LogStore>,
    ) -> Self {
        let (client, names) = (ClientId(rand::random()), Names::default());
        Self { node, cluster, worker, map_cache, peers, addresses, log, client, names }
    }

    /// Carries out one command under a name of this node's own, wherever the system shard's leader is.
    ///
    /// # Errors
    /// As [`SystemProposer::execute_as`].
    pub async fn execute(&self, command: &SystemCommand) -> Result<SystemOutcome, Status> {
        let until = Instant::now() + PATIENCE;
        let mut now_us = self.peers.cluster_time_us();
        loop {
            let name = self.names.next();
            let deadline_us = now_us.saturating_add(u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX));
            let id = WriteId { client: self.client, seq: name.seq, floor: name.floor, deadline_us };
            match self.execute_as(id, command).await {
                // The shard's time is ahead, and no attempt can have been carried out: it starts anew, by that time.
                Err(refused) if Instant::now() < until => match expired(&refused) {
                    Some(shard_us) if shard_us > now_us => now_us = shard_us,
                    _ => return Err(refused),
                },
                ended => return ended,
            }
        }
    }

    /// Carries out one command under this name, wherever the system shard's leader is. However often and through whichever nodes
    /// it is tried, it is carried out at most once.
    ///
    /// # Errors
    /// With the typed error in its details: a refusal, or `Unavailable`, where nothing was done and nothing will be;
    /// `OutcomeUnknown` where an attempt may have been, or may yet be, carried out.
    pub async fn execute_as(&self, id: WriteId, command: &SystemCommand) -> Result<SystemOutcome, Status> {
        let wanted = Wanted::new(id, command);
        let until = Instant::now() + patience(id.deadline_us.saturating_sub(self.peers.cluster_time_us()));
        let began = Instant::now();
        // Attempts that may have been carried out, or may yet be.
        let mut unsure = 0;
        loop {
            let limit = ATTEMPT.min(until.saturating_duration_since(Instant::now()));
            let refused = match self.attempt(&wanted, limit).await {
                Ok(outcome) => return Ok(outcome),
                // What was sent before may be carried out all the same.
                Err(Attempt::Final(error)) if unsure > 0 => return Err(status(&unknown(&error.message))),
                Err(Attempt::Final(error)) => return Err(status(&error)),
                Err(Attempt::Again { maybe, why }) => {
                    unsure += u32::from(maybe);
                    why
                }
            };
            let pause = Duration::from_millis(rand::rng().random_range(pause_ms(unsure)));
            sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
            let unread = unsure == 0 && began.elapsed() > FIRST_WORD && refused.as_ref().is_some_and(is_too_new);
            // An attempt that has no time to be answered would add nothing but doubt.
            if unread || Instant::now() >= until {
                return Err(status(&out_of_time(unsure > 0, refused)));
            }
        }
    }

    async fn attempt(&self, wanted: &Wanted, limit: Duration) -> Result<SystemOutcome, Attempt> {
        let leader = match timeout(limit, self.local(wanted.request.clone())).await {
            Ok(Ok(outcome)) => return Ok(outcome),
            // A leader that no majority answers waits too.
            Err(_) => return Err(Attempt::Again { maybe: true, why: None }),
            Ok(Err(Refusal::NotLeader { leader, maybe: false })) => leader,
            Ok(Err(Refusal::WrongShard | Refusal::NotReady | Refusal::Overloaded)) => None,
            Ok(Err(refusal)) => return Err(Attempt::of(wire_error(&refusal))),
        };
        let leader = leader.or_else(|| self.map_cache.leader(SYSTEM_SHARD)).filter(|n| *n != self.node);
        if let Some(leader) = leader {
            self.check_reads(leader, LEADS, wanted)?;
        }
        let addr = match leader.and_then(|n| self.address(n)) {
            Some(addr) => Some(addr),
            None => self.any_member(wanted)?,
        };
        let Some(addr) = addr else { return Err(Attempt::Again { maybe: false, why: None }) };
        self.remote(&addr, wanted, limit).await
    }

    /// Whether a node is up, as far as this one hears.
    #[must_use]
    pub fn hears(&self, node: NodeId) -> bool {
        node == self.node || self.peers.is_alive(node)
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.addresses.of(node)
    }

    /// Refuses to send a command to a node that is not known to read it.
    fn check_reads(&self, node: NodeId, what: &str, wanted: &Wanted) -> Result<(), Attempt> {
        let said = self.peers.spoken(node).map(|said| said.speaks);
        if wanted.is_read_by(said, self.map_cache.version()) {
            return Ok(());
        }
        let addr = self.address(node).unwrap_or_else(|| "an unknown address".to_owned());
        let refused = invalid(CLUSTER_VERSION, not_read_by((node, addr.as_str(), what), said, wanted.reads));
        Err(match said {
            Some(_) => Attempt::Final(refused),
            // Its first word may be on its way.
            None => Attempt::Again { maybe: false, why: Some(refused) },
        })
    }

    /// A random other member of the system shard that reads the command: it knows the leader, or will.
    fn any_member(&self, wanted: &Wanted) -> Result<Option<String>, Attempt> {
        let Some(map) = self.map_cache.get() else { return Ok(None) };
        let Some(system) = map.shards.get(&SYSTEM_SHARD) else { return Ok(None) };
        let members: Vec<NodeId> = system.membership.voters().filter(|n| *n != self.node).collect();
        let speak = |node: &NodeId| self.check_reads(*node, MEMBER, wanted);
        let reading: Vec<NodeId> = members.iter().copied().filter(|node| speak(node).is_ok()).collect();
        let pick = |among: &[NodeId]| among.get(rand::rng().random_range(0..among.len().max(1))).copied();
        match (pick(&reading), pick(&members)) {
            (Some(node), _) => Ok(self.address(node)),
            (None, Some(node)) => speak(&node).map(|()| None),
            (None, None) => Ok(None),
        }
    }

    async fn local(&self, request: WriteRequest) -> Result<SystemOutcome, Refusal> {
        match ask(&self.worker, SYSTEM_SHARD, Body::Write(request)).await? {
            Answer::Outcome(Outcome::System(outcome)) => {
                SystemOutcome::decode(outcome).map_err(|e| Refusal::Invalid { field: OUTCOME, why: e.to_string() })
            }
            other => Err(Refusal::Invalid { field: OUTCOME, why: format!("{other:?}") }),
        }
    }

    async fn remote(&self, addr: &str, wanted: &Wanted, limit: Duration) -> Result<SystemOutcome, Attempt> {
        let internal = |why: String| Attempt::Final(error(Kind::Unavailable(v1::Unavailable {}), false, why));
        let endpoint = dial::endpoint(addr).map_err(internal)?;
        let channel = endpoint.connect().await.map_err(|_| Attempt::Again { maybe: false, why: None })?;
        let proposal = wanted.proposal(self.cluster, self.map_cache.version());
        let guarded = proposal.command.is_empty();
        match timeout(limit, PeerClient::new(channel).propose(proposal)).await {
            Err(_) => Err(Attempt::Again { maybe: true, why: None }),
            Ok(Err(status)) => Err(match typed(&status) {
                // It does not lead. The node that does may not read the command.
                Some(v1::Error { kind: Some(Kind::NotLeader(why)), .. })
                    if !why.maybe && why.leader != 0 && why.leader != self.node.0 =>
                {
                    match self.check_reads(NodeId(why.leader), LEADS, wanted) {
                        Err(refused) => refused,
                        Ok(()) => Attempt::Again { maybe: false, why: None },
                    }
                }
                // That node takes part in nothing; another may lead.
                Some(error) if matches!(error.kind, Some(Kind::Quarantined(_))) => {
                    Attempt::Again { maybe: false, why: Some(error) }
                }
                Some(error) => Attempt::of(error),
                // Another binary has taken the place of the one that was heard: it found no command.
                None if guarded && status.code() == tonic::Code::InvalidArgument => {
                    let why = format!("the node at {addr} does not take commands that need version {}", wanted.reads);
                    Attempt::Again { maybe: false, why: Some(invalid(CLUSTER_VERSION, why)) }
                }
                // A node of an earlier version says no more than this.
                None => Attempt::Again { maybe: status.code() != tonic::Code::FailedPrecondition, why: None },
            }),
            // It was carried out, and what came of it cannot be read.
            Ok(Ok(reply)) => SystemOutcome::decode(reply.into_inner().outcome)
                .map_err(|e| Attempt::Final(unknown(&format!("outcome of the system shard: {e}")))),
        }
    }
}

/// How long to try a command whose name is valid for another `left_us` µs: a little less, so that its caller, who waits that
/// long, is told the outcome.
fn patience(left_us: u64) -> Duration {
    PATIENCE.min(Duration::from_micros(left_us - left_us / 10))
}

/// The shard's time, where a leader refused a command for its deadline alone.
fn expired(status: &Status) -> Option<u64> {
    match typed(status)?.kind? {
        Kind::Expired(expired) => Some(expired.shard_time_us),
        _ => None,
    }
}

/// The wire's error of a refusal; where the command was carried out, that its outcome is unknown.
fn wire_error(refusal: &Refusal) -> v1::Error {
    match refusal {
        Refusal::Invalid { field: OUTCOME, why } => unknown(&format!("outcome of the system shard: {why}")),
        refusal => refusal_error(refusal),
    }
}

/// Whether a command was not sent, or not found, since no node that could propose it is known to read it.
fn is_too_new(error: &v1::Error) -> bool {
    matches!(&error.kind, Some(Kind::InvalidArgument(why)) if why.field == CLUSTER_VERSION)
}

fn unknown(why: &str) -> v1::Error {
    error(Kind::OutcomeUnknown(v1::OutcomeUnknown {}), true, why)
}

fn out_of_time(sent: bool, refused: Option<v1::Error>) -> v1::Error {
    let why = "the system shard did not answer in time: is a majority of its replicas up?";
    match refused {
        _ if sent => unknown(why),
        Some(refused) => refused,
        None => error(Kind::Unavailable(v1::Unavailable {}), true, why),
    }
}

/// What an attempt that brought no outcome means.
enum Attempt {
    /// Nothing will help; this attempt was not carried out, unless the error says that nobody knows.
    Final(v1::Error),
    /// Try again; `maybe`: this one may have been carried out, or may yet be. `why` says what kept it from it.
    Again { maybe: bool, why: Option<v1::Error> },
}

impl Attempt {
    fn of(error: v1::Error) -> Self {
        match &error.kind {
            Some(Kind::NotLeader(why)) => Self::Again { maybe: why.maybe, why: None },
            Some(Kind::WrongShard(_)) => Self::Again { maybe: false, why: None },
            Some(Kind::OutcomeUnknown(_)) if error.retryable => Self::Again { maybe: true, why: None },
            Some(Kind::Unavailable(_) | Kind::Overloaded(_) | Kind::DiskFull(_) | Kind::Changing(_)) => {
                Self::Again { maybe: false, why: Some(error) }
            }
            _ => Self::Final(error),
        }
    }
}

impl SystemProposer {
    fn joined(&self, node: NodeId, replaces: u64) -> JoinReply {
        JoinReply { cluster: Bytes::copy_from_slice(&self.cluster.to_be_bytes()), node: node.0, replaces }
    }

    /// A node joins in the place of a lost one. Each command may be repeated, and a joiner that got no answer asks again under its nonce:
    /// the rest is done then.
    async fn join_instead(
        &self,
        lost: NodeId,
        addr: &str,
        nonce: u128,
        speaks: ClusterVersion,
    ) -> Result<JoinReply, Status> {
        if self.hears(lost) {
            let why = format!(
                "node {lost} is alive: stop its process first; a node that is alive is not replaced by its number"
            );
            return Err(Status::failed_precondition(why));
        }
        let map = self.map_cache.get().ok_or_else(|| Status::unavailable("the node has no shard map yet"))?;
        let commands = map.replacement(lost, addr, nonce, speaks).map_err(Status::already_exists)?;
        let mut joined = None;
        for command in &commands {
            match self.execute(command).await? {
                SystemOutcome::Node(node) => joined = Some(node),
                SystemOutcome::Done | SystemOutcome::Job(_) => {}
                // What was looked at above has changed meanwhile: the joiner asks again.
                other => return Err(Status::unavailable(format!("node {lost} is not replaced yet: {other:?}"))),
            }
        }
        let node = joined.ok_or_else(|| Status::internal("a join without a node"))?;
        tracing::info!(%lost, %node, addr, "a node takes the place of a lost one, which is emptied and removed");
        Ok(self.joined(node, lost.0))
    }
}

#[tonic::async_trait]
impl SystemHandler for SystemProposer {
    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Status> {
        let nonce = <[u8; 16]>::try_from(&request.nonce[..])
            .map_err(|_| Status::invalid_argument("a join's nonce has 16 bytes"))?;
        let (joiner, version) = (ClusterVersion::said(request.speaks), self.map_cache.version());
        if joiner < version {
            // The words of the rule are in the log: what the node's settings may do about it is told here.
            let why = format!("{}, or raise its cluster.version_max", too_old(joiner, version));
            return Err(Status::invalid_argument(why));
        }
        // A cluster at its first version has no place for what a node speaks.
        let speaks = if version > ClusterVersion::FIRST { joiner } else { ClusterVersion::FIRST };
        let nonce = u128::from_be_bytes(nonce);
        if request.replaces != 0 {
            return self.join_instead(NodeId(request.replaces), &request.addr, nonce, speaks).await;
        }
        let command = SystemCommand::AddNode { addr: request.addr, nonce, speaks };
        match self.execute(&command).await? {
            // The cluster was raised meanwhile: the joiner asks again.
            SystemOutcome::Invalid { field, why } if field == SPEAKS && speaks < joiner => {
                Err(Status::unavailable(why))
            }
            SystemOutcome::Node(node) => Ok(self.joined(node, 0)),
            SystemOutcome::Invalid { field, why } => Err(Status::already_exists(format!("{field}: {why}"))),
            other => Err(Status::internal(format!("a join's outcome was {other:?}"))),
        }
    }

    async fn seal(&self, version: ClusterVersion) -> Result<(), Status> {
        let spoken = TooNew::check_for(version, self.map_cache.speaks());
        spoken.map_err(|too_new| Status::failed_precondition(too_new.to_string()))?;
        let log = Weak::clone(&self.log);
        let sealed = tokio::task::spawn_blocking(move || log.upgrade().map(|log| log.seal(version)));
        match sealed.await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => Err(Status::internal(error.to_string())),
            Ok(None) | Err(_) => Err(Status::unavailable("the node is stopping")),
        }
    }

    /// One attempt, here: the caller goes on looking for the leader.
    async fn propose(&self, proposal: SystemProposal) -> Result<SystemReply, Status> {
        if !proposal.cluster.is_empty() && proposal.cluster[..] != self.cluster.to_be_bytes() {
            let theirs: String = proposal.cluster.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            let ours = self.cluster;
            let why = format!("this node belongs to another cluster: to {ours:032x}, the proposal is for {theirs}");
            return Err(Status::failed_precondition(why));
        }
        let SystemProposal { command, newer_command, .. } = proposal;
        let command = if command.is_empty() { newer_command } else { command };
        let requests = decode_requests(command).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let [request] = &requests[..] else {
            return Err(Status::invalid_argument("a proposal has one command"));
        };
        if !matches!(request.op, Op::System(_)) {
            return Err(Status::invalid_argument("a proposal is a metadata command"));
        }
        match self.local(request.clone()).await {
            Ok(outcome) => Ok(SystemReply { outcome: outcome.encode() }),
            Err(refusal) => Err(not_proposed(&refusal)),
        }
    }
}

/// The code tells a caller of any version whether the command may have been proposed, the details tell why it was not.
fn not_proposed(refusal: &Refusal) -> Status {
    let typed = status(&wire_error(refusal));
    let code = match refusal {
        Refusal::NotLeader { maybe: true, .. } | Refusal::BelowFloor => tonic::Code::Unknown,
        Refusal::Invalid { field: OUTCOME, .. } => tonic::Code::Unknown,
        _ => tonic::Code::FailedPrecondition,
    };
    Status::with_details(code, typed.message(), Bytes::copy_from_slice(typed.details()))
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
