//! Namespaces of a campaign's own: mounts and networks that it makes are seen by nobody else and end with it, however it ends.
//!
//! Owns: the change into them, and how the tools that need them are run. Must never: mount or address anything outside.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Set once this process is in namespaces of its own.
const INSIDE: &str = "SYNOD_CAMPAIGN_ISOLATED";

/// Runs a tool to its end; what it said is the error.
pub(super) fn tool(name: &str, args: &[&str]) -> Result<(), String> {
    let ran =
        Command::new(name).args(args).stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("{name} {}: {}", args.join(" "), String::from_utf8_lossy(&ran.stderr).trim()))
}

/// Whether this process is in namespaces of its own; the error says how to get there.
pub(super) fn inside() -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    Err("skipped: it needs namespaces of its own, which `make campaign` gives it".into())
}

/// Runs this program again, in its place, in namespaces of its own. Returns only where that is not possible, with why.
pub(super) fn enter() -> String {
    const UNSHARE: [&str; 4] = ["--mount", "--net", "--propagation", "private"];
    let may = Command::new("unshare").args(UNSHARE).arg("true").stdin(Stdio::null()).output();
    match may {
        Err(error) => return format!("skipped: unshare cannot be run: {error}"),
        Ok(ran) if !ran.status.success() => {
            let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
            return format!("skipped: root is needed for namespaces ({said})");
        }
        Ok(_) => {}
    }
    let Ok(program) = std::env::current_exe() else { return "skipped: this program has no path".into() };
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg("--").arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    format!("unshare: {}", command.exec())
}

/// What namespaces begin without: a loopback interface that is up, and a place for the names of further ones.
pub(super) fn settle() -> Result<(), String> {
    inside()?;
    tool("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    tool("ip", &["link", "set", "lo", "up"])
}

/// Whether a tool is installed; the error names the package that has it.
pub(super) fn has(name: &str, version: &str, package: &str) -> Result<(), String> {
    match Command::new(name).arg(version).stdin(Stdio::null()).output() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("skipped: {name} is not installed (apt-get install {package})")),
    }
}
