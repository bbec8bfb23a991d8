//! A metadata command on its way to the system shard's leader.
//!
//! Owns: which nodes may be sent a command, in which form, and how soon again. Must never: let a node find a command that it cannot read: one
//! of the first version proposes it all the same, and the copies of the system shard differ from then on.

use bytes::Bytes;
use std::ops::Range;
use synod_cluster::ids::ClusterVersion;
use synod_cluster::system::SystemCommand;
use synod_engine::command::{Op, WriteId, WriteRequest, encode_requests};
use synod_proto::peer::SystemProposal;

/// The longest pause before the next attempt, milliseconds, as long as no attempt can have left an entry in the log.
const PAUSE_MS: u64 = 60;
/// How long the asked node is to try, milliseconds.
const TIMEOUT_MS: u32 = 2000;

/// A command, and who can be sent it.
pub struct Wanted {
    /// The command under its name.
    pub request: WriteRequest,
    /// What a node must speak to read it.
    pub reads: ClusterVersion,
    /// What the cluster must be at for its leader to propose it.
    needs: ClusterVersion,
}

impl Wanted {
    /// A command under a name.
    #[must_use]
    pub fn new(id: WriteId, command: &SystemCommand) -> Self {
        let request = WriteRequest { id, op: Op::System(command.encode()) };
        Self { request, reads: command.read_from(), needs: command.needs() }
    }

    /// Whether a node that said this of itself reads the command; silence is the first version. In a cluster that is at the command's
    /// version there is no other node: it was raised once all spoke it.
    #[must_use]
    pub fn is_read_by(&self, said: Option<ClusterVersion>, cluster: ClusterVersion) -> bool {
        self.reads <= cluster.max(said.unwrap_or(ClusterVersion::FIRST))
    }

    /// Whether the cluster is too old for the command, as far as is known here. The leader may know better.
    #[must_use]
    pub fn is_ahead_of(&self, cluster: ClusterVersion) -> bool {
        self.needs > cluster
    }

    /// The command as it is sent from a node that knows the cluster to be at a version. One that the cluster is too old for is where only
    /// a newer binary looks: an older one may have taken the place of that which was heard.
    #[must_use]
    pub fn proposal(&self, cluster_id: u128, cluster: ClusterVersion) -> SystemProposal {
        let bytes = encode_requests(std::iter::once(&self.request), self.request.size());
        let (command, newer_command) =
            if self.is_ahead_of(cluster) { (Bytes::new(), bytes) } else { (bytes, Bytes::new()) };
        let cluster = Bytes::copy_from_slice(&cluster_id.to_be_bytes());
        SystemProposal { command, timeout_ms: TIMEOUT_MS, cluster, newer_command }
    }
}

/// How long to pause before the next attempt, milliseconds, after so many of which nobody knows whether they were carried out. Each of
/// those may have left an entry in the log, and a refusal of what is in the log is not kept with its name: the pauses grow.
#[must_use]
pub fn pause_ms(unsure: u32) -> Range<u64> {
    let longest = PAUSE_MS << unsure.min(5);
    longest / 6..longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::{ClientId, ClientSeq, JobId, NodeId};
    use synod_engine::command::decode_requests;

    fn wanted(command: &SystemCommand) -> Wanted {
        let id = WriteId { client: ClientId(7), seq: ClientSeq(1), floor: ClientSeq(1), deadline_us: 9 };
        Wanted::new(id, command)
    }

    #[test]
    fn a_command_goes_only_to_nodes_that_speak_its_version() {
        let [one, two, three] = [1, 2, 3].map(ClusterVersion);
        let cancel = wanted(&SystemCommand::CancelJob { job: JobId(1) });
        let read = |said, cluster| cancel.is_read_by(said, cluster);
        assert!(!read(None, one) && !read(Some(one), one) && !read(Some(two), two));
        assert!(read(Some(three), one), "a follower may not have heard that the cluster was raised");
        assert!(read(None, three), "such a cluster has no older node");
        let remove = wanted(&SystemCommand::RemoveNode { node: NodeId(4) });
        assert!(remove.is_read_by(None, one));
        let upgrade = wanted(&SystemCommand::Upgrade { to: three, spoken_by: vec![] });
        assert!(!upgrade.is_read_by(Some(two), one) && upgrade.is_read_by(Some(three), one));
    }

    /// What a binary of the first version does with it: it decodes `command` and proposes what it finds.
    #[test]
    fn an_older_binary_finds_no_command_that_the_cluster_is_too_old_for() {
        let cancel = wanted(&SystemCommand::CancelJob { job: JobId(1) });
        let early = cancel.proposal(7, ClusterVersion::SECOND);
        assert!(decode_requests(early.command).is_err());
        let found = decode_requests(early.newer_command).expect("a newer binary finds it");
        assert_eq!(found, std::slice::from_ref(&cancel.request));
        let later = cancel.proposal(7, ClusterVersion::THIRD);
        assert_eq!(decode_requests(later.command).expect("as ever"), [cancel.request]);
        let remove = wanted(&SystemCommand::RemoveNode { node: NodeId(4) });
        assert!(decode_requests(remove.proposal(7, ClusterVersion::FIRST).command).is_ok());
    }

    #[test]
    fn a_command_that_nobody_understands_leaves_few_entries() {
        assert_eq!(pause_ms(0), 10..60);
        // The shortest pauses of ten seconds.
        let (mut waited, mut entries) = (0, 0);
        while waited < 10_000 {
            entries += 1;
            waited += pause_ms(entries).start;
        }
        assert!(entries < 40, "{entries}");
    }
}
