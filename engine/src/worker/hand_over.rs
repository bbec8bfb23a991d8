//! A shard goes from one worker of the node to another, between rounds.
//!
//! Owns: the shard on its way, and what comes for it meanwhile. Must never: let two workers act for a shard, let a write, a row or a
//! request of it stay with the worker that it leaves, or change the order of what comes for it.
//!
//! **The old worker**, one step after the other, each at the end of a round:
//!
//! 1. It freezes its state while the shard goes on. When that is flushed, there is little left.
//! 2. It freezes again. From that moment on nothing of the shard is applied. When this is flushed, all of the shard's rows are in the
//!    database that the workers share, and none is in this worker's front.
//! 3. What comes for the shard is put aside. What was begun comes to its end: no write of the shard is under way or waits, and its
//!    core has been told of each. So a core hears of its writes from one worker only, and a write cannot overtake an earlier one.
//! 4. In one go: the shard leaves the worker's lists, the node's table ([`Places`](crate::node::Places)) names the new worker, and the
//!    shard is posted to the new worker with all that was kept for it, and behind it what was put aside.
//! 5. The old worker posts a mark to its own inbox. What it takes from there for the shard before the mark it posts on, and for the
//!    mark the word that this was all.
//!
//! **The new worker** has the shard from the moment that it arrives, not from the moment that the table says so: between the two it
//! must not take the shard for one that it is to create. What reaches it directly before the old worker's last word waits, and what
//! the old worker posts on does not. So the order of each sender is kept.
//!
//! **Races.** A sender reads the table and queues an input; the table may change between the two. Then the input is in the old worker's
//! inbox. Before the mark: as above. Behind the mark: it is posted on all the same, and may come behind a later input of the same
//! sender. To a core that is a message that was delayed; it is told of gaps and of what is old by the messages themselves. Of requests no
//! order is promised. The old worker posts on for good, by the table, so a sender may be as late as it likes. Messages between two
//! workers keep their order, since an inbox does.
//!
//! **Time.** What is posted goes through the inbox, so the round that takes it reads its time after it. No core sees its time go back, and
//! no lease is used at a time before the request came.
//!
//! **Rows.** Reads, tails and entries that wait for rows go along, and so does what of the next entry is ready: it is as of what is applied,
//! which does not change on the way. What is fetched comes into the memory that all workers share. The word that it is there names the
//! shard, so it is put aside and posted on like any other input, and never refused.
//!
//! **Peers.** What follows from a peer's message is written down with its mark or behind it: the marks that the old worker has acted on
//! come with the shard and join the new worker's next batch. Which peers are alive each worker hears by itself, at its own time: the
//! shard is told what its new worker knows. To the core that also means that the last it sent may be lost, as where it found no room
//! with the old worker's host.

use super::Worker;
use super::groups::vanished;
use super::holds::HoldsOf;
use super::snapshots::SnapshotsOf;
use crate::host::{HandOverInput, Host, Input, PeerInput};
use crate::identity::Mark;
use crate::logstore::GONE;
use crate::node::{WorkerId, balance};
use crate::shard::Shard;
use crate::state::FlushId;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::refusal::Refusal;
use synod_paxos::io::Input as Step;
use synod_paxos::types::Micros;

/// A shard that has not come to rest after so long stays, µs.
const PATIENCE_MICROS: u64 = 2_000_000;
/// A hand-over under way is looked at so often, µs.
const LOOK_MICROS: u64 = 5_000;
/// An inbox that was full is tried again after so long, µs.
const RETRY_MICROS: u64 = 1_000;
/// What waits for a shard on its way, inputs and bytes at most: beyond that requests are refused and messages dropped.
const LINE_INPUTS: usize = 4096;
const LINE_BYTES: usize = 8 << 20;

/// How far a shard is on its way out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asked,
    /// This freeze is to be flushed first, to leave less to the next.
    Flushing(FlushId),
    /// Nothing of the shard is applied; this freeze is the last with rows of it.
    Still(FlushId),
    /// Nothing new comes to the shard.
    Quiet,
}

/// A shard on its way out.
struct Leaving {
    shard: ShardId,
    to: WorkerId,
    stage: Stage,
    until: Micros,
    /// What came for it since it is quiet.
    aside: Line,
}

/// Inputs that wait for a shard.
#[derive(Default)]
struct Line {
    inputs: VecDeque<Input>,
    bytes: usize,
}

impl Line {
    /// Takes an input, or gives it back where there is no room. What may not be refused is always taken: of that there are few.
    fn push(&mut self, input: Input) -> Option<Input> {
        let bytes = input.bytes();
        let full = self.inputs.len() >= LINE_INPUTS || self.bytes + bytes > LINE_BYTES;
        if full && may_be_refused(&input) {
            return Some(input);
        }
        self.bytes += bytes;
        self.inputs.push_back(input);
        None
    }
}

/// Whether an input may find no room: what a job of this process tells comes once, and somebody waits for it.
fn may_be_refused(input: &Input) -> bool {
    matches!(input, Input::Requests(_) | Input::Peer(_))
}

/// A shard, and what its worker kept for it.
struct Moving {
    shard: Shard,
    /// The marks that the old worker has acted on.
    seen: BTreeMap<NodeId, Mark>,
    /// The peers that it heard.
    heard: BTreeSet<NodeId>,
    changed_members: bool,
    snapshots: SnapshotsOf,
    holds: HoldsOf,
}

/// What one worker posts to another, or to itself.
enum Parcel {
    Shard(Box<Moving>),
    /// An input for a shard that went.
    Late(ShardId, Box<Input>),
    /// To itself: all that came before the shard went was taken.
    Mark {
        shard: ShardId,
        to: WorkerId,
    },
    /// All that came to the old worker before the shard went was posted.
    Rest(ShardId),
}

/// Where an input for a shard is to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    /// To what is put aside for a shard that is about to go.
    Aside,
    /// To what waits for a shard on its way here.
    Line,
    At(WorkerId),
}

/// The way of shards to and from a worker.
pub(super) struct Passage {
    balance_micros: u64,
    balance_at: Micros,
    /// No shard leaves any more.
    keeps_all: bool,
    /// Shards have gone or come: each input is looked at.
    used: bool,
    leaving: Option<Leaving>,
    /// It is here; what the old worker still got is not.
    arriving: Option<ShardId>,
    /// Waits for it.
    line: Line,
    /// Not posted yet, in order.
    parcels: VecDeque<(WorkerId, Input)>,
}

impl Passage {
    /// Of a worker that looks so often for a shard to hand over, µs; never where it is 0.
    pub(super) fn new(balance_micros: u64) -> Self {
        Self {
            balance_micros,
            balance_at: Micros(0),
            keeps_all: false,
            used: false,
            leaving: None,
            arriving: None,
            line: Line::default(),
            parcels: VecDeque::new(),
        }
    }

    /// No shard leaves from now on.
    pub(super) fn keep_all(&mut self) {
        self.keeps_all = true;
    }

    /// Whether a shard waits for the end of what was begun.
    pub(super) fn is_quiet(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.stage == Stage::Quiet)
    }

    /// When it is to be looked at again, after a round at `now`.
    pub(super) fn due(&self, now: Micros) -> Option<Micros> {
        let posts = (!self.parcels.is_empty()).then(|| now.plus(RETRY_MICROS));
        let looks = self.leaving.is_some().then(|| now.plus(LOOK_MICROS));
        posts.or(looks)
    }
}

impl<H: Host> Worker<H> {
    /// Takes one input, or what of it is for shards that are here.
    pub(super) fn take(&mut self, input: Input) {
        if !self.passage.used && self.node.shared.places().are_plain() {
            return self.take_here(input);
        }
        if let Some(input) = self.sort_out(input) {
            self.take_here(input);
        }
    }

    /// What of an input is for shards that are here, or for the node. The rest waits or is posted on.
    fn sort_out(&mut self, input: Input) -> Option<Input> {
        let all_here = match &input {
            Input::Requests(requests) => requests.iter().all(|request| self.place(request.shard) == Place::Here),
            Input::Peer(PeerInput::Messages { messages, .. }) => {
                messages.iter().all(|(shard, _)| self.place(*shard) == Place::Here)
            }
            _ => false,
        };
        if all_here {
            return Some(input);
        }
        match input {
            Input::Requests(requests) => {
                let mut here = Vec::with_capacity(requests.len());
                for request in requests {
                    let (shard, place) = (request.shard, self.place(request.shard));
                    match place {
                        Place::Here => here.push(request),
                        place => self.put(place, shard, Input::Requests(vec![request])),
                    }
                }
                (!here.is_empty()).then_some(Input::Requests(here))
            }
            Input::Peer(PeerInput::Messages { from, incarnation, write_seq, messages }) => {
                let frame = |messages| Input::from(PeerInput::Messages { from, incarnation, write_seq, messages });
                let mut here = Vec::with_capacity(messages.len());
                for (shard, message) in messages {
                    match self.place(shard) {
                        Place::Here => here.push((shard, message)),
                        place => self.put(place, shard, frame(vec![(shard, message)])),
                    }
                }
                (!here.is_empty()).then(|| frame(here))
            }
            input => match input.shard().map(|shard| (shard, self.place(shard))) {
                None | Some((_, Place::Here)) => Some(input),
                Some((shard, place)) => {
                    self.put(place, shard, input);
                    None
                }
            },
        }
    }

    fn place(&self, shard: ShardId) -> Place {
        let goes = |leaving: &Leaving| leaving.shard == shard && leaving.stage == Stage::Quiet;
        if self.passage.leaving.as_ref().is_some_and(goes) {
            return Place::Aside;
        }
        if self.node.has(shard) {
            return if self.passage.arriving == Some(shard) { Place::Line } else { Place::Here };
        }
        match self.node.shared.places().worker_of(shard) {
            worker if worker == self.node.worker => Place::Line,
            worker => Place::At(worker),
        }
    }

    fn put(&mut self, place: Place, shard: ShardId, input: Input) {
        let passage = &mut self.passage;
        let left = match place {
            Place::Here => return self.take_here(input),
            Place::Aside => match &mut passage.leaving {
                Some(leaving) => leaving.aside.push(input),
                None => Some(input),
            },
            Place::Line => passage.line.push(input),
            Place::At(_) if passage.parcels.len() >= LINE_INPUTS && may_be_refused(&input) => Some(input),
            Place::At(to) => {
                self.post(to, Parcel::Late(shard, Box::new(input)));
                None
            }
        };
        // Messages are dropped as by a full inbox: their sender finds that out and sends again.
        if let Some(Input::Requests(requests)) = left {
            for request in requests {
                self.node.metrics.overloaded_total.inc();
                request.reply.send(Err(Refusal::Overloaded));
            }
        }
    }

    fn post(&mut self, to: WorkerId, parcel: Parcel) {
        self.passage.parcels.push_back((to, HandOverInput::Parcel(Box::new(parcel)).into()));
        self.send_parcels();
    }

    /// Posts what waits, as far as there is room.
    pub(super) fn send_parcels(&mut self) {
        while let Some((to, input)) = self.passage.parcels.pop_front() {
            if let Err(input) = self.node.shared.post(to, input) {
                self.passage.parcels.push_front((to, input));
                return;
            }
        }
    }

    /// Takes what another worker posted.
    pub(super) fn take_parcel(&mut self, parcel: Box<dyn Any + Send>) {
        // Nobody else makes any.
        let Ok(parcel) = parcel.downcast::<Parcel>() else { return };
        self.passage.used = true;
        match *parcel {
            Parcel::Shard(moving) => self.arrives(*moving),
            Parcel::Late(shard, input) => {
                // It came before all that waits here.
                let place = match self.place(shard) {
                    Place::Line if self.node.has(shard) => Place::Here,
                    place => place,
                };
                self.put(place, shard, *input);
            }
            Parcel::Mark { shard, to } => self.post(to, Parcel::Rest(shard)),
            Parcel::Rest(shard) => {
                if self.passage.arriving == Some(shard) {
                    self.passage.arriving = None;
                }
                for input in std::mem::take(&mut self.passage.line).inputs {
                    self.take(input);
                }
                self.node.shared.end_hand_over();
            }
        }
    }

    /// Hands a shard to another worker, where it can go.
    pub(super) fn hand_over(&mut self, shard: ShardId, to: WorkerId) {
        let others = to != self.node.worker && to.0 < self.node.shared.workers();
        let may = others && shard != SYSTEM_SHARD && self.takes_part() && !self.passage.keeps_all;
        if !may || !self.may_leave(shard) || !self.node.shared.begin_hand_over() {
            return;
        }
        self.passage.used = true;
        let until = self.node.now.plus(PATIENCE_MICROS);
        self.passage.leaving = Some(Leaving { shard, to, stage: Stage::Asked, until, aside: Line::default() });
    }

    fn may_leave(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(Shard::may_leave) && !self.snapshots.is_busy(shard)
    }

    /// Brings a hand-over on, at the end of a round.
    pub(super) fn keep_hand_over(&mut self) {
        let Some(mut leaving) = self.passage.leaving.take() else { return };
        if leaving.until <= self.node.now || self.passage.keeps_all || !self.may_leave(leaving.shard) {
            return self.stay(leaving);
        }
        leaving.stage = match leaving.stage {
            Stage::Asked if planted!(HandedOverUnflushed) => Stage::Quiet,
            Stage::Asked => self.freeze_beside().map_or(Stage::Asked, Stage::Flushing),
            Stage::Flushing(id) if self.is_flushed(id) => match self.freeze_beside() {
                Some(id) => {
                    self.stand_still(leaving.shard);
                    Stage::Still(id)
                }
                None => Stage::Flushing(id),
            },
            Stage::Still(id) if self.is_flushed(id) => Stage::Quiet,
            stage => stage,
        };
        if leaving.stage == Stage::Quiet && self.is_at_rest(leaving.shard) {
            return self.let_go(leaving);
        }
        self.passage.leaving = Some(leaving);
    }

    fn stand_still(&mut self, shard: ShardId) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.stand_still(!planted!(HandedOverApplies));
        }
    }

    /// Whether nothing that was begun for a shard is under way.
    fn is_at_rest(&self, id: ShardId) -> bool {
        let writes = self.node.writer.is_writing(id) && !planted!(HandedOverMidWrite);
        !writes && !self.held_back && self.shards.get(&id).is_some_and(Shard::is_at_rest)
    }

    /// The shard goes.
    fn let_go(&mut self, leaving: Leaving) {
        let Leaving { shard: id, to, aside, .. } = leaving;
        let Some(mut shard) = self.shards.remove(&id) else { return self.node.shared.end_hand_over() };
        if planted!(HandedOverMidWrite)
            && let Some(seq) = self.node.writer.last_under_way(id)
        {
            shard.step(&mut self.node, Step::Persisted(seq));
        }
        shard.leave(&mut self.node);
        // What it sends from there comes behind what it sent from here.
        self.node.host.flush(self.node.writer.durable());
        let (waiting, tails) = shard.waiting();
        self.node.waiting = self.node.waiting.saturating_sub(waiting);
        self.node.tails = self.node.tails.saturating_sub(tails);
        let moving = Moving {
            shard,
            seen: self.seen.clone(),
            heard: self.node.live.clone(),
            changed_members: self.node.changed_members.remove(&id),
            snapshots: self.snapshots.take_of(id),
            holds: self.holds.take_of(id),
        };
        self.node.metrics.shards_handed_over_total.inc();
        tracing::debug!(shard = id.0, from = self.node.worker.0, to = to.0, "a shard is handed to another worker");
        self.node.set_has(id, false);
        self.node.shared.places().set(id, to);
        self.post(to, Parcel::Shard(Box::new(moving)));
        for input in aside.inputs {
            self.post(to, Parcel::Late(id, Box::new(input)));
        }
        self.post(self.node.worker, Parcel::Mark { shard: id, to });
    }

    /// The shard does not go.
    fn stay(&mut self, leaving: Leaving) {
        self.node.shared.end_hand_over();
        if let Some(shard) = self.shards.get_mut(&leaving.shard) {
            shard.stand_still(false);
            shard.schedule(&mut self.node);
        }
        for input in leaving.aside.inputs {
            self.take(input);
        }
    }

    /// A shard that is about to go stays.
    pub(super) fn abandon_hand_over(&mut self) {
        if let Some(leaving) = self.passage.leaving.take() {
            self.stay(leaving);
        }
    }

    /// The worker has stopped: nobody is left without an answer.
    pub(super) fn end_passage(&mut self) {
        self.abandon_hand_over();
        for input in std::mem::take(&mut self.passage.line).inputs {
            self.take_here(input);
        }
        for (_, input) in std::mem::take(&mut self.passage.parcels) {
            let Input::HandOver(HandOverInput::Parcel(parcel)) = input else { continue };
            match parcel.downcast::<Parcel>().map(|parcel| *parcel) {
                Ok(Parcel::Shard(mut moving)) => moving.shard.answer_all(&mut self.node, &Refusal::NotReady),
                Ok(Parcel::Late(_, input)) => self.take_here(*input),
                _ => {}
            }
        }
    }

    /// A shard comes.
    fn arrives(&mut self, moving: Moving) {
        let Moving { mut shard, seen, heard, changed_members, snapshots, holds } = moving;
        let id = shard.id();
        // The front lets go of maps that are flushed. One may be from when the shard was here before: the rows in it are older than what
        // the other worker wrote since.
        let flushed = self.node.store.flushed();
        self.node.must(flushed);
        self.node.set_has(id, true);
        self.passage.arriving = Some(id);
        for (node, mark) in seen {
            self.note_mark(node, mark);
        }
        let (waiting, tails) = shard.waiting();
        self.node.waiting += waiting;
        self.node.tails += tails;
        if changed_members {
            self.node.changed_members.insert(id);
        }
        self.snapshots.put_of(id, snapshots);
        self.holds.put_of(id, holds);
        shard.speak(self.node.consensus_version());
        let refusal = match &self.quarantined {
            Some(why) => Some(Refusal::Quarantined(why.clone())),
            None => self.stopped.then_some(Refusal::NotReady),
        };
        if let Some(why) = &refusal {
            shard.answer_all(&mut self.node, why);
        }
        self.shards.insert(id, shard);
        if refusal.is_some() {
            return;
        }
        self.hold_log(id);
        // The map may have changed while it was on its way.
        if let Some(map) = self.map.clone() {
            let left = self.shards.get(&id).and_then(|shard| shard.left(self.node.me, &map));
            let gone = vanished(&map, id).then_some(GONE);
            if let Some(upto) = gone.or(left) {
                return self.remove(id, upto);
            }
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.arrive(&mut self.node, &heard);
        }
    }

    /// Hands a shard to the least busy worker, where this one has much more to do.
    pub(super) fn balance(&mut self) {
        let (now, interval) = (self.node.now, self.passage.balance_micros);
        let (shared, worker) = (Arc::clone(&self.node.shared), self.node.worker);
        if interval == 0 || self.passage.balance_at > now || shared.workers() == 1 {
            return;
        }
        self.passage.balance_at = now.plus(interval);
        let handled: Vec<(ShardId, u64)> =
            self.shards.iter_mut().map(|(id, shard)| (*id, shard.take_handled())).collect();
        let own = handled.iter().map(|(_, inputs)| *inputs).sum::<u64>();
        shared.loads.set(worker, i64::try_from(own).unwrap_or(i64::MAX));
        if let Some((shard, to)) = balance::choose(&shared.loads.all(), worker, &handled) {
            self.hand_over(shard, to);
        }
    }
}
