//! Fresh directories become a cluster exactly once, and a wiped one never takes a founder's place.

use super::*;
use crate::config::ServerConfig;
use crate::node::peer::{Belonging, BootstrapError, How, address_change, settle};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use synod_cluster::system::SystemCommand;
use synod_engine::clock::MonotoneClock;
use synod_engine::logstore::LogStore;
use synod_engine::logstore::mem::MemLog;

type Outcome = Result<Belonging, BootstrapError>;

fn config(dir: &Path, addr: &str, bootstrap: &[&str], join: &[&str]) -> ServerConfig {
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    ServerConfig {
        data_dir: dir.to_owned(),
        listen: addr.to_owned(),
        advertise: None,
        http: None,
        bootstrap: strings(bootstrap),
        join: strings(join),
        replace: None,
        insecure: false,
        die_with_stdin: false,
        settings: Settings::default(),
    }
}

/// A data directory: its files and its log.
struct Disk {
    dir: tempfile::TempDir,
    log: Arc<MemLog>,
}

impl Disk {
    fn fresh() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), log: Arc::new(MemLog::new()) }
    }
}

/// A process that is finding out where it belongs.
struct Starting {
    runtime: Option<Runtime>,
    seen: Arc<SeenTable>,
    service: Arc<PeerService>,
    outcome: mpsc::Receiver<Outcome>,
}

impl Starting {
    fn begin(disk: &Disk, listener: TcpListener, bootstrap: &[&str], join: &[&str]) -> Self {
        let addr = listener.local_addr().unwrap().to_string();
        let config = config(disk.dir.path(), &addr, bootstrap, join);
        let runtime = runtime();
        let recovered = disk.log.recover_node().unwrap();
        let seen = Arc::new(SeenTable::new(recovered.seen.clone()));
        let identify = IdentifyService::new(Arc::clone(&seen));
        let service = PeerService::new(Arc::clone(&identify), &config.settings);
        serve(&runtime, listener, Arc::clone(&service));
        let (sender, outcome) = mpsc::channel();
        let log = Arc::clone(&disk.log);
        runtime.spawn(async move {
            let _ = sender.send(settle(&config, &*log, &recovered, &identify).await);
        });
        Self { runtime: Some(runtime), seen, service, outcome }
    }

    fn outcome(&self) -> Outcome {
        self.outcome.recv_timeout(Duration::from_secs(10)).expect("an outcome within ten seconds")
    }

    fn waits(&self) -> bool {
        self.outcome.recv_timeout(Duration::from_millis(400)).is_err()
    }

    fn refusal(&self) -> String {
        self.outcome().unwrap_err().to_string()
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Three fresh directories, founded.
struct Trio {
    addrs: [String; 3],
    disks: Vec<Disk>,
    nodes: Vec<Starting>,
    cluster: u128,
}

impl Trio {
    fn found() -> Self {
        let (listeners, addrs): (Vec<_>, Vec<_>) = (0..3).map(|_| socket()).unzip();
        let addrs: [String; 3] = addrs.try_into().unwrap();
        let list: Vec<&str> = addrs.iter().map(String::as_str).collect();
        let mut listeners = listeners.into_iter();
        let disks: Vec<Disk> = (0..3).map(|_| Disk::fresh()).collect();
        let begin = |at: usize, listener| Starting::begin(&disks[at], listener, &list, &[]);
        let first = begin(0, listeners.next().unwrap());
        let second = begin(1, listeners.next().unwrap());
        assert!(first.waits() && second.waits(), "two of three founders must wait");
        let third = begin(2, listeners.next().unwrap());
        let nodes = vec![first, second, third];
        let belongings: Vec<Belonging> = nodes.iter().map(|n| n.outcome().unwrap()).collect();
        let cluster = belongings[0].identity.cluster.0;
        for (id, belonging) in (1..).zip(&belongings) {
            assert_eq!(belonging.identity, NodeIdentity { cluster: ClientId(cluster), node: NodeId(id) });
            assert_eq!(belonging.founders, addrs);
            assert_eq!(belonging.how, if id == 1 { How::Founded } else { How::Adopted });
        }
        for (disk, belonging) in disks.iter().zip(&belongings) {
            assert_eq!(disk.log.recover_node().unwrap().identity.as_ref(), Some(&belonging.identity));
        }
        Self { addrs, disks, nodes, cluster }
    }

    fn list(&self) -> Vec<&str> {
        self.addrs.iter().map(String::as_str).collect()
    }

    /// Kills node `at` (from 0) and starts it again on `disk`.
    fn restart(&mut self, at: usize, disk: Option<Disk>) -> &Starting {
        let list: Vec<String> = self.addrs.to_vec();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        self.nodes.remove(at).kill();
        if let Some(disk) = disk {
            self.disks[at] = disk;
        }
        let listener = TcpListener::bind(&self.addrs[at]).unwrap();
        self.nodes.insert(at, Starting::begin(&self.disks[at], listener, &list, &[]));
        &self.nodes[at]
    }
}

#[test]
fn three_fresh_directories_found_one_cluster_and_restart_into_it() {
    let mut trio = Trio::found();
    for at in 0..3 {
        let cluster = trio.cluster;
        let belonging = trio.restart(at, None).outcome().unwrap();
        assert_eq!((belonging.how, belonging.identity.cluster.0), (How::Restarted, cluster));
        assert_eq!(belonging.identity.node, NodeId(at as u64 + 1));
        assert_eq!(belonging.founders, trio.addrs);
    }
}

#[test]
fn one_node_founds_alone() {
    let (listener, addr) = socket();
    let disk = Disk::fresh();
    let belonging = Starting::begin(&disk, listener, &[&addr], &[]).outcome().unwrap();
    assert_eq!((belonging.how, belonging.identity.node), (How::Founded, NodeId(1)));
}

#[test]
fn a_second_founding_is_refused_by_the_cluster_s_name() {
    let trio = Trio::found();
    let cluster = format!("{:032x}", trio.cluster);
    let (listener, addr) = socket();
    let refusal = Starting::begin(&Disk::fresh(), listener, &[&addr, &trio.addrs[0], &trio.addrs[1]], &[]).refusal();
    assert!(refusal.contains(&cluster) && refusal.contains(&trio.addrs[2]), "{refusal}");
    let other = Trio::found();
    let (listener, addr) = socket();
    let list = [addr.as_str(), &trio.addrs[0], &other.addrs[0]];
    let refusal = Starting::begin(&Disk::fresh(), listener, &list, &[]).refusal();
    assert!(refusal.contains("already belongs to cluster"), "{refusal}");
}

#[test]
fn a_wiped_founder_that_was_alive_is_refused_and_one_never_seen_adopts() {
    let mut trio = Trio::found();
    // Nobody ever heard node 3: its place is still free.
    let belonging = trio.restart(2, Some(Disk::fresh())).outcome().unwrap();
    assert_eq!((belonging.how, belonging.identity.node), (How::Adopted, NodeId(3)));
    // Node 2, and nobody else, has seen it since.
    trio.nodes[1].seen.raise(NodeId(3), Incarnation(1), NodeWriteSeq(5));
    let refusal = trio.restart(2, Some(Disk::fresh())).refusal();
    let wanted = format!("cluster {:032x} is already bootstrapped and node 3 at {}", trio.cluster, trio.addrs[2]);
    assert!(refusal.contains(&wanted) && refusal.contains("--join under a new address"), "{refusal}");
    assert_eq!(trio.disks[2].log.recover_node().unwrap().identity, None);
    // The same for the first of the list, that would else found anew.
    trio.nodes[1].seen.raise(NodeId(1), Incarnation(1), NodeWriteSeq(5));
    assert!(trio.restart(0, Some(Disk::fresh())).refusal().contains("node 1 at"));
}

#[test]
fn a_wiped_founder_waits_for_whoever_may_have_seen_it() {
    let mut trio = Trio::found();
    trio.nodes.remove(1).kill();
    trio.nodes.remove(1).kill();
    let listener = TcpListener::bind(&trio.addrs[2]).unwrap();
    let emptied = Disk::fresh();
    let wiped = Starting::begin(&emptied, listener, &trio.list(), &[]);
    assert!(wiped.waits(), "node 2 may have counted its votes and does not answer");
}

#[test]
fn lists_that_differ_and_flags_that_make_no_sense_are_refused() {
    let ((one, a), (two, b)) = (socket(), socket());
    let disks = [Disk::fresh(), Disk::fresh(), Disk::fresh()];
    let first = Starting::begin(&disks[0], one, &[&a, &b], &[]);
    let second = Starting::begin(&disks[1], two, &[&b, &a], &[]);
    let said = [first.outcome(), second.outcome()].map(|o| o.err().map(|e| e.to_string()));
    assert!(said.iter().flatten().any(|s| s.contains("the same list in the same order")), "{said:?}");

    let flags = |bootstrap: &[&str], join: &[&str]| {
        let error = Starting::begin(&disks[2], socket().0, bootstrap, join).outcome().unwrap_err();
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    assert!(flags(&[], &[]).contains("--bootstrap A,B,C to found one, or with --join"));
    assert!(flags(&["a:1"], &["b:2"]).contains("one of them"));
    assert!(flags(&["a:1", "b:2"], &[]).contains("does not name this node's own address 127.0.0.1"));
    assert!(flags(&["a:1", "a:1"], &[]).contains("a:1 twice"));
    for bad in ["nowhere", ":80", "a:0", "a:99999", "a b:1", "http://a:1", ""] {
        assert!(flags(&[bad], &[]).contains("HOST:PORT"), "{bad}");
    }
    let (listener, addr) = socket();
    let itself = Starting::begin(&disks[2], listener, &[], &[&addr]).refusal();
    assert!(itself.contains("only this node's own address"), "{itself}");
    let (listener, addr) = socket();
    let alias = addr.replace("127.0.0.1", "localhost");
    let twice = Starting::begin(&disks[2], listener, &[&addr, &alias], &[]).refusal();
    assert!(twice.contains("names this node twice"), "{twice}");
}

/// Gives ids by nonce, as the system shard does; loses the answer to the first call after it gave the id.
#[derive(Default)]
struct Register {
    nodes: Mutex<BTreeMap<Vec<u8>, (u64, String)>>,
    calls: Mutex<u32>,
}

#[tonic::async_trait]
impl SystemHandler for Register {
    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Status> {
        let mut nodes = self.nodes.lock().unwrap();
        let next = nodes.len() as u64 + 4;
        let nonce = request.nonce.to_vec();
        if !nodes.contains_key(&nonce) && nodes.values().any(|(_, addr)| *addr == request.addr) {
            return Err(Status::already_exists("a node is already registered at this address"));
        }
        let node = nodes.entry(nonce).or_insert((next, request.addr)).0;
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        if *calls == 1 {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(JoinReply { cluster: CLUSTER.to_be_bytes().to_vec().into(), node, replaces: request.replaces })
    }

    async fn seal(&self, _: ClusterVersion) -> Result<(), Status> {
        Ok(())
    }

    async fn propose(&self, _: SystemProposal) -> Result<SystemReply, Status> {
        Err(Status::unavailable("no system shard"))
    }
}

#[test]
fn a_join_is_repeated_until_answered_and_gives_one_id() {
    let (listener, member) = socket();
    let disk = Disk::fresh();
    let seed = Starting::begin(&disk, listener, &[&member], &[]);
    seed.outcome().unwrap();
    let nowhere = "127.0.0.1:1";

    let (listener, joiner) = socket();
    let disk = Disk::fresh();
    let starting = Starting::begin(&disk, listener, &[], &[nowhere, &member, &joiner]);
    assert!(starting.waits(), "a member that is not up yet says so");
    starting.kill();

    let register = Arc::new(Register::default());
    let setup = PeersSetup {
        local: local(1, 1),
        timing: quick(),
        inbox: Arc::new(Recorder::default()),
        seen: Arc::clone(&seed.seen),
        progress: Arc::default(),
        clock: MonotoneClock::default(),
        drift_ppm: None,
        identify: IdentifyService::new(Arc::default()),
        spoken: Arc::default(),
        advertised: member.clone(),
        hints: Vec::new(),
    };
    let entered = seed.runtime.as_ref().unwrap().enter();
    let peers = Peers::start(setup);
    drop(entered);
    seed.service.started(&peers, Arc::clone(&register) as Arc<dyn SystemHandler>, Arc::new(NoHandler));
    let listener = TcpListener::bind(&joiner).unwrap();
    let belonging = Starting::begin(&disk, listener, &[], &[nowhere, &member]).outcome().unwrap();
    assert_eq!((belonging.how, belonging.identity.node), (How::Joined, NodeId(4)));
    assert!(belonging.founders.is_empty());
    assert_eq!((register.nodes.lock().unwrap().len(), *register.calls.lock().unwrap()), (1, 2));

    // The same directory again is a restart, and asks nobody.
    let (listener, _) = socket();
    let again = Starting::begin(&disk, listener, &[], &[]).outcome().unwrap();
    assert_eq!((again.how, again.identity), (How::Restarted, belonging.identity));

    // An emptied directory under the same address has another nonce.
    until("the port is free", || TcpListener::bind(&joiner).is_ok());
    // Kept until the end: a joiner whose directory is gone says that instead.
    let emptied = Disk::fresh();
    let wiped = Starting::begin(&emptied, TcpListener::bind(&joiner).unwrap(), &[], &[&member]);
    let refusal = wiped.refusal();
    assert!(refusal.contains(&member) && refusal.contains("already registered at this address"), "{refusal}");
}

#[test]
fn an_address_that_changed_is_proposed() {
    let map = map(&["a:1", "b:2"]);
    assert_eq!(address_change(&map, NodeId(2), "b:2"), None);
    assert_eq!(address_change(&map, NodeId(9), "b:3"), None);
    let changed = Some(SystemCommand::SetAddr { node: NodeId(2), addr: "b:3".into() });
    assert_eq!(address_change(&map, NodeId(2), "b:3"), changed);
}
