//! Rows that are in no memory, on their way there.
//!
//! Owns: the fetches of one shard under way, and the reads that wait for them. Must never: wait for a file where somebody fetches,
//! leave what waits without word, or let what is applied depend on what was fetched: it is only in memory then.

use super::load::count_read;
use super::{Asked, Shard, answer};
use crate::StoreError;
use crate::host::{FetchRequest, Host, Read, Reply};
use crate::query;
use crate::round::Node;
use crate::state::Lacked;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::ShardId;
use synod_cluster::refusal::Refusal;
use synod_paxos::types::Entry;

/// How often rows are brought for one read; where they are gone again each time, it waits for the file.
const FETCHES_MAX: u32 = 32;
/// Reads of one shard that wait for rows; more wait for the file.
const COLD_MAX: usize = 4096;
/// Rows of entries and tails that are fetched one after the other: several threads share more.
const FETCH_ROWS: usize = 16;

/// A read that waits for rows.
struct ColdRead {
    asked: Asked,
    /// How often its rows were brought.
    fetches: u32,
}

/// The fetches of one shard under way, by their tickets.
#[derive(Default)]
pub(super) struct Fetches {
    last_ticket: u64,
    reads: BTreeMap<u64, ColdRead>,
    /// For the next entries.
    entries: BTreeSet<u64>,
    /// For tails that wait.
    tails: BTreeSet<u64>,
    /// How often in a row rows were brought for tails, and some were lacked after that.
    tail_fetches: u32,
}

impl Fetches {
    /// Reads that wait for rows.
    pub(super) fn waiting(&self) -> usize {
        self.reads.len()
    }

    /// Whether nothing is applied until rows are there.
    pub(super) fn hold_entries_back(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Whether tails look at what is in memory only.
    pub(super) fn tails_stay<H: Host>(&self, node: &Node<H>) -> bool {
        self.tail_fetches < FETCHES_MAX && node.host.fetches_rows()
    }

    /// Has rows brought that tails lacked, which look again once they are there. `false` where nobody brings them: then tails are to
    /// look again at once, wherever the rows are.
    pub(super) fn bring_for_tails<H: Host>(&mut self, node: &mut Node<H>, shard: ShardId, lacked: &[Lacked]) -> bool {
        if lacked.is_empty() {
            self.tail_fetches = 0;
            return true;
        }
        if !self.tails.is_empty() {
            return true;
        }
        let begun = self.begin(node, shard, lacked, false);
        self.tail_fetches = if begun.is_empty() { FETCHES_MAX } else { self.tail_fetches + 1 };
        self.tails.extend(begun);
        !self.tails.is_empty()
    }

    /// Refuses the reads that wait.
    pub(super) fn refuse_reads<H: Host>(&mut self, node: &mut Node<H>, why: &Refusal) {
        for cold in std::mem::take(&mut self.reads).into_values() {
            answer(node, cold.asked.reply, Err(why.clone()));
        }
    }

    /// Has rows brought into memory, those of a read by one thread. The tickets of the fetches that begin.
    fn begin<H: Host>(&mut self, node: &mut Node<H>, shard: ShardId, lacked: &[Lacked], for_read: bool) -> Vec<u64> {
        let mut begun = Vec::new();
        let each = if for_read { lacked.len() } else { FETCH_ROWS };
        let Some(fetcher) = node.store.fetcher() else { return begun };
        for part in lacked.chunks(each.max(1)) {
            self.last_ticket += 1;
            let (ticket, lacked, fetcher) = (self.last_ticket, part.to_vec(), Arc::clone(&fetcher));
            if !node.host.fetch_rows(FetchRequest { shard, ticket, for_read, lacked, fetcher }) {
                break;
            }
            begun.push(ticket);
        }
        begun
    }
}

/// A client that does not read what it was given gets no more of it.
pub(super) fn refuse_full<H: Host>(node: &mut Node<H>, reply: Reply) {
    node.metrics.overloaded_total.inc();
    answer(node, reply, Err(Refusal::Overloaded));
}

impl Shard {
    /// Gets the next entry ready to be applied. Whether it is: what it lacks is fetched, with what the entries `after` it lack, and
    /// it comes again. Where nobody fetches, or what is fetched is gone again each time, it is read here. So it is too where entries fill
    /// their part of the memory: the worker then takes no more of them before these are applied.
    pub(super) fn get_ready<H: Host>(&mut self, node: &mut Node<H>, entry: &Entry, after: &[Entry]) -> bool {
        let mut stays = node.host.fetches_rows() && !self.state.is_stuck() && !self.cached.is_over();
        loop {
            node.store.stay_in_memory(stays);
            let ready = self.state.prepare(&mut *node.store, entry);
            let lacked = self.state.take_lacked(&mut *node.store, after);
            node.store.stay_in_memory(false);
            let (ready, lacked) = match (ready, lacked) {
                (Ok(ready), Ok(lacked)) => (ready, lacked),
                (Err(error), _) | (_, Err(error)) => node.state_failed(&error),
            };
            if lacked.is_empty() {
                return ready;
            }
            let begun = self.fetches.begin(node, self.id, &lacked, false);
            if !begun.is_empty() {
                node.metrics.applies_cold_total.inc();
                self.fetches.entries.extend(begun);
                return false;
            }
            stays = false;
        }
    }

    pub(super) fn execute<H: Host>(&mut self, node: &mut Node<H>, asked: Asked) {
        if asked.reply.sink.is_full() {
            return refuse_full(node, asked.reply);
        }
        node.metrics.reads_total.inc();
        self.attempt(node, ColdRead { asked, fetches: 0 });
    }

    /// The end of a tail's time, where the state here is known to be complete as of when its wait began.
    pub(super) fn end_tail<H: Host>(&mut self, node: &mut Node<H>, asked: Asked) {
        if asked.reply.sink.is_full() {
            return refuse_full(node, asked.reply);
        }
        self.attempt(node, ColdRead { asked, fetches: 0 });
    }

    /// Executes a read with the rows that are in memory. Where it lacks some, they are fetched and it comes again: other reads and
    /// writes of the worker do not wait for a file. After [`FETCHES_MAX`] rounds, or where nobody fetches, it waits for the file. One
    /// that waited while the shard's bounds changed is refused.
    fn attempt<H: Host>(&mut self, node: &mut Node<H>, cold: ColdRead) {
        if cold.asked.version != self.state.descriptor().version {
            return answer(node, cold.asked.reply, Err(Refusal::WrongShard));
        }
        let stays = cold.fetches < FETCHES_MAX && self.fetches.reads.len() < COLD_MAX && node.host.fetches_rows();
        let mut firsts = query::Firsts::default();
        node.store.stay_in_memory(stays);
        let found = match &cold.asked.read {
            Read::Tail(poll) => query::tail(&self.state, &mut *node.store, &mut firsts, poll),
            read => query::read(&self.state, &mut *node.store, read).map(Some),
        };
        node.store.stay_in_memory(false);
        let ColdRead { asked: Asked { read, version, reply }, fetches } = cold;
        match (found, read) {
            (Ok(Some(found)), read) => {
                if let Ok(found) = &found {
                    count_read(&mut self.load, node.now, self.state.descriptor(), &read, found);
                }
                answer(node, reply, found);
            }
            (Ok(None), Read::Tail(poll)) if poll.wait_us > 0 => {
                self.reads.wait(node, &self.state, poll, reply);
                // The end of its time joins the node's timers.
                self.arm(node);
            }
            (Ok(None), _) => answer(node, reply, Ok(query::nothing(&self.state))),
            (Err(StoreError::Cold(row)), read) => {
                let mut lacked = firsts.take_lacked();
                if lacked.is_empty() {
                    lacked.push(row);
                }
                self.fetch(node, ColdRead { asked: Asked { read, version, reply }, fetches }, &lacked);
            }
            (Err(error), _) => node.state_failed(&error),
        }
    }

    fn fetch<H: Host>(&mut self, node: &mut Node<H>, cold: ColdRead, lacked: &[Lacked]) {
        let begun = self.fetches.begin(node, self.id, lacked, true);
        match begun.first() {
            Some(ticket) => {
                node.metrics.reads_cold_total.inc();
                self.fetches.reads.insert(*ticket, cold);
            }
            // Its place was taken meanwhile.
            None => self.attempt(node, ColdRead { fetches: FETCHES_MAX, ..cold }),
        }
    }

    /// The rows that a fetch was to bring are in memory, or could not be read.
    pub(crate) fn rows_fetched<H: Host>(&mut self, node: &mut Node<H>, ticket: u64) {
        if let Some(cold) = self.fetches.reads.remove(&ticket) {
            if cold.asked.reply.sink.is_full() {
                return refuse_full(node, cold.asked.reply);
            }
            return self.attempt(node, ColdRead { fetches: cold.fetches + 1, ..cold });
        }
        // What follows in the log is applied, or tails look again, once all that was asked for is there.
        if self.fetches.entries.remove(&ticket) && self.fetches.entries.is_empty() {
            self.schedule(node);
        }
        if self.fetches.tails.remove(&ticket) && self.fetches.tails.is_empty() {
            self.reads.state_moved();
            self.schedule(node);
        }
    }
}
