//! Plants one fault at a time, in the engine, in the consensus core, in the disks or in the clients, and demands that the
//! whole-node simulation finds it.
//!
//! Owns: the list of faults that must be found and how soon. Must never: count a fault as found when the unharmed code fails
//! in the same search; `the_unharmed_code_is_not_blamed` is that control.

use std::collections::BTreeMap;
use std::time::Instant;
use synod_paxos::planted::Fault as Core;
use synod_sim_planted::scenarios;
use synod_sim_planted::search::search;
use synod_sim_planted::{DiskFault, Planted};

/// Independent searches per fault.
const SEARCHES: u64 = 5;
/// Seeds of one search begin here, times its number: far from those of the ordinary run.
const BASE: u64 = 1_000_000;
/// Seeds within which each search must find its fault.
const SEEDS: u64 = 600;

/// What one fault's searches needed.
struct Found {
    name: String,
    needed: Vec<u64>,
    broke: BTreeMap<&'static str, u64>,
}

fn faults() -> Vec<(String, Planted)> {
    let mut faults = Vec::new();
    for fault in synod_engine::planted::Fault::ALL {
        faults.push((format!("{fault:?}"), Planted { engine: Some(*fault), ..Planted::default() }));
    }
    // The others of the core are the explorer's: what needs schedules of one group it finds sooner.
    for fault in [
        Core::AckBeforeDurable,
        Core::PromiseNotPersisted,
        Core::OwnVoteBeforeSync,
        Core::StaleCommitIndex,
        Core::SkippedNoopRead,
        Core::B0Twice,
        Core::NoConfigEpochs,
    ] {
        faults.push((format!("core: {fault:?}"), Planted { core: Some(fault), ..Planted::default() }));
    }
    for fault in synod_cluster::planted::Fault::ALL {
        faults.push((format!("cluster: {fault:?}"), Planted { cluster: Some(*fault), ..Planted::default() }));
    }
    for disk in [
        DiskFault::AckBeforeSync,
        DiskFault::LosesSynced,
        DiskFault::TornTailKept,
        DiskFault::WipedVotes,
        DiskFault::DamageEndsLog,
        DiskFault::FreezeTorn,
        DiskFault::LoadAckedEarly,
    ] {
        faults.push((format!("disk: {disk:?}"), Planted { disk, ..Planted::default() }));
    }
    faults.push(("clients: forgetful".into(), Planted { forgetful_clients: true, ..Planted::default() }));
    faults
}

fn find(name: String, planted: Planted, seeds: u64) -> Found {
    let mut found = Found { name, needed: Vec::new(), broke: BTreeMap::new() };
    for number in 1..=SEARCHES {
        let from = BASE * number;
        let report = search(from..from + seeds, planted, 1, |_| ());
        let Some(violation) = report.failures.first().and_then(|failure| failure.violation.as_ref()) else { continue };
        found.needed.push(report.runs);
        *found.broke.entry(violation.invariant).or_default() += 1;
    }
    found.needed.sort_unstable();
    found
}

#[test]
fn every_planted_fault_is_found() {
    // A planted fault makes assertions of the code fail too; their words are in the table.
    std::panic::set_hook(Box::new(|_| ()));
    let began = Instant::now();
    let only = std::env::var("SYNOD_SIM_FAULT").ok();
    let mut missed = Vec::new();
    println!("{:<32} {:>6} {:>6} {:>6}  found as", "fault", "median", "least", "most");
    for (name, planted) in faults() {
        if only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let found = find(name, planted, SEEDS);
        let at = |i: usize| found.needed.get(i).map_or("-".to_owned(), u64::to_string);
        let broke: Vec<String> = found.broke.iter().map(|(invariant, n)| format!("{invariant} ({n})")).collect();
        let (middle, last) = (found.needed.len() / 2, found.needed.len().saturating_sub(1));
        println!("{:<32} {:>6} {:>6} {:>6}  {}", found.name, at(middle), at(0), at(last), broke.join("; "));
        if found.needed.len() < SEARCHES as usize {
            missed.push(format!("{}: {} of {SEARCHES} searches", found.name, found.needed.len()));
        }
    }
    let _ = std::panic::take_hook();
    println!("{:.1} s", began.elapsed().as_secs_f64());
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}

#[test]
fn a_log_that_is_let_go_too_early_is_found() {
    synod_engine::planted::plant(Some(synod_engine::planted::Fault::HoldEndsWithSnapshot));
    let found = (0..200).find(|seed| scenarios::slow_catch_up(*seed).is_err());
    synod_engine::planted::plant(None);
    assert!(found.is_some(), "nobody needs a second snapshot of a shard");
}

#[test]
fn a_renewal_that_executes_twice_is_found() {
    for seed in 0..3 {
        let found = scenarios::executed_and_forgotten(seed, true).err().map(|violation| violation.invariant);
        assert_eq!(found, Some("a write executes at most once, under whatever name"), "seed {seed}");
    }
}

#[test]
fn the_unharmed_code_is_not_blamed() {
    for number in 1..=SEARCHES {
        let report = search(BASE * number..BASE * number + 20, Planted::default(), 1, |_| ());
        if let Some(failure) = report.failures.first() {
            panic!("{}", failure.report(Planted::default()));
        }
    }
}
