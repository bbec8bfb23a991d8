//! The way to one node: one session stream, kept open and opened again for as long as the link lives.
//!
//! Owns: a node's connection, its reconnecting, and the estimate of its clock. Must never: retry a request; a broken
//! stream fails what was on it, and the caller decides.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prost::Message;
use synod_proto::v1;
use synod_proto::v1::synod_client::SynodClient;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::clock::{Clock, local_us};
use crate::error::{Error, Result};
use crate::frames::{Answer, Ask, Frames, Outgoing, Waiting};
use crate::meant::{Meant, Stamp};
use crate::options::Options;

/// Largest message taken from or given to a node.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Bytes a node may send on a stream before it must wait, and on all of a connection's streams.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Pauses between attempts to reconnect.
const RECONNECT_MIN: Duration = Duration::from_millis(10);
const RECONNECT_MAX: Duration = Duration::from_millis(500);
/// The longest pause where the node has no permit for one more client.
const FULL_MAX: Duration = Duration::from_secs(5);

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

/// A task that ends with its owner.
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A random part between a half and the whole of `pause`, so that callers do not return all at once.
pub(crate) fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

/// A connection to `addr` (`host:port`), set up for this client.
pub(crate) async fn channel(addr: &str, options: &Options) -> Result<Channel> {
    let endpoint = endpoint(addr, options)?;
    let wait = options.connect_timeout;
    match timeout(wait, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(Error::unavailable(format!("{addr}: {}", root_cause(&error)))),
        Err(_) => Err(Error::unavailable(format!("{addr}: no connection within {} ms", wait.as_millis()))),
    }
}

/// Checks and prepares an address.
pub(crate) fn endpoint(addr: &str, options: &Options) -> Result<Endpoint> {
    let bad = |why: String| Error::invalid("endpoints", format!("{addr:?}: {why}"));
    let (scheme, authority) = addr.split_once("://").unwrap_or(("http", addr));
    if scheme.eq_ignore_ascii_case("https") {
        return Err(bad("there is no TLS yet; an endpoint is host:port".into()));
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(bad(format!("{scheme:?} is not a protocol that Synod speaks; an endpoint is host:port")));
    }
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if !authority.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return Err(bad("an endpoint is host:port".into()));
    }
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|e| bad(root_cause(&e)))?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true))
}

/// A client of the data service on `channel`.
pub(crate) fn service(channel: Meant) -> SynodClient<Meant> {
    SynodClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The deepest cause, which names what happened.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// One open session stream.
pub(crate) struct Conn {
    channel: Channel,
    queue: mpsc::Sender<Outgoing>,
    waiting: Arc<Waiting>,
    pub(crate) clock: Clock,
}

impl Conn {
    /// Sends a request and waits for its answer. Cancel-safe: a request whose caller left before it was sent is not sent.
    /// `sent` is set before the request can leave.
    pub(crate) async fn ask(
        &self,
        shard: u64,
        version: u64,
        body: Ask,
        sent: Option<Arc<AtomicBool>>,
    ) -> std::result::Result<Answer, Broken> {
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { shard, version, bytes: size(&body), body, reply, sent };
        let lost = || Broken("the connection was lost".into());
        match self.queue.try_send(outgoing) {
            Ok(()) => {}
            Err(TrySendError::Full(outgoing)) => Box::pin(self.queue.send(outgoing)).await.map_err(|_| lost())?,
            Err(TrySendError::Closed(_)) => return Err(lost()),
        }
        answer.await.map_err(|_| lost())
    }

    /// The connection that the stream is on.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whether the node has answered anything within this time.
    pub(crate) fn has_answered(&self, within: Duration) -> bool {
        self.waiting.has_answered(within)
    }
}

fn size(body: &Ask) -> usize {
    let len = match body {
        Ask::Write(m) => m.encoded_len(),
        Ask::Get(m) => m.encoded_len(),
        Ask::Read(m) => m.encoded_len(),
        Ask::Scan(m) => m.encoded_len(),
        Ask::Tail(m) => m.encoded_len(),
        Ask::Clock(_) => 2,
    };
    len + 32
}

#[derive(Clone, Debug)]
enum Phase {
    /// The first attempt is under way: callers wait for it.
    Connecting,
    Up,
    /// Callers are told so at once; the link goes on trying.
    Down(String),
}

/// The link to one node.
pub(crate) struct Link {
    addr: String,
    conn: Arc<ArcSwapOption<Conn>>,
    phase: watch::Receiver<Phase>,
    _task: Task,
}

impl Link {
    fn open(addr: String, options: Arc<Options>, stamp: Stamp) -> Link {
        let conn = Arc::new(ArcSwapOption::empty());
        let (phase_tx, phase) = watch::channel(Phase::Connecting);
        let task = Task::spawn(keep_open(addr.clone(), options, stamp, conn.clone(), phase_tx));
        Link { addr, conn, phase, _task: task }
    }

    /// The open stream, if there is one now.
    pub(crate) fn ready(&self) -> Option<Arc<Conn>> {
        self.conn.load_full()
    }

    /// The open stream. Waits only while the very first attempt is under way.
    pub(crate) async fn conn(&self) -> std::result::Result<Arc<Conn>, Broken> {
        let mut phase = self.phase.clone();
        loop {
            let now = phase.borrow_and_update().clone();
            match now {
                Phase::Connecting => {}
                Phase::Up => return self.conn.load_full().ok_or_else(|| Broken("the connection was lost".into())),
                Phase::Down(why) => return Err(Broken(why)),
            }
            if phase.changed().await.is_err() {
                return Err(Broken("the client is shutting down".into()));
            }
        }
    }
}

async fn keep_open(
    addr: String,
    options: Arc<Options>,
    stamp: Stamp,
    slot: Arc<ArcSwapOption<Conn>>,
    phase: watch::Sender<Phase>,
) {
    let mut pause = RECONNECT_MIN;
    loop {
        let unopened = match open(&addr, &options, &stamp).await {
            Ok((conn, inbound, waiting)) => {
                tracing::debug!(addr, "session open");
                let conn = Arc::new(conn);
                slot.store(Some(conn.clone()));
                phase.send_replace(Phase::Up);
                pause = RECONNECT_MIN;
                let why = serve(&conn, inbound, &waiting, options.clock_refresh).await;
                slot.store(None);
                phase.send_replace(Phase::Down(why.clone()));
                waiting.close();
                Unopened { why, longest: RECONNECT_MAX }
            }
            Err(unopened) => unopened,
        };
        let Unopened { why, longest } = unopened;
        tracing::debug!(addr, why, "session closed");
        phase.send_replace(Phase::Down(why));
        sleep(jitter(pause)).await;
        pause = (pause * 2).min(longest);
    }
}

type Opened = (Conn, Streaming<v1::ServerFrame>, Arc<Waiting>);

/// Why there is no session, and the longest pause before the next attempt.
struct Unopened {
    why: String,
    longest: Duration,
}

impl Unopened {
    fn new(addr: &str, why: impl std::fmt::Display) -> Unopened {
        Unopened { why: format!("{addr}: {why}"), longest: RECONNECT_MAX }
    }

    fn told(addr: &str, status: &tonic::Status) -> Unopened {
        let full = status.code() == tonic::Code::ResourceExhausted;
        let longest = if full { FULL_MAX } else { RECONNECT_MAX };
        Unopened { longest, ..Unopened::new(addr, status.message()) }
    }
}

/// Opens a session and waits until the node has told its time: only then is it known to answer. Before that the node has said
/// which cluster it belongs to, so that no request is sent to another's.
async fn open(addr: &str, options: &Options, stamp: &Stamp) -> std::result::Result<Opened, Unopened> {
    let unreached = |error: Error| Unopened { why: error.cause(), longest: RECONNECT_MAX };
    let channel = channel(addr, options).await.map_err(unreached)?;
    let (queue, requests) = mpsc::channel(options.max_queued_requests);
    let waiting = Arc::new(Waiting::default());
    let frames = Frames::new(requests, waiting.clone(), options.max_frame_requests, options.max_frame_bytes);
    let conn = Conn { channel: channel.clone(), queue, waiting: waiting.clone(), clock: Clock::default() };
    let mut asked = ask_clock(&conn).ok_or_else(|| Unopened::new(addr, "the queue is closed"))?;
    let greet = async {
        let session = service(stamp.on(channel)).session(frames).await;
        let answer = session.map_err(|s| Unopened::told(addr, &s))?;
        stamp.check(answer.metadata(), addr).map_err(|why| Unopened { why, longest: RECONNECT_MAX })?;
        let mut inbound = answer.into_inner();
        loop {
            let frame = inbound.message().await.map_err(|s| Unopened::told(addr, &s))?;
            let frame = frame.ok_or_else(|| Unopened::new(addr, "the node closed the stream"))?;
            waiting.answer(frame.replies);
            if let Ok(answer) = asked.1.try_recv() {
                take_clock(&conn, asked.0, &answer);
                return Ok::<_, Unopened>(inbound);
            }
        }
    };
    let wait = options.connect_timeout;
    let late = |_| Unopened::new(addr, format_args!("no session within {} ms", wait.as_millis()));
    let inbound = timeout(wait, greet).await.map_err(late)??;
    Ok((conn, inbound, waiting))
}

fn ask_clock(conn: &Conn) -> Option<(u64, oneshot::Receiver<Answer>)> {
    let (reply, answer) = oneshot::channel();
    let outgoing = Outgoing { shard: 0, version: 0, body: Ask::Clock(true), bytes: 34, reply, sent: None };
    conn.queue.try_send(outgoing).ok().map(|()| (local_us(), answer))
}

fn take_clock(conn: &Conn, asked_us: u64, answer: &Answer) {
    if let Answer::ClockUs(us) = answer {
        conn.clock.sample(asked_us, local_us(), *us);
    }
}

/// Hands out answers until the stream ends; says why it did.
async fn serve(conn: &Conn, mut inbound: Streaming<v1::ServerFrame>, waiting: &Waiting, refresh: Duration) -> String {
    let mut tick = interval_at(Instant::now() + refresh, refresh);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: Option<(u64, oneshot::Receiver<Answer>)> = None;
    loop {
        tokio::select! {
            frame = inbound.message() => match frame {
                Ok(Some(frame)) => waiting.answer(frame.replies),
                Ok(None) => return "the node closed the stream".into(),
                Err(status) => return format!("the connection was lost: {}", status.message()),
            },
            _ = tick.tick() => asked = ask_clock(conn),
            answer = async { match &mut asked { Some((_, answer)) => answer.await.ok(), None => std::future::pending().await } } => {
                if let (Some((asked_us, _)), Some(answer)) = (asked.take(), answer) {
                    take_clock(conn, asked_us, &answer);
                }
            }
        }
    }
}

/// The links to all nodes, opened when first wanted.
pub(crate) struct Links {
    options: Arc<Options>,
    stamp: OnceLock<Stamp>,
    open: RwLock<HashMap<u64, Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(options: Arc<Options>) -> Links {
        Links { options, stamp: OnceLock::new(), open: RwLock::default() }
    }

    /// The client's cluster is known from now on.
    pub(crate) fn belong_to(&self, cluster: &[u8]) {
        // A client has one cluster: its first map's.
        let _ = self.stamp.set(Stamp::of(cluster, self.options.operator));
    }

    /// What every call bears.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp.get().cloned().unwrap_or_else(|| Stamp::new(self.options.operator))
    }

    /// The link to a node, if it is open already.
    pub(crate) fn existing(&self, node: u64) -> Option<Arc<Link>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// The link to a node at this address.
    pub(crate) fn get(&self, node: u64, addr: &str) -> Arc<Link> {
        if let Some(link) = self.existing(node).filter(|l| l.addr == addr) {
            return link;
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = open.get(&node).filter(|l| l.addr == addr) {
            return link.clone();
        }
        let link = Arc::new(Link::open(addr.to_string(), self.options.clone(), self.stamp()));
        open.insert(node, link.clone());
        link
    }

    /// The connection to the node at this address, where its link is up.
    pub(crate) fn channel_at(&self, addr: &str) -> Option<Channel> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values().find(|link| link.addr == addr)?.ready().map(|conn| conn.channel())
    }

    /// Closes the links to nodes that left or moved.
    pub(crate) fn retain(&self, addr_of: impl Fn(u64) -> Option<String>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.retain(|node, link| addr_of(*node).as_deref() == Some(link.addr.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        let options = Options::default();
        for good in ["127.0.0.1:7401", "localhost:1", "http://h:80", "HTTP://h:80/", "[::1]:7401"] {
            assert!(endpoint(good, &options).is_ok(), "{good}");
        }
        for bad in
            ["", "localhost", ":7401", "h:99999", "h:", "a b:1", "https://h:1", "grpc://h:1", "http://h:1/x", "h:1/x"]
        {
            let error = endpoint(bad, &options).unwrap_err();
            assert_eq!(error.code(), "invalid_argument", "{bad}: {error}");
        }
        assert!(endpoint("https://h:1", &options).unwrap_err().to_string().contains("no TLS"));
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        for _ in 0..100 {
            let pause = jitter(Duration::from_millis(100));
            assert!((50..=100).contains(&pause.as_millis()), "{pause:?}");
        }
    }
}
