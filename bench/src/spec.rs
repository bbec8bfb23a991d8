//! What load to make.
//!
//! Owns: the description of a run and its checks. Must never: make load.

use std::time::Duration;

/// A run that cannot be made, and why.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No such workload.
    #[error("unknown workload {name:?}: known are put, get, append and mixed")]
    UnknownWorkload {
        /// The name given.
        name: String,
    },
    /// No such key distribution.
    #[error("unknown key distribution {name:?}: known are uniform and zipfian")]
    UnknownDistribution {
        /// The name given.
        name: String,
    },
    /// A count that must not be zero.
    #[error("{field} is at least 1")]
    Zero {
        /// Which.
        field: &'static str,
    },
    /// A number outside of its bounds.
    #[error("{field} is {value}, which is not within {bounds}")]
    OutOfBounds {
        /// Which.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        bounds: &'static str,
    },
    /// A rate that nothing can keep.
    #[error("a rate of {rate_per_s} operations a second is impossible: it is more than 0 and at most 10000000")]
    ImpossibleRate {
        /// The rate given.
        rate_per_s: f64,
    },
}

/// What each operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One record to a key.
    Put,
    /// The newest record of a key.
    Get,
    /// Several records to a key, atomically.
    Append {
        /// How many.
        batch: u32,
    },
    /// Gets and puts.
    Mixed {
        /// Of 100 operations so many are gets.
        read_percent: u8,
    },
    /// Gets, and puts of a key that was got right before, both counted as one (YCSB's workload F).
    ReadUpdate {
        /// Of 100 operations so many are gets alone.
        read_percent: u8,
    },
    /// Gets of what was written last, and puts of new keys (YCSB's workload D).
    ReadLatest {
        /// Of 100 operations so many are gets.
        read_percent: u8,
    },
}

impl Workload {
    /// A workload by its name: `put`, `get`, `append` (of `batch` records), `mixed` (`read_percent` gets).
    pub fn parse(name: &str, batch: u32, read_percent: u8) -> Result<Workload, SpecError> {
        match name {
            "put" => Ok(Workload::Put),
            "get" => Ok(Workload::Get),
            "append" => Ok(Workload::Append { batch }),
            "mixed" => Ok(Workload::Mixed { read_percent }),
            _ => Err(SpecError::UnknownWorkload { name: name.into() }),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Append { .. } => "append",
            Workload::Mixed { .. } => "mixed",
            Workload::ReadUpdate { .. } => "read-update",
            Workload::ReadLatest { .. } => "read-latest",
        }
    }

    /// Whether it reads.
    pub fn reads(self) -> bool {
        matches!(self, Workload::Get) || self.mixed()
    }

    /// Whether it both reads and writes.
    pub fn mixed(self) -> bool {
        self.read_percent().is_some()
    }

    fn read_percent(self) -> Option<u8> {
        match self {
            Workload::Mixed { read_percent }
            | Workload::ReadUpdate { read_percent }
            | Workload::ReadLatest { read_percent } => Some(read_percent),
            Workload::Put | Workload::Get | Workload::Append { .. } => None,
        }
    }
}

/// Which keys are hit how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The key of rank k in proportion to 1 / k^exponent; hot keys are spread over the key space.
    Zipfian {
        /// 0.99 is what others use.
        exponent: f64,
    },
}

impl Distribution {
    /// A distribution by its name: `uniform` or `zipfian` (exponent 0.99).
    pub fn parse(name: &str) -> Result<Distribution, SpecError> {
        match name {
            "uniform" => Ok(Distribution::Uniform),
            "zipfian" => Ok(Distribution::Zipfian { exponent: 0.99 }),
            _ => Err(SpecError::UnknownDistribution { name: name.into() }),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipfian { .. } => "zipfian",
        }
    }
}

/// When operations begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the one before has ended: the greatest throughput.
    Closed,
    /// At random times (Poisson) of a given rate, whether or not others have ended: the latency at a load.
    Open {
        /// Arrivals a second, over all callers.
        rate_per_s: f64,
    },
}

/// When the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After a time, warm-up not counted.
    After(Duration),
    /// After so many operations, warm-up not counted.
    Ops(u64),
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchSpec {
    /// The table, which must exist.
    pub table: String,
    /// What each operation does.
    pub workload: Workload,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// How many keys there are.
    pub keys: u64,
    /// What keys begin with.
    pub key_prefix: String,
    /// Which of them are hit.
    pub distribution: Distribution,
    /// Client instances: each has its own connections.
    pub connections: usize,
    /// Callers at work at the same time, spread over the connections.
    pub clients: usize,
    /// Operations each caller has under way at most.
    pub outstanding: usize,
    /// When operations begin.
    pub pace: Pace,
    /// When the run ends.
    pub stop: Stop,
    /// Time before it whose operations do not count.
    pub warmup: Duration,
    /// Write every key once before the run; wanted by workloads that read.
    pub preload: bool,
    /// Makes the same keys in the same order.
    pub seed: u64,
}

impl Default for BenchSpec {
    fn default() -> BenchSpec {
        BenchSpec {
            table: "bench".into(),
            workload: Workload::Put,
            value_bytes: 256,
            keys: 100_000,
            key_prefix: "key-".into(),
            distribution: Distribution::Uniform,
            connections: 1,
            clients: 64,
            outstanding: 1,
            pace: Pace::Closed,
            stop: Stop::After(Duration::from_secs(10)),
            warmup: Duration::from_secs(2),
            preload: false,
            seed: 1,
        }
    }
}

impl BenchSpec {
    /// Refuses what cannot be run, by name.
    pub fn check(&self) -> Result<(), SpecError> {
        for (field, value) in [
            ("clients", self.clients as u64),
            ("outstanding", self.outstanding as u64),
            ("connections", self.connections as u64),
            ("keys", self.keys),
        ] {
            if value == 0 {
                return Err(SpecError::Zero { field });
            }
        }
        let out = |field, value: String, bounds| Err(SpecError::OutOfBounds { field, value, bounds });
        if self.clients.saturating_mul(self.outstanding) > 1 << 20 {
            let value = format!("{} x {}", self.clients, self.outstanding);
            return out("clients x outstanding", value, "1..=1048576");
        }
        if self.connections > 1024 {
            return out("connections", self.connections.to_string(), "1..=1024");
        }
        if self.value_bytes > 16 << 20 {
            return out("value_bytes", self.value_bytes.to_string(), "0..=16777216");
        }
        match self.workload {
            Workload::Append { batch } if !(1..=10_000).contains(&batch) => {
                return out("batch", batch.to_string(), "1..=10000");
            }
            _ => {}
        }
        if let Some(percent) = self.workload.read_percent().filter(|percent| *percent > 100) {
            return out("read_percent", percent.to_string(), "0..=100");
        }
        if let Distribution::Zipfian { exponent } = self.distribution
            && !(exponent > 0.0 && exponent <= 10.0)
        {
            return out("exponent", exponent.to_string(), "more than 0 and at most 10");
        }
        if let Pace::Open { rate_per_s } = self.pace
            && !(rate_per_s > 0.0 && rate_per_s <= 1e7)
        {
            return Err(SpecError::ImpossibleRate { rate_per_s });
        }
        match self.stop {
            Stop::Ops(0) => Err(SpecError::Zero { field: "ops" }),
            Stop::After(time) if time.is_zero() => Err(SpecError::Zero { field: "duration" }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut BenchSpec)) -> String {
        let mut spec = BenchSpec::default();
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        assert!(BenchSpec::default().check().is_ok());
        assert_eq!(refused(|s| s.clients = 0), "clients is at least 1");
        assert_eq!(refused(|s| s.outstanding = 0), "outstanding is at least 1");
        assert_eq!(refused(|s| s.keys = 0), "keys is at least 1");
        assert_eq!(refused(|s| s.stop = Stop::Ops(0)), "ops is at least 1");
        assert!(refused(|s| s.workload = Workload::Append { batch: 0 }).contains("batch"));
        assert!(refused(|s| s.workload = Workload::Mixed { read_percent: 101 }).contains("0..=100"));
        for rate_per_s in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(refused(|s| s.pace = Pace::Open { rate_per_s }).contains("impossible"));
        }
        assert!(refused(|s| s.distribution = Distribution::Zipfian { exponent: f64::NAN }).contains("exponent"));
    }

    #[test]
    fn names_are_parsed() {
        assert_eq!(Workload::parse("append", 7, 0), Ok(Workload::Append { batch: 7 }));
        assert!(Workload::parse("puts", 1, 0).unwrap_err().to_string().contains("known are put"));
        assert_eq!(Distribution::parse("uniform"), Ok(Distribution::Uniform));
        assert!(Distribution::parse("pareto").is_err());
    }
}
