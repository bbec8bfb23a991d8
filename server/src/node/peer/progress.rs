//! How the log writer is getting on, for the pulses: a disk that hangs must not look like a node that lives.
//!
//! Owns: nothing; it reads the engine's progress by the engine's clock. Must never: lock, for the writer touches it around
//! every write.

use std::sync::Arc;
use std::time::Duration;
use synod_engine::runner::MonotoneClock;
use synod_engine::writer;

/// The log writer's progress as the pulses tell it.
#[derive(Debug, Default)]
pub struct WriterProgress {
    writer: Arc<writer::WriterProgress>,
    clock: MonotoneClock,
}

impl WriterProgress {
    /// Of the writer that measures by `clock`.
    #[must_use]
    pub fn over(writer: Arc<writer::WriterProgress>, clock: MonotoneClock) -> Self {
        Self { writer, clock }
    }

    /// Writes done since the start of the process.
    #[must_use]
    pub fn writes_done(&self) -> u64 {
        self.writer.writes_done()
    }

    /// How long the write under way has taken; zero where there is none.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        let now = self.clock.now().0;
        self.writer.write_started().map_or(Duration::ZERO, |at| Duration::from_micros(now.saturating_sub(at.0)))
    }
}

#[cfg(test)]
impl WriterProgress {
    /// What the writer does before a write.
    pub(super) fn begin(&self) {
        self.writer.begin(self.clock.now());
    }

    /// What it does behind one.
    pub(super) fn end(&self) {
        self.writer.end();
    }
}
