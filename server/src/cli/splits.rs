//! `synod shard split`: one shard becomes two.
//!
//! Owns: where a shard is divided, by the command line or by what its leader finds, and the words for what came of it. Must never: carry a
//! step of it out: the cluster does, as a job. Interrupted anywhere, the job goes on, and the same command watches it.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use synod_client::proto::DivideShardReply;
use synod_client::{Client, ClusterMap, Error, Job, JobGoal, PartitionKind, ShardInfo};
use synod_cluster::ids::ClusterVersion;
use synod_cluster::jobs::split::middle_of_ring;
use synod_cluster::system::{CLUSTER_VERSION, JOBS, Partitioning};
use tokio::time::{Instant, sleep};

use super::bytes::{KeyEncoding, RawArg, raw_arg};
use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::escape::to_base64;
use super::jobs;
use super::moves::find;
use super::output::{json, text};
use super::table::bounds;

/// Bytes of a hash, which the positions of a hash table begin with.
const HASH_BYTES: usize = 8;
/// How long a node may take to hear of a split that the system shard knows.
const NEWS: Duration = Duration::from_secs(5);
/// Pause between two looks at the map.
const PACE: Duration = Duration::from_millis(50);

/// `shard split`.
#[derive(Args, Debug)]
pub struct SplitArgs {
    /// The shard's number
    shard: u64,
    /// Where the second shard begins: a key, or 16 hexadecimal digits on a hash table [default: what --by finds]
    #[arg(long, value_name = "KEY|HASH", value_parser = raw_arg(), conflicts_with = "by")]
    at: Option<RawArg>,
    /// What is halved where --at does not say where; the load is halved at a key that was sampled
    #[arg(long, value_enum, default_value = "bytes")]
    by: By,
    /// How keys are written.
    #[command(flatten)]
    encoding: KeyEncoding,
    /// Only print where the shard would be split, and what each part would have
    #[arg(long, conflicts_with = "detach")]
    dry_run: bool,
    /// Only begin the split, and print its job's number
    #[arg(long, visible_alias = "no-wait")]
    detach: bool,
}

/// What a split is to halve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The bytes of the records
    #[default]
    Bytes,
    /// The operations and bytes a second
    Load,
}

/// Where a shard is split, and what the lower part has then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chosen {
    at: Bytes,
    below: Below,
}

/// What is known of the lower part.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Below {
    /// Nothing: a position was named, or the ring of a shard without records is halved.
    Unknown,
    /// So many of its bytes, about.
    Bytes { below: u64, total: u64 },
    /// So many of its units of load, as far as they were sampled.
    Load { permille: u32, ops: u64 },
}

/// Runs `shard split`.
pub async fn split_shard(context: &mut Context, args: SplitArgs) -> Result<()> {
    let client = context.connect().await?;
    if args.dry_run {
        let map = client.refresh_map().await?;
        let (info, kind, at) = asked(&map, &args)?;
        let chosen = decide(&client, &args, info, kind, at).await?;
        let would = would(info.id, kind, &chosen);
        return context.out.value(&would, |_| vec![would_in_words(info.id, kind, &chosen)]);
    }
    let Begun { info, kind, at, job } = begin(&client, &args).await?;
    let goal = jobs::in_words(&goal(&info, &at));
    context.progress(&format!("job {job} {goal}; it goes on if this command ends"));
    let mut child = None;
    if !args.detach {
        jobs::until_done(context, &client, job).await?;
        child = made(&client, &info, &at).await;
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

/// The shard of the command line, how its table is spread, and where it is to be split if that is said.
fn asked<'a>(map: &'a ClusterMap, args: &SplitArgs) -> Result<(&'a ShardInfo, PartitionKind, Option<Bytes>)> {
    let info = find(map, args.shard)?;
    let kind = partitioning(map, info)?;
    let at = named(args, info, kind)?;
    Ok((info, kind, at))
}

/// Where to split: as the command line says, else as the shard's leader finds.
async fn decide(
    client: &Client,
    args: &SplitArgs,
    info: &ShardInfo,
    kind: PartitionKind,
    at: Option<Bytes>,
) -> Result<Chosen> {
    match at {
        Some(at) => Ok(Chosen { at, below: Below::Unknown }),
        None => choose(args.by, info, kind, &client.divide(info.id).await?),
    }
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
    let encoding = KeyEncoding::default();
    let args = SplitArgs { shard, at: None, by: By::default(), encoding, dry_run: false, detach: true };
    let Begun { kind, at, job, .. } = begin(client, &args).await?;
    Ok(format!("job {job} splits shard {shard} at {}", place(kind, &at)))
}

async fn begin(client: &Client, args: &SplitArgs) -> Result<Begun> {
    let map = client.refresh_map().await?;
    check_version(&map)?;
    let (info, kind, mut at) = asked(&map, args)?;
    if at.is_none() {
        // The middle may be another one by now: what was begun goes on where it was begun.
        at = begun(&client.jobs().await?, info);
    }
    let at = decide(client, args, info, kind, at).await?.at;
    let job = start(client, info, &at).await?;
    Ok(Begun { info: info.clone(), kind, at, job })
}

fn check_version(map: &ClusterMap) -> Result<()> {
    let (version, needed) = (map.version, ClusterVersion::FOURTH);
    if version >= needed.0 {
        return Ok(());
    }
    let why = format!("the cluster is at version {version}, splits need {needed}: `synod cluster upgrade` raises it");
    Err(CliError::failed(CLUSTER_VERSION, why).with("version", version))
}

/// The shard that a split has made, which the map of the node that is asked may be yet to hear of. `None` where it is not seen: the
/// table was dropped meanwhile, or no node answers.
async fn made(client: &Client, parent: &ShardInfo, at: &Bytes) -> Option<u64> {
    let began = Instant::now();
    loop {
        // A look that fails says nothing of the split, which is done.
        if let Ok(map) = client.refresh_map().await {
            // One that was split or moved since begins at the same place.
            let child = map.shards.iter().find(|shard| shard.table_id == parent.table_id && shard.from == *at);
            let dropped = map.tables.iter().all(|table| table.id != parent.table_id);
            if child.is_some() || dropped {
                return child.map(|shard| shard.id);
            }
        }
        if began.elapsed() > NEWS {
            return None;
        }
        sleep(PACE).await;
    }
}

/// How the keys of the shard's table are spread.
fn partitioning(map: &ClusterMap, shard: &ShardInfo) -> Result<PartitionKind> {
    let table = map.tables.iter().find(|table| table.id == shard.table_id);
    let system = || CliError::usage("SHARD", "the system shard is never split").with("shard", shard.id);
    table.map(|table| table.partitioning).ok_or_else(system)
}

/// Where the second shard is to begin, if the command line says so.
fn named(args: &SplitArgs, shard: &ShardInfo, kind: PartitionKind) -> Result<Option<Bytes>> {
    let Some(arg) = &args.at else { return Ok(None) };
    let at = match kind {
        PartitionKind::Range => Bytes::from(args.encoding.decode("--at", arg)?),
        PartitionKind::Hash => hash(arg)?,
    };
    if !divides(kind, shard, &at) {
        let (place, id, bounds) = (place(kind, &at), shard.id, text::bounds(&bounds(kind, shard)));
        let why = format!("{place} does not divide shard {id}, which owns {bounds}: both parts must have something");
        return Err(CliError::usage("--at", why).with("shard", id));
    }
    Ok(Some(at))
}

/// Where a split that runs divides the shard as it is.
fn begun(jobs: &[Job], of: &ShardInfo) -> Option<Bytes> {
    jobs.iter().filter(|job| job.state == "running").find_map(|job| match &job.goal {
        JobGoal::SplitShard { shard, version, at } if (*shard, *version) == (of.id, of.version) => at.clone(),
        _ => None,
    })
}

fn divides(kind: PartitionKind, shard: &ShardInfo, at: &Bytes) -> bool {
    let partitioning = match kind {
        PartitionKind::Range => Partitioning::Range,
        PartitionKind::Hash => Partitioning::Hash,
    };
    partitioning.divides(at, &shard.from, &shard.to)
}

/// Where the second shard is to begin, by what the shard's leader found.
fn choose(by: By, shard: &ShardInfo, kind: PartitionKind, found: &DivideShardReply) -> Result<Chosen> {
    let id = shard.id;
    if found.version != shard.version {
        let message =
            format!("the bounds of shard {id} have changed since the map was read; the same command can be repeated");
        return Err(CliError::failed("unavailable", message).with("shard", id).retryable());
    }
    let chosen = match by {
        By::Bytes => by_bytes(shard, kind, found),
        By::Load => by_load(shard, kind, found)?,
    };
    let how = "`--at` names another place";
    chosen.filter(|chosen| divides(kind, shard, &chosen.at)).ok_or_else(|| {
        let message = match by {
            By::Bytes if found.bytes == 0 && kind == PartitionKind::Hash => {
                format!("shard {id} has a single hash: nothing of it can be divided")
            }
            By::Bytes if found.bytes == 0 => format!("shard {id} has no records, so no middle; {how}"),
            By::Bytes => {
                let size = text::size(found.bytes);
                format!("one key has nearly all of the {size} of shard {id}: no split halves them; {how}")
            }
            By::Load => {
                let samples = found.load.as_ref().map_or(0, |load| load.samples);
                format!("no key halves the load of shard {id}, of which {samples} operations were sampled; {how}")
            }
        };
        CliError::failed("indivisible", message).with("shard", id)
    })
}

fn by_bytes(shard: &ShardInfo, kind: PartitionKind, found: &DivideShardReply) -> Option<Chosen> {
    let (at, below) = if !found.middle.is_empty() {
        (found.middle.clone(), Below::Bytes { below: found.bytes_below, total: found.bytes })
    } else if kind == PartitionKind::Hash && found.bytes == 0 {
        (middle_of_ring(&shard.from, &shard.to)?, Below::Unknown)
    } else {
        return None;
    };
    Some(Chosen { at, below })
}

fn by_load(shard: &ShardInfo, kind: PartitionKind, found: &DivideShardReply) -> Result<Option<Chosen>> {
    if !found.hot.is_empty() {
        let key = match kind {
            PartitionKind::Range => &found.hot[..],
            PartitionKind::Hash => found.hot.get(HASH_BYTES..).unwrap_or_default(),
        };
        let (id, percent) = (shard.id, found.hot_percent);
        let message = format!(
            "the key '{}' has {percent} % of the load of shard {id}: wherever the shard is split, one part keeps that",
            text::piece(key)
        );
        let error = CliError::failed("hot_key", message).with("shard", id).with("percent", percent);
        return Err(error.with_bytes("key", "key_base64", key));
    }
    let ops = found.load.as_ref().map_or(0, |load| load.reads.saturating_add(load.writes));
    let below = Below::Load { permille: found.load_below_permille, ops };
    Ok((!found.load_middle.is_empty()).then(|| Chosen { at: found.load_middle.clone(), below }))
}

/// What a split would do, as JSON.
fn would(shard: u64, kind: PartitionKind, Chosen { at, below }: &Chosen) -> serde_json::Value {
    let mut would = serde_json::json!({ "shard": shard, "dry_run": true });
    set_position(&mut would, kind, at);
    match below {
        Below::Unknown => {}
        Below::Bytes { below, total } => {
            would["bytes"] = (*total).into();
            would["bytes_below"] = (*below).into();
        }
        Below::Load { permille, ops } => {
            would["ops_per_s"] = (*ops).into();
            would["load_below_permille"] = (*permille).into();
        }
    }
    would
}

/// The same for people.
fn would_in_words(shard: u64, kind: PartitionKind, Chosen { at, below }: &Chosen) -> String {
    let at = place(kind, at);
    match below {
        Below::Unknown => format!("shard {shard} would be split at {at}"),
        Below::Bytes { below, total } => {
            let (low, high) = (text::size(*below), text::size(total.saturating_sub(*below)));
            format!("shard {shard} would be split at {at}: about {low} are below it, {high} from it on")
        }
        Below::Load { permille, ops } => {
            let (low, high) = (permille / 10, 100 - (permille / 10).min(100));
            format!(
                "shard {shard} would be split at {at}: about {low} % of its load ({ops} operations a second) are below it, \
                 {high} % from it on"
            )
        }
    }
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
    set_position(&mut done, kind, at);
    done
}

fn set_position(object: &mut serde_json::Value, kind: PartitionKind, at: &[u8]) {
    let (name, value) = match (kind, std::str::from_utf8(at)) {
        (PartitionKind::Hash, _) => ("at", place(kind, at)),
        (PartitionKind::Range, Ok(text)) => ("at", text.to_owned()),
        (PartitionKind::Range, Err(_)) => ("at_base64", to_base64(at)),
    };
    object[name] = value.into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use synod_client::{Retention, TableInfo};

    fn args(at: Option<&[u8]>) -> SplitArgs {
        let at = at.map(|at| RawArg(at.to_vec()));
        SplitArgs { shard: 5, at, by: By::Bytes, encoding: KeyEncoding::default(), dry_run: false, detach: false }
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
        named(&args(at), shard, kind).unwrap_err().message().to_owned()
    }

    /// What the leader of a shard with so many bytes found.
    fn found(bytes: u64, middle: &'static [u8], below: u64) -> DivideShardReply {
        let middle = Bytes::from_static(middle);
        DivideShardReply { version: 3, bytes, middle, bytes_below: below, ..DivideShardReply::default() }
    }

    #[test]
    fn a_key_must_leave_something_on_both_sides() {
        let range = shard(b"d", b"m");
        assert_eq!(named(&args(Some(b"g")), &range, PartitionKind::Range).unwrap().unwrap(), "g");
        assert_eq!(named(&args(None), &range, PartitionKind::Range).unwrap(), None);
        for at in [b"d".as_slice(), b"m", b"a", b"z", b""] {
            let why = refused(Some(at), &range, PartitionKind::Range);
            assert!(why.contains("does not divide shard 5") && why.contains("--at"), "{why}");
        }
        // The same holds of what a leader finds.
        let chosen = |found: &DivideShardReply| choose(By::Bytes, &range, PartitionKind::Range, found);
        assert_eq!(chosen(&found(100, b"g", 40)).unwrap().at, "g");
        for middle in [&b"d"[..], b"z"] {
            assert_eq!(chosen(&found(100, middle, 40)).unwrap_err().kind(), "indivisible");
        }
        let why = chosen(&found(0, b"", 0)).unwrap_err().message().to_owned();
        assert!(why.contains("shard 5 has no records") && why.contains("--at"), "{why}");
        let why = chosen(&found(5 << 20, b"", 0)).unwrap_err().message().to_owned();
        assert!(why.contains("one key has nearly all of the 5.0 MiB of shard 5"), "{why}");
        let late = DivideShardReply { version: 4, ..found(100, b"g", 40) };
        assert_eq!(chosen(&late).unwrap_err().kind(), "unavailable");
    }

    #[test]
    fn the_load_is_halved_unless_one_key_has_half_of_it() {
        let range = shard(b"d", b"m");
        let by_load = |kind, found: &DivideShardReply| choose(By::Load, &range, kind, found);
        let load = Some(synod_client::proto::ShardLoad { reads: 30, writes: 12, samples: 64, ..Default::default() });
        let halved = DivideShardReply {
            load_middle: "g".into(),
            load_below_permille: 470,
            load: load.clone(),
            ..found(100, b"k", 40)
        };
        let chosen = by_load(PartitionKind::Range, &halved).unwrap();
        assert_eq!(chosen, Chosen { at: "g".into(), below: Below::Load { permille: 470, ops: 42 } });
        assert!(
            would_in_words(5, PartitionKind::Range, &chosen).contains("at 'g': about 47 % of its load (42 operations")
        );
        assert_eq!(
            would(5, PartitionKind::Range, &chosen),
            json!({"shard": 5, "dry_run": true, "at": "g", "ops_per_s": 42, "load_below_permille": 470})
        );
        let hot = DivideShardReply { hot: "key\n".into(), hot_percent: 71, load: load.clone(), ..found(100, b"k", 40) };
        let error = by_load(PartitionKind::Range, &hot).unwrap_err();
        assert_eq!(error.kind(), "hot_key");
        assert!(error.message().contains("has 71 % of the load of shard 5"), "{error}");
        let hot = DivideShardReply { hot: "hashhashuser-7".into(), ..hot };
        let error = by_load(PartitionKind::Hash, &hot).unwrap_err();
        assert!(error.message().contains("the key 'user-7' has"), "{error}");
        let none = DivideShardReply { load, ..found(100, b"k", 40) };
        let error = by_load(PartitionKind::Range, &none).unwrap_err();
        assert!(error.kind() == "indivisible" && error.message().contains("64 operations were sampled"), "{error}");
    }

    #[test]
    fn a_split_that_was_begun_goes_on_where_it_was_begun() {
        let job = |state: &str, shard, version, at: Option<&'static str>| Job {
            id: 7,
            goal: JobGoal::SplitShard { shard, version, at: at.map(Bytes::from) },
            state: state.to_owned(),
            why: None,
            progress: None,
        };
        let of = shard(b"d", b"m");
        let others = [job("done", 5, 3, Some("a")), job("running", 6, 3, Some("b")), job("running", 5, 2, Some("c"))];
        assert_eq!(begun(&others, &of), None);
        assert_eq!(begun(&[job("running", 5, 3, None), job("running", 5, 3, Some("g"))], &of).unwrap(), "g");
    }

    #[test]
    fn a_dry_run_tells_the_predicted_parts() {
        let chosen = choose(By::Bytes, &shard(b"", b""), PartitionKind::Range, &found(3 << 20, b"k", 1 << 20)).unwrap();
        let words = would_in_words(5, PartitionKind::Range, &chosen);
        assert_eq!(words, "shard 5 would be split at 'k': about 1.0 MiB are below it, 2.0 MiB from it on");
        assert_eq!(
            would(5, PartitionKind::Range, &chosen),
            json!({"shard": 5, "dry_run": true, "at": "k", "bytes": 3 << 20, "bytes_below": 1 << 20})
        );
        let named = Chosen { at: Bytes::from_static(&[0x80, 0, 0, 0, 0, 0, 0, 0]), below: Below::Unknown };
        assert_eq!(would_in_words(5, PartitionKind::Hash, &named), "shard 5 would be split at 8000000000000000");
    }

    #[test]
    fn a_hash_has_16_digits_and_its_middle_is_found() {
        let (whole, upper) = (shard(b"", b""), shard(&[0x80, 0, 0, 0, 0, 0, 0, 0], b""));
        // Of a shard without records.
        let halved = |shard: &ShardInfo| choose(By::Bytes, shard, PartitionKind::Hash, &found(0, b"", 0));
        let at = |at: Option<&[u8]>, shard: &ShardInfo| {
            let named = named(&args(at), shard, PartitionKind::Hash).unwrap();
            named.unwrap_or_else(|| halved(shard).unwrap().at)[..2].to_vec()
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
        assert!(halved(&one).unwrap_err().message().contains("single hash"));
        // One with records is halved by them.
        let by_bytes = choose(By::Bytes, &whole, PartitionKind::Hash, &found(100, b"\x20aaaaaaa", 50)).unwrap();
        assert_eq!(by_bytes.at[..2], [0x20, b'a']);
        let one_hash = choose(By::Bytes, &whole, PartitionKind::Hash, &found(100, b"", 0)).unwrap_err();
        assert!(one_hash.message().contains("one key has nearly all"), "{one_hash}");
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
