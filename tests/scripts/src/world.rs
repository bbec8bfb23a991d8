//! Replicas, links and clock, moved by nothing but the script.
//!
//! Owns: the world's state and what each command puts out. Must never: do anything unasked, or in an order that depends on
//! more than the script.

use super::disk::Disk;
use super::format;
use super::parse::Result;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use synod_paxos::Replica;
use synod_paxos::io::{Ctx, Input, Options, Output};
use synod_paxos::message::Message;
use synod_paxos::types::{Entry, HardState, Membership, Micros, NodeId, Slot, WriteSeq};

/// One node: its disk, and its replica while it runs.
pub struct Node {
    pub disk: Disk,
    pub replica: Option<Replica>,
}

/// Everything a script can see.
#[derive(Default)]
pub struct World {
    pub nodes: BTreeMap<NodeId, Node>,
    pub links: BTreeMap<(NodeId, NodeId), VecDeque<Message>>,
    /// What is sent here is lost.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// What is sent here waits for the script.
    pub held: BTreeSet<(NodeId, NodeId)>,
    pub now: u64,
    pub options: Options,
    /// The random word; without one it is 10 ms times the node, so that node 1 is first.
    pub random: Option<u64>,
    /// `Committed` is applied only when the script says so.
    pub manual_apply: bool,
    /// Bytes of entries that wait on one direction of a link; what finds more is dropped, and its sender is told.
    pub outbox: usize,
    /// How long a message with entries is on its way, µs; what follows it on its link waits.
    pub slow: u64,
    /// When the oldest message of a slow link arrives.
    arrives: BTreeMap<(NodeId, NodeId), u64>,
    /// What was applied at each slot, by whoever was first.
    pub applied: BTreeMap<Slot, Entry>,
    /// What the command put out so far.
    pub text: String,
    /// A replica stopped, or two replicas disagree, in this command.
    pub failed: bool,
}

impl World {
    pub fn build(membership: &Membership, nodes: impl IntoIterator<Item = NodeId>, options: Options) -> Self {
        let mut world = Self { options, outbox: usize::MAX, ..Self::default() };
        for node in nodes {
            let disk = Disk::new(HardState::initial(membership.clone()));
            world.nodes.insert(node, Node { disk, replica: None });
        }
        let all: Vec<NodeId> = world.nodes.keys().copied().collect();
        for node in all {
            world.start(node).expect("the node was just made");
        }
        world
    }

    pub fn say(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    pub fn node(&mut self, node: NodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&node).ok_or_else(|| format!("there is no node {node}").into())
    }

    pub fn replica(&mut self, node: NodeId) -> Result<&mut Replica> {
        self.node(node)?.replica.as_mut().ok_or_else(|| format!("node {node} is down").into())
    }

    /// Builds the replica from its disk; its first step is the next one.
    pub fn start(&mut self, node: NodeId) -> Result<()> {
        let mut live: Vec<NodeId> = self.nodes.keys().copied().filter(|n| *n != node).collect();
        live.retain(|n| !self.cut.contains(&(*n, node)));
        let options = self.options.clone();
        let found = self.node(node)?;
        found.replica = Some(Replica::new(node, found.disk.recover(live), options));
        Ok(())
    }

    /// One step, and all that it asks for except time, network and disk.
    pub fn step(&mut self, node: NodeId, input: Input) -> Result<()> {
        let (now, random) = (Micros(self.now), self.random.unwrap_or(node.0 * 10_000));
        let mut out = Vec::new();
        let found = self.node(node)?;
        let replica = found.replica.as_mut().ok_or_else(|| format!("node {node} is down"))?;
        replica.step(&Ctx { now, random, log: &found.disk }, input, &mut out);
        if !out.iter().any(|o| matches!(o, Output::Fatal(_))) {
            replica.check_invariants()?;
        }
        let (mut committed, mut dropped) = (None, BTreeSet::new());
        for output in out {
            let mut line = format!("{node:?} {}", format::output(&output));
            match output {
                Output::Send { to, message } => {
                    if self.cut.contains(&(node, to)) || !self.nodes.contains_key(&to) {
                        line.push_str(" (lost)");
                    } else if self.waiting(node, to) > 0 && self.waiting(node, to) + bytes(&message) > self.outbox {
                        line.push_str(" (no room)");
                        dropped.insert(to);
                    } else {
                        self.links.entry((node, to)).or_default().push_back(message);
                    }
                }
                Output::Persist(write) => self.node(node)?.disk.pending.push_back(write),
                Output::Committed(slot) => committed = Some(slot),
                Output::Fatal(_) => self.failed = true,
                _ => {}
            }
            self.say(&line);
        }
        dropped.into_iter().try_for_each(|to| self.step(node, Input::Dropped { to }))?;
        match committed {
            Some(slot) if !self.manual_apply => self.apply(node, slot),
            _ => Ok(()),
        }
    }

    /// Bytes of entries on their way.
    fn waiting(&self, from: NodeId, to: NodeId) -> usize {
        self.links.get(&(from, to)).map_or(0, |link| link.iter().map(bytes).sum())
    }

    /// Applies what is committed, compares it with what others applied, and tells the replica.
    pub fn apply(&mut self, node: NodeId, upto: Slot) -> Result<()> {
        let found = self.node(node)?;
        let (after, replica) = (found.disk.applied, found.replica.as_ref().ok_or("the node is down")?);
        let entries = replica.entries_to_apply(&found.disk, after, upto, usize::MAX)?;
        found.disk.applied = upto;
        for entry in entries {
            let first = self.applied.entry(entry.id.slot).or_insert_with(|| entry.clone()).clone();
            if first != entry {
                let (ours, theirs) = (format::entry(&entry), format::entry(&first));
                self.say(&format!("{node:?} DIVERGES: applies {ours}, another applied {theirs}"));
                self.failed = true;
            }
        }
        self.step(node, Input::Applied(upto))
    }

    /// Syncs up to `count` writes of a node and confirms the last of them.
    pub fn persist(&mut self, node: NodeId, count: usize) -> Result<bool> {
        let disk = &mut self.node(node)?.disk;
        let mut last: Option<WriteSeq> = None;
        for _ in 0..count {
            last = disk.sync_one().or(last);
        }
        match last {
            Some(seq) => self.step(node, Input::Persisted(seq)).map(|()| true),
            None => Ok(false),
        }
    }

    /// Whether the oldest message of a link has had the time that it needs.
    fn has_arrived(&mut self, link: (NodeId, NodeId)) -> bool {
        let carries = self.links.get(&link).and_then(VecDeque::front).is_some_and(|oldest| bytes(oldest) > 0);
        if self.slow == 0 || !carries {
            return true;
        }
        *self.arrives.entry(link).or_insert(self.now + self.slow) <= self.now
    }

    /// Delivers the oldest message of a link.
    pub fn deliver(&mut self, from: NodeId, to: NodeId) -> Result<bool> {
        self.arrives.remove(&(from, to));
        let Some(message) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return Ok(false) };
        if self.nodes.get(&to).is_some_and(|n| n.replica.is_some()) {
            self.step(to, Input::Message { from, message })?;
        }
        Ok(true)
    }

    /// First steps, writes and messages until nothing moves. Time stands still.
    pub fn stabilize(&mut self) -> Result<()> {
        for _ in 0..2_000 {
            let mut moved = false;
            let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
            for node in nodes {
                let Some(replica) = &self.nodes[&node].replica else { continue };
                if replica.deadline().is_some_and(|at| at.0 <= self.now) {
                    self.step(node, Input::Tick)?;
                    moved = true;
                }
                moved |= self.persist(node, usize::from(u16::MAX))?;
            }
            let links: Vec<(NodeId, NodeId)> = self.links.keys().copied().collect();
            for (from, to) in links {
                if !self.held.contains(&(from, to)) && self.has_arrived((from, to)) {
                    moved |= self.deliver(from, to)?;
                }
            }
            if !moved {
                return Ok(());
            }
        }
        Err(format!("still busy after 2000 rounds:\n{}", self.text.lines().take(40).collect::<Vec<_>>().join("\n"))
            .into())
    }

    /// The earliest deadline at or before `until`, and whose it is.
    pub fn next_deadline(&self, until: u64) -> Option<(u64, NodeId)> {
        let at = |(id, node): (&NodeId, &Node)| node.replica.as_ref()?.deadline().map(|at| (at.0, *id));
        self.nodes.iter().filter_map(at).filter(|(at, _)| *at <= until).min()
    }

    /// Time passes; timers fire. With `network`, messages and writes move as well.
    pub fn advance(&mut self, micros: u64, network: bool) -> Result<()> {
        let until = self.now + micros;
        if network {
            self.stabilize()?;
        }
        for _ in 0..2_000 {
            let timer = self.next_deadline(until);
            let arrival = self.arrives.values().copied().filter(|at| network && *at <= until).min();
            match (timer, arrival) {
                (None, None) => {
                    self.now = until;
                    return Ok(());
                }
                (Some((at, node)), arrival) if arrival.is_none_or(|arrival| at <= arrival) => {
                    self.now = self.now.max(at);
                    self.step(node, Input::Tick)?;
                }
                (_, arrival) => self.now = arrival.unwrap_or(self.now),
            }
            if network {
                self.stabilize()?;
            }
        }
        Err("timers fire without end".into())
    }
}

/// Bytes of a message's entries.
fn bytes(message: &Message) -> usize {
    match message {
        Message::Fetched { entries, .. }
        | Message::Sync { entries, .. }
        | Message::Accept { entries, .. }
        | Message::Learn { entries, .. } => entries.iter().map(Entry::size).sum(),
        _ => 0,
    }
}
