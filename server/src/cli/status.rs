//! `synod status`: nodes, shards and leaders, as the nodes themselves say.
//!
//! Owns how the shard map and the nodes' own reports become one picture: a leader is one that says so itself. Must
//! never fail because some nodes do not answer; it says which.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use synod_client::proto::{NodeStatusReply, ReplicaStatus, ShardLoad};
use synod_client::{Client, ClusterMap, Job, NodeReport, PartitionKind};

use super::context::Context;
use super::error::Result;
use super::output::{json, text};
use super::table::bounds;

/// `status`.
#[derive(Args, Debug)]
#[command(after_help = "\
With --watch the terminal shows nodes, shards and jobs, asked for anew each second; `?` lists the keys. While nodes do not answer it goes on \
and says so. Without a terminal use `watch -n1 synod status`, or `synod -o json status` in a loop.")]
pub struct StatusArgs {
    /// Show it live in the terminal; keys hand leaderships over, split shards and cancel jobs
    #[arg(long)]
    pub watch: bool,
}

/// Runs `status`.
pub async fn run(context: &mut Context) -> Result<()> {
    let status = fetch(context).await?;
    context.out.value(&status, as_text)
}

/// Asks every node.
pub async fn fetch(context: &Context) -> Result<json::Status> {
    look(&context.connect().await?).await
}

/// Asks every node, by a client that is connected.
pub async fn look(client: &Client) -> Result<json::Status> {
    let map = client.refresh_map().await?;
    Ok(combine(&map, &client.status().await))
}

/// One picture from the map and the nodes' reports.
pub fn combine(map: &ClusterMap, reports: &[NodeReport]) -> json::Status {
    let answers: BTreeMap<u64, &NodeStatusReply> =
        reports.iter().filter_map(|report| Some((report.id, report.status.as_ref().ok()?))).collect();
    let mut shards: BTreeMap<u64, json::Shard> = BTreeMap::new();
    for info in &map.shards {
        let table = map.tables.iter().find(|table| table.id == info.table_id);
        let bounds = match table {
            Some(table) => bounds(table.partitioning, info),
            None => json::Bounds::Keys { from: info.from.to_vec(), to: info.to.to_vec() },
        };
        let shard = json::Shard {
            id: info.id,
            table: table.map(|table| table.name.clone()),
            bounds,
            changes: json::Changes { epoch: info.epoch, version: info.version },
            leader: None,
            replicas: info.voters.iter().chain(&info.learners).map(|node| unknown(*node)).collect(),
            scrub: None,
            merge: None,
            bytes: None,
            load: None,
        };
        shards.insert(info.id, shard);
    }
    let mut ranks = BTreeMap::new();
    for (node, answer) in &answers {
        for replica in &answer.replicas {
            // The cluster's own shard is in no table and may not be in the map, nor may one that a split made just now.
            let shard = shards.entry(replica.shard).or_insert_with(|| unmapped(map, replica));
            add(shard, *node, replica, &mut ranks);
        }
    }
    let shards: Vec<json::Shard> = shards.into_values().collect();
    json::Status {
        cluster: map.cluster.iter().map(|byte| format!("{byte:02x}")).collect(),
        version: map.version,
        nodes: reports.iter().map(|report| node(report, &shards)).collect(),
        shards,
        jobs: jobs(&answers),
    }
}

/// The jobs that run, as the node says them that leads the system shard. One that led it before may not know yet that it was succeeded.
fn jobs(answers: &BTreeMap<u64, &NodeStatusReply>) -> Vec<json::Job> {
    let newest = answers.values().filter(|answer| !answer.jobs.is_empty()).max_by_key(|answer| answer.map_revision);
    let jobs = newest.iter().flat_map(|answer| answer.jobs.iter().cloned());
    jobs.filter_map(|job| Some(super::jobs::shown(&Job::try_from(job).ok()?))).collect()
}

fn unknown(node: u64) -> json::Replica {
    json::Replica { node, role: "unknown".to_owned(), lag_slots: None, commit: None, applied: None, unborn: false }
}

fn unmapped(map: &ClusterMap, replica: &ReplicaStatus) -> json::Shard {
    let table = map.tables.iter().find(|table| table.id == replica.table_id);
    let (from, to) = (Vec::new(), Vec::new());
    let bounds = match table.map(|table| table.partitioning) {
        Some(PartitionKind::Hash) => json::Bounds::Ring { from, to },
        Some(PartitionKind::Range) | None => json::Bounds::Keys { from, to },
    };
    json::Shard {
        id: replica.shard,
        table: table.map(|table| table.name.clone()),
        bounds,
        changes: json::Changes { epoch: replica.epoch, version: 0 },
        leader: None,
        replicas: Vec::new(),
        scrub: None,
        merge: None,
        bytes: None,
        load: None,
    }
}

fn slot(shard: &mut json::Shard, node: u64) -> &mut json::Replica {
    let index = shard.replicas.iter().position(|replica| replica.node == node).unwrap_or_else(|| {
        shard.replicas.push(unknown(node));
        shard.replicas.sort_by_key(|replica| replica.node);
        shard.replicas.iter().position(|replica| replica.node == node).unwrap_or(0)
    });
    &mut shard.replicas[index]
}

fn add(shard: &mut json::Shard, node: u64, said: &ReplicaStatus, ranks: &mut BTreeMap<u64, (u64, u64)>) {
    let replica = slot(shard, node);
    said.role.clone_into(&mut replica.role);
    replica.commit = Some(said.commit);
    replica.applied = Some(said.applied);
    replica.unborn = said.unborn;
    if said.version > shard.changes.version {
        // It has applied what the map is yet to hear of.
        shard.changes.version = said.version;
        match &mut shard.bounds {
            json::Bounds::Keys { from, to } | json::Bounds::Ring { from, to } => {
                (*from, *to) = (said.from.to_vec(), said.to.to_vec());
            }
        }
    }
    if let Some(scrub) = &said.scrub {
        // Of two that tell of it, the one that compared more of the latest slot.
        let known = shard.scrub.as_ref().map(|known| (known.slot, known.compared.len()));
        if known.is_none_or(|known| known < (scrub.slot, scrub.compared.len())) {
            let (compared, diverged) = (scrub.compared.clone(), scrub.diverged.clone());
            shard.scrub = Some(json::Scrub { slot: scrub.slot, compared, equal: scrub.equal, diverged });
        }
    }
    if said.role != "leader" {
        return;
    }
    // An old leader may not know yet that it was succeeded: the one further in its epoch and log counts.
    let rank = (said.epoch, said.last);
    if ranks.get(&shard.id).is_some_and(|best| *best > rank) {
        return;
    }
    ranks.insert(shard.id, rank);
    shard.leader = Some(node);
    shard.merge = (!said.merge_phase.is_empty()).then(|| json::Merge {
        phase: said.merge_phase.clone(),
        with: said.merge_with,
        since_ms: said.merge_ms,
    });
    shard.bytes = said.bytes;
    shard.load = said.load.as_ref().map(load);
    slot(shard, node).lag_slots = Some(0);
    for lag in &said.lag {
        slot(shard, lag.node).lag_slots = Some(lag.slots);
    }
}

fn load(said: &ShardLoad) -> json::ShardLoad {
    let sampled = said.sampled.iter().map(|sampled| json::Sampled {
        position: sampled.position.to_vec(),
        count: sampled.count,
        ops: sampled.ops,
        bytes: sampled.bytes,
    });
    json::ShardLoad {
        ops_per_s: said.reads.saturating_add(said.writes),
        bytes_per_s: said.read_bytes.saturating_add(said.write_bytes),
        reads_per_s: said.reads,
        writes_per_s: said.writes,
        read_bytes_per_s: said.read_bytes,
        write_bytes_per_s: said.write_bytes,
        ops_per_s_max: said.reads_max.saturating_add(said.writes_max),
        bytes_per_s_max: said.read_bytes_max.saturating_add(said.write_bytes_max),
        samples: said.samples,
        sampled: sampled.collect(),
    }
}

fn node(report: &NodeReport, shards: &[json::Shard]) -> json::Node {
    let leaders = shards.iter().filter(|shard| shard.leader == Some(report.id)).count() as u64;
    let mapped = || shards.iter().flat_map(|shard| &shard.replicas).filter(|replica| replica.node == report.id);
    let (state, reason) = match &report.status {
        Ok(answer) if !answer.quarantined.is_empty() => ("quarantined", Some(answer.quarantined.clone())),
        Ok(answer) if !answer.disk_low.is_empty() => ("disk_low", Some(answer.disk_low.clone())),
        Ok(_) => ("up", None),
        Err(error) => ("down", Some(error.to_string())),
    };
    let said = |name: fn(&NodeStatusReply) -> &String| {
        report.status.as_ref().ok().map(name).filter(|name| !name.is_empty()).cloned()
    };
    json::Node {
        id: report.id,
        addr: report.addr.clone(),
        state,
        reason,
        speaks: report.status.as_ref().ok().map(|answer| answer.speaks.max(1)),
        zone: said(|answer| &answer.zone),
        rack: said(|answer| &answer.rack),
        clock_alarms: report.status.as_ref().map_or_else(|_| vec![], |answer| answer.clock_alarms.clone()),
        leaders,
        replicas: mapped().count() as u64,
        uptime_ms: report.status.as_ref().ok().map(|answer| answer.uptime_ms),
        snapshots: report
            .status
            .as_ref()
            .ok()
            .map(|answer| json::NodeSnapshots { made: answer.snapshots_made, installed: answer.snapshots_installed }),
    }
}

/// Where a node runs, in one word.
fn place(node: &json::Node) -> String {
    let rack = node.rack.as_ref().map(|rack| format!("/{}", text::harmless(rack))).unwrap_or_default();
    let zone = node.zone.as_ref().map(|zone| text::harmless(zone));
    format!("{}{rack}", text::or_dash(zone))
}

/// The cluster's version, and what keeps it from being raised.
fn version_line(status: &json::Status) -> String {
    let version = status.version;
    let old: Vec<String> = status
        .nodes
        .iter()
        .filter(|n| n.speaks < Some(version) && n.speaks.is_some())
        .map(|n| n.id.to_string())
        .collect();
    if !old.is_empty() {
        return format!("version {version}; refused as too old for it: nodes {}", old.join(", "));
    }
    match status.nodes.iter().map(|n| n.speaks).min().flatten() {
        Some(spoken) if spoken > version => {
            format!("version {version}; every node speaks {spoken}: `synod cluster upgrade` raises it")
        }
        _ => format!("version {version}"),
    }
}

fn as_text(status: &json::Status) -> Vec<String> {
    let mut lines = vec![format!("cluster {}", status.cluster), version_line(status), String::new()];
    let columns = ["node", "address", "state", "speaks", "leaders", "replicas", "uptime", "snapshots"];
    // A cluster whose nodes were told no zones has no column for them.
    let zoned = status.nodes.iter().any(|node| node.zone.is_some());
    let mut nodes = text::table(&columns.into_iter().chain(zoned.then_some("zone")).collect::<Vec<_>>());
    for node in &status.nodes {
        let state = match &node.reason {
            Some(reason) => format!("{} ({})", node.state, text::harmless(reason)),
            None => node.state.to_owned(),
        };
        let uptime =
            node.uptime_ms.map(|ms| humantime::format_duration(std::time::Duration::from_secs(ms / 1_000)).to_string());
        let row = [
            node.id.to_string(),
            node.addr.clone(),
            state,
            text::or_dash(node.speaks),
            node.leaders.to_string(),
            node.replicas.to_string(),
            text::or_dash(uptime),
            text::or_dash(node.snapshots.map(|s| format!("{} made, {} installed", s.made, s.installed))),
        ];
        nodes.add_row(row.into_iter().chain(zoned.then(|| place(node))));
    }
    lines.extend(text::lines(&nodes));
    let merging = status.shards.iter().filter_map(|shard| Some((shard.id, shard.merge.as_ref()?)));
    lines.extend(merging.map(|(id, merge)| format!("shard {id} {}", merge.in_words())));
    // Several nodes may tell the same.
    let alarms: BTreeSet<&String> = status.nodes.iter().flat_map(|node| &node.clock_alarms).collect();
    lines.extend(alarms.into_iter().map(|alarm| text::harmless(alarm)));
    lines.push(String::new());
    lines.extend(shard_lines(&status.shards));
    lines.extend(status.shards.iter().filter_map(divergence));
    lines.extend(super::jobs::lines(&status.jobs));
    lines
}

/// What the last comparison of a shard's replicas found wrong.
pub fn divergence(shard: &json::Shard) -> Option<String> {
    let scrub = shard.scrub.as_ref().filter(|scrub| !scrub.equal)?;
    let nodes = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let (id, slot) = (shard.id, scrub.slot);
    Some(if scrub.diverged.is_empty() {
        let compared = nodes(&scrub.compared);
        format!(
            "shard {id} DIVERGED: its replicas on nodes {compared} differ at slot {slot}; no majority says which is right"
        )
    } else {
        format!(
            "shard {id} DIVERGED: node {} does not hold what the majority does at slot {slot}",
            nodes(&scrub.diverged)
        )
    })
}

/// What a replica does, in one word: one that does not have yet what its shard begins with does nothing.
fn shown_role(replica: &json::Replica) -> &str {
    if replica.unborn { "unborn" } else { &replica.role }
}

/// A shard's replicas in a line: the leader with a star, the slots that others lack in brackets, the role of one that does not follow.
pub fn members(shard: &json::Shard) -> String {
    let shown = |replica: &json::Replica| match (shown_role(replica), replica.lag_slots) {
        ("leader", _) => format!("{}*", replica.node),
        ("follower", Some(lag)) => format!("{} ({lag})", replica.node),
        (role, Some(lag)) => format!("{} {role} ({lag})", replica.node),
        ("follower", None) => replica.node.to_string(),
        (role, None) => format!("{} {role}", replica.node),
    };
    shard.replicas.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Shards as a table for people.
pub fn shard_lines(shards: &[json::Shard]) -> Vec<String> {
    let mut rows = text::table(&["shard", "table", "bounds", "epoch.version", "leader", "replicas (lag)"]);
    for shard in shards {
        rows.add_row([
            shard.id.to_string(),
            shard.table.clone().unwrap_or_else(|| "(system)".to_owned()),
            text::bounds(&shard.bounds),
            format!("{}.{}", shard.changes.epoch, shard.changes.version),
            text::or_dash(shard.leader),
            members(shard),
        ]);
    }
    text::lines(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_client::proto::ReplicaLag;
    use synod_client::{Error, NodeInfo, NodeMark, Retention, ShardInfo, TableInfo};

    fn map() -> ClusterMap {
        ClusterMap {
            cluster: vec![0xab; 16].into(),
            revision: 1,
            version: 1,
            nodes: [(1, "a"), (2, "b")]
                .map(|(id, addr)| NodeInfo {
                    id,
                    addr: addr.into(),
                    mark: NodeMark::Stays,
                    zone: String::new(),
                    rack: String::new(),
                })
                .into(),
            tables: vec![TableInfo {
                id: 7,
                name: "t".into(),
                partitioning: PartitionKind::Range,
                retention: Retention::All,
                replicas: 2,
                shards: 1,
            }],
            shards: vec![ShardInfo {
                id: 5,
                table_id: 7,
                from: Default::default(),
                to: Default::default(),
                version: 1,
                epoch: 1,
                voters: vec![1, 2],
                learners: vec![],
                leader: Some(2),
            }],
        }
    }

    fn replica(shard: u64, role: &str, last: u64) -> ReplicaStatus {
        ReplicaStatus { shard, role: role.into(), epoch: 1, last, commit: last, applied: last, ..Default::default() }
    }

    fn up(id: u64, replicas: Vec<ReplicaStatus>) -> NodeReport {
        NodeReport { id, addr: "a".into(), status: Ok(NodeStatusReply { node: id, replicas, ..Default::default() }) }
    }

    #[test]
    fn the_leader_is_who_says_so_and_the_system_shard_is_listed() {
        let mut leader = replica(5, "leader", 9);
        leader.lag = vec![ReplicaLag { node: 2, slots: 3 }];
        let down = NodeReport { id: 2, addr: "b".into(), status: Err(Error::Expired { shard_time_us: 0 }) };
        let status = combine(&map(), &[up(1, vec![leader, replica(1, "follower", 4)]), down]);
        assert_eq!(status.shards.iter().map(|shard| shard.id).collect::<Vec<_>>(), [1, 5]);
        assert_eq!((status.shards[0].table.as_deref(), status.shards[0].leader), (None, None));
        let shard = &status.shards[1];
        assert_eq!(shard.leader, Some(1));
        assert_eq!((shard.replicas[1].role.as_str(), shard.replicas[1].lag_slots), ("unknown", Some(3)));
        assert_eq!((status.nodes[0].state, status.nodes[0].leaders, status.nodes[0].replicas), ("up", 1, 2));
        assert_eq!((status.nodes[1].state, status.nodes[1].replicas), ("down", 1));
        assert!(as_text(&status).iter().any(|line| line.contains("2 unknown (3)")));
    }

    #[test]
    fn bounds_are_those_that_a_replica_has_applied_and_a_child_is_shown_before_the_map_has_it() {
        let split = ReplicaStatus { version: 2, to: "m".into(), ..replica(5, "leader", 9) };
        let behind = ReplicaStatus { version: 1, ..replica(5, "follower", 7) };
        let child = |role| ReplicaStatus { table_id: 7, version: 2, from: "m".into(), ..replica(6, role, 1) };
        let unborn = ReplicaStatus { unborn: true, ..child("follower") };
        let status = combine(&map(), &[up(1, vec![split, child("leader")]), up(2, vec![behind, unborn])]);
        let [parent, child] = &status.shards[..] else { panic!("{:?}", status.shards) };
        assert_eq!(parent.changes, json::Changes { epoch: 1, version: 2 });
        assert_eq!(parent.bounds, json::Bounds::Keys { from: vec![], to: b"m".to_vec() });
        assert_eq!((child.table.as_deref(), child.changes.version), (Some("t"), 2));
        assert_eq!(child.bounds, json::Bounds::Keys { from: b"m".to_vec(), to: vec![] });
        assert!(as_text(&status).iter().any(|line| line.contains("1*, 2 unborn")));
    }

    #[test]
    fn the_version_says_what_can_be_done_about_it() {
        let speaking = |speaks: [u32; 2], version| {
            let report = |id, speaks| {
                let status = Ok(NodeStatusReply { node: id, speaks, ..Default::default() });
                NodeReport { id, addr: "a".into(), status }
            };
            let map = ClusterMap { version, ..map() };
            as_text(&combine(&map, &[report(1, speaks[0]), report(2, speaks[1])]))[1].clone()
        };
        assert_eq!(speaking([0, 2], 1), "version 1");
        assert_eq!(speaking([2, 2], 1), "version 1; every node speaks 2: `synod cluster upgrade` raises it");
        assert_eq!(speaking([2, 2], 2), "version 2");
        assert_eq!(speaking([2, 0], 2), "version 2; refused as too old for it: nodes 2");
    }

    #[test]
    fn of_two_that_say_they_lead_the_one_further_on_counts() {
        let reports = [up(1, vec![replica(5, "leader", 9)]), up(2, vec![replica(5, "leader", 12)])];
        assert_eq!(combine(&map(), &reports).shards[0].leader, Some(2));
        let reports = [up(1, vec![replica(5, "leader", 12)]), up(2, vec![replica(5, "leader", 9)])];
        assert_eq!(combine(&map(), &reports).shards[0].leader, Some(1));
    }
}
