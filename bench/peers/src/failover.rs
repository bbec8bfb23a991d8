//! What clients see while leadership moves: after the leader's crash, and when it is handed over.
//!
//! Owns: clients that write, without pause or at a rate, and remember when they were answered. Must never: kill a process that this program
//! did not start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use synod_bench::{Halt, Target};
use synod_client::Client;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::drive::Plan;
use crate::systems::{Running, Store, System};

/// Clients that write.
pub(crate) const CLIENTS: usize = 32;
/// How long they write before something happens.
const BEFORE: Duration = Duration::from_secs(2);
/// Within this all must write again.
const AGAIN_WITHIN: Duration = Duration::from_secs(30);
/// What is looked at around a transfer.
const WINDOW: Duration = Duration::from_millis(750);
/// When a driver that does not try again by itself gives an attempt up.
const ATTEMPT: Duration = Duration::from_millis(250);

/// Leaders killed.
#[derive(Clone, Debug, Serialize)]
pub struct Outages {
    /// Of what.
    pub system: System,
    /// From the kill until every client had written again, in milliseconds.
    pub resumed_ms: Vec<f64>,
    /// Kills that have no figure.
    pub failed: Vec<String>,
}

/// Leaderships handed over.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gaps {
    /// The longest time between two answers that any client saw around each, in milliseconds.
    pub moved_ms: Vec<f64>,
    /// The same while nothing was handed over.
    pub quiet_ms: Vec<f64>,
    /// Transfers that were refused.
    pub failed: Vec<String>,
}

/// When a write was begun and when it was answered.
pub(crate) type Answer = (Instant, Instant);

/// Clients at work.
pub(crate) struct Writers {
    answers: Vec<Arc<Mutex<Vec<Answer>>>>,
    tasks: Vec<JoinHandle<()>>,
    stop: Halt,
}

impl Writers {
    /// Each writes to a key of its own: when it has its answer, or `every` so often where that is later.
    pub(crate) fn start(stores: &[Store], value_bytes: usize, every: Option<Duration>) -> Writers {
        let stop = Halt::default();
        let value = Bytes::from(vec![7; value_bytes]);
        let mut writers = Writers { answers: Vec::new(), tasks: Vec::new(), stop: stop.clone() };
        for n in 0..CLIENTS {
            let (store, stop, value) = (stores[n % stores.len()].clone(), stop.clone(), value.clone());
            let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
            writers.answers.push(answers.clone());
            writers.tasks.push(tokio::spawn(async move {
                // Synod's library tries again by itself until it knows the outcome.
                let patience = if matches!(store, Store::Synod(_)) { AGAIN_WITHIN } else { ATTEMPT };
                let mut due = Instant::now();
                while !stop.halted() {
                    if let Some(every) = every {
                        sleep(due.saturating_duration_since(Instant::now())).await;
                        // What was held up is not made up for: that would be another load.
                        due = due.max(Instant::now()) + every;
                    }
                    let begun = Instant::now();
                    match timeout(patience, store.put(format!("writer-{n:04}"), value.clone())).await {
                        Ok(Ok(())) => {
                            answers.lock().unwrap_or_else(PoisonError::into_inner).push((begun, Instant::now()));
                        }
                        Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(5)).await,
                    }
                }
            }));
        }
        writers
    }

    pub(crate) fn seen(&self) -> Vec<Vec<Answer>> {
        self.answers.iter().map(|a| a.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// When the last client was answered that had begun after `since`, once all have been.
    fn all_again(&self, since: Instant) -> Option<Instant> {
        last_again(&self.seen(), since)
    }

    pub(crate) async fn stop(self) {
        self.stop.halt();
        for task in self.tasks {
            // A client that hangs is ended with its runtime.
            let _ = timeout(Duration::from_secs(2), task).await;
        }
    }
}

fn last_again(seen: &[Vec<Answer>], since: Instant) -> Option<Instant> {
    let first = |answers: &Vec<Answer>| answers.iter().find(|(begun, _)| *begun >= since).map(|(_, ended)| *ended);
    let firsts: Option<Vec<Instant>> = seen.iter().map(first).collect();
    firsts?.into_iter().max()
}

/// The longest time between two answers of one client that touches the window.
pub(crate) fn longest_gap(seen: &[Vec<Answer>], from: Instant, to: Instant) -> Duration {
    let gaps = seen.iter().flat_map(|answers| answers.windows(2));
    let touching = gaps.filter(|pair| pair[1].1 >= from && pair[0].1 <= to);
    touching.map(|pair| pair[1].1 - pair[0].1).max().unwrap_or_default()
}

/// Kills leaders under load, each in a cluster of its own.
pub async fn kills(plan: &Plan, system: System, program: &std::path::Path, count: u32, halt: &Halt) -> Outages {
    let mut outages = Outages { system, resumed_ms: Vec::new(), failed: Vec::new() };
    for n in 1..=count {
        if halt.halted() {
            outages.failed.push(format!("interrupted before kill {n} of {count}"));
            break;
        }
        match kill_one(plan, system, program).await {
            Ok(took) => {
                let ms = took.as_secs_f64() * 1e3;
                println!("  kill {n} of {count}, {}: all clients write again after {ms:.0} ms", system.name());
                outages.resumed_ms.push(ms);
            }
            Err(why) => {
                println!("  kill {n} of {count}, {}: {why}", system.name());
                outages.failed.push(why);
            }
        }
    }
    outages
}

async fn kill_one(plan: &Plan, system: System, program: &std::path::Path) -> Result<Duration, String> {
    let place = plan.place(system, program, plan.shards).map_err(|error| error.to_string())?;
    let mut running = Running::start(system, place).await.map_err(|error| error.to_string())?;
    let stores = running.connect(false).await.map_err(|error| error.to_string())?;
    let writers = Writers::start(&stores, 256, None);
    sleep(BEFORE).await;
    let leader = running.leader().await.ok_or("nobody leads")?;
    let killed = Instant::now();
    running.nodes[leader].kill();
    let resumed = loop {
        if let Some(at) = writers.all_again(killed) {
            break Ok(at - killed);
        }
        if killed.elapsed() > AGAIN_WITHIN {
            break Err(format!("not every client wrote again within {} s", AGAIN_WITHIN.as_secs()));
        }
        sleep(Duration::from_millis(20)).await;
    };
    writers.stop().await;
    running.stop();
    resumed
}

/// Hands Synod's leaderships over under load.
///
/// # Errors
/// The cluster does not start, or cannot be reached.
pub async fn transfers(plan: &Plan, program: &std::path::Path, count: u32, halt: &Halt) -> Result<Gaps, String> {
    let place = plan.place(System::Synod, program, plan.shards).map_err(|error| error.to_string())?;
    let running = Running::start(System::Synod, place).await.map_err(|error| error.to_string())?;
    let stores = running.connect(false).await.map_err(|error| error.to_string())?;
    let client = running.synod().await.map_err(|error| error.to_string())?;
    let writers = Writers::start(&stores, 256, None);
    sleep(BEFORE).await;
    let mut gaps = Gaps::default();
    for n in 0..count as usize {
        if halt.halted() {
            break;
        }
        sleep(2 * WINDOW).await;
        match hand_over(&running, &client, &writers, n).await {
            Ok((quiet, moved)) => {
                println!("  transfer {} of {count}: longest gap {moved:.1} ms", n + 1);
                gaps.quiet_ms.push(quiet);
                gaps.moved_ms.push(moved);
            }
            Err(why) => {
                println!("  transfer {} of {count}: {why}", n + 1);
                gaps.failed.push(why);
            }
        }
    }
    writers.stop().await;
    running.stop();
    Ok(gaps)
}

/// Hands one shard over; the longest gaps before and after, in milliseconds.
async fn hand_over(running: &Running, client: &Client, writers: &Writers, n: usize) -> Result<(f64, f64), String> {
    let leaders = running.leaders(client).await;
    let (shard, from) = leaders.iter().nth(n % leaders.len().max(1)).ok_or("no shard has a leader")?;
    let map = client.map();
    let voters = map.shards.iter().find(|s| s.id == *shard).map(|s| s.voters.clone()).unwrap_or_default();
    // Each of the others in turn.
    let others: Vec<u64> = voters.into_iter().filter(|voter| voter != from).collect();
    let to = *others.get(n / leaders.len() % others.len().max(1)).ok_or("nobody to hand over to")?;
    let begun = Instant::now();
    client.transfer_leader(*shard, to).await.map_err(|error| error.to_string())?;
    sleep(WINDOW.saturating_sub(begun.elapsed())).await;
    let seen = writers.seen();
    let leads = running.leaders(client).await.get(shard).copied();
    if leads != Some(to) {
        return Err(format!("shard {shard} was not handed from {from} to {to}: {leads:?} leads"));
    }
    let ms = |from, to| longest_gap(&seen, from, to).as_secs_f64() * 1e3;
    Ok((ms(begun - WINDOW, begun), ms(begun, begun + WINDOW)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_client_says_when_writes_resumed() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let quick = vec![(at(0), at(90)), (at(110), at(120)), (at(120), at(130))];
        let held = vec![(at(90), at(500)), (at(500), at(510))];
        assert_eq!(last_again(&[quick.clone(), held.clone()], at(100)), Some(at(510)));
        assert_eq!(last_again(&[quick.clone(), vec![(at(90), at(500))]], at(100)), None);
        assert_eq!(longest_gap(&[quick.clone(), held.clone()], at(0), at(600)), Duration::from_millis(30));
        assert_eq!(longest_gap(&[quick], at(125), at(128)), Duration::from_millis(10));
        assert_eq!(longest_gap(&[held], at(600), at(700)), Duration::ZERO);
    }
}
