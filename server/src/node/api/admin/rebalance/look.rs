//! What nodes and leaders are asked before a plan is made.
//!
//! Owns: whom to ask, how many at a time and for how long. Must never: ask so long that a client gives the call up, or go through what a
//! node says of its shards on a thread of the network.

use super::super::{AdminService, divide};
use super::picture::{Divided, Heard, Led, Room, Seen, rates};
use crate::node::peer::Place;
use futures::StreamExt as _;
use futures::stream;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::planner::settings::Settings;
use synod_cluster::system::{Partitioning, SystemState};
use synod_engine::host::{LoadReport, Sampled, Work};
use synod_proto::v1;
use synod_proto::v1::admin_server::Admin as _;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status};

/// How long the nodes may take, all together, to say how they are. With [`DIVIDE`] it is less than a client gives an attempt.
const ASK: Duration = Duration::from_millis(1_500);
/// How long the leaders of large and busy shards may take, all together, to say where they would divide them.
const DIVIDE: Duration = Duration::from_millis(1_000);
/// Nodes and leaders that are asked at a time.
const AT_ONCE: usize = 8;
/// Shards whose leaders are asked where they would divide them, at most: each flushes for it what it has in memory.
const DIVIDED_MAX: usize = 16;

/// What a node says of itself and of the shards that it leads.
struct Told {
    place: Place,
    alive: bool,
    room: Room,
    led: Vec<(ShardId, Led)>,
}

/// All that a plan is made from.
pub(super) async fn look(
    admin: &AdminService,
    state: &Arc<SystemState>,
    settings: &Settings,
    table: Option<TableId>,
) -> Result<Seen, Status> {
    let seen = heard(admin, state).await?;
    let (map, settings) = (Arc::clone(state), *settings);
    let choosing = move || {
        let due = due(&map, &seen, &settings, table);
        (seen, due)
    };
    let (mut seen, due) = spawn_blocking(choosing).await.map_err(|error| Status::internal(error.to_string()))?;
    let until = Instant::now() + DIVIDE;
    let asks: Vec<_> = due
        .into_iter()
        .map(|(shard, partitioning)| async move {
            let request = Request::new(v1::DivideShardRequest { shard: shard.0 });
            // A leader that does not answer in time is asked for the next plan again.
            let reply = timeout_at(until, admin.divide_shard(request)).await.ok()?.ok()?;
            Some((shard, divided(partitioning, reply.into_inner())))
        })
        .collect();
    let mut answers = stream::iter(asks).buffer_unordered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        seen.divided.extend(answer);
    }
    Ok(seen)
}

/// What the nodes say of themselves and of the shards that they lead.
pub(super) async fn heard(admin: &AdminService, state: &Arc<SystemState>) -> Result<Seen, Status> {
    let running = admin.get()?;
    let now = running.started.elapsed();
    let mut seen = Seen { now, ..Seen::default() };
    let mut asked = Vec::new();
    for node in state.nodes.keys().copied() {
        let alive = node == running.node || running.peers.is_alive(node);
        // One that was never heard since this process began may have been alive until then.
        let silent = running.peers.spoken(node).map_or(now, |said| said.ago());
        seen.nodes.insert(node, Heard { place: running.peers.place(node), alive, silent, room: Room::None });
        if alive {
            asked.push(node);
        }
    }
    let until = Instant::now() + ASK;
    let asks: Vec<_> = asked
        .into_iter()
        .map(|node| async move {
            let Ok(Ok(status)) = timeout_at(until, admin.status_of(node)).await else { return (node, None) };
            (node, spawn_blocking(move || told(status)).await.ok())
        })
        .collect();
    let mut answers = stream::iter(asks).buffer_unordered(AT_ONCE);
    while let Some((node, answer)) = answers.next().await {
        match answer {
            Some(told) => take(&mut seen, node, told),
            None => seen.silent.push(node),
        }
    }
    seen.silent.sort_unstable();
    Ok(seen)
}

fn take(seen: &mut Seen, node: NodeId, Told { place, alive, room, led }: Told) {
    if let Some(heard) = seen.nodes.get_mut(&node) {
        (heard.alive, heard.room) = (alive, room);
        // An older binary does not say; what was heard before counts then.
        if place != Place::default() {
            heard.place = place;
        }
    }
    for (shard, led) in led {
        seen.add(shard, led);
    }
}

fn told(status: v1::NodeStatusReply) -> Told {
    let node = NodeId(status.node);
    let leads = status.replicas.iter().filter(|replica| replica.role == "leader");
    let led = leads.map(|replica| {
        let (rate, rate_max) = replica.load.as_ref().map(rates).unwrap_or_default();
        let rank = (replica.epoch, replica.last);
        (ShardId(replica.shard), Led { leader: node, rank, bytes: replica.bytes, rate, rate_max })
    });
    let room = match (status.disk_low.is_empty(), status.disk_bytes) {
        (false, _) => Room::None,
        (true, 0) => Room::Unknown,
        (true, size) => Room::Known { size, free: status.disk_free_bytes },
    };
    Told {
        led: led.collect(),
        alive: status.quarantined.is_empty(),
        room,
        place: Place { zone: status.zone, rack: status.rack },
    }
}

/// The shards above a mark: those furthest above it, as many as are asked for at most.
fn due(state: &SystemState, seen: &Seen, settings: &Settings, table: Option<TableId>) -> Vec<(ShardId, Partitioning)> {
    let mut above: Vec<(u64, ShardId, Partitioning)> = Vec::new();
    for (shard, led) in seen.led.iter().filter(|(shard, _)| **shard != SYSTEM_SHARD) {
        let Some(d) = state.shards.get(shard).filter(|d| table.is_none_or(|table| d.table == table)) else { continue };
        let percent = |has: u64, mark: u64| has.saturating_mul(100) / mark.max(1);
        let bytes = percent(led.bytes.unwrap_or_default(), settings.size_mark);
        let most = bytes.max(percent(settings.weights.cost(led.rate), settings.load_mark));
        if most >= 100 {
            above.push((most, *shard, d.partitioning));
        }
    }
    above.sort_unstable_by_key(|(most, shard, _)| (std::cmp::Reverse(*most), *shard));
    above.truncate(DIVIDED_MAX);
    above.into_iter().map(|(_, shard, partitioning)| (shard, partitioning)).collect()
}

fn divided(partitioning: Partitioning, reply: v1::DivideShardReply) -> Divided {
    let v1::DivideShardReply { version, middle, load, .. } = reply;
    let samples = load.map(|load| divide::samples(partitioning, &report(load))).unwrap_or_default();
    Divided { version, middle: (!middle.is_empty()).then_some(middle), samples }
}

fn report(load: v1::ShardLoad) -> LoadReport {
    let rate =
        Work { reads: load.reads, read_bytes: load.read_bytes, writes: load.writes, write_bytes: load.write_bytes };
    let sampled = load.sampled.into_iter().map(|sampled| Sampled {
        at: sampled.position,
        count: sampled.count,
        ops: sampled.ops,
        bytes: sampled.bytes,
    });
    // The greatest rates are not looked at for a split.
    LoadReport { rate, peak: Work::default(), samples: load.samples, sampled: sampled.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::system::{Retention, SystemCommand};

    fn replica(shard: u64, role: &str, bytes: Option<u64>, writes: u64) -> v1::ReplicaStatus {
        let load = Some(v1::ShardLoad { writes, ..v1::ShardLoad::default() });
        v1::ReplicaStatus { shard, role: role.into(), epoch: 1, last: 7, bytes, load, ..v1::ReplicaStatus::default() }
    }

    fn says(replicas: Vec<v1::ReplicaStatus>) -> v1::NodeStatusReply {
        let (disk_bytes, disk_free_bytes) = (1 << 40, 1 << 30);
        v1::NodeStatusReply { node: 1, zone: "a".into(), disk_bytes, disk_free_bytes, replicas, ..Default::default() }
    }

    #[test]
    fn a_node_tells_its_disk_its_zone_and_the_shards_that_it_leads() {
        let status = says(vec![replica(2, "leader", Some(9), 4), replica(3, "follower", None, 1)]);
        let Told { place, alive, room, led } = told(status.clone());
        assert_eq!((place.zone.as_str(), alive), ("a", true));
        assert_eq!(room, Room::Known { size: 1 << 40, free: 1 << 30 });
        let [(shard, led)] = &led[..] else { panic!("{led:?}") };
        assert_eq!((*shard, led.leader, led.bytes, led.rate.ops), (ShardId(2), NodeId(1), Some(9), 4));
        assert_eq!(told(v1::NodeStatusReply { disk_low: "low".into(), ..status.clone() }).room, Room::None);
        assert_eq!(told(v1::NodeStatusReply { disk_bytes: 0, ..status.clone() }).room, Room::Unknown);
        assert!(!told(v1::NodeStatusReply { quarantined: "it is older".into(), ..status }).alive);
    }

    #[test]
    fn leaders_are_asked_where_to_divide_what_is_above_a_mark_only() {
        let mut state = SystemState::found(7, &["a:1".to_owned()]);
        state.execute(&SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Hash,
            retention: Retention::All,
            shards: 3,
            splits: vec![],
            replicas: 1,
        });
        let settings = Settings::default();
        let status = says(vec![
            replica(1, "leader", Some(settings.size_mark * 9), 0),
            replica(2, "leader", Some(settings.size_mark * 2), 0),
            replica(3, "leader", Some(10), settings.load_mark * 4),
            replica(4, "leader", None, 5),
        ]);
        let mut seen = Seen::default();
        take(&mut seen, NodeId(1), told(status));
        let shards = |table| due(&state, &seen, &settings, table).iter().map(|(shard, _)| shard.0).collect::<Vec<_>>();
        assert_eq!(shards(None), [3, 2], "the system shard is never split");
        assert_eq!(shards(Some(TableId(99))), Vec::<u64>::new());
    }

    #[test]
    fn the_samples_of_a_hash_table_are_at_hashes() {
        let sampled = |position: &'static [u8], count| v1::SampledPosition {
            position: position.into(),
            count,
            ..v1::SampledPosition::default()
        };
        let sampled = vec![sampled(b"\x01aaaaaaak1", 40), sampled(b"\x02aaaaaaak2", 24)];
        let load = v1::ShardLoad { writes: 64, samples: 64, sampled, ..v1::ShardLoad::default() };
        let reply = v1::DivideShardReply { version: 3, load: Some(load), ..v1::DivideShardReply::default() };
        let Divided { version, middle, samples } = divided(Partitioning::Hash, reply);
        assert_eq!((version, middle), (3, None));
        assert_eq!(samples.iter().map(|sample| &sample.at[..]).collect::<Vec<_>>(), [b"\x01aaaaaaa", b"\x02aaaaaaa"]);
        assert!(samples[0].rate.ops > samples[1].rate.ops);
    }
}
