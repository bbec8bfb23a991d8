//! `synod load`: a file into a table.
//!
//! Owns the flags and the pieces' assembly: a thread that reads ([`source`]), the way to the sender ([`batches`]), the window that keeps each key's order
//! ([`window`]), the loop that sends ([`run`](mod@run)), and the progress display. Every queue between them is
//! bounded, so a file of any size loads in constant memory. Must never change a byte of a record's value.

mod batches;
mod csv_rows;
pub mod fault;
mod progress;
mod run;
pub mod sniff;
pub mod source;
mod window;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use regex::bytes::Regex;

use super::bytes::open_source;
use super::context::Context;
use super::error::{CliError, Result};
use super::output::{json, text};
use batches::{Giver, batches};
use fault::Fault;
use progress::Progress;
use source::{FileFormat, KeyBy, Source, Step};

const AFTER_HELP: &str = "\
The value of each record is its bytes in the file with only the final newline cut: a carriage return stays, a missing \
last newline does no harm, and bytes need not be UTF-8. A byte-order mark at the beginning of a file is no part of it. A \
number that is a key is its digits as they are in the file. Records of one key are stored in file order.

From a pipe that brings little, each record is sent at most 0.3 s after its line is complete. Progress on standard error counts \
what is stored.

A file that is compressed, in UTF-16 or of lines that end in a carriage return alone is refused before anything is stored.

Examples:
  synod load logs sshd.log --format lines --key-regex 'sshd\\[[0-9]+\\]'
  synod load logs hdfs.csv --format csv --key Component
  zcat events.gz | synod load events - --format ndjson --key user.id --on-error skip

A record without a key, or malformed, is an error that names file, line and reason. Records before it are stored, and some \
after it may be; the load ends with exit code 1; with --on-error skip it is passed over and counted, each line of it (a quote that nobody \
closes takes in all lines after it). Ctrl-C waits for the appends under \
way, says how many records are acknowledged and up to which line all are stored, and ends with exit code 1; a second \
Ctrl-C does not wait. Records after that line may be stored too: on a table that keeps all, going on at it stores those twice.";

/// `load`.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP, group = clap::ArgGroup::new("by").required(true).args(["key", "key_regex"]))]
pub struct LoadArgs {
    /// The table
    pub table: String,
    /// The file, or `-` for standard input
    pub file: String,
    /// How the file is cut into records
    #[arg(long, value_enum)]
    pub format: FileFormat,
    /// The JSON field or CSV column that is the key
    #[arg(long, value_name = "FIELD")]
    pub key: Option<String>,
    /// The key is what this regular expression's first group matches in the record's bytes, or its whole match if it
    /// has no group
    #[arg(long, value_name = "RE", value_parser = parse_regex)]
    pub key_regex: Option<Regex>,
    /// What to do with a record that is malformed, has no key, or is refused because of its size
    #[arg(long, value_enum, default_value = "stop")]
    pub on_error: OnError,
    /// Appends under way at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub concurrency: u32,
    /// Load the file this many times, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,
}

/// What to do with a bad record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// End the load
    Stop,
    /// Pass it over and count it
    Skip,
}

/// What the reader hands to the sender.
#[derive(Debug)]
pub enum Handover {
    /// Records and faults in file order, of this pass over the file.
    Steps(u64, Vec<Step>),
    /// Reading cannot go on.
    Failed(CliError),
}

/// Runs `load`.
pub async fn run(context: &mut Context, args: LoadArgs) -> Result<()> {
    let key = key_by(&args)?;
    if args.file == "-" && args.repeat > 1 {
        return Err(CliError::usage("--repeat", "standard input can be read only once"));
    }
    // Before anything is sent: a file that cannot be opened, or a header without the key, is an error at once.
    let read = Arc::new(AtomicU64::new(0));
    let first = open(&args, &key, &read)?;
    // A load rides out more than a single call has to.
    let client = context.connect_with(context.options(Duration::from_secs(60))).await?;
    client.table(&args.table).await?;

    let total = std::fs::metadata(&args.file).ok().filter(|meta| meta.is_file());
    let total = total.map(|meta| meta.len().saturating_mul(args.repeat));
    let progress = Progress::new(total, context.out.json());
    let (giver, taker) = batches();
    let reader = {
        let (args, read) = (args.clone(), Arc::clone(&read));
        std::thread::Builder::new().name("load-reader".to_owned()).spawn(move || {
            if let Err(error) = read_passes(&args, &key, first, &read, &giver) {
                giver.fail(error);
            }
        })
    };
    reader.map_err(|error| CliError::io("cannot start the reading thread", &error))?;
    let summary = run::Loader::new(client, &args, progress, read).run(taker).await?;
    context.out.done(&summary, as_text)
}

fn parse_regex(text: &str) -> std::result::Result<Regex, String> {
    // The library draws the place on lines of its own; the last line says what is wrong.
    let why = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().replace("error: ", "");
    Regex::new(text).map_err(why)
}

fn key_by(args: &LoadArgs) -> Result<KeyBy> {
    match (&args.key, &args.key_regex) {
        (Some(_), _) if args.format == FileFormat::Lines => {
            Err(CliError::usage("--key", "lines have no fields; use --key-regex, or --format ndjson or csv"))
        }
        (Some(field), _) => Ok(KeyBy::Field(field.clone())),
        (None, Some(regex)) => Ok(KeyBy::Regex(regex.clone())),
        (None, None) => Err(CliError::usage("--key", "or --key-regex is needed")),
    }
}

fn open(args: &LoadArgs, key: &KeyBy, read: &Arc<AtomicU64>) -> Result<Source> {
    let input = Counted { input: open_source(&args.file)?, read: Arc::clone(read) };
    let opened = Source::open(Box::new(input), args.format, key.clone());
    opened
        .map_err(|error| CliError::io(text::path(&args.file), &error))?
        .map_err(|fault| fault_error(&args.file, &fault))
}

/// A record's fault as an error: file, line, reason.
pub fn fault_error(file: &str, fault: &Fault) -> CliError {
    CliError::failed("malformed_record", format!("{}:{}: {}", text::path(file), fault.line, fault.reason))
        .with("file", file)
        .with("line", fault.line)
        .with("lines", fault.lines)
        .with("reason", fault.reason.as_str())
}

/// Reads the file as often as asked; ends early where nobody takes what is read.
fn read_passes(args: &LoadArgs, key: &KeyBy, first: Source, read: &Arc<AtomicU64>, giver: &Giver) -> Result<()> {
    let mut source = first;
    for pass in 1..=args.repeat {
        if pass > 1 {
            source = open(args, key, read)?;
        }
        loop {
            let step = source.step().map_err(|error| CliError::io(text::path(&args.file), &error))?;
            let Some(step) = step else { break };
            if !giver.step(pass, step) {
                return Ok(());
            }
        }
        if !giver.flush() {
            return Ok(());
        }
    }
    Ok(())
}

fn as_text(load: &json::Load) -> Vec<String> {
    let mut lines = vec![format!(
        "loaded {} records ({}) in {:.2} s: {:.0} records/s; append p50 {}, p99 {}, max {}",
        load.records,
        text::size(load.bytes),
        load.seconds,
        load.records_per_s,
        text::micros(load.latency_p50_us),
        text::micros(load.latency_p99_us),
        text::micros(load.latency_max_us),
    )];
    if load.skipped > 0 {
        lines.push(format!("skipped {} records", load.skipped));
    }
    lines
}

/// Counts what is read through it.
struct Counted {
    input: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::Write;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn args(line: &str) -> LoadArgs {
        Line::try_parse_from(["load", "t"].into_iter().chain(line.split_whitespace())).unwrap().load
    }

    #[test]
    fn lines_have_no_fields() {
        let error = key_by(&args("f --format lines --key a")).unwrap_err();
        assert!(error.message().contains("use --key-regex"), "{error}");
    }

    #[test]
    fn a_wrong_regex_is_one_line() {
        assert_eq!(parse_regex("a(").unwrap_err(), "unclosed group");
    }

    #[tokio::test]
    async fn every_pass_reads_the_whole_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a 1\nb 2").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let args = args(&format!("{path} --format lines --key-regex ^. --repeat 2"));
        let (key, read) = (key_by(&args).unwrap(), Arc::default());
        let (giver, mut taker) = batches();
        let source = open(&args, &key, &read).unwrap();
        let counted = Arc::clone(&read);
        let reader = std::thread::spawn(move || read_passes(&args, &key, source, &counted, &giver));
        let mut seen = Vec::new();
        while let Some(Handover::Steps(pass, steps)) = taker.next().await {
            seen.extend(steps.into_iter().map(|step| (pass, step.unwrap().line)));
        }
        reader.join().unwrap().unwrap();
        assert_eq!(seen, [(1, 1), (1, 2), (2, 1), (2, 2)]);
        assert_eq!(read.load(Ordering::Relaxed), 14);
    }

    #[test]
    fn a_header_without_the_key_names_file_and_columns() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a,b\n1,2\n").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let args = args(&format!("{path} --format csv --key c"));
        let error = open(&args, &key_by(&args).unwrap(), &Arc::default()).err().unwrap();
        assert_eq!(error.message(), format!("{path}:1: no column for --key 'c'; the header has a, b"));
    }
}
