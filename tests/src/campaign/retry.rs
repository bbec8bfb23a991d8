//! Turns in which writes are sent again under their names: while the leader dies, to every node, after it is back, to a node
//! that has its sessions from a snapshot, and behind their deadlines.
//!
//! Owns: the named writes and where they were said to be. Must never: use the client library for them, which would retry by
//! itself.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use synod_proto::v1::synod_client::SynodClient;
use synod_proto::v1::{self, write_op};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::Turn;
use super::load::Load;
use super::snapshot::{create_bulk, lead, write_bulk};
use crate::cluster::{Cluster, PATIENCE};

const KEYS: u64 = 4;
/// Named writes of a turn.
const WRITES: u64 = 24;

/// What was written under names, by table and key, and by offset.
#[derive(Default)]
pub(super) struct Named {
    logs: BTreeMap<(String, String), BTreeMap<u64, String>>,
}

impl Named {
    /// Every key's log is what was acknowledged: each write once.
    pub(super) fn check(&self, cluster: &Cluster, _: &Load) -> Result<(), String> {
        for ((table, key), log) in &self.logs {
            let read = cluster.cli(&["-o", "json", "--timeout", "60s", "read", table, key]).ok().json_lines();
            let stored = read.iter().map(|record| {
                (record["offset"].as_u64().unwrap_or(u64::MAX), record["value"].as_str().unwrap_or_default().to_owned())
            });
            let stored: BTreeMap<u64, String> = stored.collect();
            if stored != *log {
                let differs = stored.iter().find(|(offset, value)| log.get(offset) != Some(value));
                let missing = log.iter().find(|(offset, _)| !stored.contains_key(offset));
                return Err(format!("named writes of {key}: stored otherwise {differs:?}, not stored {missing:?}"));
            }
        }
        Ok(())
    }

    fn add(&mut self, call: &Call, offset: u64) -> Result<(), String> {
        match self.logs.entry((call.table.clone(), call.key.clone())).or_default().insert(offset, call.value.clone()) {
            Some(other) if other != call.value => {
                Err(format!("{} and {other} were both said to be at {}/{offset}", call.value, call.key))
            }
            _ => Ok(()),
        }
    }
}

fn table_of(turn: usize) -> String {
    format!("named-{turn}")
}

/// A named write.
#[derive(Clone)]
struct Call {
    table: String,
    key: String,
    value: String,
    id: v1::WriteId,
}

impl Call {
    fn new(turn: usize, seq: u64, ahead: Duration) -> Call {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let deadline_us = u64::try_from((now + ahead).as_micros()).unwrap_or(u64::MAX);
        // Another client each turn, of this process.
        let client = ((u128::from(std::process::id()) << 64) | (turn as u128 + 1)).to_be_bytes();
        let id = v1::WriteId { client: client.to_vec().into(), seq, floor: 1, deadline_us };
        Call { table: table_of(turn), key: format!("k{}", seq % KEYS), value: format!("{turn}.{seq}"), id }
    }

    /// Sends it to a node; the offset it is said to be at.
    async fn send(self, addr: String) -> Result<u64, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}"));
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        let connected =
            endpoint.connect_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(5)).connect().await;
        let mut node = SynodClient::new(connected.map_err(|error| Status::unavailable(error.to_string()))?);
        let record = v1::AppendRecord { headers: vec![], value: self.value.into() };
        let op = write_op::Op::Append(v1::Append { records: vec![record] });
        let op = v1::WriteOp { key: self.key.into(), expect: None, op: Some(op) };
        let call = v1::WriteCall { table: self.table, ops: vec![op], id: Some(self.id), timeout_ms: 4_000 };
        let result = node.write(call).await?.into_inner().result;
        let first = result.and_then(|result| result.results.first().map(|first| first.offset));
        first.ok_or_else(|| Status::internal("an answer without an offset"))
    }
}

/// A write and the offset it was first said to be at.
type Said = (Call, Option<u64>);

/// Sends every write to a node again until that answers; the answers must be the ones given before.
fn again(cluster: &Cluster, load: &Load, writes: &mut [Said], node: u16) -> Result<(), String> {
    let (_, runtime) = load.client(cluster)?;
    for (call, said) in writes {
        let began = Instant::now();
        let offset = loop {
            match runtime.block_on(call.clone().send(cluster.addr(node))) {
                Ok(offset) => break offset,
                Err(status) if began.elapsed() > PATIENCE => return Err(format!("node {node}: {status}")),
                Err(_) => sleep(Duration::from_millis(50)),
            }
        };
        if said.is_some_and(|before| before != offset) {
            return Err(format!("{} is at {said:?}, and then, by node {node}, at {offset}", call.value));
        }
        *said = Some(offset);
    }
    Ok(())
}

/// A write behind its deadline has its old answer or none; it is not executed again.
fn expired(cluster: &Cluster, load: &Load, writes: &[Said]) -> Result<(), String> {
    let (_, runtime) = load.client(cluster)?;
    for ((call, said), node) in writes.iter().zip([1, 2, 3].into_iter().cycle()) {
        match runtime.block_on(call.clone().send(cluster.addr(node))) {
            Ok(offset) if Some(offset) != *said => {
                return Err(format!("{} is at {said:?}, and behind its deadline at {offset}", call.value));
            }
            Err(status) if status.code() != Code::DeadlineExceeded => return Err(format!("node {node}: {status}")),
            _ => {}
        }
    }
    Ok(())
}

/// The leader of a shard dies among named writes.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, named: &Mutex<Named>, number: usize) -> Result<Turn, String> {
    // A new one each time: of a shard that gave a snapshot just now the log is kept for a minute.
    let table = &table_of(number);
    create_bulk(cluster, load, table)?;
    let status = cluster.wait_up();
    let victim = cluster.leader(&status, table, number);
    let mut short: Vec<Said> =
        (1..=3).map(|seq| (Call::new(number, WRITES + seq, Duration::from_secs(4)), None)).collect();
    again(cluster, load, &mut short, victim)?;
    let (_, runtime) = load.client(cluster)?;
    let began = Instant::now();
    let sent: Vec<_> = (1..=WRITES)
        .map(|seq| {
            let call = Call::new(number, seq, Duration::from_secs(300));
            let node = u16::try_from(seq % 3).expect("small") + 1;
            let answer = runtime.spawn(call.clone().send(cluster.addr(node)));
            // Some before its death, some after it.
            if seq == WRITES / 3 {
                sleep(Duration::from_millis((number as u64 * 7) % 20));
                cluster.kill(victim);
            }
            (call, answer)
        })
        .collect();
    let mut writes: Vec<Said> = sent
        .into_iter()
        .map(|(call, answer)| (call, runtime.block_on(answer).expect("a write does not panic").ok()))
        .collect();
    let answered = writes.iter().filter(|(_, said)| said.is_some()).count();
    for node in (1..=3).filter(|node| *node != victim) {
        again(cluster, load, &mut writes, node)?;
    }
    let pause = load.pause(began);
    // Every second time it has to take a snapshot, and the sessions with it.
    let behind = number % 2 == 1;
    if behind {
        write_bulk(cluster, load, table, 160)?;
        sleep(Duration::from_secs(1));
    }
    let installed = |cluster: &Cluster| cluster.log(victim).matches("took the replica's place").count();
    let before = installed(cluster);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    let snapshots = installed(cluster) - before;
    if behind {
        lead(cluster, victim, &[table])?;
    }
    (1..=3).try_for_each(|node| again(cluster, load, &mut writes, node))?;
    sleep(Duration::from_millis(4_200).saturating_sub(began.elapsed()));
    expired(cluster, load, &short)?;
    let mut named = named.lock().map_err(|_| "a turn failed")?;
    for (call, said) in writes.iter().chain(&short) {
        named.add(call, said.ok_or("a write was never answered")?)?;
    }
    let note = format!(
        "node {victim} died, {answered} of {WRITES} answered at first, {snapshots} snapshots, all sent again to each node;"
    );
    Ok(Turn { pause, during: None, note })
}
