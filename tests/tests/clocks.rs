//! Wall clocks that are wrong by an hour: of one node, or of all, and set right again.
//!
//! Owns: the claims about timestamps, deadlines and what is told of such clocks. Must never: wait until a wrong time has passed.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use synod_tests::cluster::{Cluster, PATIENCE, Site, Status};
use synod_tests::http;
use synod_tests::run::until;
use synod_tests::shim::{self, Dial};
use tempfile::TempDir;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// Three nodes whose wall clocks can be set.
struct Clocks {
    dials: Vec<Dial>,
    library: String,
    _dir: TempDir,
}

impl Clocks {
    fn new(ahead: [i64; 3]) -> Clocks {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let library = shim::library(dir.path(), "fast_clock", shim::CLOCK).expect("cc is there: RocksDB was compiled");
        let dials = (1..).zip(ahead).map(|(node, ahead)| Dial::new(dir.path().join(format!("wall-{node}")), ahead));
        Clocks { dials: dials.collect(), library, _dir: dir }
    }

    fn sites(&self) -> Vec<Site> {
        let env =
            |dial: &Dial| vec![("LD_PRELOAD".into(), self.library.clone()), ("SYNOD_WALL_DIAL".into(), dial.path())];
        self.dials.iter().map(|dial| Site { env: env(dial), ..Site::default() }).collect()
    }

    fn set_all(&self, ahead: i64) {
        self.dials.iter().for_each(|dial| dial.set(ahead));
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("before 292,000")
}

/// Writes each of some keys, at once and without an error; by how much their timestamps are ahead, µs.
#[track_caller]
fn put_all(cluster: &Cluster, value: &str) -> Vec<i64> {
    let put = |n: usize| {
        let key = format!("key-{n}");
        cluster.cli(&["--timeout", "5s", "put", "t", &key, value]).ok();
        let got = cluster.json(&["get", "t", &key]);
        got["ts_us"].as_i64().unwrap_or_else(|| panic!("{got}")) - now_us()
    };
    (0..12).map(put).collect()
}

fn alarms(status: &Status) -> Vec<String> {
    let nodes = status.value["nodes"].as_array().into_iter().flatten();
    let alarms = nodes.flat_map(|node| node["clock_alarms"].as_array().cloned().unwrap_or_default());
    alarms.map(|alarm| alarm.as_str().unwrap_or_default().to_owned()).collect()
}

fn table(cluster: &Cluster) {
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "6", "--retain", "all"]).ok();
    cluster.wait_up();
}

#[test]
fn one_clock_an_hour_ahead_moves_no_timestamp_and_is_named() {
    let clocks = Clocks::new([HOUR, 0, 0]);
    let mut cluster = Cluster::start_at(clocks.sites(), None);
    table(&cluster);
    let ahead = put_all(&cluster, "while it is wrong");
    assert!(ahead.iter().all(|by| by.abs() < 60 * SECOND), "{ahead:?}");
    let wrong = cluster.status().and_then(|status| status.id(&cluster.addr(1))).expect("node 1 has a number");
    let said = format!("the wall clock of node {wrong} is 1h ahead of what most nodes' clocks show");
    cluster.wait_status("the clock is told of", |status| alarms(status).iter().any(|alarm| alarm.starts_with(&said)));
    let text = cluster.cli(&["status"]).ok().stdout;
    assert_eq!(text.lines().filter(|line| line.starts_with(&said)).count(), 1, "{text}");
    for node in 1..=3 {
        let log = cluster.log(node);
        assert!(log.contains(&said), "node {node}: {log}");
        let name = format!("synod_wall_clock_ahead_seconds{{node=\"{wrong}\"}}");
        let seconds = http::metric(&cluster.http(node), &name);
        assert!(seconds.is_some_and(|s| (s - 3_600.0).abs() < 5.0), "node {node}: {seconds:?}");
    }
    // Set right, by a jump and by a restart: nothing has expired, neither of records nor of tables.
    clocks.set_all(0);
    let ahead = put_all(&cluster, "since it is right");
    assert!(ahead.iter().all(|by| by.abs() < 60 * SECOND), "{ahead:?}");
    cluster.cli(&["--timeout", "5s", "table", "create", "u", "--partition", "hash", "--shards", "1"]).ok();
    cluster.wait_status("the clock is right", |status| alarms(status).is_empty());
    cluster.stop(1);
    cluster.restart(1);
    cluster.wait_up();
    put_all(&cluster, "after a restart");
    // An hour behind is told too, and holds no timestamp back.
    clocks.dials[1].set(-HOUR);
    let said = "is 1h behind what most nodes' clocks show";
    cluster.wait_status("the clock is told of", |status| alarms(status).iter().any(|alarm| alarm.contains(said)));
    let ahead = put_all(&cluster, "while another is behind");
    assert!(ahead.iter().all(|by| by.abs() < 60 * SECOND), "{ahead:?}");
}

/// What `check` notes of a data directory.
fn notes(cluster: &Cluster, data: &Path) -> Vec<String> {
    let found = cluster.json(&["check", &data.display().to_string()]);
    let notes = found["notes"].as_array().cloned().unwrap_or_default();
    notes
        .iter()
        .map(|note| format!("{}: {}", note["what"].as_str().unwrap_or(""), note["why"].as_str().unwrap_or("")))
        .collect()
}

#[test]
fn a_shard_whose_time_is_an_hour_ahead_goes_on_taking_writes() {
    let clocks = Clocks::new([HOUR; 3]);
    let mut cluster = Cluster::start_at(clocks.sites(), None);
    table(&cluster);
    put_all(&cluster, "by clocks that are all wrong");
    clocks.set_all(0);
    let first = put_all(&cluster, "by the right ones");
    assert!(first.iter().all(|by| (HOUR / 2..HOUR + 60 * SECOND).contains(by)), "timestamps go on: {first:?}");
    // By way of a node too that names the writes itself.
    cluster.cli(&["--timeout", "5s", "table", "create", "u", "--partition", "hash", "--shards", "1"]).ok();
    let said = "ahead of what most nodes' clocks show: its timestamps go on from there";
    cluster.wait_status("its time is told", |status| alarms(status).iter().any(|alarm| alarm.contains(said)));
    let ahead = |node| http::metric(&cluster.http(node), "synod_engine_shard_time_ahead_seconds").unwrap_or(0.0);
    let told = || (1..=3).any(|node| ahead(node) > 3_000.0).then_some(());
    until(PATIENCE, "the distance is measured", told).unwrap_or_else(|why| panic!("{why}"));
    let logged =
        || (1..=3).any(|node| cluster.log(node).contains("ahead of what a quorum's clocks show")).then_some(());
    until(PATIENCE, "the distance is logged", logged).unwrap_or_else(|why| panic!("{why}"));

    let backup = cluster.dir().join("backup").display().to_string();
    cluster.cli(&["backup", &backup]).ok();
    cluster.stop(3);
    let noted = notes(&cluster, &cluster.data_dir(3));
    assert!(noted.iter().any(|note| note.contains("ahead of this machine's clock")), "{noted:?}");
    for node in [1, 2] {
        cluster.stop(node);
    }

    let mut new = Cluster::empty(3);
    let founders = new.founders();
    for node in 1..=3 {
        let (data, number) = (new.data_dir(node).display().to_string(), node.to_string());
        cluster.cli(&["restore", &backup, "--data-dir", &data, "--founders", &founders, "--node", &number]).ok();
        let noted = notes(&cluster, &new.data_dir(node));
        assert!(noted.iter().any(|note| note.contains("ahead of this machine's clock")), "{noted:?}");
        new.add_restored(node);
    }
    new.wait_up();
    let restored = put_all(&new, "in the restored cluster");
    assert!(restored.iter().all(|by| *by > HOUR / 2), "timestamps go on: {restored:?}");
    new.cli(&["--timeout", "5s", "table", "create", "v", "--partition", "hash", "--shards", "1"]).ok();
}
