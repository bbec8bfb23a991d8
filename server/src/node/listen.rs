//! The node's own sockets.
//!
//! Owns: what an address of this machine means, be it a name or a number. Must never: listen where other machines reach it
//! unless that was asked for.

use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, lookup_host};
use tokio::time::timeout;

/// How long it may take to look a name up.
const LOOKUP_WAIT: Duration = Duration::from_secs(10);

/// Listens at `addr` (HOST:PORT), which `flag` gave; of several addresses that a name has, at the first that is this machine's.
///
/// # Errors
/// The name is not known, others could reach the address and `insecure` is not set, or it cannot be listened there.
pub async fn bind(addr: &str, flag: &str, insecure: bool) -> Result<TcpListener> {
    let looked_up = timeout(LOOKUP_WAIT, lookup_host(addr)).await;
    let looked_up =
        looked_up.with_context(|| format!("{flag} {addr}: the name was not looked up within {LOOKUP_WAIT:?}"))?;
    let found = looked_up.with_context(|| format!("{flag} {addr}: no address is found for that name"))?;
    let found: Vec<SocketAddr> = found.collect();
    if found.is_empty() {
        bail!("{flag} {addr}: no address is found for that name");
    }
    if let Some(open) = found.iter().find(|addr| !addr.ip().is_loopback())
        && !insecure
    {
        let ip = open.ip();
        bail!("{flag} {addr}: {ip} can be reached from other machines and there is no TLS yet; --insecure allows it");
    }
    TcpListener::bind(&found[..]).await.with_context(|| format!("{flag} {addr}: cannot listen there"))
}
