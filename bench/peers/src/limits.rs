//! What the machine allows, and how much of that Synod reaches.
//!
//! Owns: the bound of each result, min(cores ÷ CPU an operation, synced writes a second × operations each), and the split of
//! the processor time. Must never: take another run's limits for a result: machine and hour make all the difference.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::disk::Syncs;
use crate::echo::Echo;
use crate::machine::Machine;
use crate::measure::{Figures, Measured};
use crate::plot::thousands;

/// Synced batches of one RocksDB writer, as the bench `log_writer` measured them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Batches {
    /// Entries a batch.
    pub entries: u64,
    /// Bytes an entry.
    pub bytes: u64,
    /// Shards the entries are spread over.
    pub shards: u64,
    /// Mean time of a batch, microseconds.
    pub batch_us: f64,
    /// Entries a second.
    pub entries_per_s: f64,
}

/// A result beside its bound.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// What.
    pub name: String,
    /// Operations a second.
    pub ops_per_s: f64,
    /// What the processors allow: cores divided by the processor time of an operation.
    pub cpu_bound: f64,
    /// What the disk allows: its synced writes a second, shared by the nodes, times the operations of each.
    pub sync_bound: Option<f64>,
    /// The result in hundredths of the lower of the two.
    pub percent: f64,
    /// Processor time by component, microseconds an operation.
    pub components: Vec<(String, f64)>,
    /// Of the workers' time, as they count it: seconds in log writes and in applying, microseconds an operation.
    pub worker_us: Vec<(String, f64)>,
    /// The rest of what it cost.
    pub cost: crate::measure::Cost,
}

/// A result beside its bound; `syncs_per_s` is what the disk does for as many writers as there are nodes.
#[must_use]
pub fn share(measured: &Measured, cores: usize, syncs_per_s: f64) -> Option<Share> {
    let figures = measured.sound()?;
    let cost = &figures.cost;
    let cpu_bound = cores as f64 * 1e6 / (cost.servers_us + cost.client_us).max(1e-3);
    // Each operation is synced by every node, and the nodes share the disk.
    let sync_bound = cost.ops_per_fsync.map(|ops| syncs_per_s / NODES * ops);
    let bound = sync_bound.unwrap_or(f64::INFINITY).min(cpu_bound);
    Some(Share {
        name: measured.cell.name(),
        ops_per_s: figures.ops_per_s,
        cpu_bound,
        sync_bound,
        percent: 100.0 * figures.ops_per_s / bound,
        components: components(figures),
        worker_us: worker(figures),
        cost: cost.clone(),
    })
}

const NODES: f64 = 3.0;

/// Threads put together by what they do.
fn components(figures: &Figures) -> Vec<(String, f64)> {
    let cost = &figures.cost;
    let mut sums: BTreeMap<&str, f64> = BTreeMap::from([("client", cost.client_us)]);
    for (name, us) in &cost.threads_us {
        let component = match name.as_str() {
            "worker" => "workers",
            "log-writer" => "log writers",
            "synod-net" => "connections",
            "state-flush" => "flushes",
            name if name.starts_with("rocksdb") => "flushes",
            _ => "other",
        };
        *sums.entry(component).or_default() += us;
    }
    // Threads that have ended, and what ticks are too coarse for.
    let threads: f64 = cost.threads_us.values().sum();
    *sums.entry("other").or_default() += (cost.servers_us - threads).max(0.0);
    let order = ["client", "connections", "workers", "log writers", "flushes", "other"];
    order.iter().filter_map(|name| Some(((*name).to_owned(), *sums.get(name)?))).collect()
}

fn worker(figures: &Figures) -> Vec<(String, f64)> {
    let of = |name: &str, counter: &str| {
        let per_s = figures.cost.counters_per_s.get(counter)?;
        Some((name.to_owned(), per_s * 1e6 / figures.ops_per_s.max(1e-3)))
    };
    [("log writes", "synod_engine_log_write_seconds_sum"), ("applying", "synod_engine_apply_seconds_sum")]
        .into_iter()
        .filter_map(|(name, counter)| of(name, counter))
        .collect()
}

/// What the bench `log_writer` left behind in Criterion's directory.
#[must_use]
pub fn batches(criterion: &Path) -> Vec<Batches> {
    let mut found = Vec::new();
    let Ok(groups) = std::fs::read_dir(criterion) else { return found };
    for group in groups.flatten() {
        // log_writer_synced_128B_1_shards/64_entries/new/estimates.json
        let name = group.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("log_writer_synced_") else { continue };
        let numbers = numbers(rest);
        let (Some(bytes), Some(shards)) = (numbers.first(), numbers.get(1)) else { continue };
        for bench in std::fs::read_dir(group.path()).into_iter().flatten().flatten() {
            let Some(entries) = bench.file_name().to_str().and_then(|n| n.strip_suffix("_entries")?.parse().ok())
            else {
                continue;
            };
            let text = std::fs::read_to_string(bench.path().join("new/estimates.json")).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(ns) = json["mean"]["point_estimate"].as_f64() {
                let entries_per_s = entries as f64 * 1e9 / ns;
                found.push(Batches { entries, bytes: *bytes, shards: *shards, batch_us: ns / 1e3, entries_per_s });
            }
        }
    }
    found.sort_by_key(|b| (b.shards, b.bytes, b.entries));
    found
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Limits {
    /// Where.
    pub machine: Machine,
    /// The disk.
    pub syncs: Vec<Syncs>,
    /// RocksDB.
    pub batches: Vec<Batches>,
    /// gRPC.
    pub echoes: Vec<Echo>,
    /// Synod beside them.
    pub shares: Vec<Share>,
}

/// As a person reads it.
#[must_use]
pub fn markdown(limits: &Limits) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = physical(&mut text, limits);
    let _ = reached(&mut text, &limits.shares);
    text
}

fn physical(text: &mut String, limits: &Limits) -> std::fmt::Result {
    writeln!(text, "# The machine's limits, and Synod's share of them\n")?;
    writeln!(text, "{}\n", limits.machine.line())?;
    writeln!(
        text,
        "| 4 KiB write + fdatasync | a second | p50 µs | p99 µs | p99.9 µs |\n| --- | --- | --- | --- | --- |"
    )?;
    for s in &limits.syncs {
        let how = if s.appending { "appending" } else { "over what is there" };
        let noun = if s.writers == 1 { "writer" } else { "writers, a file each" };
        writeln!(
            text,
            "| {} {noun}, {how} | {} | {} | {} | {} |",
            s.writers,
            thousands(s.per_s),
            s.p50_us,
            s.p99_us,
            s.p99_9_us
        )?;
    }
    if limits.batches.is_empty() {
        writeln!(
            text,
            "\nRocksDB's synced batches: not measured (`cargo bench --bench log_writer` leaves them behind)."
        )?;
    } else {
        writeln!(
            text,
            "\n| RocksDB log, one writer, one synced batch | µs a batch | entries a second |\n| --- | --- | --- |"
        )?;
        for b in &limits.batches {
            let shards = if b.shards == 1 { String::new() } else { format!(" over {} shards", b.shards) };
            writeln!(
                text,
                "| {} entries of {} B{shards} | {:.0} | {} |",
                b.entries,
                b.bytes,
                b.batch_us,
                thousands(b.entries_per_s)
            )?;
        }
    }
    writeln!(text, "\n| tonic echo, 128 B, both ends here, a thread each | operations a second |\n| --- | --- |")?;
    for e in &limits.echoes {
        writeln!(
            text,
            "| {}, {} under way, {} a message | {} |",
            e.kind,
            e.in_flight,
            e.ops_per_message,
            thousands(e.ops_per_s)
        )?;
    }
    Ok(())
}

fn reached(text: &mut String, shares: &[Share]) -> std::fmt::Result {
    if shares.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n## Synod's share\n\nThree nodes and the client on this machine. The bound is the lower of cores ÷ processor time an operation (all processes), and the disk's synced writes a second (three writers at once, over what is there) ÷ 3 × operations a sync.\n"
    )?;
    writeln!(
        text,
        "| work | operations/s | processors allow | disk allows | share of the bound | fsyncs/s | ops a sync | B written a user's B |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    let some = |value: Option<f64>, decimals: usize| match (value, decimals) {
        (None, _) => "–".to_owned(),
        (Some(value), 0) => thousands(value),
        (Some(value), decimals) => format!("{value:.decimals$}"),
    };
    for s in shares {
        let c = &s.cost;
        let (fsyncs, ops, bytes) = (some(c.fsyncs_per_s, 0), some(c.ops_per_fsync, 1), some(c.written_per_byte, 1));
        writeln!(
            text,
            "| {} | {} | {} | {} | {:.0} % | {fsyncs} | {ops} | {bytes} |",
            s.name,
            thousands(s.ops_per_s),
            thousands(s.cpu_bound),
            some(s.sync_bound, 0),
            s.percent
        )?;
    }
    writeln!(
        text,
        "\nProcessor time by component, microseconds an operation over all nodes (an append of 100 is one operation); in the last columns, of the workers, the time they count in log writes (waiting for the disk included) and in applying.\n"
    )?;
    writeln!(
        text,
        "| work | client | connections | workers | log writers | flushes, compaction | other | log writes | applying |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for s in shares {
        let of = |list: &[(String, f64)], name: &str| {
            list.iter().find(|(n, _)| n == name).map_or("–".into(), |(_, us)| format!("{us:.1}"))
        };
        let parts =
            ["client", "connections", "workers", "log writers", "flushes", "other"].map(|name| of(&s.components, name));
        writeln!(
            text,
            "| {} | {} | {} | {} |",
            s.name,
            parts.join(" | "),
            of(&s.worker_us, "log writes"),
            of(&s.worker_us, "applying")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::End;
    use crate::summary::tests::measured;
    use crate::systems::System;

    #[test]
    fn the_lower_bound_counts() {
        let mut one = measured(System::Synod, 1, 10_000.0, End::Done);
        let figures = one.figures.as_mut().unwrap();
        // 60 us of two cores an operation: 33,333 a second.
        figures.cost.ops_per_fsync = Some(10.0);
        figures.cost.threads_us =
            BTreeMap::from([("worker".into(), 30.0), ("rocksdb:low".into(), 5.0), ("synod-net".into(), 10.0)]);
        let found = share(&one, 2, 6000.0).unwrap();
        assert_eq!((found.cpu_bound.round(), found.sync_bound), (33_333.0, Some(20_000.0)));
        assert_eq!(found.percent.round(), 50.0);
        let parts: Vec<(&str, f64)> = found.components.iter().map(|(n, us)| (n.as_str(), *us)).collect();
        assert_eq!(
            parts,
            [("client", 10.0), ("connections", 10.0), ("workers", 30.0), ("flushes", 5.0), ("other", 5.0)]
        );
        one.end = End::Partial { why: "x".into() };
        assert!(share(&one, 2, 6000.0).is_none());
    }

    #[test]
    fn what_criterion_left_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let bench = dir.path().join("log_writer_synced_128B_1_shards/64_entries/new");
        std::fs::create_dir_all(&bench).unwrap();
        std::fs::write(bench.join("estimates.json"), r#"{"mean":{"point_estimate":200000.0}}"#).unwrap();
        std::fs::create_dir_all(dir.path().join("codec/decode")).unwrap();
        let found = batches(dir.path());
        let want = Batches { entries: 64, bytes: 128, shards: 1, batch_us: 200.0, entries_per_s: 320_000.0 };
        assert_eq!(found, [want]);
        assert!(batches(Path::new("/no/such")).is_empty());
    }
}
