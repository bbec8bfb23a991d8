//! Connections: who gets in, who is told why not, and what ends one.
//!
//! Owns: the claims about permits for clients and peers, about file descriptors, and about calls that are cancelled. Must
//! never: reach a node by anything but a socket, as a client of any library does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use synod_proto::v1;
use synod_proto::v1::synod_client::SynodClient;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::http::{get, metric};
use synod_tests::run::{Ran, command_within, until, wait_for};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// How an HTTP/2 connection begins, and its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// An ordinary client: a session stream on a connection of its own.
struct Session {
    ask: mpsc::Sender<v1::ClientFrame>,
    replies: Streaming<v1::ServerFrame>,
}

impl Session {
    async fn open(channel: Channel) -> Result<Session, Status> {
        let (ask, asked) = mpsc::channel(4);
        let replies = SynodClient::new(channel).session(ReceiverStream::new(asked)).await?.into_inner();
        Ok(Session { ask, replies })
    }

    /// Asks the node for its time, and waits for that.
    async fn clock(&mut self, id: u64) -> Result<(), Status> {
        let body = Some(v1::shard_request::Body::Clock(true));
        let request = v1::ShardRequest { id, shard: 0, version: 0, body };
        self.ask
            .send(v1::ClientFrame { requests: vec![request] })
            .await
            .map_err(|_| Status::unavailable("the stream ended"))?;
        let reply = self.replies.message().await?;
        reply.map(|_| ()).ok_or_else(|| Status::unavailable("the stream ended"))
    }
}

async fn connect(addr: &str) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address");
    endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))
}

/// Opens so many clients at once; those that were let in, and what the others were told.
async fn crowd(addr: &str, size: usize) -> (Vec<Session>, Vec<Status>) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..size {
        let addr = addr.to_owned();
        tasks.spawn(async move {
            let mut session = Session::open(connect(&addr).await?).await?;
            session.clock(1).await?;
            Ok::<Session, Status>(session)
        });
    }
    let (mut inside, mut refused) = (Vec::new(), Vec::new());
    while let Some(ended) = tasks.join_next().await {
        match ended.expect("no panic") {
            Ok(session) => inside.push(session),
            Err(status) => refused.push(status),
        }
    }
    (inside, refused)
}

#[test]
fn a_node_comes_back_while_clients_hold_every_place_and_who_finds_none_is_told_why() {
    let _alone = alone();
    let mut cluster = Cluster::start_with("[network]\nconnections_max = 16\n");
    let runtime = runtime();
    let mut held = Vec::new();
    for number in [1, 2] {
        let (inside, refused) = runtime.block_on(crowd(&cluster.addr(number), 80));
        println!("node {number}: {} of 80 clients are in", inside.len());
        assert!((8..=16).contains(&inside.len()), "{} clients got in, 16 may", inside.len());
        for status in &refused {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            let why = status.message();
            assert!(why.contains("network.connections_max") && why.contains("16"), "{why}");
        }
        held.extend(inside);
    }
    cluster.kill(3);
    cluster.restart(3);
    let ready = until(PATIENCE, "node 3 is ready while clients hold all their permits of nodes 1 and 2", || {
        let links = metric(&cluster.http(3), "synod_peer_links_opened_total")?;
        (links >= 2.0 && get(&cluster.http(3), "/readyz")?.0 == 200).then_some(())
    });
    ready.unwrap();
    for session in &mut held {
        runtime.block_on(session.clock(2)).expect("who was let in is served");
    }
    for number in [1, 2] {
        let http = cluster.http(number);
        assert!(metric(&http, "synod_connections_refused_total").unwrap_or(0.0) >= 64.0);
        assert!(metric(&http, "synod_connections_peers").unwrap_or(0.0) >= 3.0, "links and pulses have peers' permits");
        let lines = cluster.log(number).lines().filter(|line| line.contains("network.connections_max")).count();
        assert!((1..=5).contains(&lines), "{lines} lines of the log tell of it");
    }
    drop(held);
    cluster.wait_up();
}

#[test]
fn an_operator_gets_in_while_clients_hold_every_place() {
    let _alone = alone();
    let cluster = Cluster::start_with("[network]\nconnections_max = 16\n");
    let runtime = runtime();
    let held: Vec<_> = (1..=3).map(|number| runtime.block_on(crowd(&cluster.addr(number), 60)).0).collect();
    let backup = cluster.dir().join("backup").display().to_string();
    for args in [
        &["status"][..],
        &["table", "create", "t", "--partition", "hash", "--shards", "2"],
        &["table", "list"],
        &["shard", "list"],
        &["node", "remove", "99"],
        &["cluster", "upgrade", "--dry-run"],
        &["backup", &backup],
    ] {
        cluster.cli(args).ok();
    }
    // What uses the cluster has to wait for a permit, and is told so.
    cluster.cli(&["--timeout", "1s", "get", "t", "k"]).refused(1, &["network.connections_max"]);
    drop(held);
    cluster.cli(&["put", "t", "k", "v"]).ok();
}

#[test]
fn who_was_told_of_the_limit_says_so_though_it_is_cut_off_later() {
    let _alone = alone();
    let cluster = Cluster::start_with("[network]\nconnections_max = 16\n");
    let addr = cluster.addr(1);
    let runtime = runtime();
    let held = runtime.block_on(crowd(&addr, 60)).0;
    let args = ["--endpoints", &addr, "--timeout", "4s", "get", "t", "k"];
    let get = cluster.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    // Now the entrance is full as well, and a connection is closed without a word.
    let silent: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(&addr).expect("a connection");
            let _ = stream.write_all(&[PREFACE, SETTINGS].concat());
            stream
        })
        .collect();
    let ended: Ran = get.wait_with_output().unwrap().into();
    ended.refused(1, &["network.connections_max = 16"]);
    drop((held, silent));
}

#[test]
fn who_never_finishes_its_handshake_loses_its_place() {
    let _alone = alone();
    let cluster = Cluster::start_with("[network]\nconnections_max = 16\n");
    let addr = cluster.addr(1);
    let begin = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&addr).expect("a connection");
        stream.write_all(bytes).expect("a few bytes");
        stream
    };
    let beginnings = [&PREFACE[..9], &PREFACE[..23], b"\0syn", b"\0synod\0L\x10"];
    let held: Vec<TcpStream> = (0..40).map(|n| begin(beginnings[n % beginnings.len()])).collect();
    std::thread::sleep(Duration::from_secs(6));
    let runtime = runtime();
    let (inside, refused) = runtime.block_on(crowd(&addr, 8));
    assert_eq!((inside.len(), refused.len()), (8, 0), "{refused:?}");
    drop(held);
}

/// Starts a node of its own cluster by a shell that sets limits first.
fn node_limited(cluster: &Cluster, limits: &str) -> std::process::Child {
    let shell = ["sh", "-c", &format!("{limits} && exec \"$@\""), "sh"].map(String::from);
    let mut args = cluster.args(1, &["--bootstrap".to_owned(), cluster.addr(1)]);
    args.push("--die-with-stdin".into());
    let mut command = command_within(&shell, &args);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a shell")
}

#[test]
fn the_soft_limit_of_file_descriptors_is_raised_and_a_start_below_the_need_is_refused() {
    let _alone = alone();
    let cluster = Cluster::empty(1);
    let mut node = node_limited(&cluster, "ulimit -S -n 256");
    let limits = until(PATIENCE, "it serves", || {
        get(&cluster.http(1), "/livez")?;
        std::fs::read_to_string(format!("/proc/{}/limits", node.id())).ok()
    });
    node.kill().expect("it is our child");
    node.wait().expect("it is our child");
    let limits = limits.unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], words[1], "soft and hard: {line}");

    let cluster = Cluster::empty(1);
    for (limit, knob) in [(300, None), (3300, Some("network.connections_max"))] {
        let mut node = node_limited(&cluster, &format!("ulimit -n {limit}"));
        let ended = wait_for(&mut node, Duration::from_secs(10));
        node.kill().ok();
        let ran: Ran = node.wait_with_output().expect("its output").into();
        assert!(ended.is_some(), "a node with {limit} file descriptors runs");
        let words = ["file descriptors", "ulimit -n", "LimitNOFILE", "1024"];
        let line = ran.refused(1, &[&words[..], &knob.into_iter().collect::<Vec<_>>()].concat());
        assert!(line.contains(&limit.to_string()), "{line}");
        println!("{line}");
        assert!(!cluster.data_dir(1).exists(), "nothing was made");
    }
}

#[test]
fn cancelled_calls_of_a_client_do_not_end_its_connection() {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "1"]).ok();
    let runtime = runtime();
    runtime.block_on(async {
        let channel = connect(&cluster.addr(1)).await.expect("a connection");
        let mut session = Session::open(channel.clone()).await.expect("a session");
        session.clock(1).await.expect("an answer");
        cluster.signal(1, Signal::SIGSTOP);
        // A client whose calls have a deadline, as grpcio's do: each is cancelled when that has passed.
        let until = Instant::now() + Duration::from_secs(3);
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let mut client = SynodClient::new(channel.clone());
            callers.spawn(async move {
                let mut cancelled = 0;
                while Instant::now() < until {
                    let call = v1::GetCall { table: "t".into(), key: "k".into(), ..Default::default() };
                    let answered = tokio::time::timeout(Duration::from_millis(50), client.get(call)).await;
                    cancelled += usize::from(answered.is_err());
                }
                cancelled
            });
        }
        let cancelled: usize = callers.join_all().await.into_iter().sum();
        println!("{cancelled} calls were cancelled");
        assert!(cancelled > 1000, "only {cancelled} calls were cancelled");
        cluster.signal(1, Signal::SIGCONT);
        let answer = tokio::time::timeout(Duration::from_secs(10), session.clock(2)).await.expect("in time");
        answer.expect("the stream beside the cancelled calls lives on");
    });
}

/// The shortest call there is: POST /, and its end at once.
fn reset_call(stream: u32, out: &mut Vec<u8>) {
    let id = stream.to_be_bytes();
    out.extend([0, 0, 3, 1, 4]);
    out.extend(id);
    out.extend([0x83, 0x86, 0x84]);
    out.extend([0, 0, 4, 3, 0]);
    out.extend(id);
    out.extend([0, 0, 0, 8]);
}

#[test]
fn resets_without_end_are_cut_off() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    let mut stream = TcpStream::connect(cluster.addr(1)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let mut reader = stream.try_clone().expect("a socket");
    let heard = std::thread::spawn(move || {
        let (mut heard, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = reader.read(&mut some) {
            heard.extend_from_slice(&some[..n]);
        }
        heard
    });
    stream.write_all(&[PREFACE, SETTINGS].concat()).expect("a beginning");
    let (began, mut sent, mut bytes) = (Instant::now(), 0, Vec::new());
    'attack: while began.elapsed() < Duration::from_secs(20) && sent < 20_000_000 {
        bytes.clear();
        for _ in 0..10_000 {
            reset_call(2 * sent + 1, &mut bytes);
            sent += 1;
        }
        if stream.write_all(&bytes).is_err() {
            break 'attack;
        }
    }
    let took = began.elapsed();
    let heard = heard.join().expect("no panic");
    println!("{sent} calls were sent and reset in {took:?}");
    assert!(heard.windows(15).any(|some| some == b"too_many_resets"), "the connection was not ended for its resets");
    assert!(cluster.runs(1) && !cluster.log(1).contains("panicked"));
    cluster.wait_up();
}

#[test]
fn idle_http_connections_keep_no_probe_out() {
    let _alone = alone();
    let cluster = Cluster::start();
    let http = cluster.http(1);
    let mut held: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&http).expect("a connection")).collect();
    for stream in held.iter_mut().skip(50) {
        // Kept alive by its client after an answer, as scrapers do.
        let _ = stream.write_all(format!("GET /livez HTTP/1.1\r\nHost: {http}\r\n\r\n").as_bytes());
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let asked = Instant::now();
        let code = get(&http, path).map(|(code, _)| code);
        assert_eq!(code, Some(200), "{path} beside 100 idle connections");
        assert!(asked.elapsed() < Duration::from_secs(2), "{path} took {:?}", asked.elapsed());
    }
    drop(held);
}

#[test]
fn nobody_else_reads_a_data_directory() {
    let _alone = alone();
    let mut cluster = Cluster::empty(1);
    cluster.add_founder(1);
    cluster.wait_up();
    let mode = std::fs::metadata(cluster.data_dir(1)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o700, "{mode:o}");
}
