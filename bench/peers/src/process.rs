//! Server processes that this program starts.
//!
//! Owns: their life and their logs. Must never: signal a process it did not start, or leave one behind: they end when this
//! is dropped, and with this very program, however that ends, where `setpriv` is there to arrange it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take to end when asked to, before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// One server process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, its output in `log`.
    ///
    /// # Errors
    /// The program cannot be started, or the log not be written.
    pub fn start(name: &str, program: &Path, args: &[String], log: &Path) -> io::Result<Process> {
        use std::os::unix::process::CommandExt;
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = match on_path("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // Ctrl-C at the terminal is for this program alone, which then ends its servers.
        command.args(args).process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Process { name: name.into(), child: command.spawn()?, log: log.into() })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end.
    fn ask(&mut self) {
        if self.ended().is_none()
            && let Ok(pid) = i32::try_from(self.pid())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(64 << 10)..]).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return "its log is empty".into();
        }
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ends servers in order: all are asked, and killed where they do not end in time.
pub fn stop(processes: &mut [Process]) {
    processes.iter_mut().for_each(Process::ask);
    let started = Instant::now();
    while processes.iter_mut().any(|p| p.ended().is_none()) && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    processes.iter_mut().for_each(Process::kill);
}

/// Where a program is found: as a path, or by its name.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    // Debian keeps servers in /usr/sbin, which is not on everybody's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The first line that a program prints when asked for its version.
#[must_use]
pub fn version(program: &Path, arg: &str) -> String {
    let printed = Command::new(program).arg(arg).stdin(Stdio::null()).output();
    let printed = printed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    printed.lines().next().unwrap_or("unknown version").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(dir: &Path, script: &str) -> Process {
        let args = ["-c".to_owned(), script.to_owned()];
        Process::start("one", Path::new("/bin/sh"), &args, &dir.join("log")).unwrap()
    }

    #[test]
    fn a_server_that_fails_leaves_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sh(dir.path(), "echo one; echo two; echo no such port >&2; exit 3");
        let started = Instant::now();
        while process.ended().is_none() && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(process.ended().is_some_and(|how| how.contains('3')));
        assert_eq!(process.last_lines(2), "two\nno such port");
    }

    #[test]
    fn servers_end_with_what_started_them() {
        let dir = tempfile::tempdir().unwrap();
        let process = sh(dir.path(), "exec sleep 600");
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }

    #[test]
    fn programs_are_found_by_name_or_path() {
        assert!(on_path("sh").is_some() && on_path("/bin/sh").is_some());
        assert_eq!(on_path("no-such-program-here"), None);
        assert_eq!(on_path("/no/such"), None);
    }
}
