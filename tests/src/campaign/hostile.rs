//! Clients that mean harm, or know no better, against every node at once.
//!
//! Owns: what they send, and what must be so afterwards: every process alive and without a panic, its memory under the cap,
//! no leadership moved. Must never: need a tool beyond a socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use synod_proto::v1;
use synod_proto::v1::synod_client::SynodClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use super::Turn;
use super::load::Load;
use crate::cluster::{Cluster, PATIENCE};
use crate::http::metric;
use crate::run::until;

/// No node's memory (`VmHWM`) may ever have been above this, bytes; what it is made of is in
/// `docs/evidence/2026-11-30-campaigns.md`.
const MEMORY_CAP: u64 = 1 << 30;
/// How long an attack goes on.
const LASTS: Duration = Duration::from_millis(1500);
/// A table with enough in it to fill the streams of those who do not read.
const BULK: &str = "bulk";

/// Each attack: its name and what does it.
type Attack = (&'static str, fn(&Runtime, &Target));
const ATTACKS: [Attack; 7] = [
    ("garbage on every port", garbage),
    ("messages of 100 MiB", large_messages),
    ("10,000 streams on one connection", many_streams),
    ("4,000 connections that say nothing", many_connections),
    ("streams that are never read", slow_readers),
    ("writes without end on 64 streams", greedy_writers),
    ("calls that are reset at once, without end", rapid_resets),
];

/// What is attacked.
struct Target {
    grpc: Vec<String>,
    http: Vec<String>,
    /// Shards of the table with the large records: number, version, address of the leader.
    shards: Vec<(u64, u64, String)>,
}

impl Target {
    fn of(cluster: &Cluster) -> Option<Target> {
        let status = cluster.status()?;
        let shard = |shard: &&serde_json::Value| {
            let id = shard["id"].as_u64()?;
            Some((id, shard["epoch"]["version"].as_u64()?, status.leader_addr(id)?))
        };
        let shards = status.shards_of(BULK).iter().map(shard).collect::<Option<Vec<_>>>()?;
        let http = (1..=3).map(|number| cluster.http(number)).collect();
        Some(Target { grpc: cluster.endpoints(), http, shards })
    }
}

/// Something to read.
pub(super) fn prepare(cluster: &Cluster) {
    let ops = ["--ops", "600", "--value-size", "16384", "--keys", "100", "--clients", "8", "--warmup", "0s"];
    cluster.cli(&[&["bench", "append", "--table", BULK], &ops[..]].concat()).ok();
}

/// One attack on all nodes, another each turn.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, number: usize) -> Result<Turn, String> {
    let (name, attack) = ATTACKS[number % ATTACKS.len()];
    let target = until(PATIENCE, "every shard is led", || Target::of(cluster))?;
    let elections = elections(cluster)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let began = Instant::now();
    let within = runtime.enter();
    attack(&runtime, &target);
    drop(within);
    let during = load.acked_since(began);
    runtime.shutdown_background();
    load.wait_flowing(PATIENCE);
    let pause = load.pause(began);
    for node in 1..=3 {
        if !cluster.runs(node) || cluster.log(node).contains("panicked") {
            return Err(format!("{name}: node {node} panicked or ended"));
        }
    }
    let (now, most) = (1..=3).map(|node| memory(cluster.pid(node))).fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    if most > MEMORY_CAP {
        return Err(format!("{name}: a node has had {} MiB, the cap is {} MiB", most >> 20, MEMORY_CAP >> 20));
    }
    let moved = self::elections(cluster)? - elections;
    if moved > 0.0 {
        return Err(format!("{name}: {moved} leaderships moved"));
    }
    if during == 0 {
        return Err(format!("{name}: no client got an answer while it went on"));
    }
    let note = format!("{name}: {during} writes meanwhile, memory {} MiB, at most {} MiB;", now >> 20, most >> 20);
    Ok(Turn { pause, during: None, note })
}

/// Leaderships won so far, by all nodes.
fn elections(cluster: &Cluster) -> Result<f64, String> {
    let won = |node| metric(&cluster.http(node), "synod_engine_elections_total");
    until(PATIENCE, "every node tells its metrics", || (1..=3).map(won).sum::<Option<f64>>())
}

/// A process's memory now, and the most it has ever had, bytes.
pub(super) fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let kib = status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?;
        kib.parse::<u64>().ok().map(|kib| kib << 10)
    };
    (field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0))
}

/// An HTTP/2 connection's beginning, then a frame's head: length, type, flags, stream.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Of a TLS client that takes the port for its own.
const CLIENT_HELLO: &[u8] = &[0x16, 3, 1, 0, 0xff, 1, 0, 0, 0xfb, 3, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// A link's beginning, and the length of a first frame.
const LINK: &[u8] = b"\0synod\0L";

/// Random bytes, halves of beginnings, TLS, heads of frames as long as can be said, resets by the thousand.
fn garbage(_: &Runtime, target: &Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(16);
    let began = Instant::now();
    let mut open = Vec::new();
    for round in 0u64.. {
        for addr in target.grpc.iter().chain(&target.http) {
            let Ok(mut stream) = TcpStream::connect(addr) else { continue };
            let mut bytes = match round % 8 {
                0 => Vec::new(),
                1 => PREFACE[..rng.random_range(1..PREFACE.len())].to_vec(),
                2 => CLIENT_HELLO.to_vec(),
                3 => [PREFACE, SETTINGS, &[0xff, 0xff, 0xff, rng.random(), 0, 0, 0, 0, 1]].concat(),
                4 => [PREFACE, SETTINGS, &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8].repeat(1000)].concat(),
                5 => [LINK, &u32::MAX.to_le_bytes()].concat(),
                6 => [LINK, &2000_u32.to_le_bytes()].concat(),
                _ => b"POST /synod.v1.Synod/Session HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
            };
            let mut noise = vec![0; rng.random_range(0..20_000)];
            rng.fill(&mut noise[..]);
            bytes.extend(noise);
            // Refused at any byte.
            let _ = stream.write_all(&bytes);
            if round % 3 == 0 && open.len() < 300 {
                open.push(stream);
            }
        }
        if began.elapsed() > LASTS {
            break;
        }
    }
    for stream in &mut open {
        stream.set_nonblocking(true).expect("a socket");
        let _ = stream.read(&mut [0; 1024]);
    }
}

fn channel(addr: &str) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).expect("an address").connect_lazy()
}

fn append(value: Bytes) -> v1::WriteOp {
    let record = v1::AppendRecord { headers: Vec::new(), value };
    let op = v1::write_op::Op::Append(v1::Append { records: vec![record] });
    v1::WriteOp { key: Bytes::from_static(b"hostile"), expect: None, op: Some(op) }
}

fn frame(id: u64, shard: u64, version: u64, body: v1::shard_request::Body) -> v1::ClientFrame {
    v1::ClientFrame { requests: vec![v1::ShardRequest { id, shard, version, body: Some(body) }] }
}

/// The shortest call there is (POST /), and its end at once; 10,000 of them from the one with this number on.
fn reset_calls(first: u32) -> Vec<u8> {
    let call = |number: u32| {
        let stream = (2 * number + 1).to_be_bytes();
        let head = [&[0, 0, 3, 1, 4][..], &stream, &[0x83, 0x86, 0x84]].concat();
        [&head[..], &[0, 0, 4, 3, 0], &stream, &[0, 0, 0, 8]].concat()
    };
    (first..first + 10_000).flat_map(call).collect()
}

/// Each node ends such a connection soon; another one takes its place.
fn rapid_resets(_: &Runtime, target: &Target) {
    let attacks = target.grpc.iter().map(|addr| {
        let addr = addr.clone();
        std::thread::spawn(move || {
            let began = Instant::now();
            while began.elapsed() < LASTS {
                let Ok(mut stream) = TcpStream::connect(&addr) else { continue };
                let mut sent = stream.write_all(&[PREFACE, SETTINGS].concat());
                for round in 0.. {
                    if sent.is_err() || began.elapsed() > LASTS {
                        break;
                    }
                    sent = stream.write_all(&reset_calls(round * 10_000));
                }
            }
        })
    });
    let attacks: Vec<_> = attacks.collect();
    for attack in attacks {
        attack.join().expect("no panic");
    }
}

/// As a unary call and on a session stream, to each node at once.
fn large_messages(runtime: &Runtime, target: &Target) {
    let value = Bytes::from(vec![7u8; 100 << 20]);
    let calls = target.grpc.iter().map(|addr| {
        let value = value.clone();
        let mut client = SynodClient::new(channel(addr)).max_encoding_message_size(1 << 30);
        runtime.spawn(async move {
            let call = v1::WriteCall { table: BULK.into(), ops: vec![append(value.clone())], ..Default::default() };
            let unary = client.write(call).await.err();
            let write = v1::Write { table_id: 0, ops: vec![append(value)], id: None };
            let frames = tokio_stream::once(frame(1, 2, 1, v1::shard_request::Body::Write(write)));
            let stream = match client.session(frames).await {
                Ok(replies) => replies.into_inner().message().await.is_err(),
                Err(_) => true,
            };
            (unary.is_some(), stream)
        })
    });
    let calls: Vec<_> = calls.collect();
    runtime.block_on(async {
        for call in calls {
            let _ = tokio::time::timeout(Duration::from_secs(20), call).await;
        }
    });
}

/// Opened all at once, each with a question that is answered at once.
fn many_streams(runtime: &Runtime, target: &Target) {
    for addr in &target.grpc {
        let channel = channel(addr);
        for id in 0..10_000 {
            let mut client = SynodClient::new(channel.clone());
            runtime.spawn(async move {
                let asked = tokio_stream::once(frame(id, 0, 0, v1::shard_request::Body::Clock(true)));
                // Held open: the stream of questions never ends.
                let frames = tokio_stream::StreamExt::chain(asked, tokio_stream::pending());
                if let Ok(replies) = client.session(frames).await {
                    let mut replies = replies.into_inner();
                    while let Ok(Some(_)) = replies.message().await {}
                }
            });
        }
    }
    sleep(LASTS);
}

/// More than are held; half of them have begun to speak.
fn many_connections(_: &Runtime, target: &Target) {
    let mut open = Vec::new();
    for n in 0..4000 {
        let Ok(mut stream) = TcpStream::connect(&target.grpc[n % target.grpc.len()]) else { continue };
        if n % 2 == 0 {
            let _ = stream.write_all(PREFACE);
        }
        open.push(stream);
    }
    sleep(LASTS);
}

/// Pages of a megabyte are asked for, by the thousand, and not one is read.
fn slow_readers(runtime: &Runtime, target: &Target) {
    for (shard, version, leader) in &target.shards {
        for _ in 0..5 {
            let (shard, version) = (*shard, *version);
            let mut client = SynodClient::new(channel(leader));
            runtime.spawn(async move {
                let ask = move |id| {
                    let scan = v1::Scan { history: true, ..Default::default() };
                    frame(id, shard, version, v1::shard_request::Body::Scan(scan))
                };
                let asked = tokio_stream::iter((0..4000).map(ask));
                let frames = tokio_stream::StreamExt::chain(asked, tokio_stream::pending());
                let replies = client.session(frames).await;
                tokio::time::sleep(LASTS * 2).await;
                drop(replies);
            });
        }
    }
    sleep(LASTS);
}

/// As many writes as the streams take, never a look at an answer.
fn greedy_writers(runtime: &Runtime, target: &Target) {
    let value = Bytes::from(vec![5u8; 64 << 10]);
    for n in 0..64u128 {
        let (shard, version, leader) = &target.shards[n as usize % target.shards.len()];
        let (shard, version, value) = (*shard, *version, value.clone());
        let mut client = SynodClient::new(channel(leader));
        runtime.spawn(async move {
            let write = move |seq: u64| {
                let client = Bytes::copy_from_slice(&(n + 1).to_be_bytes());
                let id = v1::WriteId { client, seq, floor: 0, deadline_us: u64::MAX };
                let write = v1::Write { table_id: 0, ops: vec![append(value.clone())], id: Some(id) };
                frame(seq, shard, version, v1::shard_request::Body::Write(write))
            };
            let replies = client.session(tokio_stream::iter((1..2000).map(write))).await;
            tokio::time::sleep(LASTS * 2).await;
            drop(replies);
        });
    }
    sleep(LASTS);
}
