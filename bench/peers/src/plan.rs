//! What is measured: cells, each a workload at a number of clients.
//!
//! Owns: the names of workloads, and the sets of cells. Must never: run one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use synod_bench::{BenchSpec, Distribution, Pace, SpecError, Stop, Workload};

use crate::{PeersError, Result};

/// Records of one append.
pub const BATCH: u32 = 100;
/// Clients that append.
const APPENDERS: usize = 16;
/// Operations each client of an open loop may have under way: arrivals are sent when they are meant to be.
const OPEN_OUTSTANDING: usize = 16;
/// The number of clients whose closed loop says what an open loop's share is of.
pub const OPEN_CLIENTS: usize = 64;

/// When operations begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Each client sends when it has its answer.
    Closed,
    /// At random times, so many of a hundred of what the closed loop of as many clients made.
    Share(u8),
    /// At random times, so many a second.
    Rate(u64),
}

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// `put`, `get`, `append`, `mixed25`, `mixed75`, …
    pub work: String,
    /// Callers.
    pub clients: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// When operations begin.
    pub load: Load,
    /// Shards of the table, where that is what is measured: Synod alone, started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
}

impl Cell {
    /// A closed loop.
    #[must_use]
    pub fn closed(work: &str, clients: usize, value_bytes: usize) -> Cell {
        Cell { work: work.into(), clients, value_bytes, load: Load::Closed, shards: None }
    }

    /// An open loop of puts at a rate.
    #[must_use]
    pub fn at_rate(rate: u64, value_bytes: usize) -> Cell {
        Cell { load: Load::Rate(rate), ..Cell::closed("put", OPEN_CLIENTS, value_bytes) }
    }

    /// Its name, which tells it from all others.
    #[must_use]
    pub fn name(&self) -> String {
        let load = match self.load {
            Load::Closed => String::new(),
            Load::Share(percent) => format!(", open loop at {percent} %"),
            Load::Rate(rate) => format!(", open loop at {rate}/s"),
        };
        let shards = self.shards.map_or(String::new(), |n| format!(", {n} shard{}", if n == 1 { "" } else { "s" }));
        let noun = if self.clients == 1 { "client" } else { "clients" };
        let size = if self.value_bytes == 256 { String::new() } else { format!(", {} B", self.value_bytes) };
        format!("{}, {} {noun}{size}{shards}{load}", self.work, self.clients)
    }

    /// Whether it appends.
    #[must_use]
    pub fn appends(&self) -> bool {
        self.work == "append"
    }

    /// The load to be made; `max` is what the closed loop of an open one made a second.
    ///
    /// # Errors
    /// The workload is unknown, or the load cannot be made.
    pub fn spec(&self, run: &RunSpec, max: Option<f64>) -> Result<BenchSpec> {
        let (workload, distribution) = workload(&self.work)?;
        let pace = match self.load {
            Load::Closed => Pace::Closed,
            Load::Rate(rate) => Pace::Open { rate_per_s: rate as f64 },
            Load::Share(percent) => Pace::Open { rate_per_s: max.unwrap_or(0.0) * f64::from(percent) / 100.0 },
        };
        let spec = BenchSpec {
            workload,
            distribution,
            value_bytes: self.value_bytes,
            keys: run.keys,
            clients: self.clients,
            outstanding: if pace == Pace::Closed { 1 } else { OPEN_OUTSTANDING },
            pace,
            stop: Stop::After(run.time),
            warmup: run.warmup,
            preload: false,
            seed: run.seed,
            ..BenchSpec::default()
        };
        spec.check().map_err(PeersError::Spec)?;
        Ok(spec)
    }
}

/// What all cells of a run share.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// Distinct keys.
    pub keys: u64,
    /// How long each is measured.
    pub time: Duration,
    /// How long it runs before.
    pub warmup: Duration,
    /// Of keys and values.
    pub seed: u64,
}

const KNOWN: &str = "put, get, append, mixed0 to mixed100 (so many of a hundred are gets), ycsb-a, -b, -c, -d, -f (-e scans in \
     the order of keys, which not all of these systems offer)";

/// A workload by its name.
///
/// # Errors
/// There is none of that name; those there are are named.
pub fn workload(name: &str) -> Result<(Workload, Distribution)> {
    let unknown = || PeersError::Unknown { what: "workload", name: name.into(), known: KNOWN.into() };
    let zipfian = Distribution::Zipfian { exponent: 0.99 };
    let plain = |workload| Ok((workload, Distribution::Uniform));
    match name {
        "put" => plain(Workload::Put),
        "get" => plain(Workload::Get),
        "append" => plain(Workload::Append { batch: BATCH }),
        "ycsb-a" => Ok((Workload::Mixed { read_percent: 50 }, zipfian)),
        "ycsb-b" => Ok((Workload::Mixed { read_percent: 95 }, zipfian)),
        "ycsb-d" => Ok((Workload::ReadLatest { read_percent: 95 }, zipfian)),
        "ycsb-f" => Ok((Workload::ReadUpdate { read_percent: 50 }, zipfian)),
        "ycsb-c" => Ok((Workload::Get, zipfian)),
        _ => {
            let percent = name.strip_prefix("mixed").and_then(|n| n.parse().ok()).filter(|n| *n <= 100);
            plain(Workload::Mixed { read_percent: percent.ok_or_else(unknown)? })
        }
    }
}

/// A named set of cells.
///
/// # Errors
/// There is none of that name, or a number of clients is zero.
pub fn set(name: &str, clients: &[usize], value_bytes: usize) -> Result<Vec<Cell>> {
    if clients.is_empty() || clients.contains(&0) {
        return Err(PeersError::Spec(SpecError::Zero { field: "clients" }));
    }
    let at = |works: &[&str], sizes: &[usize], clients: &[usize]| -> Vec<Cell> {
        let each = |work: &str| {
            let sized = |size: &usize| clients.iter().map(|n| Cell::closed(work, *n, *size)).collect::<Vec<_>>();
            sizes.iter().flat_map(sized).collect::<Vec<_>>()
        };
        works.iter().flat_map(|work| each(work)).collect()
    };
    let open = |shares: &[u8]| -> Vec<Cell> {
        let cell = Cell::closed("put", OPEN_CLIENTS, value_bytes);
        shares.iter().map(|share| Cell { load: Load::Share(*share), ..cell.clone() }).collect()
    };
    let mut cells = Vec::new();
    match name {
        "core" => {
            cells.extend(at(&["put"], &[value_bytes], clients));
            cells.extend(open(&[50, 90]));
            cells.extend(at(&["get"], &[value_bytes], clients));
            cells.extend(at(&["append"], &[value_bytes], &[APPENDERS]));
        }
        "open" => cells.extend(open(&[25, 50, 75, 90])),
        "sizes" => cells.extend(at(&["put", "get"], &[128, 256, 1024, 4096, 16384], &[OPEN_CLIENTS])),
        "mixes" => cells.extend(at(&["mixed25", "mixed75"], &[value_bytes], clients)),
        "shards" => cells.extend([1, 4, 16, 64].map(|n| {
            let full = clients.iter().copied().filter(|n| *n <= 256).max().unwrap_or(OPEN_CLIENTS);
            Cell { shards: Some(n), ..Cell::closed("put", full, value_bytes) }
        })),
        "one-shard" => {
            let plain = [at(&["put"], &[value_bytes], clients), at(&["append"], &[value_bytes], &[APPENDERS])].concat();
            cells.extend(plain.into_iter().map(|cell| Cell { shards: Some(1), ..cell }));
        }
        "ycsb" => cells.extend(at(&["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-f", "ycsb-d"], &[1000], clients)),
        _ => {
            return Err(PeersError::Unknown {
                what: "set",
                name: name.into(),
                known: "core, open, sizes, mixes, shards, one-shard, ycsb".into(),
            });
        }
    }
    // An open loop's share is of a closed one, which comes first.
    if cells.iter().any(|cell| matches!(cell.load, Load::Share(_))) {
        let whole = Cell::closed("put", OPEN_CLIENTS, value_bytes);
        if !cells.contains(&whole) {
            cells.insert(0, whole);
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn unknown_names_are_refused_with_those_there_are() {
        let error = workload("puts").unwrap_err().to_string();
        assert!(error.starts_with("unknown workload \"puts\": known are put, get, append"), "{error}");
        assert!(workload("mixed101").is_err() && workload("mixed").is_err());
        let error = set("cores", &[1], 256).unwrap_err().to_string();
        assert!(error.contains("unknown set \"cores\": known are core"), "{error}");
    }

    #[test]
    fn no_clients_are_refused() {
        for clients in [&[][..], &[64, 0][..]] {
            assert_eq!(set("core", clients, 256).unwrap_err().to_string(), "clients is at least 1");
        }
    }

    #[test]
    fn a_share_follows_what_it_is_a_share_of() {
        for name in ["core", "open"] {
            let cells = set(name, &[1], 256).unwrap();
            let whole = cells.iter().position(|c| *c == Cell::closed("put", OPEN_CLIENTS, 256)).unwrap();
            let share = cells.iter().position(|c| matches!(c.load, Load::Share(_))).unwrap();
            assert!(whole < share, "{cells:?}");
        }
    }

    #[test]
    fn names_tell_cells_apart() {
        // Two sets may hold the same cell.
        let mut all: Vec<Cell> = Vec::new();
        for name in ["core", "sizes", "mixes", "shards", "one-shard", "ycsb"] {
            for cell in set(name, &[1, 64], 256).unwrap() {
                if !all.contains(&cell) {
                    all.push(cell);
                }
            }
        }
        let names: BTreeSet<String> = all.iter().map(Cell::name).collect();
        assert_eq!(names.len(), all.len(), "{names:?}");
    }
}
