//! The applied state of the shards of one worker: rows in key order.
//!
//! Owns: rows. Must never: know what a row means, or make part of a batch visible or durable without the rest. There is
//! no write-ahead log: what was applied since the last completed flush is replayed from the groups' logs.

mod flusher;
pub mod front;
pub mod mem;
mod merge;
pub mod rocks;
mod rows;

use crate::StoreError;
use bytes::Bytes;
use std::ops::ControlFlow;

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

/// The state store of one worker, used from its thread only.
pub trait StateStore: Send {
    /// The newest value of a row.
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits the rows of `[from, to)` in key order (descending where `reverse`), newest values, until the visitor breaks.
    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Applies a batch: visible to the next read, durable with the freeze that follows it.
    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError>;

    /// Removes every row of `[from, to)`; durable with the next freeze at the latest. Rarely used (a dropped shard).
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

    /// Bytes held in memory for rows not yet flushed.
    fn memory_bytes(&self) -> usize;
}
