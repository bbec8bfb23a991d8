//! Short versions of the campaigns; `make campaign` runs all of them for longer.
//!
//! Owns: the claim that a few turns of each fault pass. Must never: measure, or take what was skipped for passed.

use std::path::PathBuf;
use std::process::Command;

use synod_tests::alone;
use synod_tests::campaign::{Report, run};
use synod_tests::run::binary;

fn artefacts() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("campaign-artefacts")
}

fn passes(name: &str, repeats: usize) -> Report {
    let _turn = alone();
    let report = run(name, repeats, &artefacts(), |line| println!("{line}")).expect("it can be run");
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}\nkept under {}", artefacts().display());
    report
}

/// The same, and so many of its turns at least have split a shard.
fn passes_with_splits(name: &str, repeats: usize, least: usize) {
    let report = passes(name, repeats);
    let splits = report.turns.iter().filter(|turn| turn.note.contains(" begins at ")).count();
    assert!(splits >= least, "{splits} turns split a shard: {report}");
}

/// The same in a process of its own, which goes into namespaces of its own where that is allowed.
fn passes_apart(name: &str, repeats: usize) {
    let _turn = alone();
    let mut campaign = Command::new(env!("CARGO_BIN_EXE_campaign"));
    campaign.args([name, &repeats.to_string()]).env("SYNOD_BIN", binary()).env("SYNOD_ARTEFACTS", artefacts());
    let ran = campaign.output().expect("the campaign's binary runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    println!("{said}");
    match ran.status.code() {
        Some(77) => println!("SKIPPED: {name} was not run"),
        code => assert_eq!(code, Some(0), "{said}\nkept under {}", artefacts().display()),
    }
}

#[test]
fn kill() {
    passes_with_splits("kill", 4, 3);
}

#[test]
fn plain_kill() {
    passes_with_splits("plain-kill", 4, 3);
}

#[test]
fn plain_transfer() {
    passes("plain-transfer", 2);
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

#[test]
fn retry() {
    passes("retry", 2);
}

#[test]
fn snapshot() {
    passes("snapshot", 1);
}

#[test]
fn power_loss() {
    passes_apart("power-loss", 2);
}

#[test]
fn power_loss_one() {
    passes_apart("power-loss-one", 2);
}

#[test]
fn partition() {
    passes_apart("partition", 1);
}

#[test]
fn damage() {
    passes("damage", 3);
}

#[test]
fn hostile() {
    passes("hostile", 3);
}

#[test]
fn disk_full() {
    passes_apart("disk-full", 2);
}

#[test]
fn crash_points() {
    passes_apart("crash-point", 5);
}
