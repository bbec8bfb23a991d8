//! Incoming links: a caller's hello, then its frames to the worker.
//!
//! Owns: what an incoming link does. Must never: deliver part of a frame, or a frame of a caller whose hello was refused or
//! whose fence another stream has.

use super::counters::add;
use super::fences::Turn;
use super::hello::{Caller, HELLO_WAIT, Refused};
use super::shared::Shared;
use super::wire::{self, Frames, HELLO_BYTES_MAX, WireError};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{NodeId, NodeWriteSeq, ShardId};
use synod_engine::codec::message;
use synod_engine::host::PeerInput;
use synod_proto::peer::{LinkReply, PeerFrame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// A caller that is silent for this long, or at most twice as long, is gone: it asks for a sign of life every second.
const SILENCE: Duration = Duration::from_secs(10);
/// Messages of a frame that room is made for at once.
const MESSAGES: usize = 1024;
/// How long a reply may take to be taken.
const REPLY_WAIT: Duration = Duration::from_secs(2);

/// The preface and the first frame.
pub(super) async fn greeting(
    stream: &mut (impl AsyncRead + Unpin),
    frames: &mut Frames,
) -> Result<PeerFrame, WireError> {
    let hello = async {
        wire::preface(stream).await?;
        frames.next(stream, HELLO_BYTES_MAX).await?.ok_or(WireError::Torn)
    };
    match timeout(HELLO_WAIT, hello).await {
        Ok(hello) => hello,
        Err(_) => Err(WireError::Io(ErrorKind::TimedOut.into())),
    }
}

/// Says that the link is open still, or why it is not; whether that was taken.
pub(super) async fn reply(stream: &mut (impl AsyncWrite + Unpin), refused: String) -> bool {
    let reply = wire::frame(&LinkReply { refused });
    matches!(timeout(REPLY_WAIT, stream.write_all(&reply)).await, Ok(Ok(())))
}

/// Admits a caller, who says that it is at `addr`, and takes its fence.
pub(super) fn admit(shared: &Shared, caller: Caller, addr: &str) -> Result<Turn, Refused> {
    let theirs = caller.process.incarnation;
    let older = |seen| Refused::Older { me: shared.local.node, from: caller.node, seen, theirs };
    let (seen, _) = shared.seen.get(caller.node);
    if seen > theirs {
        return Err(older(seen));
    }
    shared.believe(caller, addr, false)?;
    let turn = shared.fences.take(caller.node, theirs).map_err(older)?;
    // Whoever refused the process meanwhile may have closed its fence before it was taken here.
    shared.check_process(caller)?;
    Ok(turn)
}

/// Takes frames until the link ends, is fenced off or sends garbage; returns what the caller is told of that, if anything.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    caller: Caller,
    mut turn: Turn,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut frames: Frames,
    frame_bytes_max: usize,
) -> Option<String> {
    const PUT_OFF: &str = "a newer link of this node took its place";
    shared.seen.meet(caller.node);
    shared.linked(caller.node);
    let mut pace = interval(SILENCE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = true;
    let mut took_part = false;
    loop {
        let next = tokio::select! {
            next = frames.next(stream, frame_bytes_max) => next,
            _ = &mut turn.taken => return Some(PUT_OFF.into()),
            _ = pace.tick() => {
                if !std::mem::take(&mut heard) {
                    return Some(format!("nothing was heard for {SILENCE:?}"));
                }
                continue;
            }
        };
        heard = true;
        let input = match next {
            Ok(Some(frame)) => open_frame(caller, frame),
            Ok(None) => return None,
            Err(WireError::Io(_) | WireError::Torn) => return None,
            Err(error) => Err(error.to_string()),
        };
        match input {
            Ok(Some(input)) => {
                if deliver(shared, &turn, caller.node, &mut took_part, input).is_none() {
                    return Some(PUT_OFF.into());
                }
            }
            Ok(None) => {
                if !reply(stream, String::new()).await {
                    return None;
                }
            }
            Err(why) => {
                add(&shared.counters.garbage, 1);
                shared.complain(&format!("link of node {}: {why}", caller.node));
                return Some(why);
            }
        }
    }
}

/// Hands a frame to the worker. Returns `None` if a newer stream has the fence. `took_part` says whether this link has
/// delivered a frame before. Noting it once per link is enough: the fence is closed when another process is believed.
fn deliver(shared: &Shared, turn: &Turn, from: NodeId, took_part: &mut bool, input: PeerInput) -> Option<()> {
    let messages = match &input {
        PeerInput::Messages { messages, .. } => messages.len() as u64,
        _ => 0,
    };
    let taken = turn.deliver(|| {
        if !std::mem::replace(took_part, true) {
            shared.twins.took_part(from);
        }
        shared.inbox.push(input.into())
    })?;
    let counters = &shared.counters;
    add(&counters.frames_received, 1);
    add(if taken { &counters.messages_received } else { &counters.dropped_inbox }, messages);
    Some(())
}

/// Decodes a frame whole; `None` for one without messages: the caller asks for a sign of life.
fn open_frame(caller: Caller, frame: PeerFrame) -> Result<Option<PeerInput>, String> {
    if frame.hello.is_some() {
        return Err("a second hello".into());
    }
    if frame.incarnation != caller.process.incarnation.0 {
        let why = format!("a frame of incarnation {} on a link of {}", frame.incarnation, caller.process.incarnation);
        return Err(why);
    }
    let mut messages = Vec::with_capacity(frame.envelopes.len().min(MESSAGES));
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
    Ok(Some(PeerInput::Messages {
        from: caller.node,
        incarnation: caller.process.incarnation,
        write_seq: NodeWriteSeq(frame.write_seq),
        messages,
    }))
}
