//! One schedule: the nodes, the clock and the agenda.
//!
//! Owns: the world's state and the loop that takes one event after another. Must never: step a replica other than through
//! [`World::step_replica`], which judges every step.

use super::clock::Clock;
use super::coverage::{Coverage, Glimpse};
use super::dice::Dice;
use super::disk::Disk;
use super::events::{Agenda, Event};
use super::network::Network;
use super::observer::{Disks, Observer, Speaker};
use super::plan::{ClockFault, DiskFault, Plan, Planted};
use super::trace::{self, Trace};
use super::violation::{Check, Violation};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use synod_paxos::Replica;
use synod_paxos::io::{Ctx, Input, Refused};
use synod_paxos::types::{Ballot, EntryId, HardState, Member, MemberRole, Membership, NodeId, ReadId, Slot, WriteSeq};

/// One process, running or not.
pub struct Node {
    /// How often it has started; 0 for never.
    pub boot: u64,
    /// The replica, while the process runs.
    pub replica: Option<Replica>,
    /// Its clock.
    pub clock: Clock,
    /// Applied in memory.
    pub applied: Slot,
    /// Reported as committed to this life.
    pub committed: Slot,
    /// Up to where it may trim.
    pub trim_to: Slot,
    /// The next tick on the agenda.
    pub tick_at: Option<u64>,
    /// Ticks in a row without time passing.
    pub idle_ticks: u64,
    /// A sync is under way.
    pub syncing: bool,
    /// When the last completion on the agenda is due: completions keep their order.
    pub persisted_at: u64,
    /// The last write it was told is durable.
    pub told: WriteSeq,
    /// An application is under way.
    pub applying: bool,
    /// Its disk hangs until then.
    pub hangs_until: u64,
    /// It is paused until then.
    pub paused_until: u64,
    /// When its replica took its last step, and its last one before that time: what comes at one time is one round.
    pub stepped: (u64, u64),
    /// The latest time that it has read.
    pub has_read: u64,
    /// What it was last told of each peer.
    pub hears: BTreeMap<NodeId, bool>,
    /// Its open reads, each with the slot that it must reach and the greatest ballot led when it was asked for.
    pub reads: BTreeMap<ReadId, (Slot, Ballot)>,
    /// Gone for good.
    pub retired: bool,
    /// It lacks the state that a leader serves from, in all lives to come.
    pub abstains: bool,
    /// Disks that a crash may bring back, where the explorer plants that.
    pub old_disks: VecDeque<Disk>,
}

/// How far the second phase has come.
#[derive(Default)]
pub struct Finish {
    /// Voters that stay apart for now.
    pub absent: BTreeSet<NodeId>,
    /// The fresh writes that were taken.
    pub fresh: Vec<EntryId>,
    /// Where a read was served since.
    pub served: BTreeSet<NodeId>,
    /// Every present member has applied a fresh write, and has served a read.
    pub done: bool,
}

impl Finish {
    /// A read was served at `id`.
    pub fn served(&mut self, id: NodeId) {
        self.served.insert(id);
    }
}

/// The answers of one step to the driver's own request.
#[derive(Default)]
pub struct Carried {
    /// First slot and ballot of what was proposed.
    pub proposed: Option<(Slot, Ballot)>,
    /// Refusals, with the read that was refused where it was one.
    pub refused: Vec<(Refused, Option<ReadId>)>,
}

/// A schedule under way.
pub struct World {
    /// The only source of chance.
    pub dice: Dice,
    /// What the schedule is like.
    pub plan: Plan,
    /// Virtual time, µs.
    pub now: u64,
    /// Events so far.
    pub step: u64,
    /// The processes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Their disks, which outlive them.
    pub disks: Disks,
    /// What will happen.
    pub agenda: Agenda,
    /// The links.
    pub network: Network,
    /// Who sees everything.
    pub observer: Observer,
    /// What was reached.
    pub coverage: Coverage,
    /// What happened.
    pub trace: Trace,
    /// Messages that may be echoed.
    pub echoes: VecDeque<(NodeId, NodeId, synod_paxos::message::Message)>,
    /// Commands proposed so far.
    pub commands: u64,
    /// Commands of the step under way.
    pub in_flight: Vec<bytes::Bytes>,
    /// Reads asked so far.
    pub reads: u64,
    /// The second phase, once it has begun.
    pub finish: Option<Finish>,
    /// The members of the first epoch.
    pub first: Membership,
}

impl World {
    /// The world of `seed`.
    pub fn new(seed: u64, planted: Planted, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let plan = Plan::choose(&mut dice, planted);
        let members = (1..=plan.voters).map(|n| Member { node: NodeId(n), role: MemberRole::Voter }).collect();
        let first_leader = NodeId(dice.between(1, plan.voters));
        let first = Membership { epoch: synod_paxos::types::Epoch(1), members, first_leader };
        let mut world = Self {
            dice,
            now: 0,
            step: 0,
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            agenda: Agenda::default(),
            network: Network::default(),
            observer: Observer::new(first.clone(), planted.disk != DiskFault::None),
            coverage: Coverage::default(),
            trace,
            echoes: VecDeque::new(),
            commands: 0,
            in_flight: Vec::new(),
            reads: 0,
            finish: None,
            first,
            plan,
        };
        for id in (1..=world.plan.voters + world.plan.spares).map(NodeId) {
            world.disks.insert(id, Disk::new(HardState::initial(world.first.clone())));
            world.nodes.insert(id, Node::down());
        }
        world
    }

    /// Runs the schedule to its end.
    pub fn run(&mut self) -> Check {
        self.trace.line(|| format!("first epoch {}", trace::members(&self.first)));
        for id in (1..=self.plan.voters).map(NodeId) {
            let at = self.dice.below(2_000);
            self.agenda.add(at, Event::Start(id));
        }
        self.agenda.add(0, Event::Act);
        while self.step < self.plan.steps {
            self.next_event()?;
        }
        self.finish()
    }

    /// Takes one event; whether there was one.
    pub fn next_event(&mut self) -> Result<bool, Violation> {
        let Some((at, event)) = self.agenda.pop() else { return Ok(false) };
        if let Some((node, until)) = self.postponed(&event) {
            self.trace.line(|| format!("  t={at} {node:?} is paused"));
            // Which of what waits is taken first is open: reads are, as no answer is later than theirs.
            let behind = u64::from(!matches!(event, Event::Ask { .. }));
            self.agenda.add(until + behind, event);
            self.now = self.now.max(at);
            return Ok(true);
        }
        self.now = self.now.max(at);
        self.step += 1;
        self.happen(event)?;
        Ok(true)
    }

    /// A paused process does nothing; what comes for it waits.
    fn postponed(&self, event: &Event) -> Option<(NodeId, u64)> {
        let id = match event {
            Event::Deliver { to, .. } => *to,
            Event::Persisted { node, .. } | Event::Tick { node, .. } | Event::Apply { node, .. } => *node,
            Event::Liveness { at, .. } => *at,
            Event::Ask { node, .. } => *node,
            _ => return None,
        };
        let until = self.nodes.get(&id)?.paused_until;
        (until > self.now).then_some((id, until))
    }

    fn happen(&mut self, event: Event) -> Check {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Sync { node, boot } if self.lives(node, boot) => self.sync(node),
            Event::Persisted { node, boot, seq } if self.lives(node, boot) => self.persisted(node, seq),
            Event::Tick { node, boot } if self.lives(node, boot) => self.tick(node),
            Event::Apply { node, boot } if self.lives(node, boot) => self.apply(node),
            Event::Ask { node, boot, read, came } if self.lives(node, boot) => self.ask(node, read, came),
            Event::Sync { .. } | Event::Persisted { .. } | Event::Tick { .. } | Event::Apply { .. } => Ok(()),
            Event::Ask { .. } => Ok(()),
            Event::Strike(strike) if self.finish.is_none() => self.strike(strike),
            Event::Strike(_) => Ok(()),
            Event::Liveness { at, of, reconnected } => self.look(at, of, reconnected),
            Event::Heal(links) => {
                self.heal(&links);
                Ok(())
            }
            Event::Start(node) => self.start(node),
            Event::Install { from, to } => self.install(from, to),
            Event::Act => {
                let (low, high) = self.plan.act;
                let wait = self.dice.between(low, high);
                self.agenda.add(self.now + wait, Event::Act);
                self.act()
            }
            Event::Dropped { node, boot, to } if self.lives(node, boot) => {
                self.step_replica(node, Input::Dropped { to }).map(|_| ())
            }
            Event::Dropped { .. } => Ok(()),
            Event::Probe => self.probe(),
        }
    }

    /// Whether `boot` is the running life of `node`.
    pub fn lives(&self, node: NodeId, boot: u64) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.boot == boot && n.replica.is_some())
    }

    /// Whether `node` runs.
    pub fn runs(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.replica.is_some())
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, n)| n.replica.is_some()).map(|(id, _)| *id).collect()
    }

    /// The nodes that believe they lead.
    pub fn leaders(&self) -> Vec<NodeId> {
        let leads = |n: &Node| n.replica.as_ref().is_some_and(Replica::is_leader);
        self.nodes.iter().filter(|(_, n)| leads(n)).map(|(id, _)| *id).collect()
    }

    /// A running node, or a violation: the caller has checked.
    pub fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, Violation> {
        self.nodes.get_mut(&id).ok_or_else(|| Violation::new("harness: a node exists", format!("{id:?}")))
    }

    /// Takes one step of one replica, carries out what it asks for, and judges it.
    pub fn step_replica(&mut self, id: NodeId, input: Input) -> Result<Carried, Violation> {
        self.step_replica_at(id, input, self.now)
    }

    /// The same by a time that was read earlier, at world time `read`.
    pub fn step_replica_at(&mut self, id: NodeId, input: Input, read: u64) -> Result<Carried, Violation> {
        let random = self.dice.word();
        let now = self.now;
        let early = self.plan.planted.clock == ClockFault::ReadEarly;
        let node =
            self.nodes.get_mut(&id).ok_or_else(|| Violation::new("harness: a node exists", format!("{id:?}")))?;
        let (boot, clock) = (node.boot, node.clock);
        let Some(replica) = node.replica.as_mut() else { return Ok(Carried::default()) };
        if node.stepped.0 < now {
            node.stepped = (now, node.stepped.0);
        }
        let asks = matches!(input, Input::ReadIndex(_));
        let read = if early && asks { node.stepped.1 } else { read.max(node.has_read) };
        node.has_read = node.has_read.max(read);
        let disk = &self.disks[&id];
        let before = Glimpse::of(&input, &replica.status(), disk.log.reads());
        if self.trace.on() {
            let what = match &input {
                Input::Message { from, message } => format!("{from:?} says {}", trace::message(message)),
                other => format!("{other:?}"),
            };
            self.trace.line(|| format!("{} t={now} {id:?}: {what}", self.step));
        }
        let mut outputs = Vec::new();
        let ctx = Ctx { now: clock.shows(read), random, log: &disk.log };
        replica.step(&ctx, input, &mut outputs);
        for output in &outputs {
            self.trace.line(|| format!("      {id:?} {}", trace::output(output)));
        }
        let status = replica.status();
        let checked = replica.check_invariants();
        self.coverage.stepped(id, &before, &status, &outputs, disk.log.reads());
        checked.map_err(|why| Violation::new("the replica's own invariants", format!("{id:?}: {why}")))?;
        let speaker = Speaker { node: id, boot, epoch: status.membership.epoch, promised: status.promised };
        let carried = self.carry_out(speaker, outputs, &status)?;
        self.observer.stands(speaker, &status, &self.disks)?;
        self.schedule_tick(id)?;
        Ok(carried)
    }

    /// Puts a replica's deadline on the agenda.
    pub fn schedule_tick(&mut self, id: NodeId) -> Check {
        let late = self.dice.below(300);
        let now = self.now;
        let node = self.node_mut(id)?;
        let (boot, clock) = (node.boot, node.clock);
        let Some(deadline) = node.replica.as_ref().and_then(Replica::deadline) else {
            node.tick_at = None;
            return Ok(());
        };
        let due = clock.world(deadline).max(now);
        if node.tick_at.is_none_or(|at| at < now || at > due + 300) {
            node.tick_at = Some(due + late);
            self.agenda.add(due + late, Event::Tick { node: id, boot });
        }
        Ok(())
    }

    fn tick(&mut self, id: NodeId) -> Check {
        let now = self.now;
        let node = self.node_mut(id)?;
        if node.tick_at == Some(now) {
            node.tick_at = None;
        }
        let clock = node.clock;
        let Some(deadline) = node.replica.as_ref().and_then(Replica::deadline) else { return Ok(()) };
        if deadline > clock.shows(now) {
            return self.schedule_tick(id);
        }
        self.step_replica(id, Input::Tick)?;
        let node = self.node_mut(id)?;
        let again = node.replica.as_ref().and_then(Replica::deadline).is_some_and(|d| d <= clock.shows(now));
        node.idle_ticks = if again { node.idle_ticks + 1 } else { 0 };
        if node.idle_ticks > 50 {
            return Err(Violation::new(
                "idle groups cost nothing",
                format!("{id:?} asks for a tick at once, again and again"),
            ));
        }
        Ok(())
    }

    fn persisted(&mut self, id: NodeId, seq: WriteSeq) -> Check {
        let node = self.node_mut(id)?;
        if seq <= node.told {
            return Ok(());
        }
        node.told = seq;
        self.step_replica(id, Input::Persisted(seq)).map(|_| ())
    }

    /// Nodes that were members of any chosen epoch.
    pub fn ever_members(&self) -> BTreeSet<NodeId> {
        self.observer.memberships().flat_map(|m| m.members.iter().map(|member| member.node)).collect()
    }
}

impl Node {
    /// A process that has never run.
    pub fn down() -> Self {
        Self {
            boot: 0,
            replica: None,
            clock: Clock::default(),
            applied: Slot(0),
            committed: Slot(0),
            trim_to: Slot(0),
            tick_at: None,
            idle_ticks: 0,
            syncing: false,
            persisted_at: 0,
            told: WriteSeq(0),
            applying: false,
            hangs_until: 0,
            paused_until: 0,
            stepped: (0, 0),
            has_read: 0,
            hears: BTreeMap::new(),
            reads: BTreeMap::new(),
            retired: false,
            abstains: false,
            old_disks: VecDeque::new(),
        }
    }
}
