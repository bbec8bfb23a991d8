//! The Rust client of Synod, a partitioned, replicated log store.
//!
//! **Every key is a log.** A [`Client`] knows the shard map, sends each call straight to the leader of the key's shard
//! over one multiplexed stream a node, and retries until it knows the outcome or the call's deadline passes. A write is
//! executed at most once, however often it was sent; where its outcome cannot be known the answer is
//! [`Error::OutcomeUnknown`], never a failure. Topology (who leads, which shard) is the client's business and never
//! reaches its user.
//!
//! ```no_run
//! use synod_client::{Client, Expect, NewRecord, Options, Retention, TableSpec};
//!
//! # async fn example() -> synod_client::Result<()> {
//! let client = Client::connect(["127.0.0.1:7401", "127.0.0.1:7402"], Options::default()).await?;
//! client.create_table(TableSpec::hash("greetings", 4, Retention::Latest)).await?;
//! let written = client.put("greetings", "en", "hello").await?;
//! assert_eq!(written.offset, 0);
//! let record = client.get("greetings", "en", Default::default()).await?.expect("just written");
//! assert_eq!(record.value, "hello");
//! // Only if nobody wrote in between.
//! let update = vec![NewRecord::new("hi")];
//! client.append("greetings", "en", update, Expect::NextOffset(written.offset + 1)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Owns: the way from a call to the right node and back. Must never: import anything of Synod's but the wire schema and
//! the rules that nodes and clients share.

mod admin;
mod call;
mod client;
mod clock;
mod error;
mod flow;
mod frames;
mod identity;
mod jobs;
pub mod limits;
mod link;
mod meant;
mod options;
mod pager;
mod rebalance;
mod retry;
mod router;
mod scan;
mod segments;
mod shared;
mod tail;
mod tail_range;
mod token;
mod types;
mod watch;
mod wire;

pub use client::Client;
pub use error::{Error, Result};
pub use jobs::{Job, JobGoal, JobProgress};
pub use options::Options;
pub use scan::{RecordStream, ScanStream};
/// The wire schema, for what [`NodeReport`] carries.
pub use synod_proto::v1 as proto;
pub use tail::{TailItem, TailStream};
pub use token::{Cursor, Token};
pub use types::{
    At, ClusterMap, Consistency, Expect, Explain, GetFull, GetOptions, Header, Keys, MemberChange, NewRecord, NodeInfo,
    NodeMark, NodeReport, OpKind, PartitionKind, Partitioning, PassedOver, Record, Retention, ScanOptions, ShardInfo,
    TableInfo, TableSpec, TailOptions, TailStart, WriteName, WriteOp, Written,
};
