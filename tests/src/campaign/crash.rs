//! Turns in which a node is killed at a named point, as a leader and as a follower.
//!
//! Owns: how a node comes to each point, and how often each was met. Must never: count a point as met that the tracer did
//! not end the process at.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Turn;
use super::crash_points::{POINTS, Point, Stage};
use super::filler::Filler;
use super::load::{Load, TABLE};
use super::snapshot::lead;
use super::tracer::{attach, injection, release};
use crate::cluster::{Cluster, PATIENCE};
use crate::run::until;

/// Every point on a leader and on a follower, but those of snapshots, which have one side each.
pub(super) const PLAN: usize = plan_length();
/// Files of every kind soon, and snapshots slow enough for the tracer to come while one is received.
pub(super) const SETTINGS: &str =
    "[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n[snapshot]\nmax_rate = \"4MiB\"\n";
/// Turns go through the plan in such steps, so that a short run sees every stage. Prime, and no divisor of its length.
const STEP: usize = 37;
/// How long a point is waited for; a log rolls over behind 64 MiB.
const REACHED: Duration = Duration::from_secs(60);
/// What a node must not say of what a crash left.
const UNCLEAN: [&str; 3] = ["damaged", "quarantined", "panicked"];
/// Replays a run's choices.
const SEED: &str = "SYNOD_CRASH_SEED";

const fn plan_length() -> usize {
    let (mut length, mut n) = (0, 0);
    while n < POINTS.len() {
        length += if POINTS[n].stage.both() { 2 } else { 1 };
        n += 1;
    }
    length
}

/// What the node was when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Leader,
    Follower,
}

fn plan() -> Vec<(&'static Point, Role)> {
    let roles = |point: &'static Point| match point.stage {
        Stage::Make => vec![Role::Leader],
        Stage::Receive => vec![Role::Follower],
        _ => vec![Role::Leader, Role::Follower],
    };
    POINTS.iter().flat_map(|point| roles(point).into_iter().map(move |role| (point, role))).collect()
}

/// How often each point was tried and met.
#[derive(Default)]
pub(super) struct Crashes {
    met: BTreeMap<(&'static str, Role), (usize, usize)>,
}

impl Crashes {
    fn note(&mut self, point: &Point, role: Role, met: bool) {
        let (tried, times) = self.met.entry((point.name, role)).or_default();
        *tried += 1;
        *times += usize::from(met);
    }

    /// A row a point, and what was tried and never met.
    pub(super) fn table(&self) -> (String, Vec<String>) {
        let (mut table, mut missed) = (String::new(), Vec::new());
        if self.met.is_empty() {
            return (table, missed);
        }
        table.push_str("| point | call | leader | follower |\n| --- | --- | --- | --- |\n");
        for point in &POINTS {
            let cells = [Role::Leader, Role::Follower].map(|role| match self.met.get(&(point.name, role)) {
                None => "–".to_owned(),
                Some((tried, 0)) => {
                    missed.push(format!("tried {tried} times on a {role:?} and never met: {}", point.name));
                    format!("NEVER MET in {tried}")
                }
                Some((tried, met)) => format!("{met} of {tried}"),
            });
            let _ = writeln!(table, "| {} | `{}` | {} | {} |", point.name, point.call, cells[0], cells[1]);
        }
        (table, missed)
    }
}

/// One crash on its way.
struct Crash<'a> {
    cluster: &'a mut Cluster,
    load: &'a Load,
    point: &'static Point,
    role: Role,
    victim: u16,
    other: u16,
    turn: usize,
    nth: u64,
    trace: PathBuf,
    /// When the process was seen to have ended.
    ended: Option<Instant>,
}

/// A node is killed at one point and started again.
pub(super) fn turn(
    cluster: &mut Cluster,
    load: &Load,
    crashes: &Mutex<Crashes>,
    number: usize,
) -> Result<Turn, String> {
    let plan = plan();
    let (point, role) = plan[number * STEP % plan.len()];
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(0u64);
    let mut dice = ChaCha8Rng::seed_from_u64(seed << 32 | number as u64);
    let nth = dice.random_range(1..=point.within);
    let victim = u16::try_from(number % 3).expect("small") + 1;
    let trace = cluster.dir().join("crash-trace");
    let turn = number;
    let mut crash = Crash { cluster, load, point, role, victim, other: victim % 3 + 1, turn, nth, trace, ended: None };
    let began = Instant::now();
    let log_from = crash.cluster.log(victim).len();
    let met = match point.stage {
        Stage::Load | Stage::Map | Stage::Records => crash.at_run_time()?,
        Stage::Start => crash.at_start()?,
        Stage::First => crash.at_first_start()?,
        Stage::Make => crash.while_making()?,
        Stage::Receive => crash.while_receiving()?,
    };
    crashes.lock().map_err(|_| "a turn failed")?.note(point, role, met);
    let pause = load.pause(crash.ended.unwrap_or(began));
    for word in UNCLEAN {
        // The copy of the map is a hint with a checksum: one cut short is said to be, and fetched.
        let bad = |line: &&str| line.contains(word) && !line.contains("the map's copy is damaged");
        if let Some(line) = cluster.log(victim)[log_from..].lines().find(bad) {
            return Err(format!("{} ({nth}) on node {victim}, a {role:?}: {line}", point.name));
        }
    }
    let met = if met { "met" } else { "NOT MET" };
    let note = format!("{} ({} {nth}) on node {victim}, a {role:?}: {met};", point.name, point.call);
    Ok(Turn { pause, during: None, note })
}

impl Crash<'_> {
    fn injection(&self, cluster: &Cluster) -> Vec<OsString> {
        let what = format!("signal=SIGKILL:when={}", self.nth);
        // Of an earlier crash.
        let _ = fs::remove_file(&self.trace);
        injection(self.point.call, &what, &self.point.paths(&cluster.data_dir(self.victim)), &self.trace)
    }

    /// The words in front of a node's own, which has the tracer from its first call on.
    fn tracer(&self, cluster: &Cluster) -> Vec<String> {
        let injection = self.injection(cluster).into_iter().map(|word| word.to_string_lossy().into_owned());
        ["strace", "-D"].map(String::from).into_iter().chain(injection).chain(["--".to_owned()]).collect()
    }

    /// The victim leads every shard of these tables, or none of them, as the role says.
    fn settle(&self, tables: &[&str]) -> Result<(), String> {
        lead(self.cluster, if self.role == Role::Leader { self.victim } else { self.other }, tables)
    }

    /// Waits until the tracer has ended the process, which is then gone; or the point is given up.
    fn met(
        cluster: &mut Cluster,
        victim: u16,
        trace: &PathBuf,
        point: &Point,
        patience: Duration,
    ) -> Result<bool, String> {
        let reached = until(patience, "the point is reached", || {
            if point.call == "accept4" {
                // Every run of the command line connects to every node.
                let _ = cluster.status();
            }
            (!cluster.runs(victim)).then_some(())
        });
        if reached.is_err() {
            return Ok(false);
        }
        let ended = cluster.wait_end(victim);
        let seen = until(Duration::from_secs(5), "the tracer has ended", || {
            let seen = fs::read_to_string(trace).unwrap_or_default();
            seen.contains("killed by SIGKILL").then_some(seen)
        });
        let called = format!("{}(", point.call);
        match seen {
            Ok(seen) if ended.signal() == Some(Signal::SIGKILL as i32) && seen.contains(&called) => Ok(true),
            _ => Err(format!(
                "{}: the node ended otherwise: {ended}: {}",
                point.name,
                cluster.log(victim).lines().last().unwrap_or_default()
            )),
        }
    }

    /// Starts the victim again and waits until it has everything.
    fn back(&mut self) {
        self.load.wait_flowing(PATIENCE);
        if !self.cluster.runs(self.victim) {
            self.cluster.restart(self.victim);
        }
        self.cluster.wait_caught_up(self.victim);
        self.cluster.wait_up();
    }

    fn at_run_time(&mut self) -> Result<bool, String> {
        let mut filler = None;
        if self.point.stage == Stage::Records {
            let made = Filler::new(self.cluster, self.load, self.turn)?;
            self.settle(&[TABLE, made.table()])?;
            filler = Some(made);
        } else {
            self.settle(&[TABLE])?;
        }
        let strace = attach(self.cluster.pid(self.victim), &self.injection(self.cluster))?;
        match &mut filler {
            Some(filler) => filler.start(self.cluster, self.load)?,
            None if self.point.stage == Stage::Map => filler = Some(Filler::new(self.cluster, self.load, self.turn)?),
            None => {}
        }
        let met = Self::met(self.cluster, self.victim, &self.trace, self.point, REACHED);
        self.ended = Some(Instant::now());
        if let Some(filler) = &mut filler {
            filler.stop(self.load);
        }
        release(strace);
        self.back();
        if let Some(filler) = filler {
            filler.check(self.cluster, self.load)?;
            filler.drop_table(self.cluster, self.load)?;
        }
        met
    }

    fn at_start(&mut self) -> Result<bool, String> {
        self.settle(&[TABLE])?;
        self.cluster.kill(self.victim);
        self.load.wait_flowing(PATIENCE);
        // It is made where there is none.
        let _ = fs::remove_file(self.cluster.data_dir(self.victim).join("reserve"));
        let tracer = self.tracer(self.cluster);
        self.cluster.restart_by(self.victim, &tracer);
        let met = Self::met(self.cluster, self.victim, &self.trace, self.point, PATIENCE / 2);
        self.ended = Some(Instant::now());
        self.untraced();
        self.back();
        met
    }

    /// A point that was not met has left the node under the tracer: it goes down with it.
    fn untraced(&mut self) {
        if self.cluster.runs(self.victim) {
            self.cluster.kill(self.victim);
        }
        self.cluster.reap(self.victim);
    }

    /// On a small cluster of its own, while the large one goes on: a founder that leads the first shard at first, or not.
    fn at_first_start(&mut self) -> Result<bool, String> {
        let mut young = Cluster::empty(3);
        let victim = if self.role == Role::Leader { 1 } else { 3 };
        let what = format!("signal=SIGKILL:when={}", self.nth);
        let _ = fs::remove_file(&self.trace);
        let args = injection(self.point.call, &what, &self.point.paths(&young.data_dir(victim)), &self.trace);
        let args = args.into_iter().map(|word| word.to_string_lossy().into_owned());
        let tracer: Vec<String> =
            ["strace", "-D"].map(String::from).into_iter().chain(args).chain(["--".into()]).collect();
        for number in 1..=3 {
            if number == victim { young.add_founder_by(number, &tracer) } else { young.add_founder(number) }
        }
        let met = Self::met(&mut young, victim, &self.trace, self.point, PATIENCE / 2);
        if young.runs(victim) {
            young.kill(victim);
        }
        young.reap(victim);
        young.restart(victim);
        young.wait_up();
        young.cli(&["table", "create", "t", "--retain", "all", "--partition", "hash", "--shards", "2"]).ok();
        young.cli(&["append", "t", "k", "1", "2"]).ok();
        young.wait_caught_up(victim);
        let log = young.log(victim);
        match log.lines().find(|line| UNCLEAN.iter().any(|word| line.contains(word))) {
            Some(line) => Err(format!("{} ({}) on founder {victim}: {line}", self.point.name, self.nth)),
            None => met,
        }
    }

    /// Large records while a node is away: it needs a snapshot then.
    fn leave_behind(&mut self, away: u16, filler: &mut Filler) -> Result<(), String> {
        self.cluster.kill(away);
        filler.start(self.cluster, self.load)?;
        let enough = until(PATIENCE, "some large records are acknowledged", || (filler.acked() >= 100).then_some(()));
        filler.stop(self.load);
        enough?;
        // Until the log is trimmed.
        sleep(Duration::from_secs(1));
        Ok(())
    }

    fn while_making(&mut self) -> Result<bool, String> {
        let mut filler = Filler::new(self.cluster, self.load, self.turn)?;
        self.settle(&[TABLE, filler.table()])?;
        let away = self.other;
        self.leave_behind(away, &mut filler)?;
        self.settle_among(&filler)?;
        let strace = attach(self.cluster.pid(self.victim), &self.injection(self.cluster))?;
        self.cluster.restart(away);
        let met = Self::met(self.cluster, self.victim, &self.trace, self.point, PATIENCE);
        self.ended = Some(Instant::now());
        release(strace);
        self.cluster.wait_status("the third node is up", |status| status.is_led());
        self.back();
        self.cluster.wait_caught_up(away);
        filler.check(self.cluster, self.load)?;
        filler.drop_table(self.cluster, self.load)?;
        met
    }

    /// The victim still leads: a leadership may have moved while the others were busy.
    fn settle_among(&self, filler: &Filler) -> Result<(), String> {
        lead(self.cluster, self.victim, &[filler.table()])
    }

    fn while_receiving(&mut self) -> Result<bool, String> {
        let mut filler = Filler::new(self.cluster, self.load, self.turn)?;
        self.settle(&[TABLE, filler.table()])?;
        let away = self.victim;
        self.leave_behind(away, &mut filler)?;
        let mut strace = None;
        if self.point.waits() {
            self.cluster.restart(away);
            let data = self.cluster.data_dir(away);
            let came = || (!self.point.paths(&data).is_empty()).then_some(());
            until(PATIENCE, "the file of the point comes to be", came)?;
            strace = Some(attach(self.cluster.pid(away), &self.injection(self.cluster))?);
        } else {
            let tracer = self.tracer(self.cluster);
            self.cluster.restart_by(away, &tracer);
        }
        let met = Self::met(self.cluster, away, &self.trace, self.point, PATIENCE);
        self.ended = Some(Instant::now());
        strace.into_iter().for_each(release);
        self.untraced();
        self.back();
        filler.check(self.cluster, self.load)?;
        filler.drop_table(self.cluster, self.load)?;
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_its_turn() {
        let plan = plan();
        assert_eq!(plan.len(), PLAN);
        let visited: std::collections::BTreeSet<usize> = (0..PLAN).map(|number| number * STEP % PLAN).collect();
        assert_eq!(visited.len(), PLAN);
    }
}
