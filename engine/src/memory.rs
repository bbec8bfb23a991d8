//! What a node holds in memory in proportion to what its clients and peers do.
//!
//! Owns: the one budget, its parts, and how much of each is taken. Must never: allocate or free anything itself; who holds
//! memory counts it here, and asks here whether there is room.
//!
//! Every part is bounded for itself, so that none can starve another:
//!
//! | holder | part | where there is no room |
//! | --- | --- | --- |
//! | inbox: inputs that wait for the worker | an eighth | requests are refused, messages of peers dropped: they are sent again |
//! | requests: read from clients, not yet answered | a quarter | no more is read of a stream that has some under way |
//! | replies: not yet sent to clients | a quarter | reads are refused before they are looked up |
//! | entries: the newest of each shard's log | an eighth | the oldest that are applied go: they are read from disk again |
//! | rings: the newest records of each shard, for tails | an eighth | the oldest go: tails that are behind scan |
//! | outcomes: kept for clients that ask again | an eighth | new writes are refused until clients raise their floors |
//!
//! Beside these there are the state's front (three of `storage.state_memory` at most), the block cache, and what RocksDB takes
//! for writes.

use prometheus::core::Collector;
use prometheus::{IntGaugeVec, Opts, Registry};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Who holds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Inputs that wait for the worker.
    Inbox,
    /// Requests of clients, read and not yet answered.
    Requests,
    /// Replies to clients, not yet sent.
    Replies,
    /// The newest entries of each shard's log.
    Entries,
    /// The newest records of each shard.
    Rings,
    /// Outcomes of writes, kept for clients that ask again.
    Outcomes,
}

impl Holder {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Inbox, Self::Requests, Self::Replies, Self::Entries, Self::Rings, Self::Outcomes];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Requests => "requests",
            Self::Replies => "replies",
            Self::Entries => "entries",
            Self::Rings => "rings",
            Self::Outcomes => "outcomes",
        }
    }

    /// Its part of the budget, eighths.
    fn eighths(self) -> usize {
        match self {
            Self::Requests | Self::Replies => 2,
            Self::Inbox | Self::Entries | Self::Rings | Self::Outcomes => 1,
        }
    }
}

/// One holder's account.
#[derive(Debug)]
pub struct Account {
    used: AtomicUsize,
    limit: usize,
}

impl Account {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// One that is never full, for what no node holds (tests, offline tools).
    #[must_use]
    pub fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    /// So many bytes more are held.
    pub fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// So many bytes less.
    pub fn sub(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Adds `bytes` where they fit, or where nothing is held: what is larger than the whole account passes alone.
    #[must_use]
    pub fn try_add(&self, bytes: usize) -> bool {
        let more =
            |used: usize| (used == 0 || used.saturating_add(bytes) <= self.limit).then(|| used.saturating_add(bytes));
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Bytes held.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether more is held than may be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// Whether so much is held that who holds most should give some of it to others: seven eighths.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit / 8 * 7
    }
}

/// What one of many holds of an account; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    account: Arc<Account>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    #[must_use]
    pub fn of(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), bytes: 0 }
    }

    /// Nothing yet, of the same account.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self::of(&self.account)
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many are held now.
    pub fn set(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.account.add(bytes - self.bytes);
        } else {
            self.account.sub(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// Whether all together hold more than they may.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.account.is_over()
    }

    /// Counts what is held in another account from now on.
    pub fn move_to(&mut self, account: &Arc<Account>) {
        let bytes = self.bytes;
        self.set(0);
        self.account = Arc::clone(account);
        self.set(bytes);
    }
}

impl Default for Held {
    fn default() -> Self {
        Self::of(&Account::unlimited())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The accounts of one node. Clones share them.
#[derive(Clone, Debug)]
pub struct Memory {
    accounts: [Arc<Account>; Holder::ALL.len()],
    bytes: IntGaugeVec,
    limits: IntGaugeVec,
}

impl Memory {
    /// Accounts that together hold `budget` bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        let gauge = |name, help| {
            IntGaugeVec::new(Opts::new(name, help), &["holder"]).expect("a metric's name and label are constants")
        };
        let memory = Self {
            accounts: Holder::ALL.map(|holder| Account::new(budget / 8 * holder.eighths())),
            bytes: gauge("synod_memory_bytes", "Memory held, by holder (limits.memory_max)"),
            limits: gauge("synod_memory_limit_bytes", "Memory that each holder may have (limits.memory_max)"),
        };
        memory.show();
        memory
    }

    /// Accounts that are never full.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// One holder's account.
    #[must_use]
    pub fn of(&self, holder: Holder) -> &Arc<Account> {
        &self.accounts[holder as usize]
    }

    /// Registers the metrics.
    ///
    /// # Errors
    /// The registry holds metrics of the same names.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.clone()))
    }

    fn show(&self) {
        let level = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        for holder in Holder::ALL {
            let account = self.of(holder);
            self.bytes.with_label_values(&[holder.name()]).set(level(account.used()));
            self.limits.with_label_values(&[holder.name()]).set(level(account.limit()));
        }
    }
}

impl Collector for Memory {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        [self.bytes.desc(), self.limits.desc()].concat()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.show();
        [self.bytes.collect(), self.limits.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_make_the_whole_and_each_has_its_metric() {
        let memory = Memory::new(64 << 20);
        let all: usize = Holder::ALL.iter().map(|holder| memory.of(*holder).limit()).sum();
        assert_eq!(all, 64 << 20);
        let registry = Registry::new();
        memory.register(&registry).unwrap();
        memory.of(Holder::Rings).add(5);
        let held = registry.gather().into_iter().find(|family| family.name() == "synod_memory_bytes").unwrap();
        let of = |name: &str| {
            let metric = held.get_metric().iter().find(|m| m.get_label()[0].value() == name).unwrap();
            metric.get_gauge().get_value()
        };
        assert_eq!((of("rings"), of("inbox"), held.get_metric().len()), (5.0, 0.0, Holder::ALL.len()));
    }

    #[test]
    fn an_account_takes_what_fits_and_one_that_is_larger_alone() {
        let account = Account::new(100);
        assert!(account.try_add(60) && account.try_add(40) && !account.try_add(1));
        account.sub(100);
        assert!(account.try_add(500) && account.is_over() && !account.try_add(1));
        account.sub(500);
        assert_eq!(account.used(), 0);
    }
}
