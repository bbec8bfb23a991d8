//! The bytes of jobs: their rows, goals and ends.
//!
//! Owns: their formats, each with a version byte or a kind; rows end in a CRC-32. Must never: panic on any input.

use super::read::{read_counter, string};
use crate::buf::{DecodeError, Put, Reader, Writer};
use crate::ids::{Epoch, NodeId, ShardId};
use crate::jobs::empty_node::{EmptyNode, Leaving};
use crate::jobs::job::{Job, JobEnd, JobGoal, JobState};
use crate::jobs::move_replica::MoveReplica;
use crate::jobs::resize_shard::ResizeShard;
use bytes::Bytes;

const ROW_FORMAT: u8 = 1;
const GOAL_MOVE: u8 = 1;
/// From the fourth cluster version on.
const GOAL_SPLIT: u8 = 2;
/// From the fifth cluster version on.
const GOAL_MERGE: u8 = 3;
/// From the fourth cluster version on.
const GOAL_EMPTY: u8 = 4;
/// From the fifth cluster version on.
const GOAL_RESIZE: u8 = 5;

pub(super) fn put_goal(w: &mut Writer, goal: &JobGoal) {
    match goal {
        JobGoal::Move { shard, replica: MoveReplica { from, to } } => {
            w.u8(GOAL_MOVE);
            w.u64(shard.0);
            w.u64(from.0);
            w.flag(to.is_some());
            if let Some(to) = to {
                w.u64(to.0);
            }
        }
        JobGoal::Split { shard, version, at } => {
            w.u8(GOAL_SPLIT);
            w.u64(shard.0);
            w.u64(*version);
            w.flag(at.is_some());
            if let Some(at) = at {
                w.bytes(at);
            }
        }
        JobGoal::Merge { shard, source, border } => {
            w.u8(GOAL_MERGE);
            w.u64(shard.0);
            w.u64(source.0);
            w.bytes(border);
        }
        JobGoal::Empty(EmptyNode { node, remove, at_once }) => {
            w.u8(GOAL_EMPTY);
            w.u64(node.0);
            w.flag(*remove);
            w.u32(*at_once);
        }
        JobGoal::Resize(ResizeShard { shard, voters }) => {
            w.u8(GOAL_RESIZE);
            w.u64(shard.0);
            w.u32(*voters);
        }
    }
}

pub(super) fn goal(r: &mut Reader) -> Result<JobGoal, DecodeError> {
    let unknown = r.error("a job's goal");
    match r.u8()? {
        GOAL_MOVE => {
            let (shard, from) = (ShardId(r.u64()?), NodeId(r.u64()?));
            let to = if r.flag()? { Some(NodeId(r.u64()?)) } else { None };
            Ok(JobGoal::Move { shard, replica: MoveReplica { from, to } })
        }
        GOAL_SPLIT => {
            let (shard, version) = (ShardId(r.u64()?), r.u64()?);
            let at = if r.flag()? { Some(r.bytes()?) } else { None };
            Ok(JobGoal::Split { shard, version, at })
        }
        GOAL_MERGE => {
            let (shard, source) = (ShardId(r.u64()?), ShardId(r.u64()?));
            Ok(JobGoal::Merge { shard, source, border: r.bytes()? })
        }
        GOAL_EMPTY => {
            let (node, remove, at_once) = (NodeId(r.u64()?), r.flag()?, r.u32()?);
            Ok(JobGoal::Empty(EmptyNode { node, remove, at_once }))
        }
        GOAL_RESIZE => {
            let (shard, voters) = (ShardId(r.u64()?), r.u32()?);
            Ok(JobGoal::Resize(ResizeShard { shard, voters }))
        }
        _ => Err(unknown),
    }
}

/// A replica that is to leave a node: `shard u64 | epoch u64 | flag | to u64 where it is set`.
pub(super) fn put_leaving(w: &mut Writer, Leaving { shard, epoch, to }: &Leaving) {
    w.u64(shard.0);
    w.u64(epoch.0);
    w.flag(to.is_some());
    if let Some(to) = to {
        w.u64(to.0);
    }
}

pub(super) fn leaving(r: &mut Reader) -> Result<Leaving, DecodeError> {
    let (shard, epoch) = (ShardId(r.u64()?), Epoch(r.u64()?));
    let to = if r.flag()? { Some(NodeId(r.u64()?)) } else { None };
    Ok(Leaving { shard, epoch, to })
}

pub(super) fn put_end(w: &mut Writer, end: &JobEnd) {
    w.u8(match end {
        JobEnd::Done => 1,
        JobEnd::Cancelled => 2,
        JobEnd::Overtaken(_) => 3,
        JobEnd::Failed(_) => 4,
    });
    if let Some(why) = end.why() {
        w.bytes(why.as_bytes());
    }
}

pub(super) fn end(r: &mut Reader) -> Result<JobEnd, DecodeError> {
    let unknown = r.error("a job's end");
    match r.u8()? {
        1 => Ok(JobEnd::Done),
        2 => Ok(JobEnd::Cancelled),
        3 => Ok(JobEnd::Overtaken(string(r)?)),
        4 => Ok(JobEnd::Failed(string(r)?)),
        _ => Err(unknown),
    }
}

/// A job's row: `format u8 | goal | state u8 | of one that has ended its order u64 and its end | crc u32`.
pub(super) fn encode_job(job: &Job) -> Bytes {
    let mut w = Writer::new();
    w.u8(ROW_FORMAT);
    put_goal(&mut w, &job.goal);
    match &job.state {
        JobState::Running => w.u8(1),
        JobState::Cancelling => w.u8(2),
        JobState::Paused => w.u8(4),
        JobState::Ended { end, order } => {
            w.u8(3);
            w.u64(*order);
            put_end(&mut w, end);
        }
    }
    w.into_checked()
}

pub(super) fn decode_job(data: Bytes) -> Result<Job, DecodeError> {
    let mut r = Reader::checked(data)?;
    let format = r.error("metadata format version");
    if r.u8()? != ROW_FORMAT {
        return Err(format);
    }
    let goal = goal(&mut r)?;
    let unknown = r.error("a job's state");
    let state = match r.u8()? {
        1 => JobState::Running,
        2 => JobState::Cancelling,
        4 => JobState::Paused,
        3 => {
            let order = read_counter(&mut r)?;
            JobState::Ended { order, end: end(&mut r)? }
        }
        _ => return Err(unknown),
    };
    r.finish()?;
    Ok(Job { goal, state })
}
