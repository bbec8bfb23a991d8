//! One turn of each fault: hurt the cluster, wait until writes flow, heal it, wait until it is whole.
//!
//! Owns: how a fault is made. Must never: touch a process that is not the cluster's own.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::isolate::{has, inside};
use super::load::{Load, TABLE};
use super::rig::Rig;
use super::{
    Fault, FileCall, Turn, crash, damage, drift, full, hostile, overload, partition, power, retry, set_back, snapshot,
    splits, tracer, upgrade,
};
use crate::cluster::{Cluster, PATIENCE, Status};
use crate::run::until;

/// How long a node stays away: long enough to have something to catch up with.
const AWAY: Duration = Duration::from_millis(400);

/// Whether a fault can be made here; the error says what is missing.
pub(super) fn can(fault: Fault) -> Result<(), String> {
    match fault {
        Fault::Hang | Fault::FileError(_) | Fault::CrashPoint => tracer::can(),
        Fault::PowerLoss | Fault::PowerLossOne | Fault::DiskFull => {
            inside()?;
            has("mkfs.ext4", "-V", "e2fsprogs")?;
            has("mount", "-V", "mount")
        }
        Fault::Drift => crate::shim::can(),
        Fault::Upgrade => upgrade::old().map(drop),
        Fault::Partition => {
            inside()?;
            has("ip", "-V", "iproute2")
        }
        _ => Ok(()),
    }
}

/// Makes a fault once.
pub(super) fn turn(fault: Fault, cluster: &mut Cluster, rig: &Rig, load: &Load, number: usize) -> Result<Turn, String> {
    const NO_RIG: &str = "the campaign has no such rig";
    let status = cluster.wait_up();
    let leads = cluster.leader(&status, TABLE, number);
    sleep(Duration::from_millis(200));
    let began = Instant::now();
    match fault {
        Fault::Kill => {
            let victim = if number % 2 == 1 { cluster.follower(&status) } else { leads };
            kill_beside_split(cluster, load, victim, number)
        }
        Fault::KillLeader => kill(cluster, load, leads, began),
        Fault::KillAll => {
            (1..=3).for_each(|node| cluster.signal(node, Signal::SIGKILL));
            (1..=3).for_each(|node| cluster.kill(node));
            (1..=3).for_each(|node| cluster.restart(node));
            load.wait_flowing(PATIENCE);
            Ok(Turn { pause: load.pause(began), during: None, note: "all nodes".into() })
        }
        Fault::Pause => {
            cluster.signal(leads, Signal::SIGSTOP);
            load.wait_flowing(PATIENCE);
            let pause = load.pause(began);
            sleep(Duration::from_secs(2).saturating_sub(began.elapsed()));
            cluster.signal(leads, Signal::SIGCONT);
            cluster.wait_caught_up(leads);
            Ok(Turn { pause, during: None, note: format!("node {leads}") })
        }
        Fault::Drift => drift::turn(cluster, load, leads, number),
        Fault::Transfer => transfer(cluster, load, &status, number, began),
        Fault::Hang => hang(cluster, load, &status, leads, began),
        Fault::FileError(call) => file_error(cluster, load, call, number),
        Fault::CrashPoint => crash::turn(cluster, load, &rig.crashes, number),
        Fault::PowerLoss => power::all(cluster, load, rig.disks.as_ref().ok_or(NO_RIG)?, number),
        Fault::PowerLossOne => power::one(cluster, load, rig.disks.as_ref().ok_or(NO_RIG)?, &status, number),
        Fault::DiskFull => full::turn(cluster, load, rig.disks.as_ref().ok_or(NO_RIG)?, number),
        Fault::Partition => partition::turn(cluster, load, rig.network.as_ref().ok_or(NO_RIG)?, &status, number),
        Fault::Retry => retry::turn(cluster, load, &rig.named, number),
        Fault::Snapshot => snapshot::turn(cluster, load, number),
        Fault::Damage => damage::turn(cluster, load, number),
        Fault::Hostile => hostile::turn(cluster, load, number),
        Fault::Overload => overload::turn(cluster, load),
        Fault::Upgrade => upgrade::turn(cluster, load, number),
        Fault::SetBack => set_back::turn(cluster, load, number),
    }
}

fn kill(cluster: &mut Cluster, load: &Load, victim: u16, began: Instant) -> Result<Turn, String> {
    cluster.kill(victim);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    sleep(AWAY);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    Ok(Turn { pause, during: None, note: format!("node {victim}") })
}

/// A shard is split, wherever the split is when the node dies.
fn kill_beside_split(cluster: &mut Cluster, load: &Load, victim: u16, number: usize) -> Result<Turn, String> {
    let split = splits::begin(cluster, number)?;
    let mut turn = kill(cluster, load, victim, Instant::now())?;
    if let Some(split) = split {
        turn.note = format!("{}, {}", turn.note, split.finish(cluster)?);
        load.wait_flowing(PATIENCE);
    }
    Ok(turn)
}

fn transfer(cluster: &Cluster, load: &Load, status: &Status, turn: usize, began: Instant) -> Result<Turn, String> {
    let shards = status.shards_of(TABLE);
    let shard = shards[turn % shards.len()];
    let (id, from) = (shard["id"].as_u64().unwrap_or(0), shard["leader"].as_u64());
    let others = shard["replicas"].as_array().into_iter().flatten().filter_map(|replica| replica["node"].as_u64());
    let to = others.filter(|node| Some(*node) != from).nth(turn % 2).ok_or("the shard has no other replica")?;
    cluster.cli(&["shard", "transfer-leader", &id.to_string(), "--to", &to.to_string()]).ok();
    load.wait_flowing(PATIENCE);
    Ok(Turn { pause: load.pause(began), during: None, note: format!("shard {id} to node {to}") })
}

/// The node's pulses go on while its log does not. What clients see of it is longer than its leaderships last: they wait
/// for an answer once a shard.
fn hang(cluster: &mut Cluster, load: &Load, status: &Status, victim: u16, began: Instant) -> Result<Turn, String> {
    let id = status.id(&cluster.addr(victim));
    let led = status.shards().iter().filter(|shard| shard["leader"].as_u64() == id);
    let led: Vec<u64> = led.filter_map(|shard| shard["id"].as_u64()).collect();
    let peers: Vec<(u16, usize)> =
        (1..=3).filter(|node| *node != victim).map(|node| (node, cluster.log(node).len())).collect();
    let strace = tracer::inject(cluster.pid(victim), "fdatasync", "delay_enter=3000000:when=1", None)?;
    let moved = until(Duration::from_millis(2900), "the node's leaderships are its peers'", || {
        let said = peers.iter().map(|(node, from)| cluster.log(*node).split_off(*from)).collect::<String>();
        let taken = |shard: &u64| {
            let shard = format!(" shard={shard} ");
            said.lines().any(|line| line.contains(&shard) && line.ends_with("here=true"))
        };
        led.iter().all(taken).then(|| began.elapsed())
    });
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    sleep(Duration::from_millis(3500).saturating_sub(began.elapsed()));
    tracer::release(strace);
    let moved = moved.map_err(|why| format!("node {victim} kept leaderships while its log hung: {why}"))?;
    cluster.wait_caught_up(victim);
    let note = format!("node {victim}, its {} leaderships moved after {moved:.2?}", led.len());
    Ok(Turn { pause, during: None, note })
}

/// The file of the log that a node writes to now.
fn current_wal(cluster: &Cluster, node: u16) -> Option<PathBuf> {
    let log = cluster.data_dir(node).join("log");
    let open = std::fs::read_dir(format!("/proc/{}/fd", cluster.pid(node))).ok()?;
    let files = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    files.filter(|file| file.starts_with(&log) && file.extension().is_some_and(|name| name == "log")).max()
}

/// The process ends at once and starts again cleanly.
fn file_error(cluster: &mut Cluster, load: &Load, call: FileCall, turn: usize) -> Result<Turn, String> {
    let victim = u16::try_from(turn % 3).expect("small") + 1;
    let sampled = 1 + (turn * 37) % 200;
    let (name, nth, file) = match call {
        FileCall::Fdatasync => ("fdatasync", sampled, None),
        // There are few of them.
        FileCall::Fsync => ("fsync", 1 + turn / 3 % 5, None),
        FileCall::Write => {
            ("write", sampled, Some(current_wal(cluster, victim).ok_or("the node writes to no file of a log")?))
        }
    };
    let strace = tracer::inject(cluster.pid(victim), name, &format!("error=EIO:when={nth}"), file.as_deref())?;
    let began = Instant::now();
    let ended = match call {
        FileCall::Fsync => {
            let table = &format!("bulk-{turn}");
            snapshot::create_bulk(cluster, load, table)?;
            until(PATIENCE, "the node ends at its failed fsync", || {
                // The state's memory fills, and becomes files.
                let written = snapshot::write_bulk(cluster, load, table, 8);
                (!cluster.runs(victim)).then(|| written.map(|()| Instant::now()))
            })??
        }
        _ => until(PATIENCE, "the node ends at its failed write", || (!cluster.runs(victim)).then(Instant::now))?,
    };
    tracer::release(strace);
    let log = cluster.log(victim);
    let last = log.lines().last().unwrap_or_default().to_owned();
    if !last.contains("the process ends") {
        return Err(format!("node {victim} did not say why it ended: {last}"));
    }
    cluster.wait_end(victim);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    let lived = ended - began;
    Ok(Turn { pause, during: None, note: format!("node {victim}, {name} {nth}, ended after {lived:.2?}") })
}
