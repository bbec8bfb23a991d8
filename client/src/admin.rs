//! Calls about the cluster itself: tables, nodes, leadership.
//!
//! Owns: the unary calls of the admin service, and how each ends: done, refused, or with an outcome that nobody knows. Must
//! never: report a change as refused that may have been, or may yet be, carried out.
//!
//! A change of the metadata has a name, as a write has: sent again to the next node it is carried out at most once. The other
//! calls may be repeated as they are.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use synod_cluster::position::key_hash;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::call::leader_of;
use crate::client::Client;
use crate::error::{Error, Result, of_status, unexpected};
use crate::limits::{check_key, check_table, check_table_name};
use crate::link::{Broken, MAX_MESSAGE_BYTES, channel, jitter};
use crate::meant::Meant;
use crate::router::{Place, table_info};
use crate::types::{Explain, MemberChange, NodeInfo, NodeReport, PartitionKind, TableInfo, TableSpec};
use crate::wire;
use synod_cluster::decide::Refused;
use synod_cluster::decide::renewal;
use synod_cluster::system::CLUSTER_VERSION;

/// How long one node is waited for, with the call's deadline further away: the call is safe to repeat.
const ATTEMPT: Duration = Duration::from_secs(4);

impl Client {
    /// Creates a table; returns once this client's map has it.
    pub async fn create_table(&self, spec: TableSpec) -> Result<TableInfo> {
        check_table(&spec)?;
        let request = wire::create_table(spec);
        let deadline = self.caller.deadline();
        let mut unsure = false;
        let created = self.change(deadline, &mut unsure, |channel, id| {
            let request = v1::CreateTableRequest { id: Some(id), ..request.clone() };
            async move { AdminClient::new(channel).create_table(request).await }
        });
        let created = match created.await {
            Ok(created) => table_info(&created).ok_or_else(unexpected)?,
            // A node of an earlier version does not look at the change's name: an earlier attempt without an answer may have
            // made the table; then it looks as asked for.
            Err(error @ Error::TableExists { .. }) if unsure => {
                let there = match self.refresh_map().await {
                    Ok(_) => self.table(&request.name).await,
                    Err(why) => Err(why),
                };
                match there {
                    Ok(there) if looks_like(&there, &request) => there,
                    Ok(_) => return Err(error),
                    Err(why) => return Err(Error::OutcomeUnknown { cause: why.cause() }),
                }
            }
            Err(error) => return Err(error),
        };
        let there =
            self.caller.core.maps.until(|view| view.table(&created.name).is_some_and(|t| t.info.id == created.id));
        if timeout(Duration::from_millis(500), there).await.is_err() {
            // The table is made whether or not the map has come round yet.
            let _ = self.refresh_map().await;
        }
        let there =
            self.caller.core.maps.until(|view| view.table(&created.name).is_some_and(|t| t.info.id == created.id));
        match timeout_at(deadline, there).await {
            Ok(()) => Ok(self.table(&created.name).await.unwrap_or(created)),
            Err(_) => Ok(created),
        }
    }

    /// Drops a table and everything in it; returns once this client's map is without it.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        check_table_name(name)?;
        let deadline = self.caller.deadline();
        let old = self.caller.core.maps.view().table(name).map(|t| t.info.id);
        let mut unsure = false;
        let dropped = self.change(deadline, &mut unsure, |channel, id| {
            let request = v1::DropTableRequest { name: name.into(), id: Some(id) };
            async move { AdminClient::new(channel).drop_table(request).await }
        });
        match dropped.await {
            Ok(_) => {}
            // An earlier attempt without an answer dropped it.
            Err(Error::TableNotFound { .. }) if unsure => {}
            Err(error) => return Err(error),
        }
        let gone = self.caller.core.maps.until(|view| view.table(name).is_none_or(|t| Some(t.info.id) != old));
        // The table is gone whether or not the map has come round yet.
        let _ = timeout_at(deadline, gone).await;
        Ok(())
    }

    /// What every node of the map says of itself; a node that does not answer is reported as such.
    pub async fn status(&self) -> Vec<NodeReport> {
        let deadline = self.caller.deadline().min(Instant::now() + 2 * self.caller.core.options.connect_timeout);
        let map = self.map();
        let ask = |node: &NodeInfo| {
            let NodeInfo { id, addr, .. } = node.clone();
            async move {
                let answer = async {
                    let channel = channel(&addr, &self.caller.core.options).await?;
                    let reply = AdminClient::new(self.caller.core.links.stamp().on(channel))
                        .max_decoding_message_size(MAX_MESSAGE_BYTES)
                        .node_status(v1::NodeStatusRequest {})
                        .await;
                    reply.map(tonic::Response::into_inner).map_err(|s| of_status(&s))
                };
                let answer = timeout_at(deadline, answer).await;
                let status =
                    answer.unwrap_or_else(|_| Err(Error::unavailable(format!("{addr} did not answer in time"))));
                NodeReport { id, addr, status }
            }
        };
        futures::future::join_all(map.nodes.iter().map(ask)).await
    }

    /// Hands a shard's leadership to another of its voters.
    pub async fn transfer_leader(&self, shard: u64, to: u64) -> Result<()> {
        let map = self.map();
        let Some(info) = map.shards.iter().find(|s| s.id == shard) else {
            return Err(Error::invalid("shard", format!("there is no shard {shard}")));
        };
        if !info.voters.contains(&to) {
            return Err(Error::invalid(
                "to",
                format!("node {to} is no voter of shard {shard}; they are {:?}", info.voters),
            ));
        }
        self.any_node(self.caller.deadline(), &mut false, |channel, _| {
            let request = v1::TransferLeaderRequest { shard, to };
            async move { AdminClient::new(channel).transfer_leader(request).await }
        })
        .await?;
        Ok(())
    }

    /// Proposes one change of a shard's members, computed from those of the epoch `expected`
    /// ([`epoch`](crate::ShardInfo::epoch)); it is in force once the map shows it.
    ///
    /// # Errors
    ///
    /// [`Error::WrongEpoch`] where the shard is in another epoch: the members have changed since, be it by this very change,
    /// whose answer was lost. What is to be done then only the map can tell.
    pub async fn change_members(&self, shard: u64, expected: u64, change: MemberChange) -> Result<()> {
        use v1::change_members_request::Change;
        let (change, instead_of) = match change {
            MemberChange::Learn(node) => (Change::Learn(node), 0),
            MemberChange::Promote { node, instead_of } => (Change::Promote(node), instead_of.unwrap_or(0)),
            MemberChange::Remove(node) => (Change::Remove(node), 0),
        };
        self.any_node(self.caller.deadline(), &mut false, |channel, _| {
            let request =
                v1::ChangeMembersRequest { shard, instead_of, expected_epoch: expected, change: Some(change) };
            async move { AdminClient::new(channel).change_members(request).await }
        })
        .await?;
        Ok(())
    }

    /// Takes a node that holds no replica out of the cluster for good.
    pub async fn remove_node(&self, node: u64) -> Result<()> {
        let mut unsure = false;
        let removed = self.change(self.caller.deadline(), &mut unsure, |channel, id| {
            let request = v1::RemoveNodeRequest { node, id: Some(id) };
            async move { AdminClient::new(channel).remove_node(request).await }
        });
        match removed.await {
            Ok(_) => {}
            // An earlier attempt without an answer removed it.
            Err(error @ Error::InvalidArgument { .. }) if unsure => match self.refresh_map().await {
                Ok(map) if map.nodes.iter().any(|n| n.id == node) => return Err(error),
                Ok(_) => {}
                Err(why) => return Err(Error::OutcomeUnknown { cause: why.cause() }),
            },
            Err(error) => return Err(error),
        }
        // The node is gone whether or not a newer map can be had.
        let _ = self.refresh_map().await;
        Ok(())
    }

    /// Has a node take replicas again; a job that empties it ends as cancelled. One that does so already is no error.
    pub async fn recommission_node(&self, node: u64) -> Result<()> {
        let mut unsure = false;
        let taken_back = self.change(self.caller.deadline(), &mut unsure, |channel, id| {
            let request = v1::RecommissionNodeRequest { node, id: Some(id) };
            async move { AdminClient::new(channel).recommission_node(request).await }
        });
        taken_back.await?;
        // It takes them whether or not a newer map can be had.
        let _ = self.refresh_map().await;
        Ok(())
    }

    /// Raises the cluster's version to `to`, or to the greatest that every node says it speaks; with `dry_run` only says what
    /// would be done. A refusal is an answer too: `refused` has the reason, and says what was changed where anything was.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where nothing was done; [`Error::OutcomeUnknown`] where the version may have been raised. Either
    /// way the call may be repeated.
    pub async fn upgrade(&self, to: Option<u32>, dry_run: bool) -> Result<v1::UpgradeReply> {
        let ask = |to: u32, dry_run| {
            move |channel: Meant, _: u64| async move {
                let raised = AdminClient::new(channel).upgrade(v1::UpgradeRequest { to, dry_run }).await;
                raised.map_err(|status| match status.code() {
                    tonic::Code::Unimplemented => tonic::Status::unimplemented("knows no cluster versions"),
                    _ => status,
                })
            }
        };
        // The first question changes nothing, so no failure of it leaves an unknown outcome.
        let asked = match self.any_node(self.caller.deadline(), &mut false, ask(to.unwrap_or(0), true)).await {
            Ok(asked) => asked,
            Err(Error::OutcomeUnknown { cause }) => return Err(Error::unavailable(cause)),
            Err(error) => return Err(error),
        };
        if dry_run || !asked.refused.is_empty() || asked.from == asked.to {
            return Ok(asked);
        }
        let raised = self.any_node(self.caller.deadline(), &mut false, ask(asked.to, false)).await?;
        // An earlier attempt may have raised it already.
        Ok(v1::UpgradeReply { from: asked.from, ..raised })
    }

    /// Has the replicas of a shard compared; returns the slot at which. The outcome is in [`Client::status`].
    pub async fn scrub(&self, shard: u64) -> Result<u64> {
        let mut unsure = false;
        let reply = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| {
            let request = v1::ScrubRequest { shard };
            async move { AdminClient::new(channel).scrub(request).await }
        });
        Ok(reply.await?.slot)
    }

    /// Where a shard's bytes and its load could be divided, as its leader finds it. Nothing is changed.
    pub async fn divide(&self, shard: u64) -> Result<v1::DivideShardReply> {
        // It may be asked as often as it takes: no failure leaves an unknown outcome.
        let mut unsure = false;
        let found = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| {
            let request = v1::DivideShardRequest { shard };
            async move { AdminClient::new(channel).divide_shard(request).await }
        });
        match found.await {
            Err(Error::OutcomeUnknown { cause }) => Err(Error::unavailable(cause)),
            found => found,
        }
    }

    /// Where a key lives, and why.
    pub async fn explain(&self, table: &str, key: impl Into<Bytes>) -> Result<Explain> {
        let key = key.into();
        check_key(&key)?;
        let info = self.table(table).await?;
        let view = self.caller.core.maps.view();
        let shard = view.table(table).and_then(|t| t.locate(Place::Key(&key)));
        let shard = shard.ok_or_else(|| Error::unavailable("the map has no shard for the key"))?;
        let leader = leader_of(&view, table, shard.info.id);
        let node = |id: u64| {
            let mapped = view.public.nodes.iter().find(|node| node.id == id);
            let (zone, rack) = mapped.map(|node| (node.zone.clone(), node.rack.clone())).unwrap_or_default();
            let mark = mapped.map(|node| node.mark).unwrap_or_default();
            NodeInfo { id, addr: view.addr(id).unwrap_or_default().to_string(), mark, zone, rack }
        };
        let mut shard = shard.info.clone();
        shard.leader = leader;
        // Routes do not name them.
        let mapped = view.public.shards.iter().find(|mapped| mapped.id == shard.id);
        shard.learners = mapped.map(|mapped| mapped.learners.clone()).unwrap_or_default();
        Ok(Explain {
            hash: (info.partitioning == PartitionKind::Hash).then(|| key_hash(&key)),
            voters: shard.voters.iter().copied().map(node).collect(),
            leader: leader.map(node),
            table: info,
            key,
            shard,
        })
    }

    /// Makes a call that changes the metadata, under one name at whichever node. `unsure` as in [`Client::any_node`].
    pub(crate) async fn change<T, F>(
        &self,
        deadline: Instant,
        unsure: &mut bool,
        call: impl Fn(Meant, v1::WriteId) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    {
        // The time of a shard that is ahead of the nodes' clocks, and when it was told.
        let mut ahead: Option<(u64, Instant)> = None;
        loop {
            let ticket = self.caller.core.identity.begin_change();
            // By the clock of the node asked first; the others are told the same, since it is part of the name.
            let good_until = OnceLock::new();
            let ended = self.any_node(deadline, unsure, |channel, now_us| {
                let now_us = ahead.map_or(now_us, |(us, told)| us.saturating_add(told.elapsed().as_micros() as u64));
                let left = deadline.saturating_duration_since(Instant::now());
                let good_until = *good_until.get_or_init(|| now_us.saturating_add(left.as_micros() as u64));
                call(channel, ticket.id(good_until))
            });
            match ended.await {
                // No attempt can have been carried out: it starts anew, under another name.
                Err(error) if !*unsure && Instant::now() < deadline => match renewal(&error) {
                    Some(us) => ahead = Some((us, Instant::now())),
                    None => return Err(error),
                },
                ended => return ended,
            }
        }
    }

    /// Makes a unary call to one node after another until one answers it or the deadline passes; the call is told the node's
    /// time. `unsure` is set once an attempt ended without an answer that says nothing was done: then no error but an outcome
    /// is the call's.
    pub(crate) async fn any_node<T, F>(
        &self,
        deadline: Instant,
        unsure: &mut bool,
        call: impl Fn(Meant, u64) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    {
        let mut last = Error::unavailable("no node is known");
        let mut pause = self.caller.core.options.backoff_min;
        let mut turn = self.caller.core.local_start;
        // The nodes whose binaries do not know the call.
        let mut older = BTreeSet::new();
        while Instant::now() < deadline {
            let map = self.map();
            if !map.nodes.is_empty() && map.nodes.iter().all(|node| older.contains(&node.id)) {
                // No time helps: their binaries have to be replaced first.
                let why = format!("{}; no node knows the call", last.cause());
                last = Error::invalid(CLUSTER_VERSION, why);
                break;
            }
            let Some(node) = map.nodes.get(turn % map.nodes.len().max(1)) else { break };
            turn = turn.wrapping_add(1);
            let until = deadline.min(Instant::now() + ATTEMPT);
            let mut sent = false;
            let attempt = async {
                let now_us = self.time_at(node).await.map_err(|why| (why, false))?;
                let channel = channel(&node.addr, &self.caller.core.options).await.map_err(|why| (why, false))?;
                sent = true;
                let channel = self.caller.core.links.stamp().on(channel);
                let answer = call(channel, now_us).await;
                answer.map(tonic::Response::into_inner).map_err(|status| match status.code() {
                    tonic::Code::Unimplemented => {
                        older.insert(node.id);
                        (not_known(node, status.message()), false)
                    }
                    _ => why_not(&status),
                })
            };
            let answer = timeout_at(until, attempt).await;
            let (error, maybe) = match answer {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(failed)) => failed,
                Err(_) => (Error::unavailable(format!("{} did not answer in time", node.addr)), sent),
            };
            *unsure |= maybe;
            let anew = !*unsure && renewal(&error).is_some();
            if anew || !maybe && !error.retryable() {
                return if *unsure && !is_outcome(&error) { Err(unknown(&error)) } else { Err(error) };
            }
            last = error;
            sleep(jitter(pause).min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(self.caller.core.options.backoff_max);
        }
        if *unsure { Err(unknown(&last)) } else { Err(last) }
    }

    /// The cluster's time as a node tells it; one that tells none is down.
    async fn time_at(&self, node: &NodeInfo) -> Result<u64> {
        let link = self.caller.core.links.get(node.id, &node.addr);
        let conn = link.conn().await.map_err(|Broken(why)| Error::unavailable(why))?;
        Ok(conn.clock.now_us())
    }
}

/// A node's binary does not know the call, so nothing was done.
fn not_known(node: &NodeInfo, what: &str) -> Error {
    let what = if what.is_empty() { "does not know this call" } else { what };
    Error::unavailable(format!("node {} at {} runs an older binary: it {what}", node.id, node.addr))
}

/// What an attempt's status says, and whether the attempt may have been carried out all the same.
fn why_not(status: &tonic::Status) -> (Error, bool) {
    let typed = v1::Error::decode(status.details()).ok().filter(|error| error.kind.is_some());
    match typed.map(Refused::from) {
        Some(Refused::NotLeader { maybe, .. }) => (Error::unavailable(status.message()), maybe),
        Some(Refused::WrongShard | Refused::Changing { .. }) => (Error::unavailable(status.message()), false),
        Some(Refused::Overloaded { retry_after, why }) => (Error::Overloaded { retry_after, why }, false),
        Some(Refused::Later(error) | Refused::Final(error)) => {
            let maybe = matches!(error, Error::OutcomeUnknown { .. });
            (error, maybe)
        }
        // The connection's end, or a node of an earlier version.
        None => {
            let error = of_status(status);
            let maybe = error.retryable();
            (error, maybe)
        }
    }
}

/// Whether an error says what became of the change, whichever attempt made it: its outcome is kept with its name. What is wrong
/// with the name itself is one attempt's refusal, and says nothing of those before.
fn is_outcome(error: &Error) -> bool {
    if matches!(error, Error::InvalidArgument { field, .. } if field.starts_with("id.")) {
        return false;
    }
    matches!(
        error,
        Error::TableExists { .. }
            | Error::TableNotFound { .. }
            | Error::InvalidArgument { .. }
            | Error::WrongEpoch { .. }
            | Error::JobNotFound { .. }
            | Error::JobConflict { .. }
    )
}

fn unknown(last: &Error) -> Error {
    Error::OutcomeUnknown { cause: last.cause() }
}

fn looks_like(table: &TableInfo, request: &v1::CreateTableRequest) -> bool {
    let mut probe = v1::Table { id: table.id, name: table.name.clone(), ..v1::Table::default() };
    probe.partitioning = request.partitioning;
    probe.retention = request.retention;
    probe.replicas = table.replicas;
    table.shards == request.shards
        && table_info(&probe).is_some_and(|p| p.partitioning == table.partitioning && p.retention == table.retention)
}
