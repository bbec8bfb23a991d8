//! What processes have used, as `/proc` tells it.
//!
//! Owns: the reading of `stat`, `io` and the threads' names. Must never: fail a run: what cannot be read counts as nothing.

use std::collections::BTreeMap;
use std::fs;

/// Microseconds of one tick of `stat`: Linux tells user space hundredths of a second on every machine (`USER_HZ`).
const TICK_US: u64 = 10_000;

/// What some processes have used since they began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, user and system, in microseconds.
    pub cpu_us: u64,
    /// Bytes written towards the disk.
    pub written: u64,
    /// Processor time by the name of the thread, in microseconds; threads that have ended are not in it.
    pub threads: BTreeMap<String, u64>,
}

impl Usage {
    /// Of all these processes together.
    #[must_use]
    pub fn of(pids: &[u32]) -> Usage {
        let mut sum = Usage::default();
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            sum.cpu_us += ticks(&stat).map_or(0, |(_, ticks)| ticks * TICK_US);
            sum.written += written(&fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default());
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                if let Some((name, ticks)) = ticks(&stat) {
                    *sum.threads.entry(family(name)).or_default() += ticks * TICK_US;
                }
            }
        }
        sum
    }

    /// Used since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Usage) -> Usage {
        let before = |name: &String| earlier.threads.get(name).copied().unwrap_or(0);
        Usage {
            cpu_us: self.cpu_us.saturating_sub(earlier.cpu_us),
            written: self.written.saturating_sub(earlier.written),
            threads: self.threads.iter().map(|(name, us)| (name.clone(), us.saturating_sub(before(name)))).collect(),
        }
    }
}

/// Name, and ticks of user and system time, of a line of `stat`. The name may hold blanks and brackets.
fn ticks(stat: &str) -> Option<(&str, u64)> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let mut fields = stat[close + 1..].split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((stat.get(open + 1..close)?, user + system))
}

fn written(io: &str) -> u64 {
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Threads of one kind are numbered: `rocksdb:low3` belongs to `rocksdb:low`.
fn family(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name() {
        let line = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(ticks(line), Some(("a (b) c", 200)));
        assert_eq!(ticks("42 nothing"), None);
        assert_eq!(family("rocksdb:low12"), "rocksdb:low");
        assert_eq!(written("rchar: 1\nwrite_bytes: 77\n"), 77);
    }

    #[test]
    fn this_process_uses_processor_time() {
        let pid = [std::process::id()];
        let before = Usage::of(&pid);
        let started = std::time::Instant::now();
        let mut n = 0u64;
        while started.elapsed().as_millis() < 300 {
            n = std::hint::black_box(n + 1);
        }
        let used = Usage::of(&pid).since(&before);
        assert!(used.cpu_us >= 20_000 && !used.threads.is_empty(), "{used:?}");
    }
}
