//! The bytes of metadata commands and their outcomes.
//!
//! Owns: their formats, each with a version byte. Must never: panic on any input, or change a byte of what a cluster at its first version
//! writes.

use super::codec::{
    VERSION, membership, partitioning, put_membership, put_partitioning, put_retention, retention, version,
};
use super::read::string;
use super::{MetadataError, SystemCommand, SystemOutcome, TooNew, job_rows, news};
use crate::buf::{DecodeError, Put, Reader, Writer};
use crate::ids::{ClusterVersion, JobId, NodeId, ShardId, TableId};
use bytes::Bytes;
use synod_paxos::types::Epoch;

impl SystemCommand {
    /// The command as the content of a write.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        w.u8(VERSION);
        match self {
            Self::AddNode { addr, nonce, speaks } => {
                w.u8(if *speaks == ClusterVersion::FIRST { 1 } else { 8 });
                w.bytes(addr.as_bytes());
                w.u128(*nonce);
                if *speaks != ClusterVersion::FIRST {
                    w.u32(speaks.0);
                }
            }
            Self::SetAddr { node, addr } => {
                w.u8(2);
                w.u64(node.0);
                w.bytes(addr.as_bytes());
            }
            Self::CreateTable { name, partitioning, retention, shards, splits, replicas } => {
                w.u8(3);
                w.bytes(name.as_bytes());
                put_partitioning(&mut w, *partitioning);
                put_retention(&mut w, *retention);
                w.u32(*shards);
                w.u32(*replicas);
                w.var(splits.len() as u64);
                for split in splits {
                    w.bytes(split);
                }
            }
            Self::DropTable { name } => {
                w.u8(4);
                w.bytes(name.as_bytes());
            }
            Self::SetMembers { shard, membership } => {
                w.u8(5);
                w.u64(shard.0);
                put_membership(&mut w, membership);
            }
            Self::RemoveNode { node } => {
                w.u8(6);
                w.u64(node.0);
            }
            Self::Upgrade { to, spoken_by } => {
                w.u8(7);
                w.u32(to.0);
                w.var(spoken_by.len() as u64);
                for node in spoken_by {
                    w.u64(node.0);
                }
            }
            Self::StartJob { goal } => {
                w.u8(9);
                job_rows::put_goal(&mut w, goal);
            }
            Self::CancelJob { job } => {
                w.u8(10);
                w.u64(job.0);
            }
            Self::FinishJob { job, seen, end } => {
                w.u8(11);
                w.u64(job.0);
                w.u64(seen.0);
                job_rows::put_end(&mut w, end);
            }
            Self::ReserveChild { parent, version } => {
                w.u8(12);
                w.u64(parent.0);
                w.u64(*version);
            }
            Self::ShardNews(told) => {
                w.u8(13);
                news::put_news(&mut w, told);
            }
            Self::PauseJob { job, paused } => {
                w.u8(15);
                w.u64(job.0);
                w.flag(*paused);
            }
            Self::Recommission { node } => {
                w.u8(16);
                w.u64(node.0);
            }
            Self::BeginMove { job, leaving } => {
                w.u8(17);
                w.u64(job.0);
                job_rows::put_leaving(&mut w, leaving);
            }
            Self::AlterTable { name, replicas } => {
                w.u8(18);
                w.bytes(name.as_bytes());
                w.u32(*replicas);
            }
        }
        w.into_bytes()
    }

    /// Reads a command back.
    ///
    /// # Errors
    /// The bytes are no command of a known version, or raise the cluster to one that this binary does not speak.
    pub fn decode(data: Bytes) -> Result<Self, MetadataError> {
        let mut r = Reader::new(data);
        version(&mut r)?;
        let command = match r.u8()? {
            1 => Self::AddNode { addr: string(&mut r)?, nonce: r.u128()?, speaks: ClusterVersion::FIRST },
            2 => Self::SetAddr { node: NodeId(r.u64()?), addr: string(&mut r)? },
            3 => {
                let name = string(&mut r)?;
                let (partitioning, retention) = (partitioning(&mut r)?, retention(&mut r)?);
                let (shards, replicas) = (r.u32()?, r.u32()?);
                let splits = (0..r.count(1)?).map(|_| r.bytes()).collect::<Result<_, _>>()?;
                Self::CreateTable { name, partitioning, retention, shards, splits, replicas }
            }
            4 => Self::DropTable { name: string(&mut r)? },
            5 => Self::SetMembers { shard: ShardId(r.u64()?), membership: membership(&mut r)? },
            6 => Self::RemoveNode { node: NodeId(r.u64()?) },
            7 => upgrade(&mut r)?,
            8 => {
                let (addr, nonce, first) = (string(&mut r)?, r.u128()?, r.error("a version above the first"));
                let speaks = ClusterVersion(r.u32()?);
                if speaks <= ClusterVersion::FIRST {
                    return Err(first.into());
                }
                Self::AddNode { addr, nonce, speaks }
            }
            9 => Self::StartJob { goal: job_rows::goal(&mut r)? },
            10 => Self::CancelJob { job: JobId(r.u64()?) },
            11 => {
                let (job, seen) = (JobId(r.u64()?), Epoch(r.u64()?));
                Self::FinishJob { job, seen, end: job_rows::end(&mut r)? }
            }
            12 => Self::ReserveChild { parent: ShardId(r.u64()?), version: r.u64()? },
            13 => Self::ShardNews(news::news(&mut r)?),
            // 14 is left free for merges.
            15 => Self::PauseJob { job: JobId(r.u64()?), paused: r.flag()? },
            16 => Self::Recommission { node: NodeId(r.u64()?) },
            17 => Self::BeginMove { job: JobId(r.u64()?), leaving: job_rows::leaving(&mut r)? },
            18 => Self::AlterTable { name: string(&mut r)?, replicas: r.u32()? },
            _ => return Err(r.error("metadata command").into()),
        };
        r.finish()?;
        Ok(command)
    }
}

fn upgrade(r: &mut Reader) -> Result<SystemCommand, MetadataError> {
    let to = TooNew::check(ClusterVersion(r.u32()?))?;
    let mut spoken_by: Vec<NodeId> = Vec::new();
    for _ in 0..r.count(8)? {
        let out_of_order = r.error("nodes out of order");
        let node = NodeId(r.u64()?);
        if spoken_by.last().is_some_and(|last| *last >= node) {
            return Err(out_of_order.into());
        }
        spoken_by.push(node);
    }
    Ok(SystemCommand::Upgrade { to, spoken_by })
}

impl SystemOutcome {
    /// The outcome as stored and sent.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        w.u8(VERSION);
        match self {
            Self::Node(id) => {
                w.u8(1);
                w.u64(id.0);
            }
            Self::Table(id) => {
                w.u8(2);
                w.u32(id.0);
            }
            Self::Done => w.u8(3),
            Self::TableExists(name) => {
                w.u8(4);
                w.bytes(name.as_bytes());
            }
            Self::TableNotFound(name) => {
                w.u8(5);
                w.bytes(name.as_bytes());
            }
            Self::Invalid { field, why } => {
                w.u8(6);
                w.bytes(field.as_bytes());
                w.bytes(why.as_bytes());
            }
            Self::Job(id) => {
                w.u8(7);
                w.u64(id.0);
            }
            Self::JobNotFound(id) => {
                w.u8(8);
                w.u64(id.0);
            }
            Self::JobConflict { job, why } => {
                w.u8(9);
                w.u64(job.0);
                w.bytes(why.as_bytes());
            }
            Self::Shard(id) => {
                w.u8(10);
                w.u64(id.0);
            }
        }
        w.into_bytes()
    }

    /// Reads an outcome back.
    ///
    /// # Errors
    /// The bytes are no outcome of a known version.
    pub fn decode(data: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data);
        version(&mut r)?;
        let outcome = match r.u8()? {
            1 => Self::Node(NodeId(r.u64()?)),
            2 => Self::Table(TableId(r.u32()?)),
            3 => Self::Done,
            4 => Self::TableExists(string(&mut r)?),
            5 => Self::TableNotFound(string(&mut r)?),
            6 => Self::Invalid { field: string(&mut r)?, why: string(&mut r)? },
            7 => Self::Job(JobId(r.u64()?)),
            8 => Self::JobNotFound(JobId(r.u64()?)),
            9 => Self::JobConflict { job: JobId(r.u64()?), why: string(&mut r)? },
            10 => Self::Shard(ShardId(r.u64()?)),
            _ => return Err(r.error("metadata outcome")),
        };
        r.finish()?;
        Ok(outcome)
    }
}
