//! Snapshots between nodes: offered in one call, fetched in another over a connection of its own, so that a long transfer
//! never stands before a consensus message.
//!
//! Owns: the calls. Must never: keep a part that was not verified, or send faster than it was told to.

use super::Local;
use super::dial;
use super::hello::hello;
use prometheus::IntCounter;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{ClientId, NodeId, ShardId, Slot};
use synod_engine::host::MergeWord;
use synod_engine::snapshot::format::{BLOCK_EXTRA_BYTES, BODY_BYTES_MAX};
use synod_engine::snapshot::offers::{Begun, Offer, Receiving};
use synod_engine::snapshot::{Header, OsFiles, SnapshotFile, Throttle};
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{MergeFrozen, ScrubHash, SnapshotAsk, SnapshotFetch, SnapshotOffer, SnapshotPart};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::Status;

/// How long an offer may take to arrive.
const OFFER_WAIT: Duration = Duration::from_secs(5);
/// How long the next part of a snapshot may take.
const PART_WAIT: Duration = Duration::from_secs(30);

/// The offer of a message from a peer; `None` where its digest is of another length.
#[must_use]
pub fn offer_of(from: NodeId, offer: &SnapshotOffer) -> Option<Offer> {
    let digest = u128::from_be_bytes(offer.digest.get(..)?.try_into().ok()?);
    Some(Offer { from, shard: ShardId(offer.shard), digest, bytes: offer.bytes })
}

/// Offers a file to a peer.
///
/// # Errors
/// Why it did not arrive.
pub async fn offer(local: &Local, to: NodeId, addr: &str, file: &SnapshotFile) -> Result<(), String> {
    let channel = dial::dial(addr).await.map_err(|e| e.why)?;
    let header = file.header();
    let offer = SnapshotOffer {
        hello: Some(hello(local, to)),
        shard: header.shard.0,
        digest: file.digest().to_be_bytes().to_vec().into(),
        bytes: file.bytes(),
        slot: header.basis.id.slot.0,
    };
    match timeout(OFFER_WAIT, PeerClient::new(channel).offer_snapshot(offer)).await {
        Err(_) => Err(format!("no answer within {OFFER_WAIT:?}")),
        Ok(answer) => answer.map(|_| ()).map_err(|status| status.message().to_owned()),
    }
}

/// Asks a peer for a snapshot of a shard at or above a slot.
///
/// # Errors
/// Why the question did not arrive.
pub async fn ask(local: &Local, to: NodeId, addr: &str, shard: ShardId, least: Slot) -> Result<(), String> {
    let channel = dial::dial(addr).await.map_err(|e| e.why)?;
    let ask = SnapshotAsk { hello: Some(hello(local, to)), shard: shard.0, least: least.0 };
    match timeout(OFFER_WAIT, PeerClient::new(channel).ask_snapshot(ask)).await {
        Err(_) => Err(format!("no answer within {OFFER_WAIT:?}")),
        Ok(answer) => answer.map(|_| ()).map_err(|status| status.message().to_owned()),
    }
}

/// Tells a peer what the replica here holds at a slot.
///
/// # Errors
/// Why it did not arrive.
pub async fn tell_scrub(
    local: &Local,
    to: NodeId,
    addr: &str,
    (shard, slot, hash): (ShardId, Slot, u128),
) -> Result<(), String> {
    let channel = dial::dial(addr).await.map_err(|e| e.why)?;
    let hash = hash.to_be_bytes().to_vec().into();
    let told = ScrubHash { hello: Some(hello(local, to)), shard: shard.0, slot: slot.0, hash };
    match timeout(OFFER_WAIT, PeerClient::new(channel).tell_scrub(told)).await {
        Err(_) => Err(format!("no answer within {OFFER_WAIT:?}")),
        Ok(answer) => answer.map(|_| ()).map_err(|status| status.message().to_owned()),
    }
}

/// Gives a peer this node's word about a merge.
///
/// # Errors
/// Why it did not arrive.
pub async fn tell_merge(
    local: &Local,
    to: NodeId,
    addr: &str,
    (target, word): (ShardId, MergeWord),
) -> Result<(), String> {
    let channel = dial::dial(addr).await.map_err(|e| e.why)?;
    let MergeWord { source, seq, frozen } = word;
    let hello = Some(hello(local, to));
    let told = MergeFrozen { hello, target: target.0, source: source.0, seq, frozen: frozen.0 };
    match timeout(OFFER_WAIT, PeerClient::new(channel).tell_merge(told)).await {
        Err(_) => Err(format!("no answer within {OFFER_WAIT:?}")),
        Ok(answer) => answer.map(|_| ()).map_err(|status| status.message().to_owned()),
    }
}

/// Sends a file's parts from `part` on, until the receiver has enough.
///
/// # Errors
/// The file is damaged or cannot be read.
pub async fn serve(
    file: Arc<SnapshotFile>,
    part: u64,
    mut throttle: Throttle,
    sent: IntCounter,
    parts: mpsc::Sender<Result<SnapshotPart, Status>>,
) -> Result<(), String> {
    for part in part..file.parts() {
        let from = Arc::clone(&file);
        let read = match spawn_blocking(move || from.part(part)).await {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(error)) => Err(Status::data_loss(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let bytes = read.as_ref().map_or(0, |data| data.len() as u64);
        let damaged = read.as_ref().err().map(|status| status.message().to_owned());
        let gone = parts.send(read.map(|data| SnapshotPart { part, data })).await.is_err();
        if let Some(why) = damaged {
            tracing::error!("a snapshot cannot be sent: {why}");
            return Err(why);
        }
        if gone {
            return Ok(());
        }
        sent.inc_by(bytes);
        tokio::time::sleep(throttle.pause(bytes)).await;
    }
    Ok(())
}

/// Fetches an offered file, or goes on with it, and verifies it; it stands at `path` then.
///
/// # Errors
/// Why it did not come, or what is wrong with it. What came of it is kept.
pub async fn fetch(
    local: &Local,
    addr: &str,
    offer: &Offer,
    path: &Path,
    mut throttle: Throttle,
    received: &IntCounter,
) -> Result<Header, String> {
    let (cluster, digest) = (ClientId(local.cluster), offer.digest);
    let (target, wanted) = (path.to_path_buf(), offer.clone());
    let begun = blocking(move || Receiving::begin(&OsFiles::shared(), &target, cluster, wanted));
    let mut receiving = match begun.await? {
        Begun::Whole(header) => return Ok(*header),
        Begun::Parts(receiving) => receiving,
    };
    let channel = dial::dial(addr).await.map_err(|e| e.why)?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(BODY_BYTES_MAX + BLOCK_EXTRA_BYTES + (1 << 20));
    let request = SnapshotFetch {
        hello: Some(hello(local, offer.from)),
        shard: offer.shard.0,
        digest: digest.to_be_bytes().to_vec().into(),
        part: receiving.next_part(),
    };
    let mut parts = match timeout(PART_WAIT, client.fetch_snapshot(request)).await {
        Err(_) => return Err(format!("no answer within {PART_WAIT:?}")),
        Ok(answer) => answer.map_err(|status| status.message().to_owned())?.into_inner(),
    };
    loop {
        let part = match timeout(PART_WAIT, parts.message()).await {
            Err(_) => return Err(format!("no part within {PART_WAIT:?}")),
            Ok(Err(status)) => return Err(status.message().to_owned()),
            Ok(Ok(None)) => return Err("it ended before its last part".into()),
            Ok(Ok(Some(part))) => part,
        };
        received.inc_by(part.data.len() as u64);
        let pause = throttle.pause(part.data.len() as u64);
        let (back, last) = blocking(move || {
            let last = receiving.take(part.part, &part.data)?;
            Ok((receiving, last))
        })
        .await?;
        receiving = back;
        if last {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    blocking(move || receiving.finish()).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    spawn_blocking(work).await.map_err(|e| e.to_string())?
}
