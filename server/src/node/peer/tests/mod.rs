//! Nodes on loopback sockets, each on a runtime of its own so that it can die like a process, with a recorder in the
//! worker's place.
//!
//! Owns: the rig. Must never: wait for a fixed time where a condition can be waited for.

mod founding;
mod links;

use super::outbox::Outbox;
use super::{
    IdentifyService, Local, PeerService, Peers, PeersSetup, Progress, SeenTable, SnapshotHandler, SystemHandler,
    WorkerInbox,
};
use crate::config::{Settings, Timing};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClientId, ClusterVersion, Incarnation, NodeId, NodeWriteSeq, Nonce, ShardId};
use synod_cluster::system::SystemState;
use synod_engine::clock::MonotoneClock;
use synod_engine::host::{Input, PeerInput};
use synod_engine::logstore::NodeIdentity;
use synod_paxos::message::Message;
use synod_paxos::types::Ballot;
use synod_proto::peer::{
    JoinReply, JoinRequest, MergeFrozen, ScrubHash, SnapshotAsk, SnapshotFetch, SnapshotOffer, SnapshotPart,
    SystemProposal, SystemReply,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Server;

const CLUSTER: u128 = 0xc1;

/// Waits until `holds`, at most ten seconds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a worker was told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Peer { from: u64, incarnation: u64, write_seq: u64, messages: Vec<(u64, Message)> },
    Alive(u64),
    Dead(u64),
    Identity(u64, (u64, u64)),
    Twice(u64, String),
}

/// Stands in the worker's place.
#[derive(Default)]
struct Recorder {
    told: Mutex<Vec<Told>>,
    full: AtomicBool,
}

impl WorkerInbox for Recorder {
    fn push(&self, input: Input) -> bool {
        if self.full.load(Ordering::Relaxed) {
            return false;
        }
        let Input::Peer(input) = input else { panic!("an input that peers never send") };
        let told = match input {
            PeerInput::Messages { from, incarnation, write_seq, messages } => Told::Peer {
                from: from.0,
                incarnation: incarnation.0,
                write_seq: write_seq.0,
                messages: messages.into_iter().map(|(shard, message)| (shard.0, message)).collect(),
            },
            PeerInput::Liveness { node, alive: true } => Told::Alive(node.0),
            PeerInput::Liveness { node, alive: false } => Told::Dead(node.0),
            PeerInput::IdentityAnswer { from, seen } => Told::Identity(from.0, (seen.0.0, seen.1.0)),
            PeerInput::RunsTwice { from, why, .. } => Told::Twice(from.0, why.to_string()),
            // With every pulse: told of apart.
            PeerInput::Clock { .. } => return true,
            PeerInput::Disk { .. } => panic!("no test says that a disk is low"),
        };
        self.told.lock().unwrap().push(told);
        true
    }
}

impl Recorder {
    fn has(&self, what: &Told) -> bool {
        self.count(what) > 0
    }

    fn count(&self, what: &Told) -> usize {
        self.told.lock().unwrap().iter().filter(|told| *told == what).count()
    }

    fn all(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    fn messages(&self) -> usize {
        self.all().iter().filter(|told| matches!(told, Told::Peer { .. })).count()
    }
}

/// A handler of a node without a system shard.
struct NoHandler;

#[tonic::async_trait]
impl SystemHandler for NoHandler {
    async fn join(&self, _: JoinRequest) -> Result<JoinReply, Status> {
        Err(Status::unavailable("no system shard"))
    }

    async fn seal(&self, _: ClusterVersion) -> Result<(), Status> {
        Ok(())
    }

    async fn propose(&self, proposal: SystemProposal) -> Result<SystemReply, Status> {
        Ok(SystemReply { outcome: proposal.command })
    }
}

impl SnapshotHandler for NoHandler {
    fn offered(self: Arc<Self>, _: NodeId, _: &SnapshotOffer) {}

    fn asked(&self, _: NodeId, _: &SnapshotAsk) {}

    fn scrub_hash(&self, _: NodeId, _: &ScrubHash) {}

    fn merge_word(&self, _: NodeId, _: &MergeFrozen) {}

    fn parts(&self, _: NodeId, _: &SnapshotFetch) -> Result<mpsc::Receiver<Result<SnapshotPart, Status>>, Status> {
        Err(Status::unavailable("no snapshots"))
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A socket on a port of its own.
fn socket() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

/// Serves `service` on `runtime` until that goes.
fn serve(runtime: &Runtime, listener: TcpListener, service: Arc<PeerService>) {
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let router = super::tune_server(Server::builder()).add_service(Arc::clone(&service).into_server());
        let links = move |connection| service.link(connection);
        let permits = crate::node::listener::Permits::new(1024);
        let incoming = crate::node::listener::incoming(listener, permits, 1024, super::wire::PREFACE[0], links);
        router.serve_with_incoming(incoming).await.unwrap();
    });
}

/// One node's process.
struct Node {
    runtime: Option<Runtime>,
    addr: String,
    peers: Arc<Peers>,
    outbox: Outbox,
    inbox: Arc<Recorder>,
    seen: Arc<SeenTable>,
    progress: Arc<Progress>,
}

impl Node {
    fn start(local: Local, listener: TcpListener, timing: Timing) -> Self {
        Self::start_with(local, listener, timing, Vec::new())
    }

    /// With addresses where others may be.
    fn start_with(local: Local, listener: TcpListener, timing: Timing, hints: Vec<String>) -> Self {
        let addr = listener.local_addr().unwrap().to_string();
        let runtime = runtime();
        let seen = Arc::new(SeenTable::default());
        let identify = IdentifyService::new(Arc::clone(&seen));
        identify.member(&NodeIdentity { cluster: ClientId(local.cluster), node: local.node }, &[]);
        let service = PeerService::new(Arc::clone(&identify), &Settings::default());
        serve(&runtime, listener, Arc::clone(&service));
        let inbox = Arc::new(Recorder::default());
        let progress = Arc::new(Progress::default());
        let setup = PeersSetup {
            local,
            timing,
            inbox: Arc::clone(&inbox) as Arc<dyn WorkerInbox>,
            seen: Arc::clone(&seen),
            progress: Arc::clone(&progress),
            clock: MonotoneClock::default(),
            drift_ppm: None,
            identify,
            spoken: Arc::default(),
            advertised: addr.clone(),
            hints,
        };
        let _entered = runtime.enter();
        let peers = Peers::start(setup);
        service.started(&peers, Arc::new(NoHandler), Arc::new(NoHandler));
        let outbox = peers.outbox();
        Self { addr, peers, outbox, inbox, seen, progress, runtime: Some(runtime) }
    }

    fn learn(&self, map: &SystemState) {
        let _entered = self.runtime.as_ref().map(Runtime::enter);
        self.peers.update(map);
    }

    /// Sends probe number `probe` on shard 5.
    fn probe(&mut self, to: u64, probe: u64, durable: u64) {
        self.outbox.send(NodeId(to), ShardId(5), &message(probe));
        self.outbox.flush(NodeWriteSeq(durable));
    }

    /// Dies as a process does: its sockets close, nothing is said.
    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn message(probe: u64) -> Message {
    Message::ReadProbe { ballot: Ballot::default(), probe }
}

fn local(node: u64, incarnation: u64) -> Local {
    let speaks = ClusterVersion::SPOKEN;
    Local { cluster: CLUSTER, node: NodeId(node), incarnation: Incarnation(incarnation), nonce: Nonce(0), speaks }
}

fn map(addrs: &[&str]) -> SystemState {
    let founders: Vec<String> = addrs.iter().map(|a| (*a).to_owned()).collect();
    SystemState::found(CLUSTER, &founders)
}

/// Quick pulses, a patience that a busy machine does not break.
fn quick() -> Timing {
    Timing { pulse_ms: 20, dead_after_ms: 1_500, ..Timing::default() }
}

/// Nodes 1 and 2 of one cluster, at incarnations 1 and 2.
fn pair(timing: &Timing) -> (Node, Node) {
    let ((one, a), (two, b)) = (socket(), socket());
    let one = Node::start(local(1, 1), one, timing.clone());
    let two = Node::start(local(2, 2), two, timing.clone());
    let map = map(&[&a, &b]);
    one.learn(&map);
    two.learn(&map);
    (one, two)
}

/// Sends probes until one arrives: a link takes its time to open, and what is sent before is lost.
fn carried(from: &mut Node, to: &Node, number: u64) {
    let before = to.inbox.messages();
    until("a message is carried", || {
        from.probe(to.peers.shared().local.node.0, number, 1);
        to.inbox.messages() > before
    });
}
