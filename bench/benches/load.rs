//! What counting an operation of a shard costs.
//!
//! Owns: nothing. Must never: include a disk, or a clock that is read for each operation.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use synod_engine::load::Load;
use synod_paxos::types::Micros;

/// Two operations of a shard in each microsecond.
fn operations(c: &mut Criterion) {
    let (mut load, key, mut count) = (Load::new(1), Bytes::from_static(b"key"), 0u64);
    let mut group = c.benchmark_group("load");
    group.throughput(Throughput::Elements(1));
    group.bench_function("write", |b| {
        b.iter(|| {
            count += 1;
            load.wrote(Micros(count / 2), black_box(100), || Bytes::copy_from_slice(&key));
        });
    });
    group.finish();
}

criterion_group!(benches, operations);
criterion_main!(benches);
