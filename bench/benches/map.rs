//! What a map of 100,000 shards costs: whole, in one change, and from the rows of the system shard.
//!
//! Owns: nothing. Must never: include a disk or a network.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use synod_cluster::ids::{Epoch, ShardId};
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemState, encode_descriptor};

/// Shards of each table, and tables.
const SHARDS: u32 = 4_000;
const TABLES: u32 = 25;
const NODES: u32 = 300;

/// 100,000 shards of three members on 300 nodes.
fn state() -> SystemState {
    let founders: Vec<String> = (0..NODES).map(|node| format!("10.0.{}.{}:7400", node / 250, node % 250)).collect();
    let mut state = SystemState::found(7, &founders);
    for table in 0..TABLES {
        state.execute(&SystemCommand::CreateTable {
            name: format!("table-{table}"),
            partitioning: Partitioning::Hash,
            retention: Retention::All,
            shards: SHARDS,
            splits: Vec::new(),
            replicas: 3,
        });
    }
    state
}

/// The members of one shard change.
fn one_change(state: &SystemState, shard: u64) -> SystemCommand {
    let mut membership = state.shards[&ShardId(shard)].membership.clone();
    membership.epoch = Epoch(membership.epoch.0 + 1);
    SystemCommand::SetMembers { shard: ShardId(shard), membership }
}

fn map(c: &mut Criterion) {
    let state = state();
    let encoded = state.encode();
    let command = one_change(&state, 50_000);
    let mut changed = state.clone();
    changed.execute(&command);
    let delta = changed.delta_since(&state);
    let row = delta.shards.iter().filter_map(|(_, now)| now.as_deref()).map(|d| encode_descriptor(d).len());
    println!(
        "{} shards: {} bytes whole; one change: {} entries, {} bytes",
        state.shards.len(),
        encoded.len(),
        delta.shards.len() + delta.nodes.len() + delta.tables.len() + delta.reserved.len(),
        row.sum::<usize>()
    );
    let mut group = c.benchmark_group("map");
    group.sample_size(10);
    group.bench_function("encode_whole", |b| b.iter(|| black_box(&state).encode()));
    group.bench_function("decode_whole", |b| b.iter(|| SystemState::decode(black_box(encoded.clone()))));
    group.bench_function("snapshot_rows", |b| b.iter(|| black_box(&state).rows()));
    let rows: Vec<(u8, u64, Bytes)> =
        state.rows().into_iter().filter_map(|(kind, id, row)| Some((kind, id, row?))).collect();
    group.bench_function("restart_from_rows", |b| {
        b.iter_batched(|| rows.clone(), SystemState::from_rows, BatchSize::LargeInput);
    });
    group.bench_function("clone", |b| b.iter(|| black_box(&state).clone()));
    group.bench_function("change_a_clone", |b| {
        b.iter(|| {
            let mut next = black_box(&state).clone();
            next.execute(&command)
        });
    });
    group.bench_function("delta_of_one_change", |b| b.iter(|| black_box(&changed).delta_since(black_box(&state))));
    group.bench_function("apply_delta", |b| {
        b.iter_batched(|| delta.clone(), |delta| state.with_delta(delta), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, map);
criterion_main!(benches);
