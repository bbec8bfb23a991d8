//! What the engine counts and measures.
//!
//! Owns: names, units and help texts of the engine's metrics. Must never: cost more than an atomic addition or two on the
//! way of a request.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

/// The engine's metrics, each registered under the name `synod_engine_…`.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    /// Synced writes of the log.
    pub fsyncs_total: IntCounter,
    /// Entries written to the log, of all groups.
    pub log_entries_total: IntCounter,
    /// Bytes of entries written to the log.
    pub log_bytes_total: IntCounter,
    /// Client requests that one synced write made durable here.
    pub ops_per_fsync: Histogram,
    /// Time of one synced write, s.
    pub log_write_seconds: Histogram,
    /// From the proposal of an entry to its application at the leader, s.
    pub commit_seconds: Histogram,
    /// Time to apply what one shard had to apply at once, s.
    pub apply_seconds: Histogram,
    /// Client writes proposed here.
    pub proposals_total: IntCounter,
    /// Slots they were proposed in.
    pub slots_total: IntCounter,
    /// Reads answered here.
    pub reads_total: IntCounter,
    /// Times that a read here waited for rows to be brought into memory.
    pub reads_cold_total: IntCounter,
    /// Times that the next entry of a shard waited for rows to be brought into memory.
    pub applies_cold_total: IntCounter,
    /// Requests refused because too much was waiting.
    pub overloaded_total: IntCounter,
    /// Leaderships won.
    pub elections_total: IntCounter,
    /// Consensus messages received.
    pub messages_received_total: IntCounter,
    /// Those of them that were for shards of which no replica is here.
    pub messages_unknown_total: IntCounter,
    /// Consensus messages sent.
    pub messages_sent_total: IntCounter,
    /// Shards handed from one worker of the node to another.
    pub shards_handed_over_total: IntCounter,
    /// Freezes of the state begun.
    pub freezes_total: IntCounter,
    /// Snapshots made for members that are behind the log.
    pub snapshots_built_total: IntCounter,
    /// Snapshots offered to members, repetitions counted.
    pub snapshots_offered_total: IntCounter,
    /// Snapshots that took the place of a replica here.
    pub snapshots_installed_total: IntCounter,
    /// Replicas here whose damaged state was reinstalled from a snapshot.
    pub states_reinstalled_total: IntCounter,
    /// Replicas here whose state is gone and that wait for a snapshot.
    pub reinstalling: IntGauge,
    /// Comparisons of replicas that one here was read for.
    pub scrubs_total: IntCounter,
    /// Bytes of state and log that were read for them.
    pub scrub_bytes_total: IntCounter,
    /// Replicas found to differ from a majority, as seen here.
    pub scrub_diverged_total: IntCounter,
    /// Shards whose replicas differed at their last comparison.
    pub scrub_diverged: IntGauge,
    /// Shards led here.
    pub leaders: IntGauge,
    /// Replicas held here.
    pub replicas: IntGauge,
    /// Requests taken and not yet answered.
    pub waiting_requests: IntGauge,
    /// Tails that wait for news; not counted among the requests.
    pub waiting_tails: IntGauge,
    /// Inputs taken by the worker in its last round.
    pub round_inputs: IntGauge,
    /// Batches handed to the log writer's thread and not yet synced.
    pub log_queue_batches: IntGauge,
    /// Bytes of logs kept for lagging members, all groups.
    pub log_kept_bytes: IntGauge,
    /// State held in memory and not yet flushed, bytes.
    pub state_memory_bytes: IntGauge,
    /// Bytes of rows removed by trims and with tables and copies that still take room, about.
    pub state_removed_bytes: IntGauge,
    /// 1 while the disk is below its low mark, else 0.
    pub disk_low: IntGauge,
    /// Writes refused for that.
    pub disk_refused_total: IntCounter,
    /// By how much the time of a shard led here is ahead of what a quorum's wall clocks show, the greatest, s.
    pub shard_time_ahead_seconds: IntGauge,
    /// Operations a second of the replica here that has most, averaged.
    pub busiest_shard_operations: IntGauge,
    /// Bytes read and written a second of the replica here that has most, averaged.
    pub busiest_shard_bytes: IntGauge,
}

impl EngineMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// The registry holds metrics of the same names.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| add(registry, IntCounter::with_opts(opts(name, help)));
        let gauge = |name: &str, help: &str| add(registry, IntGauge::with_opts(opts(name, help)));
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let opts = HistogramOpts::from(opts(name, help)).buckets(buckets);
            add(registry, Histogram::with_opts(opts))
        };
        let seconds = || prometheus::exponential_buckets(20e-6, 2.0, 20);
        let counts = prometheus::exponential_buckets(1.0, 2.0, 14)?;
        Ok(Self {
            fsyncs_total: counter("log_fsyncs_total", "Synced writes of the log")?,
            log_entries_total: counter("log_entries_total", "Entries written to the log, all groups")?,
            log_bytes_total: counter("log_bytes_total", "Bytes of entries written to the log")?,
            ops_per_fsync: histogram("ops_per_fsync", "Client requests made durable by one synced write", counts)?,
            log_write_seconds: histogram("log_write_seconds", "Time of one synced write, in seconds", seconds()?)?,
            commit_seconds: histogram(
                "commit_seconds",
                "From the proposal of an entry to its application at the leader, in seconds",
                seconds()?,
            )?,
            apply_seconds: histogram(
                "apply_seconds",
                "Time to apply what one shard had to apply at once, in seconds",
                seconds()?,
            )?,
            proposals_total: counter("proposals_total", "Client writes proposed here")?,
            slots_total: counter("slots_total", "Slots that client writes were proposed in here")?,
            reads_total: counter("reads_total", "Reads answered here")?,
            reads_cold_total: counter("reads_cold_total", "Times that a read waited for rows to be read from a file")?,
            applies_cold_total: counter(
                "applies_cold_total",
                "Times that the next entry of a shard waited for rows to be read from a file",
            )?,
            overloaded_total: counter("overloaded_total", "Requests refused because too much was waiting")?,
            elections_total: counter("elections_total", "Leaderships won by this node")?,
            messages_received_total: counter("messages_received_total", "Consensus messages received")?,
            messages_unknown_total: counter(
                "messages_unknown_total",
                "Consensus messages received for shards that are not here",
            )?,
            messages_sent_total: counter("messages_sent_total", "Consensus messages sent")?,
            shards_handed_over_total: counter(
                "shards_handed_over_total",
                "Shards handed from one worker of this node to another",
            )?,
            freezes_total: counter("state_freezes_total", "Freezes of the state that were started")?,
            snapshots_built_total: counter(
                "snapshots_built_total",
                "Snapshots made for members that lack trimmed entries",
            )?,
            snapshots_offered_total: counter("snapshots_offered_total", "Snapshots offered to members, again counted")?,
            snapshots_installed_total: counter("snapshots_installed_total", "Snapshots that replaced a replica here")?,
            states_reinstalled_total: counter(
                "states_reinstalled_total",
                "Damaged states reinstalled from a snapshot",
            )?,
            reinstalling: gauge("reinstalling", "Replicas that wait for a snapshot: their state is gone")?,
            scrubs_total: counter("scrubs_total", "Replicas read here to be compared with others")?,
            scrub_bytes_total: counter("scrub_bytes_total", "Bytes of state and log read to compare replicas")?,
            scrub_diverged_total: counter(
                "scrub_diverged_total",
                "Replicas found to differ, any member's, as seen here",
            )?,
            scrub_diverged: gauge("scrub_diverged", "Shards whose replicas differed when last compared")?,
            leaders: gauge("leaders", "Shards led by this node")?,
            replicas: gauge("replicas", "Replicas held by this node")?,
            waiting_requests: gauge("waiting_requests", "Requests taken and not yet answered, waiting tails left out")?,
            waiting_tails: gauge("waiting_tails", "Tails that wait for news (limits.node_tails_max)")?,
            round_inputs: gauge("round_inputs", "Inputs taken by the worker in its last round")?,
            log_queue_batches: gauge("log_queue_batches", "Batches with the log writer's thread, not yet synced")?,
            log_kept_bytes: gauge("log_kept_bytes", "Logs kept for lagging members, in bytes (storage.log_keep)")?,
            state_memory_bytes: gauge("state_memory_bytes", "State in memory and not yet flushed, in bytes")?,
            state_removed_bytes: gauge(
                "state_removed_bytes",
                "Rows removed in large ranges (by trims, with tables and copies) that still take room, in bytes, about",
            )?,
            disk_low: gauge("disk_low", "1 while the disk is below its low mark (storage.disk_low), else 0")?,
            disk_refused_total: counter("disk_refused_total", "Writes refused since the disk is low")?,
            shard_time_ahead_seconds: gauge(
                "shard_time_ahead_seconds",
                "By how much the time of a shard led here is ahead of a quorum's wall clocks, the greatest, in seconds",
            )?,
            busiest_shard_operations: gauge(
                "busiest_shard_operations",
                "Operations a second of the shard with most here, averaged (synod hot shards)",
            )?,
            busiest_shard_bytes: gauge(
                "busiest_shard_bytes",
                "Bytes read and written a second of the shard with most here, averaged (synod hot shards)",
            )?,
        })
    }

    /// Metrics that nobody collects, for tests and simulation.
    #[must_use]
    pub fn detached() -> Self {
        Self::new(&Registry::new()).expect("an empty registry takes every name")
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("synod").subsystem("engine")
}

fn add<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: Result<M, prometheus::Error>,
) -> Result<M, prometheus::Error> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A gauge's value of a count.
pub(crate) fn level(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Microseconds as the seconds that histograms take.
#[allow(clippy::cast_precision_loss, reason = "spans of more than 2^52 µs are not measured")]
pub(crate) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_carry_units() {
        let registry = Registry::new();
        let metrics = EngineMetrics::new(&registry).unwrap();
        metrics.commit_seconds.observe(seconds(1500));
        assert!(EngineMetrics::new(&registry).is_err());
        let families = registry.gather();
        assert!(families.iter().all(|f| f.name().starts_with("synod_engine_") && !f.help().is_empty()));
    }
}
