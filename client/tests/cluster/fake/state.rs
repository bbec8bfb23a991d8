//! The fake cluster's one state: what a shard's leader would answer.
//!
//! Owns: the records, the outcomes of writes, and who leads. Must never: wait.

use std::collections::HashMap;

use bytes::Bytes;
use synod_client::proto as v1;
use v1::error::Kind;
use v1::shard_reply::Body as Answer;
use v1::shard_request::Body as Ask;
use xxhash_rust::xxh3::xxh3_64;

use super::{Logs, error};

/// What the nodes' clocks say.
pub const CLOCK_US: u64 = 1_000_000_000;

pub struct State {
    /// Node 1 where not set.
    pub leaders: HashMap<u64, u64>,
    pub logs: Logs,
    pub outcomes: HashMap<(Bytes, u64), v1::WriteResult>,
    pub ts_us: u64,
    /// Older records are not in memory: a tail must scan for them.
    pub in_memory_after_us: u64,
    /// Records a page.
    pub page: usize,
    pub executed: usize,
    /// Nodes say which shards there are by now where they refuse a request for older ones; older nodes do not.
    pub tells: bool,
}

fn position(map: &v1::ShardMap, table_id: u32, key: &[u8]) -> Vec<u8> {
    let hash = map.tables.iter().any(|t| t.id == table_id && t.partitioning() == v1::Partitioning::Hash);
    let mut pos = if hash { xxh3_64(key).to_be_bytes().to_vec() } else { vec![] };
    pos.extend_from_slice(key);
    pos
}

fn within(x: &[u8], from: &[u8], to: &[u8]) -> bool {
    from <= x && (to.is_empty() || x < to)
}

impl State {
    pub fn new() -> State {
        State {
            leaders: HashMap::new(),
            logs: Logs::new(),
            outcomes: HashMap::new(),
            ts_us: 0,
            in_memory_after_us: 0,
            page: 1000,
            executed: 0,
            tells: false,
        }
    }

    pub fn admit(&self, map: &v1::ShardMap, node: u64, shard: u64, version: u64) -> Result<v1::Shard, Kind> {
        let leader = self.leaders.get(&shard).copied().unwrap_or(1);
        let found = map.shards.iter().find(|s| s.id == shard && s.version == version);
        let found = found.ok_or_else(|| Kind::WrongShard(v1::WrongShard { now: self.now(map, shard) }))?;
        if leader == node { Ok(found.clone()) } else { Err(Kind::NotLeader(v1::NotLeader { leader, maybe: false })) }
    }

    /// The shards of this one's table, where the nodes tell them.
    fn now(&self, map: &v1::ShardMap, shard: u64) -> Vec<v1::Shard> {
        let table = map.shards.iter().find(|s| s.id == shard).map(|s| s.table_id);
        let leader = |id: u64| self.leaders.get(&id).copied().unwrap_or(1);
        let shards = map.shards.iter().filter(|s| self.tells && Some(s.table_id) == table);
        shards.map(|s| v1::Shard { leader_hint: leader(s.id), ..s.clone() }).collect()
    }

    pub fn answer(&mut self, map: &v1::ShardMap, shard: &v1::Shard, ask: &Ask) -> Answer {
        match ask {
            Ask::Write(write) => self.write(map, shard, write),
            Ask::Get(get) => {
                let log = self.logs.get(&(get.table_id, position(map, get.table_id, &get.key)));
                let record = log.and_then(|l| l.last()).cloned();
                Answer::Get(v1::GetResult { record, next_offset: log.map_or(0, |l| l.len() as u64), first_offset: 0 })
            }
            Ask::Read(read) => {
                let log = self.logs.get(&(read.table_id, position(map, read.table_id, &read.key)));
                let all: Vec<_> = log.into_iter().flatten().filter(|r| r.offset >= read.from).cloned().collect();
                let page = all.len().min(self.page).min(if read.limit == 0 { usize::MAX } else { read.limit as usize });
                let cursor = if page < all.len() { Bytes::from_static(b"more") } else { Bytes::new() };
                Answer::Page(v1::RecordPage { records: all[..page].to_vec(), cursor, ..v1::RecordPage::default() })
            }
            Ask::Scan(scan) => self.scan(shard, scan),
            Ask::Tail(poll) => self.tail(map, shard, poll),
            Ask::Clock(_) => Answer::ClockUs(CLOCK_US),
        }
    }

    fn write(&mut self, map: &v1::ShardMap, shard: &v1::Shard, write: &v1::Write) -> Answer {
        let id = write.id.clone().unwrap();
        assert_eq!(id.client.len(), 16);
        assert!(id.floor <= id.seq && id.deadline_us > CLOCK_US);
        if let Some(known) = self.outcomes.get(&(id.client.clone(), id.seq)) {
            return Answer::Write(known.clone());
        }
        // What a client asks of a batch whose keys went apart is whether its name is known.
        let inside = |op: &v1::WriteOp| within(&position(map, write.table_id, &op.key), &shard.from, &shard.to);
        assert!(write.ops.first().is_some_and(inside), "a key of another shard");
        if !write.ops.iter().all(inside) {
            return error(Kind::WrongShard(v1::WrongShard::default()));
        }
        self.executed += 1;
        let mut result = v1::WriteResult::default();
        for (op, op_index) in write.ops.iter().zip(0..) {
            let pos = position(map, write.table_id, &op.key);
            let actual = self.logs.get(&(write.table_id, pos)).map_or(0, |l| l.len() as u64);
            let holds = match op.expect.as_ref().and_then(|e| e.kind) {
                None => true,
                Some(v1::expect::Kind::Absent(_)) => actual == 0,
                Some(v1::expect::Kind::Exists(_)) => actual > 0,
                Some(v1::expect::Kind::NextOffset(next)) => actual == next,
            };
            if !holds {
                result.failed = Some(v1::ExpectationFailed { op_index, actual });
                break;
            }
        }
        if result.failed.is_none() {
            self.ts_us += 10;
            for op in &write.ops {
                let pos = position(map, write.table_id, &op.key);
                let offset = self.apply(write.table_id, pos, op);
                result.results.push(v1::OpResult { offset, ts_us: self.ts_us });
            }
        }
        self.outcomes.insert((id.client, id.seq), result.clone());
        Answer::Write(result)
    }

    fn apply(&mut self, table_id: u32, pos: Vec<u8>, op: &v1::WriteOp) -> u64 {
        let ts_us = self.ts_us;
        let log = self.logs.entry((table_id, pos)).or_default();
        let first = log.len() as u64;
        let record = |offset, value: Bytes, headers, tombstone| v1::Record {
            key: op.key.clone(),
            offset,
            ts_us,
            headers,
            value,
            tombstone,
        };
        match op.op.as_ref().unwrap() {
            v1::write_op::Op::Append(append) => {
                let new = append.records.iter().zip(first..);
                log.extend(new.map(|(r, offset)| record(offset, r.value.clone(), r.headers.clone(), false)));
            }
            v1::write_op::Op::Delete(_) => log.push(record(first, Bytes::new(), vec![], true)),
            v1::write_op::Op::Trim(_) => {}
        }
        first
    }

    fn scan(&self, shard: &v1::Shard, scan: &v1::Scan) -> Answer {
        let inside = |pos: &[u8], key: &[u8]| {
            within(pos, &shard.from, &shard.to)
                && within(pos, &scan.pos_from, &scan.pos_to)
                && within(key, &scan.from, &scan.to)
        };
        let mut all: Vec<(Vec<u8>, v1::Record)> = Vec::new();
        for ((table_id, pos), log) in &self.logs {
            if *table_id != scan.table_id || !log.first().is_some_and(|r| inside(pos, &r.key)) {
                continue;
            }
            let wanted = |r: &&v1::Record| {
                r.ts_us > scan.after_ts_us
                    && (scan.upto_ts_us == 0 || r.ts_us <= scan.upto_ts_us)
                    && (scan.include_tombstones || !r.tombstone)
            };
            let newest = if scan.history { 0 } else { log.len() - 1 };
            all.extend(log[newest..].iter().filter(wanted).map(|r| (pos.clone(), r.clone())));
        }
        if scan.reverse {
            all.reverse();
        }
        // The cursor is `position, 0xff, offset` of the last record given: good on any replica.
        let place = |(pos, r): &(Vec<u8>, v1::Record)| [pos.as_slice(), &[0xff], &r.offset.to_be_bytes()].concat();
        if !scan.cursor.is_empty() {
            let seen = all.iter().position(|x| place(x) == scan.cursor).map_or(0, |i| i + 1);
            all.drain(..seen);
        }
        let page = all.len().min(self.page).min(if scan.limit == 0 { usize::MAX } else { scan.limit as usize });
        let cursor = if page < all.len() && page > 0 { place(&all[page - 1]).into() } else { Bytes::new() };
        let records = all.into_iter().take(page).map(|(_, r)| r).collect();
        Answer::Page(v1::RecordPage { records, cursor, ..v1::RecordPage::default() })
    }

    fn tail(&self, map: &v1::ShardMap, shard: &v1::Shard, poll: &v1::TailPoll) -> Answer {
        for s in &poll.segments {
            let inside =
                s.pos_from >= shard.from && (shard.to.is_empty() || (!s.pos_to.is_empty() && s.pos_to <= shard.to));
            assert!(inside, "a segment outside of the shard");
        }
        let old = poll.segments.iter().position(|s| s.after_ts_us < self.in_memory_after_us);
        if let Some(segment) = old {
            let scan = Some(v1::TailScan { segment: segment as u32, upto_ts_us: self.in_memory_after_us });
            return Answer::Tail(v1::TailResult { scan, ..v1::TailResult::default() });
        }
        let wanted = |r: &v1::Record| {
            let pos = position(map, poll.table_id, &r.key);
            let hit = |s: &v1::TailSegment| within(&pos, &s.pos_from, &s.pos_to) && r.ts_us > s.after_ts_us;
            within(&r.key, &poll.from, &poll.to) && poll.segments.iter().any(hit)
        };
        let logs = self.logs.iter().filter(|((table_id, _), _)| *table_id == poll.table_id);
        let mut all: Vec<v1::Record> = logs.flat_map(|(_, log)| log).filter(|r| wanted(r)).cloned().collect();
        all.sort_by_key(|r| r.ts_us);
        let mut page = all.len().min(self.page);
        while page > 0 && page < all.len() && all[page - 1].ts_us == all[page].ts_us {
            page += 1;
        }
        let more = page < all.len();
        let upto_ts_us = if more { all[page - 1].ts_us } else { self.ts_us };
        all.truncate(page);
        Answer::Tail(v1::TailResult { records: all, upto_ts_us, more, scan: None })
    }
}

/// An answer that names no kind.
#[allow(dead_code)]
pub fn unavailable() -> Answer {
    error(Kind::Unavailable(v1::Unavailable {}))
}
