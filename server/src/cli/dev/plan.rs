//! What a local cluster is made of: ports, directories, process numbers.
//!
//! Owns the layout of a dev cluster's data directory (`dev.json`, `node-I/pid`, `node-I/log.txt`) and the question
//! whether a node's process is alive. Must never signal a process of which it is not sure that it is that node.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::error::{CliError, Result};

/// Nodes of a cluster unless told otherwise.
pub const DEFAULT_NODES: u16 = 3;
/// Base port unless told otherwise.
pub const DEFAULT_BASE_PORT: u16 = 7400;

/// A local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where everything is kept, absolute.
    pub dir: PathBuf,
    /// Number of nodes.
    pub nodes: u16,
    /// Node i listens on this + i, and for HTTP on this + 100 + i.
    pub base_port: u16,
}

/// The content of `dev.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    nodes: u16,
    base_port: u16,
}

impl Plan {
    /// The cluster of this directory, or a new one there. What is already there decides; a flag that differs is
    /// refused.
    pub fn settle(dir: &Path, nodes: Option<u16>, base_port: Option<u16>) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|error| CliError::io(dir.display(), &error))?;
        let dir = dir.canonicalize().map_err(|error| CliError::io(dir.display(), &error))?;
        if let Some(plan) = Self::stored(&dir)? {
            for (flag, given, stored) in [("--nodes", nodes, plan.nodes), ("--base-port", base_port, plan.base_port)] {
                if given.is_some_and(|given| given != stored) {
                    let why = format!("{} was made with {stored}; use that or another --data-dir", dir.display());
                    return Err(CliError::usage(flag, why));
                }
            }
            return Ok(plan);
        }
        let base_port = base_port.unwrap_or(DEFAULT_BASE_PORT);
        let plan = Self { dir, nodes: nodes.unwrap_or(DEFAULT_NODES), base_port };
        if base_port > u16::MAX - 100 - plan.nodes {
            let why = format!("{base_port} is too high: node {0} would need port base + 100 + {0}", plan.nodes);
            return Err(CliError::usage("--base-port", why));
        }
        plan.store()?;
        Ok(plan)
    }

    /// The cluster that was started in this directory before.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().map_err(|error| CliError::io(dir.display(), &error))?;
        Self::stored(&dir)?
            .ok_or_else(|| CliError::usage("--data-dir", format!("{} holds no cluster of `synod dev`", dir.display())))
    }

    fn stored(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("dev.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::io(path.display(), &error)),
        };
        let stored: Stored = serde_json::from_slice(&text)
            .map_err(|error| CliError::failed("damaged", format!("{}: {error}", path.display())))?;
        if stored.format != 1 || stored.nodes == 0 {
            let message = format!("{}: format {} is not known, only 1 is", path.display(), stored.format);
            return Err(CliError::failed("newer_format", message));
        }
        Ok(Some(Self { dir: dir.to_path_buf(), nodes: stored.nodes, base_port: stored.base_port }))
    }

    fn store(&self) -> Result<()> {
        let stored = Stored { format: 1, nodes: self.nodes, base_port: self.base_port };
        let path = self.dir.join("dev.json");
        let text = serde_json::to_string(&stored)
            .map_err(|error| CliError::failed("internal", format!("cannot write dev.json: {error}")))?;
        fs::write(&path, text + "\n").map_err(|error| CliError::io(path.display(), &error))
    }

    /// The numbers of its nodes, from 1.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.nodes
    }

    /// Where a node listens.
    pub fn addr(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + node)
    }

    /// Where a node serves HTTP.
    pub fn http(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + 100 + node)
    }

    /// Where all nodes listen.
    pub fn addrs(&self) -> Vec<String> {
        self.numbers().map(|node| self.addr(node)).collect()
    }

    /// A node's directory.
    pub fn node_dir(&self, node: u16) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// A node's log.
    pub fn log(&self, node: u16) -> PathBuf {
        self.node_dir(node).join("log.txt")
    }

    fn pid_file(&self, node: u16) -> PathBuf {
        self.node_dir(node).join("pid")
    }

    /// Notes a node's process.
    pub fn note_pid(&self, node: u16, pid: u32) -> Result<()> {
        let path = self.pid_file(node);
        fs::write(&path, format!("{pid}\n")).map_err(|error| CliError::io(path.display(), &error))
    }

    /// Forgets a node's process once it has ended.
    pub fn forget_pid(&self, node: u16) {
        // Whoever reads it checks whether the process is alive, so a file that stays does no harm.
        let _ = fs::remove_file(self.pid_file(node));
    }

    /// The process of a node, where it is alive.
    pub fn alive(&self, node: u16) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file(node)).ok()?.trim().parse().ok()?;
        // The number may have been given to another process since: the command line tells. That of a process that has
        // ended and was not waited for is empty.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let dir = self.node_dir(node);
        let dir = std::os::unix::ffi::OsStrExt::as_bytes(dir.as_os_str());
        line.split(|byte| *byte == 0).any(|arg| arg == dir).then_some(pid)
    }

    /// The last line of a node's log that says something.
    pub fn last_words(&self, node: u16) -> String {
        let log = fs::read(self.log(node)).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(64 << 10)..];
        let text = String::from_utf8_lossy(tail);
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("its log is empty").to_owned()
    }

    /// Fails if a port of a node is taken.
    pub fn check_ports(&self) -> Result<()> {
        for addr in self.numbers().flat_map(|node| [self.addr(node), self.http(node)]) {
            if let Err(error) = TcpListener::bind(&addr) {
                let message = format!("cannot listen on {addr}: {error}; --base-port chooses other ports");
                return Err(CliError::failed("port_taken", message).with("addr", addr).with("knob", "--base-port"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Plan::open(dir.path()).unwrap_err().message().contains("holds no cluster"));
        let plan = Plan::settle(dir.path(), Some(2), Some(9000)).unwrap();
        assert_eq!(plan.addrs(), ["127.0.0.1:9001", "127.0.0.1:9002"]);
        assert_eq!(plan.http(2), "127.0.0.1:9102");
        assert_eq!(Plan::settle(dir.path(), None, None).unwrap(), plan);
        assert_eq!(Plan::open(dir.path()).unwrap(), plan);
        let error = Plan::settle(dir.path(), Some(3), None).unwrap_err();
        assert!(error.message().starts_with("--nodes: ") && error.message().contains("made with 2"), "{error}");
    }

    #[test]
    fn ports_that_do_not_exist_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Plan::settle(dir.path(), None, Some(65_500)).unwrap_err();
        assert!(error.message().starts_with("--base-port: 65500 is too high"), "{error}");
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let plan = Plan { dir: PathBuf::from("/"), nodes: 1, base_port: port - 1 };
        let error = plan.check_ports().unwrap_err();
        assert!(error.message().contains(&format!("127.0.0.1:{port}")), "{error}");
    }

    #[test]
    fn another_process_is_never_taken_for_a_node() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::settle(dir.path(), None, None).unwrap();
        fs::create_dir_all(plan.node_dir(1)).unwrap();
        assert_eq!(plan.alive(1), None);
        // This very process is alive, but its command line names no node's directory.
        plan.note_pid(1, std::process::id()).unwrap();
        assert_eq!(plan.alive(1), None);
        let name = plan.node_dir(1);
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 60 & wait"]).arg(&name).spawn().unwrap();
        plan.note_pid(1, child.id()).unwrap();
        // The child shows its new command line only once it runs the other program.
        let found = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            plan.alive(1).is_some()
        });
        assert!(found);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(plan.alive(1), None);
    }

    #[test]
    fn last_words_are_the_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::settle(dir.path(), None, None).unwrap();
        fs::create_dir_all(plan.node_dir(1)).unwrap();
        assert_eq!(plan.last_words(1), "its log is empty");
        fs::write(plan.log(1), "one\n two \n\n").unwrap();
        assert_eq!(plan.last_words(1), "two");
    }
}
