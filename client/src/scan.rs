//! Streams of stored records: a key's log, and a walk over a table's shards.
//!
//! Owns: where such a stream stands. Must never: rely on a page's cursor after the shard's bounds changed; the position of
//! the last record given says the same on any replica and under any map.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use synod_cluster::position::{after, below, lesser_end};
use synod_proto::v1;

use crate::error::{Error, Result, unexpected};
use crate::frames::{Answer, Ask};
use crate::limits::{check_key, check_table_name};
use crate::pager::{Page, Pager, Pages};
use crate::router::{Place, ShardRoute, Span, TableRoute, position};
use crate::shared::Caller;
use crate::token::Cursor;
use crate::types::{Consistency, PartitionKind, Record, ScanOptions};
use crate::wire;

/// The records of a key, in order.
pub struct RecordStream {
    pager: Pager<Log>,
}

struct Log {
    caller: Caller,
    table: String,
    key: Bytes,
    from: u64,
    left: Option<u64>,
    consistency: Consistency,
    done: bool,
}

impl RecordStream {
    pub(crate) fn new(
        caller: Caller,
        table: &str,
        key: Bytes,
        from: u64,
        limit: Option<u64>,
        consistency: Consistency,
    ) -> RecordStream {
        let log = Log { caller, table: table.into(), key, from, left: limit, consistency, done: limit == Some(0) };
        RecordStream { pager: Pager::new(log) }
    }
}

impl Stream for RecordStream {
    type Item = Result<Record>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Record>>> {
        self.pager.poll(cx)
    }
}

impl Pages for Log {
    type Note = ();

    async fn next_page(&mut self) -> Result<Option<Page<()>>> {
        if self.done {
            return Ok(None);
        }
        check_table_name(&self.table)?;
        check_key(&self.key)?;
        let limit = self.left.map_or(0, |left| left.min(u64::from(u32::MAX)) as u32);
        let want = self.caller.want(&self.table, Place::Key(&self.key), self.consistency);
        let read = v1::Read {
            table_id: 0,
            key: self.key.clone(),
            from: self.from,
            limit,
            consistency: wire::consistency(self.consistency),
            max_age_ms: wire::max_age_ms(self.consistency),
        };
        let got = self
            .caller
            .core
            .call(want, |table, _, _| Ok(Ask::Read(v1::Read { table_id: table.info.id, ..read.clone() })))
            .await?;
        let Answer::Page(page) = got.answer else { return Err(unexpected()) };
        if let Some(last) = page.records.last() {
            self.from = last.offset + 1;
        }
        self.left = self.left.map(|left| left.saturating_sub(page.records.len() as u64));
        self.done = page.cursor.is_empty() || page.records.is_empty() || self.left == Some(0);
        Ok(Some(Page { records: page.records.into_iter().map(wire::record).collect(), note: () }))
    }
}

/// A scan's records; [`cursor`](ScanStream::cursor) says where it is.
pub struct ScanStream {
    pager: Pager<Walk>,
    reverse: bool,
    last_key: Option<Bytes>,
}

struct Walk {
    caller: Caller,
    table: String,
    options: ScanOptions,
    left: Option<u64>,
    /// Known after the first page.
    ground: Option<Ground>,
    done: bool,
}

/// What does not change from page to page, and where the walk stands.
#[derive(Clone)]
struct Ground {
    table_id: u32,
    kind: PartitionKind,
    span: Span,
    /// Forward: the next position wanted. Reverse: the end of the positions wanted.
    pos: Bytes,
    /// The last page's cursor, good for this shard with these bounds.
    chain: Option<Chain>,
}

#[derive(Clone)]
struct Chain {
    shard: u64,
    version: u64,
    cursor: Bytes,
}

/// What a stream knows of the page it gives out.
struct Note {
    table_id: u32,
    kind: PartitionKind,
    /// Nothing comes after this page, and no limit was the reason.
    complete: bool,
}

impl ScanStream {
    pub(crate) fn new(caller: Caller, table: &str, options: ScanOptions) -> ScanStream {
        let (left, reverse) = (options.limit, options.reverse);
        let walk = Walk { caller, table: table.into(), options, left, ground: None, done: left == Some(0) };
        ScanStream { pager: Pager::new(walk), reverse, last_key: None }
    }

    /// Where to go on after the last record given; `None` before the first, and once everything was given. After a limit
    /// was reached it is set, and the rest may turn out to be empty.
    pub fn cursor(&self) -> Option<Cursor> {
        let key = self.last_key.as_ref()?;
        let (note, all_given) = self.pager.note()?;
        if note.complete && all_given {
            return None;
        }
        Some(Cursor { table_id: note.table_id, reverse: self.reverse, pos: resume_at(note.kind, self.reverse, key) })
    }
}

fn resume_at(kind: PartitionKind, reverse: bool, key: &[u8]) -> Bytes {
    let pos = position(kind, key);
    if reverse { pos } else { after(&pos) }
}

impl Stream for ScanStream {
    type Item = Result<Record>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Record>>> {
        let polled = self.pager.poll(cx);
        if let Poll::Ready(Some(Ok(record))) = &polled {
            self.last_key = Some(record.key.clone());
        }
        polled
    }
}

impl Pages for Walk {
    type Note = Note;

    async fn next_page(&mut self) -> Result<Option<Page<Note>>> {
        if self.done {
            return Ok(None);
        }
        check_table_name(&self.table)?;
        let ground = match self.ground.clone() {
            Some(ground) => ground,
            None => {
                let table = self.caller.table(&self.table).await?;
                Ground::new(table.id, table.partitioning, &self.options)?
            }
        };
        if ground.over(self.options.reverse) {
            self.done = true;
            let note = Note { table_id: ground.table_id, kind: ground.kind, complete: true };
            return Ok(Some(Page { records: Vec::new(), note }));
        }
        let (shard, page) = self.ask(&ground).await?;
        let (ground, complete) = self.step(ground, &shard, &page)?;
        let note = Note { table_id: ground.table_id, kind: ground.kind, complete };
        self.done |= complete;
        self.ground = Some(ground);
        Ok(Some(Page { records: page.records.into_iter().map(wire::record).collect(), note }))
    }
}

impl Walk {
    /// Asks the shard at the walk's place for a page.
    async fn ask(&self, ground: &Ground) -> Result<(std::sync::Arc<ShardRoute>, v1::RecordPage)> {
        let reverse = self.options.reverse;
        let place = if reverse { Place::Below(&ground.pos) } else { Place::At(&ground.pos) };
        let want = self.caller.want(&self.table, place, self.options.consistency);
        let request = |table: &TableRoute, shard: &ShardRoute| {
            if table.info.id != ground.table_id {
                return Err(Error::TableNotFound { table: self.table.clone() });
            }
            Ok(Ask::Scan(self.request(ground, shard)))
        };
        let got = self.caller.core.call(want, |table, shard, _| request(table, shard)).await?;
        match got.answer {
            Answer::Page(page) => Ok((got.shard, page)),
            _ => Err(unexpected()),
        }
    }

    fn request(&self, ground: &Ground, shard: &ShardRoute) -> v1::Scan {
        let options = &self.options;
        let (from, to) = if options.reverse {
            (&ground.span.pos_from, lesser_end(&ground.pos, &shard.info.to))
        } else {
            (&ground.pos, lesser_end(&ground.span.pos_to, &shard.info.to))
        };
        let here = ground.chain.as_ref().filter(|c| c.shard == shard.info.id && c.version == shard.info.version);
        let left = self.left.map_or(0, |left| left.min(u64::from(u32::MAX)) as u32);
        let limit = match (left, options.page_records) {
            (0, n) | (n, 0) => n,
            (left, page) => left.min(page),
        };
        v1::Scan {
            table_id: ground.table_id,
            from: ground.span.key_from.clone(),
            to: ground.span.key_to.clone(),
            pos_from: from.max(&shard.info.from).clone(),
            pos_to: to.clone(),
            cursor: here.map(|c| c.cursor.clone()).unwrap_or_default(),
            limit,
            reverse: options.reverse,
            keys_only: options.keys_only,
            include_tombstones: false,
            consistency: wire::consistency(options.consistency),
            max_age_ms: wire::max_age_ms(options.consistency),
            history: false,
            after_ts_us: 0,
            upto_ts_us: 0,
            tell_trimmed: false,
        }
    }

    /// Moves on after a page; also says whether that was all.
    fn step(&mut self, mut ground: Ground, shard: &ShardRoute, page: &v1::RecordPage) -> Result<(Ground, bool)> {
        let reverse = self.options.reverse;
        self.left = self.left.map(|left| left.saturating_sub(page.records.len() as u64));
        if page.cursor.is_empty() {
            ground.chain = None;
            let edge = if reverse { &shard.info.from } else { &shard.info.to };
            ground.pos = edge.clone();
            let complete = edge.is_empty() || ground.over(reverse);
            self.done = complete || self.left == Some(0);
            return Ok((ground, complete));
        }
        let stuck = ground.chain.as_ref().is_some_and(|c| c.cursor == page.cursor);
        if stuck && page.records.is_empty() {
            return Err(unexpected());
        }
        if let Some(last) = page.records.last() {
            ground.pos = resume_at(ground.kind, reverse, &last.key);
        }
        let cursor = page.cursor.clone();
        ground.chain = Some(Chain { shard: shard.info.id, version: shard.info.version, cursor });
        self.done = self.left == Some(0);
        Ok((ground, false))
    }
}

impl Ground {
    fn new(table_id: u32, kind: PartitionKind, options: &ScanOptions) -> Result<Ground> {
        let span = Span::of(kind, &options.keys)?;
        let mut pos = if options.reverse { span.pos_to.clone() } else { span.pos_from.clone() };
        if let Some(cursor) = &options.cursor {
            if cursor.table_id != table_id {
                return Err(Error::invalid("cursor", "it is of another table"));
            }
            if cursor.reverse != options.reverse {
                return Err(Error::invalid("cursor", "it is of a scan in the other direction"));
            }
            pos = if options.reverse { lesser_end(&pos, &cursor.pos).clone() } else { pos.max(cursor.pos.clone()) };
        }
        Ok(Ground { table_id, kind, span, pos, chain: None })
    }

    /// Whether no position is left.
    fn over(&self, reverse: bool) -> bool {
        if self.span.is_empty() {
            return true;
        }
        if reverse {
            !self.pos.is_empty() && self.pos <= self.span.pos_from
        } else {
            !below(&self.pos, &self.span.pos_to)
        }
    }
}
