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

/// The power of these nodes fails: what they were doing is cut off, and nobody hears of it.
fn fail(cluster: &mut Cluster, disks: &Disks, nodes: &[u16]) -> Result<(), String> {
    disks.cut(nodes, || nodes.iter().for_each(|node| cluster.signal(*node, Signal::SIGSTOP)))?;
    nodes.iter().for_each(|node| cluster.signal(*node, Signal::SIGKILL));
    nodes.iter().for_each(|node| cluster.kill(*node));
    Ok(())
}

/// The power of all disks fails at once.
pub(super) fn all(cluster: &mut Cluster, load: &Load, disks: &Disks, number: usize) -> Result<Turn, String> {
    // Behind some hundred writes, at another moment each time.
    sleep(Duration::from_millis(400 + (number as u64 * 137) % 1000));
    let order = ORDERS[number % ORDERS.len()];
    let began = Instant::now();
    fail(cluster, disks, &order)?;
    disks.restore(&order)?;
    let healed = Instant::now();
    order.iter().for_each(|node| cluster.restart(*node));
    load.wait_flowing(PATIENCE);
    let note = format!("failed in the order {order:?}; down for {:.2?};", healed - began);
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
    fail(cluster, disks, &[victim])?;
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
    let leader = if victim == leads { ", a leader," } else { "" };
    let note = format!("node {victim}{leader} failed; back in the order {order:?} after {:.2?};", healed - began);
    Ok(Turn { pause, during: None, note })
}
