//! Turns in which disks fill up under load: by the records themselves and by files of others, on one node, on two, on all;
//! then there is room again.
//!
//! Owns: what fills which disks, and what must follow at each mark. Must never: excuse an error other than `DiskFull`, or take
//! a disk for full that the node did not name.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use synod_client::{Client, Error, Expect, GetOptions, NewRecord};
use synod_lincheck::{Call, Outcome};

use super::disks::Disks;
use super::filler::Filler;
use super::load::{self, Load, TABLE};
use super::{RESUME, Turn};
use crate::cluster::{Cluster, PATIENCE, Status};
use crate::run::until;

/// Of a node's disk. Enough for three logs of RocksDB's 64 MiB, and for what fills the rest.
pub(super) const DISK: u64 = 1024 << 20;
/// So far above the hard mark as a node asks for: the log's files take up to 192 MiB at once.
const LOW: u64 = 320 << 20;
const HARD: u64 = 96 << 20;
/// Above the low mark when records begin to fill the disk.
const ABOVE_LOW: u64 = 16 << 20;
/// What files of others leave where a disk is to be low and no more: a log file's beginning must still find room.
const BELOW_LOW: u64 = LOW - (16 << 20);
/// Large records that are there before most disks fill up by more.
const TRIMMED: usize = 2_000;
/// A node that is low has been seen to be by all after so long.
const TOLD: Duration = Duration::from_secs(1);
/// So often at most is asked anew because a disk had room again meanwhile.
const ROUNDS: u64 = 5;
/// How long a disk stays full.
const FULL: Duration = Duration::from_secs(2);

/// Logs and states that are written to files soon, and marks that a small disk can reach.
pub(super) const SETTINGS: &str = "[storage]\nlog_keep = \"1MiB\"\nstate_memory = \"4MiB\"\n\
                                   disk_low = \"320MiB\"\ndisk_hard = \"96MiB\"\ndisk_reserve = \"32MiB\"\n";
/// The same without marks: nothing ends the node before a write fails.
const UNMARKED: &str = "[storage]\nlog_keep = \"1MiB\"\nstate_memory = \"4MiB\"\n\
                        disk_low = \"0B\"\ndisk_hard = \"0B\"\ndisk_reserve = \"0B\"\n";

/// What fills the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Records, past the low mark; where most have room, on to the hard one.
    Records,
    /// A file of somebody else, to between the marks at once.
    Outside,
    /// A file of somebody else takes all there is at once, and what is given back too.
    Sudden,
    /// Records until a write fails: the marks are off.
    Unmarked,
}

const SHAPES: [Shape; 4] = [Shape::Records, Shape::Outside, Shape::Sudden, Shape::Unmarked];

/// One turn's disks and its records.
struct Full<'a> {
    cluster: &'a mut Cluster,
    load: &'a Load,
    disks: &'a Disks,
    victims: Vec<u16>,
    filler: Filler,
    /// How long each node's log was when the turn began.
    logs: [usize; 3],
    said: Vec<String>,
}

/// Fills the disks of one, two or three nodes in one of four ways, and makes room.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, disks: &Disks, number: usize) -> Result<Turn, String> {
    let shape = SHAPES[number % SHAPES.len()];
    let count = 1 + number / SHAPES.len() % 3;
    let victims: Vec<u16> = (0..count).map(|n| u16::try_from((number + n) % 3).expect("small") + 1).collect();
    if shape == Shape::Unmarked {
        again_with(cluster, &victims, UNMARKED);
    }
    let filler = Filler::new(cluster, load, number)?;
    let logs = [1, 2, 3].map(|node| cluster.log(node).len());
    let mut full = Full { cluster, load, disks, victims, filler, logs, said: Vec::new() };
    let filled = match shape {
        Shape::Records => full.by_records(),
        Shape::Outside => full.by_others(),
        Shape::Sudden => full.at_once(),
        Shape::Unmarked => full.unmarked(),
    };
    // Room is made whatever came of it, so that the cluster can be judged.
    let healed = full.make_room();
    let during = filled?;
    full.filler.stop(load);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(healed);
    full.victims.clone().iter().for_each(|node| drop(full.cluster.wait_caught_up(*node)));
    full.cluster.wait_up();
    let (acked, refused) = full.filler.check(full.cluster, load)?;
    full.filler.drop_table(full.cluster, load)?;
    let what = full.said.join(", ");
    let victims = &full.victims;
    let note = format!("{shape:?} on {victims:?}: {what}; {acked} large records, {refused} refused; after room");
    Ok(Turn { pause, during, note })
}

/// Starts nodes anew with these settings, which are then those of any later start.
fn again_with(cluster: &mut Cluster, nodes: &[u16], settings: &str) {
    set(cluster, settings);
    for node in nodes {
        assert!(cluster.stop(*node).success(), "node {node} goes down in order");
        cluster.restart(*node);
        cluster.wait_caught_up(*node);
    }
    cluster.wait_up();
}

fn set(cluster: &Cluster, settings: &str) {
    fs::write(cluster.dir().join("synod.toml"), settings).expect("a file in the temporary directory");
}

impl Full<'_> {
    /// Whether most nodes have room left: writes go on then, and end before a majority's disks are full.
    fn room_for_most(&self) -> bool {
        self.victims.len() < 2
    }

    /// What a node has logged since the turn began.
    fn log(&self, node: u16) -> String {
        self.cluster.log(node).split_off(self.logs[usize::from(node) - 1])
    }

    /// Leaves so much room on every victim's disk.
    fn leave(&self, bytes: u64) -> Result<(), String> {
        self.victims.iter().try_for_each(|node| self.disks.leave(*node, bytes))
    }

    fn by_records(&mut self) -> Result<Option<Duration>, String> {
        let began = Instant::now();
        self.filler.start(self.cluster, self.load)?;
        if !self.room_for_most() {
            // So much will be trimmed, which must be more than a log file's beginning takes.
            let enough = || (self.filler.acked() >= TRIMMED).then_some(());
            until(PATIENCE * 4, "there are enough large records", enough)?;
        }
        self.leave(LOW + ABOVE_LOW)?;
        self.wait_low(began, None)?;
        if !self.room_for_most() {
            self.refused()?;
            self.filler.pause(true);
            let trimmed = Instant::now();
            self.filler.trim(self.cluster, self.load)?;
            // The disks are as small as before: what was trimmed must be the room.
            until(PATIENCE, "the nodes have room by trims alone", || {
                let status = self.cluster.status();
                status.is_some_and(|status| status.is_led() && self.are(&status, "up")).then_some(())
            })?;
            self.said.push(format!("room by trims after {:.2?}", trimmed.elapsed()));
            return Ok(None);
        }
        self.wait_hard()?;
        if self.victims.len() > 1 {
            return Ok(None);
        }
        self.flows(began)
    }

    fn by_others(&mut self) -> Result<Option<Duration>, String> {
        let began = Instant::now();
        self.wait_low(began, Some(BELOW_LOW))?;
        if !self.room_for_most() {
            self.refused()?;
            return Ok(None);
        }
        let full = Instant::now();
        while full.elapsed() < FULL {
            self.leave(BELOW_LOW)?;
            sleep(Duration::from_millis(50));
        }
        self.flows(began)
    }

    fn at_once(&mut self) -> Result<Option<Duration>, String> {
        let began = Instant::now();
        let ended = until(PATIENCE, "the nodes whose disks are full end", || {
            let left = self.leave(0);
            let runs = self.victims.iter().any(|node| self.cluster.runs(*node));
            (left.is_err() || !runs).then_some(left)
        });
        ended??;
        self.judge_ends(&["storage.disk_hard", "No space left on device"])?;
        self.said.push(format!("ended within {:.2?}", began.elapsed()));
        self.refuses_to_start()?;
        if self.victims.len() > 1 { Ok(None) } else { self.flows(began) }
    }

    fn unmarked(&mut self) -> Result<Option<Duration>, String> {
        self.leave(ABOVE_LOW)?;
        let began = Instant::now();
        self.filler.start(self.cluster, self.load)?;
        self.wait_ends()?;
        self.judge_ends(&["No space left on device"])?;
        if self.victims.len() > 1 { Ok(None) } else { self.flows(began) }
    }

    /// The victims are low and say so; they lead nothing where somebody else has room. What a node frees meanwhile of earlier
    /// turns' records is taken again, where a level is given; where none is, records alone bring no more than a majority so low.
    fn wait_low(&mut self, began: Instant, level: Option<u64>) -> Result<(), String> {
        let addrs: Vec<String> = self.victims.iter().map(|node| self.cluster.addr(*node)).collect();
        let enough = if level.is_some() { addrs.len() } else { addrs.len().min(2) };
        let good = |status: &Status| {
            let low: Vec<&String> = addrs.iter().filter(|addr| status.state(addr) == Some("disk_low")).collect();
            let sheds = |addr: &&String| status.node(addr).is_some_and(|node| node["leaders"] == 0);
            status.is_led() && low.len() >= enough && (low.len() == 3 || low.iter().all(sheds))
        };
        // One that records go on filling may reach its end meanwhile.
        let mut held = Ok(());
        until(PATIENCE * 4, "the nodes are low and lead nothing that others could", || {
            held = level.map_or(Ok(()), |level| self.leave(level));
            if held.is_err() {
                return Some(());
            }
            let ended = self.victims.clone().iter().all(|node| !self.cluster.runs(*node));
            (ended || self.cluster.status().is_some_and(|status| good(&status))).then_some(())
        })?;
        held?;
        self.said.push(format!("low after {:.2?}", began.elapsed()));
        Ok(())
    }

    /// Without a majority nothing is written, and the third of three disks never full.
    fn wait_ends(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let enough = self.victims.len().min(2);
        until(PATIENCE * 4, "the nodes whose disks fill end", || {
            let ended = self.victims.iter().filter(|node| !self.cluster.runs(**node)).count();
            (ended >= enough).then_some(())
        })?;
        if self.victims.len() > enough {
            // What it was writing with them may end it too.
            sleep(FULL);
        }
        self.said.push(format!("ended {:.2?} later", began.elapsed()));
        Ok(())
    }

    /// Records go on below the low mark, since others take them; then the node goes down in order.
    fn wait_hard(&mut self) -> Result<(), String> {
        self.wait_ends()?;
        self.judge_ends(&["storage.disk_hard"])?;
        for node in &self.victims {
            let log = self.log(*node);
            if !log.contains("going down in order") || !log.contains("the reserve of 32.0 MiB was given back") {
                return Err(format!("node {node} did not go down in order: {}", last_lines(&log)));
            }
        }
        self.refuses_to_start()
    }

    /// Each victim that has ended did so by itself and named one of these.
    fn judge_ends(&mut self, words: &[&str]) -> Result<(), String> {
        for node in self.victims.clone() {
            if self.cluster.runs(node) {
                continue;
            }
            let ended = self.cluster.wait_end(node);
            let log = self.log(node);
            let by_mark = ended.code() == Some(1) && log.contains("storage.disk_hard");
            let by_write = log.lines().last().is_some_and(|line| line.contains("the process ends"));
            let named = words.iter().find(|word| log.contains(**word));
            let Some(named) = named.filter(|_| by_mark || by_write) else {
                return Err(format!("node {node} ended ({ended}) and did not say why: {}", last_lines(&log)));
            };
            self.said.push(format!("node {node}: {named} ({})", if by_mark { "in order" } else { "by the write" }));
        }
        Ok(())
    }

    /// Without room a node does not start, and says why.
    fn refuses_to_start(&mut self) -> Result<(), String> {
        let node = self.victims[0];
        self.leave(HARD / 2)?;
        self.cluster.restart(node);
        let ended = self.cluster.wait_end(node);
        let log = self.log(node);
        if ended.code() == Some(1) && log.lines().last().is_some_and(|line| line.contains("the node does not run")) {
            return Ok(());
        }
        Err(format!("node {node} was not refused a start on a full disk ({ended}): {}", last_lines(&log)))
    }

    /// What needs room is refused by name, and was not executed; deletions and reads go on.
    fn refused(&mut self) -> Result<(), String> {
        let (client, runtime) = self.load.client(self.cluster)?;
        let recorder = self.load.recorder();
        let mut rounds = 0;
        loop {
            self.stay_low()?;
            let before = self.had_room();
            let taken = self.ask_appends(&client.with_timeout(Duration::from_secs(1)), rounds)?;
            rounds += 1;
            if taken == 0 {
                break;
            }
            // A compaction that ended meanwhile, of what earlier turns removed, makes a disk one with room: then it may take writes.
            if rounds == ROUNDS || self.had_room() == before {
                return Err(format!("most disks are low, and {taken} appends were taken"));
            }
        }
        for (number, key) in load::keys().enumerate().step_by(5) {
            let by = 2_000 + number as u64;
            let pending = recorder.invoked(by, key.clone(), Call::Delete { expect: synod_lincheck::Expect::Any });
            let deleted = runtime.block_on(client.delete(TABLE, key.clone(), Expect::Any));
            let deleted = deleted.map_err(|error| format!("most disks are low, and a deletion got: {error}"))?;
            recorder.returned(pending, Outcome::Written { offset: deleted.offset });
            let read = runtime.block_on(client.get(TABLE, key, GetOptions::default()));
            read.map_err(|error| format!("most disks are low, and a get got: {error}"))?;
        }
        self.said.push(format!("{} appends refused by name", load::keys().count()));
        Ok(())
    }

    /// Appends to every key; each is refused by name, or counted among those that were taken.
    fn ask_appends(&self, client: &Client, round: u64) -> Result<usize, String> {
        let recorder = self.load.recorder();
        let asked = load::keys().enumerate().map(|(number, key)| {
            let by = 1_000 + 100 * round + number as u64;
            let value = format!("refused#{}.{by}", self.filler.table());
            let call = Call::Append { values: vec![value.clone()], expect: synod_lincheck::Expect::Any };
            let pending = recorder.invoked(by, key.clone(), call);
            let client = client.clone();
            let append = async move { client.append(TABLE, key, vec![NewRecord::new(value)], Expect::Any).await };
            (pending, self.load.runtime().spawn(append))
        });
        let mut taken = 0;
        for (pending, append) in asked.collect::<Vec<_>>() {
            let outcome = match self.load.runtime().block_on(append).expect("no append panics") {
                Err(Error::DiskFull { message }) if message.contains("storage.disk_low") => Outcome::NotExecuted,
                Ok(written) => {
                    taken += 1;
                    Outcome::Written { offset: written.offset }
                }
                Err(error) => return Err(format!("most disks are low, and an append got {error:?}")),
            };
            recorder.returned(pending, outcome);
        }
        Ok(taken)
    }

    /// How often a victim has said that its disk has room again.
    fn had_room(&self) -> usize {
        self.victims.iter().map(|node| self.log(*node).matches("the disk has room again").count()).sum()
    }

    /// The victims are low for so long that leaders have heard it of the others. Log files that end under the last records give
    /// room back meanwhile, which is taken again.
    fn stay_low(&mut self) -> Result<(), String> {
        let (mut since, mut held) = (Instant::now(), Ok(()));
        until(PATIENCE, "the nodes stay low", || {
            held = self.leave(BELOW_LOW);
            let status = self.cluster.status();
            if !status.is_some_and(|status| self.are(&status, "disk_low")) {
                since = Instant::now();
            }
            (held.is_err() || since.elapsed() >= TOLD).then_some(())
        })?;
        held
    }

    /// Whether the victims are in this state; one that went down at its hard mark while the others had room is in none.
    fn are(&mut self, status: &Status, state: &str) -> bool {
        let running: Vec<u16> = self.victims.clone().into_iter().filter(|node| self.cluster.runs(*node)).collect();
        !running.is_empty() && running.iter().all(|node| status.state(&self.cluster.addr(*node)) == Some(state))
    }

    /// Writes went on where a majority has room or at least runs.
    fn flows(&self, began: Instant) -> Result<Option<Duration>, String> {
        self.load.wait_flowing(PATIENCE);
        let stalled = self.load.stalled(began, Instant::now());
        if stalled > RESUME {
            return Err(format!("one disk was full, and writes stood still for {stalled:.2?}"));
        }
        Ok(Some(stalled))
    }

    /// Others' files go, the marks are as they were, and whoever ended is started again.
    fn make_room(&mut self) -> Instant {
        self.filler.pause(true);
        set(self.cluster, SETTINGS);
        self.victims.iter().for_each(|node| self.disks.release(*node));
        let healed = Instant::now();
        for node in 1..=3 {
            if !self.cluster.runs(node) {
                self.cluster.reap(node);
                self.cluster.restart(node);
            }
        }
        healed
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
