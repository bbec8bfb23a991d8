//! What the slowest operations see while something happens to the cluster.
//!
//! Owns: the order of events, and when each began. Must never: slow the load down for one: arrivals come at their rate.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use synod_bench::{BenchSpec, Halt, Moment, Pace, Report, Second, Stop, Workload, run_on};
use tokio::time::{sleep, sleep_until};

use crate::drive::Plan;
use crate::plot::thousands;
use crate::scrape;
use crate::systems::{Running, System};

/// Flushes of the state, as the nodes count them.
const FLUSHES: &str = "synod_engine_state_freezes_total";
/// How long the greatest rate is looked for.
const TRIAL: Duration = Duration::from_secs(5);
/// Counters are read so often.
const LOOK: Duration = Duration::from_millis(500);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A backup of everything begins: a snapshot of each shard is made and sent.
    Backup,
    /// A node that leads no more than the others is killed.
    KillFollower,
    /// It is started again, and catches up.
    StartFollower,
    /// Every leadership of one node is handed over.
    Transfer,
    /// The node that leads most is killed.
    KillLeader,
    /// It is started again.
    StartLeader,
    /// The end of what is looked at.
    End,
}

impl Event {
    /// In their order, each so many seconds behind the one before.
    const PLAN: [(u64, Event); 7] = [
        (20, Event::Backup),
        (20, Event::KillFollower),
        (10, Event::StartFollower),
        (20, Event::Transfer),
        (10, Event::KillLeader),
        (10, Event::StartLeader),
        (20, Event::End),
    ];

    fn words(self) -> &'static str {
        match self {
            Event::Backup => "backup",
            Event::KillFollower => "follower killed",
            Event::StartFollower => "started",
            Event::Transfer => "leaderships moved",
            Event::KillLeader => "leader killed",
            Event::StartLeader => "started",
            Event::End => "end",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Happened {
    /// Seconds since the load began to count.
    pub at_s: f64,
    /// What.
    pub event: Event,
    /// How it went, where there is something to say.
    pub note: String,
}

/// A run.
#[derive(Debug, Serialize)]
pub struct Tails {
    /// Puts a second in a closed loop of as many clients.
    pub most_per_s: f64,
    /// What the load was.
    pub report: Report,
    /// What happened meanwhile.
    pub happened: Vec<Happened>,
    /// When some node began to flush its state, seconds.
    pub flushes_s: Vec<f64>,
}

fn spec(clients: usize, pace: Pace, time: Duration) -> BenchSpec {
    let open = matches!(pace, Pace::Open { .. });
    BenchSpec {
        workload: Workload::Put,
        clients,
        pace,
        stop: Stop::After(time),
        outstanding: if open { 1024 } else { 1 },
        warmup: Duration::from_secs(2),
        keys: 100_000,
        value_bytes: 256,
        preload: false,
        ..BenchSpec::default()
    }
}

/// Offers a share of the greatest rate while one event follows the other.
///
/// # Errors
/// The cluster does not start, or the load cannot be made.
pub async fn run(
    plan: &Plan,
    program: &Path,
    clients: usize,
    share: f64,
    halt: &Halt,
) -> std::result::Result<Tails, String> {
    let place = plan.place(System::Synod, program, plan.shards).map_err(|error| error.to_string())?;
    let running = Running::start(System::Synod, place).await.map_err(|error| error.to_string())?;
    let stores = running.connect(false).await.map_err(|error| error.to_string())?;
    let trial = run_on(stores.clone(), spec(clients, Pace::Closed, TRIAL), halt.clone(), |_| ()).await;
    let most_per_s = trial.map_err(|error| error.to_string())?.ops_per_s;
    let rate_per_s = (most_per_s * share).max(1.0);
    println!("{} puts/s at most; {} a second are offered", thousands(most_per_s), thousands(rate_per_s));

    let time = Duration::from_secs(Event::PLAN.iter().map(|(seconds, _)| seconds).sum());
    let began: Arc<Mutex<Option<Instant>>> = Arc::default();
    let noted = began.clone();
    let look = move |moment| {
        if moment == Moment::Start {
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    };
    let load = tokio::spawn(run_on(stores, spec(clients, Pace::Open { rate_per_s }, time), halt.clone(), look));
    let begin = loop {
        if let Some(at) = *began.lock().unwrap_or_else(PoisonError::into_inner) {
            break at;
        }
        sleep(Duration::from_millis(5)).await;
    };
    let flushes = tokio::spawn(flushes(running.metrics.clone(), begin, time));
    let (running, happened) = events(running, program, begin, halt).await;
    let report = load.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let flushes_s = flushes.await.unwrap_or_default();
    running.stop();
    Ok(Tails { most_per_s, report, happened, flushes_s })
}

async fn events(mut running: Running, program: &Path, begin: Instant, halt: &Halt) -> (Running, Vec<Happened>) {
    let (mut happened, mut at, mut down) = (Vec::new(), begin, 0);
    for (seconds, event) in Event::PLAN {
        at += Duration::from_secs(seconds);
        sleep_until(at.into()).await;
        if halt.halted() || event == Event::End {
            break;
        }
        let at_s = begin.elapsed().as_secs_f64();
        let result = act(&mut running, program, event, &mut down).await;
        let note = result.unwrap_or_else(|why| why);
        println!("  {at_s:.1} s: {} {note}", event.words());
        happened.push(Happened { at_s, event, note });
    }
    (running, happened)
}

async fn act(
    running: &mut Running,
    program: &Path,
    event: Event,
    down: &mut usize,
) -> std::result::Result<String, String> {
    match event {
        Event::Backup => {
            let folder = running.room().join("backup");
            let child = tokio::process::Command::new(program)
                .args(["--endpoints", &running.clients.join(","), "backup"])
                .arg(folder)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn();
            let mut child = child.map_err(|error| error.to_string())?;
            tokio::spawn(async move { child.wait().await });
        }
        Event::KillFollower | Event::KillLeader => {
            let leader = running.leader().await.ok_or("nobody leads")?;
            *down = if event == Event::KillLeader { leader } else { (leader + 1) % running.nodes.len() };
            running.nodes[*down].kill();
            return Ok(format!("node {}", *down + 1));
        }
        Event::StartFollower | Event::StartLeader => {
            running.restart(*down).map_err(|error| error.to_string())?;
            return Ok(format!("node {}", *down + 1));
        }
        Event::Transfer => {
            let client = running.synod().await.map_err(|error| error.to_string())?;
            let leaders = running.leaders(&client).await;
            let from = leaders.values().next().copied().ok_or("nobody leads")?;
            let to = client.map().nodes.iter().map(|node| node.id).find(|node| *node != from).ok_or("one node")?;
            let led = leaders.iter().filter(|(_, leader)| **leader == from).map(|(shard, _)| *shard);
            let mut moved = 0;
            for shard in led {
                client.transfer_leader(shard, to).await.map_err(|error| error.to_string())?;
                moved += 1;
            }
            return Ok(format!("{moved} from node {from} to node {to}"));
        }
        Event::End => {}
    }
    Ok(String::new())
}

/// When a node began to flush.
async fn flushes(metrics: Vec<std::net::SocketAddr>, begin: Instant, time: Duration) -> Vec<f64> {
    let mut seen = Vec::new();
    let mut last: Vec<f64> = Vec::new();
    while begin.elapsed() < time {
        let addrs = metrics.clone();
        let count = move || {
            addrs
                .iter()
                .map(|addr| scrape::counters(&[*addr], &[FLUSHES]).get(FLUSHES).copied().unwrap_or(0.0))
                .collect()
        };
        let now: Vec<f64> = tokio::task::spawn_blocking(count).await.unwrap_or_default();
        // A node that was down counts anew.
        if !last.is_empty() && now.iter().zip(&last).any(|(now, last)| now > last && *last > 0.0) {
            seen.push(begin.elapsed().as_secs_f64());
        }
        last = now;
        sleep(LOOK).await;
    }
    seen
}

/// What stood between one event and the next.
#[derive(Debug, PartialEq, Eq)]
struct Phase {
    name: String,
    from_s: u64,
    to_s: u64,
    ops: u64,
    errors: u64,
    /// The worst second's p99 and slowest.
    p99_us: u64,
    max_us: u64,
    /// Half of the seconds had no worse p99.
    median_p99_us: u64,
}

fn phases(seconds: &[Second], happened: &[Happened]) -> Vec<Phase> {
    let mut starts = vec![(0, "nothing but flushes".to_owned())];
    starts
        .extend(happened.iter().map(|h| (h.at_s as u64, format!("{} {}", h.event.words(), h.note).trim().to_owned())));
    let ends = starts.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
    let phase = |((from_s, name), to): (&(u64, String), u64)| {
        let mut of: Vec<&Second> = seconds.iter().filter(|s| s.second >= *from_s && s.second < to).collect();
        of.sort_by_key(|s| s.p99_us);
        Phase {
            name: name.clone(),
            from_s: *from_s,
            to_s: to.min(seconds.len() as u64),
            ops: of.iter().map(|s| s.ops).sum(),
            errors: of.iter().map(|s| s.errors).sum(),
            p99_us: of.last().map_or(0, |s| s.p99_us),
            max_us: of.iter().map(|s| s.max_us).max().unwrap_or(0),
            median_p99_us: of.get(of.len() / 2).map_or(0, |s| s.p99_us),
        }
    };
    starts.iter().zip(ends).map(phase).collect()
}

/// The report for people.
#[must_use]
pub fn markdown(tails: &Tails, machine: &str, plot: &str) -> String {
    let ms = |us: u64| format!("{:.1}", us as f64 / 1e3);
    let all = &tails.report.latency;
    let rate = tails.report.open.as_ref().map_or(0.0, |open| open.rate_per_s);
    let mut text = format!(
        "# Tails under disturbance\n\n{machine}\n\nThree nodes, {} clients, puts of 256 B, {} a second offered (the most in a closed \
         loop: {}), latency from the intended time of sending.\n\n![rate and latency over time]({plot})\n\n| from – to, s | what | \
         puts/s | p99 of a second: median, worst, ms | slowest, ms | errors |\n| --- | --- | --- | --- | --- | --- |\n",
        tails.report.clients,
        thousands(rate),
        thousands(tails.most_per_s),
    );
    for p in phases(&tails.report.timeline, &tails.happened) {
        let per_s = p.ops as f64 / (p.to_s.saturating_sub(p.from_s)).max(1) as f64;
        text += &format!(
            "| {} – {} | {} | {} | {}, {} | {} | {} |\n",
            p.from_s,
            p.to_s,
            p.name,
            thousands(per_s),
            ms(p.median_p99_us),
            ms(p.p99_us),
            ms(p.max_us),
            p.errors
        );
    }
    if let Some(all) = all {
        text += &format!(
            "\nThe whole run: p50 {} ms, p99 {} ms, p99.9 {} ms, p99.99 {} ms, slowest {} ms; {} flushes of the state.\n",
            ms(all.p50_us),
            ms(all.p99_us),
            ms(all.p99_9_us),
            ms(all.p99_99_us),
            ms(all.max_us),
            tails.flushes_s.len()
        );
    }
    text
}

/// What the plot marks.
#[must_use]
pub fn marks(tails: &Tails) -> Vec<(f64, String)> {
    tails.happened.iter().map(|h| (h.at_s, h.event.words().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_belong_to_what_happened_last() {
        let second = |n, p99_us| Second { second: n, ops: 10, errors: n % 2, p99_us, max_us: 2 * p99_us };
        let seconds: Vec<Second> = [5, 4, 9, 90, 20].iter().zip(0..).map(|(p99, n)| second(n, *p99)).collect();
        let happened = vec![Happened { at_s: 3.2, event: Event::KillLeader, note: "node 2".into() }];
        let found = phases(&seconds, &happened);
        assert_eq!(found.len(), 2);
        let quiet = Phase {
            name: "nothing but flushes".into(),
            from_s: 0,
            to_s: 3,
            ops: 30,
            errors: 1,
            p99_us: 9,
            max_us: 18,
            median_p99_us: 5,
        };
        assert_eq!(found[0], quiet);
        assert_eq!((found[1].name.as_str(), found[1].to_s, found[1].max_us), ("leader killed node 2", 5, 180));
    }
}
