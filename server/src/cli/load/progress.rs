//! How far a load is, on standard error.
//!
//! Owns the display: a bar on a terminal, a line every few seconds elsewhere, nothing where programs read errors as
//! JSON. Must never slow the load or write to standard output.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The display.
pub struct Progress {
    total: Option<u64>,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Instant),
    Nothing,
}

impl Progress {
    /// A display for this many bytes, where that is known.
    pub fn new(total: Option<u64>, json: bool) -> Self {
        let shown = if io::stderr().is_terminal() {
            Shown::Bar(bar(total))
        } else if json {
            Shown::Nothing
        } else {
            Shown::Lines(Instant::now())
        };
        Self { total, shown }
    }

    /// Shows how many bytes were read and how many records are acknowledged and skipped.
    pub fn show(&mut self, read: u64, records: u64, skipped: u64) {
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(read);
                bar.set_message(format!("{records} records{skipped}"));
            }
            Shown::Lines(last) if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let percent = self.total.filter(|total| *total > 0).map(|total| read.saturating_mul(100) / total);
                let read = percent.map_or_else(|| format!("{read} bytes"), |percent| format!("{percent} %"));
                eprintln!("load: {read} read, {records} records acknowledged{skipped}");
            }
            Shown::Lines(_) | Shown::Nothing => {}
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            Shown::Lines(_) | Shown::Nothing => eprintln!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {percent:>3} %  {binary_bytes_per_sec}  {msg}  {elapsed} (about {eta} to go)",
        ),
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}  {elapsed}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
