//! Why a fresh data directory does not come to belong to a cluster.
//!
//! Owns: the words, each the one line that the operator reads. Must never: leave out what to do next where there is something.

use synod_engine::StoreError;

/// Why a node cannot begin. The message is the one line the operator reads.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A fresh directory and no flag.
    #[error(
        "data directory {dir} is empty and belongs to no cluster: start with --bootstrap A,B,C to found one, or with --join \
         A,B,C to join one"
    )]
    NeitherFlag {
        /// The directory.
        dir: String,
    },
    /// A fresh directory and both flags.
    #[error("--bootstrap founds a cluster and --join joins one: give one of them")]
    BothFlags,
    /// A malformed address.
    #[error("{flag}: {addr:?} is no address of the form HOST:PORT")]
    BadAddress {
        /// Where it stood.
        flag: &'static str,
        /// The address.
        addr: String,
    },
    /// This node is not in its list.
    #[error("--bootstrap {} does not name this node's own address {addr} (--advertise, else --listen)", list.join(","))]
    NotInList {
        /// Ours.
        addr: String,
        /// As given.
        list: Vec<String>,
    },
    /// An address twice in the list.
    #[error("--bootstrap names {addr} twice")]
    Duplicate {
        /// The address.
        addr: String,
    },
    /// The cluster runs, with this node's data in another directory.
    #[error(
        "cluster {cluster:032x} is already bootstrapped and node {node} at {addr} has its data elsewhere: this data \
         directory is empty; a replaced node joins with --join under a new address, or at this one with --join LIST --replace {node}"
    )]
    DataElsewhere {
        /// The cluster.
        cluster: u128,
        /// Whom this node is taken for.
        node: u64,
        /// Ours.
        addr: String,
    },
    /// The directory belongs to a cluster of another list.
    #[error(
        "data directory {dir} belongs to node {node} of cluster {cluster:032x} ({}), not to a cluster of --bootstrap {}; to run \
         that node, start it without --bootstrap; if nodes moved, with --join and where some of the others are now",
        founders_text(founders), list.join(",")
    )]
    OtherList {
        /// The directory.
        dir: String,
        /// Its cluster.
        cluster: u128,
        /// Its node.
        node: u64,
        /// That cluster's founders.
        founders: Vec<String>,
        /// As given.
        list: Vec<String>,
    },
    /// The directory belongs to another node of the cluster.
    #[error(
        "data directory {dir} belongs to node {node} of cluster {cluster:032x}, whose address is {own}, not {addr}; if that \
         node moved, start it without --bootstrap, and with --join and where some of the others are now"
    )]
    OtherNode {
        /// The directory.
        dir: String,
        /// Its cluster.
        cluster: u128,
        /// Its node.
        node: u64,
        /// That node's address.
        own: String,
        /// The address given now.
        addr: String,
    },
    /// A founder of the list belongs to a cluster of another list.
    #[error(
        "{peer} already belongs to cluster {cluster:032x} ({}), which was not founded with this --bootstrap list, or \
         without {addr}; join it with --join {peer}",
        founders_text(founders)
    )]
    OtherCluster {
        /// Which founder.
        peer: String,
        /// Its cluster.
        cluster: u128,
        /// That cluster's founders.
        founders: Vec<String>,
        /// Ours.
        addr: String,
    },
    /// Two founders of the list belong to two clusters.
    #[error(
        "{} belongs to cluster {:032x} and {} to cluster {:032x}: they cannot found one together",
        peers[0], clusters[0], peers[1], clusters[1]
    )]
    TwoClusters {
        /// Which founders.
        peers: [String; 2],
        /// Their clusters.
        clusters: [u128; 2],
    },
    /// A founder was given another list.
    #[error("{}; this node with --bootstrap {}: every founder gets the same list in the same order", theirs_text(peer, theirs), ours.join(","))]
    ListDiffers {
        /// Which founder.
        peer: String,
        /// Its list.
        theirs: Vec<String>,
        /// Ours.
        ours: Vec<String>,
    },
    /// Two addresses of the list reach this process.
    #[error("--bootstrap names this node twice: {peer} is {addr} itself")]
    SameProcess {
        /// The other address.
        peer: String,
        /// Ours.
        addr: String,
    },
    /// An answer that makes no sense.
    #[error("{peer} answered nonsense: {why}")]
    Nonsense {
        /// Who.
        peer: String,
        /// What.
        why: String,
    },
    /// `--join` names nobody else.
    #[error("--join names only this node's own address {addr}; name members of the cluster")]
    JoinSelf {
        /// Ours.
        addr: String,
    },
    /// The cluster does not take this node.
    #[error("{peer} refused the join: {why}")]
    JoinRefused {
        /// Who.
        peer: String,
        /// Why.
        why: String,
    },
    /// `--replace` names the very node that the directory belongs to.
    #[error(
        "--replace {node}: the data directory {dir} is that of node {node} itself; start it without --replace, or give an empty \
         directory where its disk is lost"
    )]
    ReplacesItself {
        /// The directory.
        dir: String,
        /// Its node.
        node: u64,
    },
    /// A file of the data directory.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The log store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BootstrapError {
    /// Whether the flags are at fault, rather than what they met.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NeitherFlag { .. }
                | Self::BothFlags
                | Self::BadAddress { .. }
                | Self::NotInList { .. }
                | Self::Duplicate { .. }
                | Self::JoinSelf { .. }
                | Self::ReplacesItself { .. }
        )
    }
}

fn founders_text(founders: &[String]) -> String {
    if founders.is_empty() { "it joined later".into() } else { format!("founders {}", founders.join(", ")) }
}

fn theirs_text(peer: &str, theirs: &[String]) -> String {
    if theirs.is_empty() {
        format!("{peer} was started without --bootstrap")
    } else {
        format!("{peer} was started with --bootstrap {}", theirs.join(","))
    }
}
