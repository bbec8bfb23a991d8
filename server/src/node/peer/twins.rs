//! Two processes of one node: who is believed here, what others are told of it, and what they tell of this node.
//!
//! Owns: the words, and the table of processes that are believed (`synod_engine::processes` decides). Must never: let a process
//! that is not believed move anything here, or keep it from hearing that it is not believed.
//!
//! Every pulse tells the receiver which processes of its node the sender knows. One that rules the receiver out ends its part:
//! the worker is told before it is told of any answer to its identity, so it cannot have begun to vote by that answer.

use super::hello::{Caller, Refused};
use super::{Local, lock};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use synod_cluster::ids::{Incarnation, NodeId, Nonce};
use synod_engine::processes::{Process, Processes, Sighting};
use synod_proto::peer::{KnownProcess, PulseFrame};

/// A refused process is an alarm as long as it was heard so recently,
const RECENT: Duration = Duration::from_secs(10);
/// and has been for this long: the last words of a process that was followed by the next are no alarm.
const LASTING: Duration = Duration::from_secs(2);
/// Processes of one pulse that are looked at: the rest of a longer list is none of a node's.
const TOLD_MAX: usize = 4096;

/// A process that is not believed.
#[derive(Debug)]
struct Refusal {
    addr: String,
    why: String,
    since: Instant,
    last: Instant,
}

/// What is believed, and who was refused.
#[derive(Debug, Default)]
pub(super) struct Twins {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    processes: Processes,
    refused: BTreeMap<NodeId, Refusal>,
}

impl Inner {
    fn refuse(&mut self, me: NodeId, caller: Caller, addr: &str, known: &Sighting) -> Refused {
        let now = Instant::now();
        let before = self.refused.remove(&caller.node).filter(|before| before.last + RECENT > now);
        let (since, before) = before.map_or((now, String::new()), |before| (before.since, before.addr));
        let addr = if addr.is_empty() { before } else { addr.to_owned() };
        let other = Sighting { process: caller.process, addr: addr.clone() };
        let why = twice(caller.node, known, &other);
        self.refused.insert(caller.node, Refusal { addr, why: why.clone(), since, last: now });
        let (seen, theirs) = (known.process.incarnation, caller.process.incarnation);
        if seen > theirs { Refused::Older { me, from: caller.node, seen, theirs } } else { Refused::Twice(why) }
    }
}

/// The words.
fn twice(node: NodeId, known: &Sighting, other: &Sighting) -> String {
    let at = |sighting: &Sighting| match sighting.addr.as_str() {
        "" => "an address it did not say".to_owned(),
        addr => addr.to_owned(),
    };
    let (mine, theirs) = (known.process.incarnation, other.process.incarnation);
    let of = if mine == theirs { String::new() } else { format!(" of incarnation {theirs}") };
    format!(
        "node {node} runs twice: a process of incarnation {mine} is at {}, another{of} at {}; stop one, restart the other",
        at(known),
        at(other)
    )
}

impl Twins {
    /// Forgets a node that is no longer in the map.
    pub fn forget(&self, node: NodeId) {
        let mut inner = lock(&self.inner);
        inner.processes.forget(node);
        inner.refused.remove(&node);
    }

    /// Refuses a caller whose node has another process that rules this one out; `me` is this node.
    pub fn check(&self, me: NodeId, caller: Caller) -> Result<(), Refused> {
        let mut inner = lock(&self.inner);
        let checked = inner.processes.check(caller.node, caller.process);
        checked.map_err(|known| inner.refuse(me, caller, "", &known))
    }

    /// A process speaks, or says that it is `leaving`. Returns whether links of the process that was believed before carry nothing
    /// from now on.
    ///
    /// # Errors
    /// Another process rules it out; and whether both have one incarnation.
    pub fn believe(&self, me: NodeId, caller: Caller, addr: &str, leaving: bool) -> Result<bool, (Refused, bool)> {
        let mut inner = lock(&self.inner);
        let (node, process) = (caller.node, caller.process);
        let believed =
            if leaving { inner.processes.leave(node, process) } else { inner.processes.believe(node, process, addr) };
        believed
            .map_err(|known| (inner.refuse(me, caller, addr, &known), known.process.incarnation == process.incarnation))
    }

    /// Takes what a believed process of `from` tells of processes of nodes other than `me`; returns the nodes whose process is
    /// ruled out by that.
    pub fn take_told(&self, me: NodeId, from: NodeId, frame: &PulseFrame) -> Vec<NodeId> {
        let others = frame.processes.iter().take(TOLD_MAX).filter(|told| told.node != me.0);
        let others = others.map(|told| (NodeId(told.node), sighting(told))).collect();
        lock(&self.inner).processes.tell(from, others)
    }

    /// A consensus message of a believed process is handed on.
    pub fn took_part(&self, node: NodeId) {
        lock(&self.inner).processes.took_part(node);
    }

    /// Nodes that run twice.
    pub fn alarms(&self) -> Vec<String> {
        let now = Instant::now();
        let inner = lock(&self.inner);
        let lasting = inner.refused.values().filter(|refusal| {
            refusal.last + RECENT > now && refusal.last.saturating_duration_since(refusal.since) > LASTING
        });
        lasting.map(|refusal| refusal.why.clone()).collect()
    }

    /// What a pulse to `to` says.
    pub fn tellings(&self, to: NodeId) -> Vec<KnownProcess> {
        let inner = lock(&self.inner);
        let told = inner.processes.tellings(to).map(|(node, sighting)| KnownProcess {
            node: node.0,
            incarnation: sighting.process.incarnation.0,
            nonce: sighting.process.nonce.0,
            addr: if node == to { sighting.addr.clone() } else { String::new() },
        });
        told.collect()
    }
}

fn sighting(told: &KnownProcess) -> Sighting {
    let process = Process { incarnation: Incarnation(told.incarnation), nonce: Nonce(told.nonce) };
    Sighting { process, addr: told.addr.clone() }
}

/// Why this process is ruled out, as far as the sender of a pulse knows; `advertised` is where others reach it.
pub(super) fn ruled_out_by(local: &Local, advertised: &str, frame: &PulseFrame) -> Option<String> {
    let process = Process { incarnation: local.incarnation, nonce: local.nonce };
    let mine = Sighting { process, addr: advertised.to_owned() };
    let mut told = frame.processes.iter().take(TOLD_MAX).filter(|told| told.node == local.node.0).map(sighting);
    let other = told.find(|told| told.process.rules_out(process))?;
    Some(twice(local.node, &other, &mine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_are_named() {
        let at = |incarnation, addr: &str| Sighting {
            process: Process { incarnation: Incarnation(incarnation), nonce: Nonce(1) },
            addr: addr.into(),
        };
        assert_eq!(
            twice(NodeId(1), &at(7, "127.0.0.1:7001"), &at(7, "127.0.0.1:7009")),
            "node 1 runs twice: a process of incarnation 7 is at 127.0.0.1:7001, another at 127.0.0.1:7009; stop one, \
             restart the other"
        );
        let later = twice(NodeId(1), &at(8, "127.0.0.1:7001"), &at(7, ""));
        assert!(later.contains("another of incarnation 7 at an address it did not say"), "{later}");
    }
}
