//! strace on a node: what it puts into the node's system calls.
//!
//! Owns: its command line, its start and its end. Must never: trace a process that is not the cluster's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::run::{send, until, wait_for};

/// Whether strace can be used here; the error says what is missing.
pub(super) fn can() -> Result<(), String> {
    let traced = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).stderr(Stdio::null()).status();
    match traced {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("skipped: strace may not trace here".into()),
        Err(_) => Err("skipped: strace is not installed (apt-get install strace)".into()),
    }
}

/// What strace is told: something is injected into one system call, on these files where there are any; what it saw goes
/// to `out`.
pub(super) fn injection(call: &str, what: &str, files: &[PathBuf], out: &Path) -> Vec<OsString> {
    let (trace, spec) = (format!("trace={call}"), format!("inject={call}:{what}"));
    let mut args: Vec<OsString> = ["-f", "-q", "-y", "-e", &trace, "-e", &spec, "-o"].map(OsString::from).into();
    args.push(out.into());
    args.extend(files.iter().flat_map(|file| ["-P".into(), file.as_os_str().to_owned()]));
    args
}

/// strace on every thread of a process; it is attached when this returns.
pub(super) fn attach(pid: u32, injection: &[OsString]) -> Result<Child, String> {
    let pid = pid.to_string();
    let mut command = Command::new("strace");
    command.args(injection).args(["-p", &pid]);
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|e| format!("strace: {e}"))?;
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // What was injected may have ended it already.
        let ended = field("State:").is_none_or(|state| state.starts_with('Z'));
        (ended || field("TracerPid:") != Some("0")).then_some(())
    };
    until(Duration::from_secs(5), "strace is attached", traced)?;
    Ok(child)
}

/// Both, with nothing kept of what it saw.
pub(super) fn inject(pid: u32, call: &str, what: &str, file: Option<&Path>) -> Result<Child, String> {
    let files: Vec<PathBuf> = file.into_iter().map(Path::to_path_buf).collect();
    attach(pid, &injection(call, what, &files, Path::new("/dev/null")))
}

/// Ends strace; the process goes on without it.
pub(super) fn release(mut strace: Child) {
    send(strace.id(), Signal::SIGTERM);
    if wait_for(&mut strace, Duration::from_secs(10)).is_none() {
        let _ = strace.kill();
        let _ = strace.wait();
    }
}
