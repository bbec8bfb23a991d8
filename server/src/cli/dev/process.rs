//! The processes of a local cluster.
//!
//! Owns starting them (own process group, output to their log, tied to the parent by standard input where it is to take
//! them along) and ending them. Must never leave a node running that it was told to end.

use std::fs::{self, OpenOptions};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::plan::Plan;
use crate::cli::error::{CliError, Result};

/// How long nodes may take to hand over and write everything out before they are killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a node. Attached: it ends when this process does.
pub fn spawn(plan: &Plan, node: u16, attached: bool) -> Result<Child> {
    let dir = plan.node_dir(node);
    fs::create_dir_all(&dir).map_err(|error| CliError::io(dir.display(), &error))?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(plan.log(node))
        .map_err(|error| CliError::io(plan.log(node).display(), &error))?;
    let log_too = log.try_clone().map_err(|error| CliError::io(plan.log(node).display(), &error))?;
    let program = std::env::current_exe().map_err(|error| CliError::io("cannot find my own executable", &error))?;
    let mut command = Command::new(&program);
    command
        .arg("server")
        .arg("--data-dir")
        .arg(&dir)
        .args(["--listen", &plan.addr(node), "--http", &plan.http(node)])
        .args(["--bootstrap", &plan.addrs().join(",")])
        // Ctrl-C at the terminal is for the parent alone: it ends its nodes in order.
        .process_group(0)
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(log_too));
    if attached {
        command.arg("--die-with-stdin").stdin(Stdio::piped());
    } else {
        command.stdin(Stdio::null());
    }
    let child = command.spawn().map_err(|error| CliError::io(format!("cannot start {}", program.display()), &error))?;
    if let Some(pid) = child.id() {
        plan.note_pid(node, pid)?;
    }
    Ok(child)
}

/// The nodes this process started.
#[derive(Debug)]
pub struct Nodes {
    plan: Plan,
    /// Closing one of these ends its node.
    ties: Vec<Option<ChildStdin>>,
    running: usize,
    ended: mpsc::Receiver<(u16, std::io::Result<ExitStatus>)>,
}

impl Nodes {
    /// Starts every node.
    pub async fn start(plan: &Plan) -> Result<Self> {
        let count = usize::from(plan.nodes);
        // One message a node: sending never waits.
        let (sender, ended) = mpsc::channel(count);
        let mut nodes = Self { plan: plan.clone(), ties: Vec::new(), running: 0, ended };
        for node in plan.numbers() {
            let mut child = match spawn(plan, node, true) {
                Ok(child) => child,
                Err(error) => {
                    nodes.stop().await;
                    return Err(error);
                }
            };
            nodes.ties.push(child.stdin.take());
            nodes.running += 1;
            let sender = sender.clone();
            tokio::spawn(async move {
                let status = child.wait().await;
                // The receiver is gone only when nobody wants to know.
                let _ = sender.send((node, status)).await;
            });
        }
        Ok(nodes)
    }

    /// The next node to end, with what its end was. Cancel-safe.
    pub async fn next_end(&mut self) -> (u16, String) {
        match self.ended.recv().await {
            Some((node, status)) => {
                self.running -= 1;
                let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                (node, how)
            }
            // All have ended already and been told.
            None => std::future::pending().await,
        }
    }

    /// How many were started here and have not ended.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Ends every node of the plan, those restarted by others too: asks, waits, then kills.
    pub async fn stop(self) {
        let plan = self.plan.clone();
        signal_all(&plan, Signal::SIGTERM);
        let started = Instant::now();
        while plan.numbers().any(|node| plan.alive(node).is_some()) {
            if started.elapsed() > PATIENCE {
                eprintln!("nodes that did not end within {} s are killed", PATIENCE.as_secs());
                signal_all(&plan, Signal::SIGKILL);
                sleep(Duration::from_millis(100)).await;
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        for node in plan.numbers() {
            if plan.alive(node).is_none() {
                plan.forget_pid(node);
            }
        }
        // Held to here: a node must not take the closed pipe for the signal.
        drop(self.ties);
    }
}

fn signal_all(plan: &Plan, signal: Signal) {
    for node in plan.numbers() {
        if let Some(pid) = plan.alive(node).and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended this very moment, which is what is wanted.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}
