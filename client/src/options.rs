//! The knobs of a client.
//!
//! Owns: their names, defaults and bounds. Must never: read the environment or a file; that is the caller's business.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits::{Limits, MAX_DEADLINE_S};

/// Knobs of a client. The default suits a cluster in one place.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call goes on before it gives up; at most 9 minutes, since a write's deadline lies at most 10 ahead.
    pub call_timeout: Duration,
    /// How long one attempt waits before another replica is asked, beside two of the round trips measured to the node; doubled when
    /// a node was silent again.
    pub attempt_timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// The shortest pause between two attempts.
    pub backoff_min: Duration,
    /// The longest pause between two attempts.
    pub backoff_max: Duration,
    /// Writes in flight at most, over all callers; more wait.
    pub max_outstanding_writes: usize,
    /// Requests that may wait for one node's stream; more wait to be queued.
    pub max_queued_requests: usize,
    /// Requests of one frame at most.
    pub max_frame_requests: usize,
    /// Bytes after which a frame is closed; one request larger than this is a frame of its own.
    pub max_frame_bytes: usize,
    /// How often an unanswered connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may stay unanswered before the connection counts as dead.
    pub keepalive_timeout: Duration,
    /// How often the cluster's clock is asked for again.
    pub clock_refresh: Duration,
    /// How long one poll of a tail waits at the server when there is nothing.
    pub tail_wait: Duration,
    /// Limits checked before sending.
    pub limits: Limits,
    /// Whether the calls are those of an operator's command, not of an application: nodes keep a few connections for these
    /// beyond those of clients.
    pub operator: bool,
    /// The cluster that the endpoints must belong to; any where unset.
    pub cluster: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            call_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(500),
            max_outstanding_writes: 4096,
            max_queued_requests: 4096,
            max_frame_requests: 256,
            max_frame_bytes: 256 << 10,
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(3),
            clock_refresh: Duration::from_secs(10),
            tail_wait: Duration::from_secs(3),
            limits: Limits::default(),
            operator: false,
            cluster: None,
        }
    }
}

impl Options {
    /// Refuses values that cannot work, by name.
    pub fn check(&self) -> Result<()> {
        let longest = Duration::from_secs(MAX_DEADLINE_S - 60);
        if self.call_timeout.is_zero() || self.call_timeout > longest {
            return Err(Error::invalid(
                "call_timeout",
                format!("it is more than 0 and at most {} s", longest.as_secs()),
            ));
        }
        if self.backoff_min > self.backoff_max {
            return Err(Error::invalid("backoff_min", "it is not greater than backoff_max"));
        }
        for (name, value) in [
            ("attempt_timeout", self.attempt_timeout),
            ("connect_timeout", self.connect_timeout),
            ("backoff_min", self.backoff_min),
            ("keepalive_interval", self.keepalive_interval),
            ("keepalive_timeout", self.keepalive_timeout),
            ("clock_refresh", self.clock_refresh),
        ] {
            if value.is_zero() {
                return Err(Error::invalid(name, "it is more than 0"));
            }
        }
        for (name, value) in [
            ("max_outstanding_writes", self.max_outstanding_writes),
            ("max_queued_requests", self.max_queued_requests),
            ("max_frame_requests", self.max_frame_requests),
            ("max_frame_bytes", self.max_frame_bytes),
        ] {
            if value == 0 || value > 1 << 24 {
                return Err(Error::invalid(name, "it is at least 1 and at most 16777216"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_and_nonsense_is_named() {
        assert!(Options::default().check().is_ok());
        let options = Options { call_timeout: Duration::from_secs(3600), ..Options::default() };
        assert!(options.check().unwrap_err().to_string().contains("call_timeout"));
        let options = Options { max_frame_requests: 0, ..Options::default() };
        assert!(options.check().unwrap_err().to_string().contains("max_frame_requests"));
    }
}
