//! Fault campaigns: a load with a history, a fault again and again, and the history checked in the end.
//!
//! Owns: the order of a campaign (load, fault, healing, load again, check). Must never: call a campaign passed that could
//! not do its fault, or excuse an error that a client saw.
//!
//! Every campaign runs the default load (three nodes, four shards of a range table, eight clients, sixteen hot keys a
//! shard, appends, conditional appends, deletes and gets; through the client library, or by plain gRPC) and passes when the history is linearizable, no acknowledged
//! record is lost or doubled, no client saw an error other than an unknown outcome, and writes resumed in time.

mod call;
mod caller;
mod crash;
mod crash_points;
mod damage;
mod disks;
mod drift;
mod faults;
mod filler;
mod full;
mod hostile;
mod isolate;
mod load;
mod network;
mod overload;
mod partition;
mod plain;
mod power;
mod report;
mod retry;
mod rig;
mod set_back;
mod snapshot;
mod splits;
mod tracer;
mod upgrade;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use synod_lincheck::{History, check, journal};

pub use caller::Kind;
pub use report::{Report, Turn, row};

use crate::cluster::{Cluster, PATIENCE};
use load::Load;
use rig::Rig;

/// What TESTING allows writes to need after a fault is healed.
const RESUME: Duration = Duration::from_secs(10);

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a node, every second one a leader, while a shard is split.
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
    /// A node's Nth call of one kind on its files fails with EIO (needs strace).
    FileError(FileCall),
    /// A node is killed at a named point (needs strace).
    CrashPoint,
    /// The disks of all nodes lose their power at once (needs root).
    PowerLoss,
    /// The disk of one loses its power while the others stand still (needs root).
    PowerLossOne,
    /// The disks of one, two or all nodes fill up, and there is room again (needs root).
    DiskFull,
    /// The network is cut (needs root).
    Partition,
    /// Writes are sent again under their names, to every node and across failovers.
    Retry,
    /// A node that is away while its peers trim what it lacks, killed again while it receives and installs a snapshot.
    Snapshot,
    /// A bit of one of a node's files is flipped, or the file cut, while the node is down.
    Damage,
    /// A node's data directory is wiped or set back to an older copy.
    SetBack,
    /// Garbage, messages and streams without end, clients that read nothing.
    Hostile,
    /// A node's clock runs at another rate, within the bound that leases assume or beyond it (needs cc).
    Drift,
    /// The nodes are replaced by another binary, one by one, there and back; then the cluster's version is raised, and a shard is
    /// split (needs an earlier binary).
    Upgrade,
    /// Four times what the cluster can do; a greedy client beside a modest one.
    Overload,
}

/// What a node asks of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCall {
    /// The sync of every batch of the log.
    Fdatasync,
    /// The sync of a directory, or of a file that is then put in place.
    Fsync,
    /// A write to the log's current file.
    Write,
}

/// A campaign.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// What it is called by.
    pub name: &'static str,
    /// What it does, again and again.
    pub fault: Fault,
    /// What its clients call through.
    pub load: Kind,
    /// How often `make verify-long` does so.
    pub repeats: usize,
    /// In words.
    pub what: &'static str,
}

const fn campaign(name: &'static str, fault: Fault, repeats: usize, what: &'static str) -> Campaign {
    Campaign { name, fault, load: Kind::Library, repeats, what }
}

/// The same under a load of plain gRPC.
const fn plain(name: &'static str, fault: Fault, repeats: usize) -> Campaign {
    let what = "the same fault under plain gRPC calls, no client library: unary ones and sessions";
    Campaign { name, fault, load: Kind::Plain, repeats, what }
}

/// Every campaign.
pub const CAMPAIGNS: [Campaign; 30] = [
    campaign("kill", Fault::Kill, 200, "SIGKILL of a node, every second one a leader; a shard is split in 24 turns"),
    campaign("kill-leader", Fault::KillLeader, 50, "SIGKILL of a leader"),
    campaign("kill-all", Fault::KillAll, 50, "SIGKILL of all nodes at once"),
    campaign("pause", Fault::Pause, 20, "SIGSTOP of a leader for 2 s, then SIGCONT"),
    campaign("drift", Fault::Drift, 20, "a node's clock runs 9 to 30 % fast or slow: measured, alarm beyond 10 % (cc)"),
    campaign("transfer", Fault::Transfer, 50, "a leadership is moved by an operator"),
    campaign("hang", Fault::Hang, 20, "a leader's synced writes hang for 3 s, its network alive (strace)"),
    campaign("sync-error", Fault::FileError(FileCall::Fdatasync), 20, "a node's Nth fdatasync fails with EIO (strace)"),
    campaign("fsync-error", Fault::FileError(FileCall::Fsync), 20, "a node's Nth fsync fails with EIO (strace)"),
    campaign(
        "write-error",
        Fault::FileError(FileCall::Write),
        20,
        "a node's Nth write to its log fails with EIO (strace)",
    ),
    campaign(
        "crash-point",
        Fault::CrashPoint,
        crash::PLAN,
        "SIGKILL just before a named system call on a kind of file, every point on a leader and on a follower (strace)",
    ),
    campaign("power-loss", Fault::PowerLoss, 50, "the disks of all nodes lose their power at once (root, ext4)"),
    campaign(
        "power-loss-one",
        Fault::PowerLossOne,
        20,
        "the disk of one loses its power while two stand still, back in every order (root, ext4)",
    ),
    campaign(
        "disk-full",
        Fault::DiskFull,
        60,
        "the disks of one, two or all nodes fill up in four ways, then there is room again (root, ext4)",
    ),
    campaign("partition", Fault::Partition, 50, "cuts of the network in 13 shapes, 6 s each (root, ip)"),
    campaign("retry", Fault::Retry, 20, "writes sent again under their names, to every node, across failovers"),
    campaign("snapshot", Fault::Snapshot, 20, "a node behind the trimmed log, killed while it installs a snapshot"),
    campaign(
        "damage",
        Fault::Damage,
        100,
        "a bit of a node's file is flipped or the file cut, every kind and place in turn",
    ),
    campaign("set-back", Fault::SetBack, 10, "a node's data directory is wiped or set back to an older copy"),
    campaign(
        "hostile",
        Fault::Hostile,
        12,
        "garbage, 100 MiB messages, streams and connections by the thousand, no reader",
    ),
    campaign(
        "upgrade",
        Fault::Upgrade,
        8,
        "nodes replaced by another binary one by one, there and back, then `cluster upgrade` (SYNOD_OLD_BIN)",
    ),
    campaign(
        "overload",
        Fault::Overload,
        1,
        "up to four times what the cluster can do; a greedy client beside a modest one",
    ),
    plain("plain-kill", Fault::Kill, 100),
    plain("plain-kill-leader", Fault::KillLeader, 20),
    plain("plain-kill-all", Fault::KillAll, 20),
    plain("plain-pause", Fault::Pause, 20),
    plain("plain-transfer", Fault::Transfer, 20),
    plain("plain-hang", Fault::Hang, 10),
    plain("plain-power-loss", Fault::PowerLoss, 20),
    plain("plain-partition", Fault::Partition, 26),
];

/// The campaign of a name; the error lists those there are.
pub fn find(name: &str) -> Result<&'static Campaign, String> {
    let names = || CAMPAIGNS.iter().map(|campaign| campaign.name).collect::<Vec<_>>().join(", ");
    let found = CAMPAIGNS.iter().find(|campaign| campaign.name == name);
    found.ok_or_else(|| format!("there is no campaign {name:?}; there are {}", names()))
}

/// Goes into namespaces of the campaign's own where it needs them: this program is run again in its place. To be called
/// before anything else is done. Returns where it needs none, or is there; the error says why it cannot have them.
pub fn isolate(campaign: &Campaign) -> Result<(), String> {
    if !rig::needs_isolation(campaign.fault) || isolate::inside().is_ok() {
        return Ok(());
    }
    Err(isolate::enter())
}

/// Runs a campaign of so many turns; `Err` says why it could not be run. What a failure left behind is put under
/// `artefacts`: the history, every node's log, and the disks where the campaign made them.
pub fn run(name: &str, repeats: usize, artefacts: &Path, progress: impl FnMut(&str)) -> Result<Report, String> {
    let Campaign { name, fault, load, .. } = find(name)?;
    faults::can(*fault)?;
    let mut report = Report::new(name);
    let rig = Rig::new(*fault)?;
    let mut cluster = rig.cluster();
    let load = Load::start(&cluster, *load, *fault == Fault::DiskFull);
    load.wait_flowing(PATIENCE);
    match fault {
        Fault::Damage => damage::prepare(&mut cluster),
        Fault::Hostile => hostile::prepare(&cluster),
        _ => {}
    }
    // A turn that fails may panic: what it leaves is still to be judged and kept.
    let turns = || turns(*fault, &mut cluster, &rig, &load, repeats, &mut report, progress);
    if let Err(why) = caught(turns).and_then(|done| done) {
        report.failures.push(why);
    }
    let (mut history, errors) = load.stop();
    // Where a turn failed there may be nobody left to ask.
    if report.failures.is_empty() || cluster.status().is_some_and(|status| status.is_led()) {
        match caught(|| load::read_back(&cluster)) {
            Ok(logs) => history.logs = logs,
            Err(why) => report.failures.push(format!("what was written cannot be read: {why}")),
        }
    }
    if !history.logs.is_empty() {
        let checked = check(&history);
        if !checked.is_linearizable() {
            report.failures.push("the history is not linearizable".into());
        }
        report.history = checked.to_string();
    }
    report.operations = history.operations.len();
    report.failures.extend(errors.iter().take(5).map(|error| format!("a client saw: {error}")));
    report.end();
    if !report.failures.is_empty() {
        keep(&cluster, &rig, &history, &report, &artefacts.join(name))?;
    }
    Ok(report)
}

/// All turns, then a cluster that is whole under load.
fn turns(
    fault: Fault,
    cluster: &mut Cluster,
    rig: &Rig,
    load: &Load,
    repeats: usize,
    report: &mut Report,
    mut progress: impl FnMut(&str),
) -> Result<(), String> {
    let began = Instant::now();
    for number in 0..repeats {
        let turn = match faults::turn(fault, cluster, rig, load, number) {
            // The cluster is whole again: the sweep goes on, so that one failure does not hide the next.
            Err(why) if matches!(fault, Fault::Damage | Fault::Hostile | Fault::Overload) => {
                progress(&format!("{} {}/{repeats}: FAILURE: {why}", report.name, number + 1));
                report.failures.push(why);
                continue;
            }
            turn => turn?,
        };
        let done = u32::try_from(number + 1).unwrap_or(u32::MAX);
        let left = began.elapsed() / done * u32::try_from(repeats - number - 1).unwrap_or(u32::MAX);
        progress(&format!(
            "{} {done}/{repeats}, {:.0?} left: {} pause {:.2?}",
            report.name,
            Duration::from_secs(left.as_secs()),
            turn.note,
            turn.pause
        ));
        if turn.pause > RESUME {
            report.failures.push(format!("turn {done}: writes were kept from resuming for {:.2?}", turn.pause));
        }
        report.turns.push(turn);
    }
    if fault == Fault::Upgrade {
        progress(&upgrade::finish(cluster, load)?);
    }
    load.wait_flowing(PATIENCE);
    cluster.wait_up();
    let finished = rig.finish(cluster, load);
    let (table, missed) = rig.crashes.lock().map_err(|_| "a turn failed")?.table();
    report.table = table;
    report.failures.extend(missed);
    finished
}

/// What a panic said is an error.
fn caught<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
    })
}

fn keep(cluster: &Cluster, rig: &Rig, history: &History, report: &Report, to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot keep what was found under {}: {error}", to.display());
    fs::create_dir_all(to).map_err(failed)?;
    fs::write(to.join("report.txt"), report.to_string()).map_err(failed)?;
    let file = fs::File::create(to.join("history.jsonl")).map_err(failed)?;
    journal::write(history, file).map_err(|error| error.to_string())?;
    for number in 1..=3 {
        fs::write(to.join(format!("node-{number}.log")), cluster.log(number)).map_err(failed)?;
    }
    rig.keep(to)
}
