//! Which offered snapshots this node fetches, and what becomes of each part: the decisions, without a connection.
//!
//! Owns: what is being fetched, and the file that it goes into. Must never: know a socket, a thread or a clock, keep a part
//! that was not verified, or fetch one shard's snapshot twice at a time.
//!
//! Times are relative to an origin that the caller chooses.

use super::partial::Partial;
use super::{FileStore, Header, SnapshotFile, Throttle, file_name};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{ClientId, NodeId, ShardId};

/// Time for which an offer of a snapshot that was fetched already is ignored: its offerer may not know yet.
const DONE_WITH: Duration = Duration::from_secs(5);

/// A snapshot that a peer has for this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The peer.
    pub from: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// The file's digest.
    pub digest: u128,
    /// The file's size.
    pub bytes: u64,
}

/// What is being fetched or loaded, and what was.
#[derive(Default)]
pub struct Fetches {
    under_way: BTreeMap<ShardId, u128>,
    done: BTreeMap<ShardId, (u128, Duration)>,
}

impl Fetches {
    /// Whether an offer is taken up now.
    pub fn begin(&mut self, offer: &Offer, now: Duration) -> bool {
        let done = |(digest, at): &(u128, Duration)| *digest == offer.digest && now.saturating_sub(*at) < DONE_WITH;
        if self.under_way.contains_key(&offer.shard) || self.done.get(&offer.shard).is_some_and(done) {
            return false;
        }
        self.under_way.insert(offer.shard, offer.digest);
        true
    }

    /// It did not come. What is there of it stays; the next offer goes on.
    pub fn failed(&mut self, shard: ShardId) {
        self.under_way.remove(&shard);
    }

    /// The worker is done with what was fetched.
    pub fn done_with(&mut self, shard: ShardId, now: Duration) {
        if let Some(digest) = self.under_way.remove(&shard) {
            self.done.insert(shard, (digest, now));
        }
    }
}

/// Whether a file among those received is what came of another snapshot of the offered shard.
#[must_use]
pub fn is_of_another(name: &str, offer: &Offer) -> bool {
    let own = file_name(offer.shard);
    let stem = format!("{}.", own.file_stem().unwrap_or_default().to_string_lossy());
    name.starts_with(&stem) && name.ends_with(".part") && !name.contains(&format!("{:032x}", offer.digest))
}

/// How a fetch begins.
pub enum Begun {
    /// An earlier process has fetched it already.
    Whole(Box<Header>),
    /// From some part on.
    Parts(Receiving),
}

/// A file on its way.
pub struct Receiving {
    offer: Offer,
    cluster: ClientId,
    partial: Partial,
}

impl Receiving {
    /// Looks at what is there of an offered snapshot; it will stand at `path`.
    ///
    /// # Errors
    /// The file cannot be written, or is of another shard.
    pub fn begin(files: &Arc<dyn FileStore>, path: &Path, cluster: ClientId, offer: Offer) -> Result<Begun, String> {
        let whole = SnapshotFile::open_in(files, path, Some(cluster)).ok();
        let whole = whole.filter(|file| file.digest() == offer.digest);
        if let Some(file) = whole.filter(|file| file.verify(&mut Throttle::new(0)).is_ok()) {
            return expected(&file, &offer).map(|header| Begun::Whole(Box::new(header)));
        }
        let partial = Partial::open_in(files, path, offer.digest).map_err(|e| e.to_string())?;
        Ok(Begun::Parts(Self { offer, cluster, partial }))
    }

    /// The part to ask for.
    #[must_use]
    pub fn next_part(&self) -> u64 {
        self.partial.next_part()
    }

    /// Takes a part; whether it was the last.
    ///
    /// # Errors
    /// It is not the one due, or damaged: nothing of it is kept.
    pub fn take(&mut self, part: u64, data: &bytes::Bytes) -> Result<bool, String> {
        let due = self.partial.next_part();
        if part != due {
            return Err(format!("part {part} came where part {due} was due"));
        }
        self.partial.take(data).map_err(|e| e.to_string())
    }

    /// All parts came: the whole is verified and has its name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn finish(self) -> Result<Header, String> {
        let Self { offer, cluster, partial } = self;
        let file = partial.finish(cluster, offer.digest, &mut Throttle::new(0)).map_err(|e| e.to_string())?;
        expected(&file, &offer)
    }
}

fn expected(file: &SnapshotFile, offer: &Offer) -> Result<Header, String> {
    match file.header() {
        header if header.shard == offer.shard => Ok(header.clone()),
        header => Err(format!("a snapshot of shard {} was sent for one of shard {}", header.shard, offer.shard)),
    }
}
