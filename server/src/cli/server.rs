//! `synod server`: one node.
//!
//! Owns the node's flags, its log output and its runtime. Must never touch a data directory or a socket; the node does.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use synod_engine::node::WORKERS_MAX;
use tracing_subscriber::EnvFilter;

use super::config;
use super::error::{CliError, Result};
use crate::config::{Node, ServerConfig, Settings};
use crate::node::peer::is_address;

/// The environment's word for `--workers`.
const WORKERS: &str = "SYNOD_WORKERS";

const AFTER_HELP: &str = "\
One to five nodes found a cluster: start each with the same --bootstrap list of all their addresses. A node whose data \
directory belongs to a cluster already ignores the flag. A later node joins with --join and the addresses of some members. \
A node that belongs to a cluster already uses the addresses of --join to find the others: give them when nodes have \
moved. Addresses with names (h1:7400) are better: they are looked up for each connection. SIGTERM and SIGINT hand \
leadership over, write everything out and end the node with exit code 0.

SYNOD_LOG sets what is logged to standard error: error, warn, info (the default), debug or trace, also for parts, such \
as `info,synod_engine=debug`.";

/// `server`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
#[command(group = clap::ArgGroup::new("origin").args(["bootstrap", "join"]))]
pub struct ServerArgs {
    /// Where the node keeps everything
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// HOST:PORT to listen on, for clients and for other nodes
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// HOST:PORT others reach this node by [default: the address it listens on]
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// HOST:PORT for /livez, /readyz and /metrics [default: none]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Found a cluster of the nodes at these addresses, this one among them
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    bootstrap: Vec<String>,
    /// Join the cluster that the nodes at these addresses belong to; for a node that belongs to it already: find it there
    #[arg(long, visible_alias = "peers", value_name = "LIST", value_delimiter = ',')]
    join: Vec<String>,
    /// Join in the place of this node, whose disk is lost, also at its address: the new node gets a number of its own, the lost one is
    /// emptied and removed. Ignored once the data directory belongs to the cluster
    #[arg(long, value_name = "NODE", requires = "join", conflicts_with = "bootstrap", value_parser = clap::value_parser!(u64).range(1..))]
    replace: Option<u64>,
    /// Settings file; `synod config default` prints one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Threads that shards are spread over [default: SYNOD_WORKERS, else `workers` of the settings file]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    workers: Option<i64>,
    /// The zone that the node runs in, such as a datacentre or a room: replicas of a shard are spread over zones [default: `node.zone` of
    /// the settings file, else a zone of its own]
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// The rack within the zone [default: `node.rack` of the settings file]
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// Listen on an address that other machines can reach, without encryption or authentication
    #[arg(long)]
    insecure: bool,
    /// End in order when standard input is closed, so that the node never outlives the process that started it
    #[arg(long)]
    die_with_stdin: bool,
}

/// Runs a node until it is told to end.
pub fn run(args: ServerArgs) -> Result<()> {
    let config = configure(args, std::env::var_os(WORKERS))?;
    let filter = match std::env::var("SYNOD_LOG") {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| CliError::usage("SYNOD_LOG", error))?,
        Err(_) => EnvFilter::new("info"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.settings.network.threads as usize)
        .enable_all()
        .thread_name(crate::node::NETWORK_THREAD)
        .build()
        .map_err(|error| CliError::io("cannot start the runtime", &error))?;
    let ended = runtime.block_on(crate::node::run(config));
    runtime.shutdown_background();
    ended.map_err(|error| CliError::failed("node", format!("{error:#}")))
}

/// `workers_said`: what [`WORKERS`] is set to.
fn configure(args: ServerArgs, workers_said: Option<OsString>) -> Result<ServerConfig> {
    let mut settings = match &args.config {
        Some(file) => config::read(file)?,
        None => Settings::default(),
    };
    if let Some(workers) = workers(args.workers, workers_said)? {
        settings.workers = workers;
    }
    for (flag, name, setting) in
        [("--zone", &args.zone, &mut settings.node.zone), ("--rack", &args.rack, &mut settings.node.rack)]
    {
        let Some(name) = name else { continue };
        Node::check_name(name).map_err(|why| CliError::usage(flag, why))?;
        setting.clone_from(name);
    }
    let single =
        [("--listen", Some(&args.listen)), ("--http", args.http.as_ref()), ("--advertise", args.advertise.as_ref())];
    for (flag, addr) in single {
        addresses(flag, addr.map_or(&[], std::slice::from_ref))?;
    }
    // A name is looked up when the node starts.
    let literal = |addr: &String| addr.parse::<SocketAddr>().ok();
    let listen = literal(&args.listen);
    for (flag, addr) in [("--listen", listen), ("--http", args.http.as_ref().and_then(literal))] {
        let Some(addr) = addr else { continue };
        if !addr.ip().is_loopback() && !args.insecure {
            let why = format!("{addr} can be reached from other machines and there is no TLS; --insecure allows it");
            return Err(CliError::usage(flag, why).with("knob", "--insecure"));
        }
    }
    for (flag, list) in [("--bootstrap", &args.bootstrap), ("--join", &args.join)] {
        addresses(flag, list)?;
    }
    if args.advertise.is_none() && listen.is_some_and(|addr| addr.ip().is_unspecified()) {
        let why = format!(
            "--listen {} is not an address that other nodes can use; name the one by which they reach this node",
            args.listen
        );
        return Err(CliError::usage("--advertise", why));
    }
    Ok(ServerConfig {
        data_dir: args.data_dir,
        listen: args.listen,
        advertise: args.advertise,
        http: args.http,
        bootstrap: args.bootstrap,
        join: args.join,
        replace: args.replace,
        insecure: args.insecure,
        die_with_stdin: args.die_with_stdin,
        settings,
    })
}

/// The number of workers that the flag says, or else the environment; an error names which of them it was.
fn workers(flag: Option<i64>, said: Option<OsString>) -> Result<Option<u32>> {
    let (knob, named, value) = match (flag, said) {
        (Some(number), _) => ("--workers", number.to_string(), Some(number)),
        (None, Some(text)) => {
            let text = text.to_string_lossy().into_owned();
            let number = text.trim().parse().ok();
            (WORKERS, format!("{text:?}"), number)
        }
        (None, None) => return Ok(None),
    };
    let within = value.and_then(|number| u16::try_from(number).ok()).filter(|n| (1..=WORKERS_MAX).contains(n));
    match within {
        Some(number) => Ok(Some(number.into())),
        None => Err(CliError::usage(knob, format!("{named} is not a number from 1 to {WORKERS_MAX}"))),
    }
}

/// Whether a node that listens here may need `--insecure`: where a name leads is known only where the node is started.
pub fn may_be_reached(addr: &str) -> bool {
    match addr.parse::<SocketAddr>() {
        Ok(addr) => !addr.ip().is_loopback(),
        Err(_) => addr.rsplit_once(':').is_none_or(|(name, _)| !name.eq_ignore_ascii_case("localhost")),
    }
}

/// Checks the list of nodes' addresses that a flag has: each is an address, and none comes twice.
pub fn addresses(flag: &str, list: &[String]) -> Result<()> {
    for (index, addr) in list.iter().enumerate() {
        if !is_address(addr) {
            return Err(CliError::usage(flag, format!("'{addr}' is not an address; write HOST:PORT[,HOST:PORT…]")));
        }
        if list[..index].contains(addr) {
            return Err(CliError::usage(flag, format!("{addr} is named twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        server: ServerArgs,
    }

    fn configured(flags: &str) -> Result<ServerConfig> {
        let line = ["server", "--data-dir", "d"].into_iter().chain(flags.split_whitespace());
        configure(Line::try_parse_from(line).unwrap().server, None)
    }

    #[test]
    fn a_bad_number_of_workers_is_blamed_on_who_said_it() {
        let said = |text: &str| workers(None, Some(text.into()));
        assert_eq!(said("3").unwrap(), Some(3));
        assert_eq!((workers(Some(2), Some("none".into())).unwrap(), workers(None, None).unwrap()), (Some(2), None));
        for bad in ["", "0", "257", "-1", "four"] {
            let why = said(bad).unwrap_err();
            assert_eq!(why.message(), format!("SYNOD_WORKERS: {bad:?} is not a number from 1 to 256"));
        }
        for bad in [-1, 0, 257, i64::MAX] {
            let why = configured(&format!("--listen 127.0.0.1:1 --workers={bad}")).unwrap_err();
            assert_eq!(why.message(), format!("--workers: {bad} is not a number from 1 to 256"));
        }
        assert_eq!(configured("--listen 127.0.0.1:1 --workers 256").unwrap().settings.workers, 256);
    }

    #[test]
    fn a_zone_is_a_short_plain_name() {
        let settings = configured("--listen 127.0.0.1:1 --zone eu-1a --rack r7").unwrap().settings;
        assert_eq!((settings.node.zone.as_str(), settings.node.rack.as_str()), ("eu-1a", "r7"));
        let long = "z".repeat(65);
        for (flags, why) in [("--zone a\u{1b}b".to_owned(), "letters"), (format!("--rack {long}"), "65 bytes long")] {
            let refused = configured(&format!("--listen 127.0.0.1:1 {flags}")).unwrap_err();
            assert!(refused.message().contains(why) && refused.message().starts_with("--"), "{refused}");
        }
    }

    #[test]
    fn only_loopback_without_a_word() {
        assert!(configured("--listen 127.0.0.1:1").is_ok());
        assert!(configured("--listen 10.0.0.1:1").unwrap_err().message().contains("--insecure allows it"));
        assert!(configured("--listen 127.0.0.1:1 --http 10.0.0.1:2").unwrap_err().message().starts_with("--http"));
        assert!(configured("--listen 10.0.0.1:1 --insecure").is_ok());
        assert!(configured("--listen 0.0.0.0:1 --insecure").unwrap_err().message().starts_with("--advertise"));
    }

    #[test]
    fn a_place_is_taken_by_joining() {
        let taken = configured("--listen 127.0.0.1:1 --join h:2 --replace 3").unwrap();
        assert_eq!(taken.replace, Some(3));
        for bad in ["--replace 3", "--bootstrap 127.0.0.1:1 --replace 3", "--join h:2 --replace 0"] {
            let line = ["server", "--data-dir", "d", "--listen", "127.0.0.1:1"].into_iter().chain(bad.split(' '));
            assert!(Line::try_parse_from(line).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_may_be_reached_is_told_of_the_flag() {
        for (addr, may) in [
            ("127.0.0.1:7400", false),
            ("127.9.9.9:7400", false),
            ("[::1]:7400", false),
            ("localhost:7400", false),
            ("10.0.0.1:7400", true),
            ("[::]:7400", true),
            ("h1:7400", true),
        ] {
            assert_eq!(may_be_reached(addr), may, "{addr}");
        }
    }

    #[test]
    fn lists_of_addresses_are_checked() {
        assert!(configured("--listen 127.0.0.1:1 --bootstrap 127.0.0.1:1,h:2").is_ok());
        assert!(configured("--listen 127.0.0.1:1 --bootstrap h").unwrap_err().message().contains("not an address"));
        assert!(configured("--listen h:1 --advertise h:2 --http h:3 --peers g:1").is_ok());
        assert!(configured("--listen h").unwrap_err().message().starts_with("--listen"));
        assert!(configured("--listen h:1 --advertise h").unwrap_err().message().starts_with("--advertise"));
        assert!(configured("--listen 127.0.0.1:1 --join h:1,h:1").unwrap_err().message().contains("twice"));
        for bad in ["h:0", "h:65536", ":1", "h:1,", "http://h:1", "h/x:1", "h\u{7}:1"] {
            let why = addresses("--founders", &bad.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap_err();
            assert!(why.message().contains("--founders") && why.message().contains("not an address"), "{bad}: {why}");
        }
    }
}
