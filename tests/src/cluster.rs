//! A cluster of real processes in a temporary directory.
//!
//! Owns: ports, directories and processes of its nodes, and their end with the test, however that ends. Must never: start
//! a node again by itself, or signal a process it did not start.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::far::{Distance, Far};
use crate::run::{Ran, command, command_of, command_within, finish, send, until, wait_for};
pub use crate::status::Status;

/// How long anything that comes by itself may take on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Ports a cluster may use.
const PORTS: u16 = 20;
/// Node i's HTTP port above its gRPC port.
const HTTP: u16 = 10;
/// Its port above that where it is reached, where what is for it comes by a long way.
const BEHIND: u16 = 15;
/// How far the ports may move, at most.
const MOVED: u16 = 5;

/// A cluster. Nodes have the numbers 1, 2, 3, … in the order of the founding list.
pub struct Cluster {
    dir: TempDir,
    base: u16,
    founders: u16,
    /// How far the ports of node i + 1 lie above those it had first; those beyond the end are where they were. See
    /// [`Cluster::move_ports`].
    moved: Vec<u16>,
    /// The settings file of every node, where there is one.
    settings: Option<PathBuf>,
    /// Where node i + 1 is; those beyond the end are where a node is by default.
    sites: Vec<Site>,
    /// The long ways to the nodes, where they are far from each other and from everybody else.
    far: Option<Far>,
    nodes: Vec<Process>,
}

/// Where a node is, as far as that is not this machine's loopback and the cluster's temporary directory.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The address it listens on.
    pub host: Option<String>,
    /// A command that runs what follows it in its own place, as `ip netns exec NAME` does.
    pub within: Vec<String>,
    /// The directory that its data directory is in.
    pub disk: Option<PathBuf>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// What runs it, where that is not the binary under test.
    pub binary: Option<PathBuf>,
}

struct Process {
    number: u16,
    /// How often it was started.
    starts: u16,
    origin: Vec<String>,
    child: Option<Child>,
}

/// The first of some ports in a row of which none is in use, another range for each call. Below the ports the kernel gives
/// to connections.
pub fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let ranges = (32_000 - 12_000) / PORTS;
    let own = u16::try_from(std::process::id() % u32::from(ranges)).expect("small");
    for _ in 0..ranges {
        let base = 12_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % ranges * PORTS;
        if (base..base + PORTS).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
    panic!("no {PORTS} ports in a row are free")
}

impl Cluster {
    /// Three nodes, ready for writes.
    #[track_caller]
    pub fn start() -> Cluster {
        Cluster::start_at(Vec::new(), None)
    }

    /// Three nodes with these settings, ready for writes.
    #[track_caller]
    pub fn start_with(settings: &str) -> Cluster {
        Cluster::start_at(Vec::new(), Some(settings))
    }

    /// Three nodes at these places, with these settings where there are any, ready for writes.
    #[track_caller]
    pub fn start_at(sites: Vec<Site>, settings: Option<&str>) -> Cluster {
        let mut cluster = Cluster::empty(3);
        cluster.sites = sites;
        cluster.found(settings)
    }

    /// Three nodes that are far from each other and from everybody else, with these settings, ready for writes.
    #[track_caller]
    pub fn start_far(distance: Distance, settings: &str) -> Cluster {
        let mut cluster = Cluster::empty(3);
        cluster.far = Some(Far::new(distance));
        cluster.found(Some(settings))
    }

    #[track_caller]
    fn found(self, settings: Option<&str>) -> Cluster {
        let mut cluster = self;
        cluster.settings = settings.map(|text| {
            let file = cluster.dir().join("synod.toml");
            fs::write(&file, text).expect("a file in the temporary directory");
            file
        });
        (1..=3).for_each(|number| cluster.add_founder(number));
        cluster.wait_up();
        cluster
    }

    /// A cluster of this many founders, none of which runs yet.
    pub fn empty(founders: u16) -> Cluster {
        let dir = tempfile::Builder::new().prefix("synod-e2e-").tempdir().expect("a temporary directory");
        Cluster {
            dir,
            base: free_ports(),
            founders,
            moved: Vec::new(),
            settings: None,
            sites: Vec::new(),
            far: None,
            nodes: Vec::new(),
        }
    }

    /// Starts a founder for the first time.
    pub fn add_founder(&mut self, number: u16) {
        self.add(number, vec!["--bootstrap".into(), self.founders()]);
    }

    /// The same, run by another command in its place.
    pub fn add_founder_by(&mut self, number: u16, by: &[String]) {
        self.nodes.push(Process {
            number,
            starts: 0,
            origin: vec!["--bootstrap".into(), self.founders()],
            child: None,
        });
        self.restart_by(number, by);
    }

    /// Starts a node that joins.
    pub fn add_joiner(&mut self, number: u16) {
        self.add(number, vec!["--join".into(), self.founders()]);
    }

    /// The same, with further flags.
    pub fn add_joiner_with(&mut self, number: u16, flags: &[&str]) {
        let mut origin = vec!["--join".to_owned(), self.founders()];
        origin.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.add(number, origin);
    }

    /// Starts a node whose data directory belongs to a cluster already.
    pub fn add_restored(&mut self, number: u16) {
        self.add(number, Vec::new());
    }

    fn add(&mut self, number: u16, origin: Vec<String>) {
        if let Some(far) = &self.far {
            far.carry(&self.addr(number), self.behind(number));
        }
        self.nodes.push(Process { number, starts: 0, origin, child: None });
        self.restart(number);
    }

    /// The founders' addresses, separated by commas.
    pub fn founders(&self) -> String {
        (1..=self.founders).map(|number| self.addr(number)).collect::<Vec<_>>().join(",")
    }

    /// All nodes' addresses.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| self.addr(node.number)).collect()
    }

    /// Where a node is reached.
    pub fn addr(&self, number: u16) -> String {
        format!("{}:{}", self.host(number), self.port(number))
    }

    /// Where a node listens whose address is that of a long way to it.
    fn behind(&self, number: u16) -> String {
        format!("{}:{}", self.host(number), self.base + BEHIND + number)
    }

    /// Where a node answers HTTP.
    pub fn http(&self, number: u16) -> String {
        format!("{}:{}", self.host(number), self.port(number) + HTTP)
    }

    fn port(&self, number: u16) -> u16 {
        self.base + number + self.moved.get(usize::from(number) - 1).copied().unwrap_or(0)
    }

    /// Gives all nodes other ports, this far above their first ones, from their next start on. They must be down.
    pub fn move_ports(&mut self, moved: u16) {
        for number in 1..=self.founders {
            self.move_port(number, moved);
        }
    }

    /// Gives one node other ports, this far (at most 5) above its first ones, from its next start on. It must be down.
    pub fn move_port(&mut self, number: u16, moved: u16) {
        assert!(moved <= MOVED, "ports belong to other clusters");
        assert!(self.node(number).child.is_none(), "node {number} runs");
        let index = usize::from(number) - 1;
        if self.moved.len() <= index {
            self.moved.resize(index + 1, 0);
        }
        self.moved[index] = moved;
    }

    /// Starts a node that is down, with other flags than it had first beside those that say where it is.
    #[track_caller]
    pub fn restart_with(&mut self, number: u16, flags: &[&str]) {
        self.node(number).origin = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart(number);
    }

    fn site(&self, number: u16) -> Option<&Site> {
        self.sites.get(usize::from(number) - 1)
    }

    /// What runs a node from its next start on; the binary under test where nothing is named.
    pub fn set_binary(&mut self, number: u16, binary: Option<PathBuf>) {
        let index = usize::from(number) - 1;
        if self.sites.len() <= index {
            self.sites.resize(index + 1, Site::default());
        }
        self.sites[index].binary = binary;
    }

    /// What runs a node, where that is not the binary under test.
    pub fn binary_of(&self, number: u16) -> Option<&Path> {
        self.site(number)?.binary.as_deref()
    }

    fn host(&self, number: u16) -> &str {
        self.site(number).and_then(|site| site.host.as_deref()).unwrap_or("127.0.0.1")
    }

    /// The temporary directory, for a test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node's data.
    pub fn data_dir(&self, number: u16) -> PathBuf {
        let disk = self.site(number).and_then(|site| site.disk.as_deref());
        disk.unwrap_or(self.dir.path()).join(format!("node-{number}"))
    }

    /// What a node has logged, over all its lives.
    pub fn log(&self, number: u16) -> String {
        fs::read_to_string(self.log_path(number)).unwrap_or_default()
    }

    fn log_path(&self, number: u16) -> PathBuf {
        self.dir.path().join(format!("node-{number}.log"))
    }

    fn node(&mut self, number: u16) -> &mut Process {
        self.nodes.iter_mut().find(|node| node.number == number).expect("there is such a node")
    }

    /// A node's arguments.
    pub fn args(&self, number: u16, origin: &[String]) -> Vec<String> {
        let data = self.data_dir(number).display().to_string();
        let (addr, http) = (self.addr(number), self.http(number));
        let listen = if self.far.is_some() { self.behind(number) } else { addr.clone() };
        let mut args: Vec<String> =
            ["server", "--data-dir", &data, "--listen", &listen, "--http", &http].map(String::from).to_vec();
        args.extend_from_slice(origin);
        if self.far.is_some() {
            args.extend(["--advertise".to_owned(), addr]);
        }
        if !matches!(self.host(number), "127.0.0.1" | "localhost") {
            args.push("--insecure".into());
        }
        args.extend(self.settings.iter().flat_map(|file| ["--config".to_owned(), file.display().to_string()]));
        args
    }

    /// Starts a node that is down, with the flags it had first.
    #[track_caller]
    pub fn restart(&mut self, number: u16) {
        let within = self.site(number).map(|site| site.within.clone()).unwrap_or_default();
        self.restart_by(number, &within);
    }

    /// The same, run by another command in its place.
    #[track_caller]
    pub fn restart_by(&mut self, number: u16, by: &[String]) {
        let node = self.node(number);
        assert!(node.child.is_none(), "node {number} runs");
        node.starts += 1;
        // One worker and three alternate.
        let workers = if (node.starts + number).is_multiple_of(2) { "1" } else { "3" };
        let mut args = self.args(number, &self.nodes.iter().find(|n| n.number == number).expect("is there").origin);
        args.push("--die-with-stdin".into());
        let open = |path: PathBuf| -> File {
            OpenOptions::new().create(true).append(true).open(path).expect("a log can be written")
        };
        let log = open(self.log_path(number));
        // Its standard input is ours: should this test be killed, the node ends too.
        let site = self.site(number).cloned().unwrap_or_default();
        let mut command = match &site.binary {
            Some(binary) => command_of(binary, by, &args),
            None => command_within(by, &args),
        };
        command.env("SYNOD_WORKERS", workers).envs(site.env);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn();
        self.node(number).child = Some(child.expect("the binary runs"));
    }

    /// The process of a node.
    #[track_caller]
    pub fn pid(&self, number: u16) -> u32 {
        let node = self.nodes.iter().find(|node| node.number == number).expect("there is such a node");
        node.child.as_ref().expect("it runs").id()
    }

    /// Signals a node: `SIGSTOP`, `SIGCONT`, `SIGTERM`, ….
    #[track_caller]
    pub fn signal(&self, number: u16, signal: Signal) {
        send(self.pid(number), signal);
    }

    /// SIGKILL, and the node is gone.
    #[track_caller]
    pub fn kill(&mut self, number: u16) {
        let mut child = self.node(number).child.take().expect("it runs");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    /// SIGTERM, and how the node ended.
    #[track_caller]
    pub fn stop(&mut self, number: u16) -> ExitStatus {
        self.signal(number, Signal::SIGTERM);
        self.wait_end(number)
    }

    /// Waits until a node ends by itself.
    #[track_caller]
    pub fn wait_end(&mut self, number: u16) -> ExitStatus {
        let mut child = self.node(number).child.take().expect("it runs");
        match wait_for(&mut child, PATIENCE) {
            Some(status) => status,
            None => {
                self.node(number).child = Some(child);
                panic!("node {number} does not end: {}", self.log(number))
            }
        }
    }

    /// Takes note that a node has ended, where it did.
    pub fn reap(&mut self, number: u16) {
        if !self.runs(number) {
            self.node(number).child = None;
        }
    }

    /// Whether a node's process is there.
    pub fn runs(&mut self, number: u16) -> bool {
        self.node(number).child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Runs the command line against this cluster.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Ran {
        finish(self.command(args), None)
    }

    /// The same with this on its standard input.
    #[track_caller]
    pub fn cli_with(&self, args: &[&str], input: &[u8]) -> Ran {
        finish(self.command(args), Some(input))
    }

    /// The command line against this cluster, not yet run.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = command(args);
        command.env("SYNOD_ENDPOINTS", self.endpoints().join(","));
        command
    }

    /// Runs a command that must succeed, with `-o json`, and gives its one answer.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
        self.cli(&args).ok().json()
    }

    /// `status`, where it can be had.
    pub fn status(&self) -> Option<Status> {
        let ran = self.cli(&["-o", "json", "--timeout", "3s", "status"]);
        (ran.code == 0).then(|| Status { value: ran.json() })
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let found = until(PATIENCE, what, || {
            let status = self.status()?;
            let good = wanted(&status);
            last = Some(status.clone());
            good.then_some(status)
        });
        found.unwrap_or_else(|why| panic!("{why}; last status: {last:?}"))
    }

    /// Waits until all nodes are up and every shard is led.
    #[track_caller]
    pub fn wait_up(&self) -> Status {
        let nodes = self.nodes.len();
        self.wait_status("all nodes up, all shards led", |status| {
            let up = (1..=nodes).filter(|i| status.state(&self.addr(*i as u16)) == Some("up")).count();
            up == nodes && status.is_led()
        })
    }

    /// The node that leads a table's shard, another shard each turn.
    #[track_caller]
    pub fn leader(&self, status: &Status, table: &str, turn: usize) -> u16 {
        let shards = status.shards_of(table);
        let shard = shards[turn % shards.len()]["id"].as_u64().expect("shards have numbers");
        let addr = status.leader_addr(shard).expect("it is led");
        (1..=self.founders).find(|number| self.addr(*number) == addr).expect("a node of the cluster")
    }

    /// The node that leads the fewest shards: none of a table's where there is such a node.
    #[track_caller]
    pub fn follower(&self, status: &Status) -> u16 {
        let led = |number: &u16| status.node(&self.addr(*number)).and_then(|node| node["leaders"].as_u64());
        (1..=self.founders).min_by_key(led).expect("a cluster has nodes")
    }

    /// Waits until a node, just started, has applied whatever was committed when this was called.
    #[track_caller]
    pub fn wait_caught_up(&self, number: u16) -> Status {
        let goal = self.wait_status("some status", Status::is_led);
        self.wait_status("the node caught up", |status| self.is_caught_up(number, &goal, status))
    }

    /// Whether a node has applied whatever was committed at `goal`.
    pub fn is_caught_up(&self, number: u16, goal: &Status, status: &Status) -> bool {
        let addr = self.addr(number);
        let Some(node) = status.id(&addr) else { return false };
        status.state(&addr) == Some("up")
            && status.is_led()
            && goal.shards().iter().all(|shard| {
                let id = shard["id"].as_u64().unwrap_or(0);
                status.applied(id, node).is_none_or(|applied| applied >= goal.commit(id))
                    && !matches!(status.role(id, node), Some("unknown" | "waiting" | "reinstalling"))
            })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = self.log(node.number);
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("--- node {} ends its log with", node.number);
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
