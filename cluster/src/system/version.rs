//! The cluster's version: how it is raised, and what a node says that does not speak it.
//!
//! Owns: the rules of an upgrade, and its words. Must never: let the version fall, or let what a binary speaks decide the
//! outcome of a command that is chosen: replicas of different binaries apply the same commands.

use super::{SystemOutcome, SystemState};
use crate::buf::DecodeError;
use crate::ids::{ClusterVersion, NodeId};

/// The field of a command that is invalid where a node does not speak the cluster's version.
pub const SPEAKS: &str = "speaks";

/// The cluster is at a version, or is raised to one, that this binary does not speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster is at version {found}, this node speaks versions 1 to {spoken}: run a binary on it that speaks {found}{}",
    if *spoken < ClusterVersion::SPOKEN { ", or raise cluster.version_max" } else { "" }
)]
pub struct TooNew {
    /// The cluster's version.
    pub found: ClusterVersion,
    /// The greatest that this node speaks.
    pub spoken: ClusterVersion,
}

impl TooNew {
    /// The version, where this binary speaks it.
    ///
    /// # Errors
    /// It does not.
    pub fn check(found: ClusterVersion) -> Result<ClusterVersion, Self> {
        Self::check_for(found, ClusterVersion::SPOKEN)
    }

    /// The version, where a node speaks it that speaks up to `spoken`.
    ///
    /// # Errors
    /// It does not.
    pub fn check_for(found: ClusterVersion, spoken: ClusterVersion) -> Result<ClusterVersion, Self> {
        if found > spoken { Err(Self { found, spoken }) } else { Ok(found) }
    }
}

/// Why bytes are no metadata that this binary can work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// They are damaged, or of no known format.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// They are those of a cluster whose version this binary does not speak.
    #[error(transparent)]
    TooNew(#[from] TooNew),
}

/// What a node is told that speaks less than the cluster's version.
#[must_use]
pub fn too_old(speaks: ClusterVersion, cluster: ClusterVersion) -> String {
    format!(
        "the node speaks cluster versions up to {speaks}, the cluster is at version {cluster}: run a binary on it that \
         speaks {cluster}"
    )
}

/// Why a command that `needs` a version is not sent to a node that speaks less; `None`: it was never heard. The node comes with its address
/// and what it is.
#[must_use]
pub fn not_read_by(
    (node, addr, what): (NodeId, &str, &str),
    speaks: Option<ClusterVersion>,
    needs: ClusterVersion,
) -> String {
    let speaks = match speaks {
        Some(speaks) => format!("speaks cluster versions up to {speaks}"),
        None => "has not said yet which cluster versions it speaks".to_owned(),
    };
    format!(
        "node {node} at {addr}, {what}, {speaks}; the command needs {needs}: replace its binary (or raise its cluster.version_max), then \
         `synod cluster upgrade` raises the cluster's version"
    )
}

impl SystemState {
    /// Raises the version, where every node is known to speak it.
    pub(super) fn upgrade(&mut self, to: ClusterVersion, spoken_by: &[NodeId]) -> SystemOutcome {
        let invalid = |field: &str, why| SystemOutcome::Invalid { field: field.into(), why };
        // Replicas get such a command only from themselves: a chosen one of a later version is not even decoded.
        if let Err(too_new) = TooNew::check(to) {
            return invalid("to", too_new.to_string());
        }
        if to < self.version {
            let why = format!("the cluster is at version {}, and a version is never lowered to {to}", self.version);
            return invalid("to", why);
        }
        let silent: Vec<String> =
            self.nodes.keys().filter(|node| !spoken_by.contains(node)).map(NodeId::to_string).collect();
        if to > self.version && !silent.is_empty() {
            let why = format!("not known to speak version {to}: nodes {}", silent.join(", "));
            return invalid(SPEAKS, why);
        }
        self.version = to;
        SystemOutcome::Done
    }
}
