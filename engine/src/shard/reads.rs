//! Reads on their way to an answer.
//!
//! Owns: reads that wait for the leadership to be confirmed, for a slot to be applied, or (tails) for something to be
//! committed; and as of when the state here is known to be complete. Must never: answer a linearizable read from a state older
//! than the slot the core named for it, a stale one from a state not known to be complete as of its age, tell a tail that
//! there is nothing new from a state not known to be complete as of when its wait began, or answer one that was asked of other bounds
//! than the shard has by then.
//!
//! Every slot that the core names tells: all that was acknowledged before the question left stands at or below it. A stale read
//! is served by the last such word while that is young enough, and asks for a new one where it is not. So the age is measured
//! by one monotone clock, the answering node's, and no assumption is made about wall clocks; a replica that hears no leader
//! still serves reads up to the age of the last word.
//!
//! A shard that is split while a read waits no longer has all that was asked of it. A scan would end early as if there were no more, and a
//! tail would be told that there is nothing new in a range that is the child's by then, whose records its client would never get. So
//! each read keeps the version of the bounds that it was asked of, and is refused in any other.

use super::cold::{Fetches, refuse_full};
use super::load::count_tail;
use super::{Asked, Shard, answer};
use crate::StoreError;
use crate::host::{Freshness, Host, Read, Reply, TailPoll};
use crate::load::Load;
use crate::machine::ShardState;
use crate::query;
use crate::round::Node;
use std::collections::VecDeque;
use synod_cluster::ids::Slot;
use synod_cluster::refusal::Refusal;
use synod_paxos::io::Input;
use synod_paxos::types::{Micros, ReadId};

/// Tails that may wait at one shard: each is looked at whenever something was applied there.
const TAILS_MAX: usize = 4096;
/// The longest a tail waits, µs.
const TAIL_WAIT_US: u64 = 60_000_000;
/// The longest a read waits for its slot to be applied, µs: a replica that is cut off would gather them.
const APPLY_WAIT_US: u64 = 1_000_000;

struct WaitingTail {
    until: Micros,
    poll: TailPoll,
    /// As that of [`Asked`].
    version: u64,
    reply: Reply,
}

impl WaitingTail {
    /// It is about to be answered, as any request is.
    fn ends<H: Host>(self, node: &mut Node<H>) -> Self {
        node.tails = node.tails.saturating_sub(1);
        node.waiting += 1;
        self
    }
}

/// The reads of one shard that wait.
#[derive(Default)]
pub(super) struct Reads {
    /// Of this round, not yet asked about.
    queued: Vec<Asked>,
    /// Asked about.
    asked: VecDeque<Question>,
    /// When the newest question left that was answered, and the slot it got.
    complete: Option<(Micros, Slot)>,
    /// Confirmed, waiting for their slot; the first to give up first.
    ready: Vec<Ready>,
    tails: Vec<WaitingTail>,
    /// The earliest end of a tail's time.
    tails_until: Option<Micros>,
    /// Something was applied since the tails were looked at.
    moved: bool,
}

struct Question {
    /// The core's name for it.
    id: ReadId,
    left: Micros,
    reads: Vec<Asked>,
}

struct Ready {
    slot: Slot,
    until: Micros,
    reads: Vec<Asked>,
}

impl Reads {
    /// When the next read's or tail's time is up.
    pub(super) fn deadline(&self) -> Option<Micros> {
        let ready = self.ready.first().map(|ready| ready.until);
        [self.tails_until, ready].into_iter().flatten().min()
    }

    /// How many wait, save tails that wait for news and what waits for rows.
    pub(super) fn waiting(&self) -> usize {
        let asked = self.asked.iter().map(|question| question.reads.len()).sum::<usize>();
        let ready = self.ready.iter().map(|ready| ready.reads.len()).sum::<usize>();
        self.queued.len() + asked + ready
    }

    /// Tails that wait for news.
    pub(super) fn tails(&self) -> usize {
        self.tails.len()
    }

    /// Something was applied, or rows that tails lacked are in memory.
    pub(super) fn state_moved(&mut self) {
        self.moved = true;
    }

    /// The core confirmed these reads as of `slot`.
    pub(super) fn ready(&mut self, reads: &[ReadId], slot: Slot, now: Micros) {
        let (ready, asked) = self.asked.drain(..).partition(|question| reads.contains(&question.id));
        self.asked = asked;
        let ready: VecDeque<Question> = ready;
        for Question { left, reads, .. } in ready {
            self.complete = self.complete.max(Some((left, slot)));
            self.wait_for_slot(slot, reads, now);
        }
    }

    fn wait_for_slot(&mut self, slot: Slot, reads: Vec<Asked>, now: Micros) {
        self.ready.push(Ready { slot, until: now.plus(APPLY_WAIT_US), reads });
    }

    /// The slot that all stands at or below which was acknowledged by `since`, where a question that left later told.
    fn complete_as_of(&self, since: Micros) -> Option<Slot> {
        self.complete.filter(|(left, _)| *left > since || planted!(AgeIgnored)).map(|(_, slot)| slot)
    }

    /// Keeps a read for a question that leaves later than `since`: the last one, or the next.
    fn wait_for_word(&mut self, since: Micros, asked: Asked) {
        match self.asked.back_mut().filter(|question| question.left > since) {
            Some(question) => question.reads.push(asked),
            None => self.queued.push(asked),
        }
    }

    /// The core refused a question.
    pub(super) fn refuse<H: Host>(&mut self, node: &mut Node<H>, id: ReadId, why: &Refusal) {
        if let Some(at) = self.asked.iter().position(|question| question.id == id)
            && let Some(question) = self.asked.remove(at)
        {
            for asked in question.reads {
                answer(node, asked.reply, Err(why.clone()));
            }
        }
    }

    /// Refuses reads whose time is up, and gives tails of which the end is to be told from what is applied here.
    pub(super) fn expire<H: Host>(&mut self, node: &mut Node<H>, applied: Slot) -> Vec<Asked> {
        let late = self.ready.partition_point(|ready| ready.until <= node.now);
        for asked in self.ready.drain(..late).flat_map(|ready| ready.reads) {
            answer(node, asked.reply, Err(Refusal::NotLeader { leader: None, maybe: false }));
        }
        if self.tails_until.is_none_or(|until| until > node.now) {
            return Vec::new();
        }
        let tails = std::mem::take(&mut self.tails).into_iter();
        let (ended, waiting): (Vec<WaitingTail>, Vec<WaitingTail>) = tails.partition(|tail| tail.until <= node.now);
        self.tails = waiting;
        self.tails_until = self.tails.iter().map(|tail| tail.until).min();
        ended.into_iter().filter_map(|tail| self.end_wait(node, applied, tail)).collect()
    }

    /// The end of a tail's time. That there is nothing new must be known, and no older than the wait: from here where the last
    /// word of the leader says so, else from a question to it. A replica that is cut off gets none, and its client moves on.
    fn end_wait<H: Host>(&mut self, node: &mut Node<H>, applied: Slot, tail: WaitingTail) -> Option<Asked> {
        let WaitingTail { mut poll, version, reply, .. } = tail.ends(node);
        let since = Micros(node.now.0.saturating_sub(poll.wait_us));
        poll.wait_us = 0;
        let asked = Asked { read: Read::Tail(poll), version, reply };
        match self.complete_as_of(since) {
            Some(slot) if slot <= applied => return Some(asked),
            Some(slot) => self.wait_for_slot(slot, vec![asked], node.now),
            None => self.wait_for_word(since, asked),
        }
        None
    }

    /// Whether a question must be asked.
    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Refuses everything that waits.
    pub(super) fn refuse_all<H: Host>(&mut self, node: &mut Node<H>, why: &Refusal) {
        let asked = self.asked.drain(..).map(|question| question.reads);
        let waiting = asked.chain(self.ready.drain(..).map(|ready| ready.reads)).flatten().chain(self.queued.drain(..));
        let tails = self.tails.drain(..).map(|tail| tail.ends(node).reply);
        let replies: Vec<Reply> = waiting.map(|asked| asked.reply).chain(tails).collect();
        self.tails_until = None;
        for reply in replies {
            answer(node, reply, Err(why.clone()));
        }
    }

    /// Gives waiting tails what was applied since they last looked. One whose rows are in no memory waits on, and looks again once
    /// they were fetched.
    fn feed_tails<H: Host>(&mut self, node: &mut Node<H>, state: &ShardState, fetches: &mut Fetches, load: &mut Load) {
        if !std::mem::take(&mut self.moved) || self.tails.is_empty() {
            return;
        }
        let mut firsts = query::Firsts::default();
        node.store.stay_in_memory(fetches.tails_stay(node));
        for mut tail in std::mem::take(&mut self.tails) {
            if tail.reply.sink.is_full() {
                let tail = tail.ends(node);
                refuse_full(node, tail.reply);
                continue;
            }
            if tail.version != state.descriptor().version {
                let tail = tail.ends(node);
                answer(node, tail.reply, Err(Refusal::WrongShard));
                continue;
            }
            let found = query::tail(state, &mut *node.store, &mut firsts, &tail.poll);
            match found {
                Ok(Some(found)) => {
                    if let Ok(found) = &found {
                        count_tail(load, node.now, found);
                    }
                    let tail = tail.ends(node);
                    answer(node, tail.reply, found);
                }
                Ok(None) => {
                    looked_through(state, &mut tail.poll);
                    self.tails.push(tail);
                }
                Err(StoreError::Cold(_)) => self.tails.push(tail),
                Err(error) => node.state_failed(&error),
            }
        }
        node.store.stay_in_memory(false);
        self.tails_until = self.tails.iter().map(|tail| tail.until).min();
        if !fetches.bring_for_tails(node, state.descriptor().shard, &firsts.take_lacked()) {
            // Once more, and not again: nothing is lacked then.
            self.moved = true;
            self.feed_tails(node, state, fetches, load);
        }
    }

    /// Keeps a tail for which there is nothing yet; it was asked of the bounds that the shard has now.
    pub(super) fn wait<H: Host>(&mut self, node: &mut Node<H>, state: &ShardState, mut poll: TailPoll, reply: Reply) {
        let too_many = |limit, place, knob| Some(Refusal::TooManyTails { limit, place, knob });
        let refused = if node.is_full_of_tails() {
            too_many(node.tails_max, "node", "limits.node_tails_max")
        } else if self.tails.len() >= TAILS_MAX {
            too_many(TAILS_MAX, "shard", "fixed")
        } else {
            None
        };
        if let Some(why) = refused {
            node.metrics.overloaded_total.inc();
            return answer(node, reply, Err(why));
        }
        // From here on it is a tail that waits, and takes up no place of a request.
        node.waiting = node.waiting.saturating_sub(1);
        node.tails += 1;
        looked_through(state, &mut poll);
        let until = node.now.plus(poll.wait_us.min(TAIL_WAIT_US));
        self.tails_until = Some(self.tails_until.map_or(until, |at| at.min(until)));
        self.tails.push(WaitingTail { until, poll, version: state.descriptor().version, reply });
    }
}

/// Nothing up to now was for this poll: it need not look there again, even once the ring has forgotten it.
fn looked_through(state: &ShardState, poll: &mut TailPoll) {
    for (_, _, after_ts) in &mut poll.segments {
        *after_ts = (*after_ts).max(state.last_ts());
    }
}

impl Shard {
    /// Takes a read that is answered here: at once, or as soon as the state here is known to be fresh enough. A linearizable
    /// one is taken by the leader only.
    pub(super) fn take_read<H: Host>(&mut self, node: &mut Node<H>, read: Read, freshness: Freshness, reply: Reply) {
        let asked = Asked { read, version: self.state.descriptor().version, reply };
        match freshness {
            Freshness::Local => self.execute(node, asked),
            _ if self.leading && planted!(ReadWithoutQuorum) => self.execute(node, asked),
            Freshness::Linearizable => {
                self.reads.queued.push(asked);
                self.schedule(node);
            }
            Freshness::Stale(age) => {
                let since = Micros(node.now.0.saturating_sub(age));
                match self.reads.complete_as_of(since) {
                    Some(slot) if slot <= self.state.applied() => self.execute(node, asked),
                    Some(slot) => self.reads.wait_for_slot(slot, vec![asked], node.now),
                    None => self.reads.wait_for_word(since, asked),
                }
                self.schedule(node);
            }
        }
    }

    /// Asks the core one question for all reads that queued.
    pub(super) fn ask_reads<H: Host>(&mut self, node: &mut Node<H>) {
        if self.reads.queued.is_empty() {
            return;
        }
        let id = node.shared.next_read();
        let reads = std::mem::take(&mut self.reads.queued);
        self.reads.asked.push_back(Question { id, left: node.now, reads });
        self.step(node, Input::ReadIndex(id));
    }

    /// Answers confirmed reads whose slot is applied, and tails that something was applied for.
    pub(super) fn answer_reads<H: Host>(&mut self, node: &mut Node<H>) {
        if !self.reads.ready.is_empty() {
            let applied = self.state.applied();
            let (now, later): (Vec<_>, Vec<_>) = self.reads.ready.drain(..).partition(|ready| ready.slot <= applied);
            self.reads.ready = later;
            for asked in now.into_iter().flat_map(|ready| ready.reads) {
                self.execute(node, asked);
            }
        }
        self.reads.feed_tails(node, &self.state, &mut self.fetches, &mut self.load);
    }
}

#[cfg(test)]
mod tests;
