//! Synod: three `synod server` processes, everything default.
//!
//! Owns: its flags and its tables. Must never: use anything but the public client library.

use std::collections::BTreeMap;

use synod_client::{Client, Error, Options, Retention, TableSpec};

use super::{Failure, Place, Running, Store, System};
use crate::Result;
use crate::process::Process;
use synod_bench::Table;

/// Counters read from each node.
pub(super) const COUNTERS: &[&str] = &[
    "synod_engine_log_fsyncs_total",
    "synod_engine_log_write_seconds_sum",
    "synod_engine_apply_seconds_sum",
    "synod_engine_log_entries_total",
    "synod_engine_log_bytes_total",
    "synod_engine_ops_per_fsync_sum",
    "synod_engine_ops_per_fsync_count",
    "synod_engine_proposals_total",
    "synod_engine_slots_total",
    "synod_engine_messages_sent_total",
];

pub(super) const SETTINGS: &str = "three nodes, everything default; every write synced (fdatasync) by a majority before it is \
acknowledged; sessions on (each write executed at most once)";

pub(super) const OPERATIONS: &str = "put: one record to a key of a table that keeps the latest; get: linearizable; append: one \
atomic append of all records to one key of a table that keeps all";

const PUTS: &str = "bench";
const APPENDS: &str = "appends";

fn addr(place: &Place, node: u16) -> String {
    format!("127.0.0.1:{}", place.port + node)
}

fn http(place: &Place, node: u16) -> String {
    format!("127.0.0.1:{}", place.port + 10 + node)
}

pub(super) fn start(place: Place) -> Result<Running> {
    let all: Vec<String> = (1..=3).map(|node| addr(&place, node)).collect();
    let mut running = Running {
        system: System::Synod,
        nodes: Vec::new(),
        clients: all.clone(),
        metrics: (1..=3).filter_map(|node| http(&place, node).parse().ok()).collect(),
        place,
    };
    for node in 1..=3 {
        let process = spawn(&running.place, node, &["--bootstrap", &all.join(",")])?;
        running.nodes.push(process);
    }
    Ok(running)
}

/// One more node, which joins.
pub(super) fn join(running: &mut Running) -> Result<()> {
    let node = running.nodes.len() as u16 + 1;
    let process = spawn(&running.place, node, &["--join", &running.clients.join(",")])?;
    running.nodes.push(process);
    running.clients.push(addr(&running.place, node));
    running.metrics.extend(http(&running.place, node).parse::<std::net::SocketAddr>());
    Ok(())
}

/// A node on what its directory holds.
pub(super) fn restart(running: &mut Running, node: usize) -> Result<()> {
    running.nodes[node] = spawn(&running.place, node as u16 + 1, &[])?;
    Ok(())
}

fn spawn(place: &Place, node: u16, more: &[&str]) -> Result<Process> {
    let dir = place.node_dir(node)?.display().to_string();
    let (addr, http) = (addr(place, node), http(place, node));
    let args = ["server", "--data-dir", &dir, "--listen", &addr, "--http", &http];
    let args: Vec<String> = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
    place.spawn(&format!("synod node {node}"), node, &args)
}

/// What is asked for must be under way at the cluster, not wait in the client.
fn options() -> Options {
    Options { max_outstanding_writes: 1 << 16, max_queued_requests: 1 << 16, ..Options::default() }
}

pub(super) async fn client(running: &Running) -> synod_client::Result<Client> {
    Client::connect(running.clients.clone(), options()).await
}

pub(super) async fn ready(running: &Running) -> std::result::Result<(), Failure> {
    let client = client(running).await?;
    if client.map().nodes.len() < 3 {
        return Err(Failure::new("founding", "not all nodes are known"));
    }
    for (name, retention) in [(PUTS, Retention::Latest), (APPENDS, Retention::All)] {
        let spec = TableSpec { replicas: 3, ..TableSpec::hash(name, running.place.shards, retention) };
        match client.create_table(spec).await {
            Ok(_) | Err(Error::TableExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // A write to each shard, as far as keys happen to fall there.
        for n in 0..4 * running.place.shards {
            client.put(name, format!("ready-{n}"), "").await?;
        }
    }
    Ok(())
}

pub(super) async fn connect(running: &Running, appends: bool) -> std::result::Result<Vec<Store>, Failure> {
    let mut stores = Vec::new();
    for _ in 0..running.place.connections.unwrap_or(1) {
        stores.push(Store::Synod(Table::new(client(running).await?, if appends { APPENDS } else { PUTS })));
    }
    Ok(stores)
}

/// The node that leads most shards of the table of puts.
pub(super) async fn leader(running: &Running) -> Option<usize> {
    let client = client(running).await.ok()?;
    let leaders = leaders(&client).await;
    let led = |id: u64| leaders.values().filter(|leader| **leader == id).count();
    let map = client.map();
    let node = map.nodes.iter().filter(|node| led(node.id) > 0).max_by_key(|node| led(node.id))?;
    running.clients.iter().position(|addr| *addr == node.addr)
}

/// Who leads each shard of the table of puts, as the leaders themselves say: the map only has hints.
pub(super) async fn leaders(client: &Client) -> BTreeMap<u64, u64> {
    let map = client.map();
    let table = map.tables.iter().find(|table| table.name == PUTS).map(|table| table.id);
    let mut found: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for report in client.status().await {
        let Ok(status) = report.status else { continue };
        for replica in status.replicas.iter().filter(|r| r.role == "leader" && Some(r.table_id) == table) {
            // One that does not know yet that it was succeeded is behind.
            let newest = found.entry(replica.shard).or_default();
            *newest = (*newest).max((replica.last, report.id));
        }
    }
    found.into_iter().map(|(shard, (_, node))| (shard, node)).collect()
}
