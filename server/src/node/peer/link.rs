//! Consensus traffic: the outgoing link to each peer, and what an incoming one does.
//!
//! Owns: the `Link` calls. Must never: carry a frame of an earlier connection over to the next (what waited is dropped and
//! sent again by consensus), deliver part of a frame, or retry a frame.
//!
//! A link is opened only after the peer has told, over the pulse, what it has seen of this node: so that first answer
//! cannot hold anything of this process, and shows a data directory that was set back even where the new process happens
//! to bear a number already used.

use super::counters::add;
use super::dial::{self, Backoff};
use super::hello::{Caller, Refused, hello};
use super::lanes::Turn;
use super::outbox::{Queue, Slot};
use super::peers::Shared;
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_engine::codec::message;
use synod_engine::host::Input;
use synod_engine::ids::{NodeId, NodeWriteSeq, ShardId};
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{LinkReply, PeerFrame};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// How long a peer may take to accept or refuse a link.
const ACCEPT_WAIT: Duration = Duration::from_secs(5);
/// A link that lasted so long is tried again without a pause.
const LASTED: Duration = Duration::from_secs(1);

/// Keeps a link to `node` open until the task is aborted.
pub(super) async fn run(
    shared: Arc<Shared>,
    node: NodeId,
    addr: String,
    slot: Arc<Slot>,
    mut identified: watch::Receiver<bool>,
) {
    if identified.wait_for(|told| *told).await.is_err() {
        return;
    }
    let mut backoff = Backoff::default();
    let mut complaint = String::new();
    loop {
        let began = Instant::now();
        let why = carry(&shared, node, &addr, &slot).await;
        if why != complaint {
            tracing::info!(%node, %addr, "link: {why}");
            complaint = why;
        }
        if began.elapsed() > LASTED {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

/// One connection's life; returns why it ended.
async fn carry(shared: &Shared, node: NodeId, addr: &str, slot: &Slot) -> String {
    let channel = match dial::dial(addr).await {
        Ok(channel) => channel,
        Err(error) => return error.why,
    };
    let (queue, frames) = Queue::new(hello(&shared.local, node));
    let mut client = PeerClient::new(channel);
    let mut replies = match timeout(ACCEPT_WAIT, client.link(frames)).await {
        Err(_) => return format!("neither accepted nor refused within {ACCEPT_WAIT:?}"),
        Ok(Err(status)) => return status.message().to_owned(),
        Ok(Ok(replies)) => replies.into_inner(),
    };
    let open = slot.open(queue);
    add(&shared.counters.links_opened, 1);
    tracing::debug!(%node, %addr, "link open");
    shared.linked(node);
    let why = loop {
        match replies.message().await {
            Ok(Some(LinkReply { refused })) if refused.is_empty() => {}
            Ok(Some(LinkReply { refused })) => break refused,
            Ok(None) => break "closed by the peer".to_owned(),
            Err(status) => break status.message().to_owned(),
        }
    };
    drop(open);
    add(&shared.counters.links_ended, 1);
    why
}

/// Admits a caller to its lane.
pub(super) fn admit(shared: &Shared, caller: Caller) -> Result<Turn, Refused> {
    let older = |seen| Refused::Older { me: shared.local.node, from: caller.node, seen, theirs: caller.incarnation };
    let (seen, _) = shared.seen.get(caller.node);
    if seen > caller.incarnation {
        return Err(older(seen));
    }
    shared.lanes.take(caller.node, caller.incarnation).map_err(older)
}

/// Takes frames from an incoming link until it ends, is put off or sends garbage; then says so over `end`.
pub(super) async fn receive(
    shared: Arc<Shared>,
    caller: Caller,
    mut turn: Turn,
    mut frames: Streaming<PeerFrame>,
    end: mpsc::Sender<Result<LinkReply, Status>>,
) {
    shared.seen.meet(caller.node);
    shared.linked(caller.node);
    loop {
        let next = tokio::select! {
            next = frames.message() => next,
            _ = &mut turn.taken => {
                let _ = end.try_send(Err(Status::aborted("a newer link of this node took its place")));
                return;
            }
        };
        let refused = match next {
            Ok(Some(frame)) => match open_frame(caller, frame) {
                Ok(None) => continue,
                Ok(Some(input)) => match deliver(&shared, &turn, input) {
                    Some(()) => continue,
                    None => Status::aborted("a newer link of this node took its place"),
                },
                Err(why) => {
                    add(&shared.counters.garbage, 1);
                    shared.complain(&format!("link of node {}: {why}", caller.node));
                    Status::invalid_argument(why)
                }
            },
            Ok(None) => return,
            Err(status) => {
                shared.complain(&format!("link of node {} ended: {}", caller.node, status.message()));
                status
            }
        };
        let _ = end.try_send(Err(refused));
        return;
    }
}

/// Hands a frame to the worker; `None` where the lane is not this stream's any more.
fn deliver(shared: &Shared, turn: &Turn, input: Input) -> Option<()> {
    let messages = match &input {
        Input::Peer { messages, .. } => messages.len() as u64,
        _ => 0,
    };
    let taken = turn.deliver(|| shared.inbox.push(input))?;
    let counters = &shared.counters;
    add(&counters.frames_received, 1);
    add(if taken { &counters.messages_received } else { &counters.dropped_inbox }, messages);
    Some(())
}

/// Decodes a frame whole; `None` for one without messages.
fn open_frame(caller: Caller, frame: PeerFrame) -> Result<Option<Input>, String> {
    if frame.hello.is_some() {
        return Err("a second hello".into());
    }
    if frame.incarnation != caller.incarnation.0 {
        let why = format!("a frame of incarnation {} on a link of {}", frame.incarnation, caller.incarnation);
        return Err(why);
    }
    let mut messages = Vec::with_capacity(frame.envelopes.len());
    for envelope in frame.envelopes {
        match message::decode(envelope.message) {
            Ok(message) => messages.push((ShardId(envelope.shard), message)),
            Err(error) => {
                return Err(format!("a message for shard {} cannot be read: {error}", envelope.shard));
            }
        }
    }
    if messages.is_empty() {
        return Ok(None);
    }
    Ok(Some(Input::Peer {
        from: caller.node,
        incarnation: caller.incarnation,
        write_seq: NodeWriteSeq(frame.write_seq),
        messages,
    }))
}
