//! Running the binary as a user does.
//!
//! Owns: where the binary is, and what one run of it gave. Must never: interpret what a command means; tests do.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The binary under test: `SYNOD_BIN`, else the one built beside this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SYNOD_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("this test has a path");
    let target = test.parent().and_then(std::path::Path::parent).expect("tests lie in target/PROFILE/deps");
    let path = target.join("synod");
    assert!(path.is_file(), "{} is missing: cargo build --release --workspace --bins", path.display());
    path
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Standard output as it came.
    pub bytes: Vec<u8>,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }
}

impl Ran {
    /// The same, having made sure that it succeeded.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "exit code {}; stdout: {}; stderr: {}", self.code, self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {:?} {}", self.stdout, self.stderr))
    }

    /// Standard output as one JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Standard error as the one JSON object an error is.
    #[track_caller]
    pub fn error(&self) -> Value {
        serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {:?}", self.stderr))
    }

    /// Makes sure that it was refused with this code and one line that has all of `words`; returns that line.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) -> String {
        assert_eq!(self.code, code, "stdout: {}; stderr: {}", self.stdout, self.stderr);
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line is an error, not: {}", self.stderr);
        for word in words {
            assert!(lines[0].contains(word), "no {word:?} in: {}", lines[0]);
        }
        lines[0].to_owned()
    }
}

/// The binary with these arguments, nothing on its standard input, not yet run.
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    command_within(&[], args)
}

/// The same, run by another command that is given it behind its own arguments; nothing runs it where that is empty.
pub fn command_within<S: AsRef<OsStr>>(within: &[String], args: &[S]) -> Command {
    command_of(&binary(), within, args)
}

/// The same of another binary.
pub fn command_of<S: AsRef<OsStr>>(binary: &Path, within: &[String], args: &[S]) -> Command {
    let mut words = within.iter().map(|word| word.into()).chain([binary.as_os_str().to_owned()]);
    let mut command = Command::new(words.next().expect("the binary is among them"));
    command.args(words);
    command.args(args).env_remove("SYNOD_ENDPOINTS").env_remove("SYNOD_LOG").stdin(Stdio::null());
    command
}

/// Runs the binary to its end, at most for two minutes.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> Ran {
    finish(command(args), None)
}

/// Runs a command to its end with this on its standard input.
#[track_caller]
pub fn finish(mut command: Command, input: Option<&[u8]>) -> Ran {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("the binary runs");
    let writer = input.map(|input| {
        let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
        // A command may refuse before it has read everything.
        thread::spawn(move || drop(stdin.write_all(&input)))
    });
    let pid = child.id();
    let output = thread::spawn(move || child.wait_with_output());
    let ran = until(Duration::from_secs(120), "the command ends", || output.is_finished().then_some(()));
    if ran.is_err() {
        send(pid, Signal::SIGKILL);
    }
    let output: Ran = output.join().expect("no panic").expect("its output can be read").into();
    if let Some(writer) = writer {
        writer.join().expect("no panic");
    }
    ran.unwrap_or_else(|why| panic!("{why}: {output:?}"));
    output
}

/// Sends a signal to a process of ours.
pub fn send(pid: u32, signal: Signal) {
    // One that has ended already has no need of it.
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal);
}

/// Waits for a process to end; nothing where it does not in time.
pub fn wait_for(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    until(patience, "the process ends", || child.try_wait().expect("it is our child")).ok()
}

/// Asks again and again until there is an answer.
pub fn until<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if started.elapsed() > patience {
            return Err(format!("not within {patience:?}: {what}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
