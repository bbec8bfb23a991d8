//! Liveness: the pulses between each pair of nodes, on connections of their own, both ways in each call.
//!
//! Owns: the `Pulse` calls, and what of a pulse goes to the failure detector and to the worker. Must never: share a
//! connection with consensus traffic (a full pipe must not look like a death), or count a pulse of a stranger.
//!
//! A pulse also carries what its sender has seen of its receiver. The first one of each outgoing call is handed to the
//! worker as an identity answer; the first of all opens the way for the link. An older process than the one a peer knows
//! is answered too, so that it learns it is older, but is not held for alive. So is a process beside another of its node.

use super::dial::{self, Backoff};
use super::hello::{self, Caller};
use super::shared::{Phase, Shared};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use synod_cluster::detector::Sign;
use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId, NodeWriteSeq};
use synod_engine::clock::wall_us;
use synod_engine::host::PeerInput;
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{Hello, PulseFrame};
use tokio::sync::{oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

/// Silence of an answered call after which the connection is made anew, in units of `dead_after`.
const SILENT_CALL: u32 = 3;

/// The pulses to one peer, until this node stops.
struct Beat {
    shared: Arc<Shared>,
    to: NodeId,
    pace: Interval,
    phase: watch::Receiver<Phase>,
    first: bool,
}

/// A stream of pulses: one at once, then one every `pulse_ms`, and one at once when this node begins to leave.
pub(super) fn pulses(shared: Arc<Shared>, to: NodeId) -> impl Stream<Item = PulseFrame> + Send + 'static {
    let mut pace = interval(shared.pulse_every());
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let phase = shared.phase.subscribe();
    futures::stream::unfold(Beat { shared, to, pace, phase, first: true }, |mut beat| async move {
        tokio::select! {
            _ = beat.pace.tick() => {}
            changed = beat.phase.changed() => changed.ok()?,
        }
        let phase = *beat.phase.borrow_and_update();
        if phase == Phase::Stopped {
            return None;
        }
        let frame = beat.shared.pulse_frame(beat.to, beat.first, phase == Phase::Leaving);
        beat.first = false;
        Some((frame, beat))
    })
}

impl Shared {
    /// What this node says to `to` now.
    fn pulse_frame(&self, to: NodeId, first: bool, leaving: bool) -> PulseFrame {
        let (seen_incarnation, seen_write_seq) = self.seen.get(to);
        PulseFrame {
            hello: first.then(|| self.placed_hello(to)),
            incarnation: self.local.incarnation.0,
            seen_incarnation: seen_incarnation.0,
            seen_write_seq: seen_write_seq.0,
            writes_done: self.progress.writes_done(),
            write_stalled_ms: u64::try_from(self.progress.stalled().as_millis()).unwrap_or(u64::MAX),
            clock_us: wall_us(),
            map_revision: self.map_revision.load(Ordering::Relaxed),
            leaving,
            disk_low: self.disk_low.load(Ordering::Relaxed),
            monotone_us: self.clocks.now(),
            speaks: self.local.speaks.0,
            processes: self.twins.tellings(to),
        }
    }

    /// A pulse of `caller` came. Returns whether it counts: it is of the process that the call began with, and that one speaks
    /// the cluster's version.
    fn pulse_heard(&self, caller: Caller, frame: &PulseFrame) -> bool {
        let theirs = caller.process.incarnation;
        if frame.incarnation != theirs.0 {
            return false;
        }
        let (seen, _) = self.seen.get(caller.node);
        if seen > theirs {
            self.complain(&hello::Refused::Older { me: self.local.node, from: caller.node, seen, theirs }.to_string());
            return true;
        }
        if self.believe(caller, "", frame.leaving).is_err() {
            return true;
        }
        let (me, speaks, version) = (self.local.node, ClusterVersion::said(frame.speaks), self.cluster_version());
        self.spoken.note(caller.node, speaks);
        if speaks < version {
            self.complain(&hello::Refused::TooOld { me, from: caller.node, speaks, version }.to_string());
            return false;
        }
        self.take_told(caller.node, frame);
        self.seen.meet(caller.node);
        self.peer_disk(caller.node, frame.disk_low);
        if self.clocks.heard(caller.node, theirs, frame.monotone_us) {
            self.walls.heard(caller.node, frame.clock_us, &self.inbox);
        }
        self.peer_map_revision.fetch_max(frame.map_revision, Ordering::Relaxed);
        let sign = Sign {
            incarnation: theirs,
            stalled: Duration::from_millis(frame.write_stalled_ms),
            leaving: frame.leaving,
        };
        self.detect(|detector, now| detector.heard(caller.node, sign, now));
        true
    }
}

impl Shared {
    /// Checks the hello that answers a call to `node`. Even of a refused node it is noted which version it speaks.
    fn greeted(&self, hello: Option<&Hello>, node: NodeId) -> Result<Caller, hello::Refused> {
        let checked = hello::check(hello, &self.local, self.cluster_version(), |from| from == node);
        self.note_refused(checked.as_ref().err());
        checked
    }
}

/// Keeps a pulse call to `node` open until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId, identified: watch::Sender<bool>) {
    let mut backoff = Backoff::default();
    let mut complaint = String::new();
    let mut broken = false;
    let mut failed = 0;
    loop {
        let Some(addr) = shared.addresses.pick(node, failed) else { return };
        failed += 1;
        let why = match dial::dial(&addr).await {
            Err(error) => {
                if broken && error.refused {
                    // It was there a moment ago and now nobody listens: the process is gone.
                    shared.detect(|detector, now| detector.refused(node, now));
                }
                broken = false;
                error.why
            }
            Ok(channel) => {
                let began = Instant::now();
                let why = talk(&shared, node, PeerClient::new(channel), &identified).await;
                if why.heard {
                    backoff.reset();
                    broken = true;
                    failed = 0;
                }
                if broken && began.elapsed() > shared.pulse_every() {
                    continue;
                }
                why.end
            }
        };
        if why != complaint {
            tracing::info!(%node, %addr, "pulse: {why}");
            complaint = why;
        }
        backoff.wait().await;
    }
}

/// How a call went.
struct Talked {
    /// Whether the peer answered as itself.
    heard: bool,
    /// Why the call ended.
    end: String,
}

/// One call's life.
async fn talk(
    shared: &Arc<Shared>,
    node: NodeId,
    mut client: PeerClient<tonic::transport::Channel>,
    identified: &watch::Sender<bool>,
) -> Talked {
    let patience = shared.dead_after() * SILENT_CALL;
    let mut talked = Talked { heard: false, end: String::new() };
    let mut answers = match timeout(patience, client.pulse(pulses(Arc::clone(shared), node))).await {
        Err(_) => {
            talked.end = format!("no answer within {patience:?}");
            return talked;
        }
        Ok(Err(status)) => {
            talked.end = status.message().to_owned();
            return talked;
        }
        Ok(Ok(answers)) => answers.into_inner(),
    };
    let mut peer: Option<Caller> = None;
    let mut untold: Option<(Incarnation, NodeWriteSeq)> = None;
    loop {
        let frame = match timeout(patience, answers.message()).await {
            Err(_) => {
                talked.end = format!("no pulse within {patience:?}");
                return talked;
            }
            Ok(Err(status)) => {
                talked.end = status.message().to_owned();
                return talked;
            }
            Ok(Ok(None)) => {
                talked.end = "closed by the peer".into();
                return talked;
            }
            Ok(Ok(Some(frame))) => frame,
        };
        let caller = match peer {
            Some(caller) => caller,
            None => match shared.greeted(frame.hello.as_ref(), node) {
                Err(refused) => {
                    talked.end = refused.to_string();
                    return talked;
                }
                Ok(caller) => {
                    talked.heard = true;
                    let addr = frame.hello.as_ref().map_or("", |hello| hello.addr.as_str());
                    if shared.believe(caller, addr, frame.leaving).is_ok() {
                        shared.said_address(caller, frame.hello.as_ref());
                        shared.said_place(caller, frame.hello.as_ref());
                    }
                    untold = Some((Incarnation(frame.seen_incarnation), NodeWriteSeq(frame.seen_write_seq)));
                    *peer.insert(caller)
                }
            },
        };
        if let Some(seen) = untold
            && shared.check_process(caller).is_ok()
            && shared.ruled_out_by(&frame).is_none()
            && shared.inbox.push(PeerInput::IdentityAnswer { from: node, seen }.into())
        {
            untold = None;
            // Only now the link: the peer's first answer must be from before it saw a write of this process.
            identified.send_replace(true);
        }
        if !shared.pulse_heard(caller, &frame) {
            talked.end = "a pulse of another process on this call, or of one that is too old".into();
            return talked;
        }
    }
}

/// The answer to an incoming call of `caller`: takes its pulses, returns ours, which end when its do.
pub(super) fn answer(
    shared: Arc<Shared>,
    caller: Caller,
    first: PulseFrame,
    mut frames: Streaming<PulseFrame>,
) -> impl Stream<Item = Result<PulseFrame, Status>> + Send + 'static {
    let (ended, end) = oneshot::channel::<()>();
    let ours = pulses(Arc::clone(&shared), caller.node);
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(frame) = next {
            if !shared.pulse_heard(caller, &frame) {
                break;
            }
            next = frames.message().await.ok().flatten();
        }
        drop(ended);
    });
    futures::StreamExt::take_until(ours, end).map(Ok)
}
