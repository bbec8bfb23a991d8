//! The command tree.
//!
//! Owns every command, flag and help text of the data commands; commands of their own modules bring their own flags.
//! Help is written to learn the product from. Must never do anything but parse.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use synod_client::{At, Consistency, Expect};

use super::CliError;
use super::bytes::{HeaderArg, KeyEncoding, RawArg, expect_argument, header_arg, raw_arg};
use super::context::Global;
use super::{
    backup, batch, bench, check, cluster, config, dev, explain, hot, jobs, load, members, rebalance, restore, server,
    shard, status, table, time,
};

const ABOUT: &str = "A partitioned, replicated log store: every key is a log";

const LONG_ABOUT: &str = "\
Synod is a partitioned, replicated log store. Every key is a log: its records have offsets 0, 1, 2, … that never \
change. A table spreads its keys over shards, by range or by hash, and each shard is replicated by its own Paxos \
group. A write is acknowledged only after a majority has it on disk.

A table that retains `latest` is a key-value store (put, get, delete, scan); one that retains `all` is a set of \
streams (append, read, tail, trim). All of these work on both.";

const AFTER_HELP: &str = "\
First steps:
  synod dev                                              a local cluster of three nodes
  synod table create kv --partition hash --shards 4      a key-value table
  synod put kv greeting hello                            and a record in it
  synod get kv greeting
  synod status                                           nodes, shards and leaders

Exit codes:
  0  done
  1  failed
  2  usage: the command line or an argument is not valid; nothing was changed
  3  an expectation (--expect) did not hold; nothing was written
  4  outcome unknown: the deadline passed before it was known whether a write took place

Output: -o text is for people and may change; -o json is documented (in the README) and stable. Errors are one line on \
standard error, with -o json an object with `error`, `message`, `retryable` and the error's own fields. Characters that a \
terminal obeys or hides are escaped in both. A write that succeeded ends with 0 even where its result cannot be printed; \
standard error tells the result then.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "synod", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
#[command(arg_required_else_help = true, max_term_width = 120)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a value to a key
    Put(Put),
    /// Print a key's newest value, or the one at an offset or a time
    Get(Get),
    /// Delete a key (its offsets go on)
    Delete(Delete),
    /// Append one or more records to a key, atomically
    Append(Append),
    /// Print a key's records in order
    Read(Read),
    /// Drop a key's old records
    Trim(Trim),
    /// Print the newest record of each key
    Scan(Scan),
    /// Print records as they are committed, each key in order
    Tail(Tail),
    /// Do several writes on keys of one shard, atomically
    Batch(batch::BatchArgs),
    /// Load a file: one record a line, JSON object or CSV row
    Load(load::LoadArgs),
    /// Create, list, describe and drop tables
    Table(table::TableArgs),
    /// Show nodes, shards and leaders
    Status(status::StatusArgs),
    /// Show where a key lives, and why
    Explain(explain::ExplainArgs),
    /// List and describe shards, hand leadership over, move replicas
    Shard(shard::ShardArgs),
    /// Show the busiest shards and keys
    Hot(hot::HotArgs),
    /// List nodes; empty one, take it out of the cluster, or replace it by another
    Node(members::NodeArgs),
    /// Spread replicas and leaderships evenly: show a plan, carry one out
    Rebalance(rebalance::RebalanceArgs),
    /// List, watch, pause and cancel jobs, which the cluster carries out by itself: moves of replicas, nodes that are emptied
    Job(jobs::JobArgs),
    /// Raise the cluster's version, once every node runs a newer binary
    Cluster(cluster::ClusterArgs),
    /// Run a local cluster, one process a node
    Dev(dev::DevArgs),
    /// Run one node
    Server(server::ServerArgs),
    /// Measure a cluster: rate and latency of puts, gets and appends
    Bench(bench::BenchArgs),
    /// Check a settings file, or print the default one
    Config(config::ConfigArgs),
    /// Verify every checksum in a data directory whose node is down
    Check(check::CheckArgs),
    /// Write the whole cluster's state to a folder: a snapshot file for each shard
    Backup(backup::BackupArgs),
    /// Make a data directory for a node of a new cluster from a backup
    Restore(restore::RestoreArgs),
    /// Print a shell's completion script
    Completions(Completions),
}

/// `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// A table and a key in it.
#[derive(Args, Debug)]
pub struct TableKey {
    /// The table
    pub table: String,
    /// The key, 1 to 4096 bytes, taken as they are (after `--` it may begin with a dash)
    #[arg(value_parser = raw_arg(), allow_negative_numbers = true)]
    pub key: RawArg,
    /// How keys are written.
    #[command(flatten)]
    pub encoding: KeyEncoding,
}

/// A condition on a write.
#[derive(Args, Debug)]
pub struct Condition {
    /// Write only if this holds, else exit with 3: `any`, `absent`, `exists`, or the key's exact next offset
    #[arg(long, value_name = "WHAT", default_value = "any", value_parser = expect_argument)]
    pub expect: Expect,
}

/// How old what a stale read shows may be, where nothing is said.
const MAX_AGE: Duration = Duration::from_secs(5);

/// How fresh a read must be.
#[derive(Args, Clone, Copy, Debug)]
pub struct Freshness {
    /// `linearizable` sees every write acknowledged before; `stale` sees every write acknowledged --max-age ago, and is
    /// answered by any replica; `local` is what one replica has, and answers even while most replicas are down
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: ConsistencyArg,
    /// With --consistency stale: how old what is read may be, as 500ms or 10s [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ConsistencyArg {
    Linearizable,
    Stale,
    Local,
}

impl Freshness {
    /// For the client; the error is of usage.
    pub fn consistency(self) -> Result<Consistency, CliError> {
        match (self.consistency, self.max_age) {
            (ConsistencyArg::Stale, age) => Ok(Consistency::Stale(age.unwrap_or(MAX_AGE))),
            (_, Some(_)) => Err(CliError::usage("--max-age", "goes with --consistency stale only")),
            (ConsistencyArg::Linearizable, None) => Ok(Consistency::Linearizable),
            (ConsistencyArg::Local, None) => Ok(Consistency::Local),
        }
    }
}

/// `put`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["value", "value_file"]))]
pub struct Put {
    /// Where.
    #[command(flatten)]
    pub at: TableKey,
    /// The value, its bytes taken as they are; may be empty
    #[arg(value_parser = raw_arg(), allow_negative_numbers = true)]
    pub value: Option<RawArg>,
    /// Take the value from a file, or from standard input with `-`
    #[arg(long, value_name = "FILE")]
    pub value_file: Option<String>,
    /// The value is base64
    #[arg(long)]
    pub value_base64: bool,
    /// A header of the record; may be given again
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header_arg())]
    pub headers: Vec<HeaderArg>,
    /// On what condition.
    #[command(flatten)]
    pub condition: Condition,
}

/// `append`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["values", "value_file"]))]
pub struct Append {
    /// Where.
    #[command(flatten)]
    pub at: TableKey,
    /// The records' values in order; all are written or none
    #[arg(value_name = "VALUE", value_parser = raw_arg(), allow_negative_numbers = true)]
    pub values: Vec<RawArg>,
    /// Append one record with the bytes of a file, or of standard input with `-`
    #[arg(long, value_name = "FILE")]
    pub value_file: Option<String>,
    /// The values are base64
    #[arg(long)]
    pub value_base64: bool,
    /// A header of every record; may be given again
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header_arg())]
    pub headers: Vec<HeaderArg>,
    /// On what condition.
    #[command(flatten)]
    pub condition: Condition,
}

/// `get`.
#[derive(Args, Debug)]
#[command(after_help = "A key that has no such record is an error (key_not_found, exit code 1).")]
pub struct Get {
    /// Where.
    #[command(flatten)]
    pub at: TableKey,
    /// The record at this offset
    #[arg(long, conflicts_with = "time")]
    pub offset: Option<u64>,
    /// The newest record at or before this time: RFC 3339 in any zone (UTC where none is named), or microseconds since 1970
    #[arg(long, value_parser = time::argument)]
    pub time: Option<u64>,
    /// Print the value's bytes and nothing else: no escapes, no newline
    #[arg(long)]
    pub raw: bool,
    /// How fresh.
    #[command(flatten)]
    pub freshness: Freshness,
}

impl Get {
    /// Which record.
    pub fn which(&self) -> Option<At> {
        self.offset.map(At::Offset).or(self.time.map(At::TsUs))
    }
}

/// `delete`.
#[derive(Args, Debug)]
pub struct Delete {
    /// Where.
    #[command(flatten)]
    pub at: TableKey,
    /// On what condition.
    #[command(flatten)]
    pub condition: Condition,
}

/// `read`.
#[derive(Args, Debug)]
pub struct Read {
    /// Where.
    #[command(flatten)]
    pub at: TableKey,
    /// The first offset to print; an error where it was trimmed [default: the first that is left]
    #[arg(long, value_name = "OFFSET")]
    pub from: Option<u64>,
    /// Print at most this many records
    #[arg(long)]
    pub limit: Option<u64>,
    /// How fresh.
    #[command(flatten)]
    pub freshness: Freshness,
}

/// `trim`.
#[derive(Args, Debug)]
pub struct Trim {
    /// Where.
    #[command(flatten)]
    pub at: TableKey,
    /// The first offset to keep; all before it are dropped
    #[arg(long, value_name = "OFFSET")]
    pub before: u64,
}

/// `scan`.
#[derive(Args, Debug)]
#[command(after_help = "Range tables are scanned in key order, hash tables in the order of the keys' hashes.")]
pub struct Scan {
    /// The table
    pub table: String,
    /// Only keys that begin so
    #[arg(long, value_parser = raw_arg(), conflicts_with_all = ["from", "to"])]
    pub prefix: Option<RawArg>,
    /// Only keys from this one on
    #[arg(long, value_name = "KEY", value_parser = raw_arg())]
    pub from: Option<RawArg>,
    /// Only keys before this one
    #[arg(long, value_name = "KEY", value_parser = raw_arg())]
    pub to: Option<RawArg>,
    /// How keys are written.
    #[command(flatten)]
    pub encoding: KeyEncoding,
    /// Print at most this many records; if there are more, standard error shows a cursor for the next page
    #[arg(long)]
    pub limit: Option<u64>,
    /// Go on where an earlier scan with the same flags stopped
    #[arg(long)]
    pub cursor: Option<String>,
    /// From the last key to the first
    #[arg(long)]
    pub reverse: bool,
    /// Without values and headers
    #[arg(long)]
    pub keys_only: bool,
    /// How fresh.
    #[command(flatten)]
    pub freshness: Freshness,
}

/// `tail`.
#[derive(Args, Debug)]
#[command(after_help = "\
When the tail ends, for whatever reason, standard error shows a token: give it to --from to continue after the last record. If \
the reader of standard output went away, the token is that of the last block written: records may be printed twice, none is lost.

Where records that follow a token were trimmed, the tail ends with an error that names the key and the first offset left. With \
--skip-trimmed it continues with the records that are left, and names such keys on standard error: each key once, at most 1,024 \
keys, and not every key if several were trimmed at one place.

With -f, Ctrl-C, SIGTERM and a reader that goes away end it with exit code 0. While no node answers it waits, and says so \
on standard error.")]
pub struct Tail {
    /// The table
    pub table: String,
    /// Only this key
    #[arg(value_parser = raw_arg(), allow_negative_numbers = true)]
    pub key: Option<RawArg>,
    /// Only keys that begin so
    #[arg(long, value_parser = raw_arg(), conflicts_with = "key")]
    pub prefix: Option<RawArg>,
    /// How keys are written.
    #[command(flatten)]
    pub encoding: KeyEncoding,
    /// Where to begin: `earliest`, `latest`, or the token an earlier tail ended with
    #[arg(long, default_value = "earliest", value_name = "PLACE")]
    pub from: String,
    /// Wait for more at the end
    #[arg(short, long)]
    pub follow: bool,
    /// With -f: how long to wait while nodes that are needed do not answer, as 30s or 10m [default: without limit]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "follow")]
    pub patience: Option<Duration>,
    /// End after this many records
    #[arg(long)]
    pub limit: Option<u64>,
    /// Pass over records that were trimmed, and go on with what is left
    #[arg(long)]
    pub skip_trimmed: bool,
}
