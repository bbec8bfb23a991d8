//! How the workers, their readers and the log writer are getting on, for pulses and probes: a node whose worker or disk hangs must
//! not look like one that lives.
//!
//! Owns: nothing; it reads the engine's progress by the engine's clock. Must never: lock, for it is touched around every round
//! and every write.

use std::sync::Arc;
use std::time::Duration;
use synod_engine::clock::MonotoneClock;
use synod_engine::writer;

/// What a thread of the node has under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A write of the log.
    Write,
    /// A round of a worker: it may freeze the state or apply to it, and answers nobody meanwhile.
    Round,
    /// Rows that a reader thread reads from the state.
    Read,
}

/// The progress of the log writer, of the workers' rounds and of their readers as the pulses tell it.
#[derive(Debug)]
pub struct Progress {
    writer: Arc<writer::WriterProgress>,
    /// One a worker.
    rounds: Vec<Arc<writer::UnderWay>>,
    /// One a thread that reads for them.
    reads: Vec<Arc<writer::UnderWay>>,
    clock: MonotoneClock,
}

impl Progress {
    /// Of the writer, the rounds and the reads that are measured by `clock`.
    #[must_use]
    pub fn over(
        writer: Arc<writer::WriterProgress>,
        rounds: Vec<Arc<writer::UnderWay>>,
        reads: Vec<Arc<writer::UnderWay>>,
        clock: MonotoneClock,
    ) -> Self {
        Self { writer, rounds, reads, clock }
    }

    /// Writes done since the start of the process.
    #[must_use]
    pub fn writes_done(&self) -> u64 {
        self.writer.writes_done()
    }

    /// How long the work under way that began first has taken; zero where there is none.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        self.oldest().map_or(Duration::ZERO, |(_, age)| age)
    }

    /// The work under way that began first, and how long it has taken.
    #[must_use]
    pub fn oldest(&self) -> Option<(Work, Duration)> {
        let first = |works: &[Arc<writer::UnderWay>]| works.iter().filter_map(|work| work.started()).min();
        let began = [
            (Work::Round, first(&self.rounds)),
            (Work::Read, first(&self.reads)),
            (Work::Write, self.writer.write_started()),
        ];
        let (at, work) = began.into_iter().filter_map(|(work, at)| Some((at?, work))).min_by_key(|(at, _)| *at)?;
        Some((work, Duration::from_micros(self.clock.now().0.saturating_sub(at.0))))
    }
}

impl Default for Progress {
    /// Of one worker that nobody measures.
    fn default() -> Self {
        Self::over(Arc::default(), vec![Arc::default()], vec![Arc::default()], MonotoneClock::default())
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

    /// What a reader's thread does around a read.
    pub(super) fn reads(&self) -> &writer::UnderWay {
        &self.reads[0]
    }

    /// The time by its clock.
    pub(super) fn now(&self) -> synod_paxos::types::Micros {
        self.clock.now()
    }
}
