//! Whole nodes under faults: many seeded runs, every check after every step.
//!
//! Owns: how many runs an ordinary test makes and what they must have reached. Must never: retry a seed that failed, or pass
//! over one.
//!
//! `SYNOD_SIM_SEEDS=N` widens the run, `SYNOD_SIM_FROM=S` begins at another seed, `SYNOD_SIM_FAILURES=N` goes on until N runs
//! have failed, and `SYNOD_SIM_SEED=S` replays one seed with its full trace.

use std::time::Instant;
use synod_sim::expected::EXPECTED;
use synod_sim::search::search;
use synod_sim::{Planted, Trace, run};

/// Runs of an ordinary test; they take 30 s of one core.
const SEEDS: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Replays one seed, where that is asked for; whether it was.
fn replayed() -> bool {
    let Some(seed) = number("SYNOD_SIM_SEED") else { return false };
    let outcome = run(seed, Planted::default(), Trace::kept());
    outcome.trace.lines().iter().for_each(|line| println!("{line}"));
    println!("{}", outcome.coverage);
    if let Some(violation) = outcome.violation {
        panic!("seed {seed} broke {violation}");
    }
    println!("seed {seed}: {} events, nothing broken", outcome.trace.events());
    true
}

#[test]
fn every_run_keeps_every_invariant() {
    if replayed() {
        return;
    }
    let (from, seeds) = (number("SYNOD_SIM_FROM").unwrap_or(0), number("SYNOD_SIM_SEEDS").unwrap_or(SEEDS));
    let failures = number("SYNOD_SIM_FAILURES").unwrap_or(1) as usize;
    let (began, mut told) = (Instant::now(), Instant::now());
    let report = search(from..from + seeds, Planted::default(), failures, |so_far| {
        if told.elapsed().as_secs() >= 10 {
            told = Instant::now();
            let rate = so_far.runs as f64 * 60.0 / began.elapsed().as_secs_f64();
            println!("{} of {seeds} seeds, {rate:.0} a minute, {} failed", so_far.runs, so_far.failures.len());
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds from {from} on, {} events, {:.0} virtual s in {seconds:.1} s: {:.0} seeds a minute",
        report.runs,
        report.events,
        report.micros as f64 / 1e6,
        report.runs as f64 * 60.0 / seconds
    );
    println!("{}", report.coverage);
    for failure in &report.failures {
        if let Some(violation) = &failure.violation {
            println!("seed {} broke {violation}", failure.seed);
        }
    }
    if let Some(failure) = report.failures.first() {
        panic!("{}", failure.report(Planted::default()));
    }
    if seeds >= SEEDS {
        let missing = report.coverage.missing(EXPECTED);
        assert!(missing.is_empty(), "never reached, {} of them:\n{}", missing.len(), missing.join("\n"));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    if number("SYNOD_SIM_SEED").is_some() {
        return;
    }
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..30 {
        // The second run on another thread: nothing of the first may linger.
        let first = run(seed, Planted::default(), Trace::kept());
        let second = std::thread::spawn(move || run(seed, Planted::default(), Trace::kept()));
        let second = second.join().expect("a run does not panic");
        assert_eq!(first.trace.hash(), second.trace.hash(), "seed {seed} has two traces");
        assert_eq!(first.trace.lines(), second.trace.lines(), "seed {seed} has two traces of one hash");
        hashes.insert(first.trace.hash());
    }
    assert_eq!(hashes.len(), 30, "two seeds share a trace");
}
