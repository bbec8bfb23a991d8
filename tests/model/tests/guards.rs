//! The model with guards of the core removed, one at a time: each must be found, and the path to it is printed.
//!
//! Owns: which guard is looked for in which model. Must never: count a guard as found where the unharmed core fails in the
//! same model; `short.rs` and the long run are that control.
//!
//! What messages claim is not judged here, only what comes of it: a promise that is not durable must be found by what it
//! breaks, not by being looked at.

// The model's source names the core it checks; here that is the one with faults.
use synod_paxos_planted as paxos;

#[path = "../src/bounds.rs"]
#[allow(dead_code, reason = "this test needs a part of the model only")]
mod bounds;
#[path = "../src/group.rs"]
#[allow(dead_code, reason = "as above")]
mod group;
#[path = "../src/left.rs"]
#[allow(dead_code, reason = "as above")]
mod left;
#[path = "../src/local.rs"]
#[allow(dead_code, reason = "as above")]
mod local;
#[path = "../src/report.rs"]
#[allow(dead_code, reason = "as above")]
mod report;
#[path = "../src/tables.rs"]
#[allow(dead_code, reason = "as above")]
mod tables;
#[path = "../src/verdict.rs"]
mod verdict;

use paxos::planted::Fault;
use report::{How, search};
use std::time::Duration;

/// Each guard and the models in which its absence must show, smallest first.
const GUARDS: &[(Fault, &[&str])] = &[
    (Fault::AckBeforeDurable, &["crash:e=0"]),
    (Fault::OwnVoteBeforeSync, &["crash:e=0"]),
    (Fault::PromiseNotPersisted, &["crash:p=0"]),
    (Fault::ReusedBallot, &["crash:e=2,p=0"]),
    (Fault::NackCountsAsPromise, &["crash:e=2,p=0,c=0"]),
    (Fault::StaleCommitIndex, &["crash:p=0"]),
    (Fault::B0Twice, &["crash:e=0,p=0"]),
    (Fault::LostStopSign, &["reconfigure:e=0"]),
    (Fault::NoConfigEpochs, &["shrink:e=0"]),
    (Fault::FetchCountsUnknown, &["left:e=0"]),
];

#[test]
fn every_removed_guard_is_found() {
    // A removed guard makes the core's own assertions fail too; those are verdicts, not failures of the test.
    std::panic::set_hook(Box::new(|_| ()));
    let only = std::env::var("SYNOD_MODEL_GUARD").ok();
    let mut missed = Vec::new();
    for (fault, models) in GUARDS {
        if only.as_ref().is_some_and(|only| *only != format!("{fault:?}")) {
            continue;
        }
        let found = models.iter().map(|name| {
            let mut bounds = bounds::named(name).expect("a model of this name");
            bounds.options.fault = Some(*fault);
            bounds.strict = false;
            (name, search(bounds, How { shortest: true, limit: Duration::from_secs(120), memory: 4 << 30 }))
        });
        let mut found = found.skip_while(|(_, found)| found.wrong.is_none());
        match found.next() {
            Some((name, found)) => {
                let (wrong, path) = found.wrong.as_ref().expect("skipped otherwise");
                let (states, took) = (found.states, found.took.as_secs_f64());
                println!(
                    "{fault:?} in {name}: {} steps, {states} states, {took:.1} s: not so: {}",
                    path.len(),
                    wrong.property()
                );
                if only.is_some() {
                    println!("{}", found.table());
                }
            }
            None => missed.push(format!("{fault:?}")),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "without these guards the model finds nothing wrong: {missed:?}");
}
