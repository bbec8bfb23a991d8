//! The bytes of metadata: rows of the system shard.
//!
//! Owns: their formats, each with a version byte; rows end in a CRC-32. Must never: panic on any input, or change a byte of
//! what a cluster at its first version writes.
//!
//! The cluster row and the whole state have a second format, for a cluster above its first version: there, and in every later
//! format, the cluster's version follows the format byte, so that a node which does not speak it can say so. The cluster row has a
//! third one, which names the last job too, for a cluster above its second version.
//!
//! The descriptor of a shard that a split made has a second format, which says so, and so has the row of a node that is marked. There is
//! neither below the fourth version.

use super::read::{read_counter, string};
use super::{
    Birth, Descriptor, MetadataError, NodeInfo, Partitioning, ROW_CLUSTER, ROW_JOB, ROW_NODE, ROW_RESERVED, ROW_SHARD,
    ROW_TABLE, Retention, RowChange, Shards, SystemState, TableInfo, TooNew, job_rows, split_rows,
};
use crate::buf::{DecodeError, Put, Reader, Writer};
use crate::ids::{ClusterVersion, JobId, NodeId, ShardId, TableId};
use crate::planner::picture::Mark;
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

pub(super) const VERSION: u8 = 1;
/// The format of a cluster row and of a state that name the cluster's version.
const NAMES_CLUSTER_VERSION: u8 = 2;
/// The format of a cluster row that names the last job as well.
const NAMES_LAST_JOB: u8 = 3;
/// The format of a node's row that names its mark.
const NAMES_MARK: u8 = 2;
/// The format of a descriptor that names the split it was born of.
const NAMES_BIRTH: u8 = 2;

/// The format of a state at this version.
fn state_format(version: ClusterVersion) -> u8 {
    if version == ClusterVersion::FIRST { VERSION } else { NAMES_CLUSTER_VERSION }
}

/// The format of a cluster row at this version.
fn cluster_format(version: ClusterVersion) -> u8 {
    if version < ClusterVersion::THIRD { state_format(version) } else { NAMES_LAST_JOB }
}

/// The first bytes of a cluster row or a state.
fn put_cluster_version(w: &mut Writer, version: ClusterVersion, format: fn(ClusterVersion) -> u8) {
    w.u8(format(version));
    if version > ClusterVersion::FIRST {
        w.u32(version.0);
    }
}

/// Reads what [`put_cluster_version`] wrote, for a binary that speaks up to `spoken`; a format that is not known yet names its version
/// in the same place.
fn cluster_version(
    r: &mut Reader,
    format: fn(ClusterVersion) -> u8,
    spoken: ClusterVersion,
) -> Result<ClusterVersion, MetadataError> {
    let unknown = r.error("metadata format version");
    match r.u8()? {
        VERSION => Ok(ClusterVersion::FIRST),
        0 => Err(unknown.into()),
        found => {
            let version = TooNew::check_for(ClusterVersion(r.u32()?), spoken)?;
            let known = version > ClusterVersion::FIRST && found == format(version);
            if known { Ok(version) } else { Err(unknown.into()) }
        }
    }
}

pub(super) fn version(r: &mut Reader) -> Result<(), DecodeError> {
    if r.u8()? == VERSION { Ok(()) } else { Err(r.error("metadata format version")) }
}

pub(super) fn encode_node(node: &NodeInfo) -> Bytes {
    let mut w = Writer::new();
    w.u8(if node.mark == Mark::Stays { VERSION } else { NAMES_MARK });
    w.bytes(node.addr.as_bytes());
    w.u128(node.nonce);
    match node.mark {
        Mark::Stays => {}
        Mark::Draining => w.u8(1),
        Mark::Decommissioning => w.u8(2),
    }
    w.into_checked()
}

fn decode_node(data: Bytes) -> Result<NodeInfo, DecodeError> {
    let mut r = Reader::checked(data)?;
    let unknown = r.error("metadata format version");
    let names_mark = match r.u8()? {
        VERSION => false,
        NAMES_MARK => true,
        _ => return Err(unknown),
    };
    let (addr, nonce, mark) = (string(&mut r)?, r.u128()?, if names_mark { mark(&mut r)? } else { Mark::Stays });
    r.finish()?;
    Ok(NodeInfo { addr, nonce, mark })
}

/// One form for each node: the row of one that is not marked names no mark.
fn mark(r: &mut Reader) -> Result<Mark, DecodeError> {
    let unknown = r.error("a node's mark");
    match r.u8()? {
        1 => Ok(Mark::Draining),
        2 => Ok(Mark::Decommissioning),
        _ => Err(unknown),
    }
}

pub(super) fn partitioning(r: &mut Reader) -> Result<Partitioning, DecodeError> {
    match r.u8()? {
        1 => Ok(Partitioning::Range),
        2 => Ok(Partitioning::Hash),
        _ => Err(r.error("partitioning")),
    }
}

pub(super) fn put_partitioning(w: &mut Writer, p: Partitioning) {
    w.u8(match p {
        Partitioning::Range => 1,
        Partitioning::Hash => 2,
    });
}

pub(super) fn retention(r: &mut Reader) -> Result<Retention, DecodeError> {
    match r.u8()? {
        1 => Ok(Retention::Latest),
        2 => Ok(Retention::All),
        _ => Err(r.error("retention")),
    }
}

pub(super) fn put_retention(w: &mut Writer, p: Retention) {
    w.u8(match p {
        Retention::Latest => 1,
        Retention::All => 2,
    });
}

pub(super) fn encode_table(table: &TableInfo) -> Bytes {
    let mut w = Writer::new();
    w.u8(VERSION);
    w.bytes(table.name.as_bytes());
    put_partitioning(&mut w, table.partitioning);
    put_retention(&mut w, table.retention);
    w.u32(table.replicas);
    w.into_checked()
}

fn decode_table(data: Bytes) -> Result<TableInfo, DecodeError> {
    let mut r = Reader::checked(data)?;
    version(&mut r)?;
    let table = TableInfo {
        name: string(&mut r)?,
        partitioning: partitioning(&mut r)?,
        retention: retention(&mut r)?,
        replicas: r.u32()?,
    };
    r.finish()?;
    Ok(table)
}

/// A shard descriptor as a row.
#[must_use]
pub fn encode_descriptor(d: &Descriptor) -> Bytes {
    let mut w = Writer::new();
    w.u8(if d.born == Birth::Founded { VERSION } else { NAMES_BIRTH });
    w.u64(d.shard.0);
    w.u32(d.table.0);
    put_partitioning(&mut w, d.partitioning);
    put_retention(&mut w, d.retention);
    w.bytes(&d.from);
    w.bytes(&d.to);
    w.u64(d.version);
    put_membership(&mut w, &d.membership);
    if let Birth::Child { parent, version } = d.born {
        w.u64(parent.0);
        w.u64(version);
    }
    w.into_checked()
}

pub(super) fn put_membership(w: &mut Writer, membership: &Membership) {
    w.u64(membership.epoch.0);
    w.u64(membership.first_leader.0);
    w.var(membership.members.len() as u64);
    for member in &membership.members {
        w.u64(member.node.0);
        w.u8(matches!(member.role, MemberRole::Learner).into());
    }
}

pub(super) fn membership(r: &mut Reader) -> Result<Membership, DecodeError> {
    let epoch = Epoch(read_counter(r)?);
    let first_leader = NodeId(r.u64()?);
    let mut members = Vec::new();
    for _ in 0..r.count(9)? {
        let node = NodeId(r.u64()?);
        let role = if r.flag()? { MemberRole::Learner } else { MemberRole::Voter };
        members.push(Member { node, role });
    }
    Ok(Membership { epoch, members, first_leader })
}

/// Reads a shard descriptor back.
///
/// # Errors
/// The bytes are no descriptor of a known version.
pub fn decode_descriptor(data: Bytes) -> Result<Descriptor, DecodeError> {
    let mut r = Reader::checked(data)?;
    let unknown = r.error("metadata format version");
    let names_birth = match r.u8()? {
        VERSION => false,
        NAMES_BIRTH => true,
        _ => return Err(unknown),
    };
    let shard = ShardId(r.u64()?);
    let table = TableId(r.u32()?);
    let partitioning = partitioning(&mut r)?;
    let retention = retention(&mut r)?;
    let (from, to, version) = (r.bytes()?, r.bytes()?, read_counter(&mut r)?);
    let unsound = r.error("members that no group has");
    let membership = membership(&mut r)?;
    let born = match names_birth {
        false => Birth::Founded,
        true => Birth::Child { parent: ShardId(r.u64()?), version: read_counter(&mut r)? },
    };
    r.finish()?;
    if !membership.is_sound() {
        return Err(unsound);
    }
    Ok(Descriptor { shard, table, partitioning, retention, from, to, version, membership, born })
}

impl SystemState {
    pub(super) fn encode_cluster(&self) -> Bytes {
        let mut w = Writer::new();
        put_cluster_version(&mut w, self.version, cluster_format);
        w.u128(self.cluster);
        w.u64(self.revision);
        w.u64(self.next_node);
        w.u32(self.next_table);
        w.u64(self.next_shard);
        if self.version >= ClusterVersion::THIRD {
            w.u64(self.last_job.0);
        }
        w.into_checked()
    }

    /// Every row of the state.
    #[must_use]
    pub fn rows(&self) -> Vec<RowChange> {
        let mut rows = vec![(ROW_CLUSTER, 0, Some(self.encode_cluster()))];
        rows.extend(self.nodes.iter().map(|(id, n)| (ROW_NODE, id.0, Some(encode_node(n)))));
        rows.extend(self.tables.iter().map(|(id, t)| (ROW_TABLE, id.0.into(), Some(encode_table(t)))));
        rows.extend(self.shards.iter().map(|(id, d)| (ROW_SHARD, id.0, Some(encode_descriptor(d)))));
        rows.extend(self.jobs.iter().map(|(id, job)| (ROW_JOB, id.0, Some(job_rows::encode_job(job)))));
        rows.extend(self.reserved.iter().map(|(id, r)| (ROW_RESERVED, id.0, Some(split_rows::encode_reserved(*r)))));
        rows
    }

    /// The state from its rows.
    ///
    /// # Errors
    /// A row is damaged, of an unknown kind or in the place of another, or the cluster row is missing; or the cluster is at a
    /// version that this binary does not speak.
    pub fn from_rows(rows: impl IntoIterator<Item = (u8, u64, Bytes)>) -> Result<Self, MetadataError> {
        Self::from_rows_for(rows, ClusterVersion::SPOKEN)
    }

    /// The state from its rows, as a binary reads them that knows the versions up to `spoken`.
    ///
    /// # Errors
    /// As [`Self::from_rows`].
    pub fn from_rows_for(
        rows: impl IntoIterator<Item = (u8, u64, Bytes)>,
        spoken: ClusterVersion,
    ) -> Result<Self, MetadataError> {
        let mut state = Self {
            cluster: 0,
            version: ClusterVersion::FIRST,
            revision: 0,
            nodes: BTreeMap::new(),
            tables: BTreeMap::new(),
            shards: Shards::default(),
            next_node: 0,
            next_table: 0,
            next_shard: 0,
            jobs: BTreeMap::new(),
            last_job: JobId(0),
            reserved: BTreeMap::new(),
        };
        for (kind, id, data) in rows {
            match kind {
                ROW_CLUSTER if id != 0 => return Err(DecodeError { what: "a second cluster row", at: 0 }.into()),
                ROW_CLUSTER => state.decode_cluster(data, spoken)?,
                ROW_NODE => drop(state.nodes.insert(NodeId(id), decode_node(data)?)),
                ROW_TABLE => {
                    let id = u32::try_from(id).map_err(|_| DecodeError { what: "table id", at: 0 })?;
                    state.tables.insert(TableId(id), decode_table(data)?);
                }
                ROW_SHARD => {
                    let descriptor = decode_descriptor(data)?;
                    if descriptor.shard != ShardId(id) {
                        return Err(DecodeError { what: "the descriptor of another shard", at: 0 }.into());
                    }
                    state.shards.insert(descriptor.shard, descriptor);
                }
                ROW_JOB => drop(state.jobs.insert(JobId(id), job_rows::decode_job(data)?)),
                ROW_RESERVED => drop(state.reserved.insert(ShardId(id), split_rows::decode_reserved(data)?)),
                _ => return Err(DecodeError { what: "metadata row kind", at: 0 }.into()),
            }
        }
        if state.revision == 0 {
            return Err(DecodeError { what: "cluster row", at: 0 }.into());
        }
        if state.jobs.last_key_value().is_some_and(|(id, _)| *id > state.last_job) {
            return Err(DecodeError { what: "a job that was not given yet", at: 0 }.into());
        }
        if !state.reservations_are_sound() {
            return Err(DecodeError { what: "a shard that was not given yet, or is there already", at: 0 }.into());
        }
        Ok(state)
    }

    fn decode_cluster(&mut self, data: Bytes, spoken: ClusterVersion) -> Result<(), MetadataError> {
        let mut r = Reader::checked(data)?;
        self.version = cluster_version(&mut r, cluster_format, spoken)?;
        self.cluster = r.u128()?;
        self.revision = read_counter(&mut r)?;
        self.next_node = read_counter(&mut r)?;
        let beyond = r.error("a table id that no cluster comes to");
        self.next_table = r.u32()?;
        self.next_shard = read_counter(&mut r)?;
        if self.version >= ClusterVersion::THIRD {
            self.last_job = JobId(read_counter(&mut r)?);
        }
        r.finish()?;
        if self.next_table > u32::MAX >> 1 { Err(beyond.into()) } else { Ok(()) }
    }

    /// All rows in one buffer: a genesis, or a map on its way to another node.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let rows = self.rows();
        let mut w = Writer::new();
        put_cluster_version(&mut w, self.version, state_format);
        w.var(rows.len() as u64);
        for (kind, id, data) in rows {
            w.u8(kind);
            w.u64(id);
            w.bytes(&data.unwrap_or_default());
        }
        w.into_checked()
    }

    /// Reads back what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are damaged, of an unknown version, or not in the one order that is written; or the cluster is at a version
    /// that this binary does not speak.
    pub fn decode(data: Bytes) -> Result<Self, MetadataError> {
        Self::decode_for(data, ClusterVersion::SPOKEN)
    }

    /// Reads back what [`Self::encode`] wrote, as a binary does that knows the versions up to `spoken`.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_for(data: Bytes, spoken: ClusterVersion) -> Result<Self, MetadataError> {
        let mut r = Reader::checked(data)?;
        let named = r.error("another cluster version than its rows'");
        let version = cluster_version(&mut r, state_format, spoken)?;
        let mut rows: Vec<(u8, u64, Bytes)> = Vec::new();
        for _ in 0..r.count(10)? {
            let out_of_order = r.error("rows out of order");
            let row = (r.u8()?, r.u64()?, r.bytes()?);
            if rows.last().is_some_and(|last| (last.0, last.1) >= (row.0, row.1)) {
                return Err(out_of_order.into());
            }
            rows.push(row);
        }
        r.finish()?;
        let state = Self::from_rows_for(rows, spoken)?;
        if state.version == version { Ok(state) } else { Err(named.into()) }
    }
}
