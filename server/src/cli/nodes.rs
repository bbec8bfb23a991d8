//! `synod node list`, `drain`, `decommission` and `recommission`: which nodes hold replicas.
//!
//! Owns: what of a node is listed, what such a job is asked for with, what is shown of a plan, and the words for how the job ended. Must never: choose where a
//! replica goes, or carry a step of a job out: the cluster does. Interrupted anywhere, the job goes on, and the same command watches it.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};
use synod_client::proto::{LeavingReplica, PlanNodeReply};
use synod_client::{Client, ClusterMap, Error, JobGoal};
use synod_cluster::ids::ClusterVersion;
use synod_cluster::jobs::empty_node::AT_ONCE_MAX;
use synod_cluster::system::{CLUSTER_VERSION, JOBS};

use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::jobs;
use super::output::text;

/// `node drain` and `node decommission`.
#[derive(Args, Debug)]
pub struct EmptyArgs {
    /// The node
    node: u64,
    /// How many of its replicas move at a time [default: 2]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(AT_ONCE_MAX)))]
    max_concurrent: Option<u32>,
    /// Only say which replicas would go where, and why
    #[arg(long)]
    dry_run: bool,
    /// Wait until it is done; this is the default
    #[arg(long, conflicts_with_all = ["detach", "dry_run"])]
    wait: bool,
    /// Only begin it, and print its job's number
    #[arg(long, visible_alias = "no-wait", conflicts_with = "dry_run")]
    detach: bool,
}

/// Runs `node list`.
pub async fn list(context: &mut Context) -> Result<()> {
    let map = context.connect().await?.refresh_map().await?;
    let held = replicas(&map);
    let leads = |id: u64| map.shards.iter().filter(|shard| shard.leader == Some(id)).count();
    let of = |id: u64| held.get(&id).copied().unwrap_or_default();
    if context.out.json() {
        return map.nodes.iter().try_for_each(|node| {
            let (id, use_) = (node.id, node.mark.as_str());
            let (zone, rack) = (named(&node.zone), named(&node.rack));
            let shown = json!({
                "id": id, "addr": node.addr, "mark": use_, "replicas": of(id), "leaders": leads(id), "zone": zone, "rack": rack
            });
            context.out.object(&shown)
        });
    }
    let mut rows = text::table(&["node", "address", "mark", "replicas", "leads", "zone", "rack"]);
    for node in &map.nodes {
        let (id, replicas, leads) = (node.id, of(node.id).to_string(), leads(node.id).to_string());
        let [zone, rack] = [&node.zone, &node.rack].map(|name| text::or_dash(named(name).map(text::harmless)));
        rows.add_row([id.to_string(), node.addr.clone(), node.mark.as_str().to_owned(), replicas, leads, zone, rack]);
    }
    text::lines(&rows).iter().try_for_each(|line| context.out.line(line))
}

/// What a node was told of where it runs, if anything.
fn named(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}

/// Runs `node drain`, or with `remove` `node decommission`.
pub async fn empty(context: &mut Context, args: EmptyArgs, remove: bool) -> Result<()> {
    let EmptyArgs { node, max_concurrent, dry_run, wait, detach } = args;
    let client = context.connect().await?;
    let map = client.refresh_map().await?;
    check_version(&map)?;
    if dry_run {
        let plan = client.plan_node(node, remove, max_concurrent).await.map_err(refused)?;
        return context.out.value(&shown(&map, node, &plan), |_| as_text(&map, node, &plan));
    }
    let goal = JobGoal::EmptyNode { node, remove, max_concurrent };
    let job = start(context, &client, node, goal).await?;
    let ended = wait || !detach;
    if ended {
        jobs::until_done(context, &client, job).await?;
    }
    let done = json!({ "node": node, "job": job, "removed": ended && remove });
    context.out.done(&done, |_| {
        vec![match (ended, remove) {
            (false, _) => format!("job {job} empties node {node}"),
            (true, true) => format!("node {node} was emptied and taken out of the cluster; stop its process"),
            (true, false) => {
                format!("node {node} is drained; `synod node recommission {node}` has it take replicas again")
            }
        }]
    })
}

/// Runs `node recommission`.
pub async fn recommission(context: &mut Context, node: u64) -> Result<()> {
    let client = context.connect().await?;
    let map = client.refresh_map().await?;
    check_version(&map)?;
    client.recommission_node(node).await.map_err(|error| {
        to_be_repeated(error, "`synod node list` shows whether it takes replicas; the same command can be repeated")
    })?;
    let done = json!({ "node": node, "mark": "in_use" });
    context.out.done(&done, |_| vec![format!("node {node} takes replicas")])
}

fn check_version(map: &ClusterMap) -> Result<()> {
    let (version, needed) = (map.version, ClusterVersion::FOURTH);
    if version >= needed.0 {
        return Ok(());
    }
    let why = format!("the cluster is at version {version}, this needs {needed}: `synod cluster upgrade` raises it");
    Err(CliError::failed(CLUSTER_VERSION, why).with("version", version))
}

async fn start(context: &Context, client: &Client, node: u64, goal: JobGoal) -> Result<u64> {
    let id = client.start_job(goal.clone()).await.map_err(|error| refused(error).with("node", node))?;
    context.progress(&format!("job {id} {}; it goes on if this command ends", jobs::in_words(&goal)));
    Ok(id)
}

fn refused(error: Error) -> CliError {
    match error {
        Error::InvalidArgument { field, why } if field == JOBS => CliError::failed("too_many_jobs", why).retryable(),
        // The map that was seen here is newer than the system shard leader's state.
        Error::InvalidArgument { field, why } if field == CLUSTER_VERSION => {
            CliError::failed("unavailable", why).retryable()
        }
        error => {
            let how = "`synod job list` shows whether it has begun; the same command can be repeated";
            to_be_repeated(error, how)
        }
    }
}

/// How many replicas each node has, those that learn among them.
fn replicas(map: &ClusterMap) -> BTreeMap<u64, u64> {
    let mut held: BTreeMap<u64, u64> = map.nodes.iter().map(|node| (node.id, 0)).collect();
    for node in map.shards.iter().flat_map(|shard| shard.voters.iter().chain(&shard.learners)) {
        *held.entry(*node).or_default() += 1;
    }
    held
}

/// How many replicas each node has before and after a plan.
fn before_and_after(map: &ClusterMap, from: u64, plan: &PlanNodeReply) -> Vec<(u64, u64, u64)> {
    let before = replicas(map);
    let mut after = before.clone();
    for LeavingReplica { to, .. } in &plan.moves {
        if let Some(left) = after.get_mut(&from) {
            *left = left.saturating_sub(1);
        }
        if *to != 0 {
            *after.entry(*to).or_default() += 1;
        }
    }
    after.into_iter().map(|(node, after)| (node, before.get(&node).copied().unwrap_or_default(), after)).collect()
}

/// The table of a shard; the system shard has none.
fn table(map: &ClusterMap, shard: u64) -> Option<&str> {
    let id = map.shards.iter().find(|info| info.id == shard)?.table_id;
    map.tables.iter().find(|table| table.id == id).map(|table| table.name.as_str())
}

fn shown(map: &ClusterMap, node: u64, plan: &PlanNodeReply) -> Value {
    let moves = plan.moves.iter().map(|LeavingReplica { shard, to, why }| {
        json!({ "shard": shard, "table": table(map, *shard), "to": (*to != 0).then_some(*to), "why": why })
    });
    let counts = before_and_after(map, node, plan);
    let counts = counts.iter().map(|(node, before, after)| json!({ "node": node, "before": before, "after": after }));
    let (moves, counts): (Vec<Value>, Vec<Value>) = (moves.collect(), counts.collect());
    json!({ "node": node, "dry_run": true, "moves": moves, "refused": plan.refused, "replicas": counts })
}

fn as_text(map: &ClusterMap, node: u64, plan: &PlanNodeReply) -> Vec<String> {
    let mut lines = vec![format!("replicas that would leave node {node}: {}", plan.moves.len())];
    let mut moves = text::table(&["shard", "table", "to node", "why"]);
    for LeavingReplica { shard, to, why } in &plan.moves {
        let table = table(map, *shard).unwrap_or("(system)").to_owned();
        moves.add_row([shard.to_string(), table, text::or_dash((*to != 0).then_some(*to)), text::harmless(why)]);
    }
    let mut counts = text::table(&["node", "replicas before", "after"]);
    for (node, before, after) in before_and_after(map, node, plan) {
        counts.add_row([node, before, after]);
    }
    lines.extend(text::lines(&moves));
    lines.extend(text::lines(&counts));
    lines.extend(plan.refused.iter().map(|why| format!("cannot leave now: {}", text::harmless(why))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_client::{NodeInfo, NodeMark, ShardInfo};

    fn shard(id: u64, voters: &[u64], learners: &[u64]) -> ShardInfo {
        ShardInfo {
            id,
            table_id: 0,
            from: Default::default(),
            to: Default::default(),
            version: 1,
            epoch: 1,
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            leader: None,
        }
    }

    fn map() -> ClusterMap {
        let node = |id| NodeInfo {
            id,
            addr: format!("h{id}:1"),
            mark: NodeMark::Stays,
            zone: String::new(),
            rack: String::new(),
        };
        ClusterMap {
            cluster: vec![0xab; 16].into(),
            revision: 1,
            version: 4,
            nodes: (1..=4).map(node).collect(),
            tables: vec![],
            shards: vec![shard(1, &[1, 2, 3], &[]), shard(2, &[1, 2], &[3])],
        }
    }

    #[test]
    fn a_plan_shows_what_goes_where_and_what_each_node_has_then() {
        let to_4 = LeavingReplica { shard: 1, to: 4, why: "node 3 is being emptied".into() };
        let learner = LeavingReplica { shard: 2, to: 0, why: "node 3 learns and no job needs it".into() };
        let plan = PlanNodeReply { moves: vec![learner, to_4], refused: vec!["no room".into()] };
        let counts = before_and_after(&map(), 3, &plan);
        assert_eq!(counts, [(1, 2, 2), (2, 2, 2), (3, 2, 0), (4, 0, 1)]);
        let value = shown(&map(), 3, &plan);
        assert_eq!(value["moves"][1], json!({"shard": 1, "table": null, "to": 4, "why": "node 3 is being emptied"}));
        assert_eq!((&value["moves"][0]["to"], &value["refused"][0]), (&Value::Null, &"no room".into()));
        assert_eq!(value["replicas"][2], json!({"node": 3, "before": 2, "after": 0}));
        let text = as_text(&map(), 3, &plan);
        assert!(text[0].ends_with("node 3: 2") && text.iter().any(|line| line.contains("cannot leave now: no room")));
    }

    #[test]
    fn below_the_fourth_version_nothing_is_asked_for() {
        let error = check_version(&ClusterMap { version: 3, ..map() }).unwrap_err();
        assert!(error.message().contains("this needs 4") && error.kind() == CLUSTER_VERSION, "{error}");
        assert!(check_version(&map()).is_ok());
    }
}
