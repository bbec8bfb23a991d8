//! What load is made on.
//!
//! Owns: the few operations that a store offers a run, and Synod's own, through its client library. Must never: know of
//! callers, times or rates: every store is driven by the same loop.

use std::sync::Arc;

use bytes::Bytes;
use synod_client::{Client, Expect, GetOptions, NewRecord};

/// A store under load. A clone is the same connection.
pub trait Target: Clone + Send + Sync + 'static {
    /// Why an operation failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Writes one record.
    fn put(&self, key: String, value: Bytes) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The newest record of a key: the bytes of its value, or none.
    fn get(&self, key: String) -> impl Future<Output = Result<Option<u64>, Self::Error>> + Send;

    /// Writes several records in one go.
    fn append(&self, key: String, values: Vec<Bytes>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The failures to be counted as one.
    fn code(error: &Self::Error) -> &'static str;
}

/// A table of a Synod cluster.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: Arc<str>,
}

impl Table {
    /// The table of this name, through this client.
    #[must_use]
    pub fn new(client: Client, name: &str) -> Table {
        Table { client, name: name.into() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Target for Table {
    type Error = synod_client::Error;

    async fn put(&self, key: String, value: Bytes) -> Result<(), Self::Error> {
        self.client.put(&self.name, key, value).await.map(|_| ())
    }

    async fn get(&self, key: String) -> Result<Option<u64>, Self::Error> {
        let found = self.client.get(&self.name, key, GetOptions::default()).await?;
        Ok(found.map(|record| record.value.len() as u64))
    }

    async fn append(&self, key: String, values: Vec<Bytes>) -> Result<(), Self::Error> {
        let records = values.into_iter().map(NewRecord::new).collect();
        self.client.append(&self.name, key, records, Expect::Any).await.map(|_| ())
    }

    fn code(error: &Self::Error) -> &'static str {
        error.code()
    }
}
