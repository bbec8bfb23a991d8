//! A stream: append events, and read them on from where an earlier run stopped.
//!
//! The place to go on from is a token. This program keeps it in a file; run it twice to see it go on.
//!
//!     cargo run --release --workspace --example tail -- 127.0.0.1:7401

mod shared;

use std::error::Error;
use std::fs;

use futures::TryStreamExt;
use synod_client::{Expect, Keys, NewRecord, Retention, TableSpec, TailOptions, TailStart};

/// Where the token is kept: `SYNOD_TOKEN_FILE`, else this file in the current folder.
const TOKEN_FILE: &str = "synod-example.token";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = shared::connect().await?;
    // `All` keeps every record until it is trimmed.
    shared::ensure_table(&client, TableSpec::hash("example-orders", 4, Retention::All)).await?;

    // The records of one append are written together, or none of them is.
    let events = vec![NewRecord::new("created"), NewRecord::new("paid").header("by", "card")];
    client.append("example-orders", "order-17", events, Expect::Any).await?;
    client.append("example-orders", "order-18", vec![NewRecord::new("created")], Expect::Any).await?;

    let file = std::env::var("SYNOD_TOKEN_FILE").unwrap_or_else(|_| TOKEN_FILE.into());
    let start = match fs::read_to_string(&file) {
        Ok(token) => TailStart::Token(token.trim().parse()?),
        Err(_) => TailStart::Earliest,
    };
    // With `follow: true` the stream would wait for more at the end. Each key's records come in order; there is no order
    // between keys of different shards.
    let options = TailOptions { keys: Keys::Prefix("order-".into()), start, follow: false, ..TailOptions::default() };
    let mut records = client.tail("example-orders", options);
    let mut count = 0;
    while let Some(item) = records.try_next().await? {
        let record = &item.record;
        let (key, value) = (String::from_utf8_lossy(&record.key), String::from_utf8_lossy(&record.value));
        println!("{key} {}: {value}", record.offset);
        // Kept after the work on the record. After a crash between the two the next run sees the record again; the example
        // `consumer` shows how to avoid that.
        fs::write(&file, item.token().to_string())?;
        count += 1;
    }
    println!("{count} records");
    Ok(())
}
