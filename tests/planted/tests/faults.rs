//! Plants one fault at a time in the consensus core, or in the disks under it, and demands that the explorer finds it.
//!
//! Owns: the list of faults that must be found and how soon. Must never: count a fault as found when the unharmed core
//! fails in the same search; `the_unharmed_core_is_not_blamed` is that control.

use std::collections::BTreeMap;
use std::time::Instant;
use synod_explorer_planted::{ClockFault, DiskFault, Planted, explore};
use synod_paxos_planted::planted::Fault;

/// Independent searches per fault.
const SEARCHES: u64 = 15;
/// Schedules within which each search must find its fault.
const SCHEDULES: u64 = 1_000;
/// Seeds of one search begin here, times its number: far from those of the ordinary run.
const BASE: u64 = 1_000_000;

/// The schedules that one search needed, and what it broke; `None` where it found nothing.
fn search(planted: Planted, number: u64) -> Option<(u64, &'static str)> {
    let from = BASE * (number + 1);
    let report = explore(from..from + SCHEDULES, 1, planted, 1);
    let failure = report.failures.first()?;
    failure.violation.as_ref().map(|violation| (report.schedules, violation.invariant))
}

#[test]
fn every_planted_fault_is_found() {
    // A planted fault makes the core's own assertions fail too; their words are in the table.
    std::panic::set_hook(Box::new(|_| ()));
    let mut faults: Vec<(String, Planted)> = Fault::ALL
        .iter()
        .map(|fault| (format!("{fault:?}"), Planted { core: Some(*fault), ..Planted::default() }))
        .collect();
    for disk in [DiskFault::WipedVotes, DiskFault::LosesSynced] {
        faults.push((format!("disk: {disk:?}"), Planted { disk, ..Planted::default() }));
    }
    for clock in [ClockFault::BeyondBound, ClockFault::ReadEarly] {
        faults.push((format!("clocks: {clock:?}"), Planted { clock, ..Planted::default() }));
    }
    if let Ok(only) = std::env::var("SYNOD_EXPLORE_FAULT") {
        faults.retain(|(name, _)| name.contains(&only));
    }
    let began = Instant::now();
    let jobs: Vec<_> = (0..faults.len()).flat_map(|fault| (0..SEARCHES).map(move |n| (fault, n))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((fault, n)) = jobs.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let result = search(faults[*fault].1, *n);
                    found.lock().unwrap().insert((*fault, *n), result);
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    let _ = std::panic::take_hook();
    println!("{:<22} {:>7} {:>7} {:>7}  found as", "fault", "median", "least", "most");
    let mut missed = Vec::new();
    for (index, (name, _)) in faults.iter().enumerate() {
        let results: Vec<_> = (0..SEARCHES).filter_map(|n| found[&(index, n)]).collect();
        let mut needed: Vec<u64> = results.iter().map(|(schedules, _)| *schedules).collect();
        needed.sort_unstable();
        let mut kinds = BTreeMap::<_, u64>::new();
        results.iter().for_each(|(_, invariant)| *kinds.entry(*invariant).or_default() += 1);
        let kinds: Vec<_> = kinds.iter().map(|(invariant, count)| format!("{invariant} ({count})")).collect();
        let at = |i: usize| needed.get(i).map_or("-".to_owned(), u64::to_string);
        println!(
            "{name:<22} {:>7} {:>7} {:>7}  {}",
            at(needed.len() / 2),
            at(0),
            at(needed.len().saturating_sub(1)),
            kinds.join("; ")
        );
        if needed.len() < SEARCHES as usize {
            missed.push(format!("{name}: {} of {SEARCHES} searches", needed.len()));
        }
    }
    println!("{} faults, {SEARCHES} searches each, {:.1} s", faults.len(), began.elapsed().as_secs_f64());
    assert!(missed.is_empty(), "not found within {SCHEDULES} schedules: {missed:?}");
}

#[test]
fn the_unharmed_core_is_not_blamed() {
    let report = explore(BASE..BASE + 200, 1, Planted::default(), 1);
    if let Some(failure) = report.failures.first() {
        panic!("{}", failure.report(Planted::default()));
    }
}
