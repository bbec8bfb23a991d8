//! Work of a store that nobody waits for.
//!
//! Owns: at most one thread, which ends with its owner. Must never: begin a second one while the first runs.

use crate::StoreError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// At most one thread. Dropped, it tells the thread to stop and waits for its end.
#[derive(Default)]
pub(super) struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Whether no work is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Runs `work` on a thread of this name; to be called while idle. `work` must not panic, and ends soon after the flag is
    /// set.
    pub(super) fn begin(
        &mut self,
        name: &str,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> Result<(), StoreError> {
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(&stop));
        let failed =
            |e: std::io::Error| StoreError::Io { what: format!("start the thread {name}"), why: e.to_string() };
        self.thread = Some(thread.map_err(failed)?);
        Ok(())
    }

    /// Waits until the work has ended.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It does not panic, and nobody could be told.
            let _ = thread.join();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}
