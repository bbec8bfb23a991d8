//! Calls about the cluster itself: tables, nodes, leadership.
//!
//! Owns: the unary calls of the admin service. Must never: go through a session; these are rare and any node answers.

use std::time::Duration;

use bytes::Bytes;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use xxhash_rust::xxh3::xxh3_64;

use crate::call::leader_of;
use crate::client::{Client, unexpected};
use crate::error::{Error, Result};
use crate::limits::{check_key, check_table, check_table_name};
use crate::link::{channel, jitter};
use crate::meant::Meant;
use crate::router::{Place, table_info};
use crate::types::{Explain, MemberChange, NodeInfo, NodeReport, PartitionKind, TableInfo, TableSpec};
use crate::wire;

impl Client {
    /// Creates a table; returns once this client's map has it.
    pub async fn create_table(&self, spec: TableSpec) -> Result<TableInfo> {
        check_table(&spec)?;
        let request = wire::create_table(spec);
        let deadline = self.deadline();
        let mut unsure = false;
        let created = self.any_node(deadline, &mut unsure, |channel| {
            let request = request.clone();
            async move { AdminClient::new(channel).create_table(request).await }
        });
        let created = match created.await {
            Ok(created) => table_info(&created).ok_or_else(unexpected)?,
            // An earlier attempt without an answer may have made it; then it looks as asked for.
            Err(error @ Error::TableExists { .. }) if unsure => {
                self.refresh_map().await?;
                let there = self.table(&request.name).await?;
                if looks_like(&there, &request) { there } else { return Err(error) }
            }
            Err(error) => return Err(error),
        };
        let there = self.core.maps.until(|view| view.table(&created.name).is_some_and(|t| t.info.id == created.id));
        if timeout(Duration::from_millis(500), there).await.is_err() {
            self.refresh_map().await?;
        }
        let there = self.core.maps.until(|view| view.table(&created.name).is_some_and(|t| t.info.id == created.id));
        match timeout_at(deadline, there).await {
            Ok(()) => self.table(&created.name).await,
            Err(_) => Ok(created),
        }
    }

    /// Drops a table and everything in it; returns once this client's map is without it.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        check_table_name(name)?;
        let deadline = self.deadline();
        let old = self.core.maps.view().table(name).map(|t| t.info.id);
        let mut unsure = false;
        let dropped = self.any_node(deadline, &mut unsure, |channel| {
            let request = v1::DropTableRequest { name: name.into() };
            async move { AdminClient::new(channel).drop_table(request).await }
        });
        match dropped.await {
            Ok(_) => {}
            // An earlier attempt without an answer dropped it.
            Err(Error::TableNotFound { .. }) if unsure => {}
            Err(error) => return Err(error),
        }
        let gone = self.core.maps.until(|view| view.table(name).is_none_or(|t| Some(t.info.id) != old));
        // The table is gone whether or not the map has come round yet.
        let _ = timeout_at(deadline, gone).await;
        Ok(())
    }

    /// What every node of the map says of itself; a node that does not answer is reported as such.
    pub async fn status(&self) -> Vec<NodeReport> {
        let deadline = self.deadline().min(Instant::now() + 2 * self.core.options.connect_timeout);
        let map = self.map();
        let ask = |node: &NodeInfo| {
            let NodeInfo { id, addr } = node.clone();
            async move {
                let answer = async {
                    let channel = channel(&addr, &self.core.options).await?;
                    let reply = AdminClient::new(self.core.links.stamp().on(channel))
                        .node_status(v1::NodeStatusRequest {})
                        .await;
                    reply.map(tonic::Response::into_inner).map_err(|s| Error::from_status(&s))
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
        self.any_node(self.deadline(), &mut false, |channel| {
            let request = v1::TransferLeaderRequest { shard, to };
            async move { AdminClient::new(channel).transfer_leader(request).await }
        })
        .await?;
        Ok(())
    }

    /// Proposes one change of a shard's members, computed from those of the epoch `expected`
    /// ([`config`](crate::ShardInfo::config)); it is in force once the map shows it.
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
        self.any_node(self.deadline(), &mut false, |channel| {
            let request =
                v1::ChangeMembersRequest { shard, instead_of, expected_config: expected, change: Some(change) };
            async move { AdminClient::new(channel).change_members(request).await }
        })
        .await?;
        Ok(())
    }

    /// Takes a node that holds no replica out of the cluster for good.
    pub async fn remove_node(&self, node: u64) -> Result<()> {
        let mut unsure = false;
        let removed = self.any_node(self.deadline(), &mut unsure, |channel| {
            let request = v1::RemoveNodeRequest { node };
            async move { AdminClient::new(channel).remove_node(request).await }
        });
        match removed.await {
            Ok(_) => {}
            // An earlier attempt without an answer removed it.
            Err(Error::InvalidArgument { .. }) if unsure && !self.knows(node).await? => {}
            Err(error) => return Err(error),
        }
        self.refresh_map().await?;
        Ok(())
    }

    /// Raises the cluster's version to `to`, or to the greatest that every node says it speaks; with `dry_run` only says what
    /// would be done. A refusal is an answer: it stands in `refused`, and nothing was changed.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where nothing was done; [`Error::OutcomeUnknown`] where the version may have been raised. Either
    /// way the call may be repeated.
    pub async fn upgrade(&self, to: Option<u32>, dry_run: bool) -> Result<v1::UpgradeReply> {
        let ask = |to: u32, dry_run| {
            move |channel: Meant| async move { AdminClient::new(channel).upgrade(v1::UpgradeRequest { to, dry_run }).await }
        };
        // First a question that changes nothing: what it meets with cannot leave an unknown outcome.
        let asked = self.any_node(self.deadline(), &mut false, ask(to.unwrap_or(0), true)).await?;
        if dry_run || !asked.refused.is_empty() || asked.from == asked.to {
            return Ok(asked);
        }
        let mut unsure = false;
        match self.any_node(self.deadline(), &mut unsure, ask(asked.to, false)).await {
            // An earlier attempt may have raised it already.
            Ok(raised) => Ok(v1::UpgradeReply { from: asked.from, ..raised }),
            Err(Error::Unavailable { why }) if unsure => Err(Error::OutcomeUnknown { cause: why }),
            Err(error) => Err(error),
        }
    }

    async fn knows(&self, node: u64) -> Result<bool> {
        Ok(self.refresh_map().await?.nodes.iter().any(|n| n.id == node))
    }

    /// Has the replicas of a shard compared; returns the slot at which. The outcome stands in [`Client::status`].
    pub async fn scrub(&self, shard: u64) -> Result<u64> {
        let mut unsure = false;
        let reply = self.any_node(self.deadline(), &mut unsure, |channel| {
            let request = v1::ScrubRequest { shard };
            async move { AdminClient::new(channel).scrub(request).await }
        });
        Ok(reply.await?.slot)
    }

    /// Where a key lives, and why.
    pub async fn explain(&self, table: &str, key: impl Into<Bytes>) -> Result<Explain> {
        let key = key.into();
        check_key(&key)?;
        let info = self.table(table).await?;
        let view = self.core.maps.view();
        let shard = view.table(table).and_then(|t| t.locate(Place::Key(&key)));
        let shard = shard.ok_or_else(|| Error::unavailable("the map has no shard for the key"))?;
        let leader = leader_of(&view, table, shard.info.id);
        let node = |id: u64| NodeInfo { id, addr: view.addr(id).unwrap_or_default().to_string() };
        let mut shard = shard.info.clone();
        shard.leader = leader;
        Ok(Explain {
            hash: (info.partitioning == PartitionKind::Hash).then(|| xxh3_64(&key)),
            voters: shard.voters.iter().copied().map(node).collect(),
            leader: leader.map(node),
            table: info,
            key,
            shard,
        })
    }

    /// Makes a unary call to one node after another until one answers it or the deadline passes. `unsure` is set once an
    /// attempt ended without an answer that says nothing was done.
    async fn any_node<T, F>(&self, deadline: Instant, unsure: &mut bool, call: impl Fn(Meant) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    {
        let mut last = Error::unavailable("no node is known");
        let mut pause = self.core.options.backoff_min;
        let mut turn = self.core.local_start;
        while Instant::now() < deadline {
            let map = self.map();
            let Some(node) = map.nodes.get(turn % map.nodes.len().max(1)) else { return Err(last) };
            turn = turn.wrapping_add(1);
            let mut sent = false;
            let attempt = async {
                let channel = channel(&node.addr, &self.core.options).await?;
                sent = true;
                call(self.core.links.stamp().on(channel))
                    .await
                    .map(tonic::Response::into_inner)
                    .map_err(|s| Error::from_status(&s))
            };
            let answer = timeout_at(deadline, attempt).await;
            last = match answer {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) if !error.retryable() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => Error::unavailable(format!("{} did not answer in time", node.addr)),
            };
            *unsure |= sent && matches!(last, Error::Unavailable { .. });
            sleep(jitter(pause).min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(self.core.options.backoff_max);
        }
        Err(last)
    }
}

fn looks_like(table: &TableInfo, request: &v1::CreateTableRequest) -> bool {
    let mut probe = v1::Table { id: table.id, name: table.name.clone(), ..v1::Table::default() };
    probe.partitioning = request.partitioning;
    probe.retention = request.retention;
    probe.replicas = table.replicas;
    table.shards == request.shards
        && table_info(&probe).is_some_and(|p| p.partitioning == table.partitioning && p.retention == table.retention)
}
