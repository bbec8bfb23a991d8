//! Damage to one file of one node: which file, where in it, and what came of it.
//!
//! Owns: the kinds of files a data directory holds, the places in them that are hurt, and what may follow. Must never: take
//! a node that came up for a sound one before everything was read from it.
//!
//! What may follow: the node refuses to start and names the file; it ends naming it once it reads there; it is quarantined;
//! it puts itself right (a file that is only a hint or a text); or the bytes do not matter. What may not: the node serves
//! what differs from its peers' copies, or damaged data that neither the node nor `synod check` names.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Turn;
use super::load::{Load, TABLE};
use crate::cluster::{Cluster, PATIENCE};
use crate::run::{Ran, until};

/// Small enough that every kind of file comes to be.
pub(super) const SETTINGS: &str = "[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n";
/// A table that is written once, so that copies of it can be compared.
const BULK: &str = "bulk";

/// What a file's bytes are to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matter {
    /// Its data, or the way to it: damage must be named.
    Data,
    /// It is not read, or only a hint that others correct.
    Nothing,
}

/// One kind of file of a data directory.
struct Kind {
    name: &'static str,
    folder: &'static str,
    like: fn(&str) -> bool,
    /// Made of RocksDB's log records.
    records: bool,
    matter: Matter,
}

const fn kind(name: &'static str, folder: &'static str, like: fn(&str) -> bool, records: bool, matter: Matter) -> Kind {
    Kind { name, folder, like, records, matter }
}

static KINDS: [Kind; 15] = [
    kind("log WAL", "log", |f| f.ends_with(".log"), true, Matter::Data),
    kind("state SST", "state/db", |f| f.ends_with(".sst"), false, Matter::Data),
    kind("log MANIFEST", "log", |f| f.starts_with("MANIFEST"), true, Matter::Data),
    kind("state MANIFEST", "state/db", |f| f.starts_with("MANIFEST"), true, Matter::Data),
    kind("log SST", "log", |f| f.ends_with(".sst"), false, Matter::Data),
    kind("log CURRENT", "log", |f| f == "CURRENT", false, Matter::Data),
    kind("state CURRENT", "state/db", |f| f == "CURRENT", false, Matter::Data),
    kind("state FORMAT", "state", |f| f == "FORMAT", false, Matter::Data),
    kind("map.bin", "", |f| f == "map.bin", false, Matter::Nothing),
    kind("founders.json", "", |f| f == "founders.json", false, Matter::Nothing),
    kind("log OPTIONS", "log", |f| f.starts_with("OPTIONS"), false, Matter::Nothing),
    kind("log IDENTITY", "log", |f| f == "IDENTITY", false, Matter::Nothing),
    kind("state OPTIONS", "state/db", |f| f.starts_with("OPTIONS"), false, Matter::Nothing),
    kind("state IDENTITY", "state/db", |f| f == "IDENTITY", false, Matter::Nothing),
    kind("LOG (text)", "log", |f| f == "LOG", false, Matter::Nothing),
];

/// Where a file is hurt, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    Middle,
    /// The length of a record in the middle of the last block, so that it seems to reach beyond the file's end.
    Length,
    First,
    Last,
    /// In what stands last in a sorted file: its footer.
    Footer,
    CutInHalf,
    CutByOne,
    Emptied,
    /// In its middle, under the running node.
    WhileRunning,
}

const SPOTS: [Spot; 9] = [
    Spot::Middle,
    Spot::Length,
    Spot::First,
    Spot::Last,
    Spot::Footer,
    Spot::CutInHalf,
    Spot::CutByOne,
    Spot::WhileRunning,
    Spot::Emptied,
];

/// A record's header in RocksDB's logs (checksum, length, type), and the blocks that records never cross.
const RECORD_HEADER: usize = 7;
const RECORD_BLOCK: usize = 32 << 10;

impl Spot {
    /// Whether a kind of file has such a place.
    fn is_in(self, kind: &Kind) -> bool {
        match self {
            Spot::Length => kind.records,
            Spot::Footer | Spot::WhileRunning => kind.name.ends_with("SST"),
            _ => true,
        }
    }

    /// The file's bytes with the damage; nothing where there is no such place in it.
    fn hurt(self, good: &[u8]) -> Option<Vec<u8>> {
        let mut bad = good.to_vec();
        let end = bad.len().checked_sub(1)?;
        match self {
            Spot::First => bad[0] ^= 0x10,
            Spot::Middle | Spot::WhileRunning => bad[end / 2] ^= 0x10,
            Spot::Last => bad[end] ^= 0x10,
            Spot::Footer => bad[end.checked_sub(40)?] ^= 0x10,
            Spot::Length => bad[length_in_last_block(good)?] ^= 0x80,
            Spot::CutInHalf => bad.truncate(bad.len() / 2),
            Spot::CutByOne => bad.truncate(end),
            Spot::Emptied => bad.clear(),
        }
        Some(bad)
    }
}

/// The higher byte of the length of the record in the middle of those in the last block.
fn length_in_last_block(file: &[u8]) -> Option<usize> {
    let mut at = file.len() / RECORD_BLOCK * RECORD_BLOCK;
    let mut records = Vec::new();
    while at + RECORD_HEADER <= file.len() {
        records.push(at + 5);
        at += RECORD_HEADER + usize::from(u16::from_le_bytes([file[at + 4], file[at + 5]]));
    }
    records.get(records.len() / 2).copied()
}

impl Kind {
    /// The largest such file of a data directory.
    fn find(&self, dir: &Path) -> Option<PathBuf> {
        let files = fs::read_dir(dir.join(self.folder)).ok()?.flatten();
        let like = files.filter(|entry| entry.file_name().to_str().is_some_and(self.like));
        like.max_by_key(|entry| entry.metadata().map_or(0, |found| found.len())).map(|entry| entry.path())
    }
}

/// What came of it.
enum Outcome {
    /// The process ended: exit code where it refused to start, what it said.
    Ended(Option<i32>, String),
    /// It takes no part, and says why.
    Quarantined(String),
    /// It serves, and all of its data could be read and was right; what it said of damage, if it did.
    Up(Option<String>),
}

/// Data for every kind of file; each node restarted once, since it is a start that flushes the log.
pub(super) fn prepare(cluster: &mut Cluster) {
    let ops = ["--ops", "2000", "--value-size", "2048", "--keys", "500", "--clients", "8", "--warmup", "0s"];
    cluster.cli(&[&["bench", "append", "--table", BULK], &ops[..]].concat()).ok();
    for number in 1..=3 {
        cluster.stop(number);
        cluster.restart(number);
        cluster.wait_caught_up(number);
    }
}

/// Every kind with every place that it has, another kind each turn.
fn cases() -> Vec<(&'static Kind, Spot)> {
    let round = |round: usize| KINDS.iter().enumerate().map(move |(n, kind)| (kind, SPOTS[(round + n) % SPOTS.len()]));
    (0..SPOTS.len()).flat_map(round).filter(|(kind, spot)| spot.is_in(kind)).collect()
}

/// Hurts one file of one node; turns beyond the number of cases begin again.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, number: usize) -> Result<Turn, String> {
    let cases = cases();
    let (kind, spot) = cases[number % cases.len()];
    let victim = u16::try_from(number % 3).expect("small") + 1;
    let began = Instant::now();
    if spot != Spot::WhileRunning {
        // In order and by force by turns.
        if number.is_multiple_of(2) {
            cluster.stop(victim);
        } else {
            cluster.kill(victim);
        }
        load.wait_flowing(PATIENCE);
    }
    let name = format!("{} | {spot:?}", kind.name);
    let dir = cluster.data_dir(victim);
    let hurt = kind.find(&dir).and_then(|path| {
        let good = fs::read(&path).expect("readable");
        let bad = spot.hurt(&good)?;
        Some((path, good, bad))
    });
    let Some((path, good, bad)) = hurt else {
        if !cluster.runs(victim) {
            cluster.restart(victim);
        }
        cluster.wait_caught_up(victim);
        return Ok(Turn { pause: load.pause(began), during: None, note: format!("{name} | no such place |") });
    };
    let kept = cluster.dir().join("kept");
    let log_from = cluster.log(victim).len();
    let expected = scan(cluster)?;
    let check = if spot == Spot::WhileRunning {
        overwrite(&path, &good, &bad);
        None
    } else {
        copy(&dir, &kept);
        fs::write(&path, &bad).expect("writable");
        let check = cluster.cli(&["-o", "json", "check", &dir.display().to_string()]);
        cluster.restart(victim);
        Some(check)
    };
    let outcome = outcome(cluster, victim, log_from, &expected);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);

    // Healed by undoing it: a node that ran must not be set back.
    if cluster.runs(victim) {
        cluster.kill(victim);
    } else if !matches!(outcome, Ok(Outcome::Ended(..))) {
        cluster.wait_end(victim);
    }
    let quarantined = matches!(outcome, Ok(Outcome::Quarantined(_)));
    // A damaged state is put right by the node itself, now or at its next start.
    let told = matches!(outcome, Ok(Outcome::Ended(None, _) | Outcome::Up(Some(_))));
    // What it has not met with yet is undone: it would end a later turn's node.
    let by_itself = kind.folder.starts_with("state") && told;
    let undo = !by_itself && !quarantined && fs::read(&path).is_ok_and(|now| now == bad);
    if undo {
        fs::write(&path, &good).expect("writable");
    } else if !by_itself && check.is_some() && matches!(outcome, Ok(Outcome::Ended(..) | Outcome::Quarantined(_))) {
        fs::remove_dir_all(&dir).expect("it is there");
        copy(&kept, &dir);
    }
    if check.is_some() {
        fs::remove_dir_all(&kept).expect("it is there");
    }
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    judge(kind, &path, &outcome?, check.as_ref())
        .map(|what| Turn { pause, during: None, note: format!("{name} | {what} |") })
        .map_err(|why| format!("{name} of node {victim}: {why}"))
}

/// The outcome in words, or why it must not be.
fn judge(kind: &Kind, path: &Path, outcome: &Outcome, check: Option<&Ran>) -> Result<String, String> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().unwrap_or(path).display().to_string();
    // By file or folder, or by the row that does not fit the others.
    let names = |text: &str| text.contains(&file) || text.contains(&folder) || text.contains("damaged log of shard");
    let offline = check.map_or(Ok("not asked"), |check| match check.code {
        0 if check.json()["notes"].as_array().is_some_and(|notes| !notes.is_empty()) => Ok("noted"),
        0 => Ok("sound"),
        1 if names(&check.stdout) || check.stdout.contains("shard") => Ok("named"),
        code => Err(format!("`synod check` ended with {code}: {}{}", check.stdout, check.stderr)),
    })?;
    let online = match outcome {
        Outcome::Ended(Some(1), said) if names(said) => format!("refused to start ({})", short(said)),
        Outcome::Ended(None, said) if names(said) && said.contains("the process ends") => {
            format!("ended when it read there ({})", short(said))
        }
        Outcome::Ended(code, said) => return Err(format!("it ended with {code:?} and did not name the file: {said}")),
        Outcome::Quarantined(why) => format!("quarantined ({})", short(why)),
        Outcome::Up(Some(said)) if names(said) || said.contains("the state") => format!("repaired ({})", short(said)),
        Outcome::Up(_) if kind.matter == Matter::Nothing => "harmless".to_owned(),
        // Told from a write that a crash interrupted only by what is missing: here nothing was.
        Outcome::Up(_) if offline == "noted" => "up, nothing is missing".to_owned(),
        Outcome::Up(_) if offline != "sound" => "up, not read there yet".to_owned(),
        Outcome::Up(_) => return Err("nobody noticed: the node is up and `synod check` finds it sound".into()),
    };
    Ok(format!("{online} | `check`: {offline}"))
}

/// The end of a message says what is wrong.
fn short(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    let from = line.char_indices().rev().nth(110).map_or(0, |(at, _)| at);
    line[from..].replace('|', "/")
}

/// Waits until the node has ended, is quarantined, or has given everything it holds.
fn outcome(cluster: &mut Cluster, victim: u16, log_from: usize, expected: &str) -> Result<Outcome, String> {
    let goal = cluster.status();
    let addr = cluster.addr(victim);
    let found = until(PATIENCE, "the node ends, is quarantined or catches up", || {
        if !cluster.runs(victim) {
            return Some(ended(cluster, victim, log_from));
        }
        let status = cluster.status()?;
        if status.state(&addr) == Some("quarantined") {
            let reason = status.node(&addr).and_then(|node| node["reason"].as_str()).unwrap_or_default();
            return Some(Outcome::Quarantined(reason.to_owned()));
        }
        goal.as_ref().is_some_and(|goal| cluster.is_caught_up(victim, goal, &status)).then_some(Outcome::Up(None))
    })?;
    if !matches!(found, Outcome::Up(_)) {
        return Ok(found);
    }
    let own = lead_all(cluster, victim).and_then(|()| scan(cluster));
    // A leader that ends while it is read is followed by another, which may have answered.
    if until(Duration::from_millis(300), "it ends", || (!cluster.runs(victim)).then_some(())).is_ok() {
        return Ok(ended(cluster, victim, log_from));
    }
    match own? == expected {
        true => Ok(Outcome::Up(damage_told(cluster, victim, log_from))),
        false => Err("the node serves data that differs from its peers'".into()),
    }
}

/// What the node logged of damage since.
fn damage_told(cluster: &Cluster, victim: u16, log_from: usize) -> Option<String> {
    let log = cluster.log(victim);
    let wanted = |line: &&str| line.contains("damaged") && (line.contains("ERROR") || line.contains("WARN"));
    log.get(log_from..).unwrap_or_default().lines().rev().find(wanted).map(str::to_owned)
}

fn ended(cluster: &mut Cluster, victim: u16, log_from: usize) -> Outcome {
    let status = cluster.wait_end(victim);
    let log = cluster.log(victim);
    let said = log.get(log_from..).unwrap_or_default().lines().rev();
    let code = if status.signal() == Some(Signal::SIGABRT as i32) { None } else { Some(status.code().unwrap_or(-1)) };
    let wanted = |line: &&str| line.starts_with("error: ") || line.contains("the process ends");
    let line = said.clone().find(wanted).map_or_else(|| said.take(5).collect::<Vec<_>>().join("\n"), str::to_owned);
    Outcome::Ended(code, line)
}

fn scan(cluster: &Cluster) -> Result<String, String> {
    let ran = cluster.cli(&["-o", "json", "--timeout", "60s", "scan", BULK]);
    if ran.code == 0 { Ok(ran.stdout) } else { Err(format!("the table cannot be read: {}", ran.stderr)) }
}

/// Makes the node lead every shard, so that reads show its own copy; stops early where it ends on the way.
fn lead_all(cluster: &mut Cluster, victim: u16) -> Result<(), String> {
    let addr = cluster.addr(victim);
    // One after the other, by a command each: long on a machine that is busy.
    until(PATIENCE * 4, "the node leads every shard", || {
        if !cluster.runs(victim) {
            return Some(());
        }
        let status = cluster.status()?;
        let id = status.id(&addr)?;
        let tables = [TABLE, BULK];
        let shards = tables.iter().flat_map(|table| status.shards_of(table));
        let others: Vec<u64> =
            shards.filter(|s| s["leader"].as_u64() != Some(id)).filter_map(|s| s["id"].as_u64()).collect();
        for shard in &others {
            // Refused while an earlier attempt is under way.
            cluster.cli(&["shard", "transfer-leader", &shard.to_string(), "--to", &id.to_string()]);
        }
        others.is_empty().then_some(())
    })
}

/// Writes what differs in place, so that a process that has the file open sees it.
fn overwrite(path: &Path, good: &[u8], bad: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("writable");
    let at = good.iter().zip(bad).position(|(a, b)| a != b).expect("they differ");
    file.write_all_at(&bad[at..=at], at as u64).expect("writable");
}

/// Copies a data directory.
pub(super) fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("cp").success());
}
