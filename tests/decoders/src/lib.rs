//! What must hold of every decoder, on any bytes.
//!
//! Owns: the fuzz targets (each a function of its input alone), their properties, and the kept corpus. Must never: depend on
//! what an earlier input left behind, or accept an input for its outcome: a target says only whether anything was decoded,
//! so that a corpus can be shown to reach past the checksums.
//!
//! | module | what |
//! | --- | --- |
//! | `rows` | rows of both stores: entries, hard states, node and group rows, records, sessions, positions, keys |
//! | `wire` | consensus messages; links and their frames; frames of clients, maps |
//! | `hostile` | requests of a client, from the frame to the state machine and the reads |
//! | `commands` | requests, administrative entries, outcomes, metadata and what executes on it |
//! | `snapshots` | blocks of a snapshot, whole files, files received in parts |
//! | `text` | settings, cursors and tokens, arguments, batches |
//! | `load` | lines, NDJSON and CSV |
//! | `checks` | the properties that all formats share |
//! | `meter` | memory that a decoder takes |
//! | `corpus` | the kept inputs, as text |
//!
//! `tests/fuzz` runs the same functions under libFuzzer; `tests/replay.rs` runs them over the corpus.

mod checks;
mod commands;
pub mod corpus;
mod hostile;
mod load;
mod meter;
mod rows;
mod snapshots;
mod text;
mod wire;

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the fuzzer's binary and of its file in the corpus.
    pub name: &'static str,
    /// Checks one input; whether anything in it was decoded. Panics where a property does not hold.
    pub run: fn(&[u8]) -> bool,
}

macro_rules! targets {
    ($($module:ident::$name:ident),* $(,)?) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $module::$name }),*];
    };
}

targets! {
    rows::entry,
    rows::hard_state,
    rows::node_rows,
    rows::state_rows,
    rows::keys,
    wire::message,
    wire::frames,
    wire::link,
    hostile::shard_requests,
    commands::requests,
    commands::system_codec,
    commands::system_history,
    snapshots::snapshot_blocks,
    snapshots::snapshot_file,
    snapshots::snapshot_parts,
    text::config,
    text::cursor,
    text::arguments,
    text::batch,
    load::lines,
    load::csv,
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// What a fuzzer's binary calls.
///
/// # Panics
/// A property does not hold, or there is no such target.
pub fn run(name: &str, data: &[u8]) -> bool {
    let target = target(name).expect("the fuzzer's binaries are named as the targets are");
    (target.run)(data)
}
