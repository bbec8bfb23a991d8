//! The demonstrations that `make` runs.
//!
//! Owns: the claim that the script works from its first command to its count, with a shorter load. Must never: judge what it counts; the
//! script does, and ends with another exit code where a record is missing or doubled.

use std::process::{Command, Stdio};

use synod_tests::cluster::free_ports;
use synod_tests::run::{binary, finish};
use synod_tests::{alone, repository};

#[test]
fn shards_are_split_and_moved_and_the_count_is_right() {
    let _alone = alone();
    let mut script = Command::new("sh");
    script
        .arg(repository().join("scripts/demo-elastic.sh"))
        .env("SYNOD", binary())
        .env("DEMO_PORT", free_ports().to_string())
        .env("DEMO_BATCH", "50")
        .env("DEMO_PAUSE", "0.5")
        .env_remove("SYNOD_ENDPOINTS")
        .env_remove("SYNOD_LOG")
        .stdin(Stdio::null());
    let ran = finish(script, None).ok();
    for said in [
        "shard split 2 --at user-400",
        "is on node 4 now",
        "node 4 was emptied and taken out of the cluster",
        "found by both readers: each once, each key in order, offsets without a gap",
    ] {
        assert!(ran.stdout.contains(said), "no {said:?} in {}\n{}", ran.stdout, ran.stderr);
    }
}
