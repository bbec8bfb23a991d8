//! A consumer with exactly-once effect: the sums of a stream of payments, right after any crash and with any number of
//! consumers.
//!
//! The result and the place in the stream are written in one batch, so they cannot differ. The batch expects the place to be
//! the one that this consumer read; another consumer, or an earlier attempt of this one, has then written nothing that this
//! one does not know.
//!
//!     cargo run --release --workspace --example consumer -- 127.0.0.1:7401

mod shared;

use std::error::Error;

use futures::TryStreamExt;
use synod_client::{
    Client, Error as SynodError, Expect, GetOptions, NewRecord, Retention, TableSpec, TailItem, TailOptions, TailStart,
    WriteOp,
};

/// The stream: account to payments.
const PAYMENTS: &str = "example-payments";
/// The results: account to sum, and the place. One shard, so that a batch can hold both.
const SUMS: &str = "example-sums";
const PLACE: &str = "place";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = shared::connect().await?;
    shared::ensure_table(&client, TableSpec::hash(PAYMENTS, 4, Retention::All)).await?;
    shared::ensure_table(&client, TableSpec::range(SUMS, vec![], Retention::Latest)).await?;
    for (account, amount) in [("ada", "10"), ("bob", "7"), ("ada", "5")] {
        client.append(PAYMENTS, account, vec![NewRecord::new(amount)], Expect::Any).await?;
    }

    // Each turn begins with the place as it is stored, and ends when the stream has no more or when the place is in doubt.
    while !consume(&client).await? {}

    for account in ["ada", "bob"] {
        println!("{account}: {}", sum(&client, account).await?);
    }
    Ok(())
}

/// Takes in what the stream has after the stored place; `false` where the place must be read again.
async fn consume(client: &Client) -> Result<bool, Box<dyn Error>> {
    let stored = client.get_full(SUMS, PLACE, GetOptions::default()).await?;
    let start = match stored.record {
        Some(record) => TailStart::Token(String::from_utf8_lossy(&record.value).parse()?),
        None => TailStart::Earliest,
    };
    let mut place = stored.next_offset;
    // A consumer that is to stay would follow the stream: `follow: true`.
    let mut payments = client.tail(PAYMENTS, TailOptions { start, ..TailOptions::default() });
    while let Some(payment) = payments.try_next().await? {
        match take_in(client, &payment, place).await {
            Ok(()) => place += 1,
            // Another consumer was faster, or nobody knows whether the batch was executed. The stored place knows.
            Err(SynodError::ExpectationFailed { .. } | SynodError::OutcomeUnknown { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Adds one payment to its account's sum and moves the place behind it, both or neither.
async fn take_in(client: &Client, payment: &TailItem, place: u64) -> Result<(), SynodError> {
    let account = String::from_utf8_lossy(&payment.record.key).into_owned();
    let amount: u64 = String::from_utf8_lossy(&payment.record.value).parse().unwrap_or(0);
    // The sum may be read apart from the batch: nobody changes it without moving the place.
    let sum = sum(client, &account).await? + amount;
    let ops = vec![
        WriteOp::put(PLACE, payment.token().to_string()).expect(Expect::NextOffset(place)),
        WriteOp::put(format!("sum/{account}"), sum.to_string()),
    ];
    client.batch(SUMS, ops).await.map(drop)
}

async fn sum(client: &Client, account: &str) -> Result<u64, SynodError> {
    let record = client.get(SUMS, format!("sum/{account}"), GetOptions::default()).await?;
    Ok(record.and_then(|record| String::from_utf8_lossy(&record.value).parse().ok()).unwrap_or(0))
}
