//! How the worker and the log writer are getting on, for pulses and probes: a node whose worker or disk hangs must not look like
//! one that lives.
//!
//! Owns: nothing; it reads the engine's progress by the engine's clock. Must never: lock, for it is touched around every round
//! and every write.

use std::sync::Arc;
use std::time::Duration;
use synod_engine::clock::MonotoneClock;
use synod_engine::writer;
use synod_paxos::types::Micros;

/// The progress of the log writer and of the workers' rounds as the pulses tell it.
#[derive(Debug)]
pub struct Progress {
    writer: Arc<writer::WriterProgress>,
    /// One a worker, and one a thread that reads for them.
    rounds: Vec<Arc<writer::UnderWay>>,
    clock: MonotoneClock,
}

impl Progress {
    /// Of the writer and the rounds that are measured by `clock`.
    #[must_use]
    pub fn over(writer: Arc<writer::WriterProgress>, rounds: Vec<Arc<writer::UnderWay>>, clock: MonotoneClock) -> Self {
        Self { writer, rounds, clock }
    }

    /// Writes done since the start of the process.
    #[must_use]
    pub fn writes_done(&self) -> u64 {
        self.writer.writes_done()
    }

    /// How long the log write under way or a worker's round under way has taken, whichever began first: a round may read the
    /// state, freeze it or apply to it, and answers nobody meanwhile. Zero where there is neither.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        self.age(self.writer.write_started()).max(self.round())
    }

    /// How long the oldest round of a worker under way has taken; zero where there is none.
    #[must_use]
    pub fn round(&self) -> Duration {
        self.age(self.rounds.iter().filter_map(|round| round.started()).min())
    }

    fn age(&self, began: Option<Micros>) -> Duration {
        let now = self.clock.now().0;
        began.map_or(Duration::ZERO, |at| Duration::from_micros(now.saturating_sub(at.0)))
    }
}

impl Default for Progress {
    /// Of one worker that nobody measures.
    fn default() -> Self {
        Self::over(Arc::default(), vec![Arc::default()], MonotoneClock::default())
    }
}

#[cfg(test)]
impl Progress {
    /// What the writer does before a write.
    pub(super) fn begin(&self) {
        self.writer.begin(self.clock.now());
    }

    /// What it does after one.
    pub(super) fn end(&self) {
        self.writer.end();
    }

    /// What the worker's thread does around a round.
    pub(super) fn rounds(&self) -> &writer::UnderWay {
        &self.rounds[0]
    }

    /// The time by its clock.
    pub(super) fn now(&self) -> Micros {
        self.clock.now()
    }
}
