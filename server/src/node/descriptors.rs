//! File descriptors: how many a node needs at most, and how many it may have.
//!
//! Owns: the sum, and raising the process's own limit. Must never: let a node start that may run out of them later, when a
//! store that cannot open a file ends it.

use super::listener;
use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Of the stores: each of the two opens 1,024 files at most, and both write logs and snapshots beside that.
const STORES: u64 = 2300;
/// Connections to peers: links, pulses, maps, snapshots.
const CALLS: u64 = 256;
/// Listeners, the runtime's own, files that are open for a moment.
const OTHERS: u64 = 32;
/// The fewest clients that a node may be set to hold.
const CLIENTS_MIN: u64 = 16;

/// What a node needs beside what clients take.
fn fixed() -> u64 {
    let permits =
        listener::PEER_PERMITS + listener::OPERATOR_PERMITS + listener::ENTRANCE_PERMITS + listener::HTTP_PERMITS;
    STORES + CALLS + OTHERS + permits as u64
}

/// Raises this process's limit as far as allowed, and checks that it is enough for a node with `clients` clients.
///
/// # Errors
/// It has not: how many are needed, for what, and what can be done.
pub fn provide(clients: u64) -> Result<()> {
    let what = "the limit of file descriptors (ulimit -n)";
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).with_context(|| format!("{what} cannot be read"))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .with_context(|| format!("{what} cannot be raised from {soft} to {hard}"))?;
    }
    check(clients, hard)
}

fn check(clients: u64, limit: u64) -> Result<()> {
    let (fixed, need) = (fixed(), fixed() + clients);
    if need <= limit {
        return Ok(());
    }
    let lower = match limit.checked_sub(fixed) {
        Some(most @ CLIENTS_MIN..) => format!(", or set network.connections_max to {most} at most"),
        _ => String::new(),
    };
    bail!(
        "{need} file descriptors may be needed: {clients} for clients (network.connections_max), {STORES} for the stores, {} for \
         peers, probes and refusals; the hard limit of this process is {limit}: raise it (ulimit -n, systemd's LimitNOFILE, \
         a container's --ulimit nofile){lower}",
        fixed - STORES
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_need_is_named_and_what_would_do() {
        let need = fixed() + 1024;
        assert!(need <= 4096, "the default fits the usual hard limit: {need}");
        assert!(check(1024, need).is_ok() && check(1024, u64::MAX).is_ok());
        let say = |limit| check(1024, limit).unwrap_err().to_string();
        let short = say(need - 1);
        assert!(
            short.contains(&format!("{need} file descriptors")) && short.contains("connections_max to 1023"),
            "{short}"
        );
        let far = say(1024);
        assert!(far.contains("is 1024") && !far.contains("at most"), "{far}");
    }
}
