//! Short versions of the campaigns that need no special tool; `make campaign` runs all of them for longer.
//!
//! Owns: the claim that a few turns of each fault pass. Must never: measure.

use std::path::PathBuf;

use synod_tests::alone;
use synod_tests::campaign::run;

fn passes(name: &str, repeats: usize) {
    let _turn = alone();
    let artefacts = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("campaign-artefacts");
    let report = run(name, repeats, &artefacts, |line| println!("{line}")).expect("it can be run");
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}\nkept under {}", artefacts.display());
}

#[test]
fn kill() {
    passes("kill", 4);
}

#[test]
fn kill_all() {
    passes("kill-all", 1);
}

#[test]
fn pause() {
    passes("pause", 2);
}

#[test]
fn transfer() {
    passes("transfer", 4);
}
