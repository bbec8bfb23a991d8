//! The planner under synthetic loads.
//!
//! Owns: the loads, the cluster that they meet, and the figures of a run. Must never: take time or chance from anywhere, or do what the
//! planner did not plan.
//!
//! A run has minutes in which the load changes, and a time after them in which it stays. Each round takes a picture, plans, and carries
//! the whole plan out as [`synod_cluster::planner::apply`] predicts it. A run is settled once a plan is empty while the load stays and no
//! shard rests. Nothing here says how long an operation takes, and what is predicted comes about: copying, failures of operations and
//! wrong averages are not modelled.

mod load;
mod run;

pub use load::Workload;
pub use run::{Report, Scale, run};
