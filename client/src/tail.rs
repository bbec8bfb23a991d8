//! A tail: what commits in a set of keys, each key in order.
//!
//! Owns: the order in which pages are given out and what each record's token says. Must never: lose or repeat a record
//! within a stream, whatever happens to leaders, connections and bounds.
//!
//! The positions of the keys are cut into ranges, at first one for each shard. A range asks its shard for one page at a time:
//! it polls; where the shard no longer holds what is wanted in memory, it scans one segment, then polls on. Only when a page
//! is taken up do the segments move on. The range's next question follows from them, so a failed question changes nothing.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};

use crate::error::{Error, Result, unexpected};
use crate::limits::check_table_name;
use crate::router::{Span, position};
use crate::segments::Segments;
use crate::shared::Caller;
use crate::tail_range::{Ground, News, Page, Phase, TailRange};
use crate::token::{Given, Token};
use crate::types::{PassedOver, Record, TailOptions, TailStart};
use synod_cluster::position::{after, lesser_end};

/// A record of a tail.
#[derive(Clone, Debug)]
pub struct TailItem {
    /// The record; a deletion is a tombstone.
    pub record: Record,
    page: Arc<PageNote>,
    /// Whether it is the last of its key with its timestamp, and the last of all with it.
    ends_key: bool,
    ends_ts: bool,
}

/// What the tokens of a page's records have in common.
#[derive(Debug)]
struct PageNote {
    ground: Arc<Ground>,
    /// What was given before the page.
    before: Segments,
    from: Bytes,
    to: Bytes,
    /// Of a scanned page: the timestamp that is complete where the scan has passed. Unset: records come by timestamp.
    scan_upto_us: Option<u64>,
}

impl TailItem {
    /// What the stream has given up to and with this record: a tail started with it goes on after it.
    pub fn token(&self) -> Token {
        let PageNote { ground, before, from, to, scan_upto_us } = &*self.page;
        let (mut given, ts_us) = (before.clone(), self.record.ts_us);
        let pos = position(ground.kind, &self.record.key);
        let end = after(&pos);
        match scan_upto_us {
            Some(upto) => given.raise(from, &pos, *upto),
            None if self.ends_ts => given.raise(from, to, ts_us),
            None => {
                given.raise(from, to, ts_us.saturating_sub(1));
                given.raise(from, &pos, ts_us);
            }
        }
        if self.ends_key {
            given.raise(&pos, &end, ts_us);
        } else {
            given.give(&pos, Given { offset: self.record.offset, ts_us });
        }
        Token { table_id: ground.table_id, segments: given.0 }
    }
}

type Asked = BoxFuture<'static, (TailRange, Result<News>)>;
type Begun = BoxFuture<'static, Result<Begin>>;

/// Most keys that a stream names as passed over.
const PASSED_MAX: usize = 1024;

/// The keys of which trimmed records were passed over.
#[derive(Default)]
struct Passed {
    seen: HashSet<Bytes>,
    untold: Vec<PassedOver>,
}

impl Passed {
    fn add(&mut self, passed: PassedOver) {
        if self.seen.len() < PASSED_MAX && self.seen.insert(passed.key.clone()) {
            self.untold.push(passed);
        }
    }
}

/// What a tail begins with.
struct Begin {
    ground: Arc<Ground>,
    segments: Segments,
    /// Where it ends; nothing where it is followed.
    ends: Segments,
    /// Up to where it passes over what was trimmed; nothing unless it begins with the earliest.
    catches_up: Segments,
}

/// What commits, each key in order.
pub struct TailStream {
    caller: Caller,
    table: Arc<str>,
    options: TailOptions,
    begin: Option<Begun>,
    begun: Option<(Arc<Ground>, Segments)>,
    /// Where a tail that does not follow ends: what was the newest when it began.
    ends: Segments,
    /// A tail from the earliest begins at what is left: what is trimmed of what was there when it began is passed over.
    catches_up: Segments,
    asked: FuturesUnordered<Asked>,
    /// Answers not yet taken up, at most one for each range.
    answered: VecDeque<(TailRange, Result<News>)>,
    items: VecDeque<TailItem>,
    /// Ranges whose last question failed; asked again when the stream is polled again.
    failed: Vec<TailRange>,
    /// The beginnings of ranges whose last question failed, whether or not it was asked again.
    waiting: BTreeSet<Bytes>,
    passed: Passed,
    over: bool,
}

impl TailStream {
    pub(crate) fn new(caller: Caller, table: &str, options: TailOptions) -> TailStream {
        TailStream {
            caller,
            table: table.into(),
            options,
            begin: None,
            begun: None,
            ends: Segments(Vec::new()),
            catches_up: Segments(Vec::new()),
            asked: FuturesUnordered::new(),
            answered: VecDeque::new(),
            items: VecDeque::new(),
            failed: Vec::new(),
            waiting: BTreeSet::new(),
            passed: Passed::default(),
            over: false,
        }
    }

    /// What the stream has read so far, for when there is no record whose token would say it; `None` before it has begun
    /// and while records it has read are still to be taken.
    pub fn token(&self) -> Option<Token> {
        let (ground, segments) = self.begun.as_ref().filter(|_| self.items.is_empty())?;
        Some(Token { table_id: ground.table_id, segments: segments.0.clone() })
    }

    /// Whether the stream lacks an answer: it gave an error and has not yet got what it asked for then. Changes while the
    /// stream is polled, also while it has no record to give.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Of which keys trimmed records were passed over since this was last asked: each key once in the life of the stream, and
    /// no more than the first 1,024 keys. A key may be missing where several are passed over on one page.
    pub fn passed_over(&mut self) -> Vec<PassedOver> {
        std::mem::take(&mut self.passed.untold)
    }

    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let (caller, table, options) = (&self.caller, &self.table, &self.options);
        let begin = self.begin.get_or_insert_with(|| begin(caller.clone(), table.clone(), options.clone()).boxed());
        let Begin { ground, segments, ends, catches_up } = match begin.as_mut().poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(begun) => {
                self.begin = None;
                begun?
            }
        };
        (self.ends, self.catches_up) = (ends, catches_up);
        for (from, to) in ranges(&self.caller, &self.table, &ground.span) {
            self.ask(TailRange { from, to, phase: Phase::Poll }, &ground, &segments);
        }
        self.begun = Some((ground, segments));
        self.waiting.clear();
        Poll::Ready(Ok(()))
    }

    fn ask(&mut self, range: TailRange, ground: &Arc<Ground>, segments: &Segments) {
        let tell_trimmed = segments.reach(&self.catches_up, &range.from, &range.to);
        self.question(range, ground, segments, tell_trimmed);
    }

    fn question(&mut self, range: TailRange, ground: &Arc<Ground>, segments: &Segments, tell_trimmed: bool) {
        let wanted = segments.within(&range.from, &range.to);
        let wait = if self.options.follow { self.caller.core.options.tail_wait } else { std::time::Duration::ZERO };
        let page = Page { limit: self.options.page_records, wait, tell_trimmed };
        let question = range.ask(self.caller.clone(), ground.clone(), wanted, page);
        self.asked.push(question.boxed());
    }

    /// Takes up what a range brought: gives out its records, moves the segments on, and asks the next question.
    fn take_up(&mut self, mut range: TailRange, mut news: News) -> Result<()> {
        let Some((ground, mut segments)) = self.begun.take() else { return Err(unexpected()) };
        if range.to != news.to {
            // The shard ends before the range does: the rest is a range of its own.
            let rest = TailRange { from: news.to.clone(), to: range.to, phase: Phase::Poll };
            self.ask(rest, &ground, &segments);
            range.to = news.to.clone();
        }
        let scan = match &range.phase {
            Phase::Scan { from, to, upto_us, .. } => Some((from.clone(), to.clone(), *upto_us)),
            Phase::Poll => None,
        };
        let (from, to) = match &scan {
            Some((from, to, _)) => (from.clone(), lesser_end(to, &range.to).clone()),
            None => (range.from.clone(), range.to.clone()),
        };
        let page = PageNote {
            ground: ground.clone(),
            before: segments.clone(),
            from: from.clone(),
            to: to.clone(),
            scan_upto_us: scan.as_ref().map(|s| s.2),
        };
        let ends_page = scan.is_none() || news.cursor.is_empty();
        let records = std::mem::take(&mut news.records);
        let last = records.last().map(|r| (position(ground.kind, &r.key), Given { offset: r.offset, ts_us: r.ts_us }));
        self.give(records, Arc::new(page), ends_page);
        match (scan, last) {
            (Some((_, _, upto_us)), _) if news.cursor.is_empty() => segments.raise(&from, &to, upto_us),
            (Some((_, _, upto_us)), Some((pos, given))) => {
                segments.raise(&from, &pos, upto_us);
                segments.give(&pos, given);
            }
            (Some(_), None) => {}
            (None, last) => segments.raise(&from, &to, news.upto_us.max(last.map_or(0, |(_, given)| given.ts_us))),
        }
        range.phase = news.next_phase(range.phase);
        if self.options.follow || range.phase != Phase::Poll || !segments.reach(&self.ends, &range.from, &range.to) {
            self.ask(range, &ground, &segments);
        }
        self.begun = Some((ground, segments));
        Ok(())
    }

    fn give(&mut self, records: Vec<Record>, page: Arc<PageNote>, ends_page: bool) {
        let mut rest = records.into_iter().peekable();
        let check = page.before.has_given();
        while let Some(record) = rest.next() {
            let next = rest.peek();
            let same_ts = |n: &Record| n.ts_us == record.ts_us;
            let ends_ts = next.map_or(ends_page, |n| !same_ts(n));
            let ends_key = next.map_or(ends_page, |n| !same_ts(n) || n.key != record.key);
            let pos_of = |r: &Record| position(page.ground.kind, &r.key);
            if check && page.before.was_given(&pos_of(&record), record.offset, record.ts_us) {
                continue;
            }
            self.items.push_back(TailItem { record, page: page.clone(), ends_key, ends_ts });
        }
    }
}

impl Stream for TailStream {
    type Item = Result<TailItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<TailItem>>> {
        let this = &mut *self;
        loop {
            // The questions move on while records are being taken.
            let idle = loop {
                match this.asked.poll_next_unpin(cx) {
                    Poll::Ready(Some(answered)) => this.answered.push_back(answered),
                    Poll::Ready(None) => break true,
                    Poll::Pending => break false,
                }
            };
            if let Some(item) = this.items.pop_front() {
                return Poll::Ready(Some(Ok(item)));
            }
            if this.over {
                return Poll::Ready(None);
            }
            if this.begun.is_none() {
                match this.poll_begin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => {
                        this.waiting.insert(Bytes::new());
                        return this.fail(error);
                    }
                    Poll::Ready(Ok(())) => continue,
                }
            }
            match this.answered.pop_front() {
                Some((range, Err(Error::Trimmed { key, first }))) if this.options.skip_trimmed => {
                    this.passed.add(PassedOver { key, first });
                    this.skip(range);
                }
                Some((range, Err(error))) => {
                    this.waiting.insert(range.from.clone());
                    this.failed.push(TailRange { phase: Phase::Poll, ..range });
                    return this.fail(error);
                }
                Some((range, Ok(news))) => {
                    this.waiting.remove(&range.from);
                    if let Err(error) = this.take_up(range, news) {
                        return this.fail(error);
                    }
                }
                None if !this.failed.is_empty() => this.ask_again(),
                None if idle => this.over = true,
                None => return Poll::Pending,
            }
        }
    }
}

impl TailStream {
    /// Asks a range's question again, and for what is left only. It is told of trims again with its next question.
    fn skip(&mut self, range: TailRange) {
        if let Some((ground, segments)) = self.begun.take() {
            self.question(range, &ground, &segments, false);
            self.begun = Some((ground, segments));
        }
    }

    fn ask_again(&mut self) {
        if let Some((ground, segments)) = self.begun.take() {
            for range in std::mem::take(&mut self.failed) {
                self.ask(range, &ground, &segments);
            }
            self.begun = Some((ground, segments));
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<TailItem>>> {
        self.over = !error.retryable();
        Poll::Ready(Some(Err(error)))
    }
}

/// One range a shard, within the span.
fn ranges(caller: &Caller, table: &str, span: &Span) -> Vec<(Bytes, Bytes)> {
    let view = caller.core.maps.view();
    let Some(table) = view.table(table) else { return vec![(span.pos_from.clone(), span.pos_to.clone())] };
    let whole = Segments::whole(span.pos_from.clone(), span.pos_to.clone(), 0);
    let mut cut: Vec<(Bytes, Bytes)> = Vec::new();
    for shard in &table.shards {
        cut.extend(whole.within(&shard.info.from, &shard.info.to).into_iter().map(|s| (s.from, s.to)));
    }
    // A map with gaps in it: one range, cut as the shards answer.
    let gapless = cut.windows(2).all(|pair| pair[0].1 == pair[1].0)
        && cut.first().is_some_and(|first| first.0 == span.pos_from)
        && cut.last().is_some_and(|last| last.1 == span.pos_to);
    if gapless { cut } else { vec![(span.pos_from.clone(), span.pos_to.clone())] }
}

/// Finds the table, where each of its parts begins, and where it ends unless it is followed.
async fn begin(caller: Caller, table: Arc<str>, options: TailOptions) -> Result<Begin> {
    check_table_name(&table)?;
    let info = caller.table(&table).await?;
    let span = Span::of(info.partitioning, &options.keys)?;
    let ground = Ground { table, table_id: info.id, kind: info.partitioning, span };
    let (from, to) = (ground.span.pos_from.clone(), ground.span.pos_to.clone());
    let whole = |after_us| Segments::whole(from.clone(), to.clone(), after_us);
    let nothing = || Segments(Vec::new());
    if ground.span.is_empty() {
        return Ok(Begin { ground: Arc::new(ground), segments: nothing(), ends: nothing(), catches_up: nothing() });
    }
    let ground = Arc::new(ground);
    let from_token = matches!(options.start, TailStart::Token(_));
    let now = if options.follow && from_token { nothing() } else { newest(&caller, &ground).await? };
    let catches_up = if options.start == TailStart::Earliest { now.clone() } else { nothing() };
    let segments = match options.start {
        TailStart::Earliest => whole(0),
        TailStart::Token(token) => {
            if token.table_id != info.id {
                return Err(Error::invalid("token", "it is of another table"));
            }
            let segments = Segments(token.segments);
            if !segments.covers(&from, &to) {
                return Err(Error::invalid("token", "it is of a tail of fewer keys"));
            }
            Segments(segments.within(&from, &to))
        }
        TailStart::Latest => now.clone(),
    };
    let ends = if options.follow { nothing() } else { now };
    Ok(Begin { ground, segments, ends, catches_up })
}

/// The newest timestamp of each shard in the span.
async fn newest(caller: &Caller, ground: &Arc<Ground>) -> Result<Segments> {
    let mut segments = Segments::whole(ground.span.pos_from.clone(), ground.span.pos_to.clone(), 0);
    let ask = |(from, to): (Bytes, Bytes)| async move {
        let range = TailRange { from: from.clone(), to: to.clone(), phase: Phase::Poll };
        range.newest(caller, ground).await.map(|(now_us, end)| (from, end, to, now_us))
    };
    let mut asked: FuturesUnordered<_> = ranges(caller, &ground.table, &ground.span).into_iter().map(ask).collect();
    while let Some(answer) = asked.next().await {
        let (from, end, to, now_us) = answer?;
        segments.raise(&from, &end, now_us);
        if end != to {
            asked.push(ask((end, to)));
        }
    }
    Ok(segments)
}
