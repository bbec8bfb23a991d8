//! The node's workers, as threads over its stores.
//!
//! Owns: how they are recovered and started. Must never: start one before all are recovered, or give the log two writers.

use super::host::NodeHost;
use crate::config::LogWrite;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::thread::{JoinHandle, scope};
use synod_cluster::ids::{Incarnation, NodeId};
use synod_engine::StoreError;
use synod_engine::clock::MonotoneClock;
use synod_engine::identity::SeenTable;
use synod_engine::logstore::{LogStore, NodeRecovered};
use synod_engine::memory::Memory;
use synod_engine::metrics::EngineMetrics;
use synod_engine::node::{NodeShared, WorkerId};
use synod_engine::runner::{self, WorkerHandle, WorkerInputs};
use synod_engine::state::StateStore;
use synod_engine::worker::{Worker, WorkerOptions, WorkerSetup};
use synod_engine::writer::{self, Gauges, UnderWay, WriterMode, WriterProgress};

/// What all workers of the node are made of.
pub(super) struct Team {
    pub(super) me: NodeId,
    pub(super) shared: Arc<NodeShared>,
    pub(super) recovered: NodeRecovered,
    pub(super) incarnation: Incarnation,
    pub(super) log: Arc<dyn LogStore>,
    pub(super) seen: Arc<SeenTable>,
    pub(super) progress: Arc<WriterProgress>,
    pub(super) metrics: Arc<EngineMetrics>,
    pub(super) clock: MonotoneClock,
    pub(super) memory: Memory,
    pub(super) options: WorkerOptions,
}

impl Team {
    /// Recovers all workers, side by side, and starts their threads. Of `inputs`, `stores` and `rounds` each worker has one.
    ///
    /// # Errors
    /// A log or a state is damaged or cannot be read, or a thread cannot be started.
    pub(super) fn start(
        self,
        log_write: LogWrite,
        handle: &WorkerHandle,
        inputs: Vec<WorkerInputs>,
        stores: Vec<Box<dyn StateStore>>,
        host: impl Fn() -> NodeHost,
        rounds: Vec<Arc<UnderWay>>,
    ) -> Result<Vec<JoinHandle<()>>> {
        if handle.workers() > 1 {
            self.shared.connect(handle.post());
        }
        let parts = (0..handle.workers()).map(WorkerId).zip(stores).zip(self.modes(log_write, handle)?);
        let setups = parts.map(|((worker, store), mode)| (worker, self.setup(worker, store, mode), host()));
        let recovered: Vec<Result<(WorkerId, Worker<NodeHost>), StoreError>> = scope(|scope| {
            let recover = |(id, setup, host)| scope.spawn(move || Ok((id, Worker::new(setup, host)?)));
            let recovering: Vec<_> = setups.map(recover).collect();
            // A panic there has ended the process.
            recovering.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let workers = recovered.into_iter().collect::<Result<Vec<_>, _>>()?;
        let run = |(((id, worker), inputs), rounds)| runner::spawn(id, worker, inputs, self.clock, rounds);
        let threads = workers.into_iter().zip(inputs).zip(rounds).map(run);
        threads.collect::<Result<Vec<_>, _>>().context("the workers")
    }

    fn modes(&self, log_write: LogWrite, handle: &WorkerHandle) -> Result<Vec<WriterMode>> {
        if handle.workers() == 1 && log_write == LogWrite::Inline {
            return Ok(vec![WriterMode::Inline]);
        }
        let (progress, metrics) = (Arc::clone(&self.progress), Arc::clone(&self.metrics));
        let gauges = Gauges { progress, metrics, clock: self.clock.shared() };
        let (log, seen) = (Arc::clone(&self.log), Arc::clone(&self.seen));
        let queues = writer::spawn(log, gauges, self.recovered.seq, seen, handle.wakes())?;
        Ok(queues.into_iter().map(WriterMode::Queue).collect())
    }

    fn setup(&self, worker: WorkerId, store: Box<dyn StateStore>, mode: WriterMode) -> WorkerSetup {
        WorkerSetup {
            me: self.me,
            worker,
            shared: Arc::clone(&self.shared),
            recovered: self.recovered.clone(),
            incarnation: self.incarnation,
            log: Arc::clone(&self.log),
            store,
            seen: Arc::clone(&self.seen),
            progress: Arc::clone(&self.progress),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock.shared(),
            memory: self.memory.clone(),
            mode,
            options: self.options.clone(),
        }
    }
}
