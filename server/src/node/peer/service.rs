//! The gRPC service between nodes, and who may open a link.
//!
//! Owns: who gets through at which time: `Identify` from the first moment, the rest once the node is up. Must never: trust
//! a caller before its hello was checked.

use super::counters::add;
use super::dial::frame_bytes_max;
use super::hello::{self, Caller, HELLO_WAIT, Refused};
use super::identify::IdentifyService;
use super::peers::Peers;
use super::shared::{Phase, Shared};
use super::wire::{Frames, WireError};
use super::{SnapshotHandler, SystemHandler, intake, pulse};
use crate::config::Settings;
use crate::node::listener::{Guarded, Permit};
use prost::Message;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use synod_cluster::ids::{ClusterVersion, NodeId};
use synod_cluster::system::TooNew;
use synod_proto::peer::peer_server::{Peer, PeerServer};
use synod_proto::peer::{
    Hello, IdentifyReply, IdentifyRequest, JoinReply, JoinRequest, MergeFrozen, MergeFrozenReply, PulseFrame,
    ScrubHash, ScrubHashReply, SealReply, SealRequest, SnapshotAsk, SnapshotAskReply, SnapshotFetch, SnapshotOffer,
    SnapshotOfferReply, SnapshotPart, SystemProposal, SystemReply,
};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The metadata with a node's encoded hello in calls that it makes as a client: they get a peer's permit by it.
pub const HELLO_METADATA: &str = "synod-hello-bin";

/// The service; made before the node knows where it belongs.
pub struct PeerService {
    identify: Arc<IdentifyService>,
    frame_bytes_max: usize,
    running: OnceLock<Running>,
}

struct Running {
    shared: Arc<Shared>,
    handler: Arc<dyn SystemHandler>,
    snapshots: Arc<dyn SnapshotHandler>,
}

impl PeerService {
    /// Answers `Identify` and nothing else, until [`PeerService::started`].
    #[must_use]
    pub fn new(identify: Arc<IdentifyService>, settings: &Settings) -> Arc<Self> {
        let frame_bytes_max = frame_bytes_max(settings);
        Arc::new(Self { identify, frame_bytes_max, running: OnceLock::new() })
    }

    /// The node is up: links, pulses, joins and proposals are taken from now on, and snapshots are offered and fetched. A
    /// second call changes nothing.
    pub fn started(&self, peers: &Peers, handler: Arc<dyn SystemHandler>, snapshots: Arc<dyn SnapshotHandler>) {
        let _ = self.running.set(Running { shared: peers.shared(), handler, snapshots });
    }

    fn snapshots<T>(
        &self,
        request: &Request<T>,
        hello: Option<&Hello>,
    ) -> Result<(NodeId, &Arc<dyn SnapshotHandler>), Status> {
        let Running { shared, snapshots, .. } = self.get()?;
        let caller = shared.greet(hello).map_err(|refused| Status::from(&refused))?;
        shared.check_process(caller).map_err(|refused| Status::from(&shared.turn_away(refused)))?;
        take_permit(permit(request).as_ref())?;
        Ok((caller.node, snapshots))
    }

    /// What the node's server serves.
    #[must_use]
    pub fn into_server(self: Arc<Self>) -> PeerServer<Self> {
        let longest = self.frame_bytes_max;
        PeerServer::from_arc(self).max_decoding_message_size(longest)
    }

    /// Lets a client's call in, unless its connection is at the entrance. A call of a node, which bears its hello, gets a
    /// peer's permit; a call of an operator's command gets an operator's where it has no client's.
    ///
    /// # Errors
    /// There is no permit for its connection.
    pub fn let_in(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(permit) = permit(&request) else { return Ok(request) };
        let hello = request.metadata().get_bin(HELLO_METADATA).and_then(|hello| hello.to_bytes().ok());
        if let (Some(hello), Ok(running)) = (hello.and_then(|bytes| Hello::decode(bytes).ok()), self.get())
            && running.shared.greet(Some(&hello)).is_ok()
        {
            take_permit(Some(&permit))?;
        } else if request.metadata().contains_key(synod_proto::OPERATOR) {
            permit.serve_operator()?;
        } else {
            permit.serve_client()?;
        }
        Ok(request)
    }

    /// Takes a connection that begins as a link, on a task of its own.
    pub fn link(self: &Arc<Self>, mut connection: Guarded) {
        let service = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(why) = service.serve_link(&mut connection).await {
                intake::reply(&mut connection, why).await;
            }
        });
    }

    /// A link's life; what the caller is to be told of its end.
    async fn serve_link(&self, connection: &mut Guarded) -> Option<String> {
        let mut frames = Frames::default();
        let greeting = intake::greeting(connection, &mut frames).await;
        let shared = match self.get() {
            Ok(running) => Arc::clone(&running.shared),
            Err(status) => return Some(status.message().to_owned()),
        };
        let hello = match greeting {
            Ok(frame) => frame.hello,
            Err(WireError::Io(_)) => return None,
            Err(error) => {
                add(&shared.counters.refused, 1);
                shared.complain(&format!("a connection without a hello: {error}"));
                return Some(error.to_string());
            }
        };
        let admitted = shared.greet(hello.as_ref()).and_then(|caller| {
            let addr = hello.as_ref().map_or("", |hello| hello.addr.as_str());
            let turn = intake::admit(&shared, caller, addr).map_err(|refused| shared.turn_away(refused))?;
            Ok((caller, turn))
        });
        if let (Ok((caller, _)), Err(status)) = (&admitted, take_permit(Some(connection.permit()))) {
            shared.complain(&format!("link of node {}: {}", caller.node, status.message()));
            return Some(status.message().to_owned());
        }
        if let Ok((caller, _)) = &admitted {
            shared.said_address(*caller, hello.as_ref());
        }
        match admitted {
            Err(refused) => Some(refused.to_string()),
            Ok(_) if !intake::reply(connection, String::new()).await => None,
            Ok((caller, turn)) => {
                intake::receive(&shared, caller, turn, connection, frames, self.frame_bytes_max).await
            }
        }
    }

    fn get(&self) -> Result<&Running, Status> {
        let running = self.running.get().ok_or_else(|| Status::unavailable("the node is starting"))?;
        if *running.shared.phase.borrow() == Phase::Stopped {
            return Err(Status::unavailable("the node is stopping"));
        }
        Ok(running)
    }
}

impl Shared {
    fn greet(&self, hello: Option<&Hello>) -> Result<Caller, Refused> {
        let checked = hello::check(hello, &self.local, self.cluster_version(), |node| self.knows(node));
        self.note_refused(checked.as_ref().err());
        checked.map_err(|refused| self.turn_away(refused))
    }

    fn turn_away(&self, refused: Refused) -> Refused {
        add(&self.counters.refused, 1);
        self.complain(&refused.to_string());
        refused
    }
}

/// The permit of a request's connection; none in a test without a listener.
fn permit<T>(request: &Request<T>) -> Option<Arc<Permit>> {
    request.extensions().get::<Arc<Permit>>().cloned()
}

/// Gives a connection whose hello was checked a peer's permit.
fn take_permit(permit: Option<&Arc<Permit>>) -> Result<(), Status> {
    permit.map_or(Ok(()), |permit| permit.serve_peer())
}

/// The first frame of a stream.
async fn first<T>(frames: &mut Streaming<T>) -> Result<T, Status> {
    match timeout(HELLO_WAIT, frames.message()).await {
        Err(_) => Err(Status::deadline_exceeded(format!("no hello within {HELLO_WAIT:?}"))),
        Ok(Err(status)) => Err(status),
        Ok(Ok(None)) => Err(Status::invalid_argument("the stream ended before its hello")),
        Ok(Ok(Some(frame))) => Ok(frame),
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type PulseStream = Pin<Box<dyn Stream<Item = Result<PulseFrame, Status>> + Send>>;

    async fn pulse(&self, request: Request<Streaming<PulseFrame>>) -> Result<Response<Self::PulseStream>, Status> {
        let shared = Arc::clone(&self.get()?.shared);
        let permit = permit(&request);
        let mut frames = request.into_inner();
        let first = first(&mut frames).await?;
        let caller = shared.greet(first.hello.as_ref()).map_err(|refused| Status::from(&refused))?;
        take_permit(permit.as_ref())?;
        // Before our first pulse to it, which tells it what is known of its node. One that is not believed is to hear that too.
        let addr = first.hello.as_ref().map_or("", |hello| hello.addr.as_str());
        if shared.believe(caller, addr, first.leaving).is_ok() {
            shared.said_address(caller, first.hello.as_ref());
            shared.said_place(caller, first.hello.as_ref());
        }
        Ok(Response::new(Box::pin(pulse::answer(shared, caller, first, frames))))
    }

    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<IdentifyReply>, Status> {
        self.identify.answer(request.get_ref()).map(Response::new)
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        self.get()?.handler.join(request.into_inner()).await.map(Response::new)
    }

    type FetchSnapshotStream = ReceiverStream<Result<SnapshotPart, Status>>;

    async fn offer_snapshot(&self, request: Request<SnapshotOffer>) -> Result<Response<SnapshotOfferReply>, Status> {
        let offer = request.get_ref();
        let (from, handler) = self.snapshots(&request, offer.hello.as_ref())?;
        Arc::clone(handler).offered(from, offer);
        Ok(Response::new(SnapshotOfferReply {}))
    }

    async fn ask_snapshot(&self, request: Request<SnapshotAsk>) -> Result<Response<SnapshotAskReply>, Status> {
        let ask = request.get_ref();
        let (by, handler) = self.snapshots(&request, ask.hello.as_ref())?;
        handler.asked(by, ask);
        Ok(Response::new(SnapshotAskReply {}))
    }

    async fn tell_scrub(&self, request: Request<ScrubHash>) -> Result<Response<ScrubHashReply>, Status> {
        let told = request.get_ref();
        let (from, handler) = self.snapshots(&request, told.hello.as_ref())?;
        handler.scrub_hash(from, told);
        Ok(Response::new(ScrubHashReply {}))
    }

    async fn tell_merge(&self, request: Request<MergeFrozen>) -> Result<Response<MergeFrozenReply>, Status> {
        let told = request.get_ref();
        let (from, handler) = self.snapshots(&request, told.hello.as_ref())?;
        handler.merge_word(from, told);
        Ok(Response::new(MergeFrozenReply {}))
    }

    async fn fetch_snapshot(
        &self,
        request: Request<SnapshotFetch>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let fetch = request.get_ref();
        let (to, handler) = self.snapshots(&request, fetch.hello.as_ref())?;
        handler.parts(to, fetch).map(|parts| Response::new(ReceiverStream::new(parts)))
    }

    async fn seal(&self, request: Request<SealRequest>) -> Result<Response<SealReply>, Status> {
        let (running, request) = (self.get()?, request.into_inner());
        running.shared.greet(request.hello.as_ref()).map_err(|refused| Status::from(&refused))?;
        let could = TooNew::check_for(ClusterVersion(request.could), running.shared.local.speaks);
        could.map_err(|too_new| Status::failed_precondition(too_new.to_string()))?;
        running.handler.seal(ClusterVersion(request.version)).await?;
        Ok(Response::new(SealReply {}))
    }

    async fn propose(&self, request: Request<SystemProposal>) -> Result<Response<SystemReply>, Status> {
        self.get()?.handler.propose(request.into_inner()).await.map(Response::new)
    }
}
