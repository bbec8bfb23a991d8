//! The rows of the picture: what is shown of a node, a shard and a job, and by what each column is sorted.
//!
//! Owns: columns, words and tones. Must never: know which rows are visible, or draw.

use std::time::Duration;

use super::trend::{CATCH_UP, Trend};
use crate::cli::output::{json, text};
use crate::cli::status;

/// Columns of the nodes.
pub const NODES: &[&str] =
    &["node", "address", "state", "speaks", "leaders", "replicas", "slots/s", "uptime", "reason"];
/// Columns of the shards.
pub const SHARDS: &[&str] =
    &["shard", "table", "bounds", "leader", "replicas (lag)", "lag", "state", "slots/s", "epoch.version"];
/// Columns of the jobs.
pub const JOBS: &[&str] = &["job", "kind", "shard", "state", "progress", "step", "left", "what"];

/// Steps of a move in their order; it has ended after the last.
const MOVE_STEPS: [&str; 5] = ["learn", CATCH_UP, "promote", "remove", "end"];
/// Steps of a split in their order.
const SPLIT_STEPS: [&str; 4] = ["reserve", "split", "wait", "end"];
/// Characters of a text, at most: keys are longer than lines, and each is measured with each picture.
const WORDS_MAX: usize = 300;
/// Characters of a bar.
const BAR: usize = 10;

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// The number of what it shows.
    pub id: u64,
    /// One for each column.
    pub cells: Vec<Cell>,
    /// How it is meant.
    pub tone: Tone,
}

/// What a row shows in a column.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Text without a character that a terminal obeys.
    pub text: String,
    /// Its place among the others of the column.
    pub sort: Sort,
}

/// What is sorted by; what is not known comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// Not known.
    Missing,
    /// By size.
    Number(u64),
    /// By letters.
    Text(String),
}

/// How a row is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Plain,
    /// Over and done.
    Faint,
    /// On its way, or to be watched.
    Warn,
    /// Something is wrong.
    Bad,
}

/// One row a node.
pub fn nodes(status: &json::Status, trend: &Trend) -> Vec<Row> {
    status.nodes.iter().map(|node| of_node(node, &status.shards, trend)).collect()
}

fn of_node(node: &json::Node, shards: &[json::Shard], trend: &Trend) -> Row {
    let led = shards.iter().filter(|shard| shard.leader == Some(node.id));
    // Unknown where none of them is known, as before the second look.
    let rate = led.filter_map(|shard| trend.rate(shard.id)).reduce(u64::saturating_add);
    let tone = match node.state {
        "up" => Tone::Plain,
        "disk_low" => Tone::Warn,
        _ => Tone::Bad,
    };
    let uptime = node.uptime_ms.map(|ms| Duration::from_secs(ms / 1_000));
    let cells = vec![
        number(Some(node.id)),
        words(&node.addr),
        words(node.state),
        number(node.speaks.map(u64::from)),
        number(Some(node.leaders)),
        number(Some(node.replicas)),
        number(rate),
        time(uptime),
        words(node.reason.as_deref().unwrap_or_default()),
    ];
    Row { id: node.id, cells, tone }
}

/// One row a shard.
pub fn shards(status: &json::Status, trend: &Trend) -> Vec<Row> {
    status.shards.iter().map(|shard| of_shard(shard, &status.jobs, trend)).collect()
}

fn of_shard(shard: &json::Shard, jobs: &[json::Job], trend: &Trend) -> Row {
    let (state, tone) = condition(shard, jobs);
    let json::Changes { epoch, version } = shard.changes;
    let cells = vec![
        number(Some(shard.id)),
        words(shard.table.as_deref().unwrap_or("(system)")),
        words(&text::bounds(&shard.bounds)),
        number(shard.leader),
        words(&status::members(shard)),
        number(shard.replicas.iter().filter_map(|replica| replica.lag_slots).max()),
        words(&state),
        number(trend.rate(shard.id)),
        // Changes of bounds are what a split makes; the column is sorted by them.
        Cell { text: format!("{epoch}.{version}"), sort: Sort::Number(version) },
    ];
    Row { id: shard.id, cells, tone }
}

/// Whether something can be said of a replica.
type Of = fn(&json::Replica) -> bool;

/// What there is to know of a shard, the gravest of it.
fn condition(shard: &json::Shard, jobs: &[json::Job]) -> (String, Tone) {
    if shard.leader.is_none() {
        return ("no leader".to_owned(), Tone::Bad);
    }
    if shard.scrub.as_ref().is_some_and(|scrub| !scrub.equal) {
        return ("diverged".to_owned(), Tone::Bad);
    }
    let on = |is: Of| {
        let nodes: Vec<u64> = shard.replicas.iter().filter(|r| is(r)).map(|r| r.node).collect();
        (!nodes.is_empty()).then(|| text::list(&nodes))
    };
    let kinds: [(&str, Of); 4] = [
        ("unborn", |replica| replica.unborn),
        ("reinstalling", |replica| matches!(replica.role.as_str(), "reinstalling" | "waiting")),
        ("silent", |replica| replica.role == "unknown"),
        ("learning", |replica| replica.role == "learner"),
    ];
    if let Some((kind, nodes)) = kinds.into_iter().find_map(|(kind, is)| Some((kind, on(is)?))) {
        return (format!("{kind} on {nodes}"), Tone::Warn);
    }
    let job = jobs.iter().find(|job| job.shard == Some(shard.id) && runs(job));
    match job.map(|job| job.kind) {
        None => ("ok".to_owned(), Tone::Plain),
        Some("move_replica") => ("moving".to_owned(), Tone::Warn),
        Some("split_shard") => ("splitting".to_owned(), Tone::Warn),
        Some("merge_shards") => ("merging".to_owned(), Tone::Warn),
        Some(_) => ("changing".to_owned(), Tone::Warn),
    }
}

/// One row a job.
pub fn jobs(status: &json::Status, trend: &Trend) -> Vec<Row> {
    status.jobs.iter().map(|job| of_job(job, trend)).collect()
}

/// Whether something is still done for a job.
pub fn runs(job: &json::Job) -> bool {
    matches!(job.state.as_str(), "running" | "cancelling")
}

fn of_job(job: &json::Job, trend: &Trend) -> Row {
    let tone = match job.state.as_str() {
        "running" => Tone::Plain,
        "cancelling" => Tone::Warn,
        "failed" => Tone::Bad,
        _ => Tone::Faint,
    };
    let share = percent(job, trend);
    let progress = job.progress.as_ref().filter(|_| runs(job));
    let cells = vec![
        number(Some(job.id)),
        words(job.kind),
        number(job.shard),
        words(&job.state),
        Cell { text: share.map_or_else(|| "-".to_owned(), bar), sort: share.map_or(Sort::Missing, Sort::Number) },
        words(progress.and_then(|progress| progress.step.as_deref()).unwrap_or("-")),
        time(trend.remaining(job.id).filter(|_| runs(job))),
        words(&what(job)),
    ];
    Row { id: job.id, cells, tone }
}

/// From where to where, and what is in the way.
fn what(job: &json::Job) -> String {
    let mut said = match (job.from, job.to) {
        (Some(from), Some(to)) => format!("node {from} to node {to}"),
        (Some(from), None) => format!("from node {from}"),
        (None, _) => String::new(),
    };
    let progress = job.progress.as_ref().filter(|_| runs(job));
    let lacking = progress.and_then(|progress| progress.lag_slots).map(|lag| format!("{lag} slots are lacking"));
    let trouble = progress.and_then(|progress| progress.trouble.clone());
    for more in [lacking, trouble, job.why.clone()].into_iter().flatten() {
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.push_str(&more);
    }
    said
}

/// The share of a job's steps that are done, percent; of the step that catches up the share of the slots that were lacking.
fn percent(job: &json::Job, trend: &Trend) -> Option<u64> {
    if job.state == "done" {
        return Some(100);
    }
    if !runs(job) {
        return None;
    }
    let steps: &[&str] = match job.kind {
        "move_replica" => &MOVE_STEPS,
        "split_shard" => &SPLIT_STEPS,
        _ => return None,
    };
    let Some(step) = job.progress.as_ref().and_then(|progress| progress.step.as_deref()) else { return Some(0) };
    let done = steps.iter().position(|known| *known == step)? as u64;
    let within = if step == CATCH_UP { trend.closed(job.id).unwrap_or(0) } else { 0 };
    Some((done * 100 + within) / (steps.len() as u64 - 1))
}

fn bar(percent: u64) -> String {
    let full = usize::try_from(percent).unwrap_or(usize::MAX).min(100) * BAR / 100;
    format!("{}{} {percent}%", "#".repeat(full), "-".repeat(BAR - full))
}

fn number(number: Option<u64>) -> Cell {
    Cell { text: text::or_dash(number), sort: number.map_or(Sort::Missing, Sort::Number) }
}

/// A time of whole seconds.
fn time(time: Option<Duration>) -> Cell {
    let seconds = time.map(|time| time.as_secs());
    let shown = seconds.map(|seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string());
    Cell { text: text::or_dash(shown), sort: seconds.map_or(Sort::Missing, Sort::Number) }
}

fn words(said: &str) -> Cell {
    let shown: String = text::harmless(said).replace('\t', " ").chars().take(WORDS_MAX).collect();
    Cell { sort: Sort::Text(shown.to_lowercase()), text: shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::picture::samples;

    fn texts(row: &Row) -> Vec<&str> {
        row.cells.iter().map(|cell| cell.text.as_str()).collect()
    }

    #[test]
    fn each_row_has_a_cell_for_each_column() {
        let mut status = samples::status(3);
        status.jobs = vec![samples::job(7, "running", "promote", None)];
        let trend = Trend::default();
        for (rows, columns) in
            [(nodes(&status, &trend), NODES), (shards(&status, &trend), SHARDS), (jobs(&status, &trend), JOBS)]
        {
            assert!(!rows.is_empty());
            assert!(rows.iter().all(|row| row.cells.len() == columns.len()), "{rows:?}");
        }
    }

    #[test]
    fn a_node_and_a_shard_say_what_status_says() {
        let mut trend = Trend::default();
        let mut status = samples::status(3);
        trend.take(Duration::ZERO, &status);
        status.shards[1].replicas[1].commit = Some(260);
        status.shards[1].replicas[1].lag_slots = Some(4);
        status.nodes[1].state = "down";
        status.nodes[1].reason = Some("no\tanswer\u{1b}".to_owned());
        trend.take(Duration::from_secs(1), &status);
        // Shard 2 is led by node 3.
        assert_eq!(
            texts(&shards(&status, &trend)[1]),
            ["2", "orders", "[first, k0003)", "3", "1 (0), 2 (4), 3*", "4", "ok", "60", "1.2"]
        );
        let nodes = nodes(&status, &trend);
        assert_eq!(texts(&nodes[2]), ["3", "127.0.0.1:7403", "up", "3", "1", "3", "60", "3m", ""]);
        assert_eq!(texts(&nodes[1])[8], "no answer\\u{1b}");
        assert_eq!((nodes[1].tone, nodes[2].tone), (Tone::Bad, Tone::Plain));
    }

    #[test]
    fn the_gravest_of_a_shard_is_its_state() {
        let state = |change: fn(&mut json::Shard)| {
            let mut status = samples::status(3);
            status.jobs = vec![samples::job(7, "running", "promote", None)];
            change(&mut status.shards[1]);
            let rows = shards(&status, &Trend::default());
            (rows[1].cells[6].text.clone(), rows[1].tone)
        };
        assert_eq!(state(|_| ()), ("moving".to_owned(), Tone::Warn));
        assert_eq!(state(|shard| shard.replicas[0].unborn = true), ("unborn on 1".to_owned(), Tone::Warn));
        let silent = |shard: &mut json::Shard| {
            shard.replicas[0].role = "unknown".to_owned();
            shard.replicas[1].role = "unknown".to_owned();
        };
        assert_eq!(state(silent), ("silent on 1,2".to_owned(), Tone::Warn));
        assert_eq!(state(|shard| shard.leader = None), ("no leader".to_owned(), Tone::Bad));
    }

    #[test]
    fn a_job_shows_how_far_it_is() {
        let mut trend = Trend::default();
        let mut status = samples::status(3);
        status.jobs = vec![samples::job(7, "running", CATCH_UP, Some(1_000))];
        trend.take(Duration::ZERO, &status);
        status.jobs[0] = samples::job(7, "running", CATCH_UP, Some(600));
        status.jobs.push(samples::job(6, "done", "end", None));
        status
            .jobs
            .push(json::Job { why: Some("overtaken by 9".into()), ..samples::job(5, "overtaken", "learn", None) });
        trend.take(Duration::from_secs(4), &status);
        let rows = jobs(&status, &trend);
        // One step of four is done, and 40 % of the second.
        assert_eq!(
            texts(&rows[0]),
            [
                "7",
                "move_replica",
                "2",
                "running",
                "###------- 35%",
                "catch_up",
                "6s",
                "node 3 to node 4; 600 slots are lacking"
            ]
        );
        assert_eq!(texts(&rows[1])[4..7], ["########## 100%", "-", "-"]);
        assert_eq!(texts(&rows[2])[4..], ["-", "-", "-", "node 3 to node 4; overtaken by 9"]);
        assert_eq!((rows[0].tone, rows[1].tone), (Tone::Plain, Tone::Faint));
    }
}
