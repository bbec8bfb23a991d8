//! The machine and the build that figures belong to.
//!
//! Owns: asking the system for them. Must never: guess; what cannot be found out is called unknown.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// Where and of what figures are.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores.
    pub cores: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// File system and device of the data directory.
    pub disk: String,
    /// The commit that was built, as far as the working directory tells.
    pub commit: String,
    /// When, in UTC.
    pub date: String,
}

impl Machine {
    /// This one, with the disk that `data` is on.
    #[must_use]
    pub fn here(data: &Path) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let dirty = !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let commit = output("git", &["rev-parse", "--short=10", "HEAD"]);
        Machine {
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: cores(),
            memory_mib: memory_kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk: disk(&read("/proc/mounts"), data),
            commit: if commit.is_empty() { "unknown".into() } else { commit + if dirty { " and changes" } else { "" } },
            date: output("date", &["-u", "+%Y-%m-%d %H:%M"]),
        }
    }

    /// When, what and where, in a line of a report.
    #[must_use]
    pub fn line(&self) -> String {
        let Machine { cpu, cores, kernel, disk, commit, date, .. } = self;
        format!("{date}, commit {commit}. {cpu}, {cores} cores, Linux {kernel}, {disk}.")
    }

    /// Whether data would lie in memory, where nothing is ever synced.
    #[must_use]
    pub fn in_memory(&self) -> bool {
        self.disk.starts_with("tmpfs") || self.disk.starts_with("ramfs")
    }
}

/// The processors' time since the machine started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Now.
    #[must_use]
    pub fn now() -> Ticks {
        Ticks::read(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user.
    fn read(stat: &str) -> Ticks {
        let fields = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = fields.map(|n| n.parse().unwrap_or(0)).collect();
        Ticks { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) }
    }

    /// The share of the time since `earlier` that other machines took.
    #[must_use]
    pub fn stolen_since(self, earlier: Ticks) -> f64 {
        self.stolen.saturating_sub(earlier.stolen) as f64 / self.all.saturating_sub(earlier.all).max(1) as f64
    }
}

/// Cores that may be used.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    out.ok()
        .filter(|o| o.status.success())
        .map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// The innermost mount that a path is under.
fn disk(mounts: &str, path: &Path) -> String {
    let path = path.ancestors().find_map(|p| p.canonicalize().ok()).unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        path.starts_with(at).then(|| (at.len(), format!("{kind} on {device}")))
    };
    // Of two mounts in one place the later hides the earlier.
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map_or("unknown".into(), |(_, disk)| disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /proc tmpfs rw 0 0\n";
        assert_eq!(disk(mounts, Path::new("/")), "ext4 on /dev/a");
        assert_eq!(disk(mounts, Path::new("/proc/no/such")), "tmpfs on tmpfs");
        assert_eq!(disk("", Path::new("/")), "unknown");
    }

    #[test]
    fn stolen_time_is_a_share_of_all() {
        let earlier = Ticks::read("cpu  10 0 10 70 5 0 0 5 3 0\ncpu0 1 1 1 1\n");
        assert_eq!(earlier, Ticks { all: 100, stolen: 5 });
        let share = Ticks { all: 200, stolen: 25 }.stolen_since(earlier);
        assert!((share - 0.2).abs() < 1e-9, "{share}");
        assert_eq!(Ticks::read(""), Ticks::default());
        assert!(Ticks::now().all > 0);
    }

    #[test]
    fn this_machine_has_cores() {
        let here = Machine::here(Path::new("/"));
        assert!(here.cores > 0 && here.memory_mib > 0, "{here:?}");
    }
}
