//! `synod explain`: where a key lives, and why.
//!
//! Owns the sentences that lead from a key to a node. Must never compute placement itself: the client library answers
//! with what it would use for a call.

use clap::Args;
use synod_client::{Explain, PartitionKind};
use synod_cluster::ids::ClusterVersion;

use super::bytes::{KeyEncoding, RawArg, raw_arg};
use super::context::Context;
use super::error::Result;
use super::output::{json, text};
use super::status;
use super::table::shown_shard;

/// `explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The table
    table: String,
    /// The key
    #[arg(value_parser = raw_arg(), allow_negative_numbers = true)]
    key: RawArg,
    /// How keys are written.
    #[command(flatten)]
    encoding: KeyEncoding,
}

/// Runs `explain`.
pub async fn run(context: &mut Context, args: ExplainArgs) -> Result<()> {
    let key = args.encoding.key(&args.key)?;
    let client = context.connect().await?;
    let mut explain = client.explain(&args.table, key).await?;
    let mut merge = None;
    if explain.leader.is_none() || client.map().version >= ClusterVersion::FIFTH.0 {
        // The map only repeats what it was told; the replicas know themselves.
        let status = status::combine(&*client.refresh_map().await?, &client.status().await);
        let shard = status.shards.into_iter().find(|shard| shard.id == explain.shard.id);
        if explain.leader.is_none() {
            explain.shard.leader = shard.as_ref().and_then(|shard| shard.leader);
            explain.leader = explain.voters.iter().find(|node| Some(node.id) == explain.shard.leader).cloned();
        }
        merge = shard.and_then(|shard| shard.merge);
    }
    let mut shown = shown(&explain);
    shown.why.extend(merge.map(|merge| format!("shard {} {}", shown.shard.id, merge.in_words())));
    context.out.value(&shown, |shown| shown.why.clone())
}

fn shown(explain: &Explain) -> json::Explain {
    let hash = explain.hash.map(|hash| format!("{hash:016x}"));
    json::Explain {
        key: json::Bytes(explain.key.to_vec()),
        table: explain.table.name.clone(),
        partition: explain.table.partitioning.as_str(),
        shard: shown_shard(explain.table.partitioning, &explain.shard),
        leader_addr: explain.leader.as_ref().map(|node| node.addr.clone()),
        why: why(explain, hash.as_deref()),
        hash,
    }
}

fn why(explain: &Explain, hash: Option<&str>) -> Vec<String> {
    let key = text::piece(&explain.key);
    let table = &explain.table;
    let shard = &explain.shard;
    let bounds = text::bounds(&super::table::bounds(table.partitioning, shard));
    let place = match table.partitioning {
        PartitionKind::Hash => {
            format!("table {} is partitioned by hash: XXH3-64 of the key is {}", table.name, hash.unwrap_or("-"))
        }
        PartitionKind::Range => format!("table {} is partitioned by range: the key itself is its place", table.name),
    };
    let voters: Vec<String> = explain.voters.iter().map(|node| format!("{} ({})", node.id, node.addr)).collect();
    let leader = match &explain.leader {
        Some(node) => format!("node {} at {} leads it and answers for the key", node.id, node.addr),
        None => "no leader is known at the moment; calls wait for one".to_owned(),
    };
    vec![
        format!("key '{key}' lives on shard {}", shard.id),
        place,
        format!("shard {} owns {bounds} of its {} shards", shard.id, table.shards),
        format!("its replicas are on nodes {}", voters.join(", ")),
        leader,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_client::{NodeInfo, NodeMark, Retention, ShardInfo, TableInfo};

    #[test]
    fn the_way_from_key_to_node_is_told() {
        let explain = Explain {
            table: TableInfo {
                id: 2,
                name: "t".into(),
                partitioning: PartitionKind::Hash,
                retention: Retention::Latest,
                replicas: 1,
                shards: 2,
            },
            key: "k".into(),
            hash: Some(0xff),
            shard: ShardInfo {
                id: 3,
                table_id: 2,
                from: Default::default(),
                to: vec![0x80, 0, 0, 0, 0, 0, 0, 0].into(),
                version: 1,
                epoch: 1,
                voters: vec![1],
                learners: vec![],
                leader: Some(1),
            },
            voters: vec![NodeInfo {
                id: 1,
                addr: "h:1".into(),
                mark: NodeMark::Stays,
                zone: String::new(),
                rack: String::new(),
            }],
            leader: Some(NodeInfo {
                id: 1,
                addr: "h:1".into(),
                mark: NodeMark::Stays,
                zone: String::new(),
                rack: String::new(),
            }),
        };
        let shown = shown(&explain);
        assert_eq!(shown.why.len(), 5);
        let value = serde_json::to_value(&shown).unwrap();
        assert_eq!(value["hash"], "00000000000000ff");
        assert_eq!(value["shard"]["to"], "8000000000000000");
        assert_eq!(value["leader_addr"], "h:1");
    }
}
