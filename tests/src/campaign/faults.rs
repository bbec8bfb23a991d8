//! One turn of each fault: hurt the cluster, wait until writes flow, heal it, wait until it is whole.
//!
//! Owns: how a fault is made. Must never: touch a process that is not the cluster's own.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::load::{Load, TABLE};
use super::{Fault, Turn};
use crate::cluster::{Cluster, PATIENCE, Status};
use crate::run::{send, until, wait_for};

/// How long a node stays away: long enough to have something to catch up with.
const AWAY: Duration = Duration::from_millis(400);

/// Whether a fault can be made here; the error says what is missing.
pub(super) fn can(fault: Fault) -> Result<(), String> {
    if !matches!(fault, Fault::Hang | Fault::SyncError) {
        return Ok(());
    }
    let traced = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).stderr(Stdio::null()).status();
    match traced {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("skipped: strace may not trace here".into()),
        Err(_) => Err("skipped: strace is not installed (apt-get install strace)".into()),
    }
}

/// Makes a fault once.
pub(super) fn turn(fault: Fault, cluster: &mut Cluster, load: &Load, number: usize) -> Result<Turn, String> {
    let status = cluster.wait_up();
    let leads = cluster.leader(&status, TABLE, number);
    sleep(Duration::from_millis(200));
    let began = Instant::now();
    match fault {
        Fault::Kill if number % 2 == 1 => kill(cluster, load, cluster.follower(&status), began),
        Fault::Kill | Fault::KillLeader => kill(cluster, load, leads, began),
        Fault::KillAll => {
            (1..=3).for_each(|node| cluster.signal(node, Signal::SIGKILL));
            (1..=3).for_each(|node| cluster.kill(node));
            (1..=3).for_each(|node| cluster.restart(node));
            load.wait_flowing(PATIENCE);
            Ok(Turn { pause: load.pause(began), note: "all nodes".into() })
        }
        Fault::Pause => {
            cluster.signal(leads, Signal::SIGSTOP);
            load.wait_flowing(PATIENCE);
            let pause = load.pause(began);
            sleep(Duration::from_secs(2).saturating_sub(began.elapsed()));
            cluster.signal(leads, Signal::SIGCONT);
            cluster.wait_caught_up(leads);
            Ok(Turn { pause, note: format!("node {leads}") })
        }
        Fault::Transfer => transfer(cluster, load, &status, number, began),
        Fault::Hang => hang(cluster, load, leads, began),
        Fault::SyncError => sync_error(cluster, load, number),
    }
}

fn kill(cluster: &mut Cluster, load: &Load, victim: u16, began: Instant) -> Result<Turn, String> {
    cluster.kill(victim);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    sleep(AWAY);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    Ok(Turn { pause, note: format!("node {victim}") })
}

fn transfer(cluster: &Cluster, load: &Load, status: &Status, turn: usize, began: Instant) -> Result<Turn, String> {
    let shards = status.shards_of(TABLE);
    let shard = shards[turn % shards.len()];
    let (id, from) = (shard["id"].as_u64().unwrap_or(0), shard["leader"].as_u64());
    let others = shard["replicas"].as_array().into_iter().flatten().filter_map(|replica| replica["node"].as_u64());
    let to = others.filter(|node| Some(*node) != from).nth(turn % 2).ok_or("the shard has no other replica")?;
    cluster.cli(&["shard", "transfer-leader", &id.to_string(), "--to", &to.to_string()]).ok();
    load.wait_flowing(PATIENCE);
    Ok(Turn { pause: load.pause(began), note: format!("shard {id} to node {to}") })
}

/// strace on every thread of a process, with something injected into its fdatasync; it is attached when this returns.
fn inject(pid: u32, what: &str) -> Result<Child, String> {
    let (pid, spec) = (pid.to_string(), format!("inject=fdatasync:{what}"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-p", &pid, "-e", "trace=fdatasync", "-e", &spec, "-o", "/dev/null"]);
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|e| format!("strace: {e}"))?;
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // What was injected may have ended it already.
        let ended = field("State:").is_none_or(|state| state.starts_with('Z'));
        (ended || field("TracerPid:") != Some("0")).then_some(())
    };
    until(Duration::from_secs(5), "strace is attached", traced)?;
    Ok(child)
}

fn release(mut strace: Child) {
    send(strace.id(), Signal::SIGTERM);
    if wait_for(&mut strace, Duration::from_secs(10)).is_none() {
        let _ = strace.kill();
        let _ = strace.wait();
    }
}

/// The node's pulses go on while its log does not.
fn hang(cluster: &mut Cluster, load: &Load, victim: u16, began: Instant) -> Result<Turn, String> {
    let strace = inject(cluster.pid(victim), "delay_enter=3000000:when=1")?;
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    sleep(Duration::from_millis(3500).saturating_sub(began.elapsed()));
    release(strace);
    cluster.wait_caught_up(victim);
    if pause > Duration::from_millis(2900) {
        return Err(format!("node {victim} kept its leaderships while its log hung: {pause:.2?} without a write"));
    }
    Ok(Turn { pause, note: format!("node {victim}") })
}

/// The process ends at once and starts again cleanly.
fn sync_error(cluster: &mut Cluster, load: &Load, turn: usize) -> Result<Turn, String> {
    let victim = u16::try_from(turn % 3).expect("small") + 1;
    let nth = 1 + (turn * 37) % 200;
    let strace = inject(cluster.pid(victim), &format!("error=EIO:when={nth}"))?;
    let began = Instant::now();
    let ended = until(PATIENCE, "the node ends at its failed write", || (!cluster.runs(victim)).then(Instant::now))?;
    release(strace);
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
    Ok(Turn { pause, note: format!("node {victim}, fdatasync {nth}, ended after {lived:.2?}") })
}
