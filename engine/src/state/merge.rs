//! A scan over layers of rows: maps in memory above a RocksDB iterator.
//!
//! Owns: which layer's value of a key counts, and in which order keys are visited. Must never: visit a key twice, or show
//! a row that a newer layer deleted.

use super::Visit;
use super::rows::{Row, RowMap};
use rocksdb::DBRawIterator;
use std::cmp::Ordering;

/// A map in memory and the sorted runs that together hold all of its rows.
pub(super) struct Layer<'a> {
    pub(super) map: &'a RowMap,
    pub(super) runs: Vec<&'a [u32]>,
}

/// What is visited: the keys of `[from, to)`, descending where `reverse`.
#[derive(Clone, Copy)]
pub(super) struct Range<'a> {
    pub(super) from: &'a [u8],
    pub(super) to: &'a [u8],
    pub(super) reverse: bool,
}

/// What is left of a run within the range.
struct RunCursor<'a> {
    map: &'a RowMap,
    rest: &'a [u32],
    reverse: bool,
}

impl<'a> RunCursor<'a> {
    fn new(map: &'a RowMap, run: &'a [u32], range: Range<'_>) -> Self {
        let below = |run: &[u32], end: &[u8]| run.partition_point(|&row| *map.rows()[row as usize].key < *end);
        let rest = &run[below(run, range.from)..];
        let mut cursor = Self { map, rest: &rest[..below(rest, range.to)], reverse: range.reverse };
        cursor.pass_removed();
        cursor
    }

    fn row(&self) -> Option<&'a Row> {
        let row = if self.reverse { self.rest.last() } else { self.rest.first() };
        row.map(|&row| &self.map.rows()[row as usize])
    }

    fn advance(&mut self) {
        self.step();
        self.pass_removed();
    }

    fn step(&mut self) {
        let rest = if self.reverse { self.rest.split_last() } else { self.rest.split_first() };
        self.rest = rest.map_or(&[], |(_, rest)| rest);
    }

    /// Rows that a range of their own map removed after they were put.
    fn pass_removed(&mut self) {
        while self.row().is_some_and(|row| !self.map.is_live(row)) {
            self.step();
        }
    }

    fn leave(&mut self, (from, to): (&[u8], &[u8])) {
        let (map, rest) = (self.map, self.rest);
        let below = |end: &[u8]| rest.partition_point(|&row| *map.rows()[row as usize].key < *end);
        self.rest = if self.reverse { &rest[..below(from)] } else { &rest[below(to)..] };
        self.pass_removed();
    }
}

enum Cursor<'a> {
    Run(RunCursor<'a>),
    Db(DBRawIterator<'a>, bool),
}

impl Cursor<'_> {
    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Run(run) => run.row().map(|row| &*row.key),
            Self::Db(rows, _) => rows.key(),
        }
    }

    /// The value at the current key; `None` where the row is deleted.
    fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Run(run) => run.row().and_then(|row| row.value.as_deref()),
            Self::Db(rows, _) => rows.value(),
        }
    }

    fn advance(&mut self) {
        match self {
            Self::Run(run) => run.advance(),
            Self::Db(rows, false) => rows.next(),
            Self::Db(rows, true) => rows.prev(),
        }
    }

    /// Continues after the range that it is in.
    fn leave(&mut self, range: (&[u8], &[u8])) {
        match self {
            Self::Run(run) => run.leave(range),
            Self::Db(rows, false) => rows.seek(range.1),
            Self::Db(rows, true) => {
                rows.seek_for_prev(range.0);
                if rows.key() == Some(range.0) {
                    rows.prev();
                }
            }
        }
    }
}

/// A cursor and its layer: 0 is the newest.
struct Source<'a> {
    layer: usize,
    cursor: Cursor<'a>,
}

impl Source<'_> {
    /// Whether it is visited after a row of this key and layer.
    fn is_after(&self, key: &[u8], layer: usize, reverse: bool) -> bool {
        let order = self.cursor.key().map_or(Ordering::Less, |mine| mine.cmp(key));
        let order = if reverse { order.reverse() } else { order };
        order.then(self.layer.cmp(&layer)).is_gt()
    }
}

/// Sources that have rows left, in the order in which they are visited, the next one last.
struct Sources<'a> {
    queue: Vec<Source<'a>>,
    reverse: bool,
}

impl<'a> Sources<'a> {
    fn of(layers: &'a [Layer<'a>], db: Option<DBRawIterator<'a>>, range: Range<'_>) -> Result<Self, rocksdb::Error> {
        let mut sources = Self { queue: Vec::new(), reverse: range.reverse };
        for (layer, Layer { map, runs }) in layers.iter().enumerate() {
            for run in runs {
                let cursor = Cursor::Run(RunCursor::new(map, run, range));
                sources.put(Source { layer, cursor })?;
            }
        }
        if let Some(mut rows) = db {
            if range.reverse {
                rows.seek_to_last();
            } else {
                rows.seek_to_first();
            }
            sources.put(Source { layer: layers.len(), cursor: Cursor::Db(rows, range.reverse) })?;
        }
        Ok(sources)
    }

    /// Puts a source where its next key belongs; one without rows is dropped. A database that shows no row may have failed: if it
    /// were taken for one that has ended, its rows would be left out.
    fn put(&mut self, source: Source<'a>) -> Result<(), rocksdb::Error> {
        let Some(key) = source.cursor.key() else {
            return match &source.cursor {
                Cursor::Run(_) => Ok(()),
                Cursor::Db(rows, _) => rows.status(),
            };
        };
        let at = self.queue.partition_point(|other| other.is_after(key, source.layer, self.reverse));
        self.queue.insert(at, source);
        Ok(())
    }

    /// The source of the next key; of several the newest.
    fn next(&mut self) -> Option<Source<'a>> {
        self.queue.pop()
    }

    /// The source of an older value of the same key.
    fn older(&mut self, key: &[u8]) -> Option<Source<'a>> {
        self.queue.pop_if(|other| other.cursor.key() == Some(key))
    }
}

/// Visits the newest values of the range until the visitor breaks. `layers` stand newest first, `db`, bounded to the
/// range, below them.
pub(super) fn scan(
    layers: &[Layer<'_>],
    db: Option<DBRawIterator<'_>>,
    range: Range<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), rocksdb::Error> {
    let mut sources = Sources::of(layers, db, range)?;
    while let Some(mut source) = sources.next() {
        let Some(key) = source.cursor.key() else { continue };
        let hidden = layers[..source.layer].iter().find_map(|layer| layer.map.removed_around(key));
        if let Some(hidden) = hidden {
            source.cursor.leave(hidden);
            sources.put(source)?;
            continue;
        }
        if let Some(value) = source.cursor.value()
            && visit(key, value).is_break()
        {
            return Ok(());
        }
        while let Some(mut older) = sources.older(key) {
            older.cursor.advance();
            sources.put(older)?;
        }
        source.cursor.advance();
        sources.put(source)?;
    }
    Ok(())
}
