//! A counter that many processes may add to at once: compare and set by the key's next offset.
//!
//!     cargo run --release --workspace --example counter -- 127.0.0.1:7401

mod shared;

use synod_client::{Client, Error, Expect, GetOptions, NewRecord, Result, Retention, TableSpec};

const TABLE: &str = "example-counters";
/// Tasks of this process.
const TASKS: u64 = 4;
/// How much each adds, one at a time.
const EACH: u64 = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let client = shared::connect().await?;
    shared::ensure_table(&client, TableSpec::hash(TABLE, 4, Retention::Latest)).await?;
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(add_many(client.clone()))).collect();
    for task in tasks {
        task.await.expect("no task panics")?;
    }
    let (count, _) = read(&client).await?;
    println!("added {}, the counter is {count}", TASKS * EACH);
    Ok(())
}

async fn add_many(client: Client) -> Result<()> {
    for _ in 0..EACH {
        add_one(&client).await?;
    }
    Ok(())
}

/// Adds one, exactly once.
async fn add_one(client: &Client) -> Result<()> {
    loop {
        let (count, next) = read(client).await?;
        let record = vec![NewRecord::new((count + 1).to_string())];
        match client.append(TABLE, "visits", record, Expect::NextOffset(next)).await {
            Ok(_) => return Ok(()),
            // Somebody else was first: nothing was written. Read again.
            Err(Error::ExpectationFailed { .. }) => {}
            // The client retries by itself, and a write is executed at most once however often it is sent. `OutcomeUnknown`
            // remains where the call's deadline passes first: the write may have been executed, and adding again could count
            // twice. Here that ends the program; the example `consumer` shows a way to find out.
            Err(error) => return Err(error),
        }
    }
}

/// The count, and the offset that the next record will have.
async fn read(client: &Client) -> Result<(u64, u64)> {
    let found = client.get_full(TABLE, "visits", GetOptions::default()).await?;
    let value = found.record.map(|record| String::from_utf8_lossy(&record.value).into_owned());
    let count = value.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok((count, found.next_offset))
}
