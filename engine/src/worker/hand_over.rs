//! A shard goes from one worker of the node to another, between rounds.
//!
//! Owns: the steps of a shard's way, and which shard goes. Must never: let two workers act for a shard, or let a write, a row or a
//! request of it stay with the worker that it leaves. What comes for it meanwhile: `passage`.
//!
//! **The old worker** takes these steps, each at the end of a round:
//!
//! 1. It freezes its state. The shard goes on meanwhile. Once this freeze is flushed, few rows are left in memory.
//! 2. It freezes again. From then on it applies nothing of the shard. Once this freeze is flushed, all rows of the shard are in the
//!    database that the workers share, and none is in this worker's front.
//! 3. It puts new inputs for the shard aside, and waits until no write of the shard is under way and the core knows of each. So a core
//!    learns of its writes from one worker only, and no write overtakes an earlier one.
//! 4. It takes the shard out of its own lists and names the new worker in the node's table ([`Places`](crate::node::Places)). It posts
//!    the shard, with all that it kept for it, to the new worker, and then the inputs that it put aside.
//! 5. It posts a mark to its own inbox. Inputs for the shard that are ahead of the mark it posts on to the new worker. When it meets the
//!    mark it posts its last word: there was no more.
//!
//! **The new worker** has the shard from its arrival on, whatever the table says. Otherwise it might take the shard for one that it has to
//! create. Inputs that reach it directly wait until the old worker's last word. Inputs that the old worker posts on do not wait. So each
//! sender's order is kept.
//!
//! **Races.** The table may change between a sender's look at it and its input. That input is then in the old worker's inbox. Ahead of
//! the mark it is handled as above. After the mark it is posted on too, and a later input of the same sender may overtake it. To a core that
//! is a delayed message, and messages say themselves what they follow. Requests have no promised order. The old worker never stops posting on,
//! so a sender may be as late as it likes. Messages between two workers keep their order, since an inbox does.
//!
//! **Children.** A child of a split begins with its parent's worker, whatever the rule says. The worker that the rule names must not take
//! the child for its own: what a sender posts there, early or late, would find no replica and be lost. So the table remembers such children.
//! A child may go there later. Then that worker has it from its arrival on, as any shard that is handed over.
//!
//! **Time.** Whatever is posted goes through an inbox. A round reads its time after it has taken its inputs. So a core never sees time go back,
//! and no lease is used at a time before the request came.
//!
//! **Rows.** Reads, tails and entries that wait for rows go along. So does what is ready of the next entry, since it depends on what is applied, and
//! that does not change on the way. Fetched rows are in the memory that all workers share. The word that they are there names the shard. It
//! is posted on like any other input, and never refused.
//!
//! **Durable writes.** A message tells the last write of the node that its worker knows to be durable, and must never tell less than it
//! rests on. An idle worker learns of other workers' writes late. So the shard brings along what its old worker knew.
//!
//! **Peers.** The mark of a peer is written down with or before what follows from its message. So the marks that the old worker acted on come
//! with the shard and join the new worker's next batch. Each worker learns by itself which peers are alive. The shard is told what its new
//! worker knows. To the core this also means that its last messages may be lost, as happens when a host has no room for them.

use super::Worker;
use super::passage::{Leaving, Moving, Parcel, Place, Stage, WaitQueue};
use crate::host::Host;
use crate::node::{WorkerId, balance};
use crate::shard::Shard;
use std::any::Any;
use std::sync::Arc;
use synod_cluster::ids::{SYSTEM_SHARD, ShardId};
use synod_cluster::refusal::Refusal;
use synod_paxos::io::Input as Step;
use synod_paxos::types::Micros;

/// Time after which a shard whose first freeze is not flushed stays, µs. It goes on meanwhile.
const PATIENCE_US: u64 = 2_000_000;
/// Maximum time for which nothing of a shard is applied, µs: a shard that has not left by then stays.
const STILL_US: u64 = 300_000;
/// Interval at which an idle worker makes a round and tells its load, µs.
const IDLE_ROUND_US: u64 = 1_000_000;

impl<H: Host> Worker<H> {
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
                    Place::Wait if self.node.has(shard) => Place::Here,
                    place => place,
                };
                self.put(place, shard, *input);
            }
            Parcel::Mark { shard, to } => self.post(to, Parcel::Rest(shard)),
            Parcel::Rest(shard) => {
                if self.passage.arriving == Some(shard) {
                    self.passage.arriving = None;
                }
                for input in std::mem::take(&mut self.passage.waiting).inputs {
                    self.take(input);
                }
                self.node.shared.end_hand_over();
            }
        }
    }

    /// Hands a shard, which had so many inputs in the last interval of balance, to another worker, where it can go.
    pub(super) fn hand_over(&mut self, shard: ShardId, to: WorkerId, load: u64) {
        let others = to != self.node.worker && to.0 < self.node.shared.workers();
        let may = others && shard != SYSTEM_SHARD && self.takes_part() && !self.passage.keeps_all;
        if !may || !self.may_leave(shard) || !self.node.shared.begin_hand_over() {
            return;
        }
        self.passage.used = true;
        let until = self.node.now.plus(PATIENCE_US);
        self.passage.leaving =
            Some(Leaving { shard, to, load, stage: Stage::Asked, until, aside: WaitQueue::default() });
    }

    fn may_leave(&self, shard: ShardId) -> bool {
        let Some(leaving) = self.shards.get(&shard) else { return false };
        // One that goes into another waits here until it has: it may go to where that is.
        let kept = self.custody.has(shard) && leaving.goes_into().is_none();
        let bound = self.snapshots.is_busy(shard) || self.scrubs.is_busy(shard) || self.bears(shard) || kept;
        // The neighbour that goes into a shard comes to it, not the other way.
        !bound && leaving.merge().is_none() && leaving.may_leave()
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
                    leaving.until = self.node.now.plus(STILL_US);
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
        let Some(mut shard) = self.shards.remove(&leaving.shard) else { return self.stay(leaving) };
        let Leaving { shard: id, to, load, aside, .. } = leaving;
        if planted!(HandedOverMidWrite)
            && let Some(seq) = self.node.writer.last_under_way(id)
        {
            shard.step(&mut self.node, Step::Persisted(seq));
        }
        shard.leave(&mut self.node);
        // What it sends from there comes after what it sent from here.
        self.node.host.flush(self.node.writer.durable());
        let (waiting, tails) = shard.waiting();
        self.node.waiting = self.node.waiting.saturating_sub(waiting);
        self.node.tails = self.node.tails.saturating_sub(tails);
        let moving = Moving {
            shard,
            durable: self.node.writer.durable(),
            seen: self.seen.clone(),
            heard: self.node.live.clone(),
            changed_members: self.node.changed_members.remove(&id),
            changed_bounds: self.node.changed_bounds.remove(&id).is_some(),
            snapshots: self.snapshots.take_of(id),
            holds: self.holds.take_of(id),
        };
        self.upkeep.forget(id);
        self.node.shared.loads.moved(self.node.worker, to, load);
        self.passage.went();
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
        self.passage.pause(self.node.now);
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

    /// A shard comes.
    fn arrives(&mut self, moving: Moving) {
        let Moving { mut shard, durable, seen, heard, changed_members, changed_bounds, snapshots, holds } = moving;
        let id = shard.id();
        // The front lets go of maps that are flushed. One may be from when the shard was here before: the rows in it are older than what
        // the other worker wrote since.
        let flushed = self.node.store.flushed();
        self.node.must(flushed);
        self.node.set_has(id, true);
        self.passage.arriving = Some(id);
        // What it told before the shard came does not count it: the next time it tells of a whole interval with it.
        self.passage.balance_at = self.node.now.plus(self.passage.balance_us);
        self.node.writer.raise_durable(durable);
        for (node, mark) in seen {
            self.note_mark(node, mark);
        }
        let (waiting, tails) = shard.waiting();
        self.node.waiting += waiting;
        self.node.tails += tails;
        if changed_members {
            self.node.changed_members.insert(id);
        }
        if changed_bounds {
            self.node.changed_bounds.insert(id, self.node.now);
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
        if self.passage.keeps_all {
            // The node drains: this worker may have had nothing left to lead.
            self.drain();
        }
        self.hold_log(id);
        self.note_part(id);
        // The map may have changed while it was on its way.
        if let Some(upto) = self.ended(id) {
            return self.give_up(id, upto);
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.arrive(&mut self.node, &heard);
        }
    }

    /// Hands a shard to the least busy worker, where this one has much more to do.
    pub(super) fn balance(&mut self) {
        let (now, interval) = (self.node.now, self.passage.balance_us);
        let (shared, worker) = (Arc::clone(&self.node.shared), self.node.worker);
        if interval == 0 || self.passage.balance_at > now || shared.workers() == 1 {
            return;
        }
        self.passage.balance_at = now.plus(interval);
        let handled: Vec<(ShardId, u64)> =
            self.shards.iter_mut().map(|(id, shard)| (*id, shard.take_handled())).collect();
        let own = handled.iter().map(|(_, inputs)| *inputs).sum::<u64>();
        shared.loads.set(worker, own, now);
        // More flushes, on their own, are what a store that lags needs least.
        if self.passage.resume_at > now || self.node.pace.was_slowed() {
            return;
        }
        let oldest = Micros(now.0.saturating_sub(2 * interval.max(IDLE_ROUND_US)));
        let Some((shard, to)) = balance::choose(&shared.loads.since(oldest), worker, &handled) else { return };
        let load = handled.iter().find(|(id, _)| *id == shard).map_or(0, |(_, inputs)| *inputs);
        self.hand_over(shard, to, load);
    }
}
