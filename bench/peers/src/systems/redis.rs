//! Redis: one process that syncs its log before each answer.
//!
//! Owns: its flags and its driver. Must never: be taken for replicated: its replication acknowledges before it copies.

use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, RedisError, cmd};
use bytes::Bytes;

use super::{Failure, Place, Running, Store, System};
use crate::Result;

pub(super) const SETTINGS: &str = "one node, no replica; --appendonly yes --appendfsync always (each write synced before its \
answer), --save '' (no snapshots)";

pub(super) const OPERATIONS: &str = "put: SET; get: GET; append: one RPUSH of all records to one key";

/// A connection.
#[derive(Clone)]
pub struct Redis {
    connection: MultiplexedConnection,
}

pub(super) fn start(place: Place) -> Result<Running> {
    let dir = place.node_dir(1)?;
    let (port, data) = ((place.port + 1).to_string(), dir.display().to_string());
    let args =
        ["--bind", "127.0.0.1", "--port", &port, "--dir", &data, "--appendonly", "yes", "--appendfsync", "always"];
    let args: Vec<String> = args.into_iter().chain(["--save", ""]).map(str::to_owned).collect();
    let process = place.spawn("redis-server", 1, &args)?;
    Ok(Running {
        system: System::Redis,
        nodes: vec![process],
        clients: vec![format!("redis://127.0.0.1:{port}/")],
        metrics: Vec::new(),
        place,
    })
}

async fn connection(running: &Running) -> std::result::Result<MultiplexedConnection, Failure> {
    let client = Client::open(running.clients[0].as_str()).map_err(failure)?;
    // The driver's own half second for an answer is less than a busy disk may take.
    let config = ::redis::AsyncConnectionConfig::new().set_response_timeout(Some(std::time::Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(failure)
}

pub(super) async fn ready(running: &Running) -> std::result::Result<(), Failure> {
    cmd("PING").exec_async(&mut connection(running).await?).await.map_err(failure)
}

pub(super) async fn connect(running: &Running) -> std::result::Result<Vec<Store>, Failure> {
    let mut stores = Vec::new();
    for _ in 0..running.place.connections.unwrap_or(1) {
        stores.push(Store::Redis(Redis { connection: connection(running).await? }));
    }
    Ok(stores)
}

fn failure(error: RedisError) -> Failure {
    Failure::new("redis", error)
}

impl Redis {
    pub(super) async fn put(&self, key: String, value: Bytes) -> std::result::Result<(), Failure> {
        cmd("SET").arg(key).arg(&value[..]).exec_async(&mut self.connection.clone()).await.map_err(failure)
    }

    pub(super) async fn get(&self, key: String) -> std::result::Result<Option<u64>, Failure> {
        let found: Option<Vec<u8>> =
            cmd("GET").arg(key).query_async(&mut self.connection.clone()).await.map_err(failure)?;
        Ok(found.map(|value| value.len() as u64))
    }

    pub(super) async fn append(&self, key: String, values: Vec<Bytes>) -> std::result::Result<(), Failure> {
        let mut push = cmd("RPUSH");
        push.arg(format!("list-{key}"));
        for value in &values {
            push.arg(&value[..]);
        }
        push.exec_async(&mut self.connection.clone()).await.map_err(failure)
    }
}
