//! The Synod server: the node process, and the command line that starts it and talks to it.
//!
//! Owns: everything of the `synod` binary beside its allocator. Must never: hold consensus or storage logic; the engine does.

pub mod cli;
pub mod config;
pub mod node;
