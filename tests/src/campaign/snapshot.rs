//! Turns in which a node is away while its peers trim what it lacks, and is killed again while it catches up by snapshot.
//!
//! Owns: large records beside the load, so that there is something to send. Must never: take a node for caught up that
//! cannot show its own copy.

use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_client::{Expect, NewRecord, Retention, TableSpec};

use super::Turn;
use super::load::{Load, TABLE};
use crate::cluster::{Cluster, PATIENCE};
use crate::run::until;

/// A log that is trimmed soon, and snapshots slow enough to be hit on their way.
pub(super) const SETTINGS: &str =
    "[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n[snapshot]\nmax_rate = \"8MiB\"\n";

const BULK_RECORD: usize = 32 << 10;
const BULK_RECORDS: u64 = 240;

/// Creates a table of large records.
pub(super) fn create_bulk(cluster: &Cluster, load: &Load, table: &str) -> Result<(), String> {
    let (client, runtime) = load.client(cluster)?;
    let created = runtime.block_on(client.create_table(TableSpec::hash(table, 2, Retention::All)));
    created.map(drop).map_err(|error| error.to_string())
}

/// Writes so many large records.
pub(super) fn write_bulk(cluster: &Cluster, load: &Load, table: &str, count: u64) -> Result<(), String> {
    let (client, runtime) = load.client(cluster)?;
    (0..count).try_for_each(|n| {
        let value: Vec<u8> = (0..BULK_RECORD as u64).map(|i| ((i * 31 + n * 17) % 251) as u8).collect();
        let record = NewRecord::new(Bytes::from(value));
        let appended = client.append(table, format!("bulk-{}", n % 50), vec![record], Expect::Any);
        runtime.block_on(appended).map(drop).map_err(|error| error.to_string())
    })
}

/// Makes a node lead every shard of these tables, so that reads show its own copy.
pub(super) fn lead(cluster: &Cluster, node: u16, tables: &[&str]) -> Result<(), String> {
    // One after the other, by a command each: long on a machine that is busy.
    until(PATIENCE * 4, "the node leads every shard", || {
        let status = cluster.status()?;
        let id = status.id(&cluster.addr(node))?;
        let shards = tables.iter().flat_map(|table| status.shards_of(table));
        let others = shards.filter(|shard| shard["leader"].as_u64() != Some(id));
        let others: Vec<u64> = others.filter_map(|shard| shard["id"].as_u64()).collect();
        for shard in &others {
            // Refused while an earlier attempt is under way.
            cluster.cli(&["shard", "transfer-leader", &shard.to_string(), "--to", &id.to_string()]);
        }
        others.is_empty().then_some(())
    })
}

/// The large records as whoever leads them has them.
fn bulk(cluster: &Cluster, table: &str) -> String {
    cluster.cli(&["-o", "json", "--timeout", "60s", "scan", table]).ok().stdout
}

/// How many snapshots a node has said it received and installed.
fn stages(cluster: &Cluster, node: u16) -> (usize, usize) {
    let said = cluster.log(node);
    (said.matches("snapshot received").count(), said.matches("took the replica's place").count())
}

/// One node, another each turn.
pub(super) fn turn(cluster: &mut Cluster, load: &Load, number: usize) -> Result<Turn, String> {
    // A new one each time: of a shard that gave a snapshot just now the log is kept for a minute.
    let table = &format!("bulk-{number}");
    create_bulk(cluster, load, table)?;
    cluster.wait_up();
    let victim = u16::try_from(number % 3).expect("small") + 1;
    let began = Instant::now();
    let before = stages(cluster, victim);
    cluster.kill(victim);
    write_bulk(cluster, load, table, BULK_RECORDS)?;
    sleep(Duration::from_secs(1));
    cluster.restart(victim);
    sleep(Duration::from_millis(250 + (number as u64 * 173) % 2000));
    let hit = stages(cluster, victim);
    cluster.kill(victim);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    let after = stages(cluster, victim);
    if after.1 == before.1 {
        return Err(format!("node {victim} caught up without a snapshot"));
    }
    let there = bulk(cluster, table);
    lead(cluster, victim, &[TABLE, table])?;
    if bulk(cluster, table) != there {
        return Err(format!("node {victim} has other large records than its peers"));
    }
    // The load reads what it installed.
    sleep(Duration::from_millis(500));
    load.wait_flowing(PATIENCE);
    let note = format!(
        "node {victim} killed with {} received and {} installed, {} installed in the end;",
        hit.0 - before.0,
        hit.1 - before.1,
        after.1 - before.1
    );
    Ok(Turn { pause: load.pause(began), during: None, note })
}
