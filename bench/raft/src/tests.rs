//! Both protocols under the harness: they choose, agree, and go on without their leader; and what is refused.

use crate::cluster::Spec;
use crate::consensus::Core;
use crate::machine::Machine;
use crate::measure::{fail_over, measure};
use crate::paxos::PaxosCore;
use crate::raft_rs::RaftCore;
use crate::setting::Timing;
use crate::{Args, check};
use clap::Parser;
use std::time::Duration;

fn spec(proposers: u32) -> Spec {
    Spec { proposers, bytes: 64, data_dir: std::env::temp_dir(), timing: Timing::default() }
}

/// That the three replicas applied the same is checked by the harness itself, at the end of each run.
fn chooses<C: Core>() {
    for proposers in [1, 32] {
        let figures = measure::<C>(&spec(proposers), Duration::ZERO, Duration::from_millis(300)).expect("a run");
        assert!(figures.ops_per_s > 1.0 && figures.p99_us >= figures.p50_us, "{figures:?}");
        // An entry holds one command of each proposer at most; a message to a follower and its answer, the syncs of both nodes.
        let least = 2.0 / f64::from(proposers) * 0.9;
        assert!(figures.messages >= least && figures.syncs >= least, "{}: {figures:?}", C::NAME);
    }
}

#[test]
fn paxos_chooses_and_its_replicas_agree() {
    chooses::<PaxosCore>();
}

#[test]
fn raft_chooses_and_its_replicas_agree() {
    chooses::<RaftCore>();
}

/// No earlier than the silence that a leader is held dead for, less the pulse that may just have been due.
fn goes_on<C: Core>() {
    let timing = Timing::default();
    let time = fail_over::<C>(&spec(8), Duration::from_millis(100)).expect("another leader");
    assert!(time >= timing.silence - 2 * timing.pulse, "{}: {time:?}", C::NAME);
}

#[test]
fn paxos_goes_on_without_its_leader() {
    goes_on::<PaxosCore>();
}

#[test]
fn raft_goes_on_without_its_leader() {
    goes_on::<RaftCore>();
}

/// Why the arguments are refused; `None` where they are taken.
fn refusal(args: &str, disk: &str) -> Option<String> {
    let machine = Machine { disk: disk.into(), ..Machine::here(&std::env::temp_dir()) };
    match Args::try_parse_from(std::iter::once("bench-raft").chain(args.split_whitespace())) {
        Ok(args) => check(&args, &machine).err().map(|e| e.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let disk = "ext4 on /dev/a";
    assert_eq!(refusal("", disk), None);
    assert_eq!(refusal("--protocols raft --in-flight 7 --bytes 16 --failovers 0", disk), None);
    for (args, why) in [
        ("--protocols zab", "[possible values: paxos, raft]"),
        ("--protocols raft,raft", "one stands twice"),
        ("--in-flight 1,0", "0 is not in 1..=100000"),
        ("--rounds 0", "0 is not in 1..=1000"),
        ("--time-ms 0", "0 is not in"),
        ("--bytes 15", "at least 16"),
        ("--in-flight 5000", "longer than a message"),
    ] {
        let said = refusal(args, disk).unwrap_or_default();
        assert!(said.contains(why), "{args}: {said}");
    }
    let said = refusal("", "tmpfs on tmpfs").unwrap_or_default();
    assert!(said.contains("nothing there is ever synced"), "{said}");
}
