//! The operations of a run: which key, which value, read or write.
//!
//! Owns: the random choices, made anew from the seed by each caller. Must never: do them on the server's account; what is
//! costly to make is made before the run.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Zipf};

use crate::spec::{BenchSpec, Distribution, Workload};
use crate::target::Target;

/// Bytes that values are cut from.
const POOL_BYTES: usize = 4 << 20;

/// One operation to be made.
pub(crate) enum Op {
    Put(String, Bytes),
    Get(String),
    Append(String, Vec<Bytes>),
    /// A get and then a put of the same key.
    Update(String, Bytes),
}

/// What became of it.
pub(crate) struct Outcome {
    pub(crate) read: bool,
    /// Records written or found.
    pub(crate) records: u32,
    /// Bytes of values written or found.
    pub(crate) bytes: u64,
    pub(crate) error: Option<&'static str>,
}

/// Makes one caller's operations.
pub(crate) struct Ops {
    rng: ChaCha8Rng,
    keys: Keys,
    workload: Workload,
    value_bytes: usize,
    material: Material,
}

/// What all callers share.
#[derive(Clone)]
pub(crate) struct Material {
    /// Random bytes.
    pool: Bytes,
    /// The number of the newest key, where keys are added.
    newest: Arc<AtomicU64>,
}

impl Material {
    pub(crate) fn new(spec: &BenchSpec) -> Material {
        let mut pool = vec![0; spec.value_bytes + POOL_BYTES];
        ChaCha8Rng::seed_from_u64(spec.seed).fill_bytes(&mut pool);
        Material { pool: pool.into(), newest: Arc::new(AtomicU64::new(spec.keys.saturating_sub(1))) }
    }
}

impl Ops {
    pub(crate) fn new(spec: &BenchSpec, caller: u64, material: Material) -> Ops {
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        rng.set_stream(caller + 1);
        Ops { rng, keys: Keys::new(spec), workload: spec.workload, value_bytes: spec.value_bytes, material }
    }

    pub(crate) fn next(&mut self) -> Op {
        let key = self.keys.name(self.keys.draw(&mut self.rng));
        let workload = self.workload;
        match workload {
            Workload::Put => Op::Put(key, self.value()),
            Workload::Get => Op::Get(key),
            Workload::Append { batch } => Op::Append(key, (0..batch).map(|_| self.value()).collect()),
            Workload::Mixed { read_percent } if self.reads(read_percent) => Op::Get(key),
            Workload::Mixed { .. } => Op::Put(key, self.value()),
            Workload::ReadUpdate { read_percent } if self.reads(read_percent) => Op::Get(key),
            Workload::ReadUpdate { .. } => Op::Update(key, self.value()),
            Workload::ReadLatest { read_percent } if self.reads(read_percent) => {
                let back = self.keys.rank(&mut self.rng);
                let newest = self.material.newest.load(Ordering::Relaxed);
                Op::Get(self.keys.name(newest.saturating_sub(back)))
            }
            Workload::ReadLatest { .. } => {
                let new = self.material.newest.fetch_add(1, Ordering::Relaxed) + 1;
                Op::Put(self.keys.name(new), self.value())
            }
        }
    }

    fn reads(&mut self, percent: u8) -> bool {
        self.rng.random_range(0..100u8) < percent
    }

    /// The write that puts key number `n` there before the run.
    pub(crate) fn preload(&mut self, n: u64) -> (String, Bytes) {
        (self.keys.name(n), self.value())
    }

    fn value(&mut self) -> Bytes {
        let at = self.rng.random_range(0..POOL_BYTES);
        self.material.pool.slice(at..at + self.value_bytes)
    }
}

impl Op {
    pub(crate) async fn run<T: Target>(self, target: &T) -> Outcome {
        let (read, records, bytes, result) = match self {
            Op::Put(key, value) => (false, 1, value.len() as u64, target.put(key, value).await.map(|()| None)),
            Op::Append(key, values) => {
                let (count, bytes) = (values.len() as u32, values.iter().map(|value| value.len() as u64).sum());
                (false, count, bytes, target.append(key, values).await.map(|()| None))
            }
            Op::Get(key) => (true, 0, 0, target.get(key).await),
            Op::Update(key, value) => {
                let bytes = value.len() as u64;
                let result = match target.get(key.clone()).await {
                    Ok(_) => target.put(key, value).await.map(|()| None),
                    Err(error) => Err(error),
                };
                (false, 1, bytes, result)
            }
        };
        match result {
            Ok(Some(found)) => Outcome { read, records: 1, bytes: found, error: None },
            Ok(None) => Outcome { read, records, bytes, error: None },
            Err(error) => Outcome { read, records: 0, bytes: 0, error: Some(T::code(&error)) },
        }
    }
}

/// The keys of a run.
struct Keys {
    count: NonZeroU64,
    prefix: String,
    zipf: Option<Zipf<f64>>,
    stride: u64,
}

impl Keys {
    fn new(spec: &BenchSpec) -> Keys {
        let count = NonZeroU64::new(spec.keys).unwrap_or(NonZeroU64::MIN);
        let zipf = match spec.distribution {
            Distribution::Uniform => None,
            Distribution::Zipfian { exponent } => Zipf::new(spec.keys as f64, exponent).ok(),
        };
        // A step without a common divisor with the count visits every key, far from the one before.
        let mut stride = (spec.keys as f64 * 0.618_033_988_75) as u64 | 1;
        while gcd(stride, spec.keys) != 1 {
            stride += 2;
        }
        Keys { count, prefix: spec.key_prefix.clone(), zipf, stride }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> u64 {
        let rank = self.rank(rng);
        if self.zipf.is_none() {
            return rank;
        }
        (u128::from(rank) * u128::from(self.stride) % u128::from(self.count.get())) as u64
    }

    /// How popular the next key is, from 0.
    fn rank(&self, rng: &mut ChaCha8Rng) -> u64 {
        match &self.zipf {
            None => rng.random_range(0..self.count.get()),
            Some(zipf) => (zipf.sample(rng) as u64).saturating_sub(1).min(self.count.get() - 1),
        }
    }

    fn name(&self, n: u64) -> String {
        format!("{}{n:010}", self.prefix)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn hits(distribution: Distribution, keys: u64) -> HashMap<u64, u32> {
        let spec = BenchSpec { distribution, keys, ..BenchSpec::default() };
        let (keys, mut rng) = (Keys::new(&spec), ChaCha8Rng::seed_from_u64(7));
        let mut hits = HashMap::new();
        for _ in 0..100_000 {
            *hits.entry(keys.draw(&mut rng)).or_default() += 1;
        }
        hits
    }

    #[test]
    fn uniform_hits_all_alike() {
        let hits = hits(Distribution::Uniform, 100);
        assert!(hits.len() == 100 && hits.values().all(|n| (800..1200).contains(n)), "{hits:?}");
    }

    #[test]
    fn zipfian_prefers_a_few_that_are_spread() {
        let hits = hits(Distribution::Zipfian { exponent: 0.99 }, 1000);
        let mut sorted: Vec<(u64, u32)> = hits.into_iter().collect();
        sorted.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        assert!(sorted[0].1 > 10_000 && sorted[0].1 > sorted[100].1 * 20, "{:?}", &sorted[..5]);
        assert!(sorted[0].0.abs_diff(sorted[1].0) > 100, "{:?}", &sorted[..5]);
        assert!(sorted.iter().all(|(key, _)| *key < 1000));
    }

    #[test]
    fn the_same_seed_makes_the_same_keys_and_callers_differ() {
        let spec = BenchSpec { value_bytes: 8, ..BenchSpec::default() };
        let material = Material::new(&spec);
        let keys = |caller| {
            let mut ops = Ops::new(&spec, caller, material.clone());
            (0..5)
                .map(|_| if let Op::Put(key, value) = ops.next() { (key, value) } else { panic!("no put") })
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(0), keys(0));
        assert_ne!(keys(0), keys(1));
    }

    #[test]
    fn a_single_key_and_an_empty_value_work() {
        let spec = BenchSpec { keys: 1, value_bytes: 0, ..BenchSpec::default() };
        let mut ops = Ops::new(&spec, 0, Material::new(&spec));
        assert!(matches!(ops.next(), Op::Put(key, value) if key == "key-0000000000" && value.is_empty()));
    }

    #[test]
    fn the_newest_keys_are_read_most_and_new_ones_are_added() {
        let spec = BenchSpec {
            workload: Workload::ReadLatest { read_percent: 95 },
            distribution: Distribution::Zipfian { exponent: 0.99 },
            keys: 1000,
            value_bytes: 8,
            ..BenchSpec::default()
        };
        let mut ops = Ops::new(&spec, 0, Material::new(&spec));
        let (mut added, mut near, mut reads) = (0, 0, 0);
        for _ in 0..10_000 {
            match ops.next() {
                Op::Put(key, _) => {
                    added += 1;
                    assert_eq!(key, format!("key-{:010}", 999 + added));
                }
                Op::Get(key) => {
                    reads += 1;
                    let n: u64 = key["key-".len()..].parse().unwrap();
                    assert!(n <= 999 + added);
                    near += u64::from(999 + added - n < 10);
                }
                _ => panic!("neither"),
            }
        }
        assert!((400..600).contains(&added) && near * 3 > reads, "{added} added, {near} of {reads} near");
    }

    #[test]
    fn updates_stand_beside_gets() {
        let spec = BenchSpec { workload: Workload::ReadUpdate { read_percent: 50 }, ..BenchSpec::default() };
        let mut ops = Ops::new(&spec, 0, Material::new(&spec));
        let updates = (0..1000).filter(|_| matches!(ops.next(), Op::Update(..))).count();
        assert!((400..600).contains(&updates), "{updates}");
    }
}
