//! What comes for shards that go from one worker of the node to another.
//!
//! Owns: where each input goes meanwhile, what waits, and what is not posted yet. Must never: change the order of what comes for a shard,
//! keep more of it than its bounds say, or leave a request without an answer. How a shard itself goes: `hand_over`.

use super::Worker;
use super::holds::HoldsOf;
use super::snapshots::SnapshotsOf;
use crate::host::{HandOverInput, Host, Input, PeerInput};
use crate::identity::Mark;
use crate::node::WorkerId;
use crate::shard::Shard;
use crate::state::FlushId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use synod_cluster::ids::{NodeId, NodeWriteSeq, ShardId};
use synod_cluster::refusal::Refusal;
use synod_paxos::types::Micros;

/// Interval between looks at a hand-over under way, µs.
const LOOK_US: u64 = 5_000;
/// Time after which an inbox that was full is tried again, µs.
const RETRY_US: u64 = 1_000;
/// Longest pause before the next hand-over after one that came to nothing, µs.
const PAUSE_MAX_US: u64 = 300_000_000;
/// Most inputs that wait for a shard on its way, and most that wait to be posted. Beyond that, requests are refused and messages are
/// dropped.
const QUEUE_INPUTS: usize = 4096;
/// Most bytes of each.
const QUEUE_BYTES: usize = 8 << 20;

/// How far a shard is on its way out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Asked,
    /// The first freeze is being flushed while the shard goes on. It leaves few rows to the second.
    Flushing(FlushId),
    /// The second freeze, the last with rows of the shard, is being flushed. Nothing of the shard is applied.
    Still(FlushId),
    /// All rows of the shard are flushed. New inputs for it are put aside.
    Quiet,
}

/// A shard on its way out.
pub(super) struct Leaving {
    pub(super) shard: ShardId,
    pub(super) to: WorkerId,
    /// Its inputs in the last interval of balance; 0 where nobody looked.
    pub(super) load: u64,
    pub(super) stage: Stage,
    pub(super) until: Micros,
    /// What came for it since then; it goes along.
    pub(super) aside: WaitQueue,
}

/// Inputs that wait for a shard.
#[derive(Default)]
pub(super) struct WaitQueue {
    pub(super) inputs: VecDeque<Input>,
    bytes: usize,
}

impl WaitQueue {
    /// Takes an input, or gives it back where there is no room. What may not be refused is always taken: of that there are few.
    fn push(&mut self, input: Input) -> Option<Input> {
        let bytes = input.bytes();
        if is_full(self.inputs.len(), self.bytes + bytes) && may_be_refused(&input) {
            return Some(input);
        }
        self.bytes += bytes;
        self.inputs.push_back(input);
        None
    }
}

/// Inputs that wait to be posted to another worker, or to this one, in order.
#[derive(Default)]
pub(super) struct Outbox {
    inputs: VecDeque<(WorkerId, Input)>,
    bytes: usize,
}

impl Outbox {
    /// Whether there is no room for so many bytes more.
    fn is_full(&self, bytes: usize) -> bool {
        is_full(self.inputs.len(), self.bytes + bytes)
    }

    fn push(&mut self, to: WorkerId, input: Input) {
        self.bytes += input.bytes();
        self.inputs.push_back((to, input));
    }

    fn pop(&mut self) -> Option<(WorkerId, Input)> {
        let (to, input) = self.inputs.pop_front()?;
        self.bytes -= input.bytes();
        Some((to, input))
    }

    /// It is the first again.
    fn put_back(&mut self, to: WorkerId, input: Input) {
        self.bytes += input.bytes();
        self.inputs.push_front((to, input));
    }
}

/// Whether a queue of so many inputs takes no more where it would then hold so many bytes.
fn is_full(inputs: usize, bytes: usize) -> bool {
    inputs >= QUEUE_INPUTS || bytes > QUEUE_BYTES
}

/// Whether an input may find no room: what a job of this process tells comes once, and somebody waits for it.
fn may_be_refused(input: &Input) -> bool {
    matches!(input, Input::Requests(_) | Input::Peer(_))
}

/// A shard, and what its worker kept for it.
pub(super) struct Moving {
    pub(super) shard: Shard,
    /// The last write of the node that the old worker knew to be durable: what the shard says rests on writes up to this one.
    pub(super) durable: NodeWriteSeq,
    /// The marks that the old worker has acted on.
    pub(super) seen: BTreeMap<NodeId, Mark>,
    /// The peers that it heard.
    pub(super) heard: BTreeSet<NodeId>,
    pub(super) changed_members: bool,
    pub(super) changed_bounds: bool,
    pub(super) snapshots: SnapshotsOf,
    pub(super) holds: HoldsOf,
}

/// What one worker posts to another, or to itself.
pub(super) enum Parcel {
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
pub(super) enum Place {
    Here,
    /// The shard is about to leave: the input waits with those put aside.
    Aside,
    /// The shard is on its way here: the input waits for it.
    Wait,
    At(WorkerId),
}

/// The way of shards to and from a worker.
pub(super) struct Passage {
    /// Interval between looks at the balance, µs; never where it is 0.
    pub(super) balance_us: u64,
    pub(super) balance_at: Micros,
    /// Balance begins no hand-over before.
    pub(super) resume_at: Micros,
    /// How long the last pause was, µs.
    pause_us: u64,
    /// No more shards leave.
    pub(super) keeps_all: bool,
    /// Shards have gone or come: each input is looked at.
    pub(super) used: bool,
    pub(super) leaving: Option<Leaving>,
    /// It is here; what the old worker still got is not.
    pub(super) arriving: Option<ShardId>,
    /// Waits for it.
    pub(super) waiting: WaitQueue,
    /// Not posted yet.
    parcels: Outbox,
}

impl Passage {
    /// Of a worker that looks for a shard to hand over every `balance_us` µs; never where it is 0.
    pub(super) fn new(balance_us: u64) -> Self {
        Self {
            balance_us,
            balance_at: Micros(0),
            resume_at: Micros(0),
            pause_us: 0,
            keeps_all: false,
            used: false,
            leaving: None,
            arriving: None,
            waiting: WaitQueue::default(),
            parcels: Outbox::default(),
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
        let posts = (!self.parcels.inputs.is_empty()).then(|| now.plus(RETRY_US));
        let looks = self.leaving.is_some().then(|| now.plus(LOOK_US));
        posts.or(looks)
    }

    /// A shard did not go. The next attempts may fail for the same reason, and each one holds a shard up.
    pub(super) fn pause(&mut self, now: Micros) {
        self.pause_us = self.pause_us.max(self.balance_us).saturating_mul(2).min(PAUSE_MAX_US);
        self.resume_at = now.plus(self.pause_us);
    }

    /// A shard went.
    pub(super) fn went(&mut self) {
        (self.pause_us, self.resume_at) = (0, Micros(0));
    }
}

impl<H: Host> Worker<H> {
    /// Takes one input, or what of it is for shards that are here.
    pub(super) fn take(&mut self, input: Input) {
        if !self.passage.used && self.node.shared.places().follow_the_rule() {
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

    pub(super) fn place(&self, shard: ShardId) -> Place {
        let goes = |leaving: &Leaving| leaving.shard == shard && leaving.stage == Stage::Quiet;
        if self.passage.leaving.as_ref().is_some_and(goes) {
            return Place::Aside;
        }
        // Those that are here need no look at what the workers share.
        if self.shards.contains_key(&shard) || self.node.has(shard) {
            return if self.passage.arriving == Some(shard) { Place::Wait } else { Place::Here };
        }
        match self.node.shared.places().worker_of(shard) {
            worker if worker == self.node.worker => Place::Wait,
            worker => Place::At(worker),
        }
    }

    pub(super) fn put(&mut self, place: Place, shard: ShardId, input: Input) {
        if self.stopped {
            // Whoever it would go to may have stopped too: here it is answered.
            return self.take_here(input);
        }
        let passage = &mut self.passage;
        let left = match place {
            Place::Here => return self.take_here(input),
            Place::Aside => match &mut passage.leaving {
                Some(leaving) => leaving.aside.push(input),
                None => Some(input),
            },
            Place::Wait => passage.waiting.push(input),
            Place::At(_) if may_be_refused(&input) && passage.parcels.is_full(input.bytes()) => Some(input),
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

    pub(super) fn post(&mut self, to: WorkerId, parcel: Parcel) {
        // What a shard holds is counted where it is held.
        let bytes = if let Parcel::Late(_, input) = &parcel { input.bytes() } else { 0 };
        self.passage.parcels.push(to, HandOverInput::Parcel { parcel: Box::new(parcel), bytes }.into());
        self.send_parcels();
    }

    /// Posts what waits, as far as there is room.
    pub(super) fn send_parcels(&mut self) {
        while let Some((to, input)) = self.passage.parcels.pop() {
            if let Err(input) = self.node.shared.post(to, input) {
                return self.passage.parcels.put_back(to, input);
            }
        }
    }

    /// The worker has stopped: nobody is left without an answer.
    pub(super) fn end_passage(&mut self) {
        self.abandon_hand_over();
        for input in std::mem::take(&mut self.passage.waiting).inputs {
            self.take_here(input);
        }
        while let Some((_, input)) = self.passage.parcels.pop() {
            let Input::HandOver(HandOverInput::Parcel { parcel, .. }) = input else { continue };
            match parcel.downcast::<Parcel>().map(|parcel| *parcel) {
                Ok(Parcel::Shard(mut moving)) => moving.shard.answer_all(&mut self.node, &Refusal::NotReady),
                Ok(Parcel::Late(_, input)) => self.take_here(*input),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_each_hand_over_that_came_to_nothing_balance_rests_twice_as_long_until_one_succeeds() {
        let mut passage = Passage::new(5_000_000);
        let mut rests = Vec::new();
        for n in 1..=8u64 {
            let now = Micros(n * 1_000_000_000);
            passage.pause(now);
            rests.push((passage.resume_at.0 - now.0) / 1_000_000);
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 300, 300, 300]);
        passage.went();
        assert_eq!(passage.resume_at, Micros(0));
        passage.pause(Micros(0));
        assert_eq!(passage.resume_at, Micros(10_000_000));
    }
}
