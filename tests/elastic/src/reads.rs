//! Reads, scans and the tail of the table.
//!
//! Owns: what is asked of which replica, and the second look at the version when it answers. Must never: answer anything; the real
//! queries do.

use crate::client::{mapped, way};
use crate::group::Group;
use crate::keys::KEYS;
use crate::node::Node;
use crate::plan::HostFault;
use crate::reader::Asked;
use crate::violation::{Check, Violation, ensure};
use crate::world::World;
use crate::writes::hints;
use bytes::Bytes;
use std::ops::Range;
use synod_cluster::ids::{Offset, ShardId};
use synod_cluster::overlay::{News, Overlay};
use synod_engine::host::{Answer, KeyedRecord, Read, Scan, TailPoll};
use synod_engine::query;

/// Lanes of a tail.
const LANES_MAX: usize = 12;

impl World {
    /// The reader takes the newest map.
    pub(crate) fn map_for_reader(&mut self) {
        let map = mapped(&self.map);
        self.reader.routes.map(map);
    }

    /// The follower takes the newest map.
    pub(crate) fn map_for_follower(&mut self) {
        let map = mapped(&self.map);
        self.follower.routes.map(map);
    }

    /// What all nodes that are up say of their replicas.
    fn all_hints(&self) -> Vec<News> {
        self.nodes.iter().filter(|node| node.up).flat_map(hints).collect()
    }

    /// The reader hears what a node says of its replicas, and of nothing else.
    pub(crate) fn hear_of(&mut self, node: usize) {
        let all = hints(&self.nodes[node]);
        self.reader.routes = Overlay::default();
        self.hint_reader(all);
    }

    /// A node that leads a shard which others have taken into another one, and does not know of that yet.
    fn leads_still(&self, shard: ShardId) -> Option<usize> {
        let frozen = |node: &Node| node.states.get(&shard).is_some_and(|state| state.phase().frozen().is_some());
        let gone = !self.groups.contains_key(&shard);
        self.nodes.iter().position(|node| gone && node.lives(shard) && frozen(node))
    }

    fn hint_reader(&mut self, all: Vec<News>) {
        for news in all {
            self.reader.routes.hint(news);
        }
    }

    fn hint_follower(&mut self, all: Vec<News>) {
        for news in all {
            self.follower.routes.hint(news);
        }
    }

    /// A leader is asked for a key, or for all keys of its shard.
    pub(crate) fn read(&mut self) {
        let key = self.any_key();
        let scan = self.dice.chance(400);
        let Some(way) = way(&self.reader.routes, &self.keys, key) else { return self.map_for_reader() };
        let group = self.groups.get(&way.shard);
        let leader = group.and_then(|group| self.leader_of(group)).or_else(|| self.leads_still(way.shard));
        let Some(leader) = leader else {
            let all = self.all_hints();
            return self.hint_reader(all);
        };
        let node = &self.nodes[leader];
        let Some(state) = node.states.get(&way.shard).filter(|_| node.lives(way.shard)) else { return };
        if state.descriptor().version != way.version {
            let all = hints(node);
            return self.hint_reader(all);
        }
        if state.changing().is_some() {
            return;
        }
        if group.is_some_and(|group| group.lease != Some(leader) && !self.has_quorum(group)) {
            return;
        }
        let applied = state.applied().0;
        let slot =
            if self.is_planted(HostFault::ReadAsApplied) { applied } else { group.map_or(applied, Group::chosen) };
        let keys = if scan { way.from..way.upto } else { key..key + 1 };
        let need = self.truth.acked(keys.clone());
        let (node, shard, version) = (leader, way.shard, way.version);
        self.reader.asked.push(Asked { node, shard, version, keys, slot, need, scan, lane_end: 0, after: Vec::new() });
    }

    /// A read that waits is answered, where its slot is applied.
    pub(crate) fn serve(&mut self) -> Check {
        if self.reader.asked.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(self.reader.asked.len());
        let asked = self.reader.asked[at].clone();
        let Some(state) = self.nodes[asked.node].states.get(&asked.shard) else {
            self.reader.asked.swap_remove(at);
            return Ok(());
        };
        if state.applied().0 < asked.slot {
            return Ok(());
        }
        let same = state.descriptor().version == asked.version;
        self.reader.asked.swap_remove(at);
        if !same && !self.is_planted(HostFault::ReadsNotRechecked) {
            let all = hints(&self.nodes[asked.node]);
            self.hint_reader(all);
            self.count("read refused by the second look");
            return Ok(());
        }
        let keys = asked.keys.clone();
        let read = if asked.scan {
            self.scan_of(keys.clone(), 0, 0)
        } else {
            Read::Range { key: self.keys.name(keys.start), from: Offset(0), limit: 0 }
        };
        let Some(found) = self.page(&asked, &read)? else { return Ok(()) };
        for (key, need) in keys.zip(&asked.need) {
            let name = self.keys.name(key);
            let of_key: Vec<KeyedRecord> = found.iter().filter(|record| record.key == name).cloned().collect();
            self.truth.read(key, &of_key, *need)?;
        }
        self.count(if asked.scan { "scan" } else { "read" });
        Ok(())
    }

    /// A scan of all records of these keys, above a timestamp and up to one (0: no bound).
    fn scan_of(&self, keys: Range<usize>, after_ts: u64, upto_ts: u64) -> Read {
        let (pos_from, pos_to) = (self.keys.from(keys.start), self.keys.to(keys.end));
        Read::Scan(Scan { pos_from, pos_to, history: true, tombstones: true, after_ts, upto_ts, ..Scan::default() })
    }

    /// The records that a replica gives; `None` where it refuses.
    fn page(&mut self, asked: &Asked, read: &Read) -> Check<Option<Vec<KeyedRecord>>> {
        let node = &mut self.nodes[asked.node];
        let Some(state) = node.states.get(&asked.shard) else { return Ok(None) };
        match query::read(state, &mut node.store, read)? {
            Ok(Answer::Page { records, cursor, .. }) => {
                ensure!(cursor.is_empty(), "a page of {} records is not the last", records.len());
                Ok(Some(records))
            }
            Ok(other) => Err(Violation(format!("a read is answered with {other:?}"))),
            Err(_) => Ok(None),
        }
    }

    /// A replica is asked for what is new in a lane.
    pub(crate) fn poll(&mut self, at: usize) {
        let Some(lane) = self.follower.lanes.get(at).cloned() else { return };
        let Some(way) = way(&self.follower.routes, &self.keys, lane.start) else { return self.map_for_follower() };
        let able: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].lives(way.shard)).collect();
        let leader = self.groups.get(&way.shard).and_then(|group| group.leader);
        let any = self.dice.pick(&able);
        let Some(node) = leader.filter(|leader| able.contains(leader)).or(any) else {
            let all = self.all_hints();
            return self.hint_follower(all);
        };
        let state = self.nodes[node].states.get(&way.shard);
        if state.is_some_and(|state| state.changing().is_some()) {
            return;
        }
        let version = state.map(|state| state.descriptor().version);
        if version != Some(way.version) {
            let all = hints(&self.nodes[node]);
            return self.hint_follower(all);
        }
        let end = lane.end.min(way.upto);
        if end < lane.end && !self.is_planted(HostFault::TailRaisesLane) {
            self.follower.lanes.swap_remove(at);
            self.follower.lanes.push(lane.start..end);
            self.follower.lanes.push(end..lane.end);
            if self.follower.lanes.len() > LANES_MAX {
                self.one_lane();
            }
        }
        let keys = lane.start..end;
        let after = self.follower.after[keys.clone()].to_vec();
        let (shard, version) = (way.shard, way.version);
        let (slot, need, scan, lane_end) = (0, Vec::new(), false, lane.end);
        self.follower.asked.push(Asked { node, shard, version, keys, slot, need, scan, lane_end, after });
    }

    /// All lanes become one.
    pub(crate) fn one_lane(&mut self) {
        self.follower.lanes.clear();
        self.follower.lanes.push(0..KEYS);
    }

    /// A tail that waits is answered.
    pub(crate) fn tail(&mut self) -> Check {
        if self.follower.asked.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(self.follower.asked.len());
        let asked = self.follower.asked.swap_remove(at);
        let (lost, few, joins) = (self.dice.chance(100), self.dice.chance(300), self.dice.chance(20));
        let Some(state) = self.nodes[asked.node].states.get(&asked.shard) else { return Ok(()) };
        let same = state.descriptor().version == asked.version;
        if lost {
            return Ok(());
        }
        if !same && !self.is_planted(HostFault::TailNotRechecked) {
            let all = hints(&self.nodes[asked.node]);
            self.hint_follower(all);
            self.count("tail refused by the second look");
            return Ok(());
        }
        let segment = |(key, after): (usize, &u64)| (self.keys.from(key), self.keys.to(key + 1), *after);
        let segments: Vec<(Bytes, Bytes, u64)> = asked.keys.clone().zip(&asked.after).map(segment).collect();
        let (from, to, limit) = (Bytes::new(), Bytes::new(), usize::from(few));
        let poll = TailPoll { from, to, segments, limit, wait_us: 0, tells_trimmed: true };
        let node = &mut self.nodes[asked.node];
        let Some(state) = node.states.get(&asked.shard) else { return Ok(()) };
        match query::read(state, &mut node.store, &Read::Tail(poll))? {
            Ok(Answer::Tail { records, upto_ts, .. }) => {
                let end = if self.is_planted(HostFault::TailRaisesLane) { asked.lane_end } else { asked.keys.end };
                self.give(&records, asked.keys.start..end, upto_ts)?;
            }
            Ok(Answer::TailScan { segment, upto_ts }) => {
                let (key, after) = (asked.keys.start + segment, asked.after[segment]);
                let read = self.scan_of(key..key + 1, after, upto_ts);
                if let Some(records) = self.page(&asked, &read)? {
                    self.count("tail by scan");
                    self.give(&records, key..key + 1, upto_ts)?;
                }
            }
            other => return Err(Violation(format!("a tail is answered with {other:?}"))),
        }
        if joins {
            self.one_lane();
        }
        Ok(())
    }

    /// The follower is given records: each once, in order. Everything up to a timestamp is given by now, of these keys.
    fn give(&mut self, records: &[KeyedRecord], keys: Range<usize>, upto_ts: u64) -> Check {
        for record in records {
            let Some(key) = self.keys.index(&record.key) else {
                return Err(Violation(format!("the tail gives a record of key {:?}", record.key)));
            };
            if record.record.ts_us <= self.follower.after[key] {
                // A poll before this one gave it.
                continue;
            }
            let (offset, given) = (record.offset.0, self.follower.given[key]);
            ensure!(offset == given as u64, "the tail gives record {offset} of key {key}, after {given} of them");
            self.truth.shown(key, record)?;
            self.follower.given[key] += 1;
            self.follower.after[key] = record.record.ts_us;
            self.count("record tailed");
        }
        for key in keys {
            self.follower.after[key] = self.follower.after[key].max(upto_ts);
        }
        Ok(())
    }
}
