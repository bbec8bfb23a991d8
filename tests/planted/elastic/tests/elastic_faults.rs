//! Plants one fault of splits at a time, in the engine, in the metadata, in what clients decide or in the explorer's own steps, and
//! demands that it is found.
//!
//! Owns: the list of faults that must be found and how soon. Must never: count a fault as found when the unharmed code fails in the same
//! search; `the_unharmed_code_is_not_blamed` is that control.

use std::time::Instant;
use synod_cluster::planted::Fault as Cluster;
use synod_elastic_planted::{HostFault, Planted, explore, scenes};
use synod_engine::planted::Fault as Engine;

/// Independent searches per fault.
const SEARCHES: u64 = 2;
/// Seeds of one search begin here, times its number: far from those of the ordinary run.
const BASE: u64 = 1_000_000;
/// Seeds within which each search must find its fault.
const SEEDS: u64 = 2_000;
/// Those that need a merge. Every second schedule has some, so that they get twice the seeds.
const OF_MERGES: [&str; 8] = [
    "FrozenGoesOn",
    "AbsorbAfterCancel",
    "MergeWithoutSessions",
    "MergeKeepsOwnTime",
    "MergeRingClaimsAll",
    "MutualMergesWait",
    "LateFreeze",
    "cluster: VanishWithoutCustody",
];

/// The faults that random schedules must find. What lets custody go is found by a written one.
fn faults() -> Vec<(String, Planted)> {
    let mut faults = Vec::new();
    for fault in synod_engine::planted::Fault::SPLITS {
        faults.push((format!("{fault:?}"), Planted { engine: Some(*fault), ..Planted::default() }));
    }
    for fault in Cluster::SPLITS.iter().filter(|fault| **fault != Cluster::NoCustody) {
        faults.push((format!("cluster: {fault:?}"), Planted { cluster: Some(*fault), ..Planted::default() }));
    }
    for fault in HostFault::ALL {
        faults.push((format!("step: {fault:?}"), Planted::in_host(*fault)));
    }
    faults
}

#[test]
fn every_planted_fault_is_found() {
    // A planted fault makes assertions of the code fail too; their words are in the table.
    std::panic::set_hook(Box::new(|_| ()));
    let began = Instant::now();
    let only = std::env::var("SYNOD_ELASTIC_FAULT").ok();
    let mut missed = Vec::new();
    for (name, planted) in faults() {
        if only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let seeds = if OF_MERGES.contains(&name.as_str()) { 2 * SEEDS } else { SEEDS };
        for number in 1..=SEARCHES {
            let report = explore(BASE * number..BASE * number + seeds, planted);
            match report.failure.and_then(|failure| failure.violation) {
                Some(violation) => println!("{name:<32} {:>5}  {violation}", report.schedules),
                None => missed.push(format!("{name}, search {number}")),
            }
        }
    }
    let _ = std::panic::take_hook();
    println!("{:.1} s", began.elapsed().as_secs_f64());
    assert!(missed.is_empty(), "not found within {SEEDS} seeds, or twice as many: {missed:?}");
}

#[test]
fn a_node_that_gives_up_what_it_must_keep_is_found() {
    let planted = Planted { cluster: Some(Cluster::NoCustody), ..Planted::default() };
    assert!(scenes::two_outages_one_death(planted).is_err(), "a record is there that nobody kept");
    assert_eq!(scenes::two_outages_one_death(Planted::default()), Ok(()));
}

#[test]
fn bounds_that_only_leaders_tell_are_found_missing() {
    assert!(scenes::who_tells(Planted::in_host(HostFault::OnlyBegunEpochsReport)).is_err(), "nobody waits for the map");
    assert_eq!(scenes::who_tells(Planted::default()), Ok(()));
}

/// In the engine or the cluster: each with the schedule that finds it.
#[test]
fn faults_of_merges_that_random_schedules_seldom_meet_are_found_by_written_ones() {
    let engine = |fault| Planted { engine: Some(fault), ..Planted::default() };
    assert!(scenes::floor_at_merge(engine(Engine::MergeLosesFloor)).is_err(), "a write is executed once");
    assert!(scenes::read_of_frozen(engine(Engine::FreezeLetsReads)).is_err(), "no stale record is shown");
    let half = Planted { cluster: Some(Cluster::MapTakesHalf), ..Planted::default() };
    assert!(scenes::half_a_report(half).is_err(), "the map has no hole");
    let early = Planted::in_host(HostFault::SourceLeavesEarly);
    assert!(scenes::source_is_waited_for(early).is_err(), "the source is there");
    assert!(scenes::child_of_the_source(engine(Engine::MergeForgetsChildren)).is_err(), "the map hears of the child");
    let earlier = Planted::in_host(HostFault::AckOfEarlierFreeze);
    assert!(scenes::merge_begun_again(earlier).is_err(), "the source is frozen anew");
}

#[test]
fn the_unharmed_code_is_not_blamed() {
    for number in 1..=SEARCHES {
        let report = explore(BASE * number..BASE * number + 20, Planted::default());
        if let Some(failure) = report.failure {
            panic!("{}", failure.report(Planted::default()));
        }
    }
}
