//! A key-value table: put, get, delete, and an older value of a key.
//!
//!     cargo run --release --workspace --example put_get -- 127.0.0.1:7401

mod shared;

use synod_client::{At, Expect, GetOptions, Result, Retention, TableSpec};

#[tokio::main]
async fn main() -> Result<()> {
    // A client is cheap to clone; one for the whole program is enough.
    let client = shared::connect().await?;

    // Keys are spread over four shards by their hash. `All` keeps the older records of a key, which are read below; `Latest`
    // keeps the newest alone.
    shared::ensure_table(&client, TableSpec::hash("example-greetings", 4, Retention::All)).await?;

    // When this returns, the record is on the disks of a majority of the shard's replicas.
    let first = client.put("example-greetings", "en", "hello").await?;
    let second = client.put("example-greetings", "en", "hello again").await?;
    // Every key is a log: each write has the next offset.
    assert_eq!(second.offset, first.offset + 1);

    // A linearizable read: it sees every write that was acknowledged before it began.
    let newest = client.get("example-greetings", "en", GetOptions::default()).await?;
    println!("newest: {}", text(newest.map(|record| record.value)));

    // The record at an offset. `At::TsUs` asks for the newest one at a time.
    let older = GetOptions { at: Some(At::Offset(first.offset)), ..GetOptions::default() };
    let older = client.get("example-greetings", "en", older).await?;
    println!("before: {}", text(older.map(|record| record.value)));

    // A delete is a record too, a tombstone. `Expect::Exists` refuses to delete what is not there.
    client.delete("example-greetings", "en", Expect::Exists).await?;
    let gone = client.get("example-greetings", "en", GetOptions::default()).await?;
    println!("after the delete: {}", text(gone.map(|record| record.value)));
    Ok(())
}

/// Values are bytes; these are text.
fn text(value: Option<impl AsRef<[u8]>>) -> String {
    value.map_or_else(|| "nothing".into(), |value| String::from_utf8_lossy(value.as_ref()).into_owned())
}
