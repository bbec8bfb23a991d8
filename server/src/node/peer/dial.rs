//! Connections: how they are made, tuned and tried again.
//!
//! Owns: the transport's settings on both ends, the pause between attempts. Must never: retry by itself.

use crate::config::Settings;
use crate::node::dial::{self as node_dial, CONNECT_WAIT, causes, chain};
use crate::node::listener::{BROKEN_STREAMS, PENDING_RESETS};
use rand::RngExt;
use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server};

/// Unread bytes a stream may hold at its receiver.
const STREAM_WINDOW: u32 = 4 << 20;
/// Unread bytes a connection may hold at its receiver.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Longest HTTP/2 frame.
const HTTP2_FRAME: u32 = 256 << 10;
/// Streams of one connection at a time: a client needs one, and each may hold a message that is not whole yet.
const CONNECTION_STREAMS: u32 = 64;
/// A silent connection is asked for a sign of life this often.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Time without an answer to that after which the connection is closed.
const KEEPALIVE_WAIT: Duration = Duration::from_secs(2);

const BACKOFF_LEAST: Duration = Duration::from_millis(20);
const BACKOFF_MOST: Duration = Duration::from_millis(500);

/// The settings a node's gRPC server needs: windows, frames, keepalive, and how much of what is cheap to ask for and dear to
/// answer a connection may have.
#[must_use]
pub fn tune_server(server: Server) -> Server {
    server
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME)
        .max_concurrent_streams(CONNECTION_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(BROKEN_STREAMS))
}

/// Longest message a node takes: one message may hold one entry as long as the longest batch.
pub fn frame_bytes_max(settings: &Settings) -> usize {
    let batch = usize::try_from(settings.limits.batch_bytes_max.as_u64()).unwrap_or(usize::MAX);
    batch.saturating_add(1 << 20).max(4 << 20)
}

fn endpoint(addr: &str) -> Result<Endpoint, String> {
    let endpoint = node_dial::endpoint(addr).map_err(|why| format!("{addr}: {why}"))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_WAIT)
        .keep_alive_while_idle(true))
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct DialError {
    /// In words.
    pub why: String,
    /// Nobody listens there.
    pub refused: bool,
}

/// A connection of its own.
pub(super) async fn dial(addr: &str) -> Result<Channel, DialError> {
    let endpoint = endpoint(addr).map_err(|why| DialError { why, refused: false })?;
    endpoint.connect().await.map_err(|e| DialError { why: chain(&e), refused: is_refused(&e) })
}

/// A plain connection, for a link.
pub(super) async fn connect(addr: &str) -> Result<TcpStream, String> {
    let stream = match timeout(CONNECT_WAIT, TcpStream::connect(addr)).await {
        Err(_) => return Err(format!("{addr}: no connection within {CONNECT_WAIT:?}")),
        Ok(connected) => connected.map_err(|error| format!("{addr}: {error}"))?,
    };
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// A connection that comes about with the first call, and again after it broke.
pub(super) fn dial_lazily(addr: &str) -> Result<Channel, String> {
    Ok(endpoint(addr)?.connect_lazy())
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    causes(error).filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == ErrorKind::ConnectionRefused)
}

/// The pause between attempts: doubling, with jitter, so that nodes do not call in step.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF_LEAST }
    }
}

impl Backoff {
    /// Waits, and waits longer the next time.
    pub async fn wait(&mut self) {
        let share = rand::rng().random_range(0.5..=1.0);
        let wait = self.next.mul_f64(share);
        self.next = (self.next * 2).min(BACKOFF_MOST);
        tokio::time::sleep(wait).await;
    }

    /// An attempt came to something.
    pub fn reset(&mut self) {
        self.next = BACKOFF_LEAST;
    }
}
