//! etcd: three processes.
//!
//! Owns: its flags and its driver. Must never: read other than linearizably.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use etcd_client::{Client, KvClient, Txn, TxnOp};

use super::{Failure, Place, Running, Store, System};
use crate::Result;

/// Counters read from each node.
pub(super) const COUNTERS: &[&str] =
    &["etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_backend_commit_duration_seconds_count"];

pub(super) const SETTINGS: &str = "three nodes; every write synced by a majority (its default); differs from the default: \
--quota-backend-bytes 8 GiB, so that no run fills it";

pub(super) const OPERATIONS: &str = "put: a put; get: a linearizable range of one key; append: one transaction of as many puts, a fresh key each \
(etcd allows 128 in one)";

/// A connection to all three nodes, as the client library balances it.
#[derive(Clone)]
pub struct Etcd {
    kv: KvClient,
    /// Makes the keys of appended records distinct.
    next: Arc<AtomicU64>,
}

pub(super) fn start(place: Place) -> Result<Running> {
    let client = |node: u16| format!("http://127.0.0.1:{}", place.port + node);
    let peer = |node: u16| format!("http://127.0.0.1:{}", place.port + 10 + node);
    let cluster: Vec<String> = (1..=3).map(|node| format!("n{node}={}", peer(node))).collect();
    let mut running = Running {
        system: System::Etcd,
        nodes: Vec::new(),
        clients: (1..=3).map(client).collect(),
        metrics: (1..=3).filter_map(|node| client(node).trim_start_matches("http://").parse().ok()).collect(),
        place: place.clone(),
    };
    for node in 1..=3 {
        let dir = place.node_dir(node)?;
        let args = [
            ("--name", format!("n{node}")),
            ("--data-dir", dir.display().to_string()),
            ("--listen-client-urls", client(node)),
            ("--advertise-client-urls", client(node)),
            ("--listen-peer-urls", peer(node)),
            ("--initial-advertise-peer-urls", peer(node)),
            ("--initial-cluster", cluster.join(",")),
            ("--initial-cluster-state", "new".into()),
            ("--initial-cluster-token", "bench".into()),
            ("--quota-backend-bytes", (8u64 << 30).to_string()),
        ];
        let args: Vec<String> = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        running.nodes.push(place.spawn(&format!("etcd node {node}"), node, &args)?);
    }
    Ok(running)
}

pub(super) async fn ready(running: &Running) -> std::result::Result<(), Failure> {
    // Each node answers for itself: a client of all would be content with one.
    for endpoint in &running.clients {
        let client = Client::connect([endpoint], None).await.map_err(failure)?;
        client.kv_client().put("ready", "", None).await.map_err(failure)?;
    }
    Ok(())
}

pub(super) async fn connect(running: &Running) -> std::result::Result<Vec<Store>, Failure> {
    let next: Arc<AtomicU64> = Arc::default();
    let mut stores = Vec::new();
    for _ in 0..running.place.connections.unwrap_or(1) {
        let client = Client::connect(&running.clients, None).await.map_err(failure)?;
        stores.push(Store::Etcd(Box::new(Etcd { kv: client.kv_client(), next: next.clone() })));
    }
    Ok(stores)
}

pub(super) async fn leader(running: &Running) -> Option<usize> {
    for (index, endpoint) in running.clients.iter().enumerate() {
        let client = Client::connect([endpoint], None).await.ok()?;
        let status = client.maintenance_client().status().await.ok()?;
        if status.header().is_some_and(|header| header.member_id() == status.leader()) {
            return Some(index);
        }
    }
    None
}

fn failure(error: etcd_client::Error) -> Failure {
    Failure::new("etcd", error)
}

impl Etcd {
    pub(super) async fn put(&self, key: String, value: Bytes) -> std::result::Result<(), Failure> {
        self.kv.clone().put(key, value, None).await.map(|_| ()).map_err(failure)
    }

    pub(super) async fn get(&self, key: String) -> std::result::Result<Option<u64>, Failure> {
        let found = self.kv.clone().get(key, None).await.map_err(failure)?;
        Ok(found.kvs().first().map(|kv| kv.value().len() as u64))
    }

    pub(super) async fn append(&self, key: String, values: Vec<Bytes>) -> std::result::Result<(), Failure> {
        let first = self.next.fetch_add(values.len() as u64, Ordering::Relaxed);
        let puts = values.into_iter().zip(first..);
        let puts: Vec<TxnOp> = puts.map(|(value, n)| TxnOp::put(format!("{key}/{n:012}"), value, None)).collect();
        self.kv.clone().txn(Txn::new().and_then(puts)).await.map(|_| ()).map_err(failure)
    }
}
