//! A client of the load: through the client library, or through the wire alone.
//!
//! Owns: which of them it is, and the way to ask it. Must never: call a write not executed unless its client says so.

use std::time::Duration;

use bytes::Bytes;
use synod_client::{Client, Error, Expect, GetOptions, NewRecord};
use synod_lincheck::Seen;

use super::call::{Answer, Found, Wanted};
use super::plain::{Plain, Style};

/// What clients call through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client library.
    Library,
    /// Plain gRPC: every second client makes unary calls, the others hold a session.
    Plain,
}

/// One client.
pub(super) enum Caller {
    Library(Client),
    Plain(Box<Plain>, Duration),
}

impl Caller {
    /// A plain client, of one style or the other by its number.
    pub(super) fn plain(endpoints: Vec<String>, table: &str, number: u64, patience: Duration) -> Caller {
        let style = if number.is_multiple_of(2) { Style::Session } else { Style::Unary };
        Caller::Plain(Box::new(Plain::new(endpoints, table, style)), patience)
    }

    pub(super) async fn write(&mut self, table: &str, key: &str, wanted: &Wanted) -> Answer {
        let client = match self {
            Caller::Plain(client, patience) => return client.write(key, wanted, *patience).await,
            Caller::Library(client) => client,
        };
        let written = match wanted {
            Wanted::Delete => client.delete(table, key.to_owned(), Expect::Any).await,
            Wanted::Append { values, next } => {
                let records = values.iter().map(|value| NewRecord::new(value.clone())).collect();
                client.append(table, key.to_owned(), records, next.map_or(Expect::Any, Expect::NextOffset)).await
            }
        };
        match written {
            Ok(written) => Answer::Written { offset: written.offset },
            Err(Error::ExpectationFailed { actual, .. }) => Answer::Expectation { actual },
            Err(error @ Error::DiskFull { .. }) => Answer::NoRoom(error.to_string()),
            Err(error @ Error::OutcomeUnknown { .. }) => Answer::Unknown(error.to_string()),
            // An error of another kind says that nothing was executed.
            Err(error) => Answer::NotExecuted(error.to_string()),
        }
    }

    pub(super) async fn get(&mut self, table: &str, key: &str) -> Result<Found, String> {
        let client = match self {
            Caller::Plain(client, patience) => return client.get(key, *patience).await,
            Caller::Library(client) => client,
        };
        let full = client.get_full(table, key.to_owned(), GetOptions::default()).await.map_err(|e| e.to_string())?;
        let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        let newest = full.record.filter(|record| !record.tombstone);
        let newest = newest.map(|record| Seen { offset: record.offset, value: text(&record.value) });
        Ok(Found { newest, next: full.next_offset })
    }
}
