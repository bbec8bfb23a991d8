//! `synod hot`: the busiest shards and keys, as the shards' leaders count and sample them.
//!
//! Owns: what is shown of loads, and in which order. Must never: show a key as hot that was met with once.

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::Result;
use super::output::{json, text};
use super::status;

/// Bytes of a hash, which the positions of a hash table begin with.
const HASH_BYTES: usize = 8;

/// `hot`.
#[derive(Args, Debug)]
pub struct HotArgs {
    #[command(subcommand)]
    command: HotCommand,
}

#[derive(Debug, Subcommand)]
enum HotCommand {
    /// List the shards whose leaders have most to do: averages with a half-life of ten seconds
    Shards(Most),
    /// List the keys that were sampled most, with their part of their shard's operations
    #[command(after_help = "\
Each leader keeps 64 sampled operations of a shard, which are renewed as others come: a share is right to about 12 percentage points. A \
page of a scan counts for its first key. A key of more than 128 bytes is shown up to there.")]
    Keys(Most),
}

#[derive(Args, Debug)]
struct Most {
    /// Only shards of this table
    table: Option<String>,
    /// Show at most this many
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Runs `hot`.
pub async fn run(context: &mut Context, args: HotArgs) -> Result<()> {
    let (HotCommand::Shards(most) | HotCommand::Keys(most)) = &args.command;
    let mut shards = status::fetch(context).await?.shards;
    if let Some(table) = &most.table {
        // Asked by name so that an unknown table is an error, not an empty list.
        context.connect().await?.table(table).await?;
        shards.retain(|shard| shard.table.as_ref() == Some(table));
    }
    let limit = most.limit as usize;
    match &args.command {
        HotCommand::Shards(_) => {
            let hottest = hot_shards(shards, limit);
            if context.out.json() {
                return hottest.iter().try_for_each(|shard| context.out.object(shard));
            }
            shard_lines(&hottest).iter().try_for_each(|line| context.out.line(line))
        }
        HotCommand::Keys(_) => {
            let hottest = hot_keys(&shards, limit);
            if context.out.json() {
                return hottest.iter().try_for_each(|key| context.out.object(key));
            }
            key_lines(&hottest).iter().try_for_each(|line| context.out.line(line))
        }
    }
}

/// The shards whose leaders say what they have to do, those with most operations first, of these those with most bytes.
fn hot_shards(shards: Vec<json::Shard>, limit: usize) -> Vec<json::HotShard> {
    let hot = |shard: json::Shard| {
        let json::Shard { id, table, leader, bytes, load, .. } = shard;
        Some(json::HotShard { shard: id, table, leader, bytes, load: load? })
    };
    let mut hottest: Vec<json::HotShard> = shards.into_iter().filter_map(hot).collect();
    hottest.sort_by_key(|hot| std::cmp::Reverse((hot.load.ops_per_s, hot.load.bytes_per_s)));
    hottest.truncate(limit);
    hottest
}

/// The keys that were sampled more than once, those with most operations first.
fn hot_keys(shards: &[json::Shard], limit: usize) -> Vec<json::HotKey> {
    let mut hottest: Vec<json::HotKey> = shards.iter().flat_map(of_shard).collect();
    hottest.sort_by_key(|hot| std::cmp::Reverse((hot.ops_per_s, hot.share_percent)));
    hottest.truncate(limit);
    hottest
}

fn of_shard(shard: &json::Shard) -> Vec<json::HotKey> {
    let hash = match &shard.bounds {
        json::Bounds::Keys { .. } => 0,
        json::Bounds::Ring { .. } => HASH_BYTES,
    };
    let Some(load) = &shard.load else { return Vec::new() };
    let hot = |sampled: &json::Sampled| {
        // The cluster's own shard has no keys.
        let key = sampled.position.get(hash..).filter(|key| !key.is_empty() && sampled.count > 1)?;
        Some(json::HotKey {
            key: json::Bytes(key.to_vec()),
            shard: shard.id,
            table: shard.table.clone(),
            leader: shard.leader,
            share_percent: u64::from(sampled.count) * 100 / u64::from(load.samples.max(1)),
            ops_per_s: sampled.ops,
            bytes_per_s: sampled.bytes,
        })
    };
    load.sampled.iter().filter_map(hot).collect()
}

fn shard_lines(hottest: &[json::HotShard]) -> Vec<String> {
    let columns =
        ["shard", "table", "leader", "ops/s", "reads/s", "writes/s", "read/s", "written/s", "most ops/s", "size"];
    let mut rows = text::table(&columns);
    for json::HotShard { shard, table, leader, bytes, load } in hottest {
        rows.add_row([
            shard.to_string(),
            table_name(table.as_ref()),
            text::or_dash(*leader),
            load.ops_per_s.to_string(),
            load.reads_per_s.to_string(),
            load.writes_per_s.to_string(),
            text::size(load.read_bytes_per_s),
            text::size(load.write_bytes_per_s),
            load.ops_per_s_max.to_string(),
            text::or_dash(bytes.map(text::size)),
        ]);
    }
    text::lines(&rows)
}

fn key_lines(hottest: &[json::HotKey]) -> Vec<String> {
    let mut rows = text::table(&["key", "shard", "table", "leader", "share", "ops/s", "bytes/s"]);
    for key in hottest {
        rows.add_row([
            text::escape(&key.key.0),
            key.shard.to_string(),
            table_name(key.table.as_ref()),
            text::or_dash(key.leader),
            format!("{} %", key.share_percent),
            key.ops_per_s.to_string(),
            text::size(key.bytes_per_s),
        ]);
    }
    text::lines(&rows)
}

fn table_name(table: Option<&String>) -> String {
    table.cloned().unwrap_or_else(|| "(system)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: u64, bounds: json::Bounds, load: Option<json::ShardLoad>) -> json::Shard {
        json::Shard {
            id,
            table: Some("t".to_owned()),
            bounds,
            changes: json::Changes { epoch: 1, version: 1 },
            leader: Some(1),
            replicas: vec![],
            scrub: None,
            merge: None,
            bytes: Some(5 << 20),
            load,
        }
    }

    fn keys() -> json::Bounds {
        json::Bounds::Keys { from: vec![], to: vec![] }
    }

    fn ring() -> json::Bounds {
        json::Bounds::Ring { from: vec![], to: vec![] }
    }

    fn load(ops: u64, bytes: u64, sampled: &[(&[u8], u32, u64)]) -> json::ShardLoad {
        let one = |(position, count, ops): &(&[u8], u32, u64)| json::Sampled {
            position: position.to_vec(),
            count: *count,
            ops: *ops,
            bytes: 1,
        };
        let sampled = sampled.iter().map(one).collect();
        json::ShardLoad { ops_per_s: ops, bytes_per_s: bytes, samples: 64, sampled, ..json::ShardLoad::default() }
    }

    #[test]
    fn the_busiest_come_first_and_who_says_nothing_is_not_shown() {
        let of = |id, ops, bytes| shard(id, keys(), Some(load(ops, bytes, &[])));
        let shards = vec![of(1, 5, 10), of(2, 7, 1), shard(3, keys(), None), of(4, 5, 20)];
        let order = |limit| hot_shards(shards.clone(), limit).iter().map(|hot| hot.shard).collect::<Vec<_>>();
        assert_eq!(order(10), [2, 4, 1]);
        assert_eq!(order(2), [2, 4]);
        let lines = shard_lines(&hot_shards(shards.clone(), 10));
        assert!(lines.len() == 4 && lines[1].starts_with('2') && lines[1].contains("5.0 MiB"), "{lines:?}");
    }

    #[test]
    fn keys_are_shown_without_their_hashes_and_with_their_shares() {
        let range = load(100, 0, &[(b"hot", 32, 50), (b"once", 1, 1)]);
        let hash = load(400, 0, &[(b"\x01aaaaaaauser", 16, 90), (b"\x02", 9, 50)]);
        let system = load(9, 0, &[(b"", 60, 9)]);
        let shards = [shard(5, keys(), Some(range)), shard(6, ring(), Some(hash)), shard(1, keys(), Some(system))];
        let hottest = hot_keys(&shards, 10);
        let found: Vec<_> = hottest.iter().map(|hot| (&hot.key.0[..], hot.shard, hot.share_percent)).collect();
        assert_eq!(found, [(&b"user"[..], 6, 25), (&b"hot"[..], 5, 50)]);
        assert_eq!(hot_keys(&shards, 1).len(), 1);
        let lines = key_lines(&hottest);
        assert!(lines[1].starts_with("user") && lines[1].contains("25 %"), "{lines:?}");
    }
}
