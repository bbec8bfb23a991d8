//! Synod's load generator, used by `synod bench`.
//!
//! A [`BenchSpec`] says what load to make; [`run`] makes it through the client library and answers with a [`Report`] that
//! prints as a table and serialises as JSON with units in its names. A closed loop (each caller waits for its answer)
//! finds the greatest throughput; an open loop (Poisson arrivals at a rate, latency counted from the intended time of
//! sending) finds the latency at a load, and hides no stall.
//!
//! ```no_run
//! use std::time::Duration;
//! use synod_bench::{BenchSpec, Pace, Stop, Workload, run};
//! use synod_client::{Client, Options};
//!
//! # async fn example() -> Result<(), synod_bench::BenchError> {
//! let spec = BenchSpec {
//!     table: "bench".into(),
//!     workload: Workload::Put,
//!     clients: 64,
//!     pace: Pace::Open { rate_per_s: 10_000.0 },
//!     stop: Stop::After(Duration::from_secs(30)),
//!     ..BenchSpec::default()
//! };
//! let report = run(|_| Client::connect(["127.0.0.1:7401"], Options::default()), spec).await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! Owns: the making and measuring of load. Must never: reach past the client library of what is measured, or leave out what was slow.

mod gaps;
mod halt;
mod moment;
mod ops;
mod pace;
mod record;
mod report;
mod run;
mod spec;
mod target;
mod threads;

pub use halt::Halt;
pub use moment::Moment;
pub use report::{Gap, Latency, OpenLoop, Report, Second, ThreadLoad};
pub use run::{BenchError, run, run_on, run_until};
pub use spec::{BenchSpec, Distribution, Pace, SpecError, Stop, Workload};
pub use target::{Table, Target};
