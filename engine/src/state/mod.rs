//! The applied state of the shards of one worker: rows in key order.
//!
//! Owns: rows. Must never: know what a row means, or make part of a batch visible or durable without the rest. There is
//! no write-ahead log: what was applied since the last completed flush is replayed from the groups' logs.

mod background;
mod flusher;
pub mod front;
pub mod mem;
pub mod memtables;
mod merge;
mod pace;
mod pieces;
mod reclaim;
mod removed;
pub mod rocks;
mod rows;
mod tidy;
mod trash;

use crate::StoreError;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// What a scan calls with each row's key and value; a break ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Changes that become visible together and durable together.
#[derive(Clone, Debug, Default)]
pub struct StateBatch {
    /// Row key and its new value, or `None` where the row goes. Later changes of a key win.
    pub rows: Vec<(Vec<u8>, Option<Bytes>)>,
}

/// Names one freeze: 1, 2, 3, …
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushId(pub u64);

/// The rows as they were at one moment, whatever is applied meanwhile.
pub trait StateView {
    /// Visits the rows of `[from, to)` in key order until the visitor breaks.
    fn scan(&mut self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// How many bytes the rows of `[from, to)` take, about, without reading them: to a block of the files that hold them, and with rows
    /// that were removed and not yet compacted.
    fn size(&mut self, from: &[u8], to: &[u8]) -> u64;
}

/// Says how much rows take, on any thread.
pub trait Measure: Send + Sync {
    /// How many bytes the rows of `[from, to)` take that are flushed, about, as [`StateView::size`] says it.
    fn size(&self, from: &[u8], to: &[u8]) -> u64;
}

/// What is done with a view. It is dropped unrun where the view cannot be had.
pub type ViewJob = Box<dyn FnOnce(&mut dyn StateView) + Send>;

/// Puts rows past the worker into ranges of keys that it does not use yet.
pub trait BulkLoad: Send + Sync {
    /// Adds rows, sorted; durable on return. Seen by the worker after [`StateStore::loaded`].
    fn load(&self, rows: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError>;
}

/// Rows that are not in memory: the first of `[from, to)`, or the last where `reverse`, and those after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacked {
    /// The first key.
    pub from: Vec<u8>,
    /// The key after the last.
    pub to: Vec<u8>,
    /// They are read from the last on.
    pub reverse: bool,
}

impl Lacked {
    /// One row.
    #[must_use]
    pub fn row(key: &[u8]) -> Self {
        Self { from: key.to_vec(), to: [key, &[0]].concat(), reverse: false }
    }
}

/// Brings rows into memory, on any thread.
pub trait Fetch: Send + Sync {
    /// Reads a bounded part of what was lacked: the next read finds it in memory, unless other rows have taken its place.
    ///
    /// # Errors
    /// The store failed or is damaged; whoever reads next meets with that too.
    fn fetch(&self, lacked: &Lacked) -> Result<(), StoreError>;
}

fn makes_no_snapshots<T>() -> Result<T, StoreError> {
    Err(StoreError::Io { what: "snapshot of the state".into(), why: "this store makes none".into() })
}

/// The state store of one worker, used from its thread only.
pub trait StateStore: Send {
    /// The newest value of a row.
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits the rows of `[from, to)` in key order (descending where `reverse`), newest values, until the visitor breaks.
    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// With `stay`, later reads fail with [`StoreError::Cold`] instead of waiting for a file. Without it they wait, which is the default.
    fn stay_in_memory(&mut self, stay: bool) {
        let _ = stay;
    }

    /// What other threads bring rows into memory with; `None` where all are there.
    fn fetcher(&self) -> Option<Arc<dyn Fetch>> {
        None
    }

    /// Applies a batch: visible to the next read, durable with the freeze that follows it.
    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError>;

    /// How long the worker is to wait, from now, before it applies more: what writes its rows away has fallen behind. Asked
    /// after each batch; the store itself does not wait.
    fn owed(&mut self) -> Duration {
        Duration::ZERO
    }

    /// Removes every row of `[from, to)`, whatever their number, in a time that does not depend on it; durable with the next
    /// freeze, together with what was applied before that.
    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError>;

    /// Whether enough was applied since the last freeze that the worker should freeze now.
    fn wants_freeze(&self) -> bool;

    /// Everything applied so far will become durable together, in the background. Blocks only where too many freezes are
    /// still unfinished (the bound on memory).
    fn freeze(&mut self) -> Result<FlushId, StoreError>;

    /// Every freeze up to here is durable. An error of the background flush is reported here and ends the process.
    fn flushed(&mut self) -> Result<FlushId, StoreError>;

    /// Freezes and waits until all is durable; for shutdown.
    fn flush_and_wait(&mut self) -> Result<(), StoreError>;

    /// Runs `job` on a thread of its own (in memory: at once) with the rows as of the last freeze. To be called right after
    /// that freeze, before anything is applied.
    fn view(&mut self, job: ViewJob) -> Result<(), StoreError> {
        drop(job);
        makes_no_snapshots()
    }

    /// What other threads learn sizes from; `None` where this store does not say.
    fn measure(&self) -> Option<Arc<dyn Measure>> {
        None
    }

    /// What other threads load rows through.
    fn loader(&self) -> Result<Arc<dyn BulkLoad>, StoreError> {
        makes_no_snapshots()
    }

    /// Rows of `[from, to)` were loaded: the next read sees them.
    fn loaded(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let _ = (from, to);
        makes_no_snapshots()
    }

    /// Gives back, in the background, the room of rows that were removed, where that takes no more than `spare` bytes for a
    /// while. Cheap where there is nothing to give back.
    fn reclaim(&mut self, spare: u64) -> Result<(), StoreError> {
        let _ = spare;
        Ok(())
    }

    /// Gives back, in the background and at its own pace, the room of large ranges that were removed. To be called now and then.
    /// Returns how many bytes of removed rows still take room, about.
    fn tidy(&mut self) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Whether damage was met with anywhere, or background work failed: the process ends on `Err`.
    fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A row read back makes no sense: whoever opens the store next is to look through it.
    fn condemn(&self, error: &StoreError) {
        let _ = error;
    }

    /// Bytes held in memory for rows not yet flushed.
    fn memory_bytes(&self) -> usize;
}
