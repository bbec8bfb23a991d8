//! Jobs: goals that take several changes, each decided anew from what is seen.
//!
//! Owns: what a job is; the steps of every job, forward and back, as functions of a goal and of what is seen; which jobs are carried
//! on when. Must never: remember a step where the next executor needs it: whoever carries a job out may die at any point, and another
//! goes on from what is there.

pub mod empty_node;
pub mod executor;
pub mod job;
pub mod merge;
pub mod move_replica;
pub mod resize_shard;
pub mod split;
