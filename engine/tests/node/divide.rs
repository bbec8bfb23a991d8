//! Where a shard could be divided, asked of whole nodes: only its leader says, and it goes by what was written, flushed or not.

use super::harness::{Cluster, Disk, append};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::host::{AdminInput, Division};

type Told = Option<Result<Division, Refusal>>;

fn divided(c: &mut Cluster, node: NodeId, shard: ShardId) -> Result<Division, Refusal> {
    let told: Arc<Mutex<Told>> = Arc::default();
    let tell = Arc::clone(&told);
    let done = Box::new(move |found| *tell.lock().unwrap() = Some(found));
    c.push(node, AdminInput::Divide { shard, done });
    c.run_until("an answer", |_| {
        // A thread looks.
        std::thread::sleep(Duration::from_millis(1));
        told.lock().unwrap().is_some()
    });
    let found = told.lock().unwrap().take();
    found.unwrap()
}

fn leader(c: &mut Cluster, shard: ShardId) -> NodeId {
    c.run_until("a leader", |c| c.leader(shard).is_some());
    c.leader(shard).unwrap()
}

/// A range table of one shard on these disks.
fn one_shard(disks: Vec<Disk>) -> (Cluster, TableId, ShardId) {
    let mut c = Cluster::new(disks);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    (c, table, shard)
}

fn halves(disks: Vec<Disk>) -> (Cluster, TableId, ShardId) {
    let (mut c, table, shard) = one_shard(disks);
    for n in 0..40 {
        c.append(table, &format!("k{n:02}"), &"x".repeat(1000));
    }
    let leads = leader(&mut c, shard);
    let found = divided(&mut c, leads, shard).expect("it is found");
    let middle = found.middle.clone().expect("there is one");
    assert!(found.bytes > 40_000 && found.bytes < 60_000, "{found:?}");
    assert!(middle.at >= "k18" && middle.at <= "k22", "{middle:?}");
    assert_eq!((found.version, found.partitioning, found.from.len(), found.to.len()), (1, Partitioning::Range, 0, 0));
    (c, table, shard)
}

#[test]
fn a_leader_finds_the_middle_and_others_say_who_leads() {
    let (mut c, table, shard) = halves((0..3).map(|_| Disk::mem(1 << 20)).collect());
    let leads = leader(&mut c, shard);
    for node in c.ids() {
        if node != leads {
            // A belief in a leader ends, and comes back with its next word.
            c.run_until("it knows who leads", |c| {
                c.report(node).replicas.iter().any(|r| r.shard == shard && r.leader == Some(leads))
            });
            assert_eq!(divided(&mut c, node, shard), Err(Refusal::NotLeader { leader: Some(leads), maybe: false }));
        }
    }
    assert_eq!(divided(&mut c, leads, ShardId(999)), Err(Refusal::WrongShard));
    let system = leader(&mut c, SYSTEM_SHARD);
    assert!(matches!(divided(&mut c, system, SYSTEM_SHARD), Err(Refusal::Invalid { field: "shard", .. })));
    // What comes later counts at once, though nothing but the question freezes it.
    for _ in 0..200 {
        let big = append("k00", &"x".repeat(4000));
        c.write(table, vec![big]).expect("it is written");
    }
    let leads = leader(&mut c, shard);
    let found = divided(&mut c, leads, shard).expect("it is looked for");
    assert!(found.bytes > 800_000 && found.middle.is_none(), "one key has nearly all: {found:?}");
}

#[test]
fn a_store_on_disk_tells_sizes() {
    let directory = tempfile::tempdir().unwrap();
    let disks = (0..3).map(|n| Disk::Rocks { path: directory.path().join(n.to_string()) }).collect();
    let (mut c, _, shard) = halves(disks);
    let leads = leader(&mut c, shard);
    for node in c.ids() {
        let size = c.replica(node, shard).expect("it is here").size.map(|size| size.bytes());
        // What compresses well takes little.
        assert_eq!(size.is_some(), node == leads, "only a leader looks at sizes: {size:?}");
    }
}

#[test]
fn a_leader_counts_what_it_is_asked_and_forgets_it() {
    let (mut c, table, shard) = one_shard((0..3).map(|_| Disk::mem(1 << 20)).collect());
    let leads = leader(&mut c, shard);
    for _ in 0..30 {
        c.append(table, "hot", "value");
        c.get(table, "cool");
    }
    c.run_for(2_000_000);
    for node in c.ids() {
        let load = c.replica(node, shard).expect("it is here").load;
        assert_eq!(load.rate.writes > 0, node == leads, "{load:?}");
        assert_eq!(load.rate.reads > 0, node == leads, "{load:?}");
        let keys: Vec<&[u8]> = load.sampled.iter().map(|sampled| &sampled.at[..]).collect();
        assert_eq!(keys.contains(&&b"hot"[..]) && keys.contains(&&b"cool"[..]), node == leads, "{keys:?}");
    }
    let found = divided(&mut c, leads, shard).expect("it is looked for");
    assert!(found.load.peak.writes >= found.load.rate.writes && found.load.samples >= 60, "{:?}", found.load);
    c.run_for(200_000_000);
    let load = c.replica(leads, shard).expect("it is here").load;
    assert_eq!((load.rate.ops(), load.peak.ops() > 0), (0, true), "{load:?}");
}
