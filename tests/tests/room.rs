//! Dropping a table frees its room on every node's disk.
//!
//! Owns: the bound on how long that takes while nothing else is written. Must never: count what a log keeps for lagging
//! members; that has a bound of its own.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use synod_tests::alone;
use synod_tests::cluster::Cluster;
use synod_tests::run::until;

const MIB: u64 = 1 << 20;
/// What the table holds, and how soon its room is there again.
const HELD: u64 = 40 * MIB;
const WITHIN: Duration = Duration::from_secs(60);

/// What the files of a directory take.
fn taken(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken(&entry.path()),
        // A file may go between the two looks.
        meta => meta.map_or(0, |meta| meta.len()),
    };
    entries.map(size).sum()
}

#[test]
fn a_dropped_table_gives_its_room_back() {
    let _alone = alone();
    let cluster = Cluster::start_with("[storage]\nstate_memory = \"4MiB\"\n");
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "2", "--retain", "all"]).ok();
    let states = [1, 2, 3].map(|number| cluster.data_dir(number).join("state"));
    let all = || states.each_ref().map(|dir| taken(dir));
    // Bytes that no compression makes smaller, as lines.
    let mut content = Vec::new();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for key in 0..HELD / (MIB / 2) {
        let mut value = vec![0; (MIB / 2) as usize];
        random.fill_bytes(&mut value);
        value.iter_mut().for_each(|byte| *byte = (*byte).max(b'\n' + 1));
        content.extend_from_slice(format!("key-{key} ").as_bytes());
        content.extend_from_slice(&value);
        content.push(b'\n');
    }
    let file = cluster.dir().join("values");
    fs::write(&file, content).expect("a file in the temporary directory");
    cluster.cli(&["load", "t", file.to_str().unwrap(), "--format", "lines", "--key-regex", r"^key-\d+"]).ok();
    let full = until(WITHIN, "all of it is on the disks", || {
        let taken = all();
        taken.iter().all(|bytes| *bytes > HELD * 3 / 4).then_some(taken)
    });
    cluster.cli(&["table", "drop", "t"]).ok();
    let began = Instant::now();
    let empty = until(WITHIN, "the room is there again", || {
        let taken = all();
        taken.iter().all(|bytes| *bytes < 10 * MIB).then_some(taken)
    });
    println!("{full:?}, then {empty:?} bytes of state after {:.1?}", began.elapsed());
    assert!(empty.is_ok(), "{:?} bytes {:?} after the drop", all(), began.elapsed());
}
