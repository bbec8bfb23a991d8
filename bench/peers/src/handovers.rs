//! What clients see while a shard is split, handed over or moved and nothing fails.
//!
//! Owns: the turns of each operation beside a steady load, and the table of what came of them. Must never: leave out a turn that failed, or
//! compare an operation with another load than the one it happened beside.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use serde::Serialize;
use synod_bench::{BenchSpec, Halt, Pace, Stop, Table, Workload, run_on};
use synod_client::{Client, ClusterMap, JobGoal, Retention, ShardInfo, TableSpec};
use tokio::time::sleep;

use crate::drive::Plan;
use crate::failover::{Answer, CLIENTS, Writers, longest_gap};
use crate::plot::thousands;
use crate::summary::Spread;
use crate::systems::{Running, Store, System};

/// How long the greatest rate is looked for.
const TRIAL: Duration = Duration::from_secs(5);
/// What is looked at behind the end of an operation as well, and left out before what it is compared with.
const BEHIND: Duration = Duration::from_millis(750);
/// How long clients write before an operation.
const BEFORE: Duration = Duration::from_secs(1);
/// How long an operation may take, and the cluster to be ready for it.
const WITHIN: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of a value of those that a move has to carry.
const FILL_BYTES: usize = 64 << 10;
/// So many of them are written at a time.
const FILL_AT_ONCE: u64 = 64;
/// The table that is handed over and moved: `systems::synod` makes it, and asks who leads its shards.
const TABLE: &str = "bench";
/// The first cluster version that knows splits.
const SPLITS: u32 = 4;

/// What is done to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// It becomes two, of half of the hashes each.
    Split,
    /// Another replica leads it.
    Transfer,
    /// A replica moves to the node that has none; each of the voters in turn, so that a third of the moves is of the leader's.
    Move,
}

impl Operation {
    const ALL: [Operation; 3] = [Operation::Split, Operation::Transfer, Operation::Move];

    fn name(self) -> &'static str {
        match self {
            Operation::Split => "split",
            Operation::Transfer => "transfer",
            Operation::Move => "move",
        }
    }

    /// What is wanted of the median and of the worst turn, milliseconds.
    fn wanted_ms(self) -> (f64, f64) {
        match self {
            Operation::Split => (50.0, 150.0),
            Operation::Transfer => (20.0, 20.0),
            Operation::Move => (100.0, 100.0),
        }
    }
}

/// One operation beside the load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Turn {
    /// From when it was asked for until it was seen to be done, milliseconds.
    pub took_ms: f64,
    /// The longest time between two answers of one client, from the beginning until 750 ms behind its end, milliseconds.
    pub gap_ms: f64,
    /// The same in as long a time without it.
    pub quiet_gap_ms: f64,
    /// Answers a second while it was under way.
    pub rate_per_s: f64,
    /// Answers a second in the time without it.
    pub quiet_per_s: f64,
}

/// All turns of an operation.
#[derive(Clone, Debug, Serialize)]
pub struct Turns {
    /// Which.
    pub operation: Operation,
    /// Those that were done.
    pub done: Vec<Turn>,
    /// Why others were not.
    pub failed: Vec<String>,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Handovers {
    /// Puts a second in a closed loop of as many clients.
    pub most_per_s: f64,
    /// Puts a second that were offered.
    pub offered_per_s: f64,
    /// MiB that a move has to carry, about.
    pub fill_mib: u64,
    /// What came of each operation.
    pub turns: Vec<Turns>,
}

/// How often, and beside what.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Turns of each operation.
    pub count: u32,
    /// The load, as a share of the most.
    pub share: f64,
    /// Puts a second instead.
    pub rate_per_s: Option<f64>,
    /// MiB of records in the shard that is moved.
    pub fill_mib: u64,
}

type Told<T> = Result<T, String>;

/// What the turns of an operation need.
struct Ground<'a> {
    running: &'a Running,
    client: &'a Client,
    every: Duration,
}

/// Does each operation so many times beside a steady load.
///
/// # Errors
/// The cluster does not start or cannot be reached.
pub async fn run(plan: &Plan, program: &Path, wanted: Wanted, halt: &Halt) -> Told<Handovers> {
    let place = plan.place(System::Synod, program, 1).map_err(text)?;
    let mut running = Running::start(System::Synod, place).await.map_err(text)?;
    let stores = running.connect(false).await.map_err(text)?;
    let trial = run_on(stores, trial(), halt.clone(), |_| ()).await.map_err(text)?;
    let offered_per_s = wanted.rate_per_s.unwrap_or(trial.ops_per_s * wanted.share).max(1.0);
    println!("{} puts/s at most; {} a second are offered", thousands(trial.ops_per_s), thousands(offered_per_s));
    running.join().map_err(text)?;
    let client = running.synod().await.map_err(text)?;
    let ready = |map: &ClusterMap| map.nodes.len() == 4 && map.version >= SPLITS;
    seen(&client, "a fourth node and splits", ready).await?;

    let every = Duration::from_secs_f64(CLIENTS as f64 / offered_per_s);
    let ground = Ground { running: &running, client: &client, every };
    let mut turns = Vec::new();
    for operation in Operation::ALL {
        if operation == Operation::Move {
            fill(&client, wanted.fill_mib).await?;
        }
        turns.push(ground.turns(operation, wanted.count, halt).await);
    }
    running.stop();
    Ok(Handovers { most_per_s: trial.ops_per_s, offered_per_s, fill_mib: wanted.fill_mib, turns })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn trial() -> BenchSpec {
    BenchSpec {
        workload: Workload::Put,
        clients: CLIENTS,
        pace: Pace::Closed,
        stop: Stop::After(TRIAL),
        ..BenchSpec::default()
    }
}

/// Waits until the map is as it is to be.
async fn seen(client: &Client, what: &str, is: impl Fn(&ClusterMap) -> bool) -> Told<()> {
    let began = Instant::now();
    loop {
        if client.refresh_map().await.is_ok_and(|map| is(&map)) {
            return Ok(());
        }
        if began.elapsed() > WITHIN {
            return Err(format!("{what}: not seen within {} s", WITHIN.as_secs()));
        }
        sleep(LOOK).await;
    }
}

/// Gives a move something to carry.
async fn fill(client: &Client, mib: u64) -> Told<()> {
    let value = Bytes::from(vec![9; FILL_BYTES]);
    let count = (mib << 20) / FILL_BYTES as u64;
    for first in (0..count).step_by(FILL_AT_ONCE as usize) {
        let some = first..count.min(first + FILL_AT_ONCE);
        try_join_all(some.map(|n| client.put(TABLE, format!("fill-{n:08}"), value.clone()))).await.map_err(text)?;
    }
    Ok(())
}

/// The only shard of a table.
fn only(map: &ClusterMap, table: &str) -> Told<ShardInfo> {
    let id = map.tables.iter().find(|found| found.name == table).map(|found| found.id);
    let shard = map.shards.iter().find(|shard| Some(shard.table_id) == id);
    shard.cloned().ok_or_else(|| format!("table {table} has no shard in the map"))
}

impl Ground<'_> {
    async fn turns(&self, operation: Operation, count: u32, halt: &Halt) -> Turns {
        let mut turns = Turns { operation, done: Vec::new(), failed: Vec::new() };
        for n in 0..count {
            if halt.halted() {
                turns.failed.push(format!("interrupted before turn {} of {count}", n + 1));
                break;
            }
            let name = operation.name();
            match self.turn(operation, n).await {
                Ok(turn) => {
                    println!("  {name} {} of {count}: {:.1} ms, {:.1} without", n + 1, turn.gap_ms, turn.quiet_gap_ms);
                    turns.done.push(turn);
                }
                Err(why) => {
                    println!("  {name} {} of {count}: {why}", n + 1);
                    turns.failed.push(why);
                }
            }
        }
        turns
    }

    async fn turn(&self, operation: Operation, n: u32) -> Told<Turn> {
        // A table of its own for each split: the whole ring is halved, and half of the clients find a new leader.
        let own = (operation == Operation::Split).then(|| format!("split-{n}"));
        let table = own.as_deref().unwrap_or(TABLE);
        if own.is_some() {
            let spec = TableSpec { replicas: 3, ..TableSpec::hash(table, 1, Retention::Latest) };
            self.client.create_table(spec).await.map_err(text)?;
        }
        let mut stores = Vec::new();
        for _ in 0..4 {
            stores.push(Store::Synod(Table::new(self.running.synod().await.map_err(text)?, table)));
        }
        let writers = Writers::start(&stores, 256, Some(self.every));
        sleep(BEFORE).await;
        let turn = match operation {
            Operation::Split => beside(&writers, self.split(table)).await,
            Operation::Transfer => beside(&writers, self.transfer(n as usize)).await,
            Operation::Move => beside(&writers, self.move_replica(n as usize)).await,
        };
        writers.stop().await;
        if own.is_some() {
            self.client.drop_table(table).await.map_err(text)?;
        }
        turn
    }

    async fn split(&self, table: &str) -> Told<()> {
        let shard = only(&self.client.refresh_map().await.map_err(text)?, table)?;
        let middle = Bytes::copy_from_slice(&(1_u64 << 63).to_be_bytes());
        self.job(JobGoal::SplitShard { shard: shard.id, version: shard.version, at: Some(middle) }).await
    }

    /// Each of the others in turn.
    async fn transfer(&self, n: usize) -> Told<()> {
        let shard = only(&self.client.refresh_map().await.map_err(text)?, TABLE)?;
        let leader = self.running.leaders(self.client).await.get(&shard.id).copied();
        let others: Vec<u64> = shard.voters.iter().copied().filter(|voter| Some(*voter) != leader).collect();
        let to = *others.get(n % others.len().max(1)).ok_or("nobody to hand over to")?;
        self.client.transfer_leader(shard.id, to).await.map_err(text)?;
        let began = Instant::now();
        while self.running.leaders(self.client).await.get(&shard.id) != Some(&to) {
            if began.elapsed() > WITHIN {
                return Err(format!("node {to} does not lead shard {} yet", shard.id));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn move_replica(&self, n: usize) -> Told<()> {
        let map = self.client.refresh_map().await.map_err(text)?;
        let shard = only(&map, TABLE)?;
        let without = map.nodes.iter().map(|node| node.id).find(|node| !shard.voters.contains(node));
        let to = without.ok_or("every node has a replica")?;
        let from = *shard.voters.get(n % shard.voters.len().max(1)).ok_or("nobody has a replica")?;
        self.job(JobGoal::MoveReplica { shard: shard.id, from, to: Some(to) }).await
    }

    async fn job(&self, goal: JobGoal) -> Told<()> {
        let id = self.client.start_job(goal).await.map_err(text)?;
        let began = Instant::now();
        loop {
            // A look that fails says nothing of the job.
            if let Ok(job) = self.client.job(id).await
                && job.has_ended()
            {
                let why = job.why.unwrap_or_default();
                return if job.state == "done" {
                    Ok(())
                } else {
                    Err(format!("job {id} ended as {}: {why}", job.state))
                };
            }
            if began.elapsed() > WITHIN {
                return Err(format!("job {id} has not ended within {} s", WITHIN.as_secs()));
            }
            sleep(LOOK).await;
        }
    }
}

/// What the clients saw beside an operation, and in as long a time without it.
async fn beside(writers: &Writers, operation: impl Future<Output = Told<()>>) -> Told<Turn> {
    let begun = Instant::now();
    operation.await?;
    let done = Instant::now();
    sleep(BEHIND).await;
    let end = Instant::now();
    sleep(BEHIND).await;
    let quiet = Instant::now();
    sleep(end - begun).await;
    Ok(judged(&writers.seen(), [begun, done, end], [quiet, quiet + (end - begun)]))
}

/// Of an operation that began, was done, and was looked at until an end; and of a time without it.
fn judged(seen: &[Vec<Answer>], [begun, done, end]: [Instant; 3], [quiet, until]: [Instant; 2]) -> Turn {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let rate = |from: Instant, to: Instant| {
        let answers = seen.iter().flatten().filter(|(_, ended)| *ended >= from && *ended < to).count();
        answers as f64 / (to - from).as_secs_f64().max(1e-3)
    };
    Turn {
        took_ms: ms(done - begun),
        gap_ms: ms(longest_gap(seen, begun, end)),
        quiet_gap_ms: ms(longest_gap(seen, quiet, until)),
        rate_per_s: rate(begun, done),
        quiet_per_s: rate(quiet, until),
    }
}

/// The report for people.
#[must_use]
pub fn markdown(found: &Handovers, machine: &str) -> String {
    let mut text = format!(
        "# Gaps beside splits, transfers and moves\n\n{machine}\n\nFour nodes, a table of one shard with three replicas, {CLIENTS} clients, \
         puts of 256 B to a key each, {} a second offered (the most in a closed loop: {}); no faults. The longest time between two answers that \
         any one client saw, from the beginning of each operation until {} ms behind its end, and in as long a time without it. A move has \
         {} MiB to carry, at the default `snapshot.max_rate`. Nodes do not tell what a gap consists of.\n\n| operation | turns | longest gap, ms: \
         median, worst | wanted | without it, ms: median, worst | it took, ms: median, worst | rate beside it, of that without: median, least \
         |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        thousands(found.offered_per_s),
        thousands(found.most_per_s),
        BEHIND.as_millis(),
        found.fill_mib,
    );
    for turns in &found.turns {
        let of = |figure: fn(&Turn) -> f64| Spread::of(turns.done.iter().map(figure));
        let worst = |spread: Option<Spread>| spread.map_or("–".into(), |s| format!("{:.1}, {:.1}", s.median, s.max));
        let share = of(|turn| 100.0 * turn.rate_per_s / turn.quiet_per_s.max(1.0));
        let (median, most) = turns.operation.wanted_ms();
        text += &format!(
            "| {} | {} | {} | ≤ {median}, {most} | {} | {} | {} |\n",
            turns.operation.name(),
            turns.done.len(),
            worst(of(|turn| turn.gap_ms)),
            worst(of(|turn| turn.quiet_gap_ms)),
            worst(of(|turn| turn.took_ms)),
            share.map_or("–".into(), |s| format!("{:.0} %, {:.0} %", s.median, s.min)),
        );
    }
    for turns in &found.turns {
        for why in &turns.failed {
            text += &format!("\nA {} failed: {}\n", turns.operation.name(), why.replace('\n', "; "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_judged_by_its_own_time_and_by_one_without() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        // An answer each 10 ms, none from 100 to 160.
        let answers: Vec<Answer> =
            (0..60).map(|n| n * 10).filter(|ms| *ms <= 100 || *ms >= 160).map(|ms| (at(ms), at(ms))).collect();
        let turn = judged(&[answers], [at(95), at(195), at(245)], [at(300), at(450)]);
        assert_eq!((turn.took_ms, turn.gap_ms, turn.quiet_gap_ms), (100.0, 60.0, 10.0));
        // At 100, 160, 170, 180 and 190.
        assert!((turn.rate_per_s - 50.0).abs() < 1e-6 && (turn.quiet_per_s - 100.0).abs() < 1e-6, "{turn:?}");
    }

    #[test]
    fn the_report_has_every_operation_and_what_failed() {
        let turn = |gap_ms| Turn { took_ms: 200.0, gap_ms, quiet_gap_ms: 5.0, rate_per_s: 900.0, quiet_per_s: 1000.0 };
        let turns = |operation, done, failed: &[&str]| Turns {
            operation,
            done,
            failed: failed.iter().map(|why| (*why).to_owned()).collect(),
        };
        let found = Handovers {
            most_per_s: 2000.0,
            offered_per_s: 1000.0,
            fill_mib: 256,
            turns: vec![
                turns(Operation::Split, vec![turn(30.0), turn(140.0), turn(20.0)], &[]),
                turns(Operation::Move, vec![], &["job 7 ended as failed: gone"]),
            ],
        };
        let text = markdown(&found, "a machine");
        for part in [
            "| split | 3 | 30.0, 140.0 | ≤ 50, 150 | 5.0, 5.0 | 200.0, 200.0 | 90 %, 90 % |",
            "| move | 0 | – | ≤ 100, 100 | – | – | – |",
            "A move failed: job 7 ended as failed: gone",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
