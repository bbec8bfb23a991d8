//! Runs, one or many.
//!
//! Owns: seeds, and what a failure prints. Must never: let one run see another.

use crate::coverage::Coverage;
use crate::plan::Planted;
use crate::trace::Trace;
use crate::violation::Violation;
use crate::world::World;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use synod_engine::metrics::EngineMetrics;

/// Trace lines shown with a failure.
const SHOWN_LINES: usize = 80;

thread_local! {
    static METRICS: RefCell<Option<Arc<EngineMetrics>>> = const { RefCell::new(None) };
}

/// What became of one run.
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What happened.
    pub trace: Trace,
    /// Virtual time it took, µs.
    pub micros: u64,
    /// What it reached.
    pub coverage: Coverage,
    /// What it broke.
    pub violation: Option<Violation>,
}

/// Runs the world of `seed`.
#[must_use]
pub fn run(seed: u64, planted: Planted, trace: Trace) -> Outcome {
    let metrics =
        METRICS.with_borrow_mut(|kept| Arc::clone(kept.get_or_insert_with(|| Arc::new(EngineMetrics::detached()))));
    #[cfg(feature = "planted")]
    {
        synod_engine::planted::plant(planted.engine);
        synod_cluster::planted::plant(planted.cluster);
    }
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, planted, trace, metrics);
        let violation = world.run().err();
        Outcome { seed, trace: world.trace, micros: world.now, coverage: world.coverage, violation }
    }));
    #[cfg(feature = "planted")]
    {
        synod_engine::planted::plant(None);
        synod_cluster::planted::plant(None);
    }
    ran.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let violation = Violation::new("nothing panics", said.unwrap_or_default());
        let (trace, coverage) = (Trace::default(), Coverage::default());
        Outcome { seed, trace, micros: 0, coverage, violation: Some(violation) }
    })
}

impl Outcome {
    /// What a failed test prints: seed, invariant, operands, the end of the trace, and how to see all of it.
    #[must_use]
    pub fn report(&self, planted: Planted) -> String {
        let Some(violation) = &self.violation else { return format!("seed {} broke nothing", self.seed) };
        let again = run(self.seed, planted, Trace::kept());
        let lines = again.trace.lines();
        let mut text =
            format!("seed {} broke, {:.3} s into its world,\n  {violation}\n", self.seed, self.micros as f64 / 1e6);
        if again.violation.as_ref() != Some(violation) {
            text += &format!("NOT REPEATED: the second run gave {:?}\n", again.violation);
        }
        text += &lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        text += &format!("\nreplay: {}\n", replay(self.seed));
        text
    }
}

/// The command that replays a seed with its full trace.
#[must_use]
pub fn replay(seed: u64) -> String {
    format!("SYNOD_SIM_SEED={seed} cargo test --release --workspace --test sim -- --nocapture")
}

/// What became of many runs.
#[derive(Default)]
pub struct Report {
    /// Runs made.
    pub runs: u64,
    /// Events in all of them.
    pub events: u64,
    /// Virtual time of all of them, µs.
    pub micros: u64,
    /// What they reached.
    pub coverage: Coverage,
    /// What failed.
    pub failures: Vec<Outcome>,
}

/// Runs `seeds` in order until all are done or `enough` have failed; `progress` is told after each.
pub fn search(
    seeds: std::ops::Range<u64>,
    planted: Planted,
    enough: usize,
    mut progress: impl FnMut(&Report),
) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        let outcome = run(seed, planted, Trace::default());
        report.runs += 1;
        report.events += outcome.trace.events();
        report.micros += outcome.micros;
        report.coverage.merge(&outcome.coverage);
        if outcome.violation.is_some() {
            report.failures.push(outcome);
        }
        progress(&report);
        if report.failures.len() >= enough {
            break;
        }
    }
    report
}
