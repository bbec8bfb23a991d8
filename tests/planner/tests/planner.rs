//! The planner under each load.
//!
//! Owns: how large the runs are, and what must come of each. Must never: print a figure that was not measured in the run.
//!
//! `SYNOD_PLANNER_LARGE=1` adds runs of up to 1,000 nodes and 100,000 shards.

use synod_planner_sim::{Report, Scale, Workload, run};

const SMALL: [Scale; 3] = [
    Scale { nodes: 3, shards: 30, minutes: 40 },
    Scale { nodes: 7, shards: 60, minutes: 40 },
    Scale { nodes: 30, shards: 240, minutes: 40 },
];

const LARGE: [Scale; 3] = [
    Scale { nodes: 30, shards: 3_000, minutes: 60 },
    Scale { nodes: 300, shards: 30_000, minutes: 60 },
    Scale { nodes: 1_000, shards: 100_000, minutes: 60 },
];

fn check(scale: Scale, workload: Workload, report: &Report) {
    let told = format!("{scale:?} {workload}: {report:?}");
    assert!(report.settled.is_some(), "no end, {told}");
    assert_eq!((report.end.lost, report.end.marked), (0, 0), "{told}");
    let (hot, splits, merges) = (report.hot > 0, report.splits > 0, report.merges > 0);
    match workload {
        Workload::Steady | Workload::Diurnal => assert!(!hot && !splits, "{told}"),
        Workload::MovingHotSpot => assert!(splits && !hot, "{told}"),
        Workload::OneHotKey => assert!(hot, "{told}"),
        Workload::MassExpiry => assert!(merges && !splits, "{told}"),
    }
}

#[test]
fn every_load_is_settled() {
    let large = std::env::var_os("SYNOD_PLANNER_LARGE").is_some();
    println!("{:>6} {:>8} {:<16} {}", "nodes", "shards", "load", Report::head());
    for scale in SMALL.into_iter().chain(LARGE.into_iter().filter(|_| large)) {
        for workload in Workload::ALL {
            let report = run(scale, workload);
            println!("{:>6} {:>8} {workload:<16} {report}", scale.nodes, scale.shards);
            check(scale, workload, &report);
        }
    }
}

#[test]
fn the_same_load_gives_the_same_plans() {
    for workload in Workload::ALL {
        assert_eq!(run(SMALL[0], workload), run(SMALL[0], workload), "{workload}");
    }
}
