//! Metrics of the node beside those of its engine.
//!
//! Owns: their names, units and help. Must never: count the same thing twice.

use super::threads::ThreadTimes;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};
use synod_engine::runner::WorkerHandle;

/// Registers the node's own metrics.
///
/// # Errors
/// The registry holds metrics of the same names.
pub fn register(registry: &Registry, worker: &WorkerHandle) -> Result<(), prometheus::Error> {
    let depth = IntGauge::new("synod_worker_queue_inputs", "Inputs that wait for the workers")?;
    registry.register(Box::new(ThreadTimes::new()?))?;
    registry.register(Box::new(Depth { gauge: depth, worker: worker.clone() }))
}

/// Reads the queue's depth when it is asked for.
struct Depth {
    gauge: IntGauge,
    worker: WorkerHandle,
}

impl Collector for Depth {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::try_from(self.worker.depth()).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}
