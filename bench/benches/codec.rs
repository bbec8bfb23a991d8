//! What the frozen encodings cost: entries, messages between nodes, requests of an entry, rows of the state store.
//!
//! Owns: nothing. Must never: include a disk.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use synod_cluster::ids::{Ballot, ClientId, ClientSeq, Entry, EntryId, NodeId, Offset, Slot, TableId};
use synod_engine::codec::record::{Head, Newest, Record};
use synod_engine::codec::{entry, message};
use synod_engine::command::{
    Action, Expect, KeyOp, NewRecord, Op, WriteId, WriteRequest, decode_requests, encode_requests,
};
use synod_paxos::message::Message;
use synod_paxos::types::{Epoch, Payload};

const VALUE_BYTES: usize = 256;

fn value(seed: u64) -> Bytes {
    (0..VALUE_BYTES).map(|i| (seed as usize * 31 + i * 7) as u8).collect::<Vec<_>>().into()
}

fn request(n: u64) -> WriteRequest {
    let record = NewRecord { headers: Vec::new(), value: value(n) };
    let op =
        KeyOp { key: Bytes::from(format!("key-{n:012}")), expect: Expect::Any, action: Action::Append(vec![record]) };
    WriteRequest {
        id: WriteId {
            client: ClientId(77),
            seq: ClientSeq(n),
            floor: ClientSeq(n / 2),
            deadline_us: 1_800_000_000_000_000,
        },
        op: Op::Write { table: TableId(3), ops: vec![op] },
    }
}

fn ballot() -> Ballot {
    Ballot { epoch: Epoch(1), round: 3, node: NodeId(2) }
}

fn log_entry(slot: u64, bytes: usize) -> Entry {
    let id = EntryId { slot: Slot(slot), origin: ballot() };
    Entry::new(id, 1_700_000_000_000_000 + slot, 0, Payload::Command(Bytes::from(vec![slot as u8; bytes])))
}

fn entries(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/entry");
    for bytes in [128usize, 4096, 262_144] {
        let made = log_entry(9, bytes);
        let encoded = entry::to_bytes(&made);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("encode_{bytes}B"), |b| b.iter(|| entry::to_bytes(black_box(&made))));
        group.bench_function(format!("decode_{bytes}B"), |b| {
            b.iter(|| entry::decode(black_box(encoded.clone())).expect("just encoded"));
        });
    }
    group.finish();
}

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/accept");
    for count in [1u64, 64] {
        let accept = Message::Accept {
            ballot: ballot(),
            prev: EntryId { slot: Slot(8), origin: ballot() },
            entries: (9..9 + count).map(|slot| log_entry(slot, VALUE_BYTES)).collect(),
            commit: Slot(8),
            all_have: Slot(5),
        };
        let encoded = message::encode(&accept);
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("encode_{count}_entries"), |b| b.iter(|| message::encode(black_box(&accept))));
        group.bench_function(format!("decode_{count}_entries"), |b| {
            b.iter(|| message::decode(black_box(encoded.clone())).expect("just encoded"));
        });
    }
    group.finish();
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/requests");
    for count in [1u64, 64, 512] {
        let made: Vec<WriteRequest> = (0..count).map(request).collect();
        let hint = made.iter().map(WriteRequest::size).sum();
        let encoded = encode_requests(made.iter(), hint);
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("encode_{count}"), |b| b.iter(|| encode_requests(black_box(&made).iter(), hint)));
        group.bench_function(format!("decode_{count}"), |b| {
            b.iter(|| decode_requests(black_box(encoded.clone())).expect("just encoded"));
        });
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let record = Record { ts_us: 1_700_000_000_000_000, headers: Vec::new(), value: value(1), tombstone: false };
    let head =
        Head { next: Offset(12), first: Offset(11), bytes: 256, newest: Newest::Inline(record.clone()), totals: None };
    let mut group = c.benchmark_group("codec/rows_256B");
    group.bench_function("encode_head", |b| b.iter(|| black_box(&head).encode()));
    group.bench_function("decode_head", |b| {
        b.iter_batched(|| head.encode(), |row| Head::decode(row).expect("just encoded"), BatchSize::SmallInput);
    });
    group.bench_function("encode_record", |b| b.iter(|| black_box(&record).encode()));
    group.bench_function("decode_record", |b| {
        b.iter_batched(|| record.encode(), |row| Record::decode(row).expect("just encoded"), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, entries, messages, requests, rows);
criterion_main!(benches);
