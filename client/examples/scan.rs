//! A walk over a table, page by page, that puts no load on the leaders: stale reads, answered by any replica.
//!
//!     cargo run --release --workspace --example scan -- 127.0.0.1:7401

mod shared;

use std::time::Duration;

use futures::TryStreamExt;
use synod_client::{Consistency, Keys, Result, Retention, ScanOptions, TableSpec, WriteOp};

const TABLE: &str = "example-cities";

#[tokio::main]
async fn main() -> Result<()> {
    let client = shared::connect().await?;
    // Two shards: keys before "m", and keys from there on. A scan goes through them in key order.
    shared::ensure_table(&client, TableSpec::range(TABLE, vec!["m".into()], Retention::Latest)).await?;
    for (shard, cities) in [("low", ["aachen", "berlin", "bern"]), ("high", ["paris", "rome", "wien"])] {
        let ops = cities.map(|city| WriteOp::put(city, shard)).to_vec();
        client.batch(TABLE, ops).await?;
    }
    let age = Duration::from_secs(1);
    // A stale read sees every write that was acknowledged this long ago.
    tokio::time::sleep(age).await;

    // Four records a page. The cursor says where the next page begins; it is text for a link or a form, and any process can
    // go on with it.
    let mut cursor = None;
    loop {
        let options = ScanOptions {
            keys: Keys::All,
            limit: Some(4),
            cursor,
            consistency: Consistency::Stale(age),
            ..ScanOptions::default()
        };
        let mut page = client.scan(TABLE, options);
        let mut names = Vec::new();
        while let Some(record) = page.try_next().await? {
            names.push(String::from_utf8_lossy(&record.key).into_owned());
        }
        println!("page: {}", names.join(" "));
        cursor = page.cursor();
        if cursor.is_none() {
            return Ok(());
        }
    }
}
