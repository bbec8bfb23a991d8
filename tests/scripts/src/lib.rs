//! A deterministic cluster of replicas for golden scripts.
//!
//! Owns: the scripts' commands. Must never: run anything that the script did not order.

mod commands;
mod disk;
mod format;
mod parse;
mod world;

use std::error::Error;

/// Runs one script.
#[derive(Default)]
pub struct Runner {
    world: world::World,
}

#[cfg(feature = "planted")]
impl Runner {
    /// Runs scripts over a core with a planted fault.
    pub fn planted(fault: Option<synod_paxos::planted::Fault>) -> Self {
        let mut runner = Self::default();
        runner.world.options.fault = fault;
        runner
    }
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &Self::Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        self.world.text.clear();
        self.world.failed = false;
        let words = parse::Words::new(&command.args)?;
        let result = commands::run(&mut self.world, &command.name, words);
        let text = std::mem::take(&mut self.world.text);
        match result {
            // What stops a replica must be announced in the script by a `!`.
            Ok(()) if self.world.failed => Err(text.into()),
            Ok(()) => Ok(text),
            Err(e) => Err(format!("{text}{e}").into()),
        }
    }
}
