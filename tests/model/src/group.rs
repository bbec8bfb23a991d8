//! The group: nodes, links, and what an environment may do within its bounds.
//!
//! Owns: the model that is searched. Must never: let anything happen that the bounds do not count, or forget what was once
//! called chosen.
//!
//! The environment: messages arrive, in order on each directed link; the log writer syncs what it has; a client proposes; a
//! proposer stands for election; a leader's timers run out; a process ends with any prefix of its unsynced writes on disk,
//! loses what was on its way to it and starts again; a link is cut, losing all that was on it, and is established anew, which
//! both ends learn. Any of these may be delayed for ever.
//!
//! A pre-vote changes nothing that lasts at the voter. So in most models it is the environment's to say that a majority
//! granted them, and their messages are left out; where [`Bounds::pre_votes`] is set they are sent, failure detectors give
//! peers up, and every node's timers may run out.

use crate::bounds::{Bounds, Budget, NODES};
use crate::local::Local;
use crate::paxos::types::{NodeId, Payload};
use crate::tables::{Cause, Effect, Parcel, Tables};
use crate::verdict::Wrong;
use stateright::{Model, Property};
use std::sync::{Mutex, PoisonError};

/// A state of the group, in numbers of [`Tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The nodes.
    pub nodes: [u32; NODES],
    /// What is on its way, by sender and receiver.
    pub links: [[u32; NODES]; NODES],
    /// The longest log that was ever called chosen.
    pub chosen: u32,
    /// What may still happen.
    pub left: Budget,
    /// What is wrong.
    pub wrong: Option<Wrong>,
}

/// One thing that happens; nodes by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The oldest parcel of a link arrives.
    Deliver(u8, u8),
    /// A node's oldest writes are synced, so many.
    Sync(u8, u8),
    /// A node stands for election.
    Elect(u8),
    /// A node's timers run out.
    Tick(u8),
    /// A node hears another no more.
    Unheard(u8, u8),
    /// A leader is given a command.
    Propose(u8),
    /// A leader is given the next membership.
    Change(u8),
    /// A process ends, so many unsynced writes reach the disk, and it starts again.
    Crash(u8, u8),
    /// A link loses what is on it and is established anew.
    Cut(u8, u8),
}

/// The model.
#[derive(Debug)]
pub struct Group {
    /// Its bounds.
    pub bounds: Bounds,
    tables: Mutex<Tables>,
}

impl Group {
    /// A group within bounds.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, tables: Mutex::new(Tables::new()) }
    }

    /// What was numbered so far.
    pub fn look<T>(&self, look: impl FnOnce(&mut Tables) -> T) -> T {
        look(&mut self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes an effect of node `at` into the state, and judges it.
    fn settle(&self, tables: &mut Tables, before: &State, state: &mut State, at: usize, effect: &Effect) {
        state.nodes[at] = effect.node;
        for (to, parcel) in &effect.sends {
            let link = &mut state.links[at][usize::from(*to)];
            *link = tables.push(*link, *parcel);
        }
        state.wrong = effect.wrong;
        if state.wrong.is_some() {
            return;
        }
        let (was, is) = (*tables.brief(before.nodes[at]), *tables.brief(effect.node));
        match tables.join(state.chosen, is.chosen) {
            Ok(chosen) => state.chosen = chosen,
            Err(wrong) => state.wrong = Some(wrong),
        }
        let disks = state.nodes.map(|node| tables.brief(node).disk);
        let moved = state.chosen != before.chosen || is.disk != was.disk;
        if moved && state.wrong.is_none() && !tables.covered(state.chosen, disks, &self.bounds) {
            state.wrong = Some(Wrong::NotOnQuorum);
        }
        if is.commit > was.commit && state.wrong.is_none() && !tables.quorum_has(is.commit, disks, &self.bounds) {
            state.wrong = Some(Wrong::NotOnQuorum);
        }
    }
}

impl Model for Group {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let bounds = &self.bounds;
        self.look(|tables| {
            let start = |index: usize| {
                let me = NodeId(index as u64 + 1);
                tables.node(Local::new(me, &bounds.first, bounds.peers(me), &bounds.options))
            };
            let nodes = [0, 1, 2].map(start);
            vec![State { nodes, links: [[0; NODES]; NODES], chosen: 0, left: bounds.budget, wrong: None }]
        })
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() {
            return;
        }
        let left = &state.left;
        self.look(|tables| {
            for from in 0..NODES {
                for to in (0..NODES).filter(|to| state.links[from][*to] != 0) {
                    actions.push(Action::Deliver(from as u8, to as u8));
                    if left.cuts > 0 {
                        actions.push(Action::Cut(from as u8, to as u8));
                    }
                }
            }
            for at in 0..NODES {
                let brief = tables.brief(state.nodes[at]);
                let node = at as u8;
                if brief.unsynced > 0 {
                    let least = if self.bounds.partial_sync { 1 } else { brief.unsynced };
                    actions.extend((least..=brief.unsynced).map(|count| Action::Sync(node, count)));
                }
                let proposes = self.bounds.proposers.contains(&NodeId(at as u64 + 1));
                if left.elections > 0 && brief.stands && proposes {
                    actions.push(Action::Elect(node));
                }
                if left.deaf > 0 {
                    let peers = (0..NODES).filter(|peer| *peer != at);
                    actions.extend(peers.map(|peer| Action::Unheard(node, peer as u8)));
                }
                if left.ticks > 0 && brief.timer && (brief.leads || self.bounds.pre_votes) {
                    actions.push(Action::Tick(node));
                }
                if left.proposals > 0 && brief.leads && brief.last < self.bounds.slots {
                    actions.push(Action::Propose(node));
                }
                if left.changes > 0 && brief.leads {
                    actions.push(Action::Change(node));
                }
                if left.crashes > 0 {
                    actions.extend((0..=brief.unsynced).map(|kept| Action::Crash(node, kept)));
                }
            }
        });
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        let bounds = &self.bounds;
        self.look(|tables| {
            let (at, cause) = match action {
                Action::Deliver(from, to) => {
                    let (from, to) = (usize::from(from), usize::from(to));
                    let (first, rest) = tables.first(state.links[from][to])?;
                    state.links[from][to] = rest;
                    (to, Cause::parcel(from, first))
                }
                Action::Sync(at, count) => (usize::from(at), Cause::sync(count)),
                Action::Elect(at) => {
                    state.left.elections -= 1;
                    (usize::from(at), if bounds.pre_votes { Cause::STAND } else { Cause::ELECT })
                }
                Action::Tick(at) => {
                    state.left.ticks -= 1;
                    (usize::from(at), Cause::TICK)
                }
                Action::Unheard(at, of) => {
                    state.left.deaf -= 1;
                    (usize::from(at), Cause::unheard(usize::from(of)))
                }
                Action::Propose(at) => {
                    state.left.proposals -= 1;
                    (usize::from(at), Cause::PROPOSE)
                }
                Action::Change(at) => {
                    state.left.changes -= 1;
                    (usize::from(at), Cause::CHANGE)
                }
                Action::Crash(at, kept) => {
                    state.left.crashes -= 1;
                    let at = usize::from(at);
                    let connected = tables.parcels.of(Parcel::Connected);
                    for peer in (0..NODES).filter(|peer| *peer != at) {
                        state.links[peer][at] = 0;
                        state.links[at][peer] = tables.push(state.links[at][peer], connected);
                    }
                    (at, Cause::crash(kept))
                }
                Action::Cut(from, to) => {
                    state.left.cuts -= 1;
                    let (from, to) = (usize::from(from), usize::from(to));
                    let connected = tables.parcels.of(Parcel::Connected);
                    state.links[from][to] = tables.push(0, connected);
                    state.links[to][from] = tables.push(state.links[to][from], connected);
                    return Some(state);
                }
            };
            let effect = tables.effect(state.nodes[at], cause, bounds);
            let refused = !matches!(action, Action::Deliver(..) | Action::Sync(..) | Action::Crash(..));
            if refused && effect.node == state.nodes[at] && effect.sends.is_empty() {
                // Refused, or without effect.
                return None;
            }
            self.settle(tables, last, &mut state, at, &effect);
            Some(state)
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always(Wrong::Agreement.property(), |_, s| s.wrong != Some(Wrong::Agreement)),
            Property::<Self>::always(Wrong::NotOnQuorum.property(), |_, s| s.wrong != Some(Wrong::NotOnQuorum)),
            Property::<Self>::always(Wrong::BehindStopSign.property(), |_, s| s.wrong != Some(Wrong::BehindStopSign)),
            Property::<Self>::always(Wrong::LedTwice.property(), |_, s| s.wrong != Some(Wrong::LedTwice)),
            Property::<Self>::always(Wrong::WentBack.property(), |_, s| s.wrong != Some(Wrong::WentBack)),
            Property::<Self>::always(Wrong::ClaimedEarly.property(), |_, s| s.wrong != Some(Wrong::ClaimedEarly)),
            Property::<Self>::always(Wrong::Failed.property(), |_, s| s.wrong != Some(Wrong::Failed)),
        ];
        if self.bounds.goes_on {
            properties.push(Property::<Self>::always(Wrong::Stuck.property(), Self::goes_on));
        }
        properties.extend(self.reached());
        properties
    }
}

impl Group {
    /// What must happen on some path, so that the rest says something.
    fn reached(&self) -> Vec<Property<Self>> {
        let budget = &self.bounds.budget;
        let mut reached = vec![Property::<Self>::sometimes("an entry is chosen", |_, s| s.chosen != 0)];
        if budget.proposals > 0 {
            reached.push(Property::<Self>::sometimes("a command is chosen", |model, s| {
                model.look(|t| t.logs.get(s.chosen).iter().any(|e| matches!(e.payload, Payload::Command(_))))
            }));
        }
        if budget.elections > 0 {
            reached.push(Property::<Self>::sometimes("a second leader's own entry is chosen", |model, s| {
                model.look(|t| t.logs.get(s.chosen).iter().any(|e| e.id.origin.round > 1))
            }));
        }
        // Where all voters are a majority's worth, an election ends the leader before.
        if budget.elections > 0 && self.bounds.first.voters().count() > 2 {
            reached.push(Property::<Self>::sometimes("two lead at once", |model, s| {
                model.look(|t| s.nodes.iter().filter(|node| t.brief(**node).leads).count() > 1)
            }));
        }
        if budget.elections > 1 {
            reached.push(Property::<Self>::sometimes("a third ballot's entry is chosen", |model, s| {
                model.look(|t| {
                    let mut origins: Vec<_> = t.logs.get(s.chosen).iter().map(|e| e.id.origin).collect();
                    origins.dedup();
                    origins.len() > 2
                })
            }));
        }
        if budget.crashes > 0 {
            reached.push(Property::<Self>::sometimes("who crashed knows the newest entry chosen", |model, s| {
                model.look(|t| {
                    let mut briefs = s.nodes.iter().map(|node| t.brief(*node));
                    briefs.any(|b| b.restarts > 0 && b.chosen == s.chosen && t.logs.get(s.chosen).len() > 1)
                })
            }));
            reached.push(Property::<Self>::sometimes("who crashed leads", |model, s| {
                model.look(|t| s.nodes.iter().map(|node| t.brief(*node)).any(|b| b.restarts > 0 && b.leads))
            }));
        }
        if budget.changes > 0 {
            reached.push(Property::<Self>::sometimes("an entry of the second epoch is chosen", |model, s| {
                model.look(|t| t.logs.get(s.chosen).iter().any(|e| e.id.origin.epoch.0 > 1))
            }));
        }
        reached
    }
}
