//! The command line of Synod: one binary for running nodes, using a cluster, and measuring it.
//!
//! Owns the command tree, the documented exit codes and both output formats. Must never hold rules of the store itself:
//! what is allowed is the cluster's to say, and whatever talks to a cluster goes through the client library.
//!
//! One module a command; `Context` carries what all of them share.

mod alter;
mod args;
mod backup;
mod backup_dir;
mod batch;
mod bench;
mod bytes;
mod check;
mod cluster;
mod config;
mod context;
mod data;
#[doc(hidden)]
pub mod decoders;
mod dev;
mod error;
mod escape;
mod explain;
mod hot;
mod jobs;
mod load;
mod members;
mod merges;
mod moves;
mod nodes;
pub mod output;
mod picture;
mod rebalance;
mod restore;
mod server;
mod shard;
mod splits;
mod status;
mod table;
mod tail;
mod time;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use context::Context;
pub use error::{CliError, Exit, Result};

/// Parses the command line, does what it says, and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&with_pieces(error, &args), wants_json(&args)),
    };
    let json = cli.global.output == output::Format::Json;
    match execute(cli) {
        Ok(()) => Exit::Ok.code(),
        Err(error) => report(&error, json),
    }
}

fn execute(cli: Cli) -> Result<()> {
    if let Command::Server(args) = cli.command {
        return server::run(args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::io("cannot start the runtime", &error))?;
    let mut context = Context::new(cli.global, is_operators(&cli.command))?;
    let done = runtime.block_on(dispatch(&mut context, cli.command));
    // A thread that still waits for standard input must not keep the process.
    runtime.shutdown_background();
    done.and_then(|()| context.out.flush())
}

/// Whether a command is for who keeps the cluster running: nodes have places for those when clients hold all others.
fn is_operators(command: &Command) -> bool {
    use Command::{Backup, Cluster, Hot, Job, Node, Rebalance, Shard, Status, Table};
    let asks = matches!(command, Status(_) | Table(_) | Hot(_) | Backup(_));
    asks || matches!(command, Shard(_) | Cluster(_) | Job(_) | Node(_) | Rebalance(_))
}

async fn dispatch(context: &mut Context, command: Command) -> Result<()> {
    match command {
        Command::Put(args) => data::put(context, args).await,
        Command::Get(args) => data::get(context, args).await,
        Command::Delete(args) => data::delete(context, args).await,
        Command::Append(args) => data::append(context, args).await,
        Command::Read(args) => data::read(context, args).await,
        Command::Trim(args) => data::trim(context, args).await,
        Command::Scan(args) => data::scan(context, args).await,
        Command::Tail(args) => tail::run(context, args).await,
        Command::Batch(args) => batch::run(context, args).await,
        Command::Load(args) => load::run(context, args).await,
        Command::Table(args) => table::run(context, args).await,
        Command::Status(args) if args.watch => picture::run(context).await,
        Command::Status(_) => status::run(context).await,
        Command::Explain(args) => explain::run(context, args).await,
        Command::Shard(args) => shard::run(context, args).await,
        Command::Hot(args) => hot::run(context, args).await,
        Command::Cluster(args) => cluster::run(context, args).await,
        Command::Node(args) => members::run(context, args).await,
        Command::Rebalance(args) => rebalance::run(context, args).await,
        Command::Job(args) => jobs::run(context, args).await,
        Command::Dev(args) => dev::run(context, args).await,
        Command::Bench(args) => bench::run(context, args).await,
        Command::Config(args) => config::run(context, args),
        Command::Check(args) => check::run(context, &args),
        Command::Backup(args) => backup::backup(context, args).await,
        Command::Restore(args) => restore::restore(context, &args),
        Command::Completions(args) => completions(args.shell),
        Command::Server(_) => Err(CliError::failed("internal", "`server` has its own runtime")),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "synod", &mut script);
    let mut out = output::Out::new(output::Format::Text);
    out.write(&script)?;
    out.flush()
}

/// Prints an error and returns its exit code.
fn report(error: &CliError, json: bool) -> u8 {
    if let Some(line) = error.render(json) {
        // Nothing can be done where standard error is closed too; the exit code still tells.
        let _ = writeln!(io::stderr(), "{line}");
    }
    error.exit().code()
}

/// The same error, made from escaped and shortened arguments: clap drops the parts that a terminal would obey from what it
/// quotes.
fn with_pieces(error: clap::Error, args: &[OsString]) -> clap::Error {
    let piece = |arg: &OsString| OsString::from(escape::piece(arg.as_bytes()));
    let pieces = Cli::try_parse_from(args.iter().map(piece));
    pieces.err().filter(|pieces| pieces.kind() == error.kind()).unwrap_or(error)
}

/// Whether the command line asks for JSON, though it does not parse.
fn wants_json(args: &[OsString]) -> bool {
    let text: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let short = text.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"]));
    short || text.iter().any(|arg| matches!(*arg, "-ojson" | "-o=json" | "--output=json"))
}

/// Prints help where it was asked for, else one line that says what does not parse and what is nearest to it.
fn refuse(error: &clap::Error, json: bool) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match error.print().and_then(|()| io::stdout().flush()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    report(&CliError::io("cannot write to standard output", &error), json)
                }
                // A reader that went away has seen enough.
                _ => Exit::Ok.code(),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !json => {
            let _ = error.print();
            Exit::Usage.code()
        }
        _ => report(&command_line_error(error), json),
    }
}

fn command_line_error(error: &clap::Error) -> CliError {
    let text = error.to_string();
    // Clap's further paragraphs are the usage and a pointer to --help.
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.find(mark)).min();
    let said = text[..end.unwrap_or(text.len())].trim_start_matches("error: ").trim();
    let mut error_out = CliError::command_line(format!("{said}\nsee --help"));
    let suggestion = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| error.get(kind));
    let nearest = match suggestion {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    if let Some(nearest) = nearest {
        error_out = error_out.with("nearest", nearest);
    }
    error_out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_is_one_line_with_the_nearest_known_one() {
        let error = command_line_error(&parse("synod scan t --prefx a").err().unwrap());
        let line = error.render(false).unwrap();
        assert!(line.contains("unexpected argument '--prefx' found"), "{line}");
        assert!(line.contains("'--prefix'") && !line.contains('\n'), "{line}");
        assert!(error.render(true).unwrap().contains("\"nearest\":\"--prefix\""));
        assert_eq!(error.exit(), Exit::Usage);
    }

    #[test]
    fn an_argument_in_an_error_is_escaped_and_bounded() {
        let line = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let error = with_pieces(Cli::try_parse_from(&args).err().unwrap(), &args);
            command_line_error(&error).render(false).unwrap()
        };
        assert!(line(&["synod", "a\nb\u{1b}[31m"]).contains("'a\\nb\\u{1b}[31m'"));
        assert!(line(&["synod", "a\\nb"]).contains("'a\\\\nb'"), "unlike a newline");
        for (flags, flag) in [(["get", "t", "k"].as_slice(), "--time"), (&["put", "t", "k", "v"], "--expect")] {
            let args: Vec<&str> = ["synod"].iter().chain(flags).copied().chain([flag, "a\\b"]).collect();
            let said = line(&args);
            assert!(said.contains("'a\\\\b' is n") && !said.contains("\\\\\\"), "escaped once: {said}");
        }
        let wide = "y".repeat(100_000);
        let wide = line(&["synod", "get", "t", "k", "--time", &wide]);
        assert!(wide.len() < 2_100 && wide.contains("(100000 bytes)") && wide.contains("--time"), "{wide}");
    }

    #[test]
    fn an_unknown_command_is_one_line_with_the_nearest_known_one() {
        let line = command_line_error(&parse("synod statsu").err().unwrap()).render(false).unwrap();
        assert!(line.contains("'status'") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn json_is_recognised_on_a_broken_command_line() {
        let args = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&args("synod -o json nope")));
        assert!(wants_json(&args("synod nope --output=json")));
        assert!(!wants_json(&args("synod -o text nope")));
    }

    #[test]
    fn what_is_done_with_a_shard_is_in_the_help() {
        let help = parse("synod shard --help").err().unwrap().to_string();
        for command in ["list", "describe", "scrub", "transfer-leader", "move", "split"] {
            assert!(help.lines().any(|line| line.split_whitespace().next() == Some(command)), "{command}: {help}");
        }
    }

    #[test]
    fn commands_of_the_readme_parse() {
        for line in [
            "synod dev --nodes 3 --data-dir d --base-port 7400",
            "synod dev restart 2 --data-dir d",
            "synod --endpoints a:1,b:2 -o json --timeout 3s put t k v -H a=b --expect absent",
            "synod put t k -5",
            "synod put t k --value-file - --expect 7",
            "synod append t k a b c",
            "synod get t k --offset 3 --consistency local",
            "synod read t k --from 1 --limit 2",
            "synod delete t k --expect exists",
            "synod trim t k --before 5",
            "synod scan t --from a --to b --reverse --keys-only --limit 3",
            "synod tail t k --from latest -f",
            "synod tail t --prefix p",
            "synod batch t -",
            "synod load t f --format csv --key Component --on-error skip --repeat 2 --concurrency 8",
            "synod load t f --format lines --key-regex x",
            "synod table create t --partition range --split-at a --split-at m --retain all",
            "synod table create t --partition hash --shards 4 --replicas 1",
            "synod table describe t",
            "synod shard transfer-leader 2 --to 3",
            "synod shard move 2 --from 3 --to 4",
            "synod shard move 2 --from 3 --to 4 --detach",
            "synod shard split 2",
            "synod shard split 2 --at k --detach",
            "synod shard split 2 --by load --dry-run",
            "synod hot shards",
            "synod hot keys t --limit 5",
            "synod job list",
            "synod job watch 7",
            "synod job cancel 7 --no-wait",
            "synod status",
            "synod status --watch",
            "synod node replace 3 --with 4",
            "synod node remove 3",
            "synod node list",
            "synod node drain 3 --dry-run",
            "synod node drain 3 --wait",
            "synod node decommission 3 --max-concurrent 4 --detach",
            "synod node recommission 3",
            "synod job pause 7",
            "synod job resume 7",
            "synod rebalance plan",
            "synod rebalance plan --by leaders --table t --max-concurrent 8",
            "synod rebalance apply --yes",
            "synod rebalance apply plan.json",
            "synod rebalance status",
            "synod rebalance pause",
            "synod rebalance resume",
            "synod rebalance cancel",
            "synod server --data-dir d --listen 127.0.0.1:1 --zone a --rack r1",
            "synod cluster upgrade",
            "synod cluster upgrade --to 2 --dry-run",
            "synod explain t k",
            "synod server --data-dir d --listen 127.0.0.1:1 --bootstrap 127.0.0.1:1,127.0.0.1:2 --http 127.0.0.1:3",
            "synod config default",
            "synod backup d",
            "synod backup d --resume",
            "synod backup d --replace",
            "synod table create t --partition hash --if-not-exists",
            "synod table drop t --if-exists",
            "synod table alter t --replicas 5 --dry-run",
            "synod restore d --data-dir n1 --founders a:1,b:1,c:1 --node 1",
            "synod -o json check d",
            "synod completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).err().unwrap());
        }
        for line in [
            "synod put t k",
            "synod cluster upgrade --to 0",
            "synod node drain",
            "synod node drain 3 --wait --detach",
            "synod node drain 3 --dry-run --detach",
            "synod node decommission 3 --max-concurrent 0",
            "synod node decommission 3 --max-concurrent 65",
            "synod rebalance",
            "synod rebalance plan --by whim",
            "synod rebalance plan --max-concurrent 0",
            "synod rebalance apply plan.json --by leaders",
            "synod put t k v --value-file f",
            "synod shard split --at k",
            "synod backup d --resume --replace",
            "synod load t f --format lines",
            "synod load t f --format csv --key a --key-regex b",
            "synod scan t --prefix a --from b",
            "synod tail t k --prefix p",
            "synod server --data-dir d --listen 127.0.0.1:1 --bootstrap a --join b",
            "synod get t k --offset 1 --time 2026-01-01T00:00:00Z",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
