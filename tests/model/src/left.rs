//! Two of three nodes are left, and nothing heals: they must choose a command by themselves.
//!
//! Owns: the one continuation that each state is judged by. Must never: count as progress what was chosen before, or help the two in a
//! way that a real driver would not.
//!
//! This is liveness in the form of *bounded reachability*: from every state of the search one fair continuation without faults is
//! taken, and within a bounded number of its steps a fresh command must be chosen. stateright's own `eventually` is not used: it
//! counts a run that comes back to a state, or joins one that was visited, as no counterexample, and every retry of an election
//! does so. So a state from which the two never get on is found; one from which other orders of events delay them for ever is not.
//!
//! In the continuation messages arrive and writes are synced in turn until all is quiet. Then a leader is given a command; without
//! one the timers of one node run out, then those of the other.

use crate::bounds::NODES;
use crate::group::{Group, State};
use crate::tables::{Cause, Tables};

/// How often timers run out until a command has to be chosen.
const TURNS: usize = 24;
/// Messages and syncs until all has to be quiet: more is a storm.
const STEPS: usize = 2_000;

/// The two that are left.
struct Left<'a> {
    group: &'a Group,
    tables: &'a mut Tables,
    pair: [usize; 2],
    state: State,
    sound: bool,
}

impl Group {
    /// Whether any two of the three, the third gone for good, choose a fresh command by themselves: as they are, and after a power
    /// loss behind which one of them may lack the state that a leader serves from.
    pub fn goes_on(&self, state: &State) -> bool {
        if state.wrong.is_some() {
            return true;
        }
        self.look(|tables| {
            [[0, 1], [0, 2], [1, 2]].into_iter().all(|pair| {
                Left::cut_off(self, tables, pair, *state).choose()
                    && [None, Some(0), Some(1)].into_iter().all(|abstains| {
                        let mut left = Left::after_power_loss(self, tables, pair, *state, abstains);
                        let key = (left.state.nodes[pair[0]], left.state.nodes[pair[1]]);
                        if let Some(known) = left.tables.going_on.get(&key) {
                            return *known;
                        }
                        let goes_on = left.choose();
                        left.tables.going_on.insert(key, goes_on);
                        goes_on
                    })
            })
        })
    }
}

impl<'a> Left<'a> {
    /// The third is heard no more; what is on its way between the two arrives.
    fn cut_off(group: &'a Group, tables: &'a mut Tables, pair: [usize; 2], state: State) -> Self {
        let mut left = Self { group, tables, pair, state, sound: true };
        let gone = (0..NODES).find(|node| !pair.contains(node)).unwrap_or_default();
        pair.into_iter().for_each(|at| left.act(at, Cause::unheard(gone)));
        left
    }

    /// Only what is on the two disks is left. The nodes that came back say what they do at once.
    fn after_power_loss(
        group: &'a Group,
        tables: &'a mut Tables,
        pair: [usize; 2],
        state: State,
        abstains: Option<usize>,
    ) -> Self {
        let state = State { links: [[0; NODES]; NODES], ..state };
        let mut left = Self { group, tables, pair, state, sound: true };
        for (number, at) in pair.into_iter().enumerate() {
            left.act(at, Cause::back(pair[1 - number], abstains == Some(number)));
        }
        left
    }

    fn act(&mut self, at: usize, cause: Cause) {
        let effect = self.tables.effect(self.state.nodes[at], cause, &self.group.bounds);
        self.state.nodes[at] = effect.node;
        self.sound &= effect.wrong.is_none();
        for (to, parcel) in &effect.sends {
            let link = &mut self.state.links[at][usize::from(*to)];
            *link = self.tables.push(*link, *parcel);
        }
    }

    /// Messages and syncs in turn until nothing moves; `false` where that does not end.
    fn settle(&mut self) -> bool {
        for _ in 0..STEPS {
            let mut moved = false;
            for (at, from) in [(self.pair[0], self.pair[1]), (self.pair[1], self.pair[0])] {
                let unsynced = self.tables.brief(self.state.nodes[at]).unsynced;
                if unsynced > 0 {
                    self.act(at, Cause::sync(unsynced));
                    moved = true;
                }
                if let Some((first, rest)) = self.tables.first(self.state.links[from][at]) {
                    self.state.links[from][at] = rest;
                    self.act(at, Cause::parcel(from, first));
                    moved = true;
                }
            }
            if !moved {
                return true;
            }
        }
        false
    }

    /// Whether a command that is proposed from now on is chosen, and known so to its leader.
    fn choose(&mut self) -> bool {
        for turn in 0..TURNS {
            if !self.settle() {
                return false;
            }
            let leads = |left: &Self, at: usize| left.tables.brief(left.state.nodes[at]).leads;
            if let Some(leader) = self.pair.into_iter().find(|at| leads(self, *at)) {
                let before = self.tables.brief(self.state.nodes[leader]).last;
                self.act(leader, Cause::PROPOSE);
                let quiet = self.settle();
                let after = *self.tables.brief(self.state.nodes[leader]);
                let chosen = self.tables.logs.get(after.chosen).len() as u64;
                if quiet && after.leads && after.last > before && chosen == after.last {
                    return self.sound;
                }
            }
            let next = self.pair[turn % 2];
            if self.tables.brief(self.state.nodes[next]).timer {
                self.act(next, Cause::TICK);
            }
        }
        false
    }
}
