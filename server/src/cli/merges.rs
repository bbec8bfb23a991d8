//! `synod shard merge`: two neighbours become one shard.
//!
//! Owns: which of two shards can be merged by what the map says, and the words for what came of it. Must never: carry a step of it out:
//! the cluster does, as a job. Interrupted anywhere, the job goes on, and the same command watches it.

use bytes::Bytes;
use clap::Args;
use synod_client::{Client, ClusterMap, Error, JobGoal, ShardInfo};
use synod_cluster::ids::ClusterVersion;
use synod_cluster::system::{CLUSTER_VERSION, JOBS};

use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::jobs;
use super::moves::find;
use super::output::{json, text};
use super::table::bounds;

/// `shard merge`.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// The shard that stays
    shard: u64,
    /// The neighbour that goes into it
    source: u64,
    /// Only print what the shard would own
    #[arg(long, conflicts_with = "detach")]
    dry_run: bool,
    /// Only begin the merge, and print its job's number
    #[arg(long, visible_alias = "no-wait")]
    detach: bool,
}

/// Two neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    shard: u64,
    source: u64,
    /// Where the upper one begins.
    border: Bytes,
    /// What both own together.
    bounds: json::Bounds,
}

/// Runs `shard merge`.
pub async fn merge_shards(context: &mut Context, args: MergeArgs) -> Result<()> {
    let client = context.connect().await?;
    let map = client.refresh_map().await?;
    check_version(&map)?;
    let pair = pair(&map, args.shard, args.source)?;
    let Pair { shard, source, .. } = pair;
    let owns = text::bounds(&pair.bounds);
    if args.dry_run {
        let would = serde_json::json!({ "shard": shard, "source": source, "dry_run": true });
        return context
            .out
            .value(&would, |_| vec![format!("would merge shard {source} into shard {shard}, which would own {owns}")]);
    }
    let job = start(&client, &pair).await?;
    context.progress(&format!("job {job} merges shard {source} into shard {shard}; it goes on if this command ends"));
    if !args.detach {
        jobs::until_done(context, &client, job).await?;
    }
    let done = serde_json::json!({ "shard": shard, "source": source, "job": job });
    context.out.done(&done, |_| {
        vec![if args.detach {
            format!("job {job} merges shard {source} into shard {shard}")
        } else {
            format!("shard {source} went into shard {shard}, which owns {owns} now")
        }]
    })
}

fn check_version(map: &ClusterMap) -> Result<()> {
    let (version, needed) = (map.version, ClusterVersion::FIFTH);
    if version >= needed.0 {
        return Ok(());
    }
    let why = format!("the cluster is at version {version}, merges need {needed}: `synod cluster upgrade` raises it");
    Err(CliError::failed(CLUSTER_VERSION, why).with("version", version))
}

/// The two shards of the command line, where they are neighbours with as many replicas.
fn pair(map: &ClusterMap, shard: u64, source: u64) -> Result<Pair> {
    let (kept, gone) = (find(map, shard)?, find(map, source)?);
    let refused = |why: String| Err(CliError::usage("SOURCE", why).with("shard", shard).with("source", source));
    if shard == source {
        return refused(format!("shard {shard} cannot go into itself"));
    }
    let table = |info: &ShardInfo| map.tables.iter().find(|table| table.id == info.table_id);
    let (Some(table_kept), Some(table_gone)) = (table(kept), table(gone)) else {
        return refused("the system shard is never merged".to_owned());
    };
    if table_kept.id != table_gone.id {
        let (one, other) = (&table_kept.name, &table_gone.name);
        return refused(format!("shard {shard} is of table {one}, shard {source} of table {other}"));
    }
    if kept.voters.len() != gone.voters.len() {
        let (one, other) = (kept.voters.len(), gone.voters.len());
        return refused(format!("shard {shard} has {one} replicas, shard {source} has {other}: they must be as many"));
    }
    let meets = |low: &ShardInfo, high: &ShardInfo| !low.to.is_empty() && low.to == high.from;
    let (low, high) = match (meets(kept, gone), meets(gone, kept)) {
        (true, _) => (kept, gone),
        (_, true) => (gone, kept),
        _ => {
            let of = |info| text::bounds(&bounds(table_kept.partitioning, info));
            let (one, other) = (of(kept), of(gone));
            return refused(format!("shards {shard} ({one}) and {source} ({other}) are no neighbours"));
        }
    };
    let both = ShardInfo { to: high.to.clone(), ..low.clone() };
    Ok(Pair { shard, source, border: high.from.clone(), bounds: bounds(table_kept.partitioning, &both) })
}

async fn start(client: &Client, pair: &Pair) -> Result<u64> {
    let Pair { shard, source, border, .. } = pair.clone();
    let error = match client.start_job(JobGoal::MergeShards { shard, source, border }).await {
        Ok(id) => return Ok(id),
        Err(error) => error,
    };
    let error = match error {
        Error::InvalidArgument { field, why } if field == JOBS => CliError::failed("too_many_jobs", why).retryable(),
        // The map that was seen here is newer than the system shard leader's state.
        Error::InvalidArgument { field, why } if field == CLUSTER_VERSION => {
            CliError::failed("unavailable", why).retryable()
        }
        error => {
            let how = "`synod job list` shows whether it has begun; the same command can be repeated";
            to_be_repeated(error, how)
        }
    };
    Err(error.with("shard", shard).with("source", source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_client::{PartitionKind, Retention, TableInfo};

    fn shard(id: u64, table_id: u32, from: &'static str, to: &'static str, voters: &[u64]) -> ShardInfo {
        ShardInfo {
            id,
            table_id,
            from: from.into(),
            to: to.into(),
            version: 3,
            epoch: 1,
            voters: voters.to_vec(),
            learners: vec![],
            leader: None,
        }
    }

    fn table(id: u32, name: &str) -> TableInfo {
        let partitioning = PartitionKind::Range;
        TableInfo { id, name: name.into(), partitioning, retention: Retention::All, replicas: 3, shards: 3 }
    }

    /// Shards 2 to 4 of one table, shard 5 of another.
    fn map(version: u32) -> ClusterMap {
        ClusterMap {
            cluster: vec![0xab; 16].into(),
            revision: 1,
            version,
            nodes: vec![],
            tables: vec![table(7, "t"), table(8, "u")],
            shards: vec![
                shard(1, 0, "", "", &[1, 2, 3]),
                shard(2, 7, "", "g", &[1, 2, 3]),
                shard(3, 7, "g", "p", &[1, 2, 4]),
                shard(4, 7, "p", "", &[1]),
                shard(5, 8, "g", "", &[1, 2, 3]),
            ],
        }
    }

    #[test]
    fn neighbours_are_merged_whichever_stays() {
        for (kept, gone) in [(2, 3), (3, 2)] {
            let pair = pair(&map(5), kept, gone).unwrap();
            assert_eq!((pair.shard, pair.source, &pair.border[..]), (kept, gone, &b"g"[..]));
            assert!(text::bounds(&pair.bounds).contains('p'), "{pair:?}");
        }
    }

    #[test]
    fn what_cannot_be_merged_is_refused_and_says_why() {
        let cases = [
            (2, 2, "cannot go into itself"),
            (2, 1, "the system shard is never merged"),
            (2, 5, "shard 2 is of table t, shard 5 of table u"),
            (3, 4, "shard 3 has 3 replicas, shard 4 has 1"),
            (2, 9, "shard 9 does not exist"),
        ];
        for (kept, gone, why) in cases {
            let error = pair(&map(5), kept, gone).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
        let mut apart = map(5);
        apart.shards[3].voters = vec![1, 2, 3];
        assert!(pair(&apart, 2, 4).unwrap_err().message().contains("are no neighbours"));
    }

    #[test]
    fn a_version_below_the_fifth_is_refused_by_name() {
        let error = check_version(&map(4)).unwrap_err();
        assert!(error.kind() == CLUSTER_VERSION && error.message().contains("merges need 5"), "{error}");
        assert!(check_version(&map(5)).is_ok());
    }
}
