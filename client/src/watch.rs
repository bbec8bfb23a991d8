//! The shard map, kept up to date.
//!
//! Owns: the newest map seen and the task that watches for the next one on whichever node answers. Must never: go back to
//! an older revision, or take the map of another cluster.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use synod_proto::v1;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::error::{Error, Result};
use crate::link::{Links, channel, endpoint, jitter, service};
use crate::meant::{Stamp, belongs_elsewhere, check_map, hex};
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
        let mut last = String::from("no endpoint answered in time");
        let first = async {
            loop {
                let mut asked: FuturesUnordered<_> = endpoints.iter().map(|addr| fetch_from(addr, &options)).collect();
                while let Some((answer, addr)) = asked.next().await {
                    match answer.and_then(|map| expected(map, addr, &options)) {
                        Ok(map) => return (map, addr.to_owned()),
                        Err(error) => last = error.cause(),
                    }
                }
                sleep(jitter(Duration::from_millis(200))).await;
            }
        };
        let first = timeout_at(deadline, first).await;
        let Ok((first, from)) = first else {
            let why = format!("no shard map from {}: {last}", endpoints.join(", "));
            return Err(Error::unavailable(why));
        };
        links.belong_to(&first.cluster);
        of_one_cluster(&endpoints, &first, &from, &options).await?;
        let view = MapView::build(first, None);
        let revision = watch::Sender::new(view.public.revision);
        Ok(Maps { options, endpoints, links, view: ArcSwap::from_pointee(view), revision, nudge: Notify::new() })
    }

    pub(crate) fn view(&self) -> Arc<MapView> {
        self.view.load_full()
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
    /// them, so what was answered to anybody before this is in it. Where none of them answers, any node will do.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let keepers = self.keepers();
        let stamp = &self.links.stamp();
        let fetch_one = |addr: String| async move { (fetch(&addr, &self.options, stamp).await, addr) };
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
        let system = view.public.shards.iter().filter(|shard| shard.table_id == 0);
        system.flat_map(|shard| &shard.voters).filter_map(|node| view.addr(*node).map(str::to_owned)).collect()
    }

    /// Asks nodes, in random order, until one has given its newest map.
    async fn refresh_from_any(&self) -> Result<()> {
        let mut addrs = self.candidates();
        let first = random_below(addrs.len());
        addrs.rotate_left(first);
        let mut last = Error::unavailable("no node is known");
        for addr in addrs {
            match fetch(&addr, &self.options, &self.links.stamp()).await.and_then(|map| self.adopt(map, &addr)) {
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
        let mut adopted = false;
        self.view.rcu(|current| {
            adopted = map.revision > current.public.revision;
            if adopted { Arc::new(MapView::build(map.clone(), Some(current))) } else { current.clone() }
        });
        if adopted {
            let view = self.view();
            self.links.retain(|node| view.addr(node).map(str::to_string));
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
            loop {
                self.nudge.notified().await;
                if let Err(error) = self.refresh().await {
                    tracing::debug!(%error, "map refresh failed");
                }
                sleep(REFRESH_PAUSE).await;
            }
        };
        futures::future::join::<_, _>(watching, refreshing).await;
    }

    /// Takes maps from one node until its stream ends; says why it did.
    async fn follow(&self, addr: &str, pause: &mut Duration) -> Error {
        let from_revision = self.view().public.revision;
        let opened = async {
            let mut service = service(self.links.stamp().on(channel(addr, &self.options).await?));
            let stream = service.watch_map(v1::WatchMapRequest { from_revision }).await;
            stream.map(tonic::Response::into_inner).map_err(|s| Error::from_status(&s))
        };
        let opened = match timeout(self.options.connect_timeout * 2, opened).await {
            Ok(opened) => opened,
            Err(_) => return Error::unavailable(format!("{addr} did not answer in time")),
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        *pause = self.options.backoff_min;
        loop {
            match stream.message().await {
                Ok(Some(map)) => {
                    if let Err(error) = self.adopt(map, addr) {
                        return error;
                    }
                }
                Ok(None) => return Error::unavailable(format!("{addr} closed the stream")),
                Err(status) => return Error::from_status(&status),
            }
        }
    }
}

fn random_below(n: usize) -> usize {
    if n == 0 { 0 } else { rand::random::<u64>() as usize % n }
}

/// The map of a node that may belong to any cluster.
async fn fetch_from<'a>(addr: &'a str, options: &Options) -> (Result<v1::ShardMap>, &'a str) {
    (fetch(addr, options, &Stamp::default()).await, addr)
}

/// The map, where it is of the cluster that the options name.
fn expected(map: v1::ShardMap, addr: &str, options: &Options) -> Result<v1::ShardMap> {
    match options.cluster {
        Some(ours) if map.cluster != ours[..] => {
            Err(Error::unavailable(belongs_elsewhere(addr, &hex(&map.cluster), &hex(&ours))))
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

/// The newest map of one node.
async fn fetch(addr: &str, options: &Options, stamp: &Stamp) -> Result<v1::ShardMap> {
    let ask = async {
        let mut service = service(stamp.on(channel(addr, options).await?));
        let mut stream = service
            .watch_map(v1::WatchMapRequest { from_revision: 0 })
            .await
            .map_err(|s| Error::from_status(&s))?
            .into_inner();
        let map = stream.message().await.map_err(|s| Error::from_status(&s))?;
        map.ok_or_else(|| Error::unavailable(format!("{addr} gave no map")))
    };
    let wait = options.connect_timeout * 2;
    timeout(wait, ask)
        .await
        .map_err(|_| Error::unavailable(format!("{addr}: no map within {} ms", wait.as_millis())))?
}
