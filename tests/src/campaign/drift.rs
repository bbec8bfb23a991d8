//! A clock that runs at another rate: within the bound that leases assume, and beyond it.
//!
//! Owns: the library that makes it so, and what must be noticed. Must never: ask for a sound history of a node whose clock is
//! beyond the bound and whose leadership is taken: none is promised.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Turn;
use super::load::Load;
use crate::cluster::{Cluster, PATIENCE};
use crate::http;
use crate::run::until;
use crate::shim;

/// By how much the clock is faster, millionths, in turn. Leases assume 100,000 at most.
const RATES: [i64; 4] = [90_000, 300_000, -90_000, -180_000];
const BOUND: u64 = 100_000;
/// An estimate needs 30 s, and what was measured before is forgotten after 50.
const NOTICED: Duration = Duration::from_secs(75);
/// How wrong an estimate may be, millionths: 0.3 s in 20.
const ERROR: u64 = 15_000;

/// What `node` measured of a peer's clock, millionths.
fn measured(cluster: &Cluster, node: u16, peer: u64) -> Option<i64> {
    let name = format!("synod_peer_clock_drift_ppm{{peer=\"{peer}\"}}");
    http::metric(&cluster.http(node), &name).map(|ppm| ppm as i64)
}

/// Whether `node` says that a peer's clock cannot be counted on.
fn alarmed(cluster: &Cluster, node: u16) -> Option<bool> {
    let status = cluster.status()?;
    let alarms = status.node(&cluster.addr(node))?.get("clock_alarms").and_then(|alarms| alarms.as_array().cloned());
    Some(alarms.is_some_and(|alarms| !alarms.is_empty()))
}

/// A leader restarts with another clock; once it leads again somewhere, it is paused where its clock is within the bound.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, victim: u16, number: usize) -> Result<Turn, String> {
    let ppm = RATES[number % RATES.len()];
    let beyond = ppm.unsigned_abs() > BOUND;
    let library = shim::library(cluster.dir(), "fast_clock", shim::CLOCK)?;
    let began = Instant::now();
    cluster.kill(victim);
    cluster.restart_by(victim, &["env".into(), format!("LD_PRELOAD={library}"), format!("SYNOD_CLOCK_PPM={ppm}")]);
    let status = cluster.wait_caught_up(victim);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    let id = status.id(&cluster.addr(victim)).ok_or("the node has no number")?;
    let other = victim % 3 + 1;
    let began = Instant::now();
    until(NOTICED, "the clock is measured", || {
        if !beyond && began.elapsed() > Duration::from_secs(5) {
            // Whoever leads is taken its leaderships, believes in them for a while, and is asked.
            let leader = cluster.leader(&cluster.status()?, super::load::TABLE, number);
            cluster.signal(leader, Signal::SIGSTOP);
            sleep(Duration::from_millis(1_500));
            cluster.signal(leader, Signal::SIGCONT);
            sleep(Duration::from_secs(2));
        }
        let seen = measured(cluster, other, id)?;
        let right = seen.abs_diff(ppm) < ERROR && alarmed(cluster, other)? == beyond;
        right.then_some(())
    })
    .map_err(|why| format!("{why}: of {ppm} ppm node {other} saw {:?}", measured(cluster, other, id)))?;
    let noticed = began.elapsed();
    cluster.kill(victim);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    let what = if beyond { "alarm" } else { "measured, no alarm" };
    Ok(Turn { pause, during: None, note: format!("node {victim}, {ppm:+} ppm: {what} after {noticed:.0?},") })
}
