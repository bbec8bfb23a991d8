//! One node: the real replica, its disk, its unsynced writes.
//!
//! Owns: the driver's side of the core's contract, for one node. Must never: reach into the replica other than through its
//! public contract, or let a write reach the disk out of order.

use crate::paxos::Replica;
use crate::paxos::io::{Ctx, Input, LogReader, Options, Output, Persist, Recovered, RoleKind};
use crate::paxos::message::Message;
use crate::paxos::types::{
    Ballot, Entry, EntryId, HardState, Membership, Micros, NodeId, Payload, Run, Slot, WriteSeq,
};
use crate::verdict::Wrong;
use bytes::Bytes;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// When every armed timer is due.
pub const DUE: Micros = Micros(1 << 40);
/// When ticks happen: behind every deadline, and long behind what was sent last.
pub const LATE: Micros = Micros(1 << 50);
/// When everything else happens: before every deadline.
pub const EARLY: Micros = Micros(0);

/// What is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    /// The hard state.
    pub hard: HardState,
    /// Every entry from slot 1 on.
    pub log: Vec<Entry>,
}

/// A node of the group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// Its number.
    pub me: NodeId,
    /// The core, in normal form.
    pub replica: Replica,
    /// What a crash leaves.
    pub disk: Disk,
    /// What it may take, oldest first.
    pub unsynced: VecDeque<Persist>,
    /// Every ballot that was led here, in any life.
    pub led: Vec<Ballot>,
    /// How often it was started again.
    pub restarts: u8,
}

/// What happens to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A message arrives.
    Message(NodeId, Message),
    /// The link from a peer was established anew.
    Connected(NodeId),
    /// The failure detector gives a peer up.
    Unheard(NodeId),
    /// The log writer syncs its oldest writes, so many.
    Sync(usize),
    /// It stands for election, a majority's pre-votes granted.
    Elect,
    /// It stands for election and asks for pre-votes.
    Stand,
    /// All armed timers run out.
    Tick,
    /// A client proposes a command.
    Propose,
    /// An operator changes the membership.
    Change(Membership),
    /// The process ends; this many unsynced writes reached the disk. It starts again.
    Crash(usize),
    /// It comes back from a power loss that took all unsynced writes, and hears this peer alone. It may lack the state that a leader
    /// serves from.
    Return(NodeId, bool),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The node then.
    pub local: Local,
    /// What it sends, in order.
    pub sends: Vec<(NodeId, Message)>,
    /// The first thing that went wrong.
    pub wrong: Option<Wrong>,
}

/// Reads a log as the core asks for it.
pub struct Reader<'a>(pub &'a [Entry]);

impl LogReader for Reader<'_> {
    fn entries(&self, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, String> {
        let (from, upto) = (from.0 as usize, upto.0 as usize);
        if upto > self.0.len() {
            return Err(format!("entries up to {upto} of a log of {}", self.0.len()));
        }
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let before = bytes;
            bytes += entry.size();
            before <= max_bytes
        };
        Ok(self.0[from..upto].iter().take_while(fits).cloned().collect())
    }
}

impl Disk {
    fn last(&self) -> EntryId {
        self.log.last().map_or(EntryId::ZERO, |entry| entry.id)
    }

    /// What a restart reads back.
    pub fn recover(&self, live: Vec<NodeId>) -> Recovered {
        let mut runs: Vec<Run> = Vec::new();
        for entry in &self.log {
            if runs.last().is_none_or(|run| run.origin != entry.id.origin) {
                runs.push(Run { first: entry.id.slot, origin: entry.id.origin });
            }
        }
        let last_ts = self.log.last().map_or(0, |entry| entry.ts);
        let hard = self.hard.clone();
        Recovered { hard, trimmed: EntryId::ZERO, runs, last: self.last(), last_ts, applied: Slot(0), live }
    }

    /// Makes one write durable.
    ///
    /// # Errors
    /// What the write does wrong.
    pub fn write(&mut self, write: Persist) -> Result<(), Wrong> {
        if let Some(from) = write.truncate_from {
            self.log.truncate(from.0 as usize - 1);
        }
        for entry in write.append {
            if self.last().slot.next() != entry.id.slot {
                return Err(Wrong::Failed);
            }
            self.log.push(entry);
        }
        if behind_stop_sign(&self.log) {
            return Err(Wrong::BehindStopSign);
        }
        if let Some(hard) = write.hard {
            let back = hard.promised < self.hard.promised
                || hard.accepted < self.hard.accepted
                || hard.membership.epoch < self.hard.membership.epoch;
            self.hard = hard;
            if back {
                return Err(Wrong::WentBack);
            }
        }
        Ok(())
    }

    /// Whether what a message claims is on this disk.
    fn bears_out(&self, message: &Message) -> bool {
        let last = self.last().slot;
        match message {
            // The log that a promise describes was durable with it, and may have given way to what was learnt since.
            Message::Prepare { ballot, .. }
            | Message::Promise { ballot, .. }
            | Message::Sync { ballot, .. }
            | Message::Accept { ballot, .. } => self.hard.promised >= *ballot,
            Message::Accepted { ballot, upto, .. } => self.hard.accepted >= *ballot && last >= *upto,
            Message::Learned { commit, .. } => last >= *commit,
            _ => true,
        }
    }
}

/// Whether an entry stands behind a stop-sign though it is of that sign's epoch.
pub fn behind_stop_sign(log: &[Entry]) -> bool {
    let mut least = 0;
    log.iter().any(|entry| {
        let behind = entry.id.origin.epoch.0 < least;
        if let Payload::Config(next) = &entry.payload {
            least = next.epoch.0;
        }
        behind
    })
}

impl Local {
    /// A node of a new group, having taken its first step.
    pub fn new(me: NodeId, membership: &Membership, peers: Vec<NodeId>, options: &Options) -> Self {
        let disk = Disk { hard: HardState::initial(membership.clone()), log: Vec::new() };
        let replica = Replica::new(me, disk.recover(peers), options.clone());
        let mut local = Self { me, replica, disk, unsynced: VecDeque::new(), led: Vec::new(), restarts: 0 };
        let mut step = Step { sends: Vec::new(), wrong: None, strict: true };
        step.feed(&mut local, Input::Tick, EARLY);
        local.replica.canonicalise(DUE);
        local
    }

    /// What comes of an event. `strict` judges what messages claim; without it only what comes of such claims is.
    pub fn after(&self, event: Event, peers: &[NodeId], options: &Options, strict: bool) -> Outcome {
        let attempt = AssertUnwindSafe(|| {
            let mut local = self.clone();
            let mut step = Step { sends: Vec::new(), wrong: None, strict };
            step.happen(&mut local, event, peers, options);
            local.replica.canonicalise(DUE);
            Outcome { local, sends: step.sends, wrong: step.wrong }
        });
        // A panic of the core is a verdict on it; nothing of the state it was in is used.
        catch_unwind(attempt).unwrap_or_else(|_| Outcome {
            local: self.clone(),
            sends: Vec::new(),
            wrong: Some(Wrong::Failed),
        })
    }

    /// The entries that are chosen and durable here, which may be applied.
    pub fn chosen(&self) -> Vec<Entry> {
        let upto = self.replica.status().committed_durable;
        let entries = self.replica.entries_to_apply(&Reader(&self.disk.log), Slot(0), upto, usize::MAX);
        let mut entries = entries.unwrap_or_default();
        if entries.len() < upto.0 as usize {
            // It stops at the border between the store and memory.
            let after = Slot(entries.len() as u64);
            let rest = self.replica.entries_to_apply(&Reader(&self.disk.log), after, upto, usize::MAX);
            entries.extend(rest.unwrap_or_default());
        }
        assert_eq!(entries.len() as u64, upto.0, "what is committed can be applied");
        entries
    }
}

struct Step {
    sends: Vec<(NodeId, Message)>,
    wrong: Option<Wrong>,
    strict: bool,
}

impl Step {
    fn happen(&mut self, local: &mut Local, event: Event, peers: &[NodeId], options: &Options) {
        match event {
            Event::Message(from, message) => self.feed(local, Input::Message { from, message }, EARLY),
            Event::Connected(node) => self.feed(local, Input::PeerLiveness { node, alive: true }, EARLY),
            Event::Unheard(node) => self.feed(local, Input::PeerLiveness { node, alive: false }, EARLY),
            Event::Sync(count) => {
                self.write(local, count);
                self.feed(local, Input::Persisted(WriteSeq(count as u64)), EARLY);
            }
            Event::Elect => self.elect(local),
            Event::Stand => self.stand(local),
            Event::Tick => self.feed(local, Input::Tick, LATE),
            Event::Propose => {
                let commands = vec![(0, Bytes::from_static(b"c"))];
                self.feed(local, Input::Propose { commands }, EARLY);
            }
            Event::Change(membership) => self.feed(local, Input::ChangeConfig { membership, ts: 0 }, EARLY),
            Event::Crash(kept) => {
                self.write(local, kept);
                local.unsynced.clear();
                local.restarts += 1;
                local.replica = Replica::new(local.me, local.disk.recover(peers.to_vec()), options.clone());
                self.feed(local, Input::Tick, EARLY);
            }
            Event::Return(peer, abstains) => {
                local.unsynced.clear();
                let replica = Replica::new(local.me, local.disk.recover(vec![peer]), options.clone());
                local.replica = if abstains { replica.abstaining() } else { replica };
                self.feed(local, Input::Tick, EARLY);
            }
        }
    }

    /// The oldest `count` writes reach the disk.
    fn write(&mut self, local: &mut Local, count: usize) {
        for write in local.unsynced.drain(..count) {
            if let Err(wrong) = local.disk.write(write) {
                self.blame(wrong);
            }
        }
    }

    /// A pre-vote changes nothing at the voter, so that it is granted is the environment's to say: its messages are not
    /// sent, the answer is given.
    fn elect(&mut self, local: &mut Local) {
        let before = self.sends.len();
        self.stand(local);
        let asked = self.sends.drain(before..).collect::<Vec<_>>();
        for (to, message) in asked {
            match message {
                Message::PreVote { ballot, .. } if local.replica.status().role == RoleKind::Candidate => {
                    let message = Message::PreVoteGranted { ballot };
                    self.feed(local, Input::Message { from: to, message }, EARLY);
                }
                Message::PreVote { .. } => {}
                message => self.sends.push((to, message)),
            }
        }
    }

    /// Its election timer runs out, or that of its campaign.
    fn stand(&mut self, local: &mut Local) {
        match local.replica.status().role {
            RoleKind::Candidate => self.feed(local, Input::Tick, LATE),
            _ => self.feed(local, Input::Campaign, EARLY),
        }
    }

    /// One step of the core, and what it asks for.
    fn feed(&mut self, local: &mut Local, input: Input, now: Micros) {
        let led = local.replica.is_leader().then(|| local.replica.status().accepted);
        let mut outputs = Vec::new();
        let ctx = Ctx { now, random: 0, log: &Reader(&local.disk.log) };
        local.replica.step(&ctx, input, &mut outputs);
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    if self.strict && !local.disk.bears_out(&message) {
                        self.blame(Wrong::ClaimedEarly);
                    }
                    self.sends.push((to, message));
                }
                Output::Persist(write) => local.unsynced.push_back(Persist { seq: WriteSeq(0), ..write }),
                Output::Fatal(_) => self.blame(Wrong::Failed),
                Output::RoleChanged { role: RoleKind::Leader, ballot, .. } if led != Some(ballot) => {
                    if local.led.contains(&ballot) {
                        self.blame(Wrong::LedTwice);
                    }
                    local.led.push(ballot);
                }
                _ => {}
            }
        }
        if local.replica.check_invariants().is_err() {
            self.blame(Wrong::Failed);
        }
    }

    fn blame(&mut self, wrong: Wrong) {
        self.wrong.get_or_insert(wrong);
    }
}
