//! `synod dev`: a local cluster of real processes, one a node.
//!
//! Owns the life of such a cluster: started, said to be ready once writes would succeed, watched, and taken down with
//! this process. Must never restart a node by itself: a node that died stays dead until somebody says otherwise.

mod plan;
mod process;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use synod_client::{Client, Options};
use synod_engine::clock::wall_us;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::context::Context;
use super::error::{CliError, Result};
use super::output::json;
use super::status;
use plan::Plan;
use process::Nodes;

/// How long a cluster, or a node, may take to get ready.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The shard that holds the cluster's own records.
const SYSTEM_SHARD: u64 = 1;

const AFTER_HELP: &str = "\
Node i listens on base port + i, and on base port + 100 + i for HTTP (/livez, /readyz, /metrics). It keeps its data in \
DIR/node-i, next to its log (log.txt) and process number (pid). `ready: HOST:PORT,…` is printed when writes succeed. \
Ctrl-C or SIGTERM ends all nodes in order.

Started again on the same directory, the cluster goes on where it was. A node that died, or was killed to see what \
happens, is started again from another terminal:
  kill -9 $(cat DIR/node-2/pid)
  synod dev restart 2 --data-dir DIR";

/// `dev`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// Number of nodes, 1 to 5 [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=5))]
    nodes: Option<u16>,
    /// Where everything is kept [default: a new directory under the system's temporary one; it stays]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The port below the first node's [default: 7400]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start a node again that has ended
    Restart {
        /// The node's number, from 1
        node: u16,
        /// The cluster's directory
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// Runs `dev`.
pub async fn run(context: &mut Context, args: DevArgs) -> Result<()> {
    match args.command {
        Some(DevCommand::Restart { node, data_dir }) => restart(context, node, &Plan::open(&data_dir)?).await,
        None => {
            let dir = match args.data_dir {
                Some(dir) => dir,
                None => fresh_dir()?,
            };
            start(context, &Plan::settle(&dir, args.nodes, args.base_port)?).await
        }
    }
}

fn fresh_dir() -> Result<PathBuf> {
    let name = format!("synod-dev-{}-{}", std::process::id(), wall_us() / 1_000_000);
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir(&dir).map_err(|error| CliError::io(dir.display(), &error))?;
    Ok(dir)
}

/// The signals that end a cluster.
struct Stops {
    signals: [Signal; 3],
}

impl Stops {
    fn new() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    /// The next of them. Cancel-safe.
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn start(context: &mut Context, plan: &Plan) -> Result<()> {
    if let Some((node, pid)) = plan.numbers().find_map(|node| Some((node, plan.alive(node)?))) {
        let message = format!("node {node} of {} runs already, as process {pid}", plan.dir.display());
        return Err(CliError::failed("already_running", message).with("node", node).with("pid", pid));
    }
    plan.check_ports()?;
    let mut stops = Stops::new().map_err(|error| CliError::io("signals", &error))?;
    if !context.out.json() {
        eprintln!("data directory: {} (it is kept)", plan.dir.display());
    }
    let founding = !plan.numbers().any(|node| plan.log(node).exists());
    let mut nodes = Nodes::start(plan).await?;
    let done = watch(context, plan, &mut nodes, &mut stops, founding).await;
    nodes.stop().await;
    done
}

/// From the first look to the signal that ends the cluster. While it is being founded every node must come up; later a
/// majority is enough.
async fn watch(context: &mut Context, plan: &Plan, nodes: &mut Nodes, stops: &mut Stops, founding: bool) -> Result<()> {
    let ready = {
        let mut looks = std::pin::pin!(until_ready(plan, founding));
        loop {
            tokio::select! {
                ready = &mut looks => break ready,
                () = stops.next() => return Ok(()),
                (node, how) = nodes.next_end() => {
                    let died = died(plan, node, &how);
                    if founding || nodes.running() <= usize::from(plan.nodes) / 2 {
                        return Err(died);
                    }
                    eprintln!("{}", died.message());
                }
            }
        }
    };
    ready?;
    announce(context, plan)?;
    loop {
        tokio::select! {
            () = stops.next() => return Ok(()),
            (node, how) = nodes.next_end() => {
                let again = format!("synod dev restart {node} --data-dir {}", plan.dir.display());
                eprintln!("node {node} ended ({how}); `{again}` starts it again");
            }
        }
    }
}

fn announce(context: &mut Context, plan: &Plan) -> Result<()> {
    let ready = serde_json::json!({ "ready": plan.addrs(), "data_dir": plan.dir.display().to_string() });
    context.out.value(&ready, |_| vec![format!("ready: {}", plan.addrs().join(","))])?;
    context.out.flush()
}

fn died(plan: &Plan, node: u16, how: &str) -> CliError {
    let log = plan.log(node).display().to_string();
    let message = format!("node {node} ended ({how}) before it was ready: {} (log: {log})", plan.last_words(node));
    CliError::failed("node_ended", message).with("node", node).with("log", log)
}

/// A client for looking: it gives up soon, since the next look follows.
fn glance() -> Options {
    Options { call_timeout: Duration::from_secs(2), ..Options::default() }
}

/// Waits until writes would succeed.
async fn until_ready(plan: &Plan, founding: bool) -> Result<()> {
    let started = Instant::now();
    let mut client = None;
    loop {
        let missing = match look(plan, &mut client).await {
            Ok(status) => lacks(plan, &status, founding),
            Err(error) => Some(error.to_string()),
        };
        let Some(missing) = missing else { return Ok(()) };
        if started.elapsed() > READY_WITHIN {
            let message = format!("the cluster is not ready after {} s: {missing}", READY_WITHIN.as_secs());
            return Err(CliError::failed("not_ready", message));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn look(plan: &Plan, client: &mut Option<Client>) -> synod_client::Result<json::Status> {
    let connected = match client {
        Some(connected) => connected,
        None => client.insert(Client::connect(plan.addrs(), glance()).await?),
    };
    let map = connected.refresh_map().await?;
    Ok(status::combine(&map, &connected.status().await))
}

/// What is missing for writes to succeed, if anything.
fn lacks(plan: &Plan, status: &json::Status, founding: bool) -> Option<String> {
    if status.nodes.len() < usize::from(plan.nodes) {
        return Some(format!("{} of {} nodes are known", status.nodes.len(), plan.nodes));
    }
    // Once the cluster is founded, a node that has died is none to wait for.
    let starting = plan.numbers().filter(|node| founding || plan.alive(*node).is_some()).map(|node| plan.addr(node));
    let silent = |addr: &String| status.nodes.iter().any(|node| node.addr == *addr && node.state == "down");
    if let Some(addr) = starting.into_iter().find(silent) {
        return Some(format!("the node at {addr} does not answer"));
    }
    let Some(system) = status.shards.iter().find(|shard| shard.id == SYSTEM_SHARD) else {
        return Some("the cluster's own shard is not there".to_owned());
    };
    let leader = system.replicas.iter().find(|replica| Some(replica.node) == system.leader);
    if leader.and_then(|leader| leader.commit).unwrap_or(0) == 0 {
        return Some("the cluster's own shard has committed nothing".to_owned());
    }
    let headless = status.shards.iter().find(|shard| shard.leader.is_none());
    headless.map(|shard| format!("shard {} has no leader", shard.id))
}

async fn restart(context: &mut Context, node: u16, plan: &Plan) -> Result<()> {
    if !plan.numbers().any(|number| number == node) {
        let why = format!("there is no node {node}; the cluster has nodes 1 to {}", plan.nodes);
        return Err(CliError::usage("NODE", why));
    }
    if let Some(pid) = plan.alive(node) {
        let message = format!("node {node} is alive, as process {pid}");
        return Err(CliError::failed("already_running", message).with("node", node).with("pid", pid));
    }
    let mut child = process::spawn(plan, node, false)?;
    let ended = async {
        let how = child.wait().await;
        died(plan, node, &how.map_or_else(|error| error.to_string(), |status| status.to_string()))
    };
    tokio::select! {
        answers = until_answering(plan, node) => answers?,
        error = ended => return Err(error),
    }
    let addr = plan.addr(node);
    let ready = serde_json::json!({ "ready": [addr], "node": node });
    context.out.value(&ready, |_| vec![format!("ready: {addr}")])
}

/// Waits until a node answers for itself.
async fn until_answering(plan: &Plan, node: u16) -> Result<()> {
    let started = Instant::now();
    let addr = plan.addr(node);
    loop {
        let mut why = "it does not answer".to_owned();
        if let Ok(client) = Client::connect([addr.clone()], glance()).await {
            let report = client.status().await.into_iter().find(|report| report.addr == addr);
            match report.map(|report| report.status) {
                Some(Ok(answer)) if answer.quarantined.is_empty() => return Ok(()),
                Some(Ok(answer)) => why = format!("quarantined: {}", answer.quarantined),
                Some(Err(error)) => why = error.to_string(),
                None => why = "the cluster does not know it".to_owned(),
            }
        }
        if started.elapsed() > READY_WITHIN {
            let message = format!("node {node} is not ready after {} s: {why}", READY_WITHIN.as_secs());
            return Err(CliError::failed("not_ready", message).with("node", node));
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: u64, leader: Option<u64>, commit: u64) -> json::Shard {
        json::Shard {
            id,
            table: None,
            bounds: json::Bounds::Keys { from: vec![], to: vec![] },
            changes: json::Changes { epoch: 1, version: 1 },
            leader,
            replicas: vec![json::Replica {
                node: 1,
                role: "leader".to_owned(),
                lag_slots: None,
                commit: Some(commit),
                applied: None,
                unborn: false,
            }],
            scrub: None,
            merge: None,
            bytes: None,
            load: None,
        }
    }

    fn status(nodes: u64, shards: Vec<json::Shard>) -> json::Status {
        let node = |id| json::Node {
            speaks: None,
            id,
            addr: format!("127.0.0.1:{}", 7_400 + id),
            state: "up",
            reason: None,
            zone: None,
            rack: None,
            clock_alarms: vec![],
            leaders: 0,
            replicas: 0,
            uptime_ms: None,
            snapshots: None,
        };
        json::Status {
            cluster: String::new(),
            version: 1,
            nodes: (1..=nodes).map(node).collect(),
            shards,
            jobs: Vec::new(),
        }
    }

    #[test]
    fn ready_means_every_shard_has_a_leader() {
        let plan = Plan { dir: PathBuf::from("/nowhere"), nodes: 2, base_port: 7_400 };
        let missing = |status: json::Status| lacks(&plan, &status, false).unwrap_or_default();
        assert!(missing(status(1, vec![])).contains("1 of 2 nodes"));
        assert!(missing(status(2, vec![])).contains("own shard"));
        assert!(missing(status(2, vec![shard(1, Some(1), 0)])).contains("committed nothing"));
        assert!(missing(status(2, vec![shard(1, Some(1), 3), shard(2, None, 1)])).contains("shard 2 has no leader"));
        assert_eq!(missing(status(2, vec![shard(1, Some(1), 3), shard(2, Some(1), 0)])), "");
    }

    #[test]
    fn while_founding_every_node_must_answer() {
        let plan = Plan { dir: PathBuf::from("/nowhere"), nodes: 2, base_port: 7_400 };
        let mut status = status(2, vec![shard(1, Some(1), 3)]);
        status.nodes[1].state = "down";
        assert_eq!(lacks(&plan, &status, false), None);
        assert!(lacks(&plan, &status, true).unwrap().contains("127.0.0.1:7402 does not answer"));
    }
}
