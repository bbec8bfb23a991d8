//! `synod table`: create, list, describe, alter and drop tables.
//!
//! Owns the flags of a table and the checks that need no cluster. Must never invent a limit: the client library and the
//! nodes know those.

use clap::{Args, Subcommand, ValueEnum};
use synod_client::{Client, ClusterMap, Error, Partitioning, Retention, ShardInfo, TableInfo, TableSpec};
use synod_client::{PartitionKind, limits};

use super::alter::{self, AlterArgs};
use super::bytes::{KeyEncoding, RawArg, raw_arg};
use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::output::{json, text};

/// Shards of a hash table unless told otherwise.
const DEFAULT_SHARDS: u32 = 4;

/// `table`.
#[derive(Args, Debug)]
pub struct TableArgs {
    #[command(subcommand)]
    command: TableCommand,
}

#[derive(Debug, Subcommand)]
enum TableCommand {
    /// Create a table
    Create(Create),
    /// List all tables
    List,
    /// Show a table and its shards
    Describe {
        /// The table
        name: String,
    },
    /// Change how many replicas each shard of a table has, under load, by a job a shard
    Alter(AlterArgs),
    /// Drop a table with everything in it
    Drop {
        /// The table
        name: String,
        /// Succeed where there is no such table, so that the command can be repeated
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Partition {
    /// Shards own slices of the hash ring: even load, scans in hash order
    Hash,
    /// Shards own ranges of keys: scans in key order; needs split points for more than one shard
    Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Retain {
    /// Only a key's newest record: a key-value table
    Latest,
    /// Every record of a key: a stream table
    All,
}

const CREATE_HELP: &str = "\
Examples:
  synod table create kv --partition hash --shards 8
  synod table create logs --partition range --split-at g --split-at p --retain all      three shards";

#[derive(Args, Debug)]
#[command(after_help = CREATE_HELP)]
struct Create {
    /// The name: letters, digits, `_`, `-` and `.`, beginning with a letter or digit
    name: String,
    /// How keys spread over shards
    #[arg(long, value_enum)]
    partition: Partition,
    /// Number of shards [default: 4 for hash tables; split points + 1 for range tables]
    #[arg(long)]
    shards: Option<u32>,
    /// A range table's split point: the first key of the next shard; given again for each, in order
    #[arg(long, value_name = "KEY", value_parser = raw_arg())]
    split_at: Vec<RawArg>,
    /// How split points are written.
    #[command(flatten)]
    encoding: KeyEncoding,
    /// Which records are kept
    #[arg(long, value_enum, default_value = "latest")]
    retain: Retain,
    /// Replicas of each shard [default: 3, or as many as there are nodes if fewer]
    #[arg(long)]
    replicas: Option<u32>,
    /// Succeed where the table is there just as asked for, so that the command can be repeated
    #[arg(long)]
    if_not_exists: bool,
}

impl Create {
    fn partitioning(&self) -> Result<Partitioning> {
        match self.partition {
            Partition::Hash => {
                if !self.split_at.is_empty() {
                    let why = "a hash table has no split points; use --shards N, or --partition range";
                    return Err(CliError::usage("--split-at", why));
                }
                Ok(Partitioning::Hash { shards: self.shards.unwrap_or(DEFAULT_SHARDS) })
            }
            Partition::Range => {
                let keys = self.split_at.iter().map(|point| self.encoding.decode("--split-at", point));
                let split_at = keys.map(|key| key.map(Into::into)).collect::<Result<Vec<_>>>()?;
                let implied = u32::try_from(split_at.len() + 1).unwrap_or(u32::MAX);
                match self.shards {
                    Some(0) => Err(CliError::usage("--shards", "a table has at least 1 shard")),
                    Some(shards) if shards != implied => {
                        let why = format!(
                            "a range table of {shards} shards needs {} split points (--split-at KEY each), not {}",
                            shards - 1,
                            split_at.len()
                        );
                        Err(CliError::usage("--shards", why))
                    }
                    _ => Ok(Partitioning::Range { split_at }),
                }
            }
        }
    }

    fn spec(&self, nodes: usize) -> Result<TableSpec> {
        if self.replicas == Some(0) {
            return Err(CliError::usage("--replicas", "a shard has at least 1 replica"));
        }
        let retention = match self.retain {
            Retain::Latest => Retention::Latest,
            Retain::All => Retention::All,
        };
        let fewer = u32::try_from(nodes).unwrap_or(u32::MAX).clamp(1, 3);
        let replicas = self.replicas.unwrap_or(fewer);
        Ok(TableSpec { name: self.name.clone(), partitioning: self.partitioning()?, retention, replicas })
    }
}

/// Runs `table`.
pub async fn run(context: &mut Context, args: TableArgs) -> Result<()> {
    match args.command {
        TableCommand::Create(wanted) => {
            let (client, info) = create(context, &wanted).await?;
            context.out.done(&shown(&client.map(), &info), as_text)
        }
        TableCommand::List => list(context).await,
        TableCommand::Describe { name } => {
            let client = context.connect().await?;
            let info = client.table(&name).await?;
            context.out.value(&shown(&client.map(), &info), as_text)
        }
        TableCommand::Alter(args) => alter::run(context, args).await,
        TableCommand::Drop { name, if_exists } => drop_table(context, &name, if_exists).await,
    }
}

/// Creates a table, or finds it there as it was asked for.
async fn create(context: &Context, wanted: &Create) -> Result<(Client, TableInfo)> {
    limits::check_table(&wanted.spec(3)?)?;
    let client = context.connect().await?;
    let spec = wanted.spec(client.map().nodes.len())?;
    match client.create_table(spec.clone()).await {
        Ok(made) => Ok((client, made)),
        Err(Error::TableExists { table }) if wanted.if_not_exists => {
            client.refresh_map().await?;
            let there = client.table(&table).await?;
            match difference(&client.map(), &there, &spec) {
                None => Ok((client, there)),
                Some(what) => {
                    Err(CliError::from(Error::TableExists { table }).followed_by(format!("its {what} differs")))
                }
            }
        }
        Err(error) => Err(to_be_repeated(error, "with --if-not-exists the same command finishes it or finds it done")),
    }
}

async fn drop_table(context: &mut Context, name: &str, if_exists: bool) -> Result<()> {
    let client = context.connect().await?;
    let dropped = match client.drop_table(name).await {
        Ok(()) => true,
        Err(Error::TableNotFound { .. }) if if_exists => false,
        Err(error) => {
            let how = "with --if-exists the same command finishes it or finds it done";
            return Err(to_be_repeated(error, how));
        }
    };
    let done = serde_json::json!({ "dropped": dropped.then_some(name) });
    context
        .out
        .done(&done, |_| vec![if dropped { format!("dropped {name}") } else { format!("there is no table {name}") }])
}

/// What of a table is not as `spec` asks.
fn difference(map: &ClusterMap, there: &TableInfo, spec: &TableSpec) -> Option<&'static str> {
    let shards: Vec<&ShardInfo> = map.shards.iter().filter(|shard| shard.table_id == there.id).collect();
    let kind = match &spec.partitioning {
        Partitioning::Hash { shards: wanted } if *wanted as usize != shards.len() => return Some("number of shards"),
        Partitioning::Hash { .. } => PartitionKind::Hash,
        Partitioning::Range { split_at } => {
            let mut points: Vec<_> = shards.iter().map(|shard| &shard.from).filter(|from| !from.is_empty()).collect();
            points.sort_unstable();
            if there.partitioning == PartitionKind::Range && !points.into_iter().eq(split_at) {
                return Some("list of split points");
            }
            PartitionKind::Range
        }
    };
    match () {
        () if kind != there.partitioning => Some("partitioning"),
        () if spec.retention != there.retention => Some("retention"),
        () if spec.replicas != 0 && spec.replicas != there.replicas => Some("number of replicas"),
        () => None,
    }
}

async fn list(context: &mut Context) -> Result<()> {
    let client = context.connect().await?;
    let map = client.refresh_map().await?;
    if context.out.json() {
        return map.tables.iter().try_for_each(|table| context.out.object(&shown(&map, table)));
    }
    let mut rows = text::table(&["table", "partition", "retain", "shards", "replicas"]);
    for table in &map.tables {
        rows.add_row([
            table.name.clone(),
            table.partitioning.as_str().to_owned(),
            table.retention.as_str().to_owned(),
            table.shards.to_string(),
            table.replicas.to_string(),
        ]);
    }
    text::lines(&rows).iter().try_for_each(|line| context.out.line(line))
}

fn as_text(table: &json::Table) -> Vec<String> {
    let mut lines = vec![
        format!("table {} (id {})", table.name, table.id),
        format!("  partition {}, retain {}, replicas {}", table.partition, table.retain, table.replicas),
    ];
    let mut rows = text::table(&["shard", "bounds", "leader", "voters"]);
    for shard in &table.shards {
        rows.add_row([
            shard.id.to_string(),
            text::bounds(&shard.bounds),
            text::or_dash(shard.leader),
            text::list(&shard.voters),
        ]);
    }
    lines.extend(text::lines(&rows));
    lines
}

/// A table as it is printed.
fn shown(map: &ClusterMap, table: &TableInfo) -> json::Table {
    let shards = map.shards.iter().filter(|shard| shard.table_id == table.id);
    json::Table {
        id: table.id,
        name: table.name.clone(),
        partition: table.partitioning.as_str(),
        retain: table.retention.as_str(),
        replicas: table.replicas,
        shards: shards.map(|shard| shown_shard(table.partitioning, shard)).collect(),
    }
}

/// A shard as it is printed.
pub fn shown_shard(kind: PartitionKind, shard: &ShardInfo) -> json::TableShard {
    json::TableShard {
        id: shard.id,
        bounds: bounds(kind, shard),
        changes: json::Changes { epoch: shard.epoch, version: shard.version },
        leader: shard.leader,
        voters: shard.voters.clone(),
    }
}

/// A shard's bounds as they are printed.
pub fn bounds(kind: PartitionKind, shard: &ShardInfo) -> json::Bounds {
    let (from, to) = (shard.from.to_vec(), shard.to.to_vec());
    match kind {
        PartitionKind::Range => json::Bounds::Keys { from, to },
        PartitionKind::Hash => json::Bounds::Ring { from, to },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn create(flags: &str) -> Create {
        Line::try_parse_from(["create", "t"].into_iter().chain(flags.split_whitespace())).unwrap().create
    }

    fn refusal(flags: &str) -> String {
        let refused = create(flags).spec(3).and_then(|spec| Ok(limits::check_table(&spec)?));
        refused.unwrap_err().message().to_owned()
    }

    #[test]
    fn defaults_fit_the_cluster() {
        let spec = create("--partition hash").spec(1).unwrap();
        assert_eq!((spec.partitioning, spec.replicas), (Partitioning::Hash { shards: 4 }, 1));
        let spec = create("--partition range --split-at b --split-at d --retain all").spec(5).unwrap();
        assert_eq!(spec.partitioning, Partitioning::Range { split_at: vec!["b".into(), "d".into()] });
        assert_eq!((spec.retention, spec.replicas), (Retention::All, 3));
    }

    #[test]
    fn wrong_shards_and_split_points_are_named() {
        assert!(refusal("--partition hash --split-at a").starts_with("--split-at: a hash table"));
        assert!(refusal("--partition range --shards 4").contains("needs 3 split points"));
        assert!(refusal("--partition range --shards 0").contains("at least 1 shard"));
        assert!(refusal("--partition hash --shards 0").contains("at least 1 shard"));
        assert_eq!(refusal("--partition hash --replicas 0"), "--replicas: a shard has at least 1 replica");
        assert!(refusal("--partition range --split-at b --split-at a").contains("not sorted"));
        assert!(refusal("--partition range --split-at a --split-at a").contains("repeated"));
    }
}
