//! The shard map, kept up to date.
//!
//! Owns: the newest map seen, what nodes said of their shards beyond it, and the task that watches for the next map on whichever
//! node answers. Must never: go back to an older revision, take the map of another cluster, or connect to a node anew for each
//! question.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use synod_proto::parts::MapParts;
use synod_proto::v1;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::Channel;

use crate::error::{Error, Result, of_status};
use crate::link::{Links, channel, endpoint, jitter, root_cause, service};
use crate::meant::{Meant, Stamp, belongs_elsewhere, check_map, hex};
use crate::options::Options;
use crate::router::MapView;

/// The pause after a refresh before the next one.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);

/// How long a refresh waits for further nodes once one has answered.
const REFRESH_PATIENCE: Duration = Duration::from_millis(300);

/// The newest map and how to get a newer one.
pub(crate) struct Maps {
    options: Arc<Options>,
    endpoints: Vec<String>,
    links: Arc<Links>,
    view: ArcSwap<MapView>,
    revision: watch::Sender<u64>,
    nudge: Notify,
    /// Connections to nodes that no link of this client leads to.
    dialled: Mutex<HashMap<String, Channel>>,
    /// A delta did not fit: the next watch begins with a whole map.
    ask_whole: AtomicBool,
    /// The refreshes begun so far.
    begun: AtomicU64,
    /// Held by the refresh under way: the number of the last one, and what became of it.
    last: tokio::sync::Mutex<(u64, Result<()>)>,
}

impl Maps {
    /// Gets the first map from whichever endpoint answers first; goes on asking until `deadline`.
    pub(crate) async fn connect(
        endpoints: Vec<String>,
        options: Arc<Options>,
        links: Arc<Links>,
        deadline: Instant,
    ) -> Result<Maps> {
        if endpoints.is_empty() {
            return Err(Error::invalid("endpoints", "at least 1 endpoint is needed"));
        }
        for addr in &endpoints {
            endpoint(addr, &options)?;
        }
        let mut last = Unheard::broken(Error::unavailable("no endpoint answered in time"));
        let first = async {
            loop {
                let mut asked: FuturesUnordered<_> = endpoints.iter().map(|addr| fetch_from(addr, &options)).collect();
                while let Some((answer, addr)) = asked.next().await {
                    match answer.and_then(|map| expected(map, addr, &options)) {
                        Ok(map) => return (map, addr.to_owned()),
                        // What a node said outweighs a connection that broke: a full node closes those too many.
                        Err(unheard) if unheard.told || !last.told => last = unheard,
                        Err(_) => {}
                    }
                }
                sleep(jitter(Duration::from_millis(200))).await;
            }
        };
        let first = timeout_at(deadline, first).await;
        let Ok((first, from)) = first else {
            let why = format!("no shard map from {}: {}", endpoints.join(", "), last.error.cause());
            return Err(Error::unavailable(why));
        };
        links.belong_to(&first.cluster);
        of_one_cluster(&endpoints, &first, &from, &options).await?;
        let view = MapView::build(first, None);
        let revision = watch::Sender::new(view.public.revision);
        Ok(Maps {
            options,
            endpoints,
            links,
            view: ArcSwap::from_pointee(view),
            revision,
            nudge: Notify::new(),
            dialled: Mutex::default(),
            ask_whole: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            last: tokio::sync::Mutex::new((0, Ok(()))),
        })
    }

    pub(crate) fn view(&self) -> Arc<MapView> {
        self.view.load_full()
    }

    /// Takes what a node said of shards of a table: they count until a map has them, or something newer.
    pub(crate) fn hint(&self, table: &str, said: &[v1::Shard]) {
        self.view.rcu(|current| current.with_hints(table, said).map_or_else(|| current.clone(), Arc::new));
    }

    /// Asks for a newer map soon, without waiting.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits until `ready` holds of the map.
    pub(crate) async fn until(&self, ready: impl Fn(&MapView) -> bool) {
        let mut revision = self.revision.subscribe();
        while !ready(&self.view()) {
            if revision.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks all nodes with a replica of the system shard for their newest map and takes the newest: its leader is one of
    /// them, so what was answered to anybody before this is in it. Where none of them answers, any node will do. Callers that
    /// come while others are being answered share the next round of questions.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let asked = self.begun.load(Ordering::Acquire);
        let mut last = self.last.lock().await;
        if last.0 > asked {
            return last.1.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let outcome = self.ask_keepers().await;
        *last = (number, outcome.clone());
        outcome
    }

    async fn ask_keepers(&self) -> Result<()> {
        let keepers = self.keepers();
        let fetch_one = |addr: String| async move { (self.fetch(&addr).await, addr) };
        let mut asked: FuturesUnordered<_> = keepers.into_iter().map(fetch_one).collect();
        let mut patience: Option<Instant> = None;
        loop {
            let answer = match patience {
                None => asked.next().await,
                // One that hangs must not hold up a call for long.
                Some(until) => timeout_at(until, asked.next()).await.unwrap_or(None),
            };
            let Some((answer, addr)) = answer else { break };
            if answer.and_then(|map| self.adopt(map, &addr)).is_ok() {
                patience.get_or_insert_with(|| Instant::now() + REFRESH_PATIENCE);
            }
        }
        if patience.is_some() { Ok(()) } else { self.refresh_from_any().await }
    }

    /// The addresses of the nodes with a replica of the system shard, as far as the map tells.
    fn keepers(&self) -> Vec<String> {
        let view = self.view();
        // Shards are in the order of their tables.
        let system = view.public.shards.iter().take_while(|shard| shard.table_id == 0);
        system.flat_map(|shard| &shard.voters).filter_map(|node| view.addr(*node).map(str::to_owned)).collect()
    }

    /// Asks nodes, in random order, until one has given its newest map.
    async fn refresh_from_any(&self) -> Result<()> {
        let mut addrs = self.candidates();
        let first = random_below(addrs.len());
        addrs.rotate_left(first);
        let mut last = Error::unavailable("no node is known");
        for addr in addrs {
            match self.fetch(&addr).await.and_then(|map| self.adopt(map, &addr)) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Nodes of the map first, then endpoints that are none of them.
    fn candidates(&self) -> Vec<String> {
        let view = self.view();
        let mut out: Vec<String> = view.public.nodes.iter().map(|n| n.addr.clone()).collect();
        out.extend(self.endpoints.iter().filter(|e| !view.public.nodes.iter().any(|n| n.addr == **e)).cloned());
        out
    }

    fn adopt(&self, map: v1::ShardMap, from: &str) -> Result<()> {
        let current = self.view();
        check_map(&map.cluster, &current.public.cluster, from).map_err(Error::unavailable)?;
        let (mut adopted, mut gap) = (false, false);
        self.view.rcu(|current| {
            let newer = map.revision > current.public.revision;
            let next = match map.since {
                _ if !newer => None,
                0 => Some(MapView::build(map.clone(), Some(current))),
                _ => current.with_delta(&map),
            };
            (adopted, gap) = (next.is_some(), newer && next.is_none());
            next.map_or_else(|| current.clone(), Arc::new)
        });
        if gap {
            self.ask_whole.store(true, Ordering::Relaxed);
            let (since, known) = (map.since, self.view().public.revision);
            let why =
                format!("{from} sent changes from revision {since}, which do not fit the map of revision {known}");
            return Err(Error::unavailable(why));
        }
        if adopted {
            let view = self.view();
            self.links.retain(|node| view.addr(node).map(str::to_string));
            let known = |addr: &String| view.public.nodes.iter().any(|node| node.addr == *addr);
            self.dialled().retain(|addr, _| known(addr) || self.endpoints.contains(addr));
            self.revision.send_replace(view.public.revision);
        }
        Ok(())
    }

    /// Keeps the map up to date for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        let watching = async {
            let mut turn = random_below(self.candidates().len());
            let mut pause = self.options.backoff_min;
            loop {
                let addrs = self.candidates();
                let addr = &addrs[turn % addrs.len()];
                turn += 1;
                let error = self.follow(addr, &mut pause).await;
                tracing::debug!(addr, %error, "map watch ended");
                sleep(jitter(pause)).await;
                pause = (pause * 2).min(self.options.backoff_max);
            }
        };
        let refreshing = async {
            let mut pause = REFRESH_PAUSE;
            loop {
                self.nudge.notified().await;
                pause = match self.refresh().await {
                    Ok(()) => REFRESH_PAUSE,
                    Err(error) => {
                        tracing::debug!(%error, "map refresh failed");
                        (pause * 2).min(self.options.backoff_max.max(REFRESH_PAUSE))
                    }
                };
                sleep(jitter(pause)).await;
            }
        };
        futures::future::join::<_, _>(watching, refreshing).await;
    }

    /// Takes maps from one node until its stream ends; says why it did.
    async fn follow(&self, addr: &str, pause: &mut Duration) -> Error {
        let request = {
            let view = self.view();
            let digest = if self.ask_whole.swap(false, Ordering::Relaxed) { 0 } else { view.digest };
            v1::WatchMapRequest { from_revision: view.public.revision, deltas: true, digest }
        };
        let opened = async {
            let mut service = service(self.links.stamp().on(self.channel(addr).await?));
            let stream = service.watch_map(request).await;
            stream.map(tonic::Response::into_inner).map_err(|s| of_status(&s))
        };
        let opened = match timeout(self.options.connect_timeout * 2, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::unavailable(format!("{addr} did not answer in time"))),
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                self.dialled().remove(addr);
                return error;
            }
        };
        *pause = self.options.backoff_min;
        let mut parts = MapParts::default();
        loop {
            match stream.message().await {
                Ok(Some(part)) => {
                    let adopted = parts.take(part).map_or(Ok(()), |map| self.adopt(map, addr));
                    if let Err(error) = adopted {
                        return error;
                    }
                }
                Ok(None) => return Error::unavailable(format!("{addr} closed the stream")),
                Err(status) => return of_status(&status),
            }
        }
    }
}

impl Maps {
    fn dialled(&self) -> std::sync::MutexGuard<'_, HashMap<String, Channel>> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a node that there is: of its link, or one that was dialled for maps.
    fn existing_channel(&self, addr: &str) -> Option<Channel> {
        let linked = self.links.channel_at(addr);
        let mut dialled = self.dialled();
        if linked.is_some() {
            dialled.remove(addr);
            return linked;
        }
        dialled.get(addr).cloned()
    }

    /// The connection to a node, made where there is none.
    async fn channel(&self, addr: &str) -> Result<Channel> {
        if let Some(channel) = self.existing_channel(addr) {
            return Ok(channel);
        }
        let channel = channel(addr, &self.options).await?;
        self.dialled().insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }

    /// The newest map of one node.
    async fn fetch(&self, addr: &str) -> Result<v1::ShardMap> {
        if let Some(channel) = self.existing_channel(addr) {
            match ask_map(self.links.stamp().on(channel), addr, self.options.connect_timeout).await {
                Ok(map) => return Ok(map),
                // It may have broken just now.
                Err(_) => drop(self.dialled().remove(addr)),
            }
        }
        let channel = channel(addr, &self.options).await?;
        let asked = self.links.stamp().on(channel.clone());
        let map = ask_map(asked, addr, self.options.connect_timeout).await.map_err(|unheard| unheard.error)?;
        if self.links.channel_at(addr).is_none() {
            self.dialled().insert(addr.to_owned(), channel);
        }
        Ok(map)
    }
}

fn random_below(n: usize) -> usize {
    if n == 0 { 0 } else { rand::random::<u64>() as usize % n }
}

/// The map of a node that may belong to any cluster.
async fn fetch_from<'a>(addr: &'a str, options: &Options) -> (Answered<v1::ShardMap>, &'a str) {
    (first_map(addr, options).await, addr)
}

/// Why there is no map of a node.
struct Unheard {
    error: Error,
    /// The node itself said so.
    told: bool,
}

type Answered<T> = std::result::Result<T, Unheard>;

impl Unheard {
    fn broken(error: Error) -> Unheard {
        Unheard { error, told: false }
    }

    fn of(addr: &str, status: &tonic::Status) -> Unheard {
        // What a node says comes without a source.
        match std::error::Error::source(status) {
            None => Unheard { error: of_status(status), told: true },
            Some(cause) => {
                let why = format!("{addr}: the connection ended before the node answered: {}", root_cause(cause));
                Unheard::broken(Error::unavailable(why))
            }
        }
    }
}

/// The map, where it is of the cluster that the options name.
fn expected(map: v1::ShardMap, addr: &str, options: &Options) -> Answered<v1::ShardMap> {
    match options.cluster {
        Some(ours) if map.cluster != ours[..] => {
            let error = Error::unavailable(belongs_elsewhere(addr, &hex(&map.cluster), &hex(&ours)));
            Err(Unheard { error, told: true })
        }
        _ => Ok(map),
    }
}

/// Refuses endpoints of two clusters in one list: which of them answers first must not decide where records go. An endpoint that
/// the map names is a node of its cluster; the others are asked, for a moment.
async fn of_one_cluster(endpoints: &[String], map: &v1::ShardMap, from: &str, options: &Options) -> Result<()> {
    let unnamed = |addr: &&String| **addr != from && !map.nodes.iter().any(|node| node.addr == **addr);
    let mut asked: FuturesUnordered<_> =
        endpoints.iter().filter(unnamed).map(|addr| fetch_from(addr, options)).collect();
    let until = Instant::now() + REFRESH_PATIENCE;
    while let Ok(Some((answer, addr))) = timeout_at(until, asked.next()).await {
        if let Ok(other) = answer
            && other.cluster != map.cluster
        {
            let (ours, theirs) = (hex(&map.cluster), hex(&other.cluster));
            let why =
                format!("{from} belongs to cluster {ours}, {addr} to cluster {theirs}; name nodes of one cluster");
            return Err(Error::invalid("endpoints", why));
        }
    }
    Ok(())
}

/// The map of an endpoint, on a connection of its own.
async fn first_map(addr: &str, options: &Options) -> Answered<v1::ShardMap> {
    let channel = channel(addr, options).await.map_err(Unheard::broken)?;
    ask_map(Stamp::new(options.operator).on(channel), addr, options.connect_timeout).await
}

/// The newest map of the node at the end of a connection.
async fn ask_map(channel: Meant, addr: &str, wait: Duration) -> Answered<v1::ShardMap> {
    let ask = async {
        let request = v1::WatchMapRequest { deltas: true, ..v1::WatchMapRequest::default() };
        let stream = service(channel).watch_map(request).await.map_err(|s| Unheard::of(addr, &s))?;
        let (mut stream, mut parts) = (stream.into_inner(), MapParts::default());
        let none = || Unheard::broken(Error::unavailable(format!("{addr} gave no map")));
        loop {
            let part = stream.message().await.map_err(|s| Unheard::of(addr, &s))?.ok_or_else(none)?;
            if let Some(map) = parts.take(part) {
                break Ok::<_, Unheard>(map);
            }
        }
    };
    let late = || Unheard::broken(Error::unavailable(format!("{addr}: no map within {} ms", wait.as_millis())));
    timeout(wait, ask).await.map_err(|_| late())?
}
