//! The report a person reads.
//!
//! Owns: its tables. Must never: leave out a run that did not go well, or call synced what is not.

use std::fmt::Write;
use std::iter;

use crate::failover::{Gaps, Outages};
use crate::machine::Machine;
use crate::plan::{BATCH, RunSpec};
use crate::plot::thousands;
use crate::summary::{Row, Spread, closed, on_one_shard, scaling, times};
use crate::systems::System;

/// What a report is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Where.
    pub machine: &'a Machine,
    /// What was measured, and the versions.
    pub systems: &'a [(System, String)],
    /// What was not, and why.
    pub left_out: &'a [(System, String)],
    /// What all cells share.
    pub run: &'a RunSpec,
    /// Repeats asked for.
    pub repeats: u32,
    /// Shards of Synod's tables.
    pub shards: u32,
    /// The cells.
    pub rows: &'a [Row],
    /// Leaders killed.
    pub outages: &'a [Outages],
    /// Leaderships handed over.
    pub gaps: Option<&'a Gaps>,
    /// The plots, by title and file.
    pub plots: &'a [(&'static str, String)],
    /// The command that makes this report again.
    pub command: &'a str,
}

/// The whole report.
#[must_use]
pub fn report(parts: &Parts<'_>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut text, parts);
    let _ = rates(&mut text, parts, true);
    let _ = latencies(&mut text, parts);
    let _ = rates(&mut text, parts, false);
    let _ = one_shard(&mut text, parts);
    let _ = costs(&mut text, parts);
    let _ = shards(&mut text, parts);
    let _ = failovers(&mut text, parts);
    let _ = doubts(&mut text, parts);
    for (title, file) in parts.plots {
        let _ = write!(text, "\n![{title}]({file})\n");
    }
    text
}

fn head(text: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let m = parts.machine;
    writeln!(text, "# Synod beside other systems\n")?;
    writeln!(
        text,
        "One run on one machine, {}, commit {}. {}, {} cores, {} MiB, Linux {}, {}.",
        m.date,
        m.commit,
        m.cpu,
        m.cores,
        thousands(m.memory_mib as f64),
        m.kernel,
        m.disk
    )?;
    writeln!(
        text,
        "All servers and the generator share it. Every system is driven by the same generator, {} keys, {} s a cell behind {} s of warm-up,",
        thousands(parts.run.keys as f64),
        parts.run.time.as_secs_f64(),
        parts.run.warmup.as_secs_f64()
    )?;
    writeln!(
        text,
        "{} in rotation, each on servers started anew. Figures are medians of the repeats, least–greatest behind them. Made by\n\n    {}\n",
        count(parts.repeats, "repeat"),
        parts.command
    )?;
    writeln!(text, "| system | version | how it is run | what an operation is |\n| --- | --- | --- | --- |")?;
    for system in System::ALL {
        let Some((_, version)) = parts.systems.iter().find(|(s, _)| *s == system) else { continue };
        let shards =
            if system == System::Synod { format!("; tables of {} shards", parts.shards) } else { String::new() };
        writeln!(text, "| {} | {version} | {}{shards} | {} |", system.label(), system.settings(), system.operations())?;
    }
    for (system, why) in parts.left_out {
        let first = why.lines().next().unwrap_or_default();
        writeln!(text, "| {} | – | **left out**: {first} | – |", system.label())?;
    }
    Ok(())
}

fn shown(parts: &Parts<'_>, keep: impl Fn(&Row) -> bool) -> (Vec<System>, Vec<String>) {
    let systems: Vec<System> =
        System::ALL.into_iter().filter(|s| parts.rows.iter().any(|r| r.system == *s && keep(r))).collect();
    let mut names: Vec<String> = Vec::new();
    for row in parts.rows.iter().filter(|r| keep(r)) {
        if !names.contains(&row.name) {
            names.push(row.name.clone());
        }
    }
    (systems, names)
}

/// The head of a table.
fn columns(text: &mut String, names: impl Iterator<Item = String>) -> std::fmt::Result {
    let (names, lines): (Vec<String>, Vec<&str>) = names.map(|name| (name, "---")).unzip();
    writeln!(text, "| {} |\n| {} |", names.join(" | "), lines.join(" | "))
}

/// A table with a row for each cell and a column for each system.
fn table(
    text: &mut String,
    parts: &Parts<'_>,
    keep: impl Fn(&Row) -> bool,
    cell: impl Fn(&Row) -> String,
) -> std::fmt::Result {
    let (systems, names) = shown(parts, &keep);
    columns(text, iter::once("work".to_owned()).chain(systems.iter().map(|s| s.label().to_owned())))?;
    for name in names {
        write!(text, "| {name} |")?;
        for system in &systems {
            let row = parts.rows.iter().find(|r| r.system == *system && r.name == name);
            write!(text, " {} |", row.map_or("–".to_owned(), &cell))?;
        }
        writeln!(text)?;
    }
    Ok(())
}

fn rates(text: &mut String, parts: &Parts<'_>, of_closed: bool) -> std::fmt::Result {
    let keep = |row: &Row| closed(&row.cell) == of_closed && row.cell.shards.is_none();
    if !parts.rows.iter().any(keep) {
        return Ok(());
    }
    if of_closed {
        writeln!(
            text,
            "\n## Throughput\n\nClosed loops; operations a second, of appends (batches of {BATCH}) records a second; in bold how many times as fast Synod is.\n",
        )?;
        return table(text, parts, keep, |row| {
            let marked = if row.marked.is_empty() { "" } else { " †" };
            let times = row.synod_is.filter(|_| row.system != System::Synod);
            let times = times.map_or(String::new(), |times| format!(" **×{times:.2}**"));
            format!("{}{times}{marked}", spread(row.rate, 0))
        });
    }
    writeln!(
        text,
        "\n## Open loop\n\nPoisson arrivals at a share of what the same repeat's closed loop of 64 clients made; latency from the time an operation was meant to be sent. ‡: did not keep up in some repeat, see the end.\n"
    )?;
    table(text, parts, keep, |row| {
        let behind = if row.behind.is_empty() { "" } else { " ‡" };
        format!(
            "{}/s: p50 {}, p99 {}, p99.9 {}, p99.99 {} ms{behind}",
            spread(row.rate, 0),
            ms(row.p50_us),
            ms(row.p99_us),
            ms(row.p99_9_us),
            ms(row.p99_99_us)
        )
    })
}

fn latencies(text: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let keep = |row: &Row| closed(&row.cell) && row.cell.shards.is_none();
    if !parts.rows.iter().any(keep) {
        return Ok(());
    }
    writeln!(
        text,
        "\n## Latency\n\nOf the same closed loops: p50 / p99 / p99.9, in milliseconds, medians of the repeats; in brackets the p99's least–greatest.\n"
    )?;
    table(text, parts, keep, |row| {
        let range = row
            .p99_us
            .filter(|s| s.min < s.max)
            .map_or(String::new(), |s| format!(" ({}–{})", millis(s.min), millis(s.max)));
        format!("{} / {} / {}{range}", ms(row.p50_us), ms(row.p99_us), ms(row.p99_9_us))
    })
}

fn costs(text: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let keep = |row: &Row| row.servers_cpu_us.is_some();
    if !parts.rows.iter().any(keep) {
        return Ok(());
    }
    writeln!(
        text,
        "\n## What it costs\n\nProcessor time an operation, all servers + the client with its driver, in microseconds (an append of {BATCH} is one operation); bytes written to disk by all servers for each byte of a user's value; synced writes a second of all servers, and operations for each synced write of one server.\n"
    )?;
    table(text, parts, keep, |row| {
        let one = |s: Option<Spread>| s.map(|s| format!("{:.1}", s.median));
        let mut cell = format!(
            "{} + {} µs",
            one(row.servers_cpu_us).unwrap_or_default(),
            one(row.client_cpu_us).unwrap_or_default()
        );
        if let Some(bytes) = one(row.written_per_byte) {
            let _ = write!(cell, "; {bytes} B/B");
        }
        if let Some(fsyncs) = row.fsyncs_per_s {
            let _ = write!(cell, "; {} fsyncs/s", thousands(fsyncs.median));
        }
        if let Some(ops) = one(row.ops_per_fsync) {
            let _ = write!(cell, ", {ops} ops each");
        }
        cell
    })
}

/// Synod's tables have several shards, each a Paxos group; other systems replicate in one group, which this is beside.
fn one_shard(text: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let pairs = on_one_shard(parts.rows);
    let beside: Vec<System> = System::ALL
        .into_iter()
        .filter(|s| pairs.iter().any(|(_, others)| others.iter().any(|o| o.system == *s)))
        .collect();
    if beside.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n## On one shard\n\nThe same closed loops on a table of one shard, which is one Paxos group as etcd is one Raft group, in the same run: what was done, p50 / p99 in milliseconds, and how many times as fast as each system above (Synod: as its own tables of {} shards).\n",
        parts.shards
    )?;
    let first = ["work", "Synod, one shard", "p50 / p99"].map(str::to_owned);
    columns(text, first.into_iter().chain(beside.iter().map(|s| format!("beside {}", s.label()))))?;
    for (one, others) in pairs {
        write!(text, "| {} | {} | {} / {} |", one.name, spread(one.rate, 0), ms(one.p50_us), ms(one.p99_us))?;
        for system in &beside {
            let times = others.iter().find(|o| o.system == *system).and_then(|other| times(one.rate, other.rate));
            write!(text, " {} |", times.map_or("–".to_owned(), |times| format!("×{times:.2}")))?;
        }
        writeln!(text)?;
    }
    Ok(())
}

fn shards(text: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let rows = scaling(parts.rows);
    let Some(one_row) = rows.iter().find(|row| row.cell.shards == Some(1)) else { return Ok(()) };
    let Some(one) = one_row.rate else { return Ok(()) };
    writeln!(
        text,
        "\n## Shards at full load\n\nSynod, {} of {} clients, a table of so many shards.\n",
        one_row.cell.work, one_row.cell.clients
    )?;
    writeln!(
        text,
        "| shards | operations a second | of one shard's rate | p50 / p99, ms |\n| --- | --- | --- | --- |"
    )?;
    for row in rows {
        let Some(rate) = row.rate else { continue };
        let share = 100.0 * rate.median / one.median;
        writeln!(
            text,
            "| {} | {} | {share:.0} % | {} / {} |",
            row.cell.shards.unwrap_or(0),
            spread(row.rate, 0),
            ms(row.p50_us),
            ms(row.p99_us)
        )?;
    }
    Ok(())
}

fn failovers(text: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    if !parts.outages.is_empty() {
        writeln!(
            text,
            "\n## A leader killed\n\nSIGKILL to the leader under load; milliseconds from there until every client has written again: median (least–greatest) of so many.\n"
        )?;
        writeln!(text, "| system | kills | until every client has written again |\n| --- | --- | --- |")?;
        for o in parts.outages {
            writeln!(
                text,
                "| {} | {} | {} ms |",
                o.system.label(),
                o.resumed_ms.len(),
                spread(Spread::of(o.resumed_ms.iter().copied()), 0)
            )?;
            for why in &o.failed {
                writeln!(text, "| {} | – | failed: {} |", o.system.label(), why.replace('\n', "; "))?;
            }
        }
    }
    if let Some(gaps) = parts.gaps {
        let moved = Spread::of(gaps.moved_ms.iter().copied());
        writeln!(
            text,
            "\n## A leadership handed over\n\nSynod under load, {} transfers: the longest time between two answered writes that any client saw around a transfer: {} ms; in as long a time without a transfer: {} ms.",
            gaps.moved_ms.len(),
            spread(moved, 1),
            spread(Spread::of(gaps.quiet_ms.iter().copied()), 1)
        )?;
        for why in &gaps.failed {
            writeln!(text, "\nA transfer failed: {why}")?;
        }
    }
    Ok(())
}

/// What did not go well.
fn doubts(text: &mut String, parts: &Parts<'_>) -> std::fmt::Result {
    let mut lines = Vec::new();
    for row in parts.rows {
        let who = format!("{}, {}", row.system.name(), row.name);
        lines.extend(row.behind.iter().map(|why| format!("- ‡ {who}: {why}")));
        lines.extend(row.marked.iter().map(|why| format!("- † {who}: {}", why.replace('\n', "; "))));
        if row.failed > 0 {
            lines.push(format!("- {who}: {} operations failed", row.failed));
        }
    }
    for (system, why) in parts.left_out {
        lines.push(format!("- {} is left out: {}", system.name(), why.replace('\n', "; ")));
    }
    if !lines.is_empty() {
        writeln!(text, "\n## What did not go well\n\n{}", lines.join("\n"))?;
    }
    Ok(())
}

fn count(n: u32, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Median, with the range where there is one.
fn spread(spread: Option<Spread>, decimals: usize) -> String {
    let number = |value: f64| if decimals == 0 { thousands(value) } else { format!("{value:.decimals$}") };
    match spread {
        None => "–".into(),
        Some(s) if s.min == s.max => number(s.median),
        Some(s) => format!("{} ({}–{})", number(s.median), number(s.min), number(s.max)),
    }
}

/// The median of microseconds, as milliseconds.
fn ms(us: Option<Spread>) -> String {
    us.map_or("–".into(), |us| millis(us.median))
}

/// Microseconds as milliseconds, with as many digits as say something.
fn millis(us: f64) -> String {
    let ms = us / 1e3;
    if ms < 10.0 {
        format!("{ms:.2}")
    } else if ms < 100.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::End;
    use crate::summary::{rows, tests::measured};
    use std::time::Duration;

    #[test]
    fn the_report_says_what_went_wrong() {
        let all = [
            measured(System::Synod, 1, 90_000.0, End::Done),
            measured(System::Synod, 2, 91_000.0, End::Partial { why: "synod node 2 ended (signal: 9)".into() }),
            measured(System::Nats, 1, 30_000.0, End::Done),
        ];
        let rows = rows(&all);
        let run = RunSpec { keys: 100_000, time: Duration::from_secs(5), warmup: Duration::from_secs(1), seed: 1 };
        let parts = Parts {
            machine: &Machine::here(std::path::Path::new("/")),
            systems: &[(System::Synod, "0.1.0".into()), (System::Nats, "2.9".into())],
            left_out: &[(System::Redis, "redis-server is not installed: apt-get install redis-server".into())],
            run: &run,
            repeats: 2,
            shards: 4,
            rows: &rows,
            outages: &[],
            gaps: None,
            plots: &[("One", "one.svg".into())],
            command: "make bench-peers",
        };
        let text = report(&parts);
        for part in [
            "| put, 64 clients | 90,000 † | 30,000 **×3.00** |",
            "NOT SYNCED",
            "apt-get install redis-server",
            "† synod, put, 64 clients: repeat 2, partial: synod node 2 ended (signal: 9)",
            "99/s offered of 100/s asked for, 5 arrivals never sent",
            "![One](one.svg)",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
