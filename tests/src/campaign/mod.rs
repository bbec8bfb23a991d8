//! Fault campaigns: a load with a history, a fault again and again, and the history checked in the end.
//!
//! Owns: the order of a campaign (load, fault, healing, load again, check) and its report. Must never: call a campaign
//! passed that could not do its fault, or excuse an error that a client saw.
//!
//! Every campaign runs the default load (three nodes, four shards of a range table, eight clients, sixteen hot keys a
//! shard, appends, conditional appends, deletes and gets) and passes when the history is linearizable, no acknowledged
//! record is lost or doubled, no client saw an error other than an unknown outcome, and writes resumed in time.

mod faults;
mod load;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use synod_lincheck::{check, journal};

use crate::cluster::{Cluster, PATIENCE};
use load::Load;

/// What TESTING allows writes to need after a fault is healed.
const RESUME: Duration = Duration::from_secs(10);

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a node, every second one a leader.
    Kill,
    /// SIGKILL of a leader.
    KillLeader,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// A leader is stopped for 2 s and goes on: what it answers then must not be stale.
    Pause,
    /// A leadership is moved by an operator.
    Transfer,
    /// A leader's synced writes hang for 3 s while its network is alive (needs strace).
    Hang,
    /// A node's Nth fdatasync fails with EIO (needs strace).
    SyncError,
}

/// Every campaign: its name, its fault, and what it does.
pub const CAMPAIGNS: [(&str, Fault, &str); 7] = [
    ("kill", Fault::Kill, "SIGKILL of a node, every second one a leader"),
    ("kill-leader", Fault::KillLeader, "SIGKILL of a leader"),
    ("kill-all", Fault::KillAll, "SIGKILL of all nodes at once"),
    ("pause", Fault::Pause, "SIGSTOP of a leader for 2 s, then SIGCONT"),
    ("transfer", Fault::Transfer, "a leadership is moved by an operator"),
    ("hang", Fault::Hang, "a leader's synced writes hang for 3 s, its network alive (strace)"),
    ("sync-error", Fault::SyncError, "a node's Nth fdatasync fails with EIO (strace)"),
];

/// What one turn of a fault showed.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The longest time without an acknowledgement on one shard.
    pub pause: Duration,
    /// In words.
    pub note: String,
}

/// What a campaign showed.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    turns: Vec<Turn>,
    /// What the checker said of the history.
    pub history: String,
    /// Empty where the campaign passed.
    pub failures: Vec<String>,
    took: Duration,
}

impl Report {
    /// The pause that `percent` of the turns stayed within.
    fn pause(&self, percent: usize) -> Duration {
        let mut pauses: Vec<Duration> = self.turns.iter().map(|turn| turn.pause).collect();
        pauses.sort_unstable();
        pauses.get((pauses.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { name, turns, history, failures, took } = self;
        let word = if failures.is_empty() { "passed" } else { "FAILED" };
        writeln!(f, "{name}: {word}, {} turns in {took:.1?}", turns.len())?;
        let (p50, p99, worst) = (self.pause(50), self.pause(99), self.pause(100));
        writeln!(
            f,
            "  longest time without an acknowledgement on a shard: p50 {p50:.2?}, p99 {p99:.2?}, worst {worst:.2?}"
        )?;
        writeln!(f, "  {}", history.trim_end())?;
        failures.iter().try_for_each(|failure| writeln!(f, "  FAILURE: {failure}"))
    }
}

/// Runs a campaign of so many turns; `Err` says why it could not be run. What a failure left behind is put under
/// `artefacts`: the history and every node's log.
pub fn run(name: &str, repeats: usize, artefacts: &Path, mut progress: impl FnMut(&str)) -> Result<Report, String> {
    let Some((name, fault, _)) = CAMPAIGNS.iter().find(|(known, ..)| *known == name) else {
        let names: Vec<&str> = CAMPAIGNS.iter().map(|(name, ..)| *name).collect();
        return Err(format!("there is no campaign {name:?}; there are {}", names.join(", ")));
    };
    faults::can(*fault)?;
    let began = Instant::now();
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster);
    load.wait_flowing(PATIENCE);
    let (mut turns, mut failures) = (Vec::new(), Vec::new());
    for number in 0..repeats {
        let turn = faults::turn(*fault, &mut cluster, &load, number)?;
        progress(&format!("{name} {}/{repeats}: {} pause {:.2?}", number + 1, turn.note, turn.pause));
        if turn.pause > RESUME {
            failures.push(format!("turn {}: writes were kept from resuming for {:.2?}", number + 1, turn.pause));
        }
        turns.push(turn);
    }
    load.wait_flowing(PATIENCE);
    cluster.wait_up();
    let (mut history, errors) = load.stop();
    history.logs = load::read_back(&cluster);
    let checked = check(&history);
    if !checked.is_linearizable() {
        failures.push("the history is not linearizable".into());
    }
    failures.extend(errors.iter().take(5).map(|error| format!("a client saw: {error}")));
    let report = Report { name, turns, history: checked.to_string(), failures, took: began.elapsed() };
    if !report.failures.is_empty() {
        keep(&cluster, &history, &report, &artefacts.join(name))?;
    }
    Ok(report)
}

fn keep(cluster: &Cluster, history: &synod_lincheck::History, report: &Report, to: &PathBuf) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot keep what was found under {}: {error}", to.display());
    fs::create_dir_all(to).map_err(failed)?;
    fs::write(to.join("report.txt"), report.to_string()).map_err(failed)?;
    let file = fs::File::create(to.join("history.jsonl")).map_err(failed)?;
    journal::write(history, file).map_err(|error| error.to_string())?;
    for number in 1..=3 {
        fs::write(to.join(format!("node-{number}.log")), cluster.log(number)).map_err(failed)?;
    }
    Ok(())
}
