//! What a synced write of the node's log costs, by entries a batch and bytes an entry, on the disk under the temporary
//! directory (`TMPDIR` says where). The bound of everything that is acknowledged.
//!
//! Owns: a log store of its own. Must never: run on a file system in memory unnoticed; the fsync is the point.

use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use synod_cluster::ids::{Ballot, Entry, EntryId, HardState, NodeId, NodeWriteSeq, ShardId, Slot};
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::logstore::{GroupWrite, LogBatch, LogStore};
use synod_paxos::types::{Epoch, Member, MemberRole, Membership, Payload};

/// Slots kept behind the newest, as a running node trims.
const KEPT: u64 = 4096;

struct Group {
    shard: ShardId,
    last: EntryId,
    trimmed: EntryId,
}

struct Bench {
    log: RocksLog,
    seq: u64,
    groups: Vec<Group>,
    payload: Bytes,
}

impl Bench {
    fn new(dir: &std::path::Path, groups: u64, bytes: usize) -> Bench {
        let log = RocksLog::open(dir, &LogOptions::default()).expect("a fresh directory opens");
        let member = Member { node: NodeId(1), role: MemberRole::Voter };
        let membership = Membership { epoch: Epoch(1), members: vec![member], first_leader: NodeId(1) };
        let create = |shard| GroupWrite {
            shard: ShardId(shard),
            genesis: Some(Bytes::from_static(b"bench")),
            hard: Some(HardState::initial(membership.clone())),
            ..GroupWrite::default()
        };
        let batch = LogBatch { groups: (1..=groups).map(create).collect(), seq: NodeWriteSeq(1), seen: Vec::new() };
        log.write(&batch).expect("the first write");
        let groups = (1..=groups)
            .map(|shard| Group { shard: ShardId(shard), last: EntryId::ZERO, trimmed: EntryId::ZERO })
            .collect();
        Bench { log, seq: 1, groups, payload: Bytes::from(vec![7; bytes]) }
    }

    /// One synced write of `entries` entries, spread over the groups.
    fn write(&mut self, entries: usize) {
        self.seq += 1;
        let origin = Ballot::first(Epoch(1), NodeId(1));
        let each = entries / self.groups.len();
        let payload = &self.payload;
        let group = |g: &mut Group| {
            let append: Vec<Entry> = (1..=each as u64)
                .map(|n| {
                    let id = EntryId { slot: Slot(g.last.slot.0 + n), origin };
                    Entry::new(id, id.slot.0, 0, Payload::Command(payload.clone()))
                })
                .collect();
            g.last = append.last().map_or(g.last, |e| e.id);
            let trim = (g.last.slot.0 > g.trimmed.slot.0 + 2 * KEPT).then(|| {
                g.trimmed = EntryId { slot: Slot(g.last.slot.0 - KEPT), origin };
                g.trimmed
            });
            GroupWrite { shard: g.shard, append, trim, ..GroupWrite::default() }
        };
        let groups = self.groups.iter_mut().map(group).collect();
        self.log.write(&LogBatch { groups, seq: NodeWriteSeq(self.seq), seen: Vec::new() }).expect("a synced write");
    }
}

fn synced(c: &mut Criterion) {
    for (bytes, groups) in [(128usize, 1u64), (1024, 1), (128, 64)] {
        let mut group = c.benchmark_group(format!("log_writer/synced_{bytes}B_{groups}_shards"));
        group.measurement_time(Duration::from_secs(3)).sample_size(20);
        for entries in [1usize, 8, 64, 512] {
            if entries < groups as usize {
                continue;
            }
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut bench = Bench::new(dir.path(), groups, bytes);
            group.throughput(Throughput::Elements(entries as u64));
            group.bench_function(format!("{entries}_entries"), |b| b.iter(|| bench.write(entries)));
        }
        group.finish();
    }
}

criterion_group!(benches, synced);
criterion_main!(benches);
