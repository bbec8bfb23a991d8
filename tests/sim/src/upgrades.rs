//! The operator who raises the cluster's version, and what a process of the first version meets with.
//!
//! Owns: the steps of an upgrade, and the check that a process of the first version meets with nothing newer. Must never: raise
//! the cluster before every node speaks the newer version.
//!
//! Processes of both binaries run the same production code (`versions`). So the check looks for what one of the first version
//! would not understand in the messages to it and on its disk.

use crate::clients::Kind;
use crate::clock::WALL_US;
use crate::setup::ADMIN;
use crate::violation::{Checked, check};
use crate::world::{Event, Phase, World};
use bytes::Bytes;
use synod_cluster::ids::{ClusterVersion, NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::system::SystemCommand;
use synod_engine::codec::keys::{self, RecordRow};
use synod_engine::codec::{entry, message};
use synod_engine::command::{Op, WriteRequest};
use synod_paxos::types::Payload;

/// Least and greatest pause between two looks of the operator at a cluster to be raised, µs.
const LOOK: (u64, u64) = (150_000, 900_000);
/// How long an upgrade is tried, µs.
const PATIENCE: u64 = 3_000_000;

impl World {
    /// The command that raises the cluster, with these nodes known to speak it.
    pub(crate) fn upgrade(&self, spoken_by: Vec<NodeId>) -> SystemCommand {
        SystemCommand::Upgrade { to: ClusterVersion::SPOKEN, spoken_by }
    }

    /// The operator goes forward: older processes are stopped one after the other, and once every node speaks it the cluster is
    /// raised, as `synod cluster upgrade` does it.
    pub(crate) fn raise(&mut self) {
        let Some(map) = self.map.clone() else { return };
        if map.version == ClusterVersion::SPOKEN {
            self.coverage.count("versions", "cluster raised while faults strike");
            return;
        }
        if self.phase != Phase::Storm {
            return;
        }
        self.versions.forward = true;
        let pause = self.versions.dice.between(LOOK);
        self.at(self.now + pause, Event::Raise);
        let old = |id: &NodeId| self.nodes[id].up.is_some() && self.nodes[id].speaks < ClusterVersion::SPOKEN;
        if let Some(old) = map.nodes.keys().copied().find(old) {
            if self.shut_down(old) {
                self.coverage.count("versions", "older process stopped");
            }
            return;
        }
        // A node that does not run has not said anything of late.
        let heard = |id: &NodeId| self.nodes[id].up.as_ref().is_some_and(|up| !up.paused);
        if !map.nodes.keys().all(heard) {
            self.coverage.count("versions", "upgrade refused: a node is not heard");
            return;
        }
        self.coverage.count("asked", "upgrade");
        let command = self.upgrade(map.nodes.keys().copied().collect());
        let deadline = self.now + PATIENCE;
        let id = self.clients[ADMIN].name(WALL_US + deadline);
        let request = WriteRequest { id, op: Op::System(command.encode()) };
        self.begin(ADMIN, Kind::Write(request), SYSTEM_SHARD, None, self.system_voters(), deadline);
    }

    /// A process of the first version understands every message to it.
    pub(crate) fn check_understood(&self, to: NodeId, messages: &[(ShardId, Bytes)]) -> Checked {
        if self.nodes[&to].speaks > ClusterVersion::FIRST {
            return Ok(());
        }
        let newer = messages.iter().find(|(_, body)| message::needs(body) > ClusterVersion::FIRST);
        check(newer.is_none(), "nothing is sent to a node that does not speak its version", || {
            format!("to node {to}: {newer:02x?}")
        })
    }

    /// A process of the first version understands what is on its disk.
    pub(crate) fn check_readable(&self, id: NodeId) -> Checked {
        let node = &self.nodes[&id];
        if node.speaks > ClusterVersion::FIRST || node.damaged {
            return Ok(());
        }
        let disk = node.disk.lock();
        let newer =
            disk.rows().find(
                |(log, key, row)| !if *log { log_row_is_of_first(key, row) } else { state_row_is_of_first(key, row) },
            );
        check(newer.is_none(), "nothing is written that a node of the cluster does not understand", || {
            format!("node {id}: {newer:02x?}")
        })
    }
}

fn log_row_is_of_first(key: &[u8], row: &Bytes) -> bool {
    // The one row kind whose second format came before there were versions.
    let tombstone = keys::parse_group(key).is_ok_and(|shard| key == keys::group_removed(shard));
    let entry = keys::parse_group(key).and_then(|shard| keys::parse_group_entry(shard, key)).is_ok();
    let command = entry.then(|| entry::decode(row.clone()).ok()).flatten().map(|entry| entry.payload);
    let format = row.first().copied();
    let known = format == Some(1) || (tombstone && format == Some(2));
    known && !matches!(command, Some(Payload::Command(data)) if data.first() != Some(&1))
}

fn state_row_is_of_first(key: &[u8], row: &Bytes) -> bool {
    let kind = |hashed| keys::parse_record(key, hashed).map(|parsed| parsed.row);
    let record = [kind(false), kind(true)].into_iter().flatten().next();
    let known = record.is_none_or(|row| matches!(row, RecordRow::Head | RecordRow::History(_)));
    known && row.first() == Some(&1)
}
