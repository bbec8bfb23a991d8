//! Explores splits: many seeded schedules, every rule after every step.
//!
//! Owns: how many schedules an ordinary run takes and what it must have reached. Must never: retry a seed that failed, or pass over
//! one.
//!
//! `SYNOD_ELASTIC_SCHEDULES=N` widens the run, `SYNOD_ELASTIC_FROM=S` begins at another seed, and `SYNOD_ELASTIC_SEED=S` replays one
//! seed with its last steps.

use std::time::Instant;
use synod_elastic::{HostFault, Planted, explore, run, scenes};

/// Schedules of an ordinary run.
const SCHEDULES: u64 = 1_000;

/// What an ordinary run must have reached: else it shows nothing.
const EXPECTED: [&str; 25] = [
    "batch across shards",
    "child born",
    "child born again",
    "child not wanted here",
    "crash",
    "epoch",
    "merge",
    "merge begun",
    "node died",
    "old name sent again",
    "read",
    "read refused by the second look",
    "record tailed",
    "replica removed",
    "restart with an unborn child",
    "scan",
    "snapshot",
    "snapshot waits for custody",
    "split",
    "tail by scan",
    "tail refused by the second look",
    "write acknowledged",
    "write executed",
    "write failed",
    "write unknown",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn every_schedule_keeps_every_rule() {
    if let Some(seed) = number("SYNOD_ELASTIC_SEED") {
        let outcome = run(seed, Planted::default(), true);
        outcome.trace.iter().for_each(|line| println!("{line}"));
        match outcome.violation {
            Some(violation) => panic!("seed {seed}: {violation}"),
            None => return println!("seed {seed}: nothing broken, {:?}", outcome.reached),
        }
    }
    let from = number("SYNOD_ELASTIC_FROM").unwrap_or(0);
    let schedules = number("SYNOD_ELASTIC_SCHEDULES").unwrap_or(SCHEDULES);
    let began = Instant::now();
    let report = explore(from..from + schedules, Planted::default());
    println!("{} schedules in {:.1} s: {:?}", report.schedules, began.elapsed().as_secs_f64(), report.reached);
    if let Some(failure) = &report.failure {
        panic!("{}", failure.report(Planted::default()));
    }
    if schedules >= SCHEDULES {
        let missing: Vec<&str> = EXPECTED.into_iter().filter(|what| !report.reached.contains_key(what)).collect();
        assert!(missing.is_empty(), "never reached: {missing:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    for seed in 0..4 {
        let (first, second) = (run(seed, Planted::default(), true), run(seed, Planted::default(), true));
        assert!(!first.trace.is_empty());
        assert_eq!((first.trace, first.reached), (second.trace, second.reached), "seed {seed}");
    }
}

#[test]
fn written_schedules_are_survived() {
    assert_eq!(scenes::two_outages_one_death(Planted::default()), Ok(()));
    assert_eq!(scenes::who_tells(Planted::default()), Ok(()));
    assert_eq!(scenes::floor_at_merge(Planted::default()), Ok(()));
    assert_eq!(scenes::half_a_report(Planted::default()), Ok(()));
    assert_eq!(scenes::source_is_waited_for(Planted::default()), Ok(()));
    assert_eq!(scenes::read_of_frozen(Planted::default()), Ok(()));
    assert_eq!(scenes::child_of_the_source(Planted::default()), Ok(()));
    assert_eq!(scenes::merge_begun_again(Planted::default()), Ok(()));
}

#[test]
fn a_source_that_leaves_before_its_target_has_it_is_found() {
    let found = scenes::source_is_waited_for(Planted::in_host(HostFault::SourceLeavesEarly));
    assert!(found.is_err(), "the target takes it in all the same");
}

#[test]
fn bounds_that_only_leaders_tell_are_found_missing() {
    let found = scenes::who_tells(Planted::in_host(HostFault::OnlyBegunEpochsReport));
    assert!(found.is_err(), "nobody waits for the map");
}
