//! Several writes at once: all of them, or none.
//!
//!     cargo run --release --workspace --example batch -- 127.0.0.1:7401

mod shared;

use synod_client::{Error, Expect, GetOptions, Result, Retention, TableSpec, WriteOp};

const TABLE: &str = "example-seats";

#[tokio::main]
async fn main() -> Result<()> {
    let client = shared::connect().await?;
    // A batch is atomic on one shard. A range table keeps keys with one prefix together, as long as no split point lies
    // between them; this one has no split point, hence one shard.
    shared::ensure_table(&client, TableSpec::range(TABLE, vec![], Retention::Latest)).await?;
    client.batch(TABLE, vec![WriteOp::delete("hall/12"), WriteOp::delete("hall/13"), WriteOp::delete("ada")]).await?;

    // Two seats and a receipt, if both seats are free.
    let ops = vec![
        WriteOp::put("hall/12", "ada").expect(Expect::Absent),
        WriteOp::put("hall/13", "ada").expect(Expect::Absent),
        WriteOp::put("ada", "hall/12 hall/13"),
    ];
    let written = client.batch(TABLE, ops).await?;
    println!("ada has {} records at one time, {} µs", written.len(), written[0].ts_us);

    // The second seat is taken, so the first is not taken either.
    let ops = vec![
        WriteOp::put("hall/14", "bob").expect(Expect::Absent),
        WriteOp::put("hall/13", "bob").expect(Expect::Absent),
    ];
    match client.batch(TABLE, ops).await {
        Err(Error::ExpectationFailed { op_index, .. }) => println!("bob: operation {op_index} was refused"),
        other => panic!("the seat is taken: {other:?}"),
    }
    let free = client.get(TABLE, "hall/14", GetOptions::default()).await?.is_none();
    println!("hall/14 is {}", if free { "free" } else { "taken" });
    Ok(())
}
