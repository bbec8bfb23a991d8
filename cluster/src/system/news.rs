//! The bytes of a report of a shard's bounds, as a part of its command.
//!
//! Owns: their form. Must never: panic on any input.

use super::codec::{membership, put_membership};
use super::lineage::{Child, ShardNews};
use super::read::read_counter;
use crate::buf::{DecodeError, Put, Reader, Writer};
use crate::ids::ShardId;

/// The least that a child takes: its numbers, two empty bounds, and members of whom there are none.
const CHILD_BYTES_MIN: usize = 8 + 1 + 1 + 8 + 8 + 8 + 1;

/// `shard u64 | from bytes | to bytes | version u64 | count var | child… | count var | absorbed shard u64…`, a child being
/// `shard u64 | from bytes | to bytes | version u64 | membership`.
pub(super) fn put_news(w: &mut Writer, news: &ShardNews) {
    w.u64(news.shard.0);
    w.bytes(&news.from);
    w.bytes(&news.to);
    w.u64(news.version);
    w.var(news.children.len() as u64);
    for child in &news.children {
        w.u64(child.shard.0);
        w.bytes(&child.from);
        w.bytes(&child.to);
        w.u64(child.version);
        put_membership(w, &child.membership);
    }
    w.var(news.absorbed.len() as u64);
    for shard in &news.absorbed {
        w.u64(shard.0);
    }
}

pub(super) fn news(r: &mut Reader) -> Result<ShardNews, DecodeError> {
    let (shard, from, to, version) = (ShardId(r.u64()?), r.bytes()?, r.bytes()?, read_counter(r)?);
    let mut children = Vec::new();
    for _ in 0..r.count(CHILD_BYTES_MIN)? {
        let (shard, from, to, version) = (ShardId(r.u64()?), r.bytes()?, r.bytes()?, read_counter(r)?);
        children.push(Child { shard, from, to, version, membership: membership(r)? });
    }
    let mut absorbed = Vec::new();
    for _ in 0..r.count(8)? {
        absorbed.push(ShardId(r.u64()?));
    }
    Ok(ShardNews { shard, from, to, version, children, absorbed })
}
