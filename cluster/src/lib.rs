//! What nodes and clients of a cluster have to decide alike.
//!
//! Owns: each such rule, once. Must never: do IO, read a clock, start a thread or draw a random number, and therefore depend on
//! nothing that does (see `Cargo.toml`).

/// Whether a planted fault is switched on; in the shipped crate always `false`, and compiled away.
macro_rules! planted {
    ($fault:ident) => {{
        #[cfg(feature = "planted")]
        {
            crate::planted::is_planted(crate::planted::Fault::$fault)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

pub mod buf;
pub mod custody;
pub mod decide;
pub mod detector;
pub mod error;
pub mod ids;
pub mod jobs;
mod keys;
pub mod members;
pub mod outcomes;
pub mod overlay;
pub mod planner;
#[cfg(feature = "planted")]
pub mod planted;
pub mod position;
pub mod refusal;
pub mod system;
mod tiling;
