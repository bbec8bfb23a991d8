//! Jobs: goals that take several changes, each decided anew from what is seen.
//!
//! Owns: the steps of every job, as functions of a goal and of what is seen. Must never: remember a step: whoever carries a job out
//! may die at any point, and another goes on from what is there.

pub mod move_replica;
