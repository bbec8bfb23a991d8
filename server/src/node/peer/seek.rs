//! Looking for nodes of the cluster that are not heard: at the addresses given at the start, and at those that others know.
//!
//! Owns: the questions. Must never: take a node's address unless that node itself answered there, or ask while everybody is
//! heard.
//!
//! A cluster whose nodes all moved comes together this way: a node asks those whose addresses it was given; each says who it
//! is, and where it believes the others to be; there they are asked in turn. From then on pulses go to where a node is, and
//! tell it where this one is. Once a majority hears each other the map is corrected.

use super::dial;
use super::shared::Shared;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::NodeId;
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{IdentifyReply, IdentifyRequest};
use tokio::time::{sleep, timeout};

/// Pause before the first round of questions, and the longest between two: it doubles while the same nodes are missing.
const PAUSE_LEAST: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(4);
/// How long an answer may take, the connection included.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Addresses asked in one round, at most.
const QUESTIONS: usize = 64;

/// Looks for missing nodes until the task is aborted; `hints` are the addresses given at the start.
pub(super) async fn run(shared: Arc<Shared>, hints: Vec<String>) {
    let (mut pause, mut before) = (PAUSE_LEAST, BTreeSet::new());
    loop {
        sleep(pause).await;
        let missing = shared.missing();
        pause = if missing == before { (pause * 2).min(PAUSE_MOST) } else { PAUSE_LEAST };
        before.clone_from(&missing);
        if missing.is_empty() {
            pause = PAUSE_LEAST;
            continue;
        }
        let known: BTreeSet<String> = shared.addresses.all().into_values().collect();
        let mut asked: BTreeSet<String> = hints.iter().cloned().chain(known).take(QUESTIONS).collect();
        asked.remove(&shared.advertised);
        let rumours = round(&shared, asked.iter()).await;
        // What others believe is asked after once more: only the node itself is taken at its word.
        let fresh: Vec<&String> = rumours.iter().filter(|addr| !asked.contains(*addr)).take(QUESTIONS).collect();
        if !fresh.is_empty() {
            round(&shared, fresh.into_iter()).await;
        }
    }
}

/// Asks at these addresses; returns where those who answered believe missing nodes to be.
async fn round<'a>(shared: &Shared, addrs: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let answers = futures::future::join_all(addrs.map(|addr| ask(shared, addr))).await;
    let missing = shared.missing();
    let mut rumours = BTreeSet::new();
    for (addr, reply) in answers.into_iter().flatten() {
        rumours.extend(shared.take_answer(addr, reply, &missing));
    }
    rumours.remove(&shared.advertised);
    rumours
}

async fn ask<'a>(shared: &Shared, addr: &'a str) -> Option<(&'a str, IdentifyReply)> {
    let request = IdentifyRequest { addr: shared.advertised.clone(), ..IdentifyRequest::default() };
    let answer = async {
        let channel = dial::dial(addr).await.ok()?;
        PeerClient::new(channel).identify(request).await.ok()
    };
    Some((addr, timeout(ANSWER_WAIT, answer).await.ok()??.into_inner()))
}

impl Shared {
    /// Takes what the node at `addr` says of itself; returns where it believes `missing` nodes to be.
    fn take_answer(&self, addr: &str, reply: IdentifyReply, missing: &BTreeSet<NodeId>) -> Vec<String> {
        if reply.cluster[..] != self.local.cluster.to_be_bytes() {
            if !reply.cluster.is_empty() {
                self.complain(&format!(
                    "{addr}, where a node of this cluster was looked for, belongs to another cluster"
                ));
            }
            return Vec::new();
        }
        // A node of a version that does not say who it is: 0.
        let node = NodeId(reply.me);
        if node != self.local.node && missing.contains(&node) && self.addresses.told(node, None, addr) {
            tracing::info!(%node, addr, "found at an address that the map does not have");
        }
        let of_missing = reply.known.into_iter().filter(|known| missing.contains(&NodeId(known.node)));
        of_missing.map(|known| known.addr).filter(|addr| super::addresses::is_address(addr)).take(QUESTIONS).collect()
    }
}
