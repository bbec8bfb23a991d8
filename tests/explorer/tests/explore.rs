//! Explores the consensus core: many seeded schedules, every invariant after every step.
//!
//! Owns: how many schedules an ordinary run takes and what it must have reached. Must never: retry a seed that failed, or
//! pass over one.
//!
//! `SYNOD_EXPLORE_SCHEDULES=N` widens the run, `SYNOD_EXPLORE_FROM=S` begins at another seed, `SYNOD_EXPLORE_FAILURES=N`
//! goes on until N schedules have failed, and `SYNOD_EXPLORE_SEED=S` replays one seed with its full trace.

use std::time::Instant;
use synod_explorer::{Planted, Trace, explore, run, trace};

/// Schedules of an ordinary run; on two cores they take under a minute.
const SCHEDULES: u64 = 4_000;
/// No schedule may be shorter.
const FEWEST_STEPS: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Replays one seed, where that is asked for; whether it was.
fn replayed() -> bool {
    let Some(seed) = number("SYNOD_EXPLORE_SEED") else { return false };
    let kept = Trace::kept();
    let outcome = run(seed, Planted::default(), kept.clone());
    kept.lines().iter().for_each(|line| println!("{line}"));
    if let Some(violation) = outcome.violation {
        panic!("seed {seed} broke {violation}");
    }
    println!("seed {seed}: {} steps, nothing broken", outcome.steps);
    true
}

#[test]
fn every_schedule_keeps_every_invariant() {
    if replayed() {
        return;
    }
    let from = number("SYNOD_EXPLORE_FROM").unwrap_or(0);
    let schedules = number("SYNOD_EXPLORE_SCHEDULES").unwrap_or(SCHEDULES);
    let failures = number("SYNOD_EXPLORE_FAILURES").unwrap_or(1) as usize;
    let began = Instant::now();
    let report = explore(from..from + schedules, 2, Planted::default(), failures);
    println!("{} schedules, {} steps in {:.1} s", report.schedules, report.steps, began.elapsed().as_secs_f64());
    println!("{}", report.coverage);
    for failure in &report.failures {
        if let Some(violation) = &failure.violation {
            println!("seed {} after {} steps broke {}", failure.seed, failure.steps, violation.invariant);
        }
    }
    if let Some(failure) = report.failures.first() {
        panic!("{}", failure.report(Planted::default()));
    }
    assert!(
        report.fewest_steps.is_some_and(|fewest| fewest >= FEWEST_STEPS),
        "a schedule has {:?} steps, expected {FEWEST_STEPS} at least",
        report.fewest_steps
    );
    if schedules >= SCHEDULES {
        let missing = report.coverage.missing();
        assert!(missing.is_empty(), "rows never reached, {} of them:\n{}", missing.len(), missing.join("\n"));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    if number("SYNOD_EXPLORE_SEED").is_some() {
        return;
    }
    let traced = |seed| {
        let kept = Trace::kept();
        run(seed, Planted::default(), kept.clone());
        kept.lines()
    };
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (first, second) = (traced(seed), traced(seed));
        assert_eq!(trace::hash(&first), trace::hash(&second), "seed {seed} has two traces");
        if seed < 5 {
            assert_eq!(first, second, "seed {seed} has two traces of one hash");
        }
        hashes.insert(trace::hash(&first));
    }
    assert_eq!(hashes.len(), 40, "two seeds share a trace");
}
