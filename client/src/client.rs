//! The client's calls.
//!
//! Owns: the public handle, what each call checks before it is sent, and its deadline. Must never: choose nodes or retry;
//! that is `call`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use synod_proto::v1;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::call::Got;
use crate::error::{Error, Result, unexpected};
use crate::frames::{Answer, Ask};
use crate::identity::Identity;
use crate::limits::{check_key, check_table_name};
use crate::link::{Links, Task};
use crate::options::Options;
use crate::router::Place;
use crate::scan::{RecordStream, ScanStream};
use crate::shared::{Caller, Core, Want};
use crate::tail::TailStream;
use crate::types::{
    ClusterMap, Consistency, Expect, GetFull, GetOptions, NewRecord, Record, ScanOptions, TableInfo, TailOptions,
    WriteName, WriteOp, Written,
};
use crate::watch::Maps;
use crate::wire;
use synod_cluster::decide;
use synod_cluster::outcomes::outcome_bytes;

/// How often a write starts anew because a shard's time was ahead of its deadline. The second attempt has a deadline by the
/// shard's time, so a third is needed only where that time jumps meanwhile.
const RENEWALS_MAX: u32 = 3;

/// A handle on a cluster. Cheap to clone; clones share connections, the shard map and the identity of writes. Needs a
/// tokio runtime with its timer; its tasks end when the last clone is dropped.
///
/// **Cancel-safety.** Every call may be dropped while it waits. A read leaves nothing behind. A write that is dropped may
/// or may not be executed, at most once; the client stops retrying it.
#[derive(Clone)]
pub struct Client {
    pub(crate) caller: Caller,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("revision", &self.map().revision).field("timeout", &self.caller.timeout).finish()
    }
}

impl Client {
    /// Connects: gets the shard map from whichever of `endpoints` (`host:port`) answers first, within the call timeout.
    /// The map names all nodes; the endpoints need not.
    ///
    /// ```no_run
    /// # async fn example() -> synod_client::Result<()> {
    /// use std::time::Duration;
    /// use synod_client::{Client, Options};
    ///
    /// let options = Options { call_timeout: Duration::from_secs(3), ..Options::default() };
    /// let client = Client::connect(["127.0.0.1:7401"], options).await?;
    /// println!("{} nodes", client.map().nodes.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect<E, S>(endpoints: E, options: Options) -> Result<Client>
    where
        E: IntoIterator<Item = S>,
        S: Into<String>,
    {
        options.check()?;
        let timeout = options.call_timeout;
        let options = Arc::new(options);
        let links = Arc::new(Links::new(options.clone()));
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        let maps = Maps::connect(endpoints, options.clone(), links.clone(), Instant::now() + timeout).await?;
        let maps = Arc::new(maps);
        let core = Core {
            writes: Semaphore::new(options.max_outstanding_writes),
            silent: Mutex::default(),
            identity: Identity::new(),
            local_start: rand::random::<u16>().into(),
            _keeper: Task::spawn(maps.clone().keep()),
            options,
            maps,
            links,
        };
        Ok(Client { caller: Caller { core: Arc::new(core), timeout } })
    }

    /// The same client with another deadline for its calls; at most what [`Options::call_timeout`] allows.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        let longest = Duration::from_secs(crate::limits::MAX_DEADLINE_S - 60);
        Client { caller: Caller { core: self.caller.core.clone(), timeout: timeout.min(longest) } }
    }

    /// Appends one record.
    pub async fn put(&self, table: &str, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Written> {
        self.write_one(table, WriteOp::put(key, value)).await
    }

    /// Appends records to a key, atomically.
    ///
    /// ```no_run
    /// # async fn example(client: synod_client::Client) -> synod_client::Result<()> {
    /// use synod_client::{Error, Expect, NewRecord};
    ///
    /// let records = vec![NewRecord::new("created"), NewRecord::new("paid").header("by", "card")];
    /// match client.append("orders", "order-17", records, Expect::Absent).await {
    ///     Ok(written) => println!("at offset {}", written.offset),
    ///     Err(Error::ExpectationFailed { actual, .. }) => println!("there are {actual} records already"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append(
        &self,
        table: &str,
        key: impl Into<Bytes>,
        records: Vec<NewRecord>,
        expect: Expect,
    ) -> Result<Written> {
        self.write_one(table, WriteOp::append(key, records).expect(expect)).await
    }

    /// Appends a tombstone.
    pub async fn delete(&self, table: &str, key: impl Into<Bytes>, expect: Expect) -> Result<Written> {
        self.write_one(table, WriteOp::delete(key).expect(expect)).await
    }

    /// Drops a key's records below `before`; answers with the first offset kept.
    pub async fn trim(&self, table: &str, key: impl Into<Bytes>, before: u64) -> Result<Written> {
        self.write_one(table, WriteOp::trim(key, before)).await
    }

    /// Several operations on keys of one shard, atomic: all of them or, where one's expectation does not hold, none.
    ///
    /// ```no_run
    /// # async fn example(client: synod_client::Client) -> synod_client::Result<()> {
    /// use synod_client::{Expect, WriteOp};
    ///
    /// let ops = vec![
    ///     WriteOp::put("order-17/state", "paid").expect(Expect::Exists),
    ///     WriteOp::delete("order-17/lock"),
    /// ];
    /// let written = client.batch("orders", ops).await?;
    /// assert_eq!(written.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn batch(&self, table: &str, ops: Vec<WriteOp>) -> Result<Vec<Written>> {
        let results = self.write(table, ops, None).await?;
        Ok(results.into_iter().map(|r| Written { offset: r.offset, ts_us: r.ts_us }).collect())
    }

    /// A [batch](Client::batch) under a name of the caller's own, for one that retries across processes: under the same name
    /// it executes at most once, whichever client and node it goes through. What an earlier attempt may have done is the
    /// caller's to remember: `Expired` says that this attempt was not executed, and what the shard's time is.
    ///
    /// # Errors
    /// As of a batch; [`Error::InvalidArgument`] for a name whose floor lies above its number.
    pub async fn batch_as(&self, table: &str, name: WriteName, ops: Vec<WriteOp>) -> Result<Vec<Written>> {
        if name.floor > name.seq {
            return Err(Error::invalid("floor", "it lies above the write's own number"));
        }
        let results = self.write(table, ops, Some(name)).await?;
        Ok(results.into_iter().map(|r| Written { offset: r.offset, ts_us: r.ts_us }).collect())
    }

    /// A key's record, the newest unless `options` say another; a tombstone counts as none.
    pub async fn get(&self, table: &str, key: impl Into<Bytes>, options: GetOptions) -> Result<Option<Record>> {
        Ok(self.get_full(table, key, options).await?.record.filter(|r| !r.tombstone))
    }

    /// A key's record with the bounds of its log.
    pub async fn get_full(&self, table: &str, key: impl Into<Bytes>, options: GetOptions) -> Result<GetFull> {
        let key = key.into();
        check_table_name(table)?;
        check_key(&key)?;
        let want = self.caller.want(table, Place::Key(&key), options.consistency);
        let got = self
            .caller
            .core
            .call(want, |table, _, _| Ok(Ask::Get(wire::get(table.info.id, key.clone(), &options))))
            .await?;
        match got.answer {
            Answer::Get(v1::GetResult { record, next_offset, first_offset }) => {
                Ok(GetFull { record: record.map(wire::record), first_offset, next_offset })
            }
            _ => Err(unexpected()),
        }
    }

    /// A key's records from offset `from` on, in order. Errors come as items and end the stream.
    ///
    /// ```no_run
    /// # async fn example(client: synod_client::Client) -> synod_client::Result<()> {
    /// use futures::TryStreamExt;
    /// use synod_client::Consistency;
    ///
    /// let mut records = client.read("orders", "order-17", 0, None, Consistency::Linearizable);
    /// while let Some(record) = records.try_next().await? {
    ///     println!("{} {:?}", record.offset, record.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(
        &self,
        table: &str,
        key: impl Into<Bytes>,
        from: u64,
        limit: Option<u64>,
        consistency: Consistency,
    ) -> RecordStream {
        RecordStream::new(self.caller.clone(), table, key.into(), from, limit, consistency)
    }

    /// A table's newest records: in key order on range tables, in hash order on hash tables; tombstones are left out.
    /// Each page is as fresh as `options` ask, the pages together are not one moment. Errors come as items and end the
    /// stream; [`ScanStream::cursor`] says where to go on.
    ///
    /// ```no_run
    /// # async fn example(client: synod_client::Client) -> synod_client::Result<()> {
    /// use futures::TryStreamExt;
    /// use synod_client::{Keys, ScanOptions};
    ///
    /// let options = ScanOptions { keys: Keys::Prefix("order-".into()), limit: Some(100), ..Default::default() };
    /// let mut records = client.scan("orders", options);
    /// while let Some(record) = records.try_next().await? {
    ///     println!("{:?}", record.key);
    /// }
    /// let next = records.cursor().map(|c| c.to_string());
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan(&self, table: &str, options: ScanOptions) -> ScanStream {
        ScanStream::new(self.caller.clone(), table, options)
    }

    /// What commits, each key in order, tombstones included; without `follow` the stream ends where it has caught up.
    /// Goes on by itself across failover and never loses or repeats a record. It begins when first polled. An error comes
    /// as an item; after one that is [retryable](Error::retryable) the stream can be polled on.
    ///
    /// ```no_run
    /// # async fn example(client: synod_client::Client) -> synod_client::Result<()> {
    /// use futures::TryStreamExt;
    /// use synod_client::{TailOptions, TailStart};
    ///
    /// let options = TailOptions { start: TailStart::Earliest, follow: true, ..Default::default() };
    /// let mut tail = client.tail("orders", options);
    /// while let Some(item) = tail.try_next().await? {
    ///     println!("{:?} {:?}", item.record.key, item.record.value);
    ///     // Kept with the work done, it is where another tail goes on: `TailStart::Token(saved.parse()?)`.
    ///     let saved = item.token().to_string();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn tail(&self, table: &str, options: TailOptions) -> TailStream {
        TailStream::new(self.caller.clone(), table, options)
    }

    /// The tables of the map, by name.
    pub fn tables(&self) -> Vec<TableInfo> {
        self.map().tables.clone()
    }

    /// One table of the map; asks the cluster before it says that there is none.
    pub async fn table(&self, name: &str) -> Result<TableInfo> {
        self.caller.table(name).await
    }

    /// The shard map as this client knows it.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.caller.core.maps.view().public.clone()
    }

    /// Asks a node for the newest map it has and returns the newest known.
    pub async fn refresh_map(&self) -> Result<Arc<ClusterMap>> {
        self.caller.refresh().await?;
        Ok(self.map())
    }

    async fn write_one(&self, table: &str, op: WriteOp) -> Result<Written> {
        match self.write(table, vec![op], None).await?.first() {
            Some(r) => Ok(Written { offset: r.offset, ts_us: r.ts_us }),
            None => Err(unexpected()),
        }
    }

    async fn write(&self, table: &str, ops: Vec<WriteOp>, name: Option<WriteName>) -> Result<Vec<v1::OpResult>> {
        check_table_name(table)?;
        self.caller.core.options.limits.check_write(&ops)?;
        let deadline = self.caller.deadline();
        let _permit = match timeout_at(deadline, self.caller.core.writes.acquire()).await {
            Ok(Ok(permit)) => permit,
            _ => {
                let most = self.caller.core.options.max_outstanding_writes;
                return Err(Error::unavailable(format!("{most} writes are outstanding (knob max_outstanding_writes)")));
            }
        };
        let count = ops.len();
        let ops: Vec<v1::WriteOp> = ops.into_iter().map(wire::op).collect();
        let key = ops.first().map(|op| op.key.clone()).unwrap_or_default();
        let mut shard_time_us = None;
        let mut renewals = 0;
        let got = loop {
            let want = Want { place: Place::Key(&key), ops: &ops, ..self.want_by(table, deadline) };
            let called = self.call_write(want, name.as_ref(), shard_time_us).await;
            // Under another name, and only what cannot have been executed; a name that the caller gave is the caller's.
            match called.as_ref().err().and_then(decide::renewal) {
                Some(at_us) if name.is_none() && renewals < RENEWALS_MAX => {
                    shard_time_us = Some(at_us);
                    renewals += 1;
                }
                _ => break called,
            }
        };
        match got?.answer {
            Answer::Write(v1::WriteResult { failed: Some(failed), .. }) => {
                Err(Error::ExpectationFailed { actual: failed.actual, op_index: failed.op_index })
            }
            Answer::Write(v1::WriteResult { results, .. }) if results.len() == count => Ok(results),
            _ => Err(Error::OutcomeUnknown { cause: "the node's answer does not fit the request".into() }),
        }
    }
}

impl Client {
    /// What a write wants that must be done by `deadline`.
    fn want_by<'a>(&self, table: &'a str, deadline: Instant) -> Want<'a> {
        Want { write: true, deadline, ..self.caller.want(table, Place::Key(&[]), Consistency::Linearizable) }
    }

    /// Makes the call of a write under one name: the caller's, or a new one of this client's. The deadline in that is counted
    /// from `shard_time_us` where it is known, else by the clock of the node that the first attempt goes to.
    async fn call_write(&self, want: Want<'_>, name: Option<&WriteName>, shard_time_us: Option<u64>) -> Result<Got> {
        let Want { deadline, ops, .. } = want;
        let ticket = match name {
            Some(_) => None,
            None => {
                let view = self.caller.core.maps.view();
                // Where there is none yet, the table may be made just now.
                let shard = view.table(want.table).and_then(|t| t.locate(want.place)).map_or(0, |s| s.info.id);
                Some(self.caller.core.identity.begin(shard, outcome_bytes(ops.len()), deadline).await?)
            }
        };
        // Fixed by the first attempt, kept by the others: the deadline is part of the write's name.
        let mut deadline_us = None;
        let call = self.caller.core.call(want, |table, _, conn| {
            let left = deadline.saturating_duration_since(Instant::now()).as_micros() as u64;
            let from = || shard_time_us.unwrap_or_else(|| conn.clock.now_us());
            let id = match (name, &ticket) {
                (Some(name), _) => Some(wire::write_id(name)),
                (None, Some(ticket)) => {
                    Some(ticket.id(*deadline_us.get_or_insert_with(|| from().saturating_add(left))))
                }
                (None, None) => None,
            };
            Ok(Ask::Write(v1::Write { table_id: table.info.id, ops: ops.to_vec(), id }))
        });
        call.await
    }
}
