//! A client made of nothing but the stubs that the wire schema gives: what somebody writes who has no library for Synod.
//!
//! Owns: its routing (it asks whoever is next), the names of its writes, its retries, and what it honestly knows of an outcome.
//! Must never: use the client library, or call a write not executed that may have been.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use synod_lincheck::Seen;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use synod_proto::v1::synod_client::SynodClient;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use v1::error::Kind;
use v1::shard_reply::Body as Reply;
use v1::shard_request::Body as Ask;

use super::call::{Answer, Found, Wanted};

/// How long a node may take to answer before another is asked.
const ATTEMPT: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// Which calls it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// The unary ones, of whichever node: that node finds the leader.
    Unary,
    /// The session stream of the node that leads the key's shard, one request at a time.
    Session,
}

/// The client.
pub(super) struct Plain {
    endpoints: Vec<String>,
    table: String,
    style: Style,
    /// Its name, 16 bytes.
    name: Bytes,
    seq: u64,
    map: Option<v1::ShardMap>,
    /// Who led each shard when last heard.
    leaders: HashMap<u64, String>,
    turn: usize,
    channels: HashMap<String, Channel>,
    streams: HashMap<String, Stream>,
}

/// One session stream.
struct Stream {
    out: mpsc::Sender<v1::ClientFrame>,
    replies: Streaming<v1::ServerFrame>,
    next: u64,
    /// The node's time less ours, µs.
    ahead_us: i64,
}

/// What one attempt came to.
enum Said {
    Reply(Reply),
    Refused(v1::Error),
    /// No answer; whether the request may have arrived.
    Gone(bool, String),
}

/// A request, before it has a name and a way.
#[derive(Clone, Copy)]
enum What<'a> {
    Write(&'a v1::WriteOp),
    Get(&'a str),
}

/// What follows a refusal.
enum Next {
    /// This node, after a pause.
    Same(Duration),
    /// That one.
    Node(u64),
    /// Another.
    Another,
    /// Nothing would help.
    End,
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(since.as_micros()).expect("the year is below 586524")
}

fn typed(status: &tonic::Status) -> Option<v1::Error> {
    v1::Error::decode(status.details()).ok().filter(|error| error.kind.is_some())
}

async fn connect(addr: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|e| e.to_string())?;
    match timeout(CONNECT, endpoint.connect()).await {
        Ok(channel) => channel.map_err(|e| e.to_string()),
        Err(_) => Err(format!("{addr}: no connection")),
    }
}

/// Creates a range table that keeps all records, through whichever node takes it, under one name.
pub(super) async fn create_table(endpoints: &[String], name: &str, split_at: Vec<Bytes>) -> Result<(), String> {
    let id = v1::WriteId {
        client: Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes()),
        seq: 1,
        floor: 1,
        deadline_us: wall_us() + 60_000_000,
    };
    let request = v1::CreateTableRequest {
        name: name.into(),
        partitioning: v1::Partitioning::Range.into(),
        split_at,
        retention: Some(v1::Retention { kind: Some(v1::retention::Kind::All(true)) }),
        id: Some(id),
        ..v1::CreateTableRequest::default()
    };
    let mut last = String::new();
    for addr in endpoints.iter().cycle().take(20) {
        match connect(addr).await {
            Ok(channel) => match AdminClient::new(channel).create_table(request.clone()).await {
                Ok(_) => return Ok(()),
                Err(status) => last = status.message().to_owned(),
            },
            Err(why) => last = why,
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(last)
}

impl Plain {
    /// A client of the cluster at these addresses, for one table.
    pub(super) fn new(endpoints: Vec<String>, table: &str, style: Style) -> Plain {
        Plain {
            turn: rand::random::<u16>().into(),
            endpoints,
            table: table.to_owned(),
            style,
            name: Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes()),
            seq: 0,
            map: None,
            leaders: HashMap::new(),
            channels: HashMap::new(),
            streams: HashMap::new(),
        }
    }

    /// Writes, for at most `patience`.
    pub(super) async fn write(&mut self, key: &str, wanted: &Wanted, patience: Duration) -> Answer {
        self.seq += 1;
        let op = operation(key, wanted);
        let until = Instant::now() + patience;
        // Fixed by the first attempt: the deadline is part of the name.
        let mut good_until = None;
        let (mut maybe, mut pause) = (false, PAUSE);
        let mut last = "no node was reached".to_owned();
        while Instant::now() < until {
            let said = self.attempt(key, What::Write(&op), &mut good_until, until).await;
            let next = match said {
                Said::Reply(Reply::Write(v1::WriteResult { failed: Some(failed), .. })) => {
                    return Answer::Expectation { actual: failed.actual };
                }
                Said::Reply(Reply::Write(result)) => match result.results.first() {
                    Some(result) => return Answer::Written { offset: result.offset },
                    None => return Answer::Unknown("an answer without a result".into()),
                },
                Said::Reply(_) => return Answer::Unknown("an answer to something else".into()),
                Said::Refused(error) => {
                    if let Some(Kind::ExpectationFailed(failed)) = &error.kind {
                        return Answer::Expectation { actual: failed.actual };
                    }
                    maybe |= may_have_been(&error);
                    last = error.message.clone();
                    next(&error)
                }
                Said::Gone(sent, why) => {
                    maybe |= sent;
                    last = why;
                    Next::Another
                }
            };
            if matches!(next, Next::End) {
                break;
            }
            self.go_on(key, next, &mut pause).await;
        }
        if maybe { Answer::Unknown(last) } else { Answer::NotExecuted(last) }
    }

    /// The newest record of a key, linearizable.
    pub(super) async fn get(&mut self, key: &str, patience: Duration) -> Result<Found, String> {
        let until = Instant::now() + patience;
        let (mut pause, mut last) = (PAUSE, "no node was reached".to_owned());
        while Instant::now() < until {
            let next = match self.attempt(key, What::Get(key), &mut None, until).await {
                Said::Reply(Reply::Get(got)) => {
                    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
                    let newest = got.record.filter(|record| !record.tombstone);
                    let newest = newest.map(|record| Seen { offset: record.offset, value: text(&record.value) });
                    return Ok(Found { newest, next: got.next_offset });
                }
                Said::Reply(_) => return Err("an answer to something else".into()),
                Said::Refused(error) => {
                    last = error.message.clone();
                    next(&error)
                }
                Said::Gone(_, why) => {
                    last = why;
                    Next::Another
                }
            };
            if matches!(next, Next::End) {
                break;
            }
            self.go_on(key, next, &mut pause).await;
        }
        Err(last)
    }

    async fn attempt(&mut self, key: &str, what: What<'_>, good_until: &mut Option<u64>, until: Instant) -> Said {
        let Some(shard) = self.shard(key).await else { return Said::Gone(false, "no map".into()) };
        let addr = self.choose(&shard);
        let limit = ATTEMPT.min(until.saturating_duration_since(Instant::now()));
        match self.style {
            Style::Unary => self.unary(&addr, what, good_until, until, limit).await,
            Style::Session => self.session(&addr, &shard, what, good_until, until, limit).await,
        }
    }

    async fn go_on(&mut self, key: &str, next: Next, pause: &mut Duration) {
        let shard = self.shard(key).await;
        let named = |id: u64, map: &v1::ShardMap| map.nodes.iter().find(|node| node.id == id).map(|n| n.addr.clone());
        match (next, shard) {
            (Next::Same(wait), _) => return sleep(wait).await,
            (Next::Node(id), Some(shard)) => match self.map.as_ref().and_then(|map| named(id, map)) {
                Some(addr) => drop(self.leaders.insert(shard.id, addr)),
                None => drop(self.leaders.remove(&shard.id)),
            },
            (_, shard) => {
                self.turn += 1;
                if let Some(shard) = shard {
                    self.leaders.remove(&shard.id);
                }
                // What is asked next may be asked by a newer map.
                self.map = None;
            }
        }
        sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
    }

    fn choose(&self, shard: &v1::Shard) -> String {
        let known = self.leaders.get(&shard.id).filter(|_| self.style == Style::Session).cloned();
        known.unwrap_or_else(|| self.endpoints[self.turn % self.endpoints.len()].clone())
    }

    fn name(&self, good_until: &mut Option<u64>, now_us: u64, until: Instant) -> v1::WriteId {
        let left = u64::try_from(until.saturating_duration_since(Instant::now()).as_micros()).unwrap_or(0);
        let deadline_us = *good_until.get_or_insert(now_us + left);
        // One write at a time: no earlier outcome is needed.
        v1::WriteId { client: self.name.clone(), seq: self.seq, floor: self.seq, deadline_us }
    }

    /// The shard of a key, by a map of whichever node answers.
    async fn shard(&mut self, key: &str) -> Option<v1::Shard> {
        if self.map.is_none() {
            let addr = self.endpoints[self.turn % self.endpoints.len()].clone();
            let channel = self.channel(&addr).await.ok()?;
            let asked = async {
                let request = v1::WatchMapRequest::default();
                SynodClient::new(channel).watch_map(request).await.ok()?.into_inner().message().await.ok()?
            };
            self.map = timeout(ATTEMPT, asked).await.ok().flatten();
            if self.map.is_none() {
                self.turn += 1;
                self.channels.remove(&addr);
            }
        }
        let map = self.map.as_ref()?;
        let table = map.tables.iter().find(|table| table.name == self.table)?;
        let is_in = |s: &&v1::Shard| *s.from <= *key.as_bytes() && (s.to.is_empty() || *key.as_bytes() < *s.to);
        map.shards.iter().filter(|shard| shard.table_id == table.id).find(is_in).cloned()
    }

    async fn channel(&mut self, addr: &str) -> Result<Channel, String> {
        if let Some(channel) = self.channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = connect(addr).await?;
        self.channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }

    async fn unary(
        &mut self,
        addr: &str,
        what: What<'_>,
        good_until: &mut Option<u64>,
        until: Instant,
        limit: Duration,
    ) -> Said {
        let channel = match self.channel(addr).await {
            Ok(channel) => channel,
            Err(why) => return Said::Gone(false, why),
        };
        let mut node = SynodClient::new(channel);
        let timeout_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1);
        let table = self.table.clone();
        let asked = async {
            match what {
                What::Write(op) => {
                    let id = Some(self.name(good_until, wall_us(), until));
                    let call = v1::WriteCall { table, ops: vec![op.clone()], id, timeout_ms };
                    node.write(call).await.map(|reply| reply.into_inner().result.map(Reply::Write))
                }
                What::Get(key) => {
                    let key = Bytes::copy_from_slice(key.as_bytes());
                    let call = v1::GetCall { table, key, timeout_ms, ..v1::GetCall::default() };
                    node.get(call).await.map(|reply| reply.into_inner().result.map(Reply::Get))
                }
            }
        };
        // A moment more than the node has, so that it can say what it knows.
        let answered = timeout(limit + Duration::from_millis(200), asked).await;
        let why = match answered {
            Ok(Ok(Some(reply))) => return Said::Reply(reply),
            Ok(Ok(None)) => "an answer without a result".to_owned(),
            Ok(Err(status)) => match typed(&status) {
                Some(error) => return Said::Refused(error),
                None => status.message().to_owned(),
            },
            Err(_) => format!("{addr}: no answer"),
        };
        self.channels.remove(addr);
        Said::Gone(true, why)
    }

    async fn session(
        &mut self,
        addr: &str,
        shard: &v1::Shard,
        what: What<'_>,
        good_until: &mut Option<u64>,
        until: Instant,
        limit: Duration,
    ) -> Said {
        let mut stream = match self.streams.remove(addr) {
            Some(stream) => stream,
            None => match self.open(addr).await {
                Ok(stream) => stream,
                Err(why) => return Said::Gone(false, why),
            },
        };
        let table_id = shard.table_id;
        let body = match what {
            What::Write(op) => {
                let now_us = wall_us().saturating_add_signed(stream.ahead_us);
                let id = Some(self.name(good_until, now_us, until));
                Ask::Write(v1::Write { table_id, ops: vec![op.clone()], id })
            }
            What::Get(key) => {
                let key = Bytes::copy_from_slice(key.as_bytes());
                Ask::Get(v1::Get { table_id, key, ..v1::Get::default() })
            }
        };
        match timeout(limit, stream.ask(shard.id, shard.version, body)).await {
            // A stream that broke or was silent is not used again: its late answers go with it.
            Err(_) => Said::Gone(true, format!("{addr}: no answer")),
            Ok(Err(why)) => Said::Gone(true, format!("{addr}: {why}")),
            Ok(Ok(reply)) => {
                self.streams.insert(addr.to_owned(), stream);
                match reply {
                    Reply::Error(error) => Said::Refused(error),
                    reply => {
                        self.leaders.insert(shard.id, addr.to_owned());
                        Said::Reply(reply)
                    }
                }
            }
        }
    }

    async fn open(&mut self, addr: &str) -> Result<Stream, String> {
        let channel = connect(addr).await?;
        let (out, requests) = mpsc::channel(4);
        let opened = async {
            let opened = SynodClient::new(channel).session(ReceiverStream::new(requests)).await;
            let replies = opened.map_err(|s| s.message().to_owned())?.into_inner();
            let mut stream = Stream { out, replies, next: 1, ahead_us: 0 };
            let asked_us = wall_us();
            match stream.ask(0, 0, Ask::Clock(true)).await? {
                Reply::ClockUs(us) => {
                    let there = i64::try_from(us).map_err(|e| e.to_string())?;
                    stream.ahead_us = there - i64::try_from(asked_us).map_err(|e| e.to_string())?;
                    Ok(stream)
                }
                other => Err(format!("no time but {other:?}")),
            }
        };
        timeout(ATTEMPT, opened).await.unwrap_or_else(|_| Err(format!("{addr}: no session")))
    }
}

impl Stream {
    async fn ask(&mut self, shard: u64, version: u64, body: Ask) -> Result<Reply, String> {
        let id = self.next;
        self.next += 1;
        let request = v1::ShardRequest { id, shard, version, body: Some(body) };
        let frame = v1::ClientFrame { requests: vec![request] };
        self.out.send(frame).await.map_err(|_| "the stream is closed".to_owned())?;
        loop {
            let frame = self.replies.message().await.map_err(|status| status.message().to_owned())?;
            let frame = frame.ok_or("the node closed the stream")?;
            if let Some(reply) = frame.replies.into_iter().find(|reply| reply.id == id) {
                return reply.body.ok_or_else(|| "an empty answer".to_owned());
            }
        }
    }
}

fn operation(key: &str, wanted: &Wanted) -> v1::WriteOp {
    let (expect, op) = match wanted {
        Wanted::Delete => (None, v1::write_op::Op::Delete(v1::Delete {})),
        Wanted::Append { values, next } => {
            let record = |value: &String| v1::AppendRecord { headers: vec![], value: value.clone().into() };
            let records = values.iter().map(record).collect();
            let expect = next.map(|next| v1::Expect { kind: Some(v1::expect::Kind::NextOffset(next)) });
            (expect, v1::write_op::Op::Append(v1::Append { records }))
        }
    };
    v1::WriteOp { key: Bytes::copy_from_slice(key.as_bytes()), expect, op: Some(op) }
}

/// Whether the write that was refused so may have been executed, or may yet be.
fn may_have_been(error: &v1::Error) -> bool {
    match &error.kind {
        Some(Kind::NotLeader(why)) => why.maybe,
        // A node that knows only that it cannot answer says no more than that.
        None | Some(Kind::OutcomeUnknown(_) | Kind::Unavailable(_)) => true,
        _ => false,
    }
}

fn next(error: &v1::Error) -> Next {
    match &error.kind {
        Some(Kind::NotLeader(why)) if why.leader != 0 => Next::Node(why.leader),
        Some(Kind::NotLeader(_) | Kind::WrongShard(_) | Kind::Unavailable(_) | Kind::Quarantined(_)) | None => {
            Next::Another
        }
        // Under the same name it can be asked again; nobody calls it retryable who thinks of another name.
        Some(Kind::OutcomeUnknown(_)) => Next::Another,
        Some(Kind::Overloaded(why)) => Next::Same(Duration::from_millis(why.retry_after_ms.into())),
        Some(Kind::Changing(why)) => Next::Same(Duration::from_millis(why.retry_after_ms.into())),
        Some(Kind::DiskFull(_)) => Next::Same(PAUSE_MAX),
        _ => Next::End,
    }
}
