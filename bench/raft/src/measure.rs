//! One result of one protocol: a run of a few seconds, or a leader that stops.
//!
//! Owns: the figures and how they are taken. Must never: count what was done outside of the measured time, or take a command
//! of an old leadership for one of the new.

use crate::cluster::{Cluster, Spec};
use crate::consensus::Core;
use crate::machine::cores;
use crate::node::Shared;
use crate::setting::Result;
use serde::Serialize;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// What one run showed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Commands applied at the leader, a second.
    pub ops_per_s: f64,
    /// Processor time of the process an operation, µs.
    pub cpu_us: f64,
    /// Messages of all nodes an operation, pulses and heartbeats included.
    pub messages: f64,
    /// Synced writes of all nodes an operation.
    pub syncs: f64,
    /// Half of the commands took at most this, µs.
    pub p50_us: f64,
    /// 99 in 100 did.
    pub p99_us: f64,
    /// Processors that others on this machine kept busy meanwhile.
    pub others_cores: f64,
    /// Messages that were dropped.
    pub dropped: u64,
    /// Leaders elected while it was measured: 0 where nothing disturbed it.
    pub elected: u64,
}

#[derive(Clone, Copy)]
struct Counters {
    done: u64,
    sent: u64,
    syncs: u64,
    dropped: u64,
    elected: u64,
    cpu_ns: u64,
    machine: Machine,
    at: Instant,
}

impl Counters {
    fn read(cluster: &Cluster) -> Counters {
        let sum =
            |of: fn(&Shared) -> &AtomicU64| -> u64 { cluster.shared().map(|shared| of(shared).load(Relaxed)).sum() };
        Counters {
            done: sum(|s| &s.done),
            sent: sum(|s| &s.sent),
            syncs: sum(|s| &s.syncs),
            dropped: sum(|s| &s.dropped),
            elected: sum(|s| &s.elected),
            cpu_ns: cpu_ns(),
            machine: Machine::parse(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            at: Instant::now(),
        }
    }
}

/// On-CPU time of all threads of the process, ns (Linux: `schedstat`, first field). None of them ends while it is measured.
fn cpu_ns() -> u64 {
    let of = |task: fs::DirEntry| -> u64 {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(of).sum()
}

/// Time of all processors of the machine, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Machine {
    busy: u64,
    all: u64,
}

impl Machine {
    /// The first line of `/proc/stat`: user, nice, system, idle, waiting for a disk, interrupts, …, stolen; then guests' share of user.
    fn parse(stat: &str) -> Machine {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
        let all = ticks.iter().sum();
        Machine { busy: all - ticks.iter().skip(3).take(2).sum::<u64>(), all }
    }

    /// The share of it that was not idle since `before`.
    fn busy_since(self, before: Machine) -> f64 {
        self.busy.saturating_sub(before.busy) as f64 / self.all.saturating_sub(before.all).max(1) as f64
    }
}

/// Runs the load on a new group for `time`, behind a warm-up.
pub fn measure<C: Core>(spec: &Spec, warm_up: Duration, time: Duration) -> Result<Figures> {
    let mut cluster = Cluster::start::<C>(spec)?;
    cluster.leader()?;
    thread::sleep(warm_up);
    cluster.shared().for_each(|s| s.measuring.store(true, Relaxed));
    let before = Counters::read(&cluster);
    thread::sleep(time);
    let after = Counters::read(&cluster);
    cluster.shared().for_each(|s| s.measuring.store(false, Relaxed));
    cluster.check()?;
    let latencies = cluster.finish()?;
    let done = (after.done - before.done).max(1) as f64;
    let (seconds, cpu_ns) = ((after.at - before.at).as_secs_f64(), (after.cpu_ns - before.cpu_ns) as f64);
    let busy_cores = after.machine.busy_since(before.machine) * cores() as f64;
    Ok(Figures {
        ops_per_s: done / seconds,
        cpu_us: cpu_ns / 1e3 / done,
        messages: (after.sent - before.sent) as f64 / done,
        syncs: (after.syncs - before.syncs) as f64 / done,
        p50_us: latencies.value_at_quantile(0.5) as f64,
        p99_us: latencies.value_at_quantile(0.99) as f64,
        others_cores: (busy_cores - cpu_ns / 1e9 / seconds).max(0.0),
        dropped: after.dropped - before.dropped,
        elected: after.elected - before.elected,
    })
}

/// One stop of a new group's leader under load; from when its thread was told to stop to the first command of the next leader's
/// own proposers applied there.
pub fn fail_over<C: Core>(spec: &Spec, warm_up: Duration) -> Result<Duration> {
    let mut cluster = Cluster::start::<C>(spec)?;
    cluster.leader()?;
    thread::sleep(warm_up);
    let leader = cluster.leader()?;
    let stopped = cluster.now();
    cluster.stop(leader)?;
    let done = cluster.wait("no other leader came to apply a command", |cluster| {
        let others = cluster.shared().enumerate().filter(|(at, _)| *at != leader);
        others.map(|(_, s)| s.first_done.load(Relaxed)).find(|at| *at > stopped)
    })?;
    cluster.finish()?;
    Ok(Duration::from_micros(done - stopped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle_and_a_guest_is_not_counted_twice() {
        let before = Machine::parse("cpu  10 20 30 400 50 1 2 3 10 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n");
        assert_eq!(before, Machine { busy: 66, all: 516 });
        let after = Machine { busy: before.busy + 30, all: before.all + 40 };
        assert!((after.busy_since(before) - 0.75).abs() < 1e-9);
        assert_eq!(Machine::parse(""), Machine::default());
    }
}
