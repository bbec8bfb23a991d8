//! What clients are told, against what the committed logs say.
//!
//! Owns: the checks of answers. Must never: let an answer pass because its operation is over: a late answer is true as well.
//!
//! Reads are checked through offsets, which number the committed writes of a key: a linearizable read shows at least what
//! any answer had shown before it was asked, and nothing that the committed log does not hold.

use crate::clients::{Attempt, Kind};
use crate::model::{ShardModel, executor};
use crate::requests::Ending;
use crate::retry::Failure;
use crate::violation::{Checked, Violation, check};
use crate::world::{Event, Origin, World};
use bytes::Bytes;
use synod_cluster::ids::ShardId;
use synod_cluster::refusal::Refusal;
use synod_engine::command::{Op, Outcome};
use synod_engine::host::{Answer, At, Freshness, KeyedRecord, Read};

const STALE: &str = "12: a linearizable read shows what was acknowledged before it was asked";
const FUTURE: &str = "12: a read shows nothing that is not committed";
const WRONG: &str = "12: a read shows records as they were committed";

impl World {
    /// An answer arrives at its client.
    pub(crate) fn reply_arrives(&mut self, from: Origin, attempt: u64, answer: Result<Answer, Refusal>) -> Checked {
        if !self.nodes[&from.node].has_left(from.process, from.stamp) {
            return Ok(());
        }
        let Some(Attempt { op, shard, node, id, .. }) = self.attempts.get(&attempt) else { return Ok(()) };
        let (op, shard, node, id) = (*op, *shard, *node, *id);
        let operation = &self.ops[&op];
        let current = !operation.done && operation.attempt == Some(attempt);
        let ok = u64::from(answer.is_ok());
        self.trace.note(self.now, "answer", &[attempt, node.0, ok], || format!("{attempt} by {node}: {answer:?}"));
        match answer {
            Ok(answer) => {
                self.told(op, shard, id.map(|id| (id.client, id.seq)), &answer)?;
                if !current {
                    self.coverage.count("answer", "too late");
                    return Ok(());
                }
                let client = self.ops[&op].client;
                if self.ops[&op].kind.is_of_leader() {
                    self.clients[client].leaders.insert(shard, node);
                }
                self.end(op, Ending::Answered)?;
            }
            Err(refusal) => {
                if let (Refusal::Expired { .. }, Some(id)) = (&refusal, id)
                    && let Some(model) = self.models.get_mut(&shard)
                {
                    model.told_expired((id.client, id.seq))?;
                }
                if let Refusal::Trimmed { first, .. } = refusal {
                    let key = self.ops[&op].known.keys().next().cloned().unwrap_or_default();
                    self.show(shard, &key, first.0, first.0)?;
                }
                if current {
                    self.at(self.now, Event::Failed { attempt, failure: Failure::Refused(refusal) });
                }
            }
        }
        Ok(())
    }

    /// Checks an answer, and notes what it has shown.
    fn told(&mut self, op: u64, shard: ShardId, name: Option<crate::model::WriteName>, answer: &Answer) -> Checked {
        let operation = &self.ops[&op];
        let Some(model) = self.models.get(&shard) else { return Ok(()) };
        match (&operation.kind, answer) {
            (Kind::Write(request), Answer::Outcome(outcome)) => {
                if let Some(name) = name {
                    model.told(name, outcome)?;
                }
                self.coverage.count("outcome", outcome_name(outcome));
                let Op::Write { ops, .. } = &request.op else { return Ok(()) };
                match outcome {
                    Outcome::Written(results) => {
                        let shown: Vec<(ShardId, Bytes, u64, u64)> = (0..)
                            .zip(ops.iter().zip(results))
                            .map(|(index, (op, result))| {
                                let (first, next) = match &op.action {
                                    synod_engine::command::Action::Append(records) => {
                                        (0, result.offset.0 + records.len() as u64)
                                    }
                                    synod_engine::command::Action::Delete => (0, result.offset.0 + 1),
                                    synod_engine::command::Action::Trim(_) => (result.offset.0, result.offset.0),
                                };
                                // A write is sent to the shard of its first key.
                                let by = if index == 0 { model } else { executor(&self.models, model, &op.key) };
                                (by.id(), op.key.clone(), first, next)
                            })
                            .collect();
                        let apart = shown.iter().filter(|(by, ..)| *by != shard).count();
                        self.coverage.add("routes", "key of a batch whose keys went apart", apart as u64);
                        for (by, key, first, next) in shown {
                            self.show(by, &key, first, next)?;
                        }
                    }
                    Outcome::ExpectationFailed { op_index, actual } => {
                        // A batch's own earlier operations count for it, so only a lone one tells of the log.
                        if ops.len() == 1 && *op_index == 0 {
                            let key = ops[0].key.clone();
                            let (_, known) = operation.known.get(&key).copied().unwrap_or_default();
                            check(actual.0 >= known, STALE, || {
                                format!(
                                    "shard {shard} key {key:?}: a conditional write met {actual}, {known} was shown"
                                )
                            })?;
                            self.show(shard, &key, 0, actual.0)?;
                        }
                    }
                    Outcome::System(_) => {}
                }
                Ok(())
            }
            (Kind::Read { read, freshness }, answer) => {
                let (read, freshness) = (read.clone(), *freshness);
                let (key, first, next) = match (&read, answer) {
                    (Read::Get { key, at }, Answer::Record { record, first, next }) => {
                        check_get(self.holder(model, key), key, *at, record.as_ref(), first.0, next.0)?;
                        (key.clone(), first.0, next.0)
                    }
                    (Read::Range { key, from, .. }, Answer::Page { records, first, next, .. }) => {
                        check_range(self.holder(model, key), key, from.0, records, next.0)?;
                        (key.clone(), first.0, next.0)
                    }
                    _ => return Err(Violation::new("answers fit their questions", format!("{read:?}: {answer:?}"))),
                };
                let known = operation.known.get(&key).copied().unwrap_or_default();
                self.coverage.count("outcome", read_name(freshness));
                if freshness == Freshness::Local {
                    self.committed(shard, &key, next)?;
                } else {
                    check(next >= known.1 && first >= known.0, STALE, || {
                        format!(
                            "shard {shard} key {key:?}: ({first}, {next}) read {freshness:?}, {known:?} was shown before"
                        )
                    })?;
                    self.show(shard, &key, first, next)?;
                }
                Ok(())
            }
            (kind, answer) => {
                Err(Violation::new("answers fit their questions", format!("{}: {answer:?}", kind.name())))
            }
        }
    }

    /// The model that has a key's records by now: that of the shard that was asked, or of a child of it.
    fn holder<'a>(&'a self, asked: &'a ShardModel, key: &[u8]) -> &'a ShardModel {
        let mut model = asked;
        while !model.has(key)
            && let Some(child) =
                model.children().iter().rev().filter_map(|id| self.models.get(id)).find(|c| c.began_with(key))
        {
            model = child;
        }
        model
    }

    fn committed(&self, shard: ShardId, key: &Bytes, next: u64) -> Checked {
        let holder = self.models.get(&shard).map(|model| self.holder(model, key));
        let held = holder.and_then(|m| m.keys.get(key)).map_or(0, crate::model::ModelKey::next);
        check(next <= held, FUTURE, || format!("shard {shard} key {key:?}: next {next} was told, committed is {held}"))
    }

    /// An answer has shown that a key had come so far.
    fn show(&mut self, shard: ShardId, key: &Bytes, first: u64, next: u64) -> Checked {
        self.committed(shard, key, next)?;
        let now = self.now;
        let table = self.table_of(shard);
        self.shown.entry((table, key.clone())).or_default().show(now, first, next);
        Ok(())
    }
}

fn read_name(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Linearizable => "linearizable read",
        Freshness::Stale(0) => "linearizable read of any replica",
        Freshness::Stale(_) => "stale read",
        Freshness::Local => "local read",
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Written(_) => "written",
        Outcome::ExpectationFailed { .. } => "expectation failed",
        Outcome::System(_) => "system command",
    }
}

fn check_record(model: &ShardModel, key: &Bytes, found: &KeyedRecord) -> Checked {
    let held = model.keys.get(key).and_then(|k| k.records.get(found.offset.0 as usize));
    let r = &found.record;
    let same = held.is_some_and(|h| h.ts_us == r.ts_us && h.tombstone == r.tombstone && h.value == r.value);
    let invariant = if held.is_some() { WRONG } else { FUTURE };
    check(same, invariant, || format!("key {key:?} offset {}: {r:?} was read, committed is {held:?}", found.offset))
}

fn check_get(model: &ShardModel, key: &Bytes, at: At, found: Option<&KeyedRecord>, first: u64, next: u64) -> Checked {
    if let Some(found) = found {
        check_record(model, key, found)?;
        let wanted = match at {
            At::Newest => next.checked_sub(1),
            At::Offset(offset) => Some(offset.0),
            At::Time(_) => Some(found.offset.0),
        };
        return check(wanted == Some(found.offset.0), WRONG, || {
            format!("key {key:?}: offset {} was read of ({first}, {next}) for {at:?}", found.offset)
        });
    }
    let held = |offset: u64| model.keys.get(key).and_then(|k| k.records.get(offset as usize));
    let nothing = match at {
        At::Newest => first == next || next.checked_sub(1).and_then(held).is_some_and(|record| record.tombstone),
        At::Offset(offset) => offset.0 >= next || offset.0 < first,
        At::Time(_) => true,
    };
    check(nothing, WRONG, || format!("key {key:?}: nothing was read of ({first}, {next}) for {at:?}"))
}

fn check_range(model: &ShardModel, key: &Bytes, from: u64, records: &[KeyedRecord], next: u64) -> Checked {
    for (offset, found) in (from..).zip(records) {
        // A table of newest records shows only that.
        let latest = records.len() == 1 && found.offset.0 + 1 == next;
        check(found.offset.0 == offset || latest, "18: offsets are contiguous", || {
            format!("key {key:?}: offset {} where {offset} was due", found.offset)
        })?;
        check_record(model, key, found)?;
    }
    Ok(())
}
