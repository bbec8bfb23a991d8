#![doc = include_str!("protocol.md")]

mod asking;
mod candidate;
mod canonical;
mod epoch;
mod follower;
mod invariants;
pub mod io;
mod leader;
mod learn;
mod log;
pub mod message;
#[cfg(feature = "planted")]
pub mod planted;
mod progress;
mod reads;
mod recovery;
mod replica;
mod role;
mod staging;
mod support;
mod sync;
mod transfer;
pub mod types;
mod writes;

pub use replica::Replica;

/// Whether a planted fault is switched on; in the shipped crate always `false`, and compiled away.
macro_rules! fault {
    ($replica:expr, $fault:ident) => {{
        #[cfg(feature = "planted")]
        {
            $replica.options.fault == Some(crate::planted::Fault::$fault)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}
pub(crate) use fault;
