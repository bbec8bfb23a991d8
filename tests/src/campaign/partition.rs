//! Turns in which the network is cut.
//!
//! Owns: the shapes of cuts, and which of them leave a majority that clients can write through. Must never: leave a cut
//! behind.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Turn;
use super::load::{Load, TABLE};
use super::network::Host::{self, Clients, Node};
use super::network::Network;
use crate::cluster::{Cluster, PATIENCE, Status};

/// How long a cut lasts.
const CUT: Duration = Duration::from_secs(6);

/// A shape of cuts around a shard's leader and its two followers.
struct Shape {
    name: &'static str,
    writes: Writes,
    /// Who no longer hears whom.
    cuts: fn(Host, Host, Host) -> Vec<(Host, Host)>,
}

/// What becomes of writes while a cut lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    /// They go on or resume: the clients, and nodes that make a majority, hear one another.
    Resume,
    /// They wait: there is no majority.
    Wait,
    /// They may do either: the clients do not reach a leader that has its majority.
    May,
}
use Writes::{May, Resume, Wait};

/// Neither hears the other.
fn apart(pairs: &[(Host, Host)]) -> Vec<(Host, Host)> {
    pairs.iter().flat_map(|(one, other)| [(*one, *other), (*other, *one)]).collect()
}

const SHAPES: [Shape; 13] = [
    Shape { name: "the leader deaf to a follower", writes: Resume, cuts: |l, a, _| vec![(l, a)] },
    Shape { name: "a follower deaf to the leader", writes: Resume, cuts: |l, a, _| vec![(a, l)] },
    Shape { name: "the leader apart, its clients with it", writes: Resume, cuts: |l, a, b| apart(&[(l, a), (l, b)]) },
    Shape { name: "the leader alone", writes: Resume, cuts: |l, a, b| apart(&[(l, a), (l, b), (l, Clients)]) },
    Shape { name: "a follower alone", writes: Resume, cuts: |l, a, b| apart(&[(a, l), (a, b), (a, Clients)]) },
    Shape { name: "a bridge, the leader in the middle", writes: Resume, cuts: |_, a, b| apart(&[(a, b)]) },
    Shape { name: "a bridge, a follower in the middle", writes: Resume, cuts: |l, _, b| apart(&[(l, b)]) },
    Shape { name: "a ring", writes: Wait, cuts: |l, a, b| vec![(l, b), (a, l), (b, a)] },
    Shape { name: "each alone", writes: Wait, cuts: |l, a, b| apart(&[(l, a), (l, b), (a, b)]) },
    Shape { name: "the clients without the leader", writes: May, cuts: |l, _, _| apart(&[(l, Clients)]) },
    Shape { name: "the clients deaf to the leader", writes: May, cuts: |l, _, _| vec![(Clients, l)] },
    Shape { name: "the leader deaf to all", writes: Resume, cuts: |l, a, b| vec![(l, a), (l, b), (l, Clients)] },
    Shape { name: "both followers deaf to the leader", writes: Resume, cuts: |l, a, b| vec![(a, l), (b, l)] },
];

/// Cuts the network for a while and heals it.
pub(super) fn turn(
    cluster: &Cluster,
    load: &Load,
    network: &Network,
    status: &Status,
    number: usize,
) -> Result<Turn, String> {
    let shape = &SHAPES[number % SHAPES.len()];
    // Another leader and other followers each time round.
    let round = number / SHAPES.len();
    let leads = cluster.leader(status, TABLE, round);
    let mut followers: Vec<u16> = (1..=3).filter(|node| *node != leads).collect();
    followers.rotate_left(round % 2);
    let cuts = (shape.cuts)(Node(leads), Node(followers[0]), Node(followers[1]));
    let began = Instant::now();
    cuts.iter().try_for_each(|cut| network.deafen(*cut))?;
    sleep(CUT);
    let healed = Instant::now();
    cuts.iter().try_for_each(|cut| network.heal(*cut))?;
    let stalled = load.stalled(began, healed);
    load.wait_flowing(PATIENCE);
    let pause = load.pause(healed);
    let all = stalled + Duration::from_secs(1) > healed - began;
    match shape.writes {
        Resume if all => return Err(format!("{}: no writes for {stalled:.2?}, with a majority", shape.name)),
        Wait if !all => return Err(format!("{}: writes after {stalled:.2?}, without a majority", shape.name)),
        _ => {}
    }
    let note = format!("{} (node {leads}): {stalled:.2?} without a write while it lasted, behind it", shape.name);
    Ok(Turn { pause, during: (shape.writes == Resume).then_some(stalled), note })
}
