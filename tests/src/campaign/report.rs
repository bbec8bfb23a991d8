//! What a campaign showed.
//!
//! Owns: its figures, in words and as a row of a table. Must never: call a campaign passed that has a failure.

use std::fmt;
use std::time::{Duration, Instant};

/// What one turn of a fault showed.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The longest time without an acknowledgement on one shard, from the fault or from its healing, as the fault says.
    pub pause: Duration,
    /// The same while the fault lasted, where writes must go on or resume then.
    pub during: Option<Duration>,
    /// In words.
    pub note: String,
}

/// What a campaign showed.
#[derive(Debug)]
pub struct Report {
    /// The campaign.
    pub name: &'static str,
    /// Its turns, one behind the other.
    pub turns: Vec<Turn>,
    /// How many operations there were.
    pub operations: usize,
    /// What its turns showed together, as a table, where the campaign has one.
    pub table: String,
    /// What the checker said of the history.
    pub history: String,
    /// Empty where the campaign passed.
    pub failures: Vec<String>,
    began: Instant,
    took: Duration,
}

/// The time that `percent` of these stay within.
fn within(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

impl Report {
    pub(super) fn new(name: &'static str) -> Report {
        let (began, took) = (Instant::now(), Duration::ZERO);
        let (table, history) = (String::new(), String::new());
        Report { name, turns: Vec::new(), operations: 0, table, history, failures: Vec::new(), began, took }
    }

    pub(super) fn end(&mut self) {
        self.took = self.began.elapsed();
    }

    fn pauses(&self) -> Vec<Duration> {
        self.turns.iter().map(|turn| turn.pause).collect()
    }

    fn during(&self) -> Vec<Duration> {
        self.turns.iter().filter_map(|turn| turn.during).collect()
    }

    /// A row of the summary: campaign, turns, operations, pauses, result, time.
    pub fn row(&self) -> String {
        let result = match self.failures.first() {
            None => "passed".to_owned(),
            Some(first) => format!("FAILED: {}", first.lines().next().unwrap_or_default()),
        };
        let pauses = format!("{:.2?}, {:.2?}", within(self.pauses(), 50), within(self.pauses(), 100));
        let Report { name, turns, operations, took, .. } = self;
        row(name, &turns.len().to_string(), &operations.to_string(), &pauses, &result, *took)
    }
}

/// A row of the summary.
pub fn row(name: &str, turns: &str, operations: &str, pauses: &str, result: &str, took: Duration) -> String {
    format!("| {name} | {turns} | {operations} | {pauses} | {result} | {} s |", took.as_secs())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { name, turns, history, failures, took, .. } = self;
        let word = if failures.is_empty() { "passed" } else { "FAILED" };
        writeln!(f, "{name}: {word}, {} turns in {took:.1?}", turns.len())?;
        let figures = |times: Vec<Duration>| {
            let at = |percent| within(times.clone(), percent);
            format!("p50 {:.2?}, p99 {:.2?}, worst {:.2?}", at(50), at(99), at(100))
        };
        writeln!(f, "  longest time without an acknowledgement on a shard: {}", figures(self.pauses()))?;
        if !self.during().is_empty() {
            writeln!(f, "  the same while the fault lasted, of {}: {}", self.during().len(), figures(self.during()))?;
        }
        writeln!(f, "  {}", history.trim_end())?;
        if !self.table.is_empty() {
            writeln!(f, "\n{}", self.table)?;
        }
        failures.iter().try_for_each(|failure| writeln!(f, "  FAILURE: {failure}"))
    }
}
