//! The first frame of a link or a pulse: who calls, and whom it means to call.
//!
//! Owns: the checks, and their words, which name both sides. Must never: let a stranger's frame past, or that of a node which
//! does not speak the cluster's version.

use super::Local;
use std::time::Duration;
use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId, Nonce};
use synod_engine::processes::Process;
use synod_proto::peer::Hello;
use tonic::Status;

/// The version of the conversation between nodes.
pub const PROTOCOL: u32 = 2;

/// How long a caller may take to say hello.
pub const HELLO_WAIT: Duration = Duration::from_secs(5);

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub process: Process,
}

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The stream did not begin with one.
    #[error("node {me} of cluster {cluster:032x} was called without a hello")]
    NoHello {
        /// Ours.
        cluster: u128,
        /// Ours.
        me: NodeId,
    },
    /// Another version of the conversation.
    #[error("node {me} speaks protocol {PROTOCOL} between nodes, node {from} protocol {theirs}")]
    Protocol {
        /// Ours.
        me: NodeId,
        /// The caller.
        from: NodeId,
        /// The caller's.
        theirs: u32,
    },
    /// Another cluster.
    #[error("this is node {me} of cluster {cluster:032x}, the caller is node {from} of cluster {theirs}")]
    Cluster {
        /// Ours.
        cluster: u128,
        /// Ours.
        me: NodeId,
        /// The caller.
        from: NodeId,
        /// The caller's, in hexadecimal.
        theirs: String,
    },
    /// The caller means another node.
    #[error("this is node {me} of cluster {cluster:032x}, node {from} wants node {wanted} at this address")]
    Target {
        /// Ours.
        cluster: u128,
        /// Ours.
        me: NodeId,
        /// The caller.
        from: NodeId,
        /// Whom it wants.
        wanted: NodeId,
    },
    /// The map knows no such node.
    #[error("node {me} of cluster {cluster:032x} does not know node {from} (yet)")]
    Unknown {
        /// Ours.
        cluster: u128,
        /// Ours.
        me: NodeId,
        /// The caller.
        from: NodeId,
    },
    /// A node that does not speak the cluster's version: what others send and write it may not understand.
    #[error(
        "node {from} speaks cluster versions up to {speaks}, the cluster is at version {version}: run a binary on node {from} \
         that speaks {version}; node {me} refuses it until then"
    )]
    TooOld {
        /// Ours.
        me: NodeId,
        /// The caller.
        from: NodeId,
        /// The caller's.
        speaks: ClusterVersion,
        /// The cluster's.
        version: ClusterVersion,
    },
    /// A process that a later one of the same node has already followed: the data directory was set back, or an old
    /// connection lingers.
    #[error(
        "node {me} has already seen incarnation {seen} of node {from}; incarnation {theirs} is older: the data directory of \
         node {from} was set back to an older copy, or an old process still runs"
    )]
    Older {
        /// Ours.
        me: NodeId,
        /// The caller.
        from: NodeId,
        /// Greatest seen.
        seen: Incarnation,
        /// The caller's.
        theirs: Incarnation,
    },
    /// Another process of the same node is known, which rules this one out.
    #[error("{0}")]
    Twice(String),
}

impl From<&Refused> for Status {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::NoHello { .. } => Self::invalid_argument(refused.to_string()),
            Refused::Unknown { .. } => Self::unavailable(refused.to_string()),
            _ => Self::failed_precondition(refused.to_string()),
        }
    }
}

/// Our hello to `to`.
pub fn hello(local: &Local, to: NodeId) -> Hello {
    Hello {
        cluster: local.cluster.to_be_bytes().to_vec().into(),
        node: local.node.0,
        to: to.0,
        incarnation: local.incarnation.0,
        protocol: PROTOCOL,
        speaks: local.speaks.0,
        nonce: local.nonce.0,
        // Said where it is known and of use: on links and pulses.
        addr: String::new(),
        // With the first pulse of a call.
        zone: String::new(),
        rack: String::new(),
    }
}

/// Checks a hello; `known` says whether the map knows a node, `version` is the cluster's.
pub fn check(
    hello: Option<&Hello>,
    local: &Local,
    version: ClusterVersion,
    known: impl Fn(NodeId) -> bool,
) -> Result<Caller, Refused> {
    let (cluster, me) = (local.cluster, local.node);
    let hello = hello.ok_or(Refused::NoHello { cluster, me })?;
    let from = NodeId(hello.node);
    if hello.protocol != PROTOCOL {
        return Err(Refused::Protocol { me, from, theirs: hello.protocol });
    }
    if hello.cluster[..] != cluster.to_be_bytes() {
        let theirs = hello.cluster.iter().take(16).map(|b| format!("{b:02x}")).collect();
        return Err(Refused::Cluster { cluster, me, from, theirs });
    }
    if hello.to != me.0 {
        return Err(Refused::Target { cluster, me, from, wanted: NodeId(hello.to) });
    }
    if from == me || !known(from) {
        return Err(Refused::Unknown { cluster, me, from });
    }
    let speaks = ClusterVersion::said(hello.speaks);
    if speaks < version {
        return Err(Refused::TooOld { me, from, speaks, version });
    }
    let process = Process { incarnation: Incarnation(hello.incarnation), nonce: Nonce(hello.nonce) };
    Ok(Caller { node: from, process })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_hello_is_refused_by_name() {
        let speaks = ClusterVersion::SECOND;
        let local =
            |cluster, node| Local { cluster, node: NodeId(node), incarnation: Incarnation(7), nonce: Nonce(9), speaks };
        let check = |hello: Option<&Hello>, me: &Local, known: &dyn Fn(NodeId) -> bool| {
            check(hello, me, ClusterVersion::SECOND, known)
        };
        let me = local(0xa1, 1);
        let known = |n: NodeId| n.0 <= 3;
        let good = hello(&local(0xa1, 2), NodeId(1));
        let process = Process { incarnation: Incarnation(7), nonce: Nonce(9) };
        assert_eq!(check(Some(&good), &me, &known), Ok(Caller { node: NodeId(2), process }));
        let say = |h: Option<&Hello>| check(h, &me, &known).unwrap_err().to_string();
        assert!(say(None).contains("without a hello"));
        let other = say(Some(&hello(&local(0xb2, 2), NodeId(1))));
        assert!(other.contains("a1, the caller is node 2") && other.ends_with("b2"), "{other}");
        assert!(say(Some(&hello(&local(0xa1, 2), NodeId(3)))).contains("node 2 wants node 3"));
        assert!(say(Some(&hello(&local(0xa1, 9), NodeId(1)))).contains("does not know node 9"));
        assert!(say(Some(&hello(&local(0xa1, 1), NodeId(1)))).contains("does not know node 1"));
        // Silence is the first version.
        let old = say(Some(&Hello { speaks: 0, ..good.clone() }));
        assert!(old.starts_with("node 2 speaks cluster versions up to 1, the cluster is at version 2: run a"), "{old}");
        assert!(say(Some(&Hello { protocol: 1, ..good.clone() })).contains("node 2 protocol 1"));
        assert!(say(Some(&Hello { cluster: vec![1u8; 9000].into(), ..good })).len() < 200);
    }
}
