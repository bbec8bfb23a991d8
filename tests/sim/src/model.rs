//! What the committed logs mean: the chosen entries of every shard, and a second, simple state machine over them.
//!
//! Owns: the chosen entry of each slot, as the first replica that applied it had it, and what follows from the entries: the
//! outcome of every write, every record of every key, a hash of the state at each slot. It forgets nothing, so that a
//! production state machine that forgets too much is found out. Must never: call the production state machine.

mod splits;

use crate::trace::hash_bytes;
use crate::violation::{Checked, Violation, check};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::ids::{ClientId, ClientSeq, Entry, EntryId, NodeId, Offset, ShardId, Slot};
use synod_cluster::system::{Descriptor, Retention};
use synod_engine::command::{Action, Expect, KeyOp, Op, OpResult, Outcome, WriteRequest, decode_requests, is_admin};
use synod_paxos::types::{Epoch, Membership, Payload};

pub(crate) use splits::{Extent, executor};

const AGREEMENT: &str = "1: at most one value is chosen per slot, and slots chosen never change";

/// Sessions whose writes have all expired end at every multiple of this slot: the production's own number.
const EXPIRE_SLOTS: u64 = 4096;

/// A write's name.
pub(crate) type WriteName = (ClientId, ClientSeq);

/// One record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelRecord {
    pub(crate) ts_us: u64,
    pub(crate) tombstone: bool,
    pub(crate) value: Bytes,
}

/// One key: every record it ever had, and the first that is still kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelKey {
    pub(crate) first: u64,
    pub(crate) records: Vec<ModelRecord>,
}

impl ModelKey {
    pub(crate) fn next(&self) -> u64 {
        self.records.len() as u64
    }

    fn exists(&self) -> bool {
        self.first < self.next() && self.records.last().is_some_and(|record| !record.tombstone)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let head = head_hash(key, self.first, self.next());
        let kept = (self.first..).zip(self.records.iter().skip(self.first as usize));
        kept.fold(head, |hash, (offset, r)| hash ^ record_hash(key, offset, r.ts_us, r.tombstone, &r.value))
    }
}

/// What a key's head contributes to a state's hash.
pub(crate) fn head_hash(key: &[u8], first: u64, next: u64) -> u64 {
    hash_bytes(&[b"head", key, &first.to_be_bytes(), &next.to_be_bytes()])
}

/// What a record contributes to a state's hash.
pub(crate) fn record_hash(key: &[u8], offset: u64, ts_us: u64, tombstone: bool, value: &[u8]) -> u64 {
    hash_bytes(&[key, &offset.to_be_bytes(), &ts_us.to_be_bytes(), &[u8::from(tombstone)], value])
}

/// The log of one shard, and what it means.
pub(crate) struct ShardModel {
    shard: ShardId,
    /// With the bounds after the last entry.
    descriptor: Option<Descriptor>,
    /// From which slot on it has had which bounds, the first ones first; none of the system shard.
    extents: Vec<(Slot, Extent)>,
    /// Every child that a split of this shard has made.
    children: Vec<ShardId>,
    /// Those of them that no later split has named as known to the map.
    unconfirmed: Vec<ShardId>,
    /// Those that the last entries made, until the world takes them.
    pub(crate) born: Vec<Self>,
    /// Of the epoch in force behind the last entry; `None` where that is not known.
    members: Option<Membership>,
    /// The epoch that the map knows.
    pub(crate) told: Epoch,
    /// Slot 1 first.
    chosen: Vec<EntryId>,
    crcs: Vec<u32>,
    entry_ts: u64,
    last_ts: u64,
    pub(crate) keys: BTreeMap<Bytes, ModelKey>,
    hash: u64,
    /// After each slot; index 0: before any.
    hashes: Vec<u64>,
    /// Executed writes.
    pub(crate) executed: BTreeMap<WriteName, (Slot, Outcome)>,
    floors: BTreeMap<ClientId, ClientSeq>,
    /// The latest deadline of a client's executed writes.
    deadlines: BTreeMap<ClientId, u64>,
    /// Where a client's session ended last: the shard no longer knows what the client had executed before.
    forgotten: BTreeMap<ClientId, Slot>,
    /// Writes that a client was told have expired, or that an entry met expired.
    expired: BTreeSet<WriteName>,
    /// Writes that a client was told have failed.
    failed: BTreeSet<WriteName>,
    pub(crate) counts: Counts,
    /// The last slot that holds a command: noops leave no mark in the state.
    pub(crate) last_command: Slot,
}

/// What the entries did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) noops: u64,
    pub(crate) stop_signs: u64,
    pub(crate) executed: u64,
    pub(crate) repeated: u64,
    pub(crate) below_floor: u64,
    pub(crate) expired: u64,
    pub(crate) mismatched: u64,
    pub(crate) batched: u64,
    pub(crate) elsewhere: u64,
    pub(crate) splits: u64,
    pub(crate) splits_refused: u64,
}

impl ShardModel {
    /// An empty log of these first members; `descriptor` is `None` for the system shard.
    pub(crate) fn new(shard: ShardId, members: Membership, descriptor: Option<Descriptor>) -> Self {
        // A descriptor that was not seen at once may be of a later epoch than the log begins in.
        let members = Some(members).filter(|members| members.epoch == Epoch(1));
        let extents = descriptor.iter().map(|d| (Slot(0), Extent::of(d))).collect();
        Self {
            shard,
            descriptor,
            extents,
            children: Vec::new(),
            unconfirmed: Vec::new(),
            born: Vec::new(),
            members,
            told: Epoch(0),
            chosen: Vec::new(),
            crcs: Vec::new(),
            entry_ts: 0,
            last_ts: 0,
            keys: BTreeMap::new(),
            hash: 0,
            hashes: vec![0],
            executed: BTreeMap::new(),
            floors: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            expired: BTreeSet::new(),
            failed: BTreeSet::new(),
            counts: Counts::default(),
            last_command: Slot(0),
        }
    }

    /// The last chosen slot known.
    pub(crate) fn last(&self) -> Slot {
        Slot(self.chosen.len() as u64)
    }

    /// The members of the epoch in force behind the last entry.
    pub(crate) fn members(&self) -> Option<&Membership> {
        self.members.as_ref()
    }

    /// The epoch that the last entry was proposed in.
    pub(crate) fn chosen_in(&self) -> Epoch {
        self.chosen.last().map_or(Epoch(0), |id| id.origin.epoch)
    }

    /// The state's hash after `slot`, where it is known.
    pub(crate) fn hash_at(&self, slot: Slot) -> Option<u64> {
        self.hashes.get(slot.0 as usize).copied()
    }

    /// `node` has applied `entry`; whether it was news.
    pub(crate) fn applied(&mut self, node: NodeId, entry: &Entry) -> Checked<bool> {
        let (shard, slot) = (self.shard, entry.id.slot);
        let index = slot.0 as usize;
        if slot <= self.last() {
            let same = self.chosen[index - 1] == entry.id && self.crcs[index - 1] == entry.crc;
            check(same, AGREEMENT, || {
                let known = self.chosen[index - 1];
                format!("shard {shard}: node {node} applied {:?}, before that {known:?} was applied", entry.id)
            })?;
            return Ok(false);
        }
        check(slot == self.last().next(), "no slot is passed over", || {
            format!("shard {shard}: node {node} applied slot {slot}, known up to {}", self.last())
        })?;
        check(entry.ts > self.entry_ts || self.chosen.is_empty(), "13: entry timestamps strictly increase", || {
            format!("shard {shard} slot {slot}: {} after {}", entry.ts, self.entry_ts)
        })?;
        self.follow_epoch(entry)?;
        self.entry_ts = entry.ts;
        self.chosen.push(entry.id);
        self.crcs.push(entry.crc);
        self.counts.entries += 1;
        match &entry.payload {
            Payload::Command(data) if is_admin(data) => self.administer(entry, data.clone())?,
            Payload::Command(data) => {
                self.last_command = slot;
                let requests = decode_requests(data.clone())
                    .map_err(|e| Violation::new("entries can be read", format!("shard {shard} slot {slot}: {e}")))?;
                self.counts.batched += u64::from(requests.len() > 1);
                for request in requests {
                    self.take(request, entry.ts)?;
                }
            }
            Payload::Noop => self.counts.noops += 1,
            Payload::Config(_) => {}
        }
        self.end_sessions(entry);
        self.hashes.push(self.hash);
        Ok(true)
    }

    /// Invariant 7: entries are of the epoch in force, and a stop-sign begins the next one.
    fn follow_epoch(&mut self, entry: &Entry) -> Checked {
        let (shard, id) = (self.shard, entry.id);
        if let Some(members) = &self.members {
            check(id.origin.epoch == members.epoch, "7: nothing follows a stop-sign within its epoch", || {
                format!("shard {shard}: {id:?} in epoch {:?}", members.epoch)
            })?;
        }
        if let Payload::Config(next) = &entry.payload {
            let fine = self.members.as_ref().is_none_or(|before| follows(next, before));
            check(fine, "7: epochs follow one another", || {
                format!("shard {shard}: {next:?} after {:?}", self.members)
            })?;
            self.counts.stop_signs += 1;
            self.members = Some(next.clone());
        }
        Ok(())
    }

    /// At every multiple of [`EXPIRE_SLOTS`] the sessions end whose writes have all expired.
    fn end_sessions(&mut self, entry: &Entry) {
        if !entry.id.slot.0.is_multiple_of(EXPIRE_SLOTS) {
            return;
        }
        let now = self.last_ts.max(entry.ts);
        for (client, _) in self.deadlines.extract_if(.., |_, deadline| *deadline < now) {
            self.floors.remove(&client);
            self.forgotten.insert(client, entry.id.slot);
        }
    }

    fn take(&mut self, request: WriteRequest, entry_ts: u64) -> Checked {
        let ts = entry_ts.max(self.last_ts + 1);
        self.last_ts = ts;
        let (id, slot) = (request.id, self.last());
        let name = (id.client, id.seq);
        if self.executed.contains_key(&name) {
            self.counts.repeated += 1;
            return Ok(());
        }
        if self.floors.get(&id.client).is_some_and(|floor| id.seq < *floor) {
            self.counts.below_floor += 1;
            return Ok(());
        }
        if ts > id.deadline_us {
            self.counts.expired += 1;
            self.expired.insert(name);
            return Ok(());
        }
        if let (Some(descriptor), Op::Write { table, ops }) = (&self.descriptor, &request.op)
            && (*table != descriptor.table || !ops.iter().all(|op| descriptor.contains(&op.key)))
        {
            // It leaves no outcome: the client sends it to the shard that has the keys.
            self.counts.elsewhere += 1;
            return Ok(());
        }
        check(!self.expired.contains(&name), "20: no write executes after it was called expired", || {
            format!("shard {} slot {slot}: {name:?}", self.shard)
        })?;
        check(!self.failed.contains(&name), "what is called failed was not executed", || {
            format!("shard {} slot {slot}: {name:?}", self.shard)
        })?;
        let outcome = match (&self.descriptor, request.op) {
            // What the metadata's commands do is checked by their answers alone.
            (None, _) => Outcome::System(Bytes::new()),
            (Some(descriptor), Op::Write { table, ops }) if table == descriptor.table => {
                let latest = descriptor.retention == Retention::Latest;
                self.write(ops, ts, latest)
            }
            _ => return Ok(()),
        };
        self.counts.executed += 1;
        self.counts.mismatched += u64::from(matches!(outcome, Outcome::ExpectationFailed { .. }));
        self.executed.insert(name, (slot, outcome));
        let floor = self.floors.entry(id.client).or_default();
        *floor = (*floor).max(id.floor.min(id.seq));
        let deadline = self.deadlines.entry(id.client).or_default();
        *deadline = (*deadline).max(id.deadline_us);
        Ok(())
    }

    fn write(&mut self, ops: Vec<KeyOp>, ts: u64, latest: bool) -> Outcome {
        let mut changed: BTreeMap<Bytes, ModelKey> = BTreeMap::new();
        let mut results = Vec::new();
        for (op_index, op) in (0..).zip(ops) {
            let known = || self.keys.get(&op.key).cloned().unwrap_or_default();
            let key = changed.entry(op.key.clone()).or_insert_with(known);
            let holds = match op.expect {
                Expect::Any => true,
                Expect::Absent => !key.exists(),
                Expect::Exists => key.exists(),
                Expect::Next(offset) => key.next() == offset.0,
            };
            if !holds {
                return Outcome::ExpectationFailed { op_index, actual: Offset(key.next()) };
            }
            let offset = match op.action {
                Action::Append(records) => {
                    let first = key.next();
                    let new = |value| ModelRecord { ts_us: ts, tombstone: false, value };
                    key.records.extend(records.into_iter().map(|r| new(r.value)));
                    first
                }
                Action::Delete => {
                    key.records.push(ModelRecord { ts_us: ts, tombstone: true, value: Bytes::new() });
                    key.next() - 1
                }
                Action::Trim(before) => {
                    key.first = before.0.clamp(key.first, key.next());
                    results.push(OpResult { offset: Offset(key.first), ts_us: ts });
                    continue;
                }
            };
            if latest {
                key.first = key.next() - 1;
            }
            results.push(OpResult { offset: Offset(offset), ts_us: ts });
        }
        for (name, key) in changed {
            let old = self.keys.get(&name).map_or(0, |old| old.hash(&name));
            self.hash ^= old ^ key.hash(&name);
            self.keys.insert(name, key);
        }
        Outcome::Written(results)
    }

    /// A client was told this outcome of its write.
    pub(crate) fn told(&self, name: WriteName, told: &Outcome) -> Checked {
        let (shard, last) = (self.shard, self.last());
        let Some((slot, outcome)) = self.executed.get(&name) else {
            let detail = format!("shard {shard}: {name:?} was told {told:?}, executed up to slot {last} it was not");
            return Err(Violation::new("acknowledged writes are in the committed log", detail));
        };
        if self.descriptor.is_none() {
            return Ok(());
        }
        check(outcome == told, "an outcome is that of the write's one execution", || {
            format!("shard {shard}: {name:?} was told {told:?}, in slot {slot} it was {outcome:?}")
        })
    }

    /// A client's call ended with an error that says that nothing was written.
    pub(crate) fn told_failed(&mut self, name: WriteName) -> Checked {
        let done = self.executed.get(&name);
        check(done.is_none(), "what is called failed was not executed", || {
            format!("shard {}: {name:?} was executed: {done:?}", self.shard)
        })?;
        self.failed.insert(name);
        Ok(())
    }

    /// A client was told that its write has expired: it was not executed, or its session was over by then, which remembers
    /// nothing.
    pub(crate) fn told_expired(&mut self, name: WriteName) -> Checked {
        let done = self.executed.get(&name);
        let over = self.forgotten.get(&name.0);
        check(done.is_none_or(|(slot, _)| over >= Some(slot)), "20: what is called expired was not executed", || {
            format!("shard {}: {name:?} was executed: {done:?}, its session ended at {over:?}", self.shard)
        })?;
        if done.is_none() {
            self.expired.insert(name);
        }
        Ok(())
    }

    /// Whether a write was executed and its session is over.
    pub(crate) fn has_forgotten(&self, name: WriteName) -> bool {
        let done = self.executed.get(&name).map(|(slot, _)| slot);
        done.is_some() && self.forgotten.get(&name.0) >= done
    }

    /// A client made its write anew under another name: this one was never executed.
    pub(crate) fn started_anew(&mut self, name: WriteName) -> Checked {
        let done = self.executed.get(&name);
        check(done.is_none(), "a write executes at most once, under whatever name", || {
            format!("shard {}: {name:?} was executed and is made anew: {done:?}", self.shard)
        })?;
        self.failed.insert(name);
        Ok(())
    }
}

/// How far a membership may go on from another: one epoch at a time, in order.
fn follows(next: &Membership, before: &Membership) -> bool {
    next.epoch == before.epoch.next() && next.is_sound()
}
