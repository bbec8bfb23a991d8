//! What cluster version each node speaks, and when it last said so.
//!
//! Owns: the table; it is filled by hellos and pulses. Must never: take silence for anything but the first version, or count a
//! word that is not of the process that a call began with.

use super::dial::dial;
use super::hello::hello;
use super::{Local, lock};
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

/// What each peer said last.
#[derive(Debug, Default)]
pub struct Spoken(Mutex<BTreeMap<NodeId, Said>>);

impl Spoken {
    /// `node` says what it speaks.
    pub(super) fn note(&self, node: NodeId, speaks: ClusterVersion) {
        lock(&self.0).insert(node, Said { speaks, at: Instant::now() });
    }

    /// `node` is no node of the cluster.
    pub(super) fn forget(&self, node: NodeId) {
        lock(&self.0).remove(&node);
    }

    /// What `node` said last, where it was ever heard.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Said> {
        lock(&self.0).get(&node).copied()
    }

    /// The nodes whose last word was below `version`.
    pub(super) fn below(&self, version: ClusterVersion) -> Vec<NodeId> {
        lock(&self.0).iter().filter(|(_, said)| said.speaks < version).map(|(node, _)| *node).collect()
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
}
