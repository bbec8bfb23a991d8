//! Everything that was seen once and is known by a number since.
//!
//! Owns: the numbering of node states, messages, queues and chosen logs, and the memory of steps already taken. Must never:
//! give two different things one number: equality is decided by the things themselves, not by a digest.

use crate::bounds::{Bounds, NODES};
use crate::local::{Event, Local};
use crate::paxos::io::RoleKind;
use crate::paxos::message::Message;
use crate::paxos::types::{Entry, Membership, NodeId, Payload};
use crate::verdict::Wrong;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// Numbers things of one kind, from 0.
#[derive(Debug)]
pub struct Numbers<T> {
    things: Vec<Arc<T>>,
    known: HashMap<Arc<T>, u32>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { things: Vec::new(), known: HashMap::new() }
    }
}

impl<T: Eq + Hash> Numbers<T> {
    /// The number of a thing, given to it now where it is new.
    pub fn of(&mut self, thing: T) -> u32 {
        if let Some(number) = self.known.get(&thing) {
            return *number;
        }
        let number = u32::try_from(self.things.len()).expect("fewer than 2^32 things fit memory");
        let thing = Arc::new(thing);
        self.things.push(Arc::clone(&thing));
        self.known.insert(thing, number);
        number
    }

    /// The thing of a number.
    #[must_use]
    pub fn get(&self, number: u32) -> &Arc<T> {
        &self.things[number as usize]
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.things.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.things.is_empty()
    }
}

/// What travels on a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Parcel {
    /// A message of the group.
    Message(Message),
    /// The link was established anew: what follows was sent after that.
    Connected,
}

/// Contents of links; 0 is the empty one.
#[derive(Debug, Default)]
struct Queues {
    known: Numbers<Vec<u32>>,
    /// The first parcel of each and what is behind it; nothing for the empty one.
    split: Vec<Option<(u32, u32)>>,
    longer: QuickMap<(u32, u32), u32>,
}

impl Queues {
    fn number(&mut self, content: Vec<u32>) -> u32 {
        // What is behind the first parcel gets its number before.
        let rest = content.split_first().map(|(first, rest)| (*first, self.number(rest.to_vec())));
        let number = self.known.of(content);
        if self.split.len() < self.known.len() {
            self.split.push(rest);
        }
        number
    }

    fn push(&mut self, queue: u32, parcel: u32) -> u32 {
        if let Some(longer) = self.longer.get(&(queue, parcel)) {
            return *longer;
        }
        let mut content = self.known.get(queue).to_vec();
        content.push(parcel);
        let longer = self.number(content);
        self.longer.insert((queue, parcel), longer);
        longer
    }
}

/// What the group's rules need to know of a node, at hand.
#[derive(Clone, Copy, Debug)]
pub struct Brief {
    /// Unsynced writes.
    pub unsynced: u8,
    /// It believes it leads.
    pub leads: bool,
    /// The round of the ballot it leads, 0 where it does not.
    pub round: u64,
    /// It may stand for election.
    pub stands: bool,
    /// A timer of it is armed.
    pub timer: bool,
    /// The end of its log, staged.
    pub last: u64,
    /// What it calls chosen, staged.
    pub commit: u64,
    /// What it calls chosen and has on disk, as a number of [`Tables::logs`].
    pub chosen: u32,
    /// Its log on disk, likewise.
    pub disk: u32,
    /// How often it was started again.
    pub restarts: u8,
}

/// What an event does to a node: its state then, what it sends, what is wrong.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The node's new number.
    pub node: u32,
    /// Receiver's index and parcel.
    pub sends: Box<[(u8, u32)]>,
    /// The first thing wrong.
    pub wrong: Option<Wrong>,
}

/// What happens to a node, in numbers: the kind, a peer's index or a count, a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    kind: u8,
    detail: u8,
    parcel: u32,
}

impl Cause {
    /// A parcel from the node of this index.
    #[must_use]
    pub fn parcel(from: usize, parcel: u32) -> Self {
        Self { kind: 0, detail: from as u8, parcel }
    }
    /// So many writes are synced.
    #[must_use]
    pub fn sync(count: u8) -> Self {
        Self { kind: 1, detail: count, parcel: 0 }
    }
    /// An election.
    pub const ELECT: Self = Self { kind: 2, detail: 0, parcel: 0 };
    /// An election, pre-votes and all.
    pub const STAND: Self = Self { kind: 7, detail: 0, parcel: 0 };
    /// The node of this index is heard no more.
    #[must_use]
    pub fn unheard(of: usize) -> Self {
        Self { kind: 8, detail: of as u8, parcel: 0 }
    }
    /// Timers run out.
    pub const TICK: Self = Self { kind: 3, detail: 0, parcel: 0 };
    /// A proposal.
    pub const PROPOSE: Self = Self { kind: 4, detail: 0, parcel: 0 };
    /// A change of membership.
    pub const CHANGE: Self = Self { kind: 5, detail: 0, parcel: 0 };
    /// A crash that keeps so many unsynced writes.
    #[must_use]
    pub fn crash(kept: u8) -> Self {
        Self { kind: 6, detail: kept, parcel: 0 }
    }
    /// A return from a power loss: the peer of this index is heard, and nobody else.
    #[must_use]
    pub fn back(peer: usize, abstains: bool) -> Self {
        Self { kind: 9, detail: peer as u8, parcel: u32::from(abstains) }
    }
}

/// The words of the standard library's hash are slow for keys this small.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quick(u64);

impl std::hash::Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

/// Makes [`Quick`].
#[derive(Clone, Copy, Debug, Default)]
pub struct QuickBuilder;

impl BuildHasher for QuickBuilder {
    type Hasher = Quick;
    fn build_hasher(&self) -> Quick {
        Quick::default()
    }
}

/// A map with [`Quick`].
pub type QuickMap<K, V> = HashMap<K, V, QuickBuilder>;

/// All of it.
#[derive(Debug, Default)]
pub struct Tables {
    /// States of one node.
    pub nodes: Numbers<Local>,
    briefs: Vec<Brief>,
    /// Parcels.
    pub parcels: Numbers<Parcel>,
    queues: Queues,
    /// Logs, or prefixes of them; 0 is the empty one.
    pub logs: Numbers<Vec<Entry>>,
    effects: QuickMap<(u32, Cause), Arc<Effect>>,
    joined: QuickMap<(u32, u32), Result<u32, Wrong>>,
    covered: QuickMap<(u32, [u32; NODES]), bool>,
    /// Whether two nodes that came back go on by themselves.
    pub going_on: QuickMap<(u32, u32), bool>,
}

impl Tables {
    /// The tables of a search that has not begun.
    #[must_use]
    pub fn new() -> Self {
        let mut tables = Self::default();
        tables.logs.of(Vec::new());
        tables.queues.number(Vec::new());
        tables
    }

    /// How many steps of a node were taken, each once.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.effects.len()
    }

    /// The number of a node's state.
    pub fn node(&mut self, local: Local) -> u32 {
        let known = self.nodes.len();
        let number = self.nodes.of(local);
        if self.nodes.len() > known {
            let local = Arc::clone(self.nodes.get(number));
            let status = local.replica.status();
            let leads = status.role == RoleKind::Leader;
            let brief = Brief {
                unsynced: local.unsynced.len() as u8,
                leads,
                round: if leads { status.accepted.round } else { 0 },
                stands: matches!(status.role, RoleKind::Follower | RoleKind::Candidate),
                timer: local.replica.deadline().is_some(),
                last: status.last.slot.0,
                commit: status.commit.0,
                chosen: self.logs.of(local.chosen()),
                disk: self.logs.of(local.disk.log.clone()),
                restarts: local.restarts,
            };
            self.briefs.push(brief);
        }
        number
    }

    /// A link's content with one more parcel behind it.
    pub fn push(&mut self, queue: u32, parcel: u32) -> u32 {
        self.queues.push(queue, parcel)
    }

    /// The first parcel of a link and what is behind it.
    #[must_use]
    pub fn first(&self, queue: u32) -> Option<(u32, u32)> {
        self.queues.split[queue as usize]
    }

    /// A node at a glance.
    #[must_use]
    pub fn brief(&self, node: u32) -> &Brief {
        &self.briefs[node as usize]
    }

    /// What `cause` does to `node`; the core takes the step only where it did not before.
    pub fn effect(&mut self, node: u32, cause: Cause, bounds: &Bounds) -> Arc<Effect> {
        if let Some(effect) = self.effects.get(&(node, cause)) {
            return Arc::clone(effect);
        }
        let local = Arc::clone(self.nodes.get(node));
        let event = self.event(cause, bounds);
        let outcome = local.after(event, &bounds.peers(local.me), &bounds.options, bounds.strict);
        let sends = outcome.sends.into_iter().filter(|(to, _)| to.0 as usize <= NODES);
        let sends = sends.map(|(to, message)| (to.0 as u8 - 1, self.parcels.of(Parcel::Message(message)))).collect();
        let effect = Arc::new(Effect { node: self.node(outcome.local), sends, wrong: outcome.wrong });
        self.effects.insert((node, cause), Arc::clone(&effect));
        effect
    }

    fn event(&self, cause: Cause, bounds: &Bounds) -> Event {
        let peer = NodeId(u64::from(cause.detail) + 1);
        match cause.kind {
            0 => match &**self.parcels.get(cause.parcel) {
                Parcel::Message(message) => Event::Message(peer, message.clone()),
                Parcel::Connected => Event::Connected(peer),
            },
            1 => Event::Sync(usize::from(cause.detail)),
            2 => Event::Elect,
            3 => Event::Tick,
            4 => Event::Propose,
            5 => Event::Change(bounds.next.clone().expect("a change is in bounds only where one is named")),
            6 => Event::Crash(usize::from(cause.detail)),
            7 => Event::Stand,
            9 => Event::Return(peer, cause.parcel > 0),
            _ => Event::Unheard(peer),
        }
    }

    /// What is chosen for all, and what one replica calls chosen: the longer of both, where one begins with the other.
    pub fn join(&mut self, all: u32, one: u32) -> Result<u32, Wrong> {
        if all == one || one == 0 {
            return Ok(all);
        }
        if let Some(known) = self.joined.get(&(all, one)) {
            return *known;
        }
        let (ours, theirs) = (self.logs.get(all), self.logs.get(one));
        let joined = if ours.starts_with(theirs) {
            Ok(all)
        } else if !theirs.starts_with(ours) {
            Err(Wrong::Agreement)
        } else if crate::local::behind_stop_sign(theirs) {
            Err(Wrong::BehindStopSign)
        } else {
            Ok(one)
        };
        self.joined.insert((all, one), joined);
        joined
    }

    /// Whether every entry of a log is on the disks of a majority of those who vote on it.
    pub fn covered(&mut self, log: u32, disks: [u32; NODES], bounds: &Bounds) -> bool {
        if log == 0 {
            return true;
        }
        if let Some(known) = self.covered.get(&(log, disks)) {
            return *known;
        }
        let on = disks.map(|disk| Arc::clone(self.logs.get(disk)));
        let holds = quorum_holds(self.logs.get(log), &on, &bounds.first);
        self.covered.insert((log, disks), holds);
        holds
    }

    /// Whether some disk holds `upto` entries that are all on the disks of a majority.
    pub fn quorum_has(&mut self, upto: u64, disks: [u32; NODES], bounds: &Bounds) -> bool {
        disks.iter().any(|disk| {
            let log = Arc::clone(self.logs.get(*disk));
            let Some(prefix) = log.get(..upto as usize) else { return false };
            let prefix = self.logs.of(prefix.to_vec());
            self.covered(prefix, disks, bounds)
        })
    }
}

/// Whether every entry of `log` is at its slot on the disks of a majority of those who vote on it: the members named by the
/// last stop-sign before it.
fn quorum_holds(log: &[Entry], disks: &[Arc<Vec<Entry>>; NODES], first: &Membership) -> bool {
    let mut members = first;
    log.iter().enumerate().all(|(index, entry)| {
        let holds = |node: NodeId| disks[node.0 as usize - 1].get(index) == Some(entry);
        let enough = members.voters().filter(|node| holds(*node)).count() >= members.quorum();
        if let Payload::Config(next) = &entry.payload {
            members = next;
        }
        enough
    })
}
