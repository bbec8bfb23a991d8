//! What cluster version each node speaks, when it last said so, and where it runs.
//!
//! Owns: the tables; they are filled by hellos and pulses. Must never: take silence for anything but the first version, count a
//! word that is not of the process that a call began with, or forget where a node of the cluster runs while it is down.

use super::dial::dial;
use super::hello::hello;
use super::{Local, lock};
use crate::config::PLACE_BYTES_MAX;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClusterVersion, NodeId};
use synod_proto::peer::SealRequest;
use synod_proto::peer::peer_client::PeerClient;
use tonic::{Code, Status};

/// What a node said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The greatest version that it speaks.
    pub speaks: ClusterVersion,
    /// When it said so.
    at: Instant,
}

impl Said {
    /// How long ago it said so.
    #[must_use]
    pub fn ago(&self) -> Duration {
        self.at.elapsed()
    }
}

/// Where a node runs: what fails together with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The zone; empty: it shares none.
    pub zone: String,
    /// The rack within the zone; empty: it shares none.
    pub rack: String,
}

/// What each node said last, this one among them.
#[derive(Debug, Default)]
pub struct Spoken {
    versions: Mutex<BTreeMap<NodeId, Said>>,
    places: Mutex<BTreeMap<NodeId, Place>>,
}

impl Spoken {
    /// `node` says what it speaks.
    pub(super) fn note(&self, node: NodeId, speaks: ClusterVersion) {
        lock(&self.versions).insert(node, Said { speaks, at: Instant::now() });
    }

    /// `node` is no node of the cluster.
    pub(super) fn forget(&self, node: NodeId) {
        lock(&self.versions).remove(&node);
        lock(&self.places).remove(&node);
    }

    /// `node` runs here. A name that no setting allows is taken for none.
    pub fn note_place(&self, node: NodeId, place: Place) {
        let short = |name: String| if name.len() <= PLACE_BYTES_MAX { name } else { String::new() };
        let Place { zone, rack } = place;
        lock(&self.places).insert(node, Place { zone: short(zone), rack: short(rack) });
    }

    /// Where `node` runs, as it said last.
    #[must_use]
    pub fn place(&self, node: NodeId) -> Place {
        lock(&self.places).get(&node).cloned().unwrap_or_default()
    }

    /// What `node` said last, where it was ever heard.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Said> {
        lock(&self.versions).get(&node).copied()
    }

    /// The nodes whose last word was below `version`.
    pub(super) fn below(&self, version: ClusterVersion) -> Vec<NodeId> {
        lock(&self.versions).iter().filter(|(_, said)| said.speaks < version).map(|(node, _)| *node).collect()
    }
}

/// Has node `to` at `addr` keep binaries that do not speak `version` from its data directory.
///
/// # Errors
/// Why it is not known to have done so.
pub async fn ask_seal(local: &Local, to: NodeId, addr: &str, version: ClusterVersion) -> Result<(), String> {
    seal(addr, SealRequest { hello: Some(hello(local, to)), version: version.0, could: 0 }).await
}

/// Asks node `to` at `addr` whether it could do so. It writes nothing: the first version keeps no binary out.
///
/// # Errors
/// Why it is not known that it could.
pub async fn ask_ready(local: &Local, to: NodeId, addr: &str, version: ClusterVersion) -> Result<(), String> {
    let first = ClusterVersion::FIRST.0;
    seal(addr, SealRequest { hello: Some(hello(local, to)), version: first, could: version.0 }).await
}

async fn seal(addr: &str, request: SealRequest) -> Result<(), String> {
    let channel = dial(addr).await.map_err(|error| error.why)?;
    PeerClient::new(channel).seal(request).await.map(drop).map_err(|status| reason(&status))
}

/// Why a call failed. The status of a call that a node does not know, or of a connection that ended, may have no words.
fn reason(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => "its binary knows no cluster versions: run a newer one on it".to_owned(),
        (code, "") => format!("the call ended without an answer ({})", code.description()),
        (_, why) => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_always_has_a_reason() {
        assert_eq!(reason(&Status::internal("the disk failed")), "the disk failed");
        assert!(reason(&Status::unimplemented("")).contains("knows no cluster versions"));
        assert!(reason(&Status::unavailable("")).contains("without an answer (The service is currently unavailable)"));
    }

    #[test]
    fn the_last_word_counts() {
        let (spoken, node) = (Spoken::default(), NodeId(2));
        assert_eq!(spoken.get(node), None);
        spoken.note(node, ClusterVersion::SECOND);
        assert_eq!(
            (spoken.get(node).map(|s| s.speaks), spoken.below(ClusterVersion::SECOND)),
            (Some(ClusterVersion(2)), vec![])
        );
        // Another binary took its place.
        spoken.note(node, ClusterVersion::FIRST);
        assert_eq!(spoken.below(ClusterVersion::SECOND), [node]);
        assert!(spoken.get(node).is_some_and(|said| said.ago() < Duration::from_secs(5)));
        spoken.forget(node);
        assert_eq!(spoken.get(node), None);
    }

    #[test]
    fn where_a_node_runs_is_known_until_it_is_no_node() {
        let (spoken, node) = (Spoken::default(), NodeId(2));
        let place = |zone: &str, rack: &str| Place { zone: zone.to_owned(), rack: rack.to_owned() };
        assert_eq!(spoken.place(node), Place::default());
        spoken.note_place(node, place("a", "r1"));
        assert_eq!(spoken.place(node), place("a", "r1"));
        spoken.note_place(node, place(&"z".repeat(PLACE_BYTES_MAX + 1), "r2"));
        assert_eq!(spoken.place(node), place("", "r2"), "no setting allows such a name");
        spoken.forget(node);
        assert_eq!(spoken.place(node), Place::default());
    }
}
