//! The client against a fake cluster: routing, retries, exactly-once, scans and tails.

mod fake;
mod maps;
mod reads;
mod retries;
mod splits;
mod tails;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use fake::World;
use synod_client::{Client, Options};

/// Options with short times.
pub fn quick() -> Options {
    Options {
        call_timeout: Duration::from_secs(5),
        attempt_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(500),
        backoff_max: Duration::from_millis(50),
        tail_wait: Duration::from_millis(200),
        ..Options::default()
    }
}

/// A fake cluster and a client of it.
pub async fn cluster() -> (Arc<World>, Client) {
    cluster_with(quick()).await
}

/// The same with other options.
pub async fn cluster_with(options: Options) -> (Arc<World>, Client) {
    let (world, addrs) = World::start().await;
    let client = Client::connect(addrs, options).await.unwrap();
    (world, client)
}
