//! The way to another node, for whoever calls one.
//!
//! Owns: how an address becomes an endpoint, and how long a connection may take to come about. Must never: connect by itself, or
//! try again.

use std::error::Error;
use std::time::Duration;
use tonic::transport::Endpoint;

/// How long a connection may take to come about: two of the longest round trips.
pub const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// The endpoint of the node at `addr` (`host:port`). An attempt to connect to it ends after [`CONNECT_WAIT`].
///
/// # Errors
/// Why this is no address, in words.
pub fn endpoint(addr: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|e| chain(&e))?;
    Ok(endpoint.connect_timeout(CONNECT_WAIT))
}

/// An error and what caused it, outermost first.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if line.last().is_none_or(|last| !last.contains(&text)) {
            line.push(text);
        }
    }
    line.join(": ")
}
