//! The sending half of a load.
//!
//! Owns what was acknowledged, skipped and refused, and how a load ends: done, stopped at a bad record, failed, or
//! interrupted. Must never count a record as stored before the cluster acknowledged it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use synod_client::{Client, Error, Expect, NewRecord};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::batches::Taker;
use super::fault::Fault;
use super::progress::Progress;
use super::source::{KeyBy, Step};
use super::window::{Bounds, Chunk, Pending, Window};
use super::{Handover, LoadArgs, OnError, fault_error};
use crate::cli::error::{CliError, Result};
use crate::cli::escape::path;
use crate::cli::output::json;

/// Skipped records that are named one by one; the rest is only counted.
const SKIPS_NAMED: u64 = 10;
/// How long appends under way are waited for after Ctrl-C.
const INTERRUPT_PATIENCE: Duration = Duration::from_secs(10);

/// A load under way.
pub struct Loader {
    client: Client,
    table: Arc<str>,
    file: String,
    on_error: OnError,
    key_name: String,
    window: Window,
    progress: Progress,
    read: Arc<AtomicU64>,
    latency: Option<Histogram<u64>>,
    done: json::Load,
    items: u64,
    keyless: u64,
    /// Faults passed over, each of one line or more.
    skips: u64,
    /// Where reading stands: pass and line of the last step taken.
    at: (u64, u64),
    /// Records that failed, first one in file order.
    first_failed: Option<(u64, u64)>,
    ending: Ending,
}

/// Whether, and how, a load ends before its file does.
enum Ending {
    /// It does not.
    No,
    /// Nothing more is read; what was read is stored.
    Drain(CliError),
    /// Nothing more is sent; what is under way is waited for.
    Stop(CliError),
}

/// What became of an append.
struct Sent {
    key: Vec<u8>,
    /// Records in it.
    chunk: u64,
    /// Records acknowledged.
    records: u64,
    bytes: u64,
    latency: Duration,
    /// Records refused for what they are.
    refused: Vec<(Pending, Error)>,
    /// What failed otherwise, with the first record concerned.
    failed: Option<(Pending, Error)>,
}

impl Loader {
    /// A load with nothing done yet.
    pub fn new(client: Client, args: &LoadArgs, progress: Progress, read: Arc<AtomicU64>) -> Self {
        let key_name = match (&args.key, &args.key_regex) {
            (Some(field), _) => KeyBy::Field(field.clone()).name(),
            (None, Some(regex)) => KeyBy::Regex(regex.clone()).name(),
            (None, None) => String::new(),
        };
        Self {
            client,
            table: args.table.as_str().into(),
            file: args.file.clone(),
            on_error: args.on_error,
            key_name,
            window: Window::new(Bounds::new(args.concurrency as usize)),
            progress,
            read,
            // Up to 10 minutes, the longest a call may take, to three digits.
            latency: Histogram::new_with_bounds(1, 600_000_000, 3).ok(),
            done: json::Load::default(),
            items: 0,
            keyless: 0,
            skips: 0,
            at: (1, 0),
            first_failed: None,
            ending: Ending::No,
        }
    }

    /// Sends everything that is handed over, and sums up.
    pub async fn run(mut self, mut taker: Taker) -> Result<json::Load> {
        let started = Instant::now();
        let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| CliError::io("signals", &error))?;
        let mut terminations = signal(SignalKind::terminate()).map_err(|error| CliError::io("signals", &error))?;
        let under_way = self.send_all(&mut taker, &mut interrupts, &mut terminations).await;
        self.progress.end();
        self.done.seconds = started.elapsed().as_secs_f64();
        self.conclude(under_way)
    }

    /// The loop; returns how many records were given up while under way.
    async fn send_all(&mut self, taker: &mut Taker, interrupts: &mut Signal, terminations: &mut Signal) -> u64 {
        let mut flying = FuturesUnordered::new();
        let mut flying_records = 0;
        let mut open = true;
        let mut ticks = tokio::time::interval(Duration::from_millis(125));
        let mut patience = None;
        loop {
            while !matches!(self.ending, Ending::Stop(_))
                && let Some(chunk) = self.window.take()
            {
                flying_records += chunk.records.len() as u64;
                flying.push(send(self.client.clone(), Arc::clone(&self.table), chunk, self.on_error));
            }
            let reading = open && matches!(self.ending, Ending::No) && self.window.has_room();
            if flying.is_empty() && !reading {
                return 0;
            }
            tokio::select! {
                Some(sent) = flying.next() => {
                    flying_records -= sent.chunk;
                    self.sent(sent);
                }
                handover = taker.next(), if reading => match handover {
                    Some(Handover::Steps(pass, steps)) => self.take(pass, steps),
                    Some(Handover::Failed(error)) => self.ending = Ending::Drain(error),
                    None => open = false,
                },
                _ = interrupts.recv() => {
                    if patience.is_some() {
                        return flying_records;
                    }
                    patience = Some(Instant::now());
                    self.interrupt();
                }
                _ = terminations.recv(), if patience.is_none() => {
                    patience = Some(Instant::now());
                    self.interrupt();
                }
                _ = ticks.tick() => {
                    self.progress.show(self.read.load(Ordering::Relaxed), self.done.records, self.done.skipped);
                    if patience.is_some_and(|since| since.elapsed() > INTERRUPT_PATIENCE) {
                        return flying_records;
                    }
                }
            }
        }
    }

    fn interrupt(&mut self) {
        self.ending = Ending::Stop(CliError::failed("interrupted", "interrupted"));
    }

    /// Takes in what was read.
    fn take(&mut self, pass: u64, steps: Vec<Step>) {
        for step in steps {
            match step {
                Ok(item) => {
                    self.at = (pass, item.line);
                    self.items += 1;
                    self.window.push(pass, item);
                }
                Err(fault) => {
                    self.at = (pass, fault.line);
                    self.keyless += u64::from(fault.no_key);
                    let error = fault_error(&self.file, &fault);
                    if self.on_error == OnError::Stop {
                        self.fail(pass, fault.line);
                        self.ending = Ending::Drain(error);
                        return;
                    }
                    self.skip(fault.lines, &error);
                }
            }
        }
    }

    /// Skips a malformed record of `lines` lines.
    fn skip(&mut self, lines: u64, error: &CliError) {
        self.done.skipped += lines;
        self.skips += 1;
        if self.skips <= SKIPS_NAMED {
            self.progress.say(&format!("skipped {}", error.message()));
        }
        if self.skips == SKIPS_NAMED {
            self.progress.say("further skipped records are only counted");
        }
    }

    fn fail(&mut self, pass: u64, line: u64) {
        let place = (pass, line);
        self.first_failed = Some(self.first_failed.map_or(place, |first| first.min(place)));
    }

    /// Takes in what became of an append.
    fn sent(&mut self, sent: Sent) {
        self.done.records += sent.records;
        self.done.bytes += sent.bytes;
        if sent.records > 0
            && let Some(latency) = &mut self.latency
        {
            latency.saturating_record(u64::try_from(sent.latency.as_micros()).unwrap_or(u64::MAX));
        }
        for (record, error) in sent.refused {
            let fault = Fault::of_line(record.line, error.to_string());
            self.skip(1, &fault_error(&self.file, &fault));
        }
        if let Some((record, error)) = sent.failed {
            self.fail(record.pass, record.line);
            if !matches!(self.ending, Ending::Stop(_)) {
                let reason = error.to_string();
                let exit = match &error {
                    Error::OutcomeUnknown { .. } => crate::cli::error::Exit::Unknown,
                    _ => crate::cli::error::Exit::Failed,
                };
                let error = CliError::from(error).at(format!("{}:{}", path(&self.file), record.line));
                let error = error.with("file", self.file.as_str()).with("line", record.line).with("reason", reason);
                self.ending = Ending::Stop(error.exiting(exit));
            }
        }
        self.window.done(sent.key);
    }

    /// The summary, or the error with how far the load came.
    fn conclude(mut self, under_way: u64) -> Result<json::Load> {
        let stored_before = [self.first_failed, self.window.first_waiting()].into_iter().flatten().min();
        let (pass, line) = stored_before.unwrap_or((self.at.0, self.at.1 + 1));
        if let Some(latency) = &self.latency
            && !latency.is_empty()
        {
            self.done.latency_p50_us = latency.value_at_quantile(0.5);
            self.done.latency_p99_us = latency.value_at_quantile(0.99);
            self.done.latency_max_us = latency.max();
        }
        if self.done.seconds > 0.0 {
            self.done.records_per_s = self.done.records as f64 / self.done.seconds;
        }
        let error = match self.ending {
            Ending::No if self.items == 0 && self.keyless > 0 => {
                let message = format!(
                    "{} matches nothing in {}: 0 of {} records have a key",
                    self.key_name,
                    path(&self.file),
                    self.keyless
                );
                return Err(CliError::failed("no_key", message).with("file", self.file.as_str()));
            }
            Ending::No => return Ok(self.done),
            Ending::Drain(error) | Ending::Stop(error) => error,
        };
        let mut came = format!("{} records acknowledged", self.done.records);
        if self.done.skipped > 0 {
            came.push_str(&format!(", {} skipped", self.done.skipped));
        }
        let mut error = error.with("acknowledged", self.done.records).with("skipped", self.done.skipped);
        if under_way > 0 {
            came.push_str(&format!(", {under_way} under way with unknown outcome"));
            error = error.with("unknown", under_way);
        } else if self.done.records > 0 {
            let of_pass = if pass > 1 { format!(" of pass {pass}") } else { String::new() };
            let done = if self.done.skipped > 0 { "stored or skipped" } else { "stored" };
            came.push_str(&format!("; everything before line {line}{of_pass} is {done}"));
            error = error.with("done_before_line", line).with("done_before_pass", pass);
        }
        Err(error.followed_by(came))
    }
}

/// Whether the cluster refused a record for what it is, so that other records may still pass.
fn about_the_record(error: &Error) -> bool {
    matches!(error, Error::TooLarge { .. } | Error::InvalidArgument { .. })
}

/// Appends a chunk; where it is refused for what is in it, its records one by one, in order.
async fn send(client: Client, table: Arc<str>, chunk: Chunk, on_error: OnError) -> Sent {
    let started = Instant::now();
    let key = ::bytes::Bytes::from(chunk.key.clone());
    let mut sent = Sent {
        key: chunk.key,
        chunk: chunk.records.len() as u64,
        records: 0,
        bytes: 0,
        latency: Duration::ZERO,
        refused: Vec::new(),
        failed: None,
    };
    let append = async |records: &[Pending]| {
        let records: Vec<NewRecord> = records.iter().map(|record| NewRecord::new(record.value.clone())).collect();
        client.append(&table, key.clone(), records, Expect::Any).await
    };
    let size = |records: &[Pending]| records.iter().map(|record| record.value.len() as u64).sum::<u64>();
    let whole = append(&chunk.records).await;
    match whole {
        Ok(_) => {
            sent.records = chunk.records.len() as u64;
            sent.bytes = size(&chunk.records);
        }
        Err(error) if about_the_record(&error) => {
            for record in chunk.records {
                let one = std::slice::from_ref(&record);
                match append(one).await {
                    Ok(_) => {
                        sent.records += 1;
                        sent.bytes += size(one);
                    }
                    Err(error) if about_the_record(&error) && on_error == OnError::Skip => {
                        sent.refused.push((record, error));
                    }
                    Err(error) => {
                        sent.failed = Some((record, error));
                        break;
                    }
                }
            }
        }
        Err(error) => sent.failed = chunk.records.into_iter().next().map(|record| (record, error)),
    }
    sent.bytes += sent.records * key.len() as u64;
    sent.latency = started.elapsed();
    sent
}
