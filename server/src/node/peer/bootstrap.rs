//! How a data directory comes to belong to a cluster: a restart, a founding, or a join.
//!
//! Owns: the first minutes of a fresh data directory. Must never: found a cluster twice, take a place whose data may be
//! elsewhere, or look at `--bootstrap` and `--join` where the directory belongs to a cluster already.
//!
//! The order of writes: the founding list, then the identity, each synced; only then does this node call itself a member.
//! So a crash anywhere leaves either a fresh directory or one that knows its founders.

use super::addresses::is_address;
use super::bootstrap_error::BootstrapError;
use super::dial::dial_lazily;
use super::files;
use super::founding::{Round, Verdict, cluster_of, decide};
use super::identify::IdentifyService;
use crate::config::ServerConfig;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClientId, NodeId};
use synod_cluster::system::{SystemCommand, SystemState};
use synod_engine::logstore::{LogStore, NodeIdentity, NodeRecovered};
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{IdentifyReply, IdentifyRequest, JoinRequest};
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

/// Pause between rounds of questions.
const ROUND: Duration = Duration::from_millis(100);
/// How long an answer may take: a connection and a question, in two of the longest round trips, and as long again.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How long a join may take: it waits for the system shard.
const JOIN_WAIT: Duration = Duration::from_secs(5);
/// How long a node whose place is to be taken may be heard still: it has just ended, or its old process runs elsewhere.
const HEARD_WAIT: Duration = Duration::from_secs(15);
/// Who is waited for is said this often.
const SAY_EVERY: Duration = Duration::from_secs(3);

/// How a node came to belong where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It did before.
    Restarted,
    /// It founded the cluster just now, as the first of its list.
    Founded,
    /// It is another founder of the cluster just founded.
    Adopted,
    /// It joined.
    Joined,
}

/// Where a node belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belonging {
    /// Cluster and node, durable in the log store.
    pub identity: NodeIdentity,
    /// The founding list, node 1 first; empty for a node that joined later.
    pub founders: Vec<String>,
    /// Since when.
    pub how: How,
}

/// Finds out where this node belongs, waiting for other nodes as long as it takes. The caller's server already serves
/// `identify` while this waits. From the return on, and a little before, `identify` answers as a member.
///
/// # Errors
/// Why the node must not begin; nothing was written then, save a joiner's nonce.
pub async fn settle(
    config: &ServerConfig,
    log: &dyn LogStore,
    recovered: &NodeRecovered,
    identify: &IdentifyService,
) -> Result<Belonging, BootstrapError> {
    let dir = &config.data_dir;
    if let Some(identity) = recovered.identity.clone() {
        let founders = files::read_founders(dir, identity.cluster.0)?;
        check_directory(config, &identity, &founders)?;
        identify.member(&identity, &founders);
        return Ok(Belonging { identity, founders, how: How::Restarted });
    }
    let belonging = match (config.bootstrap.is_empty(), config.join.is_empty()) {
        (true, true) => return Err(BootstrapError::NeitherFlag { dir: dir.display().to_string() }),
        (false, false) => return Err(BootstrapError::BothFlags),
        (false, true) => found(config, log, identify).await?,
        (true, false) => join(config, log, identify).await?,
    };
    identify.member(&belonging.identity, &belonging.founders);
    Ok(belonging)
}

/// A directory that the flags take for another cluster's or another node's is not started: as itself it would answer at the
/// wrong address.
fn check_directory(config: &ServerConfig, identity: &NodeIdentity, founders: &[String]) -> Result<(), BootstrapError> {
    if config.replace == Some(identity.node.0) {
        let dir = config.data_dir.display().to_string();
        return Err(BootstrapError::ReplacesItself { dir, node: identity.node.0 });
    }
    if config.bootstrap.is_empty() || founders.is_empty() {
        return Ok(());
    }
    let (cluster, node) = (identity.cluster.0, identity.node.0);
    let dir = config.data_dir.display().to_string();
    if config.bootstrap != founders {
        let (founders, list) = (founders.to_vec(), config.bootstrap.clone());
        return Err(BootstrapError::OtherList { dir, cluster, node, founders, list });
    }
    let own = usize::try_from(node).ok().and_then(|n| founders.get(n.checked_sub(1)?));
    let addr = config.advertised();
    match own {
        Some(own) if *own != addr => Err(BootstrapError::OtherNode { dir, cluster, node, own: own.clone(), addr }),
        _ => Ok(()),
    }
}

/// The change to propose where a node came back under another address than the map has.
#[must_use]
pub fn address_change(map: &SystemState, node: NodeId, advertised: &str) -> Option<SystemCommand> {
    let known = map.nodes.get(&node)?;
    (known.addr != advertised).then(|| SystemCommand::SetAddr { node, addr: advertised.to_owned() })
}

fn check_address(flag: &'static str, addr: &str) -> Result<(), BootstrapError> {
    if is_address(addr) {
        return Ok(());
    }
    Err(BootstrapError::BadAddress { flag, addr: addr.to_owned() })
}

/// Checks the list; returns this node's place in it.
fn place_in_list(list: &[String], addr: &str) -> Result<usize, BootstrapError> {
    let mut seen = BTreeSet::new();
    for founder in list {
        check_address("--bootstrap", founder)?;
        if !seen.insert(founder) {
            return Err(BootstrapError::Duplicate { addr: founder.clone() });
        }
    }
    list.iter()
        .position(|founder| founder == addr)
        .ok_or_else(|| BootstrapError::NotInList { addr: addr.to_owned(), list: list.to_vec() })
}

/// Says who is waited for, not too often.
struct Patience {
    said: Instant,
}

impl Patience {
    fn new() -> Self {
        Self { said: Instant::now() }
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            tracing::info!("{}", what());
        }
    }
}

async fn found(
    config: &ServerConfig,
    log: &dyn LogStore,
    identify: &IdentifyService,
) -> Result<Belonging, BootstrapError> {
    let list = &config.bootstrap;
    let addr = config.advertised();
    let index = place_in_list(list, &addr)?;
    let nonce = rand::random::<u64>() | 1;
    identify.fresh(list, nonce);
    let request = IdentifyRequest { addr: addr.clone(), bootstrap: list.clone(), nonce };
    let others: Vec<(&str, Channel)> = list
        .iter()
        .filter(|founder| **founder != addr)
        .map(|founder| match dial_lazily(founder) {
            Ok(channel) => Ok((founder.as_str(), channel)),
            Err(_) => Err(BootstrapError::BadAddress { flag: "--bootstrap", addr: founder.clone() }),
        })
        .collect::<Result<_, _>>()?;
    let mut patience = Patience::new();
    let (cluster, how) = loop {
        let questions = others.iter().map(|(peer, channel)| ask(peer, channel.clone(), &request));
        let round: Round<'_> = futures::future::try_join_all(questions).await?;
        match decide(list, index, &round)? {
            Verdict::Found => break (rand::random::<u128>(), How::Founded),
            Verdict::Adopt(cluster) => break (cluster, How::Adopted),
            Verdict::Wait(missing) => patience.say(|| format!("waiting for founders {}", missing.join(", "))),
        }
        sleep(ROUND).await;
    };
    let identity = NodeIdentity { cluster: ClientId(cluster), node: NodeId(index as u64 + 1) };
    files::write_founders(&config.data_dir, cluster, list)?;
    log.set_identity(&identity)?;
    tracing::info!(cluster = format!("{cluster:032x}"), node = %identity.node, ?how, "belongs to a cluster");
    Ok(Belonging { identity, founders: list.clone(), how })
}

/// Asks one founder; `None` where it does not answer (yet).
async fn ask<'a>(
    peer: &'a str,
    channel: Channel,
    request: &IdentifyRequest,
) -> Result<(&'a str, Option<IdentifyReply>), BootstrapError> {
    let mut client = PeerClient::new(channel);
    match timeout(ANSWER_WAIT, client.identify(request.clone())).await {
        Ok(Ok(reply)) => Ok((peer, Some(reply.into_inner()))),
        Ok(Err(status)) if status.code() == Code::AlreadyExists => {
            Err(BootstrapError::SameProcess { peer: peer.to_owned(), addr: request.addr.clone() })
        }
        Ok(Err(status)) => {
            tracing::debug!(peer, "no answer: {}", status.message());
            Ok((peer, None))
        }
        Err(_) => Ok((peer, None)),
    }
}

async fn join(
    config: &ServerConfig,
    log: &dyn LogStore,
    identify: &IdentifyService,
) -> Result<Belonging, BootstrapError> {
    let addr = config.advertised();
    let mut seeds = Vec::new();
    for seed in config.join.iter().filter(|seed| **seed != addr) {
        check_address("--join", seed)?;
        let channel =
            dial_lazily(seed).map_err(|_| BootstrapError::BadAddress { flag: "--join", addr: seed.clone() })?;
        seeds.push((seed.as_str(), channel));
    }
    if seeds.is_empty() {
        return Err(BootstrapError::JoinSelf { addr });
    }
    let nonce = files::join_nonce(&config.data_dir)?;
    identify.fresh(&[], rand::random::<u64>() | 1);
    let speaks = config.settings.cluster.speaks().0;
    let replaces = config.replace.unwrap_or(0);
    let request = JoinRequest { addr, nonce: nonce.to_vec().into(), speaks, replaces };
    let mut patience = Patience::new();
    let mut heard: Option<Instant> = None;
    loop {
        for (peer, channel) in &seeds {
            let mut client = PeerClient::new(channel.clone());
            let why = match timeout(JOIN_WAIT, client.join(request.clone())).await {
                Ok(Ok(reply)) => {
                    let reply = reply.into_inner();
                    let cluster = cluster_of(peer, &reply.cluster)?;
                    if reply.node == 0 {
                        return Err(BootstrapError::Nonsense { peer: (*peer).to_owned(), why: "node id 0".into() });
                    }
                    let identity = NodeIdentity { cluster: ClientId(cluster), node: NodeId(reply.node) };
                    log.set_identity(&identity)?;
                    files::forget_join(&config.data_dir);
                    if reply.replaces != replaces {
                        let how = format!("`synod node decommission {replaces}` empties and removes it");
                        tracing::warn!(
                            peer,
                            replaces,
                            "the node asked to join replaces nobody, its binary is older: {how}"
                        );
                    }
                    tracing::info!(cluster = format!("{cluster:032x}"), node = %identity.node, "joined a cluster");
                    return Ok(Belonging { identity, founders: Vec::new(), how: How::Joined });
                }
                // The node whose place is to be taken is heard. That passes where it has just ended.
                Ok(Err(status)) if replaces != 0 && status.code() == Code::FailedPrecondition => {
                    let why = status.message().to_owned();
                    if heard.get_or_insert_with(Instant::now).elapsed() > HEARD_WAIT {
                        return Err(BootstrapError::JoinRefused { peer: (*peer).to_owned(), why });
                    }
                    why
                }
                Ok(Err(status)) => match status.code() {
                    Code::InvalidArgument | Code::AlreadyExists => {
                        let why = status.message().to_owned();
                        return Err(BootstrapError::JoinRefused { peer: (*peer).to_owned(), why });
                    }
                    _ => status.message().to_owned(),
                },
                Err(_) => format!("no answer within {JOIN_WAIT:?}"),
            };
            patience.say(|| format!("waiting to join at {}; {peer}: {why}", config.join.join(", ")));
        }
        sleep(ROUND).await;
    }
}
