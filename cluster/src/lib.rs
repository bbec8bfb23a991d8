//! What nodes and clients of a cluster have to decide alike.
//!
//! Owns: each such rule, once. Must never: do IO, read a clock, start a thread or draw a random number, and therefore depend on
//! nothing that does (see `Cargo.toml`).

pub mod buf;
pub mod decide;
pub mod detector;
pub mod error;
pub mod ids;
pub mod jobs;
mod keys;
pub mod members;
pub mod outcomes;
pub mod position;
pub mod refusal;
pub mod system;
