//! Turns in which the power of disks fails.
//!
//! Owns: the order in which disks fail and nodes come back. Must never: let a node start on a disk whose loss is not
//! proved.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Turn;
use super::disks::Disks;
use super::load::{Load, TABLE};
use crate::cluster::{Cluster, PATIENCE, Status};

/// Every order of three.
const ORDERS: [[u16; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];

/// Ends the processes of nodes whose disks have failed; says how many had ended by themselves.
fn end(cluster: &mut Cluster, nodes: &[u16]) -> usize {
    let alive: Vec<u16> = nodes.iter().copied().filter(|node| cluster.runs(*node)).collect();
    alive.iter().for_each(|node| cluster.signal(*node, Signal::SIGKILL));
    nodes.iter().for_each(|node| cluster.kill(*node));
    nodes.len() - alive.len()
}

/// The power of all disks fails at once; every second time their processes live on for a while.
pub(super) fn all(cluster: &mut Cluster, load: &Load, disks: &Disks, number: usize) -> Result<Turn, String> {
    // Behind some hundred writes, at another moment each time.
    sleep(Duration::from_millis(400 + (number as u64 * 137) % 1000));
    let order = ORDERS[number % ORDERS.len()];
    let began = Instant::now();
    disks.cut(&order)?;
    if number % 2 == 1 {
        sleep(Duration::from_millis(300));
    }
    let ended = end(cluster, &order);
    disks.restore(&order)?;
    let healed = Instant::now();
    order.iter().for_each(|node| cluster.restart(*node));
    load.wait_flowing(PATIENCE);
    let note = format!("failed in the order {order:?}, {ended} ended by themselves; down for {:.2?};", healed - began);
    Ok(Turn { pause: load.pause(healed), during: None, note })
}

/// The power of one fails while the other two stand still; then the one starts and the two go on, in every order.
pub(super) fn one(
    cluster: &mut Cluster,
    load: &Load,
    disks: &Disks,
    status: &Status,
    number: usize,
) -> Result<Turn, String> {
    // A leader and the others in turn.
    let leads = cluster.leader(status, TABLE, number);
    let victim = (leads - 1 + u16::try_from(number / ORDERS.len() % 3).expect("small")) % 3 + 1;
    let paused: Vec<u16> = (1..=3).filter(|node| *node != victim).collect();
    sleep(Duration::from_millis((number as u64 * 53) % 400));
    let began = Instant::now();
    paused.iter().for_each(|node| cluster.signal(*node, Signal::SIGSTOP));
    // Sometimes it has written on alone.
    sleep(Duration::from_millis((number as u64 % 4) * 50));
    disks.cut(&[victim])?;
    let ended = end(cluster, &[victim]) == 1;
    disks.restore(&[victim])?;
    let order = ORDERS[number % ORDERS.len()];
    for step in order {
        match step {
            1 => cluster.restart(victim),
            step => cluster.signal(paused[usize::from(step) - 2], Signal::SIGCONT),
        }
        sleep(Duration::from_millis(150 + (number as u64 * 97) % 700));
    }
    let healed = Instant::now();
    load.wait_flowing(PATIENCE);
    let pause = load.pause(healed);
    cluster.wait_caught_up(victim);
    let word = if ended { "ended by itself" } else { "was ended" };
    let note = format!(
        "node {victim} failed{} and {word}; back in the order {order:?} after {:.2?};",
        if victim == leads { ", a leader," } else { "" },
        healed - began
    );
    Ok(Turn { pause, during: None, note })
}
