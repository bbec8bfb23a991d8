//! The gRPC service between nodes.
//!
//! Owns: who gets through at which time: `Identify` from the first moment, the rest once the node is up. Must never: trust
//! a caller before its hello was checked.

use super::counters::add;
use super::desk::Desk;
use super::dial::frame_bytes_max;
use super::hello::{self, Caller, HELLO_WAIT, Refused};
use super::peers::{Peers, Phase, Shared};
use super::{SnapshotGate, SystemGate, link, pulse};
use crate::config::Settings;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use synod_engine::ids::NodeId;
use synod_proto::peer::peer_server::{Peer, PeerServer};
use synod_proto::peer::{
    Hello, IdentifyReply, IdentifyRequest, JoinReply, JoinRequest, LinkReply, PeerFrame, PulseFrame, ScrubTold,
    ScrubToldReply, SnapshotAsk, SnapshotAskReply, SnapshotFetch, SnapshotOffer, SnapshotOfferReply, SnapshotPart,
    SystemProposal, SystemReply,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The service; made before the node knows where it belongs.
pub struct PeerService {
    desk: Arc<Desk>,
    up: OnceLock<Up>,
    snapshots: OnceLock<Arc<dyn SnapshotGate>>,
}

struct Up {
    shared: Arc<Shared>,
    gate: Arc<dyn SystemGate>,
}

impl PeerService {
    /// Answers `Identify` and nothing else, until [`PeerService::up`].
    #[must_use]
    pub fn new(desk: Arc<Desk>) -> Arc<Self> {
        Arc::new(Self { desk, up: OnceLock::new(), snapshots: OnceLock::new() })
    }

    /// The node is up: links, pulses, joins and proposals are taken from now on. A second call changes nothing.
    pub fn up(&self, peers: &Peers, gate: Arc<dyn SystemGate>) {
        let _ = self.up.set(Up { shared: peers.shared(), gate });
    }

    /// Snapshots are offered and fetched from now on. A second call changes nothing.
    pub fn serve_snapshots(&self, gate: Arc<dyn SnapshotGate>) {
        let _ = self.snapshots.set(gate);
    }

    fn snapshots(&self, hello: Option<&Hello>) -> Result<(NodeId, &Arc<dyn SnapshotGate>), Status> {
        let caller = self.get()?.shared.greet(hello)?;
        let gate = self.snapshots.get().ok_or_else(|| Status::unavailable("the node is starting"))?;
        Ok((caller.node, gate))
    }

    /// What the node's server serves.
    #[must_use]
    pub fn into_server(self: Arc<Self>, settings: &Settings) -> PeerServer<Self> {
        PeerServer::from_arc(self).max_decoding_message_size(frame_bytes_max(settings))
    }

    fn get(&self) -> Result<&Up, Status> {
        let up = self.up.get().ok_or_else(|| Status::unavailable("the node is starting"))?;
        if *up.shared.phase.borrow() == Phase::Stopped {
            return Err(Status::unavailable("the node is stopping"));
        }
        Ok(up)
    }
}

impl Shared {
    fn greet(&self, hello: Option<&Hello>) -> Result<Caller, Status> {
        hello::check(hello, &self.local, |node| self.knows(node)).map_err(|refused| self.turn_away(&refused))
    }

    fn turn_away(&self, refused: &Refused) -> Status {
        add(&self.counters.refused, 1);
        self.complain(&refused.to_string());
        Status::from(refused)
    }
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
    type LinkStream = ReceiverStream<Result<LinkReply, Status>>;
    type PulseStream = Pin<Box<dyn Stream<Item = Result<PulseFrame, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<PeerFrame>>) -> Result<Response<Self::LinkStream>, Status> {
        let shared = Arc::clone(&self.get()?.shared);
        let mut frames = request.into_inner();
        let caller = shared.greet(first(&mut frames).await?.hello.as_ref())?;
        let turn = link::admit(&shared, caller).map_err(|refused| shared.turn_away(&refused))?;
        let (end, replies) = mpsc::channel(1);
        tokio::spawn(link::receive(shared, caller, turn, frames, end));
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn pulse(&self, request: Request<Streaming<PulseFrame>>) -> Result<Response<Self::PulseStream>, Status> {
        let shared = Arc::clone(&self.get()?.shared);
        let mut frames = request.into_inner();
        let first = first(&mut frames).await?;
        let caller = shared.greet(first.hello.as_ref())?;
        Ok(Response::new(Box::pin(pulse::answer(shared, caller, first, frames))))
    }

    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<IdentifyReply>, Status> {
        self.desk.answer(request.get_ref()).map(Response::new)
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        self.get()?.gate.join(request.into_inner()).await.map(Response::new)
    }

    type FetchSnapshotStream = ReceiverStream<Result<SnapshotPart, Status>>;

    async fn offer_snapshot(&self, request: Request<SnapshotOffer>) -> Result<Response<SnapshotOfferReply>, Status> {
        let offer = request.into_inner();
        let (from, gate) = self.snapshots(offer.hello.as_ref())?;
        Arc::clone(gate).offered(from, &offer);
        Ok(Response::new(SnapshotOfferReply {}))
    }

    async fn ask_snapshot(&self, request: Request<SnapshotAsk>) -> Result<Response<SnapshotAskReply>, Status> {
        let ask = request.into_inner();
        let (by, gate) = self.snapshots(ask.hello.as_ref())?;
        gate.asked(by, &ask);
        Ok(Response::new(SnapshotAskReply {}))
    }

    async fn tell_scrub(&self, request: Request<ScrubTold>) -> Result<Response<ScrubToldReply>, Status> {
        let told = request.into_inner();
        let (from, gate) = self.snapshots(told.hello.as_ref())?;
        gate.scrub_told(from, &told);
        Ok(Response::new(ScrubToldReply {}))
    }

    async fn fetch_snapshot(
        &self,
        request: Request<SnapshotFetch>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let fetch = request.into_inner();
        let (to, gate) = self.snapshots(fetch.hello.as_ref())?;
        gate.parts(to, &fetch).map(|parts| Response::new(ReceiverStream::new(parts)))
    }

    async fn propose(&self, request: Request<SystemProposal>) -> Result<Response<SystemReply>, Status> {
        self.get()?.gate.propose(request.into_inner()).await.map(Response::new)
    }
}
