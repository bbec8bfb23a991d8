//! NATS JetStream: three processes, streams of three replicas in files.
//!
//! Owns: its flags and its driver. Must never: hide that it acknowledges what no disk has: 2.9 syncs every two minutes.

use async_nats::jetstream::{self, Context, stream};
use bytes::Bytes;

use super::{Failure, Place, Running, Store, System};
use crate::{PeersError, Result};

pub(super) const SETTINGS: &str = "three nodes, streams of three replicas in files, everything default; NOT SYNCED: this \
version acknowledges a write that a majority has in memory and syncs every two minutes";

pub(super) const OPERATIONS: &str = "put: a publish, acknowledged, to a subject of a stream that keeps one message a subject; \
get: the last message of a subject from the stream's leader, which does not confirm that it still leads; append: as many publishes \
to one subject of a stream that keeps all, all acknowledged";

const PUTS: &str = "puts";
const APPENDS: &str = "appends";

/// A connection.
#[derive(Clone)]
pub struct Nats {
    context: Context,
    puts: stream::Stream,
}

pub(super) fn start(place: Place) -> Result<Running> {
    let routes: Vec<String> =
        (1..=3).map(|node| format!("nats-route://127.0.0.1:{}", place.port + 10 + node)).collect();
    let mut running = Running {
        system: System::Nats,
        nodes: Vec::new(),
        clients: (1..=3).map(|node| format!("nats://127.0.0.1:{}", place.port + node)).collect(),
        metrics: Vec::new(),
        place: place.clone(),
    };
    for node in 1..=3 {
        let dir = place.node_dir(node)?;
        let config = format!(
            "server_name: n{node}\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\" }}\n\
             cluster {{ name: bench, listen: 127.0.0.1:{}, routes: [{}] }}\n",
            place.port + node,
            dir.display(),
            place.port + 10 + node,
            routes.join(", "),
        );
        let file = place.dir.join(format!("node-{node}.conf"));
        std::fs::write(&file, config).map_err(|error| PeersError::io(file.display(), &error))?;
        let args = ["-c".to_owned(), file.display().to_string()];
        running.nodes.push(place.spawn(&format!("nats-server node {node}"), node, &args)?);
    }
    Ok(running)
}

async fn context(running: &Running) -> std::result::Result<Context, Failure> {
    let client = async_nats::connect(&running.clients[..]).await.map_err(|e| Failure::new("nats_connect", e))?;
    Ok(jetstream::new(client))
}

pub(super) async fn ready(running: &Running) -> std::result::Result<(), Failure> {
    let context = context(running).await?;
    for (name, max_messages_per_subject) in [(PUTS, 1), (APPENDS, -1)] {
        let config = stream::Config {
            name: name.into(),
            subjects: vec![format!("{name}.>")],
            max_messages_per_subject,
            num_replicas: 3,
            storage: stream::StorageType::File,
            ..stream::Config::default()
        };
        context.get_or_create_stream(config).await.map_err(|e| Failure::new("nats_stream", e))?;
        publish(&context, format!("{name}.ready"), Bytes::new()).await?;
    }
    Ok(())
}

pub(super) async fn connect(running: &Running) -> std::result::Result<Vec<Store>, Failure> {
    let mut stores = Vec::new();
    for _ in 0..running.place.connections.unwrap_or(1) {
        let context = context(running).await?;
        let puts = context.get_stream(PUTS).await.map_err(|e| Failure::new("nats_stream", e))?;
        stores.push(Store::Nats(Box::new(Nats { context, puts })));
    }
    Ok(stores)
}

async fn publish(context: &Context, subject: String, value: Bytes) -> std::result::Result<(), Failure> {
    let sent = context.publish(subject, value).await.map_err(|e| Failure::new("nats_publish", e))?;
    sent.await.map(|_| ()).map_err(|e| Failure::new("nats_acknowledgement", e))
}

impl Nats {
    pub(super) async fn put(&self, key: String, value: Bytes) -> std::result::Result<(), Failure> {
        publish(&self.context, format!("{PUTS}.{key}"), value).await
    }

    pub(super) async fn get(&self, key: String) -> std::result::Result<Option<u64>, Failure> {
        use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
        match self.puts.get_last_raw_message_by_subject(&format!("{PUTS}.{key}")).await {
            Ok(found) => Ok(Some(found.payload.len() as u64)),
            Err(error) if error.kind() == NoMessageFound => Ok(None),
            Err(error) => Err(Failure::new("nats_get", error)),
        }
    }

    pub(super) async fn append(&self, key: String, values: Vec<Bytes>) -> std::result::Result<(), Failure> {
        let subject = format!("{APPENDS}.{key}");
        let mut acks = Vec::with_capacity(values.len());
        for value in values {
            acks.push(self.context.publish(subject.clone(), value).await.map_err(|e| Failure::new("nats_publish", e))?);
        }
        for ack in acks {
            ack.await.map_err(|e| Failure::new("nats_acknowledgement", e))?;
        }
        Ok(())
    }
}
