//! `synod shard split`: one shard becomes two.
//!
//! Owns: where a shard is divided that is named on the command line, and the words for what came of it. Must never: carry a step of it
//! out: the cluster does, as a job. Interrupted anywhere, the job goes on, and the same command watches it.

use bytes::Bytes;
use clap::Args;
use synod_client::{Client, ClusterMap, Error, JobGoal, PartitionKind, ShardInfo};
use synod_cluster::ids::ClusterVersion;
use synod_cluster::jobs::split::{Bounds, middle_of_ring};
use synod_cluster::system::{CLUSTER_VERSION, JOBS};

use super::bytes::{KeyEncoding, RawArg, raw_arg};
use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::escape::to_base64;
use super::jobs;
use super::moves::find;
use super::output::{json, text};
use super::table::bounds;

/// `shard split`.
#[derive(Args, Debug)]
pub struct SplitArgs {
    /// The shard's number
    shard: u64,
    /// Where the second shard begins: a key, or 16 hexadecimal digits on a hash table [default: on a hash table the middle]
    #[arg(long, value_name = "KEY|HASH", value_parser = raw_arg())]
    at: Option<RawArg>,
    /// How keys are written.
    #[command(flatten)]
    encoding: KeyEncoding,
    /// Only begin the split, and print its job's number
    #[arg(long, visible_alias = "no-wait")]
    detach: bool,
}

/// Runs `shard split`.
pub async fn split_shard(context: &mut Context, args: SplitArgs) -> Result<()> {
    let client = context.connect().await?;
    let Begun { info, kind, at, job } = begin(&client, &args).await?;
    let goal = jobs::in_words(&goal(&info, &at));
    context.progress(&format!("job {job} {goal}; it goes on if this command ends"));
    let mut child = None;
    if !args.detach {
        jobs::until_done(context, &client, job).await?;
        // The job is done once the map has the child. One that was split or moved on since is there all the same, or its place is.
        let map = client.refresh_map().await?;
        child =
            map.shards.iter().find(|shard| shard.table_id == info.table_id && shard.from == at).map(|shard| shard.id);
    }
    let id = info.id;
    let done = shown(id, child, kind, &at, job);
    context.out.done(&done, |_| {
        let at = place(kind, &at);
        vec![match child {
            None => format!("job {job} splits shard {id} at {at}"),
            Some(child) => format!("shard {id} ends at {at} now, shard {child} begins there"),
        }]
    })
}

/// A split that the cluster carries out by now.
struct Begun {
    /// The shard as it was found.
    info: ShardInfo,
    kind: PartitionKind,
    /// Where the second shard is to begin.
    at: Bytes,
    job: u64,
}

/// Begins to split a shard where it is split when nothing is said, and tells what was begun.
pub async fn begin_by_default(client: &Client, shard: u64) -> Result<String> {
    let args = SplitArgs { shard, at: None, encoding: KeyEncoding::default(), detach: true };
    let Begun { kind, at, job, .. } = begin(client, &args).await?;
    Ok(format!("job {job} splits shard {shard} at {}", place(kind, &at)))
}

async fn begin(client: &Client, args: &SplitArgs) -> Result<Begun> {
    let map = client.refresh_map().await?;
    let needed = ClusterVersion::FOURTH;
    if map.version < needed.0 {
        let version = map.version;
        let why =
            format!("the cluster is at version {version}, splits need {needed}: `synod cluster upgrade` raises it");
        return Err(CliError::failed(CLUSTER_VERSION, why).with("version", version));
    }
    let info = find(&map, args.shard)?;
    let kind = partitioning(&map, info)?;
    let at = position(args, info, kind)?;
    let job = start(client, info, &at).await?;
    Ok(Begun { info: info.clone(), kind, at, job })
}

/// How the keys of the shard's table are spread.
fn partitioning(map: &ClusterMap, shard: &ShardInfo) -> Result<PartitionKind> {
    let table = map.tables.iter().find(|table| table.id == shard.table_id);
    let system = || CliError::usage("SHARD", "the system shard is never split").with("shard", shard.id);
    table.map(|table| table.partitioning).ok_or_else(system)
}

/// Where the second shard is to begin.
fn position(args: &SplitArgs, shard: &ShardInfo, kind: PartitionKind) -> Result<Bytes> {
    let at = match (kind, &args.at) {
        (PartitionKind::Range, Some(arg)) => Bytes::from(args.encoding.decode("--at", arg)?),
        (PartitionKind::Hash, Some(arg)) => hash(arg)?,
        (PartitionKind::Hash, None) => middle_of_ring(&shard.from, &shard.to).ok_or_else(|| {
            let message = format!("shard {} has a single hash: nothing of it can be divided", shard.id);
            CliError::failed("indivisible", message).with("shard", shard.id)
        })?,
        (PartitionKind::Range, None) => {
            let why = "must be given on a range table: the key where the second shard begins";
            return Err(CliError::usage("--at", why).with("shard", shard.id));
        }
    };
    let own = Bounds { from: shard.from.clone(), to: shard.to.clone(), version: shard.version };
    if !own.divides(&at) {
        let (place, id, bounds) = (place(kind, &at), shard.id, text::bounds(&bounds(kind, shard)));
        let why = format!("{place} does not divide shard {id}, which owns {bounds}: both parts must have something");
        return Err(CliError::usage("--at", why).with("shard", id));
    }
    Ok(at)
}

fn hash(arg: &RawArg) -> Result<Bytes> {
    let digits = std::str::from_utf8(&arg.0).ok().filter(|text| text.len() == 16 && !text.starts_with('+'));
    let hash = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let hash =
        hash.ok_or_else(|| CliError::usage("--at", "a hash has 16 hexadecimal digits, as `synod explain` prints it"))?;
    Ok(Bytes::copy_from_slice(&hash.to_be_bytes()))
}

/// A position in words.
fn place(kind: PartitionKind, at: &[u8]) -> String {
    match kind {
        PartitionKind::Range => format!("'{}'", text::piece(at)),
        PartitionKind::Hash => json::ring(at).unwrap_or_default(),
    }
}

fn goal(shard: &ShardInfo, at: &Bytes) -> JobGoal {
    JobGoal::SplitShard { shard: shard.id, version: shard.version, at: Some(at.clone()) }
}

async fn start(client: &Client, shard: &ShardInfo, at: &Bytes) -> Result<u64> {
    let error = match client.start_job(goal(shard, at)).await {
        Ok(id) => return Ok(id),
        Err(error) => error,
    };
    let error = match error {
        Error::InvalidArgument { field, why } if field == JOBS => CliError::failed("too_many_jobs", why).retryable(),
        // The map that was seen here is newer than the system shard leader's state, or a later split came first.
        Error::InvalidArgument { field, why } if field == CLUSTER_VERSION || field == "version" => {
            CliError::failed("unavailable", why).retryable()
        }
        error => {
            let how = "`synod job list` shows whether it has begun; the same command can be repeated";
            to_be_repeated(error, how)
        }
    };
    Err(error.with("shard", shard.id))
}

/// What is printed as JSON: `child` is null where nobody waited for it.
fn shown(shard: u64, child: Option<u64>, kind: PartitionKind, at: &[u8], job: u64) -> serde_json::Value {
    let mut done = serde_json::json!({ "shard": shard, "child": child, "job": job });
    let (name, value) = match (kind, std::str::from_utf8(at)) {
        (PartitionKind::Hash, _) => ("at", place(kind, at)),
        (PartitionKind::Range, Ok(text)) => ("at", text.to_owned()),
        (PartitionKind::Range, Err(_)) => ("at_base64", to_base64(at)),
    };
    done[name] = value.into();
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use synod_client::{Retention, TableInfo};

    fn args(at: Option<&[u8]>) -> SplitArgs {
        let at = at.map(|at| RawArg(at.to_vec()));
        SplitArgs { shard: 5, at, encoding: KeyEncoding::default(), detach: false }
    }

    fn shard(from: &[u8], to: &[u8]) -> ShardInfo {
        let bytes = Bytes::copy_from_slice;
        let (from, to) = (bytes(from), bytes(to));
        ShardInfo {
            id: 5,
            table_id: 7,
            from,
            to,
            version: 3,
            epoch: 1,
            voters: vec![1],
            learners: vec![],
            leader: None,
        }
    }

    fn refused(at: Option<&[u8]>, shard: &ShardInfo, kind: PartitionKind) -> String {
        position(&args(at), shard, kind).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_key_must_leave_something_on_both_sides() {
        let range = shard(b"d", b"m");
        assert_eq!(position(&args(Some(b"g")), &range, PartitionKind::Range).unwrap(), "g");
        for at in [b"d".as_slice(), b"m", b"a", b"z", b""] {
            let why = refused(Some(at), &range, PartitionKind::Range);
            assert!(why.contains("does not divide shard 5") && why.contains("--at"), "{why}");
        }
        assert!(refused(None, &range, PartitionKind::Range).contains("must be given on a range table"));
    }

    #[test]
    fn a_hash_has_16_digits_and_its_middle_is_found() {
        let (whole, upper) = (shard(b"", b""), shard(&[0x80, 0, 0, 0, 0, 0, 0, 0], b""));
        let at = |at: Option<&[u8]>, shard: &ShardInfo| {
            position(&args(at), shard, PartitionKind::Hash).unwrap()[..2].to_vec()
        };
        assert_eq!(at(None, &whole), [0x80, 0]);
        assert_eq!(at(None, &upper), [0xc0, 0]);
        assert_eq!(at(Some(b"4000000000000000"), &whole), [0x40, 0]);
        for bad in [b"40".as_slice(), b"g000000000000000", b"+000000000000000", b"\xff"] {
            assert!(refused(Some(bad), &whole, PartitionKind::Hash).contains("16 hexadecimal digits"));
        }
        let why = refused(Some(b"8000000000000000"), &upper, PartitionKind::Hash);
        assert!(why.contains("8000000000000000 does not divide shard 5"), "{why}");
        let one = shard(&[0xff; 8], b"");
        assert!(refused(None, &one, PartitionKind::Hash).contains("single hash"));
    }

    #[test]
    fn the_system_shard_is_never_split() {
        let partitioning = PartitionKind::Hash;
        let (name, retention) = ("t".to_owned(), Retention::All);
        let table = TableInfo { id: 7, name, partitioning, retention, replicas: 1, shards: 1 };
        let cluster = vec![0; 16].into();
        let map = ClusterMap { cluster, revision: 1, version: 4, nodes: vec![], tables: vec![table], shards: vec![] };
        assert_eq!(super::partitioning(&map, &shard(b"", b"")).unwrap(), PartitionKind::Hash);
        let system = ShardInfo { id: 1, table_id: 0, ..shard(b"", b"") };
        assert!(super::partitioning(&map, &system).unwrap_err().message().contains("never split"));
    }

    #[test]
    fn what_came_of_it_is_as_documented() {
        let shown = |kind, at: &[u8]| super::shown(5, Some(9), kind, at, 3);
        assert_eq!(shown(PartitionKind::Range, b"k"), json!({"shard": 5, "child": 9, "job": 3, "at": "k"}));
        assert_eq!(
            shown(PartitionKind::Range, b"\xff"),
            json!({"shard": 5, "child": 9, "job": 3, "at_base64": "/w=="})
        );
        let at = &[0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(shown(PartitionKind::Hash, at)["at"], "8000000000000000");
    }
}
