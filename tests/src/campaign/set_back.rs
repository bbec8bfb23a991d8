//! A data directory that is wiped, or set back to an older copy of itself, under the same node.
//!
//! Owns: both ways and what must follow: a refusal or a quarantine by name, and no vote. Must never: leave the node
//! without its true directory at the end of a turn.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Turn;
use super::damage::copy;
use super::load::Load;
use crate::cluster::{Cluster, PATIENCE};

/// How long a third node stays away to see whether the one set back votes in its stead.
const ALONE: Duration = Duration::from_millis(1500);

/// Sets a node back, every third turn to nothing at all.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, number: usize) -> Result<Turn, String> {
    let victim = u16::try_from(number % 3).expect("small") + 1;
    let other = victim % 3 + 1;
    let wipe = number % 3 == 2;
    let (data, older, kept) = (cluster.data_dir(victim), cluster.dir().join("older"), cluster.dir().join("kept"));
    cluster.stop(victim);
    copy(&data, &older);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    load.wait_flowing(PATIENCE);
    let began = Instant::now();
    cluster.kill(victim);
    load.wait_flowing(PATIENCE);
    fs::rename(&data, &kept).map_err(|e| e.to_string())?;
    if wipe {
        fs::remove_dir_all(&older).map_err(|e| e.to_string())?;
    } else {
        fs::rename(&older, &data).map_err(|e| e.to_string())?;
    }
    let log_from = cluster.log(victim).len();
    cluster.restart(victim);
    let said = if wipe {
        let ended = cluster.wait_end(victim);
        let log = cluster.log(victim);
        let said = log[log_from..].lines().last().unwrap_or_default().to_owned();
        if ended.code() != Some(1) || !said.contains("already bootstrapped") {
            return Err(format!("an empty directory was not refused: {ended}, {said}"));
        }
        "wiped: refused to start".to_owned()
    } else {
        let addr = cluster.addr(victim);
        let status = cluster.wait_status("quarantined", |status| status.state(&addr) == Some("quarantined"));
        let reason = status.node(&addr).and_then(|node| node["reason"].as_str()).unwrap_or_default().to_owned();
        if !reason.contains("older") {
            return Err(format!("quarantined for another reason: {reason}"));
        }
        "set back: quarantined".to_owned()
    };
    let pause = load.pause(began);
    // With another node stopped, only a vote of this one could acknowledge anything.
    cluster.signal(other, Signal::SIGSTOP);
    sleep(Duration::from_millis(300));
    let alone = Instant::now();
    sleep(ALONE);
    let acked = load.acked_since(alone);
    cluster.signal(other, Signal::SIGCONT);
    if cluster.runs(victim) {
        cluster.kill(victim);
        fs::remove_dir_all(&data).map_err(|e| e.to_string())?;
    } else if data.exists() {
        fs::remove_dir_all(&data).map_err(|e| e.to_string())?;
    }
    fs::rename(&kept, &data).map_err(|e| e.to_string())?;
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    load.wait_flowing(PATIENCE);
    if acked > 0 {
        return Err(format!("{acked} writes were acknowledged by one node and one that was set back"));
    }
    Ok(Turn { pause, during: None, note: format!("node {victim} {said}") })
}
