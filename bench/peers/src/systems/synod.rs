//! Synod: three `synod server` processes, everything default.
//!
//! Owns: its flags and its tables. Must never: use anything but the public client library.

use synod_client::{Client, Error, Options, Retention, TableSpec};

use super::{Failure, Place, Running, Store, System};
use crate::Result;
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

pub(super) fn start(place: Place) -> Result<Running> {
    let addr = |node: u16| format!("127.0.0.1:{}", place.port + node);
    let http = |node: u16| format!("127.0.0.1:{}", place.port + 10 + node);
    let all: Vec<String> = (1..=3).map(addr).collect();
    let mut running = Running {
        system: System::Synod,
        nodes: Vec::new(),
        clients: all.clone(),
        metrics: (1..=3).filter_map(|node| http(node).parse().ok()).collect(),
        place: place.clone(),
    };
    for node in 1..=3 {
        let dir = place.node_dir(node)?;
        let args = ["server", "--data-dir", &dir.display().to_string(), "--listen", &addr(node), "--http", &http(node)]
            .into_iter()
            .chain(["--bootstrap", &all.join(",")])
            .map(str::to_owned)
            .collect::<Vec<_>>();
        running.nodes.push(place.spawn(&format!("synod node {node}"), node, &args)?);
    }
    Ok(running)
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
    let map = client.map();
    let table = map.tables.iter().find(|table| table.name == PUTS)?.id;
    let led = |id: u64| map.shards.iter().filter(|shard| shard.table_id == table && shard.leader == Some(id)).count();
    let node = map.nodes.iter().max_by_key(|node| led(node.id))?;
    running.clients.iter().position(|addr| *addr == node.addr)
}
