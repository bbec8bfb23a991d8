//! Builds the copy's tests and runs them under one mutant.
//!
//! Owns: which tests have to notice, in which order, and how long they may take. Must never: count a mutant as found by a
//! suite that fails without one.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Memory of one test process, KiB: a mutant may collect without end.
const MEMORY_KIB: u64 = 6 << 20;

/// A test program, and the part of it that has to notice.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Its name in reports.
    pub name: &'static str,
    /// The program.
    program: PathBuf,
    /// Its arguments.
    args: Vec<&'static str>,
    /// Whether it sees guards of the engine.
    engine: bool,
    /// Whether it sees guards of the core.
    core: bool,
    /// How long it takes without a mutant.
    usual: Duration,
}

/// What a suite said of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Missed,
    /// It failed.
    Found,
    /// It did not end: found too, since the unbent code ends.
    TimedOut,
}

/// A test program that has to notice.
struct Wanted {
    package: &'static str,
    target: &'static str,
    name: &'static str,
    args: &'static [&'static str],
    core: bool,
    engine: bool,
}

/// The core's, cheapest first.
const CORE: Wanted =
    Wanted { package: "synod-paxos", target: "golden", name: "goldens", args: &[], core: true, engine: false };
/// The engine's, cheapest first.
const ENGINE: Wanted = Wanted {
    package: "synod-engine",
    target: "node",
    name: "engine",
    args: &["--test-threads=2"],
    core: false,
    engine: true,
};
/// Whole nodes: they see both.
const NODES: Wanted =
    Wanted { package: "synod-sim", target: "sim", name: "simulation", args: &["every_run"], core: true, engine: true };

/// All of them, in the order in which they are asked.
const WANTED: [Wanted; 7] = [
    Wanted { target: "synod_paxos", ..CORE },
    CORE,
    Wanted { target: "synod_engine", ..ENGINE },
    ENGINE,
    Wanted { package: "synod-explorer", target: "explore", name: "explorer", args: &["every_schedule"], ..CORE },
    NODES,
    Wanted { target: "scenarios", name: "scenarios", args: &["--test-threads=2"], ..NODES },
];

/// Builds the tests of the copy in `tree` and runs each once without a mutant.
///
/// # Errors
/// The copy does not compile, or a suite fails unbent.
pub fn build(tree: &Path) -> Result<Vec<Suite>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--release", "--no-run", "--message-format=json-render-diagnostics", "--lib", "--tests"]);
    for package in ["synod-paxos", "synod-engine", "synod-explorer", "synod-sim"] {
        command.args(["-p", package]);
    }
    let built = command.current_dir(tree).stderr(Stdio::inherit()).output().context("cargo")?;
    if !built.status.success() {
        bail!("the copy in {} does not compile", tree.display());
    }
    let programs = programs(&String::from_utf8_lossy(&built.stdout));
    let mut suites = Vec::new();
    for Wanted { package, target, name, args, core, engine } in WANTED {
        let program = programs.get(target).with_context(|| format!("{package} has no test program {target}"))?.clone();
        let mut suite = Suite { name, program, args: args.to_vec(), engine, core, usual: Duration::from_secs(600) };
        let began = Instant::now();
        if suite.run(tree, None)? != Verdict::Missed {
            bail!("{name} ({target}) fails without a mutant");
        }
        suite.usual = began.elapsed();
        println!("{name} ({target}) without a mutant: {:.1} s", suite.usual.as_secs_f64());
        suites.push(suite);
    }
    Ok(suites)
}

/// The test programs that cargo names, by target.
fn programs(messages: &str) -> BTreeMap<String, PathBuf> {
    messages
        .lines()
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let program = message["executable"].as_str()?;
            message["profile"]["test"].as_bool()?.then_some(())?;
            Some((message["target"]["name"].as_str()?.to_owned(), program.into()))
        })
        .collect()
}

impl Suite {
    /// Whether guards of the core (else of the engine) are its to notice.
    #[must_use]
    pub fn sees(&self, core: bool) -> bool {
        if core { self.core } else { self.engine }
    }

    /// Runs it under a mutant.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, tree: &Path, mutant: Option<u32>) -> Result<Verdict> {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"")])
            .arg(&self.program)
            .args(&self.args);
        // The tests look for their scripts and fixtures where they were compiled.
        command.current_dir(tree).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        if let Some(id) = mutant {
            command.env("SYNOD_MUTANT", id.to_string());
        }
        let mut child = command.spawn().with_context(|| self.program.display().to_string())?;
        let deadline = Instant::now() + self.usual * 5 + Duration::from_secs(30);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(if status.success() { Verdict::Missed } else { Verdict::Found });
            }
            if Instant::now() > deadline {
                // A group of its own: what it started ends with it.
                let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
                killpg(group, Signal::SIGKILL).ok();
                child.wait()?;
                return Ok(Verdict::TimedOut);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
