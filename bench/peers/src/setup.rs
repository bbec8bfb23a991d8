//! How each program here begins and ends.
//!
//! Owns: where data is kept, the runtime, and the end on a signal. Must never: let anything be measured where nothing is
//! synced, or remove a directory that was given.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use synod_bench::Halt;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::machine::Machine;
use crate::{PeersError, Result};

/// Where a program's servers keep their data, and the machine with that disk.
#[derive(Debug)]
pub struct Ground {
    /// The directory.
    pub data: PathBuf,
    /// The machine.
    pub machine: Machine,
    given: bool,
}

impl Ground {
    /// The directory `given`, or one of the program's own under the system's temporary directory; `out` is made too.
    ///
    /// # Errors
    /// A directory cannot be made, or the data's lies in memory.
    pub fn open(program: &str, given: Option<&Path>, out: &Path) -> Result<Ground> {
        let fresh = || std::env::temp_dir().join(format!("{program}-{}", std::process::id()));
        let data = given.map_or_else(fresh, Path::to_path_buf);
        for dir in [out, &data] {
            std::fs::create_dir_all(dir).map_err(|error| PeersError::io(dir.display(), &error))?;
        }
        let machine = Machine::here(&data);
        if machine.in_memory() {
            let why = format!("it is {}, where nothing is synced; --data-dir chooses a disk", machine.disk);
            return Err(PeersError::io(data.display(), &why));
        }
        Ok(Ground { data, machine, given: given.is_some() })
    }

    /// Removes the program's own directory. It is empty by now, unless something went wrong that somebody wants to look at.
    pub fn close(&self) {
        if !self.given {
            let _ = std::fs::remove_dir(&self.data);
        }
    }
}

/// The runtime. What starts servers runs on the main thread: they end with it.
///
/// # Errors
/// It cannot be started.
pub fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| PeersError::io("cannot start the runtime", &error))
}

/// Ctrl-C and SIGTERM end the run with a report of what was measured. To be called on the runtime.
#[must_use]
pub fn halt_on_signals() -> Halt {
    let halt = Halt::default();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let halted = halt.clone();
        if let Ok(mut signal) = signal(kind) {
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    eprintln!("interrupted: ending");
                    halted.halt();
                }
            });
        }
    }
    halt
}

/// Says what went wrong, where anything did.
#[must_use]
pub fn exit(program: &str, done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}
