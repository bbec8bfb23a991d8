//! One range of a tail: its positions, and the next question to its shard.
//!
//! Owns: the requests of a tail and the reading of their answers. Must never: change what the tail counts as given.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use synod_cluster::position::{below, lesser_end};
use synod_proto::v1;

use crate::error::{Error, Result, unexpected};
use crate::frames::{Answer, Ask};
use crate::router::{Place, ShardRoute, Span, TableRoute, position};
use crate::segments::Segments;
use crate::shared::Caller;
use crate::token::Segment;
use crate::types::{Consistency, PartitionKind, Record};
use crate::wire;

/// Asks a shard for its newest timestamp: nothing is newer, so the answer says from where on to ask.
const NEWEST: u64 = u64::MAX;

/// Most segments of one poll; a node refuses many more.
const MAX_SEGMENTS: usize = 512;

/// What does not change during a tail.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) table: Arc<str>,
    pub(crate) table_id: u32,
    pub(crate) kind: PartitionKind,
    pub(crate) span: Span,
}

/// A range of positions, asked for at one shard.
#[derive(Debug)]
pub(crate) struct TailRange {
    pub(crate) from: Bytes,
    pub(crate) to: Bytes,
    pub(crate) phase: Phase,
}

/// What a range is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Poll,
    /// Reads `[from, to)` from the shard's store up to a timestamp.
    Scan {
        from: Bytes,
        to: Bytes,
        after_us: u64,
        upto_us: u64,
        chain: Option<Chain>,
    },
}

/// A page's cursor, good for a shard with these bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    shard: u64,
    version: u64,
    cursor: Bytes,
}

/// How a question wants to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Records at most; 0 leaves it to the server.
    pub(crate) limit: u32,
    /// How long a poll waits where there is nothing.
    pub(crate) wait: Duration,
    /// Whether the call fails where records that it asks for were trimmed. If not, they are skipped.
    pub(crate) tell_trimmed: bool,
}

/// What a question brought.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Where the shard ends, at most the range's end.
    pub(crate) to: Bytes,
    pub(crate) records: Vec<Record>,
    pub(crate) upto_us: u64,
    pub(crate) more: bool,
    /// A segment must be scanned up to a timestamp.
    pub(crate) scan: Option<(Segment, u64)>,
    /// Of a scanned page: empty when it was the last.
    pub(crate) cursor: Bytes,
    shard: u64,
    version: u64,
}

impl News {
    /// What the range does next.
    pub(crate) fn next_phase(self, phase: Phase) -> Phase {
        match (self.scan, phase) {
            (Some((segment, upto_us)), _) => {
                let Segment { from, to, after_us, .. } = segment;
                Phase::Scan { from, to, after_us, upto_us, chain: None }
            }
            (None, Phase::Scan { .. }) if self.cursor.is_empty() => Phase::Poll,
            (None, Phase::Scan { from, to, after_us, upto_us, .. }) => {
                // Where the next page is asked without its cursor it begins with the last key given.
                let chain = Chain { shard: self.shard, version: self.version, cursor: self.cursor };
                Phase::Scan { from, to, after_us, upto_us, chain: Some(chain) }
            }
            (None, Phase::Poll) => Phase::Poll,
        }
    }
}

impl TailRange {
    /// Asks the shard at the range's beginning.
    pub(crate) async fn ask(
        self,
        caller: Caller,
        ground: Arc<Ground>,
        wanted: Vec<Segment>,
        page: Page,
    ) -> (TailRange, Result<News>) {
        let news = match &self.phase {
            Phase::Poll => self.poll(&caller, &ground, &wanted, page).await,
            Phase::Scan { .. } => self.scan(&caller, &ground, &wanted, page).await,
        };
        (self, news)
    }

    /// The shard's newest timestamp, and where the shard ends within the range.
    pub(crate) async fn newest(&self, caller: &Caller, ground: &Ground) -> Result<(u64, Bytes)> {
        let all = [Segment { from: self.from.clone(), to: self.to.clone(), after_us: NEWEST, given: None }];
        let page = Page { limit: 1, wait: Duration::ZERO, tell_trimmed: false };
        let news = self.poll(caller, ground, &all, page).await?;
        let upto_us = news.scan.map_or(news.upto_us, |(_, upto_us)| upto_us);
        if upto_us == NEWEST { Err(unexpected()) } else { Ok((upto_us, news.to)) }
    }

    async fn poll(&self, caller: &Caller, ground: &Ground, wanted: &[Segment], page: Page) -> Result<News> {
        let Page { limit, wait, .. } = page;
        // Of a timestamp that was given in part nobody but this client knows what of it was given.
        let tell_trimmed = page.tell_trimmed && wanted.iter().all(|s| s.given.is_none());
        let wanted = Segments(wanted.to_vec());
        let mut want = caller.want(&ground.table, Place::At(&self.from), Consistency::Linearizable);
        want.wait = wait;
        want.deadline += wait;
        let mut asked = Vec::new();
        let got = caller.core.call(want, |table, shard, _| {
            ground.check(table)?;
            asked = wanted.within(&self.from, lesser_end(&self.to, &shard.info.to));
            asked.truncate(MAX_SEGMENTS);
            Ok(Ask::Tail(v1::TailPoll {
                table_id: ground.table_id,
                from: ground.span.key_from.clone(),
                to: ground.span.key_to.clone(),
                segments: asked.iter().map(segment).collect(),
                limit,
                wait_ms: wait.as_millis() as u32,
                tell_trimmed,
            }))
        });
        let got = got.await?;
        let Answer::Tail(answer) = got.answer else { return Err(unexpected()) };
        let mut news = self.news(&got.shard);
        if let Some(last) = asked.last() {
            // What was not asked for is a range of its own.
            news.to = last.to.clone();
        }
        if let Some(scan) = answer.scan {
            let segment = asked.get(scan.segment as usize).cloned().ok_or_else(unexpected)?;
            news.scan = Some((segment, scan.upto_ts_us));
            return Ok(news);
        }
        news.records = answer.records.into_iter().map(wire::record).collect();
        in_order(ground.kind, &mut news.records);
        news.upto_us = answer.upto_ts_us;
        news.more = answer.more;
        Ok(news)
    }

    async fn scan(&self, caller: &Caller, ground: &Ground, wanted: &[Segment], page: Page) -> Result<News> {
        let Phase::Scan { from, to, after_us, upto_us, chain } = &self.phase else { return Err(unexpected()) };
        // Where the scan stands: what lies before is given up to its timestamp.
        let stands = wanted.iter().find(|s| s.after_us < *upto_us && below(from, &s.to));
        let pos_from = stands.map_or(from, |s| (&s.from).max(from));
        let want = caller.want(&ground.table, Place::At(pos_from), Consistency::Linearizable);
        let got = caller.core.call(want, |table, shard, _| {
            ground.check(table)?;
            let here = chain.as_ref().filter(|c| c.shard == shard.info.id && c.version == shard.info.version);
            Ok(Ask::Scan(v1::Scan {
                table_id: ground.table_id,
                from: ground.span.key_from.clone(),
                to: ground.span.key_to.clone(),
                pos_from: pos_from.clone(),
                pos_to: lesser_end(to, &shard.info.to).clone(),
                cursor: here.map(|c| c.cursor.clone()).unwrap_or_default(),
                limit: page.limit,
                reverse: false,
                keys_only: false,
                include_tombstones: true,
                consistency: wire::consistency(Consistency::Linearizable),
                max_age_ms: 0,
                history: true,
                after_ts_us: *after_us,
                upto_ts_us: *upto_us,
                // Without its cursor the page begins with a key that may be given in part.
                tell_trimmed: page.tell_trimmed && (here.is_some() || wanted.iter().all(|s| s.given.is_none())),
            }))
        });
        let got = got.await?;
        let Answer::Page(page) = got.answer else { return Err(unexpected()) };
        let mut news = self.news(&got.shard);
        news.records = page.records.into_iter().map(wire::record).collect();
        news.cursor = page.cursor;
        let stuck = chain.as_ref().is_some_and(|c| c.cursor == news.cursor);
        if stuck && news.records.is_empty() && !news.cursor.is_empty() {
            return Err(unexpected());
        }
        Ok(news)
    }

    fn news(&self, shard: &ShardRoute) -> News {
        let to = lesser_end(&self.to, &shard.info.to).clone();
        News { to, shard: shard.info.id, version: shard.info.version, ..News::default() }
    }
}

impl Ground {
    fn check(&self, table: &TableRoute) -> Result<()> {
        if table.info.id == self.table_id {
            return Ok(());
        }
        Err(Error::TableNotFound { table: self.table.to_string() })
    }
}

fn segment(s: &Segment) -> v1::TailSegment {
    v1::TailSegment { pos_from: s.from.clone(), pos_to: s.to.clone(), after_ts_us: s.after_us }
}

/// Records come by timestamp; those of one timestamp are put in the order of their positions, each key's by offset, so
/// that a token between them is a position.
pub(crate) fn in_order(kind: PartitionKind, records: &mut [Record]) {
    for run in records.chunk_by_mut(|a, b| a.ts_us == b.ts_us) {
        if run.len() > 1 {
            run.sort_by_cached_key(|r| (position(kind, &r.key), r.offset));
        }
    }
}
