//! Runs schedules, one or many.
//!
//! Owns: seeds, and what a failure prints. Must never: let one schedule see another.

use crate::plan::Planted;
use crate::violation::{Check, Violation};
use crate::world::World;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What became of one schedule.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What it reached, with counts.
    pub reached: BTreeMap<&'static str, u64>,
    /// What it broke.
    pub violation: Option<Violation>,
    /// Its last steps, where they were asked for.
    pub trace: Vec<String>,
}

/// What became of many schedules.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Schedules run.
    pub schedules: u64,
    /// What they reached, with counts.
    pub reached: BTreeMap<&'static str, u64>,
    /// The first that failed: the search stops there.
    pub failure: Option<Outcome>,
}

/// Runs something over a world with a fault planted in the crates under it, and takes the fault away again. A panic is a violation.
pub(crate) fn guarded(planted: Planted, run: impl FnOnce() -> Check) -> Check {
    planted.begin();
    let ran = catch_unwind(AssertUnwindSafe(run));
    Planted::end();
    ran.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        Err(Violation(format!("the code panics: {}", said.unwrap_or_default())))
    })
}

/// Runs the schedule of a seed; with its last steps where `traced`.
#[must_use]
pub fn run(seed: u64, planted: Planted, traced: bool) -> Outcome {
    let mut kept = None;
    let ran = guarded(planted, || kept.insert(World::new(seed, planted, traced)?).run());
    let (reached, trace) = kept.map(|world| (world.reached, world.trace.unwrap_or_default())).unwrap_or_default();
    Outcome { seed, reached, violation: ran.err(), trace: trace.into() }
}

/// Runs the schedules of these seeds until one fails.
#[must_use]
pub fn explore(seeds: Range<u64>, planted: Planted) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        let outcome = run(seed, planted, false);
        report.schedules += 1;
        for (what, times) in &outcome.reached {
            *report.reached.entry(*what).or_default() += times;
        }
        if outcome.violation.is_some() {
            report.failure = Some(outcome);
            break;
        }
    }
    report
}

impl Outcome {
    /// What a failed test prints: the seed, what broke, the last steps, and the command that replays it.
    #[must_use]
    pub fn report(&self, planted: Planted) -> String {
        let Some(violation) = &self.violation else { return format!("seed {} broke nothing", self.seed) };
        let again = run(self.seed, planted, true);
        let mut text = format!("seed {}: {violation}\n", self.seed);
        if again.violation.as_ref() != Some(violation) {
            text += &format!("NOT REPEATED: the second run gave {:?}\n", again.violation);
        }
        text += &again.trace.join("\n");
        text += &format!(
            "\nreplay: SYNOD_ELASTIC_SEED={} cargo test --release --workspace --test elastic -- --nocapture\n",
            self.seed
        );
        text
    }
}
