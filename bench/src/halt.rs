//! The end of a run before its time.
//!
//! Owns: the flag that callers and the dispatcher share. Must never: wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a run before its time: what is under way is waited for, and what was measured so far is reported.
#[derive(Clone, Debug, Default)]
pub struct Halt(Arc<AtomicBool>);

impl Halt {
    /// No operation begins after this.
    pub fn halt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the run is to end.
    #[must_use]
    pub fn halted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
