//! `/livez`, `/readyz` and `/metrics`.
//!
//! Owns: what probes and scrapers see. Must never: change anything.

use super::host::Signals;
use super::listener::HttpListener;
use super::map::MapCache;
use super::peer::{Peers, Progress, Work};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use synod_cluster::ids::SYSTEM_SHARD;
use tokio::net::TcpListener;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Metrics of the whole process.
    pub registry: Registry,
    /// The worker's signals.
    pub signals: Arc<Signals>,
    /// The map.
    pub map_cache: Arc<MapCache>,
    /// The peers.
    pub peers: Arc<Peers>,
    /// The progress of workers, readers and the log writer.
    pub progress: Arc<Progress>,
}

/// Serves the pages until the listener fails.
pub async fn serve(listener: TcpListener, pages: Pages) -> std::io::Result<()> {
    let app = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(pages);
    axum::serve(HttpListener::new(listener), app).await
}

/// A worker's round, a reader's read or a log write that takes longer counts as hung: the process should be restarted.
const HUNG: Duration = Duration::from_secs(10);

/// Alive: the rounds, reads and the log write under way, where there are such, end in time.
async fn livez(State(pages): State<Pages>) -> (StatusCode, String) {
    let Some((work, stalled)) = pages.progress.oldest().filter(|(_, age)| *age > HUNG) else {
        return (StatusCode::OK, "ok\n".into());
    };
    let what = match work {
        Work::Round => "round of the worker",
        Work::Read => "read of the state by a reader thread",
        Work::Write => "write of the log",
    };
    let (for_s, most_s) = (stalled.as_secs(), HUNG.as_secs());
    let why = format!("the {what} under way has taken {for_s} s, more than {most_s} s: is the disk hung?\n");
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Ready: takes part, has a map and is in it, and knows a leader of the system shard.
async fn readyz(State(pages): State<Pages>) -> (StatusCode, String) {
    if let Some(why) = pages.signals.quarantined.borrow().as_ref() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("quarantined: {why}\n"));
    }
    let Some(map) = pages.map_cache.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no shard map yet\n".into());
    };
    if let Some(why) = pages.map_cache.missing() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    }
    let member = pages.map_cache.leader(SYSTEM_SHARD).is_some() || pages.signals.system_led.load(Ordering::Acquire);
    let elsewhere =
        map.shards.get(&SYSTEM_SHARD).is_some_and(|d| d.membership.voters().any(|n| pages.peers.is_alive(n)));
    if member || elsewhere {
        (StatusCode::OK, "ready\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the system shard has no leader that this node knows\n".into())
    }
}

async fn metrics(State(pages): State<Pages>) -> Result<String, StatusCode> {
    let mut page = Vec::new();
    TextEncoder::new().encode(&pages.registry.gather(), &mut page).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    String::from_utf8(page).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
